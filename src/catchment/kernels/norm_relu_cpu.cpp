// BatchNorm, ReLU and 2x2 maximum pooling in two passes over the values, for float32 on a CPU: the loops of norm_relu.py.
//
// Values are (rows, channels), channels last; a row is a pixel. Sums are taken over blocks of rows that do not depend on
// the number of threads, and so are the results. A NaN needs no care: it makes the mean one, and so all of its channel.

#include <cmath>

#include "native.h"

namespace {

constexpr int64_t BLOCK = 64;  // rows of a block: they stay in the cache between its two passes
constexpr uint8_t NO_GRADIENT = 4;

int64_t blocks_of(int64_t rows) { return (rows + BLOCK - 1) / BLOCK; }

// The four rows that a pooled row covers, of images so many pixels wide.
struct Window {
    const float* in[4];
    int64_t at[4];

    Window(const float* x, int64_t pooled, int64_t width, int64_t channels) {
        const int64_t half = width / 2, top = (pooled / half) * 2 * width + (pooled % half) * 2;
        const int64_t row[4] = {top, top + 1, top + width, top + width + 1};
        for (int k = 0; k < 4; ++k) {
            at[k] = row[k] * channels;
            in[k] = x + at[k];
        }
    }
};

// Of each channel: mean, 1 / standard deviation, and scale and shift: x * scale + shift is what the layer gives.
struct Statistics {
    float *mean, *inverse, *scale, *shift;

    Statistics(float* four, int64_t channels)
        : mean(four), inverse(four + channels), scale(four + 2 * channels), shift(four + 3 * channels) {}
};

// Mean and sum of squares around it.
void moments(const float* x, int64_t rows, int64_t channels, int threads, double* mean, double* around) {
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
    double before = 0;
    for (int64_t k = 0; k < blocks; ++k) {  // Chan, Golub and LeVeque
        const double number = static_cast<double>(std::min(BLOCK, rows - k * BLOCK)), all = before + number;
        for (int64_t c = 0; c < channels; ++c) {
            const double d = means[k * channels + c] - mean[c];
            mean[c] += d * (number / all);
            around[c] += squares[k * channels + c] + d * d * (before * number / all);
        }
        before = all;
    }
}

// y = max(0, x * scale + shift)
void activate(const float* x, Statistics of, int64_t rows, int64_t channels, int threads, float* y) {
    in_blocks(rows, BLOCK, threads, [=](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
            const float* __restrict in = x + i * channels;
            float* __restrict out = y + i * channels;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                const float a = in[c] * of.scale[c] + of.shift[c];
                out[c] = a <= 0 ? 0.0f : a;
            }
        }
    });
}

// The maximum of that over windows; chosen: the first of the four that has it, or NO_GRADIENT where it is zero.
void activate_and_pool(const float* x, Statistics of, int64_t rows, int64_t channels, int64_t width, int threads,
                       float* y, uint8_t* chosen) {
    in_blocks(rows / 4, BLOCK, threads, [=](int64_t from, int64_t to) {
        const float* __restrict scale = of.scale;  // copies, as a byte that is written could be one of the pointers'
        const float* __restrict shift = of.shift;
        for (int64_t i = from; i < to; ++i) {
            const Window window(x, i, width, channels);
            const float* __restrict in0 = window.in[0];
            const float* __restrict in1 = window.in[1];
            const float* __restrict in2 = window.in[2];
            const float* __restrict in3 = window.in[3];
            float* __restrict out = y + i * channels;
            uint8_t* __restrict which = chosen + i * channels;
#pragma omp simd simdlen(16)
            for (int64_t c = 0; c < channels; ++c) {
                const float x0 = in0[c], x1 = in1[c], x2 = in2[c], x3 = in3[c];
                const float a0 = x0 * scale[c] + shift[c], a1 = x1 * scale[c] + shift[c];
                const float a2 = x2 * scale[c] + shift[c], a3 = x3 * scale[c] + shift[c];
                const float upper = a1 > a0 ? a1 : a0, lower = a3 > a2 ? a3 : a2;
                const float best = lower > upper ? lower : upper;
                const int32_t of_upper = a1 > a0 ? 1 : 0, of_lower = a3 > a2 ? 3 : 2;
                const int32_t place = lower > upper ? of_lower : of_upper;
                out[c] = best <= 0 ? 0.0f : best;
                which[c] = static_cast<uint8_t>(best <= 0 ? NO_GRADIENT : place);
            }
        }
    });
}

