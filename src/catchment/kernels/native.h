// What the compiled loops share: the bits of floats, and work divided among threads.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

inline int32_t bits_of(float x) {
    int32_t b;
    std::memcpy(&b, &x, 4);
    return b;
}

inline float float_of(int32_t b) {
    float x;
    std::memcpy(&x, &b, 4);
    return x;
}

template <class Work>
void in_blocks(int64_t number, int64_t block, int threads, Work work) {
    const int64_t blocks = (number + block - 1) / block;
    threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, blocks)));
    auto some = [&](int t) {
        for (int64_t b = blocks * t / threads; b < blocks * (t + 1) / threads; ++b)
            work(b * block, std::min(number, (b + 1) * block));
    };
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(some, t);
    some(0);
    for (auto& thread : others) thread.join();
}

}  // namespace
