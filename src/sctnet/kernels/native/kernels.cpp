// The functions of one instruction set; compiled once for each, with its flags, and its name as
// SCTNET_LEVEL.

#include "cross_entropy.h"
#include "labels.h"
#include "network.h"
#include "preprocessing.h"

#define SCTNET_JOINED(a, b) a##b
#define SCTNET_NAME(prefix, level) SCTNET_JOINED(prefix, level)
#define SCTNET_TEXT(text) #text
#define SCTNET_QUOTED(text) SCTNET_TEXT(text)

namespace {

void exponentials(const float* powers, float* results, int64_t count) {
    for (int64_t k = 0; k < count; k += LANES)
        store(results + k, exponential(load(powers + k, count - k)), count - k);
}

}  // namespace

extern "C" const sctnet::Kernels SCTNET_NAME(sctnet_kernels_, SCTNET_LEVEL);
const sctnet::Kernels SCTNET_NAME(sctnet_kernels_, SCTNET_LEVEL) = {
    SCTNET_QUOTED(SCTNET_LEVEL), LANES, ROWS, PANEL,
    TAKES_PAIRS, MULTIPLIES_PAIRS,
    work, draw_labels, prepare_rows, entropy_rows, exponentials,
};
