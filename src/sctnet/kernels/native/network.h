// The steps of a network: what a piece of each kind computes.
//
// A plane is a map of pixels, row after row, the channels of a pixel side by side; around it lies a
// halo of zeros, which convolutions read beyond the border. A product multiplies rows of pixels by
// panels: of each panel, PANEL output channels wide, the values of one input channel after the other
// lie side by side, so that the micro-kernel reads them in order.

#pragma once

#include "kernels.h"
#include "vectors.h"

namespace {

using namespace sctnet;

template <int N>
struct Number {
    static constexpr int value = N;
};

// Calls a function with a number that is known only now as one that the compiler knows.
template <int N = ROWS, class Function>
SCTNET_INLINE void with_number(int64_t number, Function function) {
    if constexpr (N == 1) {
        function(Number<1>{});
    } else {
        if (number == N) return function(Number<N>{});
        with_number<N - 1>(number, function);
    }
}

// Returns how many rows a micro-kernel takes of those that are left, so that all have about as many:
// few rows keep the processor waiting for the sum before.
SCTNET_INLINE int64_t rows_of(int64_t left) {
    int64_t turns = (left + ROWS - 1) / ROWS;
    return (left + turns - 1) / turns;
}

// The micro-kernel: adds R rows x PANEL columns of products to sums in registers.
//
// Row r of the left side begins at left + r * distance and has `depth` values; the right side is read
// in order, and what lies `ahead` of it is fetched.
template <int R>
SCTNET_INLINE void multiply(
    Vector (&sums)[R][VECTORS], const float* left, int64_t distance, const float*& right,
    int64_t depth, int64_t ahead
) {
    const float* rows[R];
    SCTNET_UNROLL
    for (int r = 0; r < R; ++r) rows[r] = left + r * distance;
    SCTNET_UNROLL_SOME
    for (int64_t k = 0; k < depth; ++k, right += PANEL) {
        Vector line[VECTORS];
        SCTNET_UNROLL
        for (int v = 0; v < VECTORS; ++v) line[v] = load(right + LANES * v);
        __builtin_prefetch(right + ahead);
        SCTNET_UNROLL
        for (int r = 0; r < R; ++r) {
            Vector value = everywhere(rows[r][k]);
            SCTNET_UNROLL
            for (int v = 0; v < VECTORS; ++v) sums[r][v] = multiply_add(value, line[v], sums[r][v]);
        }
    }
}

// The same of short floats: a line of the right side holds PANEL pairs.
template <int R>
SCTNET_INLINE void multiply(
    Vector (&sums)[R][VECTORS], const Short* left, int64_t distance, const Short*& right,
    int64_t depth, int64_t ahead
) {
    for (int64_t k = 0; k < depth; k += 2, right += 2 * PANEL) {
        Ints line[VECTORS];
        SCTNET_UNROLL
        for (int v = 0; v < VECTORS; ++v) line[v] = load_ints(right + 2 * LANES * v);
        __builtin_prefetch(right + ahead);
        SCTNET_UNROLL
        for (int r = 0; r < R; ++r) {
            int32_t pair;
            std::memcpy(&pair, left + r * distance + k, 4);
            Ints value = int_everywhere(pair);
            SCTNET_UNROLL
            for (int v = 0; v < VECTORS; ++v)
                sums[r][v] = multiply_add_pairs(value, line[v], sums[r][v]);
        }
    }
}

SCTNET_INLINE Vector gelu(Vector x) {
    // Abramowitz and Stegun, 7.1.26: the error function within 1.5e-7.
    Vector one = everywhere(1.0f);
    Vector z = larger(x, zeros() - x) * everywhere(0.70710678f);
    Vector t = one / multiply_add(everywhere(0.3275911f), z, one);
    Vector series = multiply_add(everywhere(1.061405429f), t, everywhere(-1.453152027f));
    series = multiply_add(series, t, everywhere(1.421413741f));
    series = multiply_add(series, t, everywhere(-0.284496736f));
    series = multiply_add(series, t, everywhere(0.254829592f)) * t;
    // Of the normal distribution, beyond |x|.
    Vector tail = everywhere(0.5f) * series * exponential(zeros() - z * z);
    return x * where_positive(x, one - tail, tail);
}

// What is not a number stays so: the second of both is returned then.
SCTNET_INLINE Vector rectified(Vector x) { return larger(zeros(), x); }

SCTNET_INLINE Vector activated(int64_t activation, Vector x) {
    if (activation == RELU) return rectified(x);
    return activation == GELU ? gelu(x) : x;
}

// Returns the memory as a step's target keeps it.
template <class Kept>
SCTNET_INLINE Kept* kept(const Network& network) {
    return reinterpret_cast<Kept*>(network.memory);
}

template <class Factor>
SCTNET_INLINE const Factor* factors(const Network& network) {
    return static_cast<const Factor*>(network.factors);
}

// Adds the residual to rows of PANEL sums, applies the activation, and keeps the first channels.
template <class Kept>
__attribute__((noinline)) void finish_rows(
    const Step& step, const float* sums, int64_t rows, Kept* target, const float* residual,
    int64_t channels
) {
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < least(channels, PANEL); c += LANES) {
            Vector value = load(sums + r * PANEL + c);
            if (residual) value = value + load(residual + r * step.residual_pixel + c, channels - c);
            store(target + r * step.target_pixel + c, activated(step.activation, value), channels - c);
        }
    }
}

