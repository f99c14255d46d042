// The loops of quantile_table.py, quantile_exact.py and quantile_running.py, for float32 on a CPU. Each function says
// whose twin it is.
//
// Values are (samples, channels, positions); work is divided among threads by blocks of channels.

#include <cmath>

#include "native.h"

namespace {

constexpr int LEADING_BITS = 4, FRACTION_BITS = 23 - LEADING_BITS;
constexpr int SMALLEST = -24, LARGEST = 20;
constexpr int BASE = (127 + SMALLEST) << LEADING_BITS;
constexpr int MAGNITUDES = ((LARGEST - SMALLEST) << LEADING_BITS) + 2;
constexpr int ZERO = MAGNITUDES, MISSING = 2 * MAGNITUDES + 1, COARSE = 2 * MAGNITUDES + 2;
constexpr int STORED = 2 * MAGNITUDES + 1;
constexpr int FINE = COARSE + 2 * 2048;
constexpr float MASS_OF_A_CELL = 1.0f / 2048;
constexpr int SIDE_NODES = 256, NODES = 2 * SIDE_NODES + 1;

int coarse_of(int32_t bits) {
    const int32_t magnitude = bits & 0x7fffffff;
    int cell = (magnitude >> FRACTION_BITS) - BASE + 1;
    cell = cell < 0 ? 0 : (cell > MAGNITUDES - 1 ? MAGNITUDES - 1 : cell);
    const int side = bits < 0 ? 0 : ZERO + 1;
    cell += side;
    cell = magnitude == 0 ? ZERO : cell;
    return magnitude > 0x7f800000 ? MISSING : cell;
}

// Calls visit(channel)(offset) for all values. With channels last, 16 channels, a cache line, are visited together.
template <class Visit>
void each_value(int64_t samples, int64_t channels, int64_t positions, bool last, int threads, Visit visit) {
    if (last) {
        in_blocks(channels, 16, threads, [&](int64_t from, int64_t to) {
            for (int64_t i = 0; i < samples * positions; ++i)
                for (int64_t c = from; c < to; ++c) visit(c)(i * channels + c);
        });
    } else {
        in_blocks(channels, 1, threads, [&](int64_t c, int64_t) {
            const auto in_channel = visit(c);
            for (int64_t n = 0; n < samples; ++n) {
                const int64_t start = (n * channels + c) * positions;
                for (int64_t i = start; i < start + positions; ++i) in_channel(i);
            }
        });
    }
}

struct Cells {
    int32_t start[COARSE];
    int32_t bits[COARSE];
    int64_t negative = 0, positive = 0;

    // twin of _fine_bits
    Cells(const int32_t* coarse, float p) {
        for (int k = 0; k < ZERO; ++k) negative += coarse[k];
        for (int k = ZERO; k < MISSING; ++k) positive += coarse[k];
        const float lower = p / static_cast<float>(negative + 1), upper = (1 - p) / static_cast<float>(positive + 1);
        int32_t next = 0;
        for (int k = 0; k < COARSE; ++k) {
            const bool whole = k == 0 || k == MAGNITUDES - 1 || k == ZERO || k == ZERO + 1 || k >= MISSING - 1;
            const float cells = static_cast<float>(coarse[k]) * (k < ZERO ? lower : upper) / MASS_OF_A_CELL;
            const int32_t b = bits_of(cells);
            bits[k] = whole || cells <= 1 ? 0 : (b >> 23) - 127 + ((b & 0x7fffff) != 0);
            start[k] = next;
            next += 1 << bits[k];
        }
    }
};

// u in units of the bandwidth -> 0 .. 2 * SIDE_NODES; twin of _node_position
float node_position(float u) {
    const float magnitude = std::min(std::fabs(u), 65536.0f);
    const float far = static_cast<float>(bits_of(magnitude) - (127 << 23)) * (16.0f / (1 << 23));
    const float position = magnitude < 2.0f ? magnitude * 8.0f : far;
    return SIDE_NODES + (u < 0 ? -position : position);
}

struct Kernel {
    const float* share;  // row a, column b
    int from[NODES], to[NODES];

