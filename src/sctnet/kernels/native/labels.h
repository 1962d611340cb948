// Label maps: resize, then argmax, of one piece of a picture.
//
// Most of a label map is uniform between neighbouring samples, and most of the rest is decided between
// two or three classes. So the map is made in groups of pixels that read the same few samples:
//
// - where one class is certain at all of these samples it is certain between them, since a bilinear
//   resize, and a second one after it, averages samples with weights that are never negative and sum
//   to 1: the group is filled;
// - elsewhere a class can win only if its largest sample reaches the largest of all classes' smallest
//   samples: these are interpolated, the others are not.
//
// Both hold with room for rounding, and what is interpolated is computed in the order of PyTorch's
// kernel for contiguous planes: ties fall as they fall there.
//
// What is undecided in a row of groups is gathered in runs that lie beside each other, without the
// rest between them, and of which each has its own candidates: so the innermost loops are long and
// have no branches, and the compiler makes vectors of them.

#pragma once

#include <cstdlib>

#include "kernels.h"
#include "vectors.h"

namespace {

using namespace sctnet;

// What rounding can do to the difference of two classes, as a share of their size: some ten times the
// error of two resizes in float32.
constexpr float ROUNDING = 4e-6f;
constexpr float LARGEST_FLOAT = 3.402823466e38f;

// Pixels computed together, and how far runs lie apart: the last of one may reach into that.
constexpr int64_t TOGETHER = LANES > 8 ? LANES : 8;
// Groups of pixels of a row that are decided together, at most.
constexpr int64_t RUN = 16;

SCTNET_INLINE float absolute(float x) { return __builtin_fabsf(x); }

// Memory for all of a piece's arrays, one behind the other; counted first, then taken.
class Arena {
public:
    ~Arena() { std::free(memory_); }

    template <class Value>
    void take(Value*& place, int64_t count) {
        int64_t begin = size_;
        size_ += (count * int64_t(sizeof(Value)) + 63) / 64 * 64;
        if (memory_) place = reinterpret_cast<Value*>(memory_ + begin);
    }

    bool allocate() {
        memory_ = static_cast<char*>(std::malloc(size_t(size_ + 64)));
        size_ = 0;
        return memory_ != nullptr;
    }

private:
    char* memory_ = nullptr;
    int64_t size_ = 0;
};

// Begin and end of a group at a level: 0 is the samples', the last one the pixels'.
SCTNET_INLINE const int32_t* span(const Side& side, int64_t group, int64_t level) {
    return side.spans + (group * side.levels + level) * 2;
}
SCTNET_INLINE const int32_t* taps(const Side& side, int64_t stage, int64_t tap) {
    return side.taps + (stage * 3 + tap) * side.longest;
}
SCTNET_INLINE const float* shares(const Side& side, int64_t stage, int64_t tap) {
    return side.shares + (stage * 2 + tap) * side.longest;
}

// Begin and end of neighbouring groups at a level, and where the run is held.
struct Run {
    int32_t begin, end, offset;
};

struct Drawing {
    const LabelMap& map;
    const Side& down;
    const Side& across;
    int64_t classes, width, stages;
    int64_t held, window, most, longest;  // rows of samples, ...; see `draw`
    float* lines;                         // held x classes x width
    int32_t* winners;                     // held x width
    int64_t* loaded;
    int32_t* agreed;
    float *largest_samples, *second_samples;
    float *ahead, *low, *high, *floor;
    Run* runs;            // columns x levels
    int32_t* candidates;  // columns x classes
    int32_t* counts;
    float *values, *scratch;  // stages x most x longest
    float* brought;           // stages x 2 x longest
    int32_t* named;
    float* largest;  // pixels of a group's rows x longest
    int32_t* winning;

