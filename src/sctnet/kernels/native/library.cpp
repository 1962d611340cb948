// The library's plain C interface, which kernels/library.py calls.

#include <ctime>
#include <cstring>
#include <memory>
#include <new>

#include "check.h"
#include "kernels.h"
#include "threads.h"

using namespace sctnet;

#define SCTNET_EXPORT extern "C" __attribute__((visibility("default")))

// The instruction sets that were compiled, the newest first: CMakeLists.txt names them.
#define LEVEL(name) extern "C" const Kernels sctnet_kernels_##name;
SCTNET_LEVELS
#undef LEVEL
#define LEVEL(name) &sctnet_kernels_##name,
static const Kernels* const ALL[] = {SCTNET_LEVELS};
#undef LEVEL

namespace {

bool offered(const Kernels& kernels) {
#if defined(__x86_64__)
    // These ask the operating system too, whether it keeps the registers of a thread.
    __builtin_cpu_init();
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!std::strcmp(kernels.name, "avx512bf16"))
        return avx512 && __builtin_cpu_supports("avx512bf16");
    if (!std::strcmp(kernels.name, "avx512")) return avx512;
    if (!std::strcmp(kernels.name, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    (void)kernels;
    return true;
}

struct alignas(64) Counters {
    std::atomic<int64_t> taken{0}, done{0};
};

// A picture that threads compute, step by step. They share the pieces of each step and pass to the
// next together. None of them is needed: who comes late helps with what is left, and who never comes
// is not waited for.
struct Computation {
    const Kernels* kernels;
    const Step* steps;
    int64_t number;
    const Network* network;
    float* scratch;
    int64_t scratch_size;
    int64_t* nanoseconds;
    int64_t threads;
    std::unique_ptr<Counters[]> counters;
    Signal changed;
};

// The nanoseconds that this thread has run, where a single one computes: what else the machine does
// then counts little. Else those of a steady clock.
int64_t now(bool single) {
#if defined(CLOCK_THREAD_CPUTIME_ID)
    timespec time;
    if (single && clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) == 0)
        return int64_t(time.tv_sec) * 1000000000 + time.tv_nsec;
#endif
    (void)single;
    auto since = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
}

void compute(void* context, int64_t thread) {
    auto& all = *static_cast<Computation*>(context);
    float* scratch = all.scratch + thread * all.scratch_size;
    int64_t finished = 0;
    for (int64_t index = 0; index < all.number; ++index) {
        const Step& step = all.steps[index];
        Counters& counters = all.counters[index];
        for (int64_t piece; (piece = counters.taken.fetch_add(1)) < step.pieces;) {
            all.kernels->work(step, piece, *all.network, scratch);
            if (counters.done.fetch_add(1) + 1 < step.pieces) continue;
            if (all.nanoseconds) all.nanoseconds[index] = now(all.threads == 1);
            all.changed.notify();
        }
        if (!step.joins) continue;
        for (; finished <= index; ++finished) {
            auto& done = all.counters[finished].done;
            int64_t pieces = all.steps[finished].pieces;
            all.changed.wait([&] { return done.load() >= pieces; });
        }
    }
}

}  // namespace

// The version of these functions' arguments; kernels/library.py has the same number.
SCTNET_EXPORT int64_t sctnet_interface() { return 3; }

// The names of a step's fields, one behind the other with commas between.
SCTNET_EXPORT const char* sctnet_step_fields() {
#define SCTNET_FIELD(name) "," #name
    return SCTNET_STEP_FIELDS(SCTNET_FIELD) + 1;
#undef SCTNET_FIELD
}

// Describes the instruction set of a number, beginning with the newest, or returns null behind the
// last. `facts`: lanes, rows, panel, whether this machine offers it, whether it takes pairs of short
// floats, and whether it multiplies them by an instruction of its own.
SCTNET_EXPORT const char* sctnet_instruction_set(int64_t number, int64_t* facts) {
    if (number < 0 || number >= int64_t(sizeof ALL / sizeof *ALL)) return nullptr;
    const Kernels& kernels = *ALL[number];
    facts[0] = kernels.lanes, facts[1] = kernels.rows, facts[2] = kernels.panel;
    facts[3] = offered(kernels);
    facts[4] = kernels.takes_pairs, facts[5] = kernels.multiplies_pairs;
    return kernels.name;
}