template <int R, class Kept>
SCTNET_INLINE void finish(
    const Step& step, Vector (&sums)[R][VECTORS], Kept* target, const float* residual,
    int64_t channels
) {
    if (channels < PANEL || step.activation == GELU) {
        float values[R * PANEL];
        SCTNET_UNROLL
        for (int r = 0; r < R; ++r) {
            SCTNET_UNROLL
            for (int v = 0; v < VECTORS; ++v) store(values + r * PANEL + LANES * v, sums[r][v]);
        }
        return finish_rows(step, values, R, target, residual, channels);
    }
    if (residual) {
        SCTNET_UNROLL
        for (int r = 0; r < R; ++r) {
            SCTNET_UNROLL
            for (int v = 0; v < VECTORS; ++v)
                sums[r][v] = sums[r][v] + load(residual + r * step.residual_pixel + LANES * v);
        }
    }
    if (step.activation == RELU) {
        SCTNET_UNROLL
        for (int r = 0; r < R; ++r) {
            SCTNET_UNROLL
            for (int v = 0; v < VECTORS; ++v) sums[r][v] = rectified(sums[r][v]);
        }
    }
    SCTNET_UNROLL
    for (int r = 0; r < R; ++r) {
        SCTNET_UNROLL
        for (int v = 0; v < VECTORS; ++v)
            store(target + r * step.target_pixel + LANES * v, sums[r][v]);
    }
}

// Convolves some rows with a panel.
template <class Factor, class Kept>
void convolve_rows(
    const Step& step, const Network& network, int64_t panel, int64_t top, int64_t bottom
) {
    int64_t distance = step.stride * step.source_pixel, size = step.taps * step.depth * PANEL;
    int64_t channel = panel * PANEL;
    const int64_t* offsets = network.offsets + step.offsets;
    const Factor* right = factors<Factor>(network) + step.factors + panel * size;
    const float* bias = network.terms + step.bias + channel;
    for (int64_t y = top; y < bottom; ++y) {
        const Factor* line = kept<Factor>(network) + step.source + y * step.stride * step.source_row;
        Kept* target = kept<Kept>(network) + step.target + y * step.target_row + channel;
        const float* residual = nullptr;
        if (step.residual >= 0)
            residual = network.memory + step.residual + y * step.residual_row + channel;
        for (int64_t x = 0; x < step.width;) {
            int64_t rows = rows_of(step.width - x);
            with_number(rows, [&](auto number) SCTNET_LAMBDA {
                constexpr int R = decltype(number)::value;
                Vector sums[R][VECTORS];
                SCTNET_UNROLL
                for (int r = 0; r < R; ++r) {
                    SCTNET_UNROLL
                    for (int v = 0; v < VECTORS; ++v) sums[r][v] = load(bias + LANES * v);
                }
                const Factor* here = right;
                for (int64_t tap = 0; tap < step.taps; ++tap)
                    multiply<R>(
                        sums, line + x * distance + offsets[tap], distance, here, step.depth, size
                    );
                finish<R, Kept>(
                    step, sums, target + x * step.target_pixel,
                    residual ? residual + x * step.residual_pixel : nullptr, step.channels - channel
                );
            });
            x += rows;
        }
    }
}

// Convolves as it is defined: of some rows at once, which stay in a core's own cache, with one panel
// after the other.
template <class Factor, class Kept>
void convolve(const Step& step, int64_t piece, const Network& network) {
    int64_t top = piece / step.shares * step.rows_of_piece;
    int64_t bottom = least(top + step.rows_of_piece, step.height);
    int64_t first = piece % step.shares * step.panels_of_piece;
    int64_t last = least(first + step.panels_of_piece, step.panels);
    for (int64_t upper = top; upper < bottom; upper += step.rows_at_once) {
        int64_t lower = least(upper + step.rows_at_once, bottom);
        for (int64_t panel = first; panel < last; ++panel)
            convolve_rows<Factor, Kept>(step, network, panel, upper, lower);
    }
}

constexpr int64_t LINE = 16;  // floats in a line of the cache

// Winograd's transforms evaluate polynomials at 0, infinity, and these and their opposites: rounding
// errors are half of those of the usual 1 and 2 (measured). packing.py has the kernels' side.
constexpr float NEAR = 0.70710678118654752f, FAR = 1.41421356237309505f;

