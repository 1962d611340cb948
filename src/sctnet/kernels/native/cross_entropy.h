// Cross-entropy of logits that are resized to the labels, and its gradient, in one pass.
//
// A resized pixel's classes lie side by side, so that vectors hold classes. Rows of pixels that read
// the same two rows of logits are computed together: of the gradient only what they give these two
// rows is kept, and nothing at the size of the labels ever is.

#pragma once

#include <cmath>

#include "kernels.h"
#include "vectors.h"

namespace {

using namespace sctnet;

constexpr float FAR_BELOW = -1e30f;  // stands where there is no class: e to the power of it is 0
constexpr float SMALLEST_SUM = 1e-25f;

// The sum of a vector, by halves.
SCTNET_INLINE float sum_of(Vector x) {
    float values[LANES];
    store(values, x);
    for (int64_t half = LANES / 2; half; half /= 2)
        for (int64_t k = 0; k < half; ++k) values[k] += values[k + half];
    return values[0];
}

// Blends two rows of logits; behind the last class of a column there is room to the end of a vector.
// `largest` is that of each column.
SCTNET_INLINE void blend(
    const CrossEntropy& all, const float* near, const float* far, float near_share, float far_share,
    int64_t vectors, float* blended, float* largest
) {
    for (int64_t column = 0; column < all.columns; ++column) {
        float* to = blended + column * vectors * LANES;
        float most_of_all = FAR_BELOW;
        for (int64_t c = 0; c < vectors * LANES; ++c) {
            float value = FAR_BELOW;
            if (c < all.classes) value = near_share * near[c] + far_share * far[c];
            most_of_all = value > most_of_all ? value : most_of_all;
            to[c] = value;
        }
        largest[column] = most_of_all;
        near += all.classes, far += all.classes;
    }
}

// A row of pixels: adds to the gradient of the blended row, and returns the loss. `hits` is the part
// of the gradient that the pixels' own classes have; `powers` has room for the classes of a pixel.
template <int64_t FIXED>
SCTNET_INLINE double entropy_of_row(
    const CrossEntropy& all, const int64_t* labels, const float* blended, const float* largest,
    float* gradient, float* hits, float* powers, bool& wrong
) {
    const int64_t vectors = FIXED ? FIXED : (all.classes + LANES - 1) / LANES, padded = vectors * LANES;
    const int32_t *near = all.across.taps, *far = near + all.across.longest;
    const float *near_shares = all.across.shares, *far_shares = near_shares + all.across.longest;
    double loss = 0;
    Vector finite = zeros();
    for (int64_t x = 0; x < all.width; ++x) {
        int64_t label = labels[x];
        if (label == all.ignored) continue;
        if (label < 0 || label >= all.classes) {
            wrong = true;
            continue;
        }
        int64_t left = near[x] * padded, right = far[x] * padded;
        float a = near_shares[x], b = far_shares[x], weight = all.weights[label];
        // No class is above it: resizing is linear.
        float above = a * largest[near[x]] + b * largest[far[x]], total = 0;
        for (int64_t turn = 0; turn < 2; ++turn) {
            Vector sum = zeros();
            for (int64_t k = 0; k < padded; k += LANES) {
                Vector value = multiply_add(
                    everywhere(b), load(blended + right + k), everywhere(a) * load(blended + left + k)
                );
                finite = multiply_add(zeros(), value, finite);  // what is not finite stays so
                Vector power = exponential(value - everywhere(above));
                store(powers + k, power);
                sum = sum + power;
            }
            total = sum_of(sum);
            if (total >= SMALLEST_SUM * float(padded)) break;
            // The bound was far above all classes, as two neighbours differ so much.
            above = FAR_BELOW;
            for (int64_t c = 0; c < all.classes; ++c) {
                float value = a * blended[left + c] + b * blended[right + c];
                above = value > above ? value : above;
            }
        }
        float scale = weight / total, own = a * blended[left + label] + b * blended[right + label];
        for (int64_t k = 0; k < padded; k += LANES) {
            Vector power = load(powers + k);
            float *first = gradient + left + k, *second = gradient + right + k;
            store(first, multiply_add(everywhere(a * scale), power, load(first)));
            store(second, multiply_add(everywhere(b * scale), power, load(second)));
        }
        hits[left + label] += a * weight;
        hits[right + label] += b * weight;
        loss += double(weight * (std::log(total) + (above - own)));
    }
    return loss + double(sum_of(finite));
}

// The pixels between some rows of logits of a picture. `scratch` has four rows of padded columns.
template <int64_t FIXED>
Outcome entropy_of_rows(const CrossEntropy& all, int64_t picture, int64_t begin, int64_t end, float* scratch) {
    int64_t vectors = (all.classes + LANES - 1) / LANES, padded = vectors * LANES, length = all.columns * padded;
    float *blended = scratch, *gradient = blended + length, *hits = gradient + length;
    float *largest = hits + length, *powers = largest + all.columns;
    int64_t row_of_logits = all.columns * all.classes;
    bool wrong = false;
    for (int64_t row = begin; row < end; ++row) {
        int64_t place = picture * all.rows + row, below = row + 1 < all.rows ? 1 : 0;
        const float* near = all.logits + place * row_of_logits;
        float *upper = all.upper + place * row_of_logits, *lower = all.lower + place * row_of_logits;
        double loss = 0;
        for (int64_t k = 0; k < row_of_logits; ++k) upper[k] = lower[k] = 0;
        for (int64_t y = all.starts[row]; y < all.starts[row + 1]; ++y) {
            float near_share = all.down.shares[y], far_share = all.down.shares[all.down.longest + y];
            blend(all, near, near + below * row_of_logits, near_share, far_share, vectors, blended, largest);
            for (int64_t k = 0; k < 2 * length; ++k) gradient[k] = 0;  // and the hits behind it
            const int64_t* labels = all.labels + (picture * all.height + y) * all.width;
            loss += entropy_of_row<FIXED>(all, labels, blended, largest, gradient, hits, powers, wrong);
            for (int64_t column = 0; column < all.columns; ++column)
                for (int64_t c = 0; c < all.classes; ++c) {
                    int64_t k = column * all.classes + c, of = column * padded + c;
                    float value = gradient[of] - hits[of];
                    upper[k] += near_share * value, lower[k] += far_share * value;
                }
        }
        all.losses[place] = loss;
    }
    return wrong ? WRONG_LABEL : DONE;
}

Outcome entropy_rows(const CrossEntropy& all, int64_t picture, int64_t begin, int64_t end, float* scratch) {
    int64_t vectors = (all.classes + LANES - 1) / LANES;
    if (vectors == 1) return entropy_of_rows<1>(all, picture, begin, end, scratch);
    if (vectors == 2) return entropy_of_rows<2>(all, picture, begin, end, scratch);
    return entropy_of_rows<0>(all, picture, begin, end, scratch);
}

}  // namespace
