// BatchNorm, ReLU and 2x2 maximum pooling in two passes over the values, for float32 on a CPU: the loops of norm_relu.py.
//
// Values are (rows, channels), channels last; a row is a pixel of an image. Sums are taken over blocks of rows that do
// not depend on the number of threads, and so are the results.

#include <cmath>

#include "native.h"

namespace {

constexpr int64_t BLOCK = 64;  // rows of a block: stay in the cache between its two passes
constexpr uint8_t NO_GRADIENT = 4;

int64_t blocks_of(int64_t rows) { return (rows + BLOCK - 1) / BLOCK; }

// Rows of the input that a pooled row covers: rows above it are `width` wide.
struct Window {
    int64_t first[4];

    Window(int64_t pooled, int64_t width) {
        const int64_t half = width / 2;
        const int64_t top = (pooled / half) * 2 * width + (pooled % half) * 2;
        first[0] = top;
        first[1] = top + 1;
        first[2] = top + width;
        first[3] = top + width + 1;
    }
};

// The sums of a and b over blocks, each (blocks, channels), in order: to out (2, channels).
void add_up(const float* a, const float* b, int64_t blocks, int64_t channels, double* out) {
    std::fill(out, out + 2 * channels, 0.0);
    for (int64_t k = 0; k < blocks; ++k) {
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) out[c] += a[k * channels + c];
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) out[channels + c] += b[k * channels + c];
    }
}

}  // namespace

extern "C" {

// mean and biased variance of each channel
void catchment_moments(const float* x, int64_t rows, int64_t channels, int threads, float* mean, float* variance) {
    const int64_t blocks = blocks_of(rows);
    std::vector<float> means(blocks * channels), squares(blocks * channels);
    in_blocks(rows, BLOCK, threads, [=, all_means = means.data(), all_squares = squares.data()](int64_t from, int64_t to) {
        float* __restrict m = all_means + from / BLOCK * channels;
        float* __restrict s = all_squares + from / BLOCK * channels;
        for (int64_t i = from; i < to; ++i)
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) m[c] += x[i * channels + c];
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) m[c] /= static_cast<float>(to - from);
        for (int64_t i = from; i < to; ++i)
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                const float d = x[i * channels + c] - m[c];
                s[c] += d * d;
            }
    });
    std::vector<double> at(channels), around(channels);
    double before = 0;
    for (int64_t k = 0; k < blocks; ++k) {  // Chan, Golub and LeVeque
        const double number = static_cast<double>(std::min(BLOCK, rows - k * BLOCK)), all = before + number;
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) {
            const double d = means[k * channels + c] - at[c];
            at[c] += d * (number / all);
            around[c] += squares[k * channels + c] + d * d * (before * number / all);
        }
        before = all;
    }
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
        mean[c] = static_cast<float>(at[c]);
        variance[c] = static_cast<float>(around[c] / static_cast<double>(rows));
    }
}

// y = max(0, x * scale + shift)
void catchment_scale_relu(const float* x, const float* scale, const float* shift, int64_t rows, int64_t channels,
                          int threads, float* y) {
    in_blocks(rows, BLOCK, threads, [=](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
            const float* __restrict in = x + i * channels;
            float* __restrict out = y + i * channels;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                const float a = in[c] * scale[c] + shift[c];
                out[c] = a <= 0 ? 0.0f : a;
            }
        }
    });
}

// As above, then the maximum of each 2x2 window of images of this width; chosen: which of the four it was, by rows, or
// NO_GRADIENT where it is zero. rows are those of y.
void catchment_scale_relu_pool(const float* x, const float* scale, const float* shift, int64_t rows, int64_t channels,
                               int64_t width, int threads, float* y, uint8_t* chosen) {
    in_blocks(rows, BLOCK, threads, [=](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
            const Window window(i, width);
            const float* __restrict in0 = x + window.first[0] * channels;
            const float* __restrict in1 = x + window.first[1] * channels;
            const float* __restrict in2 = x + window.first[2] * channels;
            const float* __restrict in3 = x + window.first[3] * channels;
            float* __restrict out = y + i * channels;
            uint8_t* __restrict which = chosen + i * channels;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                const float a0 = in0[c] * scale[c] + shift[c], a1 = in1[c] * scale[c] + shift[c];
                const float a2 = in2[c] * scale[c] + shift[c], a3 = in3[c] * scale[c] + shift[c];
                // not (<=): a NaN is taken, and stays
                float best = a0;
                int32_t place = 0;
                place = !(a1 <= best) ? 1 : place;
                best = !(a1 <= best) ? a1 : best;
                place = !(a2 <= best) ? 2 : place;
                best = !(a2 <= best) ? a2 : best;
                place = !(a3 <= best) ? 3 : place;
                best = !(a3 <= best) ? a3 : best;
                out[c] = best <= 0 ? 0.0f : best;
                which[c] = static_cast<uint8_t>(best <= 0 ? NO_GRADIENT : place);
            }
        }
    });
}