// Six neighbours' combinations: rows 0, near, -near, far, -far, infinity of B^T. The product of NEAR
// and FAR is 1.
SCTNET_INLINE void at_points(const Vector (&d)[6], Vector (&found)[6]) {
    constexpr float NEAR2 = NEAR * NEAR, FAR2 = FAR * FAR, MIDDLE = NEAR2 + FAR2;
    Vector even_near = subtract_product(d[4], everywhere(FAR2), d[2]);
    Vector odd_near = subtract_product(d[3], everywhere(FAR2), d[1]);
    Vector even_far = subtract_product(d[4], everywhere(NEAR2), d[2]);
    Vector odd_far = subtract_product(d[3], everywhere(NEAR2), d[1]);
    found[0] = subtract_product(d[0], everywhere(MIDDLE), d[2]) + d[4];
    found[1] = multiply_add(everywhere(NEAR), odd_near, even_near);
    found[2] = subtract_product(even_near, everywhere(NEAR), odd_near);
    found[3] = multiply_add(everywhere(FAR), odd_far, even_far);
    found[4] = subtract_product(even_far, everywhere(FAR), odd_far);
    found[5] = subtract_product(d[1], everywhere(MIDDLE), d[3]) + d[5];
}

// Four neighbours of what was multiplied at the points: A^T.
SCTNET_INLINE void from_points(const Vector (&m)[6], Vector (&found)[4]) {
    Vector near = m[1] + m[2], far = m[3] + m[4], near_odd = m[1] - m[2], far_odd = m[3] - m[4];
    found[0] = m[0] + near + far;
    found[1] = multiply_add(everywhere(FAR), far_odd, everywhere(NEAR) * near_odd);
    found[2] = multiply_add(everywhere(FAR * FAR), far, everywhere(NEAR * NEAR) * near);
    found[3] = multiply_add(
        everywhere(FAR * FAR * FAR), far_odd,
        multiply_add(everywhere(NEAR * NEAR * NEAR), near_odd, m[5])
    );
}

// Fetches a line of the cache of each of the pixels that the next tile has and this one has not, in
// so many rows: their order is none that the processor foresees.
template <int ROWS_OF_TILE, class Value>
SCTNET_INLINE void fetch_pixels(const Value* tile, int64_t down, int64_t across) {
    SCTNET_UNROLL
    for (int y = 0; y < ROWS_OF_TILE; ++y) {
        SCTNET_UNROLL
        for (int x = 0; x < 4; ++x)
            __builtin_prefetch(tile + y * down + (x + ROWS_OF_TILE) * across);
    }
}

// Evaluates 6 x 6 pixels, of LANES channels each, at the 36 pairs of points.
template <class Factor>
SCTNET_INLINE void transform_pixels(
    const float* pixels, int64_t down, int64_t across, Factor* values, int64_t apart
) {
    Vector columns[6][6];
    SCTNET_UNROLL
    for (int x = 0; x < 6; ++x) {
        Vector column[6];
        SCTNET_UNROLL
        for (int y = 0; y < 6; ++y) column[y] = load(pixels + y * down + x * across);
        at_points(column, columns[x]);
    }
    SCTNET_UNROLL
    for (int y = 0; y < 6; ++y) {
        Vector row[6], found[6];
        SCTNET_UNROLL
        for (int x = 0; x < 6; ++x) row[x] = columns[x][y];
        at_points(row, found);
        SCTNET_UNROLL
        for (int x = 0; x < 6; ++x) store(values + (6 * y + x) * apart, found[x]);
    }
}

// Where the pixels of a tile belong, of LANES channels each, and what is added to them.
template <class Kept>
struct Tile {
    Kept* target;
    const float* residual;
    int64_t height, width, channels;  // of which so many are wanted
};

// Returns from products at the 36 pairs of points to 4 x 4 pixels, and finishes these.
template <bool RESIDUAL, int64_t ACTIVATION, class Kept>
SCTNET_INLINE void transform_products(
    const Step& step, const float* products, int64_t apart, Vector bias, const Tile<Kept>& tile
) {
    Vector columns[6][4];
    SCTNET_UNROLL
    for (int x = 0; x < 6; ++x) {
        Vector column[6];
        SCTNET_UNROLL
        for (int y = 0; y < 6; ++y) column[y] = load(products + (6 * y + x) * apart);
        from_points(column, columns[x]);
    }
    if (tile.height == TILE && tile.width == TILE && tile.channels >= LANES) {
        SCTNET_UNROLL
        for (int y = 0; y < 4; ++y) {
            Vector row[6], found[4];
            SCTNET_UNROLL
            for (int x = 0; x < 6; ++x) row[x] = columns[x][y];
            from_points(row, found);
            SCTNET_UNROLL
            for (int x = 0; x < 4; ++x) {
                Vector value = found[x] + bias;
                if (RESIDUAL)
                    value = value + load(tile.residual + y * step.residual_row + x * step.residual_pixel);
                store(
                    tile.target + y * step.target_row + x * step.target_pixel,
                    activated(ACTIVATION, value)
                );
            }
        }
        return;
    }
    for (int y = 0; y < tile.height; ++y) {
        Vector row[6], found[4];
        SCTNET_UNROLL
        for (int x = 0; x < 6; ++x) row[x] = columns[x][y];
        from_points(row, found);
        for (int x = 0; x < tile.width; ++x) {
            Vector value = found[x] + bias;
            if (RESIDUAL)
                value = value + load(
                    tile.residual + y * step.residual_row + x * step.residual_pixel, tile.channels
                );
            store(
                tile.target + y * step.target_row + x * step.target_pixel,
                activated(ACTIVATION, value), tile.channels
            );
        }
    }
}