    explicit Kernel(const float* matrix) : share(matrix) {
        for (int a = 0; a < NODES; ++a) {
            from[a] = 0;
            to[a] = NODES;
            while (from[a] < a && share[a * NODES + from[a]] < 1e-9f) ++from[a];
            while (to[a] > a + 1 && share[a * NODES + to[a] - 1] < 1e-9f) --to[a];
        }
    }
};

// 2^t for t <= 0, to 3e-6 relative
inline float exp2_of(float t) {
    t = t < -125.0f ? -125.0f : t;
    const float shifted = t + 12582912.0f;
    const float f = t - (shifted - 12582912.0f);
    float y = 9.570096836e-03f;
    y = y * f + 5.591785992e-02f;
    y = y * f + 2.402474495e-01f;
    y = y * f + 6.931218148e-01f;
    y = y * f + 9.999992614e-01f;
    return float_of(bits_of(y) + (bits_of(shifted) << 23));
}

// Some rows (channels, size) of an array in which row c, column i stands at c * row + i * column; copied all at once, so
// that channels that share a cache line are read from it together.
struct Rows {
    int64_t from, to, size;
    std::vector<float> values;

    Rows(int64_t from, int64_t to, int64_t size) : from(from), to(to), size(size), values((to - from) * size) {}

    float* operator[](int64_t c) { return values.data() + (c - from) * size; }

    void read(const float* array, int64_t row, int64_t column) {
        for (int64_t i = 0; i < size; ++i)
            for (int64_t c = from; c < to; ++c) (*this)[c][i] = array[c * row + i * column];
    }

    void write(float* array, int64_t row, int64_t column) {
        for (int64_t i = 0; i < size; ++i)
            for (int64_t c = from; c < to; ++c) array[c * row + i * column] = (*this)[c][i];
    }
};

struct Sides {
    int32_t negative = 0, positive = 0;

    Sides(const float* v, int64_t size) {
        for (int64_t j = 0; j < size; ++j) {
            negative += v[j] < 0;
            positive += v[j] >= 0;
        }
    }
};

// How many others are equal to each of the values of a channel, summed by coarse cell: added to pairs, from their ranks.
void add_pairs(const float* values, const float* cdf, int64_t number, const int32_t* count, float p, int64_t* pairs) {
    int32_t below[COARSE];
    int32_t negative = 0, positive = 0;
    for (int k = 0; k < MISSING; ++k) {
        int32_t& side = k < ZERO ? negative : positive;
        below[k] = side;
        side += count[k];
    }
    for (int64_t i = 0; i < number; ++i) {
        const int k = coarse_of(bits_of(values[i]));
        if (k == MISSING) continue;
        const float rank = k < ZERO ? (1 - cdf[i] / p) * static_cast<float>(negative + 1)
                                    : (cdf[i] - p) / (1 - p) * static_cast<float>(positive + 1);
        pairs[k] += 2 * (std::lrint(rank) - below[k]) - count[k] - 1;
    }
}

struct Ties {
    float least_share, least, equal_pairs;
};

// Lets the counts of a channel have the share `factor` of its running statistics. Most channels hold no cell that can
// be tied and none that was: pairs_of_channel() is asked for only where one can be.
template <class Pairs>
void learn_channel(const int32_t* count, Pairs pairs_of_channel, float factor, Ties limits, float* __restrict mass,
                   float* __restrict tied, float* __restrict rank) {
    for (int k = 0; k < STORED; ++k) mass[k] += factor * (static_cast<float>(count[k]) - mass[k]);
    int64_t number[2] = {};
    for (int k = 0; k < ZERO; ++k) number[0] += count[k];
    for (int k = ZERO; k < STORED; ++k) number[1] += count[k];
    const float enough =
        std::max(limits.least, limits.least_share * static_cast<float>(number[0] + number[1]));
    int32_t most = 0, were_tied = 0;
    for (int k = 0; k < STORED; ++k) most = std::max(most, count[k]);
    for (int k = 0; k < STORED; ++k) were_tied |= tied[k] != 0;
    const bool can_be = static_cast<float>(most) >= enough;
    if (!can_be && !were_tied) return;
    const int64_t* pairs = can_be ? pairs_of_channel() : nullptr;
    int64_t up_to = 0;
    for (int k = 0; k < STORED; ++k) {
        if (k == ZERO) up_to = 0;
        up_to += count[k];
        const int m = k < ZERO ? k : k - ZERO - 1;
        const float here = static_cast<float>(count[k]);
        const bool is_tied = m > 0 && m < MAGNITUDES - 1 && here >= enough &&
                             static_cast<float>(pairs[k]) >= limits.equal_pairs * here * (here - 1);
        if (!is_tied && tied[k] == 0) continue;
        const float share = static_cast<float>(up_to) / static_cast<float>(number[k >= ZERO] + 1);
        const float new_tied = is_tied ? here : 0;
        tied[k] += factor * (new_tied - tied[k]);
        rank[k] += factor * (new_tied * share - rank[k]);
    }
}

}  // namespace