// Returns the number of the first step that would read or write beyond what it is given, or -1.
// `sizes`: values of the memory, offsets, terms, factors, and of a thread's scratch.
SCTNET_EXPORT int64_t sctnet_check(
    int64_t instruction_set, const Step* steps, int64_t number, const int64_t* offsets,
    int64_t short_factors, const int64_t* sizes
) {
    Network network{nullptr, nullptr, nullptr, offsets, nullptr, nullptr, short_factors != 0};
    Sizes there{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
    for (int64_t k = 0; k < number; ++k)
        if (!stays_within(steps[k], network, there, *ALL[instruction_set])) return k;
    return -1;
}

// Computes all steps in up to so many threads, each of which has `scratch_size` floats. Returns 0, or
// 1 where memory is lacking. `nanoseconds`, unless null, receives when each step ended: see `now`.
SCTNET_EXPORT int sctnet_compute(
    int64_t instruction_set, const Step* steps, int64_t number, const uint8_t* bytes,
    const float* floats, float* memory, const int64_t* offsets, const float* terms,
    const void* factors, int64_t short_factors, float* scratch, int64_t scratch_size,
    int64_t threads, int64_t* nanoseconds
) {
    Network network{bytes, floats, memory, offsets, terms, factors, short_factors != 0};
    Computation all{ALL[instruction_set], steps, number, &network, scratch, scratch_size,
                    nanoseconds, threads, {}, {}};
    all.counters.reset(new (std::nothrow) Counters[size_t(number)]);
    if (!all.counters) return 1;
    share(compute, &all, threads);
    return 0;
}

SCTNET_EXPORT void sctnet_exponentials(
    int64_t instruction_set, const float* powers, float* results, int64_t count
) {
    ALL[instruction_set]->exponentials(powers, results, count);
}

namespace {

// Pieces of pictures, each of which a thread takes at a time: picture, begin and end.
struct Pieces {
    const Kernels* kernels;
    const void* what;  // LabelMap, Preparation or CrossEntropy
    const int64_t* pieces;
    int64_t number;
    std::atomic<int64_t> taken{0};
    std::atomic<int> outcome{DONE};
};

void draw_pieces(void* context, int64_t) {
    auto& all = *static_cast<Pieces*>(context);
    for (int64_t k; (k = all.taken.fetch_add(1)) < all.number;) {
        const int64_t* piece = all.pieces + 3 * k;
        int outcome =
            all.kernels->draw(*static_cast<const LabelMap*>(all.what), piece[0], piece[1], piece[2]);
        if (outcome != DONE) all.outcome.store(outcome);
    }
}

void prepare_pieces(void* context, int64_t) {
    auto& all = *static_cast<Pieces*>(context);
    auto& what = *static_cast<const Preparation*>(all.what);
    std::unique_ptr<float[]> summed(new (std::nothrow) float[size_t(3 * what.width)]);
    for (int64_t k; (k = all.taken.fetch_add(1)) < all.number;) {
        const int64_t* piece = all.pieces + 3 * k;
        if (!summed) all.outcome.store(NO_MEMORY);
        else all.kernels->prepare(what, piece[0], piece[1], piece[2], summed.get());
    }
}

void entropy_pieces(void* context, int64_t) {
    auto& all = *static_cast<Pieces*>(context);
    auto& what = *static_cast<const CrossEntropy*>(all.what);
    int64_t padded = (what.classes + all.kernels->lanes - 1) / all.kernels->lanes * all.kernels->lanes;
    size_t floats = size_t((3 * what.columns + 1) * padded + what.columns);
    std::unique_ptr<float[]> scratch(new (std::nothrow) float[floats]);
    for (int64_t k; (k = all.taken.fetch_add(1)) < all.number;) {
        const int64_t* piece = all.pieces + 3 * k;
        Outcome outcome = NO_MEMORY;
        if (scratch)
            outcome = all.kernels->entropy(what, piece[0], piece[1], piece[2], scratch.get());
        if (outcome != DONE) all.outcome.store(outcome);
    }
}

}  // namespace

// Makes label maps. `numbers`: distances of pictures, classes, rows and columns, how many classes and
// columns there are, then of either side groups, levels and longest, and how far rows of labels are
// apart. Returns an Outcome.
SCTNET_EXPORT int sctnet_label_maps(
    int64_t instruction_set, const int64_t* numbers, const float* samples, const void* const* sides,
    void* labels, int64_t wide, const int64_t* pieces, int64_t number, int64_t threads
) {
    auto side = [&](int64_t k) {
        const int64_t* sizes = numbers + 6 + 3 * k;
        return Side{
            static_cast<const int32_t*>(sides[3 * k]), static_cast<const int32_t*>(sides[3 * k + 1]),
            static_cast<const float*>(sides[3 * k + 2]), sizes[0], sizes[1], sizes[2]
        };
    };
    LabelMap map{samples, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5],
                 side(0), side(1), labels, numbers[12], wide != 0};
    Pieces all{ALL[instruction_set], &map, pieces, number};
    share(draw_pieces, &all, threads);
    return all.outcome.load();
}

// Prepares pictures. `sizes`: height and width, of the pictures and of the result, then taps down and
// across. Returns an Outcome.
SCTNET_EXPORT int sctnet_prepare(
    int64_t instruction_set, const int64_t* sizes, const uint8_t* pictures, const int32_t* down_first,
    const float* down_weights, const int32_t* across_first, const float* across_weights,
    const float* statistics, float* prepared, const int64_t* pieces, int64_t number, int64_t threads
) {
    Preparation what{pictures, prepared, sizes[0], sizes[1], sizes[2], sizes[3], down_first, across_first,
                     down_weights, across_weights, sizes[4], sizes[5], statistics};
    Pieces all{ALL[instruction_set], &what, pieces, number};
    share(prepare_pieces, &all, threads);
    return all.outcome.load();
}

// The cross-entropy of logits that are resized to labels, and its gradient. `numbers`: rows, columns
// and classes of the logits, height and width of the labels, the label that is ignored, and the
// longest of either side. `sides`: taps and shares down, then across. Returns an Outcome.
SCTNET_EXPORT int sctnet_cross_entropy(
    int64_t instruction_set, const int64_t* numbers, const float* logits, const int64_t* labels,
    const float* weights, const int32_t* starts, const void* const* sides, float* upper, float* lower,
    double* losses, const int64_t* pieces, int64_t number, int64_t threads
) {
    auto side = [&](int64_t k) {
        return Side{nullptr, static_cast<const int32_t*>(sides[2 * k]),
                    static_cast<const float*>(sides[2 * k + 1]), 0, 2, numbers[6 + k]};
    };
    CrossEntropy what{logits, labels, weights, starts, side(0), side(1), numbers[0], numbers[1], numbers[2],
                      numbers[3], numbers[4], numbers[5], upper, lower, losses};
    Pieces all{ALL[instruction_set], &what, pieces, number};
    share(entropy_pieces, &all, threads);
    return all.outcome.load();
}