// Finishes the columns of some tiles, of which the first is tile `begin` and channel `first`.
template <bool RESIDUAL, int64_t ACTIVATION, class Kept>
__attribute__((noinline)) void finish_tiles(
    const Step& step, const Network& network, const float* products, int64_t apart, int64_t begin,
    int64_t count, int64_t first, int64_t columns
) {
    int64_t across = (step.width + TILE - 1) / TILE, end = least(columns, step.channels - first);
    const float* bias = network.terms + step.bias + first;
    for (int64_t tile = 0; tile < count; ++tile) {
        int64_t y = (begin + tile) / across * TILE, x = (begin + tile) % across * TILE;
        Kept* target = kept<Kept>(network) + step.target + y * step.target_row +
                       x * step.target_pixel + first;
        const float* residual = network.memory;
        if (RESIDUAL)
            residual += step.residual + y * step.residual_row + x * step.residual_pixel + first;
        int64_t height = least(TILE, step.height - y), width = least(TILE, step.width - x);
        for (int64_t column = 0; column < end; column += LANES) {
            if (column % LINE == 0) {
                fetch_pixels<4>(target + column, step.target_row, step.target_pixel);
                if (RESIDUAL) fetch_pixels<4>(residual + column, step.residual_row, step.residual_pixel);
            }
            transform_products<RESIDUAL, ACTIVATION>(
                step, products + tile * columns + column, apart, load(bias + column),
                Tile<Kept>{target + column, residual + column, height, width, end - column}
            );
        }
    }
}

// Evaluates the pixels of some tiles: values[point][tile][channel].
template <class Factor>
__attribute__((noinline)) void transform_tiles(
    const Step& step, const Network& network, int64_t begin, int64_t count, Factor* values,
    int64_t apart, int64_t wide
) {
    int64_t across = (step.width + TILE - 1) / TILE;
    for (int64_t tile = 0; tile < count; ++tile) {
        int64_t y = (begin + tile) / across * TILE, x = (begin + tile) % across * TILE;
        const float* corner =
            network.memory + step.source + (y - 1) * step.source_row + (x - 1) * step.source_pixel;
        for (int64_t channel = 0; channel < wide; channel += LANES) {
            if (channel % LINE == 0) fetch_pixels<6>(corner + channel, step.source_row, step.source_pixel);
            transform_pixels(
                corner + channel, step.source_row, step.source_pixel, values + tile * wide + channel,
                apart
            );
        }
    }
}

// Multiplies what tiles are at one point by a panel.
template <class Factor>
__attribute__((noinline)) void multiply_tiles(
    const Factor* values, int64_t wide, int64_t depth, const Factor* right, float* products,
    int64_t columns, int64_t count
) {
    for (int64_t tile = 0; tile < count;) {
        int64_t rows = rows_of(count - tile);
        with_number(rows, [&](auto number) SCTNET_LAMBDA {
            constexpr int R = decltype(number)::value;
            Vector sums[R][VECTORS];
            SCTNET_UNROLL
            for (int r = 0; r < R; ++r) {
                SCTNET_UNROLL
                for (int v = 0; v < VECTORS; ++v) sums[r][v] = zeros();
            }
            const Factor* here = right;
            multiply<R>(sums, values, wide, here, depth, depth * PANEL);
            SCTNET_UNROLL
            for (int r = 0; r < R; ++r) {
                SCTNET_UNROLL
                for (int v = 0; v < VECTORS; ++v)
                    store(products + r * columns + LANES * v, sums[r][v]);
            }
        });
        tile += rows, values += rows * wide, products += rows * columns;
    }
}