// sums (2, channels): of the gradient that reaches x * scale + shift, and of it times x - mean
void catchment_relu_sums(const float* x, const float* grad, const float* scale, const float* shift, const float* mean,
                         int64_t rows, int64_t channels, int threads, double* sums) {
    const int64_t blocks = blocks_of(rows);
    std::vector<float> plain(blocks * channels), times(blocks * channels);
    in_blocks(rows, BLOCK, threads, [=, all_plain = plain.data(), all_times = times.data()](int64_t from, int64_t to) {
        float* __restrict b = all_plain + from / BLOCK * channels;
        float* __restrict g = all_times + from / BLOCK * channels;
        for (int64_t i = from; i < to; ++i) {
            const float* __restrict in = x + i * channels;
            const float* __restrict dy = grad + i * channels;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                const float a = in[c] * scale[c] + shift[c], reached = dy[c];
                const float d = a <= 0 ? 0.0f : reached;
                b[c] += d;
                g[c] += d * (in[c] - mean[c]);
            }
        }
    });
    add_up(plain.data(), times.data(), blocks, channels, sums);
}

// as above, where the gradient is that of the pooled values; rows are theirs
void catchment_relu_pool_sums(const float* x, const float* grad, const uint8_t* chosen, const float* mean, int64_t rows,
                              int64_t channels, int64_t width, int threads, double* sums) {
    const int64_t blocks = blocks_of(rows);
    std::vector<float> plain(blocks * channels), times(blocks * channels);
    in_blocks(rows, BLOCK, threads, [=, all_plain = plain.data(), all_times = times.data()](int64_t from, int64_t to) {
        float* __restrict b = all_plain + from / BLOCK * channels;
        float* __restrict g = all_times + from / BLOCK * channels;
        for (int64_t i = from; i < to; ++i) {
            const Window window(i, width);
            const float* __restrict in0 = x + window.first[0] * channels;
            const float* __restrict in1 = x + window.first[1] * channels;
            const float* __restrict in2 = x + window.first[2] * channels;
            const float* __restrict in3 = x + window.first[3] * channels;
            const float* __restrict dy = grad + i * channels;
            const uint8_t* __restrict which = chosen + i * channels;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                const int32_t place = which[c];
                const float x0 = in0[c], x1 = in1[c], x2 = in2[c], x3 = in3[c], reached = dy[c];
                const float upper = place == 0 ? x0 : x1, lower = place == 2 ? x2 : x3;
                const float d = place == NO_GRADIENT ? 0.0f : reached;
                b[c] += d;
                g[c] += d * ((place < 2 ? upper : lower) - mean[c]);
            }
        }
    });
    add_up(plain.data(), times.data(), blocks, channels, sums);
}

// dx = d * by_grad + x * by_x + constant, d the gradient that reaches x * scale + shift
void catchment_relu_gradient(const float* x, const float* grad, const float* scale, const float* shift,
                             const float* by_grad, const float* by_x, const float* constant, int64_t rows,
                             int64_t channels, int threads, float* dx) {
    in_blocks(rows, BLOCK, threads, [=](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
            const float* __restrict in = x + i * channels;
            const float* __restrict dy = grad + i * channels;
            float* __restrict out = dx + i * channels;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                const float a = in[c] * scale[c] + shift[c], reached = dy[c];
                const float d = a <= 0 ? 0.0f : reached;
                out[c] = d * by_grad[c] + (in[c] * by_x[c] + constant[c]);
            }
        }
    });
}

// as above, where the gradient is that of the pooled values; rows are theirs
void catchment_relu_pool_gradient(const float* x, const float* grad, const uint8_t* chosen, const float* by_grad,
                                  const float* by_x, const float* constant, int64_t rows, int64_t channels,
                                  int64_t width, int threads, float* dx) {
    in_blocks(rows, BLOCK, threads, [=](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
            const Window window(i, width);
            const float* __restrict dy = grad + i * channels;
            const uint8_t* __restrict which = chosen + i * channels;
            for (int32_t k = 0; k < 4; ++k) {
                const float* __restrict in = x + window.first[k] * channels;
                float* __restrict out = dx + window.first[k] * channels;
#pragma omp simd
                for (int64_t c = 0; c < channels; ++c) {
                    const float reached = dy[c];
                    const float d = which[c] == k ? reached : 0.0f;
                    out[c] = d * by_grad[c] + (in[c] * by_x[c] + constant[c]);
                }
            }
        }
    });
}

}  // extern "C"
