// Preparation: a picture's bytes resized and normalised in one pass.
//
// A bilinear resize takes one side after the other. Each row of the result is made of some rows of the
// picture, read as the bytes that they are, and then brought to the width: nothing but one row is ever
// held as floats.

#pragma once

#include "kernels.h"
#include "vectors.h"

namespace {

using namespace sctnet;

// Writes the weighted sum of the rows from `first` on; four are summed before the sum is written.
void sum_rows(const Preparation& all, const uint8_t* picture, int64_t row, float* summed) {
    int64_t length = 3 * all.width, k = 0;
    const float* weights = all.down_weights + row * all.down_taps;
    const uint8_t* first = picture + all.down_first[row] * length;
    for (; k + LANES <= length; k += LANES) {
        Vector sum = zeros();
        for (int64_t tap = 0; tap < all.down_taps; ++tap)
            sum = multiply_add(everywhere(weights[tap]), load_bytes(first + tap * length + k), sum);
        store(summed + k, sum);
    }
    for (; k < length; ++k) {
        float sum = 0;
        for (int64_t tap = 0; tap < all.down_taps; ++tap) sum += weights[tap] * float(first[tap * length + k]);
        summed[k] = sum;
    }
}

// Makes rows of a prepared picture. `summed` has room for a row of the picture as floats.
void prepare_rows(const Preparation& all, int64_t image, int64_t begin, int64_t end, float* summed) {
    const uint8_t* picture = all.pictures + image * all.height * all.width * 3;
    const float *mean = all.statistics, *deviation = all.statistics + 3;
    for (int64_t row = begin; row < end; ++row) {
        sum_rows(all, picture, row, summed);
        float* made = all.prepared + (image * all.rows + row) * all.columns * 3;
        for (int64_t column = 0; column < all.columns; ++column, made += 3) {
            const float* place = summed + 3 * all.across_first[column];
            const float* weights = all.across_weights + column * all.across_taps;
            float red = 0, green = 0, blue = 0;
            for (int64_t tap = 0; tap < all.across_taps; ++tap, place += 3) {
                red += weights[tap] * place[0];
                green += weights[tap] * place[1];
                blue += weights[tap] * place[2];
            }
            made[0] = (red - mean[0]) / deviation[0];
            made[1] = (green - mean[1]) / deviation[1];
            made[2] = (blue - mean[2]) / deviation[2];
        }
    }
}

}  // namespace
