// Whether steps stay within what they are given.

#pragma once

#include "kernels.h"

namespace sctnet {

// How many values there are of each.
struct Sizes {
    int64_t memory, offsets, terms, factors, scratch;
};

// Returns whether a step reads and writes only within these.
bool stays_within(const Step& step, const Network& network, const Sizes& sizes, const Kernels& kernels);

}  // namespace sctnet