// The sums over blocks (blocks, channels) of d, the gradient that reaches x * scale + shift, and of d (x - mean).
void sums(const float* x, const float* grad, Statistics of, int64_t rows, int64_t channels, int threads, float* d_sum,
          float* times_sum) {
    in_blocks(rows, BLOCK, threads, [=](int64_t from, int64_t to) {
        float* __restrict plain = d_sum + from / BLOCK * channels;
        float* __restrict times = times_sum + from / BLOCK * channels;
        for (int64_t i = from; i < to; ++i) {
            const float* __restrict in = x + i * channels;
            const float* __restrict dy = grad + i * channels;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                const float a = in[c] * of.scale[c] + of.shift[c], reached = dy[c];
                const float d = a <= 0 ? 0.0f : reached;
                plain[c] += d;
                times[c] += d * (in[c] - of.mean[c]);
            }
        }
    });
}

// Likewise, from the gradient of the pooled values; blocks are of these.
void pooled_sums(const float* x, const float* grad, const uint8_t* chosen, Statistics of, int64_t rows,
                 int64_t channels, int64_t width, int threads, float* d_sum, float* times_sum) {
    in_blocks(rows / 4, BLOCK, threads, [=](int64_t from, int64_t to) {
        float* __restrict plain = d_sum + from / BLOCK * channels;
        float* __restrict times = times_sum + from / BLOCK * channels;
        for (int64_t i = from; i < to; ++i) {
            const Window window(x, i, width, channels);
            const float* __restrict in0 = window.in[0];
            const float* __restrict in1 = window.in[1];
            const float* __restrict in2 = window.in[2];
            const float* __restrict in3 = window.in[3];
            const float* __restrict dy = grad + i * channels;
            const uint8_t* __restrict which = chosen + i * channels;
#pragma omp simd simdlen(16)
            for (int64_t c = 0; c < channels; ++c) {
                const int32_t place = which[c];
                const float x0 = in0[c], x1 = in1[c], x2 = in2[c], x3 = in3[c], reached = dy[c];
                const float upper = place == 0 ? x0 : x1, lower = place == 2 ? x2 : x3;
                const float d = place == NO_GRADIENT ? 0.0f : reached;
                plain[c] += d;
                times[c] += d * ((place < 2 ? upper : lower) - of.mean[c]);
            }
        }
    });
}

// dx = scale (d - mean of d - normalised x * mean of (d * normalised x)) = d * scale + x * by_x + constant
void gradient(const float* x, const float* grad, Statistics of, const float* by_x, const float* constant, int64_t rows,
              int64_t channels, int threads, float* dx) {
    in_blocks(rows, BLOCK, threads, [=](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
            const float* __restrict in = x + i * channels;
            const float* __restrict dy = grad + i * channels;
            float* __restrict out = dx + i * channels;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) {
                const float a = in[c] * of.scale[c] + of.shift[c], reached = dy[c];
                const float d = a <= 0 ? 0.0f : reached;
                out[c] = d * of.scale[c] + (in[c] * by_x[c] + constant[c]);
            }
        }
    });
}

