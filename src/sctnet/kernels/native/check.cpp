#include "check.h"

#include <cstddef>

namespace sctnet {

namespace {

// Whether values from `begin` on, so many of them, lie within so many.
bool within(int64_t begin, int64_t count, int64_t size) {
    return begin >= 0 && count >= 0 && size >= 0 && begin <= size && count <= size - begin;
}

int64_t up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

}  // namespace

bool stays_within(const Step& s, const Network& network, const Sizes& sizes, const Kernels& kernels) {
    constexpr int64_t MOST = int64_t(1) << 40;  // no product of two of these overflows
    const int64_t* fields = reinterpret_cast<const int64_t*>(&s);
    for (std::size_t k = 0; k < sizeof s / sizeof *fields; ++k)
        if (fields[k] < -1 || fields[k] > MOST) return false;
    int64_t panel = kernels.panel, lanes = kernels.lanes;
    int64_t shorter = network.short_factors ? 2 : 1;
    int64_t kept = sizes.memory * (network.short_factors && s.short_target ? 2 : 1);
    if (s.kind < 0 || s.kind >= KINDS || s.pieces < 0 || s.height < 1 || s.width < 1 || s.channels < 1)
        return false;
    // Planes: from their first pixel to the last channel of the last one, and what lies around.
    auto plane = [](int64_t begin, int64_t row, int64_t pixel, int64_t height, int64_t width,
                    int64_t channels, int64_t around, int64_t size) {
        if (row < 0 || pixel < 0) return false;
        int64_t before = around * (row + pixel);
        return within(begin - before, before + (height - 1) * row + (width - 1) * pixel + channels, size);
    };
    if (s.kind == CLEAR) {
        int64_t wide = (s.width + 2 * s.frame + TILE - 1) * s.channels;
        int64_t first = s.target - s.frame * (s.target_row + s.channels);
        return s.frame >= 0 && s.rows_of_piece > 0 && s.target_row >= wide &&
               s.pieces * s.rows_of_piece < s.height + s.rows_of_piece &&
               within(first, (s.height + 2 * s.frame + TILE - 1) * s.target_row, kept);
    }
    if (!plane(s.target, s.target_row, s.target_pixel, s.height, s.width, s.channels, 0, kept)) return false;
    if (s.residual >= 0 && !plane(s.residual, s.residual_row, s.residual_pixel, s.height, s.width,
                                  s.channels, 0, sizes.memory))
        return false;
    bool rows = s.rows_of_piece > 0 && (s.kind == CONVOLVE || s.pieces * s.rows_of_piece < s.height + s.rows_of_piece);
    auto source = [&](int64_t channels) {
        return s.source_height > 0 && s.source_width > 0 &&
               plane(s.source, s.source_row, s.source_pixel, s.source_height, s.source_width, channels,
                     0, sizes.memory);
    };
    auto affine = [&] {
        return within(s.scale, s.channels, sizes.terms) && within(s.shift, s.channels, sizes.terms);
    };
    switch (s.kind) {
        case FLOATS:
        case BYTES:
            return rows && (s.channels == 3 || s.channels == 4) && s.target_pixel == s.channels &&
                   (s.kind == FLOATS || (within(s.mean, PERIOD, sizes.terms) &&
                                         within(s.deviation, PERIOD, sizes.terms) &&
                                         3 * s.width <= sizes.scratch));
        case AFFINE: return rows && affine() && source(s.channels) && s.source_height >= s.height && s.source_width >= s.width;
        case POOL:
            return affine() && source(s.channels) && s.channels <= sizes.scratch && s.stride >= 0 &&
                   s.window >= 0 && s.pieces <= s.height * s.width;
        case RESIZE: return rows && affine() && source(s.channels) && s.channels <= sizes.scratch && !s.short_target;
        case LARGEST:
        case EXPONENTIAL:
        case NORMALISE:
            return rows && source(s.channels) && s.source_height >= s.height && s.source_width >= s.width &&
                   within(s.largest, s.pieces * s.channels, sizes.memory) &&
                   within(s.totals, s.pieces * s.channels, sizes.memory) && 2 * s.channels <= sizes.scratch &&
                   s.maps_of_group > 0 && s.channels % s.maps_of_group == 0;
    }
    // Products.
    if (s.panels < 1 || s.shares < 1 || s.panels_of_piece < 1 || s.depth < 1 || s.pieces % s.shares ||
        s.panels * panel < s.channels || (s.shares - 1) * s.panels_of_piece >= s.panels ||
        s.shares * s.panels_of_piece < s.panels || (network.short_factors && s.depth % 2) ||
        !within(s.bias, s.panels * panel, sizes.terms))
        return false;
    int64_t pieces = s.pieces / s.shares;
    if (s.kind == CONVOLVE) {
        if (s.taps < 1 || s.rows_at_once < 1 || s.stride < 1 || s.rows_of_piece < 1 ||
            (pieces - 1) * s.rows_of_piece >= s.height || !within(s.offsets, s.taps, sizes.offsets) ||
            !within(s.factors, s.panels * s.taps * s.depth * panel, sizes.factors))
            return false;
        int64_t last = (s.height - 1) * s.stride * s.source_row + (s.width - 1) * s.stride * s.source_pixel;
        for (int64_t tap = 0; tap < s.taps; ++tap) {
            int64_t offset = network.offsets[s.offsets + tap];
            if (offset < -MOST || offset > MOST ||
                !within(s.source + offset, last + s.depth, sizes.memory * shorter))
                return false;
        }
        return s.source_row >= 0 && s.source_pixel >= 0;
    }
    if (s.kind == STRIPE) {
        int64_t threes = s.taps / 3, ones = s.taps % 3, columns = s.panels_at_once * panel;
        if (network.short_factors || s.depth % lanes || s.taps < 3 || s.taps > 9 || s.tiles_of_piece < 1 ||
            s.panels_at_once < 1)
            return false;
        int64_t height = s.downwards ? up(s.height, TILE) : s.height;
        int64_t width = s.downwards ? s.width : up(s.width, TILE);
        int64_t before = s.taps / 2 * (s.downwards ? s.source_row : s.source_pixel);
        int64_t behind = (s.taps - 1 - s.taps / 2) * (s.downwards ? s.source_row : s.source_pixel);
        int64_t read = (height - 1) * s.source_row + (width - 1) * s.source_pixel + s.depth;
        return s.source_row >= 0 && s.source_pixel >= 0 &&
               (pieces - 1) * s.tiles_of_piece < height * width / TILE &&
               within(s.factors, s.panels * (6 * threes + ones) * s.depth * panel, sizes.factors) &&
               within(s.source - before, before + read + behind, sizes.memory) &&
               s.tiles_of_piece * ((6 * threes + 4 * ones) * s.depth + 10 * columns) + 20 * lanes <=
                   sizes.scratch;
    }
    int64_t wide = up(s.depth, lanes), columns = s.panels_at_once * panel;
    int64_t height = up(s.height, TILE), width = up(s.width, TILE);
    // Vectors reach beyond the last channels of a pixel.
    return s.tiles_of_piece >= 1 && s.panels_at_once >= 1 &&
           (pieces - 1) * s.tiles_of_piece < height / TILE * (width / TILE) &&
           within(s.factors, POINTS * s.panels * s.depth * panel, sizes.factors) &&
           plane(s.source, s.source_row, s.source_pixel, height + 1, width + 1, wide, 1, sizes.memory) &&
           POINTS * (s.tiles_of_piece * (wide + columns) + 2 * lanes) <= sizes.scratch;
}

}  // namespace sctnet
