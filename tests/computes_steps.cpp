// Computes a network's steps that test_kernels.py wrote into a file: for processors that this machine
// only emulates, where there is no Python. Writes the logits' plane into another file.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels.h"

extern "C" int sctnet_compute(
    int64_t, const sctnet::Step*, int64_t, const uint8_t*, const float*, float*, const int64_t*,
    const float*, const void*, int64_t, float*, int64_t, int64_t, int64_t*
);
extern "C" int64_t sctnet_check(
    int64_t, const sctnet::Step*, int64_t, const int64_t*, int64_t, const int64_t*
);

template <class Value>
std::vector<Value> read(std::FILE* file, int64_t count) {
    std::vector<Value> values(count);
    if (std::fread(values.data(), sizeof(Value), size_t(count), file) != size_t(count)) std::abort();
    return values;
}

int main(int, char** names) {
    std::FILE* file = std::fopen(names[1], "rb");
    if (!file) return 1;
    auto sizes = read<int64_t>(file, 7);  // memory, offsets, terms, factors, scratch; steps, bytes
    auto steps = read<sctnet::Step>(file, sizes[5]);
    auto offsets = read<int64_t>(file, sizes[1]);
    auto terms = read<float>(file, sizes[2]);
    auto factors = read<float>(file, sizes[3]);
    auto bytes = read<uint8_t>(file, sizes[6]);
    const int64_t threads = 2;
    std::vector<float> memory(size_t(sizes[0]), NAN), scratch(size_t(sizes[4] * threads), NAN);
    if (sctnet_check(0, steps.data(), sizes[5], offsets.data(), 0, sizes.data()) != -1) return 2;
    if (sctnet_compute(
            0, steps.data(), sizes[5], bytes.data(), nullptr, memory.data(), offsets.data(),
            terms.data(), factors.data(), 0, scratch.data(), sizes[4], threads, nullptr
        ))
        return 3;
    std::FILE* found = std::fopen(names[2], "wb");
    std::fwrite(memory.data(), sizeof(float), memory.size(), found);
    return std::fclose(found);
}