// Convolves 3 x 3 in tiles of 4 x 4 pixels with a quarter of the products.
//
// Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015: F(4 x 4, 3 x 3).
template <class Factor, class Kept>
void winograd(const Step& step, int64_t piece, const Network& network, float* scratch) {
    int64_t tiles = ((step.width + TILE - 1) / TILE) * ((step.height + TILE - 1) / TILE);
    int64_t begin = piece / step.shares * step.tiles_of_piece;
    int64_t count = least(step.tiles_of_piece, tiles - begin);
    int64_t first = piece % step.shares * step.panels_of_piece;
    int64_t last = least(first + step.panels_of_piece, step.panels);
    int64_t depth = step.depth, wide = (depth + LANES - 1) / LANES * LANES;
    // Not a power of 2 apart: the 36 would share the few places of one line in the cache.
    int64_t apart = step.tiles_of_piece * wide + LANES;
    auto* values = reinterpret_cast<Factor*>(scratch);
    float* products = scratch + POINTS * apart;  // short factors leave half of what is before
    transform_tiles(step, network, begin, count, values, apart, wide);
    auto finish = finish_tiles<false, LINEAR, Kept>;
    if (step.residual >= 0)
        finish =
            step.activation == RELU ? finish_tiles<true, RELU, Kept> : finish_tiles<true, LINEAR, Kept>;
    else if (step.activation != LINEAR)
        finish =
            step.activation == RELU ? finish_tiles<false, RELU, Kept> : finish_tiles<false, GELU, Kept>;
    for (; first < last; first += step.panels_at_once) {
        int64_t panels = least(step.panels_at_once, last - first), columns = panels * PANEL;
        int64_t products_apart = step.tiles_of_piece * columns + LANES;
        for (int64_t point = 0; point < POINTS; ++point) {
            const Factor* right = factors<Factor>(network) + step.factors +
                                  (point * step.panels + first) * depth * PANEL;
            for (int64_t panel = 0; panel < panels; ++panel, right += depth * PANEL)
                multiply_tiles(
                    values + point * apart, wide, depth, right,
                    products + point * products_apart + panel * PANEL, columns, count
                );
        }
        finish(step, network, products, products_apart, begin, count, first * PANEL, columns);
    }
}

// How a stripe of N taps is cut: into `threes` that are computed as Winograd's F(4, 3), whose products
// are summed at the points, and what is left, as it is defined: 6 * threes + 4 * ones products for
// each 4 pixels, where there were 4 * N.
struct Stripe {
    int64_t threes, ones, wide, tiles;
    int64_t along, target_along, residual_along;  // from a pixel to the next one
    int64_t across;                               // tiles in a row of tiles
    bool downwards;
    int64_t length;  // of the picture, in this direction

    explicit Stripe(const Step& step)
        : threes(step.taps / 3), ones(step.taps % 3), wide(step.depth), downwards(step.downwards != 0) {
        along = downwards ? step.source_row : step.source_pixel;
        target_along = downwards ? step.target_row : step.target_pixel;
        residual_along = downwards ? step.residual_row : step.residual_pixel;
        length = downwards ? step.height : step.width;
        across = downwards ? step.width : (step.width + TILE - 1) / TILE;
        tiles = across * (downwards ? (step.height + TILE - 1) / TILE : step.height);
    }
    int64_t y(int64_t tile) const { return tile / across * (downwards ? TILE : 1); }
    int64_t x(int64_t tile) const { return tile % across * (downwards ? 1 : TILE); }
};

// Evaluates the pixels that some tiles of a stripe read: values[point][tile][three, channel], then
// those that are multiplied as they are, values[pixel][tile][one, channel].
__attribute__((noinline)) void transform_stripes(
    const Step& step, const Network& network, const Stripe& stripe, int64_t begin, int64_t count,
    float* values, int64_t apart, float* plain, int64_t plain_apart
) {
    int64_t along = stripe.along, wide = stripe.wide;
    for (int64_t tile = 0; tile < count; ++tile) {
        const float* first = network.memory + step.source + stripe.y(begin + tile) * step.source_row +
                             stripe.x(begin + tile) * step.source_pixel - step.taps / 2 * along;
        for (int64_t three = 0; three < stripe.threes; ++three) {
            const float* pixels = first + 3 * three * along;
            float* to = values + (tile * stripe.threes + three) * wide;
            for (int64_t channel = 0; channel < wide; channel += LANES) {
                Vector d[6], found[6];
                SCTNET_UNROLL
                for (int k = 0; k < 6; ++k) d[k] = load(pixels + k * along + channel);
                at_points(d, found);
                SCTNET_UNROLL
                for (int k = 0; k < 6; ++k) store(to + k * apart + channel, found[k]);
            }
        }
        for (int64_t one = 0; one < stripe.ones; ++one)
            for (int64_t k = 0; k < TILE; ++k)
                std::memcpy(
                    plain + k * plain_apart + (tile * stripe.ones + one) * wide,
                    first + (3 * stripe.threes + one + k) * along, size_t(wide) * sizeof(float)
                );
    }
}