// Likewise, from the gradient of the pooled values.
void pooled_gradient(const float* x, const float* grad, const uint8_t* chosen, Statistics of, const float* by_x,
                     const float* constant, int64_t rows, int64_t channels, int64_t width, int threads, float* dx) {
    in_blocks(rows / 4, BLOCK, threads, [=](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
            const Window window(x, i, width, channels);
            const float* __restrict dy = grad + i * channels;
            const uint8_t* __restrict which = chosen + i * channels;
            for (int32_t k = 0; k < 4; ++k) {
                const float* __restrict in = window.in[k];
                float* __restrict out = dx + window.at[k];
#pragma omp simd simdlen(16)
                for (int64_t c = 0; c < channels; ++c) {
                    const float reached = dy[c];
                    const float d = which[c] == k ? reached : 0.0f;
                    out[c] = d * of.scale[c] + (in[c] * by_x[c] + constant[c]);
                }
            }
        }
    });
}

}  // namespace

extern "C" {

// y = relu(norm(x)), pooled where width is not 0; statistics (4, channels). The running mean and variance, where they
// are not null, move towards the batch's by the share momentum.
void catchment_norm_relu_forward(const float* x, const float* weight, const float* bias, float eps, float momentum,
                                 int64_t rows, int64_t channels, int64_t width, int threads, float* running_mean,
                                 float* running_variance, float* statistics, float* y, uint8_t* chosen) {
    std::vector<double> mean(channels), around(channels);
    moments(x, rows, channels, threads, mean.data(), around.data());
    const Statistics of(statistics, channels);
    const double number = static_cast<double>(rows);
    for (int64_t c = 0; c < channels; ++c) {
        const double inverse = 1 / std::sqrt(around[c] / number + eps), scale = weight[c] * inverse;
        of.mean[c] = static_cast<float>(mean[c]);
        of.inverse[c] = static_cast<float>(inverse);
        of.scale[c] = static_cast<float>(scale);
        of.shift[c] = static_cast<float>(bias[c] - mean[c] * scale);
        if (running_mean == nullptr) continue;
        running_mean[c] += momentum * (of.mean[c] - running_mean[c]);
        running_variance[c] += momentum * (static_cast<float>(around[c] / (number - 1)) - running_variance[c]);
    }
    if (width == 0) activate(x, of, rows, channels, threads, y);
    else activate_and_pool(x, of, rows, channels, width, threads, y, chosen);
}

// The gradients by weight and bias, and, where dx is not null, by x.
void catchment_norm_relu_backward(const float* x, const float* grad, const uint8_t* chosen, float* statistics,
                                  int64_t rows, int64_t channels, int64_t width, int threads, float* d_weight,
                                  float* d_bias, float* dx) {
    const Statistics of(statistics, channels);
    const int64_t blocks = blocks_of(width == 0 ? rows : rows / 4);
    std::vector<float> plain(blocks * channels), times(blocks * channels);
    if (width == 0) sums(x, grad, of, rows, channels, threads, plain.data(), times.data());
    else pooled_sums(x, grad, chosen, of, rows, channels, width, threads, plain.data(), times.data());
    std::vector<double> sum(channels), sum_times(channels);
    for (int64_t k = 0; k < blocks; ++k)
        for (int64_t c = 0; c < channels; ++c) {
            sum[c] += plain[k * channels + c];
            sum_times[c] += times[k * channels + c];
        }
    std::vector<float> by_x(channels), constant(channels);
    for (int64_t c = 0; c < channels; ++c) {
        const double scale = of.scale[c], inverse = of.inverse[c], number = static_cast<double>(rows);
        const double by = -scale * inverse * inverse * sum_times[c] / number;
        d_weight[c] = static_cast<float>(sum_times[c] * inverse);
        d_bias[c] = static_cast<float>(sum[c]);
        by_x[c] = static_cast<float>(by);
        constant[c] = static_cast<float>(-scale * sum[c] / number - by * of.mean[c]);
    }
    if (dx == nullptr) return;
    if (width == 0) gradient(x, grad, of, by_x.data(), constant.data(), rows, channels, threads, dx);
    else pooled_gradient(x, grad, chosen, of, by_x.data(), constant.data(), rows, channels, width, threads, dx);
}

}  // extern "C"
