// What the library's parts know of each other: steps, and the functions of an instruction set.

#pragma once

#include <cstdint>

namespace sctnet {

// Kinds of steps. Names and order are those of kernels' steps.py.
enum Kind : int64_t {
    CLEAR, FLOATS, BYTES, CONVOLVE, WINOGRAD, STRIPE, AFFINE, POOL, RESIZE, LARGEST, EXPONENTIAL, NORMALISE, KINDS
};
enum Activation : int64_t { LINEAR, RELU, GELU };

// The fields of a step, in order; steps.py says what they mean. The library tells their names, and
// is refused by Python where they are others than there.
#define SCTNET_STEP_FIELDS(FIELD)                                                                   \
    FIELD(kind) FIELD(joins) FIELD(pieces)                                                          \
    FIELD(rows_of_piece) FIELD(rows_at_once) FIELD(tiles_of_piece) FIELD(shares)                               \
    FIELD(panels) FIELD(panels_of_piece) FIELD(panels_at_once)                                      \
    FIELD(source) FIELD(source_row) FIELD(source_pixel) FIELD(source_height) FIELD(source_width)    \
    FIELD(target) FIELD(short_target) FIELD(target_row) FIELD(target_pixel)                         \
    FIELD(height) FIELD(width) FIELD(channels)                                                      \
    FIELD(residual) FIELD(residual_row) FIELD(residual_pixel) FIELD(activation)                     \
    FIELD(factors) FIELD(bias) FIELD(offsets) FIELD(taps) FIELD(depth) FIELD(stride) FIELD(downwards) \
    FIELD(scale) FIELD(shift) FIELD(mean) FIELD(deviation)                                          \
    FIELD(frame) FIELD(window) FIELD(largest) FIELD(totals) FIELD(maps_of_group) FIELD(squared)

struct Step {
#define SCTNET_FIELD(name) int64_t name;
    SCTNET_STEP_FIELDS(SCTNET_FIELD)
#undef SCTNET_FIELD
};

// What all steps of a picture share.
struct Network {
    const uint8_t* bytes;    // the picture, height x width x 3, as it is
    const float* floats;     // or prepared; one of them is null
    float* memory;           // all planes
    const int64_t* offsets;  // of the taps of convolutions, from a pixel
    const float* terms;      // what is added, and what norms multiply with
    const void* factors;     // panels that are multiplied, of floats or of short ones
    bool short_factors;
};

constexpr int64_t TILE = 4;                          // pixels of a side of Winograd's tiles
constexpr int64_t POINTS = (TILE + 2) * (TILE + 2);  // at which their polynomials are multiplied
constexpr int64_t PERIOD = 48;  // values of a picture's line: channels and vectors begin anew

// One side, height or width, of a map that is resized in stages: see kernels/interpolation.py.
struct Side {
    const int32_t* spans;  // groups x levels x 2
    const int32_t* taps;   // stages x 3 x longest
    const float* shares;   // stages x 2 x longest
    int64_t groups, levels, longest;
};
constexpr int64_t MOST_STAGES = 16;

// What all pieces of label maps share.
struct LabelMap {
    const float* samples;  // logits of pictures x classes x rows x columns, at these distances
    int64_t picture_stride, class_stride, row_stride, column_stride;
    int64_t classes, width;
    Side down, across;
    void* labels;  // of one byte or two, pictures x rows x columns
    int64_t labels_stride;
    bool wide;
};
enum Outcome : int { DONE, NO_MEMORY, NOT_FINITE, WRONG_LABEL };

// What all pieces of prepared pictures share.
struct Preparation {
    const uint8_t* pictures;  // pictures x height x width x 3
    float* prepared;          // pictures x rows x columns x 3
    int64_t height, width, rows, columns;
    // Which row or column of the picture is the first that a result reads, and how it weighs that one
    // and those behind it.
    const int32_t *down_first, *across_first;
    const float *down_weights, *across_weights;
    int64_t down_taps, across_taps;
    const float* statistics;  // mean of each channel, then its deviation
};

// What all pieces of a cross-entropy share.
struct CrossEntropy {
    const float* logits;    // pictures x rows x columns x classes
    const int64_t* labels;  // pictures x height x width
    const float* weights;   // of each class
    const int32_t* starts;  // the first row of labels that reads each row of logits and the one below
    Side down, across;      // of one stage
    int64_t rows, columns, classes, height, width, ignored;
    // The gradient, laid out as the logits: what the pixels of `starts` give each row, and the one
    // below it.
    float *upper, *lower;
    double* losses;  // pictures x rows
};

// The functions of one instruction set.
struct Kernels {
    const char* name;
    int64_t lanes, rows, panel;
    bool takes_pairs;       // of short floats, at least for tests
    bool multiplies_pairs;  // and that by an instruction of its own
    void (*work)(const Step& step, int64_t piece, const Network& network, float* scratch);
    Outcome (*draw)(const LabelMap& map, int64_t picture, int64_t first, int64_t last);
    void (*prepare)(
        const Preparation& all, int64_t picture, int64_t begin, int64_t end, float* summed
    );
    Outcome (*entropy)(
        const CrossEntropy& all, int64_t picture, int64_t begin, int64_t end, float* scratch
    );
    void (*exponentials)(const float* powers, float* results, int64_t count);
};

}  // namespace sctnet