template <class Kept>
__attribute__((noinline)) void finish_stripes(
    const Step& step, const Network& network, const Stripe& stripe, const float* products,
    int64_t apart, int64_t begin, int64_t count, int64_t first, int64_t columns
) {
    int64_t end = least(columns, step.channels - first);
    const float* bias = network.terms + step.bias + first;
    for (int64_t tile = 0; tile < count; ++tile) {
        int64_t y = stripe.y(begin + tile), x = stripe.x(begin + tile);
        Kept* target = kept<Kept>(network) + step.target + y * step.target_row +
                       x * step.target_pixel + first;
        const float* residual = network.memory;
        if (step.residual >= 0)
            residual += step.residual + y * step.residual_row + x * step.residual_pixel + first;
        int64_t length = least(TILE, stripe.length - (stripe.downwards ? y : x));
        for (int64_t column = 0; column < end; column += LANES) {
            const float* from = products + tile * columns + column;
            Vector m[6], found[4], shift = load(bias + column);
            SCTNET_UNROLL
            for (int k = 0; k < 6; ++k) m[k] = load(from + k * apart);
            from_points(m, found);
            for (int64_t k = 0; k < length; ++k) {
                Vector value = found[k] + shift;
                if (stripe.ones > 0) value = value + load(from + (6 + k) * apart);
                if (step.residual >= 0)
                    value = value + load(residual + k * stripe.residual_along + column, end - column);
                store(
                    target + k * stripe.target_along + column, activated(step.activation, value),
                    end - column
                );
            }
        }
    }
}

// Convolves with a stripe of 3 to 9 taps, in tiles of 4 pixels.
template <class Kept>
void convolve_stripe(const Step& step, int64_t piece, const Network& network, float* scratch) {
    Stripe stripe(step);
    int64_t begin = piece / step.shares * step.tiles_of_piece;
    int64_t count = least(step.tiles_of_piece, stripe.tiles - begin);
    int64_t first = piece % step.shares * step.panels_of_piece;
    int64_t last = least(first + step.panels_of_piece, step.panels);
    int64_t depth = stripe.threes * stripe.wide, plain_depth = stripe.ones * stripe.wide;
    int64_t apart = step.tiles_of_piece * depth + LANES;
    int64_t plain_apart = step.tiles_of_piece * plain_depth + LANES;
    float* plain = scratch + 6 * apart;
    float* products = plain + TILE * plain_apart;
    transform_stripes(step, network, stripe, begin, count, scratch, apart, plain, plain_apart);
    const float* factors = static_cast<const float*>(network.factors) + step.factors;
    for (; first < last; first += step.panels_at_once) {
        int64_t panels = least(step.panels_at_once, last - first), columns = panels * PANEL;
        int64_t products_apart = step.tiles_of_piece * columns + LANES;
        for (int64_t point = 0; point < 6; ++point) {
            const float* right = factors + (point * step.panels + first) * depth * PANEL;
            for (int64_t panel = 0; panel < panels; ++panel, right += depth * PANEL)
                multiply_tiles(
                    scratch + point * apart, depth, depth, right,
                    products + point * products_apart + panel * PANEL, columns, count
                );
        }
        for (int64_t pixel = 0; pixel < (stripe.ones > 0 ? TILE : 0); ++pixel) {
            const float* right = factors + (6 * step.panels * depth + first * plain_depth) * PANEL;
            for (int64_t panel = 0; panel < panels; ++panel, right += plain_depth * PANEL)
                multiply_tiles(
                    plain + pixel * plain_apart, plain_depth, plain_depth, right,
                    products + (6 + pixel) * products_apart + panel * PANEL, columns, count
                );
        }
        finish_stripes<Kept>(
            step, network, stripe, products, products_apart, begin, count, first * PANEL, columns
        );
    }
}

template <class Kept>
void fill(Kept* begin, Kept* end) {
    std::memset(static_cast<void*>(begin), 0, size_t(end - begin) * sizeof(Kept));
}

// Writes zeros into the halo of a plane, as wide as its frame; see Writer.plane.
template <class Kept>
void clear(const Step& step, int64_t piece, const Network& network) {
    int64_t frame = step.frame, row = step.target_row;
    int64_t before = frame * step.channels, behind = (frame + TILE - 1) * step.channels;
    int64_t top = piece * step.rows_of_piece, bottom = least(top + step.rows_of_piece, step.height);
    Kept* plane = kept<Kept>(network) + step.target;
    for (int64_t y = top; y < bottom; ++y) {
        Kept* line = plane + y * row;
        fill(line - before, line);
        fill(line + step.width * step.channels, line + step.width * step.channels + behind);
    }
    if (top == 0) fill(plane - frame * row - before, plane - before);
    if (bottom == step.height)
        fill(plane + bottom * row - before, plane + (bottom + frame + TILE - 1) * row - before);
}

// Puts rows of the picture into their plane, bytes normalised: the mean subtracted, then divided by
// the deviation, as PyTorch does; both are repeated for PERIOD values. A fourth channel is 0.
template <class Kept>
void read(const Step& step, int64_t piece, const Network& network, float* scratch) {
    int64_t length = 3 * step.width, top = piece * step.rows_of_piece;
    const float *mean = network.terms + step.mean, *deviation = network.terms + step.deviation;
    for (int64_t y = top; y < least(top + step.rows_of_piece, step.height); ++y) {
        const float* line = network.floats + (step.kind == FLOATS ? y * length : 0);
        if (step.kind == BYTES) {
            const uint8_t* bytes = network.bytes + y * length;
            int64_t k = 0;
            for (; k + LANES <= length; k += LANES)
                store(
                    scratch + k,
                    (load_bytes(bytes + k) - load(mean + k % PERIOD)) / load(deviation + k % PERIOD)
                );
            for (; k < length; ++k)
                scratch[k] = (float(bytes[k]) - mean[k % PERIOD]) / deviation[k % PERIOD];
            line = scratch;
        }
        Kept* target = kept<Kept>(network) + step.target + y * step.target_row;
        if (step.channels == 3) {
            for (int64_t k = 0; k < length; k += LANES) store(target + k, load(line + k, length - k), length - k);
        } else {
            int64_t x = 0;
            for (; 3 * x + LANES <= length; x += LANES / 4)
                store(target + 4 * x, with_fourth_channel(line + 3 * x));
            for (; x < step.width; ++x) {
                float pixel[LANES] = {line[3 * x], line[3 * x + 1], line[3 * x + 2], 0};
                store(target + 4 * x, load(pixel), 4);
            }
        }
    }
}