    float* values_at(int64_t stage, int64_t row) { return values + (stage * most + row) * longest; }
    float* scratch_at(int64_t stage, int64_t row) { return scratch + (stage * most + row) * longest; }
    float* line_at(int64_t row, int64_t index) {
        return lines + (row % held * classes + index) * width;
    }
    Run& run(int64_t number, int64_t level) { return runs[number * across.levels + level]; }
};

int64_t most_at(const Side& side, int64_t first, int64_t last, int64_t level) {
    int64_t found = 1;
    for (int64_t group = first; group < last; ++group)
        found = ::most(found, span(side, group, level)[1] - span(side, group, level)[0]);
    return found;
}

// Returns how many places all runs can have together, at the level where they have most: those of
// their groups, of which neighbours may share some.
int64_t all_places(const Side& columns) {
    int64_t found = 0;
    for (int64_t level = 0; level < columns.levels; ++level) {
        int64_t places = span(columns, columns.groups - 1, level)[1] - span(columns, 0, level)[0];
        for (int64_t group = 0; group < columns.groups; ++group)
            places += span(columns, group, level)[1] - span(columns, group, level)[0];
        found = ::most(found, places);
    }
    return found;
}

// Copies a row of samples, and notes the class that is certain at each, else -1. Returns whether all
// are finite.
bool load_row(Drawing& all, const float* samples, int64_t row) {
    const LabelMap& map = all.map;
    int64_t width = all.width, slot = row % all.held;
    int32_t* __restrict winners = all.winners + slot * width;
    float *__restrict largest = all.largest_samples, *__restrict second = all.second_samples;
    for (int64_t c = 0; c < width; ++c) largest[c] = second[c] = -LARGEST_FLOAT, winners[c] = 0;
    int32_t wrong = 0;
    if (map.class_stride < map.column_stride) {  // the classes of a sample lie side by side
        for (int64_t c = 0; c < width; ++c) {
            const float* from = samples + row * map.row_stride + c * map.column_stride;
            for (int64_t index = 0; index < all.classes; ++index)
                all.line_at(row, index)[c] = from[index * map.class_stride];
        }
    } else {
        for (int64_t index = 0; index < all.classes; ++index) {
            const float* from = samples + row * map.row_stride + index * map.class_stride;
            float* line = all.line_at(row, index);
            for (int64_t c = 0; c < width; ++c) line[c] = from[c * map.column_stride];
        }
    }
    for (int64_t index = 0; index < all.classes; ++index) {
        const float* __restrict line = all.line_at(row, index);
        for (int64_t c = 0; c < width; ++c) {
            float value = line[c], before = largest[c];
            wrong |= !(absolute(value) <= LARGEST_FLOAT);
            float lesser = value < before ? value : before;
            second[c] = lesser > second[c] ? lesser : second[c];
            largest[c] = value > before ? value : before;
            winners[c] = value > before ? int32_t(index) : winners[c];
        }
    }
    if (all.classes > 1)
        for (int64_t c = 0; c < width; ++c) {
            float room = ROUNDING * (absolute(largest[c]) + absolute(second[c]));
            winners[c] = largest[c] - second[c] > room ? winners[c] : -1;
        }
    return wrong == 0;
}

// Notes the class that is certain in all of a group's rows of a column, else -1.
void agree(Drawing& all, const int32_t* rows) {
    int32_t* __restrict agreed = all.agreed;
    for (int64_t row = rows[0]; row < rows[1]; ++row) {
        const int32_t* __restrict winners = all.winners + row % all.held * all.width;
        if (row == rows[0])
            std::memcpy(agreed, winners, size_t(all.width) * sizeof *agreed);
        else
            for (int64_t c = 0; c < all.width; ++c) agreed[c] = agreed[c] == winners[c] ? agreed[c] : -1;
    }
}

int32_t winner(const int32_t* agreed, const int32_t* columns) {
    int32_t label = agreed[columns[0]];
    for (int64_t c = columns[0] + 1; c < columns[1]; ++c)
        if (agreed[c] != label) return -1;
    return label;
}

// Notes how far each class is from losing everywhere between some neighbouring samples: those of the
// group's rows, and of as many columns as the window from the one where it is noted. A class below 0
// comes nowhere near winning.
void look_ahead(Drawing& all, const int32_t* rows) {
    int64_t width = all.width, places = width - all.window + 1;
    float *__restrict low = all.low, *__restrict high = all.high, *__restrict floor = all.floor;
    for (int64_t p = 0; p < places; ++p) floor[p] = -LARGEST_FLOAT;
    for (int64_t index = 0; index < all.classes; ++index) {
        const float* __restrict first = all.line_at(rows[0], index);
        for (int64_t c = 0; c < width; ++c) low[c] = high[c] = first[c];
        for (int64_t row = rows[0] + 1; row < rows[1]; ++row) {
            const float* __restrict line = all.line_at(row, index);
            for (int64_t c = 0; c < width; ++c) {
                low[c] = line[c] < low[c] ? line[c] : low[c];
                high[c] = line[c] > high[c] ? line[c] : high[c];
            }
        }
        for (int64_t turn = 1; turn < all.window; ++turn) {  // each with its neighbour, which was with its own
            for (int64_t c = 0; c + 1 < width; ++c) {
                low[c] = low[c] < low[c + 1] ? low[c] : low[c + 1];
                high[c] = high[c] > high[c + 1] ? high[c] : high[c + 1];
            }
        }
        float* __restrict ahead = all.ahead + index * width;
        for (int64_t p = 0; p < places; ++p) {
            floor[p] = low[p] > floor[p] ? low[p] : floor[p];
            ahead[p] = high[p];
        }
    }
    for (int64_t index = 0; index < all.classes; ++index) {
        float* __restrict ahead = all.ahead + index * width;
        for (int64_t p = 0; p < places; ++p) {
            float room = ROUNDING * (absolute(ahead[p]) + absolute(floor[p]));
            ahead[p] += room - floor[p];
        }
    }
}

// Notes begin and end of neighbouring groups at every level, and where the run is held.
void add_run(Drawing& all, int64_t first, int64_t last, int64_t number) {
    for (int64_t level = 0; level < all.across.levels; ++level) {
        int32_t offset = 0;
        if (number > 0) {
            Run& before = all.run(number - 1, level);
            offset = before.offset + before.end - before.begin + int32_t(TOGETHER);
        }
        all.run(number, level) =
            Run{span(all.across, first, level)[0], span(all.across, last - 1, level)[1], offset};
    }
}

// Lists the classes that can win in a run, the lowest first; returns how many they are.
int32_t list_candidates(Drawing& all, int64_t first, int64_t last, int64_t number) {
    int32_t count = 0;
    for (int64_t index = 0; index < all.classes; ++index)
        for (int64_t group = first; group < last; ++group) {
            int64_t place = least(span(all.across, group, 0)[0], all.width - all.window);
            if (all.ahead[index * all.width + place] >= 0) {
                all.candidates[number * all.classes + count++] = int32_t(index);
                break;
            }
        }
    return count;
}

// Resizes a row of a run to the width of the next level.
void resize_across(Drawing& all, int64_t stage, int64_t row, int64_t number) {
    Run &from = all.run(number, stage), &to = all.run(number, stage + 1);
    const float* values = all.values_at(stage, row) + from.offset - from.begin;
    const int32_t *lefts = taps(all.across, stage, 0), *rights = taps(all.across, stage, 1);
    const int32_t* ends = taps(all.across, stage, 2);
    const float* near = all.brought + stage * 2 * all.longest + to.offset - to.begin;
    const float* far = near + all.longest;
    float* made = all.scratch_at(stage, row) + to.offset - to.begin;
    for (int64_t first = to.begin; first < to.end;) {
        Vector left = everywhere(values[lefts[first]]), right = everywhere(values[rights[first]]);
        int64_t last = least(ends[first], to.end);
        for (int64_t place = first; place < last; place += LANES)
            store(made + place, multiply_add(load(near + place), left, load(far + place) * right));
        first = last;
    }
}

// The weighted sums of two rows, as PyTorch computes them.
SCTNET_INLINE Vector weighted(const float* above, const float* below, Vector upper, Vector lower) {
    return multiply_add(upper, load(above), lower * load(below));
}

// Resizes all runs to the height of the next level.
void resize_down(Drawing& all, int64_t group, int64_t stage, int64_t width) {
    int64_t top = span(all.down, group, stage)[0];
    const int32_t* rows = span(all.down, group, stage + 1);
    for (int64_t pixel = rows[0]; pixel < rows[1]; ++pixel) {
        const float* above = all.scratch_at(stage, taps(all.down, stage, 0)[pixel] - top);
        const float* below = all.scratch_at(stage, taps(all.down, stage, 1)[pixel] - top);
        Vector upper = everywhere(shares(all.down, stage, 0)[pixel]);
        Vector lower = everywhere(shares(all.down, stage, 1)[pixel]);
        float* made = all.values_at(stage + 1, pixel - rows[0]);
        for (int64_t c = 0; c < width; c += LANES)
            store(made + c, weighted(above + c, below + c, upper, lower));
    }
}

// Resizes the candidates of all runs to their last height, and notes those that are larger.
void let_win(Drawing& all, int64_t group, int64_t width) {
    int64_t stage = all.stages - 1, top = span(all.down, group, stage)[0];
    const int32_t* rows = span(all.down, group, stage + 1);
    for (int64_t pixel = rows[0]; pixel < rows[1]; ++pixel) {
        const float* __restrict above = all.scratch_at(stage, taps(all.down, stage, 0)[pixel] - top);
        const float* __restrict below = all.scratch_at(stage, taps(all.down, stage, 1)[pixel] - top);
        float upper = shares(all.down, stage, 0)[pixel], lower = shares(all.down, stage, 1)[pixel];
        int64_t row = (pixel - rows[0]) * all.longest;
        float* __restrict largest = all.largest + row;
        int32_t* __restrict winning = all.winning + row;
        const int32_t* __restrict named = all.named;
        for (int64_t begin = 0; begin < width; begin += LANES) {
            float values[LANES];
            store(values, weighted(above + begin, below + begin, everywhere(upper), everywhere(lower)));
            for (int64_t k = 0; k < LANES; ++k) {
                int64_t c = begin + k;
                winning[c] = values[k] > largest[c] ? named[c] : winning[c];
                largest[c] = values[k] > largest[c] ? values[k] : largest[c];
            }
        }
    }
}

// Interpolates the candidates of all runs and lets the largest win, of equals the lowest.
void decide(Drawing& all, int64_t group, int64_t count) {
    int64_t stages = all.stages, longest = all.longest, width = 0;
    const int32_t *samples = span(all.down, group, 0), *pixels = span(all.down, group, stages);
    int64_t lengths[MOST_STAGES] = {};
    for (int64_t stage = 0; stage < stages; ++stage) {
        float* brought = all.brought + stage * 2 * longest;
        for (int64_t number = 0; number < count; ++number) {
            Run& run = all.run(number, stage + 1);
            size_t size = size_t(run.end - run.begin) * sizeof(float);
            for (int64_t tap = 0; tap < 2; ++tap)
                std::memcpy(
                    brought + tap * longest + run.offset, shares(all.across, stage, tap) + run.begin, size
                );
            lengths[stage] = run.offset + run.end - run.begin;
        }
    }
    width = lengths[stages - 1];
    for (int64_t row = 0; row < pixels[1] - pixels[0]; ++row)
        for (int64_t c = 0; c < width + TOGETHER; ++c) {
            all.largest[row * longest + c] = -__builtin_inff();
            all.winning[row * longest + c] = 0;
        }
    int64_t turns = 0;
    for (int64_t number = 0; number < count; ++number) turns = ::most(turns, all.counts[number]);
    for (int64_t turn = 0; turn < turns; ++turn) {
        // A run without further candidates keeps its last, which does not win again.
        for (int64_t number = 0; number < count; ++number) {
            if (turn >= all.counts[number]) continue;
            int32_t index = all.candidates[number * all.classes + turn];
            Run &to = all.run(number, stages), &from = all.run(number, 0);
            for (int64_t c = to.offset; c < to.offset + to.end - to.begin; ++c) all.named[c] = index;
            for (int64_t row = samples[0]; row < samples[1]; ++row)
                std::memcpy(
                    all.values_at(0, row - samples[0]) + from.offset, all.line_at(row, index) + from.begin,
                    size_t(from.end - from.begin) * sizeof(float)
                );
        }
        for (int64_t stage = 0; stage < stages; ++stage) {
            const int32_t* rows = span(all.down, group, stage);
            for (int64_t row = 0; row < rows[1] - rows[0]; ++row)
                for (int64_t number = 0; number < count; ++number)
                    if (turn < all.counts[number]) resize_across(all, stage, row, number);
            if (stage < stages - 1) resize_down(all, group, stage, lengths[stage]);
        }
        let_win(all, group, width);
    }
}

template <class Label>
void write_labels(Drawing& all, int64_t count, int64_t rows, int64_t first_column, Label* target) {
    for (int64_t number = 0; number < count; ++number) {
        Run& run = all.run(number, all.stages);
        for (int64_t row = 0; row < rows; ++row) {
            Label* to = target + row * all.map.labels_stride + run.begin - first_column;
            const int32_t* from = all.winning + row * all.longest + run.offset;
            for (int64_t c = 0; c < run.end - run.begin; ++c) to[c] = Label(from[c]);
        }
    }
}

void take_memory(Drawing& all, Arena& arena) {
    int64_t width = all.width, columns = all.across.groups, pixels = all.most * all.longest;
    arena.take(all.lines, all.held * all.classes * width);
    arena.take(all.winners, all.held * width);
    arena.take(all.loaded, all.held);
    arena.take(all.agreed, width);
    arena.take(all.largest_samples, width);
    arena.take(all.second_samples, width);
    arena.take(all.ahead, all.classes * width);
    arena.take(all.low, width);
    arena.take(all.high, width);
    arena.take(all.floor, width);
    arena.take(all.runs, columns * all.across.levels);
    arena.take(all.candidates, columns * all.classes);
    arena.take(all.counts, columns);
    arena.take(all.values, all.stages * pixels);
    arena.take(all.scratch, all.stages * pixels);
    arena.take(all.brought, all.stages * 2 * all.longest);
    arena.take(all.named, all.longest);
    arena.take(all.largest, pixels);
    arena.take(all.winning, pixels);
}

// Makes the labels of some groups of rows of a picture. Returns whether all samples that it reads are
// finite, or that memory is lacking.
template <class Label>
Outcome draw(const LabelMap& map, int64_t picture, int64_t begin_group, int64_t end_group) {
    const Side &down = map.down, &across = map.across;
    Drawing all{map, down, across};
    all.classes = map.classes, all.width = map.width, all.stages = down.levels - 1;
    all.held = most_at(down, begin_group, end_group, 0);
    all.window = most_at(across, 0, across.groups, 0);
    all.most = 1;
    for (int64_t level = 0; level < down.levels; ++level)
        all.most = ::most(all.most, most_at(down, begin_group, end_group, level));
    all.longest = all_places(across) + (across.groups + 1) * TOGETHER;
    Arena arena;
    take_memory(all, arena);
    if (!arena.allocate()) return NO_MEMORY;
    take_memory(all, arena);
    // What lies between the runs is computed too, whatever it is: but never by what is undefined.
    std::memset(all.values, 0, size_t(all.stages * all.most * all.longest) * sizeof(float));
    std::memset(all.scratch, 0, size_t(all.stages * all.most * all.longest) * sizeof(float));
    std::memset(all.brought, 0, size_t(all.stages * 2 * all.longest) * sizeof(float));
    std::memset(all.named, 0, size_t(all.longest) * sizeof(int32_t));
    for (int64_t k = 0; k < all.held; ++k) all.loaded[k] = -1;
    const float* samples = map.samples + picture * map.picture_stride;
    int64_t first_row = span(down, 0, all.stages)[0], first_column = span(across, 0, all.stages)[0];
    int64_t last_row = span(down, down.groups - 1, all.stages)[1];
    Label* labels = static_cast<Label*>(map.labels) + picture * (last_row - first_row) * map.labels_stride;
    for (int64_t group = begin_group; group < end_group; ++group) {
        const int32_t* rows = span(down, group, 0);
        for (int64_t row = rows[0]; row < rows[1]; ++row) {
            if (all.loaded[row % all.held] == row) continue;
            if (!load_row(all, samples, row)) return NOT_FINITE;
            all.loaded[row % all.held] = row;
        }
        agree(all, rows);
        int64_t top = span(down, group, all.stages)[0] - first_row;
        int64_t height = span(down, group, all.stages)[1] - first_row - top, found = 0;
        Label* target = labels + top * map.labels_stride;
        for (int64_t place = 0; place < across.groups;) {
            int32_t label = winner(all.agreed, span(across, place, 0));
            int64_t first = place;
            // Neighbouring groups of one class are filled together, and so are those undecided.
            while (place < across.groups && winner(all.agreed, span(across, place, 0)) == label) ++place;
            if (label >= 0) {
                int64_t left = span(across, first, all.stages)[0] - first_column;
                int64_t right = span(across, place - 1, all.stages)[1] - first_column;
                for (int64_t row = 0; row < height; ++row)
                    for (int64_t c = left; c < right; ++c) target[row * map.labels_stride + c] = Label(label);
                continue;
            }
            if (found == 0) look_ahead(all, rows);
            while (first < place) {
                int64_t last = least(first + RUN, place);
                add_run(all, first, last, found);
                all.counts[found] = list_candidates(all, first, last, found);
                first = last, ++found;
            }
        }
        if (found == 0) continue;
        decide(all, group, found);
        write_labels(all, found, height, first_column, target);
    }
    return DONE;
}

Outcome draw_labels(const LabelMap& map, int64_t picture, int64_t first, int64_t last) {
    return map.wide ? draw<uint16_t>(map, picture, first, last) : draw<uint8_t>(map, picture, first, last);
}

}  // namespace