extern "C" {

// twin of count(coarse_key(x)): counts (channels, COARSE), zeroed
void catchment_count(const float* x, int64_t samples, int64_t channels, int64_t positions, int last, int threads,
                     int32_t* counts) {
    each_value(samples, channels, positions, last, threads, [=](int64_t c) {
        int32_t* __restrict count = counts + c * COARSE;
        return [=](int64_t i) { ++count[coarse_of(bits_of(x[i]))]; };
    });
}

// twin of _fine_key and count: key like x, counts (channels, FINE), zeroed
void catchment_refine(const float* x, const int32_t* coarse, float p, int64_t samples, int64_t channels,
                      int64_t positions, int last, int threads, int16_t* key, int32_t* counts) {
    std::vector<int32_t> packed(channels * COARSE);
    for (int64_t c = 0; c < channels; ++c) {
        const Cells cells(coarse + c * COARSE, p);
        for (int k = 0; k < COARSE; ++k)
            packed[c * COARSE + k] = cells.start[k] << 8 | (FRACTION_BITS - cells.bits[k]);
    }
    each_value(samples, channels, positions, last, threads, [=, cells = packed.data()](int64_t c) {
        const int32_t* __restrict cell = cells + c * COARSE;
        int32_t* __restrict count = counts + c * FINE;
        int16_t* __restrict out = key;
        return [=](int64_t i) {
            const int32_t bits = bits_of(x[i]);
            const uint32_t start_and_shift = cell[coarse_of(bits)];
            const uint32_t within = bits & ((1 << FRACTION_BITS) - 1);
            const uint32_t fine = (start_and_shift >> 8) + (within >> (start_and_shift & 31));
            out[i] = static_cast<int16_t>(fine);
            ++count[fine];
        };
    });
}

// twin of _cdf and _density: cdf and density (channels, FINE); matrix is the kernel (NODES, NODES)
void catchment_tables(const int32_t* coarse, const int32_t* fine, const float* bandwidth, const float* matrix, float p,
                      int64_t channels, int threads, float* cdf, float* density) {
    const Kernel kernel(matrix);
    in_blocks(channels, 1, threads, [&](int64_t c, int64_t) {
        const Cells cells(coarse + c * COARSE, p);
        const int32_t* count = fine + c * FINE;
        float* F = cdf + c * FINE;
        float* f = density + c * FINE;
        static thread_local float centre[FINE];
        const int end = cells.start[MISSING];
        const float lower = p / static_cast<float>(cells.negative + 1);
        const float upper = (1 - p) / static_cast<float>(cells.positive + 1);
        int64_t up_to = 0;
        double sum = 0, sum_of_squares = 0;
        for (int k = 0; k < MISSING; ++k) {
            const bool negative = k < ZERO;
            if (k == ZERO) up_to = 0;
            const int m = negative ? k : k - ZERO - 1;
            const int shift = FRACTION_BITS - cells.bits[k];
            const int32_t base = (m - 1 + BASE) << FRACTION_BITS;
            for (int part = 0; part < 1 << cells.bits[k]; ++part) {
                const int j = cells.start[k] + part;
                const int32_t halfway = base + (part << shift) + (1 << (shift - 1));
                float middle = float_of(halfway);
                if (k == ZERO) middle = 0;
                else if (m == 0) middle = std::ldexp(0.5f, SMALLEST);
                else if (m == MAGNITUDES - 1) middle = std::ldexp(1.0f, LARGEST);
                middle = negative ? -middle : middle;
                centre[j] = middle;
                up_to += count[j];
                F[j] = negative ? p * (1 - static_cast<float>(up_to) / static_cast<float>(cells.negative + 1))
                                : p + (1 - p) * (static_cast<float>(up_to) / static_cast<float>(cells.positive + 1));
                sum += static_cast<double>(count[j]) * middle;
                sum_of_squares += static_cast<double>(count[j]) * middle * middle;
            }
        }
        for (int j = end; j < FINE; ++j) F[j] = f[j] = NAN;
        const double number = std::max<double>(1.0, static_cast<double>(cells.negative + cells.positive));
        const double mean = sum / number, variance = sum_of_squares / number - mean * mean;
        const float origin = mean * mean > 4 * variance ? static_cast<float>(mean) : 0.0f;
        float mass[NODES] = {}, at_nodes[NODES] = {};
        const float scale = 1 / bandwidth[c];
        const int first_positive = cells.start[ZERO];
        for (int j = 0; j < end; ++j) {
            const float position = node_position((centre[j] - origin) * scale);
            const int node = std::min(static_cast<int>(position), NODES - 2);
            const float weight = (j < first_positive ? lower : upper) * static_cast<float>(count[j]);
            const float above = weight * (position - node);
            centre[j] = position;
            mass[node] += weight - above;
            mass[node + 1] += above;
        }
        for (int a = 0; a < NODES; ++a) {
            const float weight = mass[a] * scale;
            if (weight == 0) continue;
            const float* row = kernel.share + a * NODES;
            for (int b = kernel.from[a]; b < kernel.to[a]; ++b) at_nodes[b] += weight * row[b];
        }
        for (int j = 0; j < end; ++j) {
            const int node = std::min(static_cast<int>(centre[j]), NODES - 2);
            f[j] = at_nodes[node] + (centre[j] - node) * (at_nodes[node + 1] - at_nodes[node]);
        }
    });
}

// twin of pairs_of_counts: pairs (channels, COARSE)
void catchment_pairs_of_counts(const int32_t* coarse, const int32_t* fine, float p, int64_t channels, int threads,
                               int64_t* pairs) {
    in_blocks(channels, 1, threads, [=](int64_t c, int64_t) {
        const Cells cells(coarse + c * COARSE, p);
        const int32_t* count = fine + c * FINE;
        for (int k = 0; k < COARSE; ++k) {
            const int end = k == MISSING ? FINE : cells.start[k + 1];
            int64_t sum = 0;
            for (int j = cells.start[k]; j < end; ++j) sum += static_cast<int64_t>(count[j]) * (count[j] - 1);
            pairs[c * COARSE + k] = sum;
        }
    });
}

// twin of pairs_of_ranks, without the sum over processes: rows and cdf (channels, number), pairs (channels, COARSE),
// zeroed
void catchment_pairs_of_ranks(const float* rows, const float* cdf, const int32_t* coarse, float p, int64_t channels,
                              int64_t number, int threads, int64_t* pairs) {
    in_blocks(channels, 1, threads, [=](int64_t c, int64_t) {
        add_pairs(rows + c * number, cdf + c * number, number, coarse + c * COARSE, p, pairs + c * COARSE);
    });
}

// twin of learn: mass (channels, STORED) and ties (2, channels, STORED), of which a share *factor is replaced
void catchment_learn(const int32_t* coarse, const int64_t* pairs, const float* factor, float least_share, float least,
                     float equal_pairs, int64_t channels, int threads, float* mass, float* ties) {
    in_blocks(channels, 1, threads, [=](int64_t c, int64_t) {
        const Ties limits{least_share, least, equal_pairs};
        float* tied = ties + c * STORED;
        learn_channel(coarse + c * COARSE, [=] { return pairs + c * COARSE; }, *factor, limits, mass + c * STORED, tied,
                      tied + channels * STORED);
    });
}

// twin of learn_rows: values and cdf (channels, number), in which row c, column i stands at c * row + i * column
void catchment_learn_rows(const float* values, const float* cdf, const float* factor, float p, float least_share,
                          float least, float equal_pairs, int64_t channels, int64_t number, int64_t row,
                          int64_t column, int64_t cdf_row, int64_t cdf_column, int threads, float* mass, float* ties) {
    in_blocks(channels, 16, threads, [=](int64_t from, int64_t to) {
        const Ties limits{least_share, least, equal_pairs};
        Rows points(from, to, number), ranks(from, to, number);
        points.read(values, row, column);
        ranks.read(cdf, cdf_row, cdf_column);
        std::vector<int64_t> pairs(COARSE);
        for (int64_t c = from; c < to; ++c) {
            int32_t count[COARSE] = {};
            for (int64_t i = 0; i < number; ++i) ++count[coarse_of(bits_of(points[c][i]))];
            auto pairs_of_channel = [&] {
                std::fill(pairs.begin(), pairs.end(), 0);
                add_pairs(points[c], ranks[c], number, count, p, pairs.data());
                return pairs.data();
            };
            float* tied = ties + c * STORED;
            learn_channel(count, pairs_of_channel, *factor, limits, mass + c * STORED, tied,
                          tied + channels * STORED);
        }
    });
}

// twin of stored_tables: mass (channels, STORED), ties (2, channels, STORED), both tables (channels, 2 * MAGNITUDES)
void catchment_stored_tables(const float* mass, const float* ties, float p, float least_share, int64_t channels,
                             int threads, float* at_inner, float* at_outer) {
    in_blocks(channels, 1, threads, [=](int64_t c, int64_t) {
        const float* count = mass + c * STORED;
        double negative = 0, positive = 0;
        for (int k = 0; k < STORED; ++k) (k < ZERO ? negative : positive) += count[k];
        const float enough = least_share * static_cast<float>(negative + positive);
        for (int side = 0; side < 2; ++side) {
            const int first = side ? ZERO + 1 : 0;
            const double number = (side ? positive : negative) + 1;
            double up_to = side ? count[ZERO] : 0;
            float highest = 0;
            for (int m = 0; m < MAGNITUDES; ++m) {
                const float tied = ties[c * STORED + first + m], rank = ties[(channels + c) * STORED + first + m];
                float inner = static_cast<float>(up_to / number);
                up_to += count[first + m];
                float outer = static_cast<float>(up_to / number);
                if (tied > 0 && tied >= enough) {
                    const float share = tied / count[first + m], level = rank / tied;
                    inner += share * (std::max(level, inner) - inner);
                    outer += share * (std::max(level, outer) - outer);
                }
                inner = std::max(inner, highest);
                highest = std::max(outer, highest);
                const int64_t at = (2 * c + side) * MAGNITUDES + m;
                at_inner[at] = side ? p + (1 - p) * inner : p * (1 - inner);
                at_outer[at] = side ? p + (1 - p) * highest : p * (1 - highest);
            }
        }
    });
}

// twin of read_stored: both tables (channels, 2 * MAGNITUDES)
void catchment_read_stored(const float* x, const float* at_inner, const float* at_outer, int64_t samples,
                           int64_t channels, int64_t positions, int last, int threads, float* out) {
    each_value(samples, channels, positions, last, threads, [=](int64_t c) {
        const float* __restrict inner = at_inner + 2 * c * MAGNITUDES;
        const float* __restrict outer = at_outer + 2 * c * MAGNITUDES;
        float* __restrict to = out;
        return [=](int64_t i) {
            const float magnitude = std::fabs(x[i]);
            const int32_t bits = bits_of(magnitude);
            int cell = (bits >> FRACTION_BITS) - BASE + 1;
            cell = cell < 0 ? 0 : (cell > MAGNITUDES - 1 ? MAGNITUDES - 1 : cell);
            float part = static_cast<float>(bits & ((1 << FRACTION_BITS) - 1)) * (1.0f / (1 << FRACTION_BITS));
            part = cell == 0 ? magnitude * (1 << -SMALLEST) : part;
            part = cell == MAGNITUDES - 1 ? 1 - (1 << LARGEST) / magnitude : part;
            cell += x[i] < 0 ? 0 : MAGNITUDES;
            const float value = inner[cell] + part * (outer[cell] - inner[cell]);
            to[i] = magnitude != magnitude ? magnitude : value;
        };
    });
}

// twin of look_up, times grad where that is given
void catchment_look_up(const float* table, const int16_t* key, const float* grad, int64_t samples, int64_t channels,
                       int64_t positions, int last, int threads, float* out) {
    each_value(samples, channels, positions, last, threads, [=](int64_t c) {
        const float* __restrict entry = table + c * FINE;
        float* __restrict to = out;
        return [=](int64_t i) { to[i] = grad ? entry[key[i]] * grad[i] : entry[key[i]]; };
    });
}

// twin of rank_rows: values and out (channels, number), context (channels, size), each with its strides
void catchment_rank(const float* values, const float* context, float p, int64_t channels, int64_t number, int64_t size,
                    int64_t row, int64_t column, int64_t context_row, int64_t context_column, int threads, float* out) {
    in_blocks(channels, 16, threads, [=](int64_t from, int64_t to) {
        Rows points(from, to, number), known(from, to, size);
        points.read(values, row, column);
        known.read(context, context_row, context_column);
        for (int64_t c = from; c < to; ++c) {
            float* z = points[c];
            const float* v = known[c];
            const Sides sides(v, size);
            const float lower = static_cast<float>(sides.negative + 1), upper = static_cast<float>(sides.positive + 1);
            for (int64_t i = 0; i < number; ++i) {
                const float at = z[i];
                int32_t count = 0;
                if (at < 0) {
                    for (int64_t j = 0; j < size; ++j) count += v[j] < at;
                    z[i] = p * (1 - static_cast<float>(sides.negative - count) / lower);
                } else if (at >= 0) {
                    for (int64_t j = 0; j < size; ++j) count += v[j] <= at;
                    z[i] = p + (1 - p) * (static_cast<float>(count - sides.negative) / upper);
                }
            }
        }
        points.write(out, row, column);
    });
}

// twin of density_rows by all pairs: as catchment_rank, bandwidth (channels)
void catchment_density(const float* values, const float* context, const float* bandwidth, float p, int64_t channels,
                       int64_t number, int64_t size, int64_t row, int64_t column, int64_t context_row,
                       int64_t context_column, int threads, float* out) {
    in_blocks(channels, 16, threads, [=](int64_t from, int64_t to) {
        Rows points(from, to, number), known(from, to, size);
        points.read(values, row, column);
        known.read(context, context_row, context_column);
        std::vector<float> sum(number);
        for (int64_t c = from; c < to; ++c) {
            float* __restrict z = points[c];
            float* __restrict f = sum.data();
            const float* v = known[c];
            const Sides sides(v, size);
            const float height = 0.39894228f / bandwidth[c];
            const float lower = height * p / static_cast<float>(sides.negative + 1);
            const float upper = height * (1 - p) / static_cast<float>(sides.positive + 1);
            const float scale = 0.84932180f / bandwidth[c];  // sqrt(log2(e) / 2)
            std::fill(f, f + number, 0.0f);
            for (int64_t j = 0; j < size; ++j) {
                if (!std::isfinite(v[j])) continue;
                const float weight = v[j] < 0 ? lower : upper;
                for (int64_t i = 0; i < number; ++i) {
                    const float d = (z[i] - v[j]) * scale;
                    f[i] += weight * exp2_of(-d * d);
                }
            }
            for (int64_t i = 0; i < number; ++i) z[i] = std::isnan(z[i]) ? z[i] : (std::isinf(z[i]) ? 0.0f : f[i]);
        }
        points.write(out, row, column);
    });
}

}  // extern "C"