// Scales and shifts the channels of a pixel, then rectifies where asked to.
template <class Kept>
SCTNET_INLINE void affine_pixel(
    const Step& step, const float* values, const Network& network, int64_t y, int64_t x
) {
    const float *scale = network.terms + step.scale, *shift = network.terms + step.shift;
    Kept* target = kept<Kept>(network) + step.target + y * step.target_row + x * step.target_pixel;
    for (int64_t c = 0; c < step.channels; c += LANES) {
        int64_t left = step.channels - c;
        Vector value = multiply_add(load(values + c, left), load(scale + c, left), load(shift + c, left));
        store(target + c, step.activation == RELU ? rectified(value) : value, left);
    }
}

SCTNET_INLINE const float* source_pixel(const Step& step, const Network& network, int64_t y, int64_t x) {
    return network.memory + step.source + y * step.source_row + x * step.source_pixel;
}

template <class Kept>
void affine(const Step& step, int64_t piece, const Network& network) {
    int64_t top = piece * step.rows_of_piece;
    for (int64_t y = top; y < least(top + step.rows_of_piece, step.height); ++y)
        for (int64_t x = 0; x < step.width; ++x)
            affine_pixel<Kept>(step, source_pixel(step, network, y, x), network, y, x);
}

// Averages windows, zeros beyond the border included, then as `affine`; a window of 0: of all.
template <class Kept>
void pool(const Step& step, int64_t piece, const Network& network, float* total) {
    int64_t y = piece / step.width, x = piece % step.width, size = step.window;
    int64_t top = y * step.stride - size / 2, left = x * step.stride - size / 2;
    int64_t bottom = top + size, right = left + size, area = size * size;
    if (size == 0) {
        top = left = 0;
        bottom = step.source_height, right = step.source_width, area = bottom * right;
    }
    Vector share = everywhere(1.0f / float(area));
    for (int64_t c = 0; c < step.channels; c += LANES) {
        Vector sum = zeros();
        for (int64_t row = most(top, 0); row < least(bottom, step.source_height); ++row)
            for (int64_t column = most(left, 0); column < least(right, step.source_width); ++column)
                sum = sum + load(source_pixel(step, network, row, column) + c, step.channels - c);
        store(total + c, sum * share, step.channels - c);
    }
    affine_pixel<Kept>(step, total, network, y, x);
}

// A sample's place, its neighbour's, and the neighbour's weight.
struct Between {
    int64_t first, second;
    float weight;
};

SCTNET_INLINE Between between(int64_t place, int64_t inputs, int64_t outputs) {
    float at = (float(place) + 0.5f) * (float(inputs) / float(outputs)) - 0.5f;
    if (!(at > 0)) at = 0;
    int64_t first = least(int64_t(at), inputs - 1);
    return {first, least(first + 1, inputs - 1), at - float(first)};
}

// Resizes, bilinear with align_corners=False, adds the residual, then as `affine`.
void resize(const Step& step, int64_t piece, const Network& network, float* sums) {
    int64_t top = piece * step.rows_of_piece;
    for (int64_t y = top; y < least(top + step.rows_of_piece, step.height); ++y) {
        Between down = between(y, step.source_height, step.height);
        for (int64_t x = 0; x < step.width; ++x) {
            Between across = between(x, step.source_width, step.width);
            const float* a = source_pixel(step, network, down.first, across.first);
            const float* b = source_pixel(step, network, down.first, across.second);
            const float* c = source_pixel(step, network, down.second, across.first);
            const float* d = source_pixel(step, network, down.second, across.second);
            Vector right = everywhere(across.weight), lower = everywhere(down.weight);
            const float* residual =
                network.memory + step.residual + y * step.residual_row + x * step.residual_pixel;
            for (int64_t k = 0; k < step.channels; k += LANES) {
                int64_t left = step.channels - k;
                Vector upper = load(a + k, left), under = load(c + k, left);
                upper = multiply_add(right, load(b + k, left) - upper, upper);
                under = multiply_add(right, load(d + k, left) - under, under);
                Vector value = multiply_add(lower, under - upper, upper);
                if (step.residual >= 0) value = value + load(residual + k, left);
                store(sums + k, value, left);
            }
            affine_pixel<float>(step, sums, network, y, x);
        }
    }
}

// Finds the largest value of each map in some rows.
void find_largest(const Step& step, int64_t piece, const Network& network) {
    int64_t top = piece * step.rows_of_piece, bottom = least(top + step.rows_of_piece, step.height);
    float* largest = network.memory + step.largest + piece * step.channels;
    for (int64_t c = 0; c < step.channels; c += LANES) {
        Vector found = everywhere(-__builtin_inff());
        for (int64_t y = top; y < bottom; ++y)
            for (int64_t x = 0; x < step.width; ++x)
                found = larger(load(source_pixel(step, network, y, x) + c, step.channels - c), found);
        store(largest + c, found, step.channels - c);
    }
}

// Takes exponentials of how far values are from their map's largest, and sums some rows.
void take_exponentials(const Step& step, int64_t piece, const Network& network) {
    int64_t top = piece * step.rows_of_piece, bottom = least(top + step.rows_of_piece, step.height);
    const float* all_largest = network.memory + step.largest;
    float* totals = network.memory + step.totals + piece * step.channels;
    for (int64_t c = 0; c < step.channels; c += LANES) {
        int64_t left = step.channels - c;
        Vector largest = everywhere(-__builtin_inff()), total = zeros();
        for (int64_t part = 0; part < step.pieces; ++part)
            largest = larger(load(all_largest + part * step.channels + c, left), largest);
        for (int64_t y = top; y < bottom; ++y)
            for (int64_t x = 0; x < step.width; ++x) {
                float* place =
                    network.memory + step.source + y * step.source_row + x * step.source_pixel + c;
                Vector value = load(place, left);
                total = total + zeros() * value;  // what is not finite stays so
                value = exponential(value - largest);
                store(place, value, left);
                total = total + value;
            }
        store(totals + c, total, left);
    }
}

// Divides by each map's sum, then by the norm over the maps of each group.
template <class Kept>
void normalise(const Step& step, int64_t piece, const Network& network, float* scratch) {
    int64_t top = piece * step.rows_of_piece, channels = step.channels;
    const float* totals = network.memory + step.totals;
    float *share = scratch, *values = scratch + channels;
    for (int64_t c = 0; c < channels; c += LANES) {
        Vector total = zeros();
        for (int64_t part = 0; part < step.pieces; ++part)
            total = total + load(totals + part * channels + c, channels - c);
        store(share + c, everywhere(1.0f) / total, channels - c);
    }
    for (int64_t y = top; y < least(top + step.rows_of_piece, step.height); ++y)
        for (int64_t x = 0; x < step.width; ++x) {
            const float* source = source_pixel(step, network, y, x);
            for (int64_t c = 0; c < channels; c += LANES)
                store(values + c, load(source + c, channels - c) * load(share + c, channels - c), channels - c);
            for (int64_t begin = 0; begin < channels; begin += step.maps_of_group) {
                float norm = 0;  // the values are positive
                for (int64_t c = begin; c < begin + step.maps_of_group; ++c)
                    norm += step.squared ? values[c] * values[c] : values[c];
                float factor = 1.0f / ((step.squared ? __builtin_sqrtf(norm) : norm) + 1e-6f);
                for (int64_t c = begin; c < begin + step.maps_of_group; ++c) values[c] *= factor;
            }
            Kept* target =
                kept<Kept>(network) + step.target + y * step.target_row + x * step.target_pixel;
            for (int64_t c = 0; c < channels; c += LANES)
                store(target + c, load(values + c, channels - c), channels - c);
        }
}

template <class Factor, class Kept>
void work_on(const Step& step, int64_t piece, const Network& network, float* scratch) {
    switch (step.kind) {
        case CLEAR: return clear<Kept>(step, piece, network);
        case FLOATS:
        case BYTES: return read<Kept>(step, piece, network, scratch);
        case CONVOLVE: return convolve<Factor, Kept>(step, piece, network);
        case WINOGRAD: return winograd<Factor, Kept>(step, piece, network, scratch);
        case STRIPE: return convolve_stripe<Kept>(step, piece, network, scratch);
        case AFFINE: return affine<Kept>(step, piece, network);
        case POOL: return pool<Kept>(step, piece, network, scratch);
        case RESIZE: return resize(step, piece, network, scratch);
        case LARGEST: return find_largest(step, piece, network);
        case EXPONENTIAL: return take_exponentials(step, piece, network);
        case NORMALISE: return normalise<Kept>(step, piece, network, scratch);
    }
}

void work(const Step& step, int64_t piece, const Network& network, float* scratch) {
    if constexpr (TAKES_PAIRS) {
        if (network.short_factors && step.short_target)
            return work_on<Short, Short>(step, piece, network, scratch);
        if (network.short_factors) return work_on<Short, float>(step, piece, network, scratch);
    }
    work_on<float, float>(step, piece, network, scratch);
}

}  // namespace
