// The loops of losses_cpu.py, for float32 and float64: forward reads the logits once from memory and keeps a few
// numbers of each row, backward reads them again and writes the gradient.
//
// A row's rivals are its classes but the label. With m the largest of them and S = sum e^(z_k - m), at least 1, nothing
// cancels or underflows however far the label leads:
//
//     LSE over the rivals = m + log S,   e^(z_k - LSE) = e^(z_k - m) / S.
//
// What there is one of in a row is computed in double. A label out of range gives NaN.

#include <cmath>
#include <limits>

#include "native.h"

// What stands in loops that are to become vector instructions.
#define INLINE __attribute__((always_inline)) inline

namespace {

// e^x for x <= 0, to 2e-7 relative; 0 below -87
INLINE float exp_of(float x) {
    const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the nearest integer stands in the last bits
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693145752f) - n * 1.42860682e-6f;
    float q = 1.39262131e-3f;
    q = q * r + 8.36320315e-3f;
    q = q * r + 4.16665561e-2f;
    q = q * r + 1.66665766e-1f;
    q = q * r + 0.5f;
    const float power = float_of(static_cast<int32_t>((static_cast<uint32_t>(bits_of(shifted)) + 127u) << 23));
    return x < -87.0f ? 0.0f : (q * (r * r) + r + 1.0f) * power;
}

// log x for normal x, as 2 atanh((f - 1) / (f + 1)) with f from sqrt(1/2) to sqrt(2), to 2e-7 relative
INLINE float log_of(float x) {
    const int32_t k = (bits_of(x) - 0x3f3504f3) >> 23;
    const float f = float_of(bits_of(x) - k * (1 << 23)) - 1.0f;
    const float s = f / (f + 2.0f), s2 = s * s;
    float series = 2.0f / 9;
    series = series * s2 + 2.0f / 7;
    series = series * s2 + 2.0f / 5;
    series = series * s2 + 2.0f / 3;
    return static_cast<float>(k) * 0.693147181f + (series * (s * s2) + 2.0f * s);
}

INLINE double exp_of(double x) { return std::exp(x); }
INLINE double log_of(double x) { return std::log(x); }

// 1 - p, kept above 0
INLINE float but(float, float p) { return std::max(1.0f - p, std::numeric_limits<float>::epsilon()); }
INLINE double but(double log_p, double) { return std::max(-std::expm1(log_p), std::numeric_limits<double>::min()); }

double logaddexp(double a, double b) {
    return a == b ? a + std::log(2.0) : std::max(a, b) + std::log1p(std::exp(-std::fabs(a - b)));
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

constexpr int64_t VECTOR = 16, CHUNK = 1024;

// The sum of term(j) over 0 .. size - 1, in parts that keep its digits.
template <class T, class Term>
double sum(int64_t size, Term term) {
    double total = 0;
    for (int64_t from = 0; from < size; from += CHUNK) {
        const int64_t to = std::min(size, from + CHUNK);
        T part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t j = from; j < to; ++j) part += term(j);
        total += part;
    }
    return total;
}

// Each thread's room to work in.
template <class T>
T* room(int64_t size) {
    static thread_local std::vector<T> kept;
    if (static_cast<int64_t>(kept.size()) < size) kept.resize(size);
    return kept.data();
}

// A row's rivals. Label and padding, up to whole vectors, are at -inf, like classes that are absent.
template <class T>
struct Rivals {
    static constexpr T ABSENT = -std::numeric_limits<T>::infinity();
    int64_t size;
    T *shifted, *mass;  // z - m, e^(z - m)

    Rivals(const T* z, int64_t label, int64_t classes) : size((classes + VECTOR - 1) / VECTOR * VECTOR) {
        shifted = room<T>(2 * size);
        mass = shifted + size;
        std::copy(z, z + classes, shifted);
        std::fill(shifted + classes, shifted + size, ABSENT);
        shifted[label] = ABSENT;
    }

    // m, or 0 where there is no rival
    T largest() const {
        T m = ABSENT;
#pragma omp simd reduction(max : m)
        for (int64_t j = 0; j < size; ++j) m = shifted[j] > m ? shifted[j] : m;
        return m == ABSENT ? 0 : m;
    }

    // S, or 0 where there is no rival
    double shift(T m) {
        T *__restrict x = shifted, *__restrict e = mass;
        return sum<T>(size, [=](int64_t j) {
            x[j] -= m;
            return e[j] = exp_of(x[j]);
        });
    }
};

// e^(z - m) times a factor; what it writes at the label is not used
template <class T>
void spread(const T* __restrict z, int64_t classes, T m, T factor, T* __restrict grad) {
#pragma omp simd
    for (int64_t j = 0; j < classes; ++j) grad[j] = exp_of(z[j] - m) * factor;
}

template <class T>
struct Matrix {
    T* values;
    int64_t stride;

    T* operator[](int64_t row) const { return values + row * stride; }
};

// Drainage: T1, T2 and the gradient's factors, as terms() of drainage_rows.py.

constexpr int64_t DRAINAGE_NUMBERS = 4;  // kept: m, and the gradient at rivals (by e^(z - m)), label and drainage

template <class T>
void drainage_forward(Matrix<const T> logits, const int64_t* labels, int64_t rows, int64_t columns,
                      const double* alpha_beta, int64_t threads, T* loss, double* kept) {
    const int64_t classes = columns - 1;
    const double log_alpha = std::log(alpha_beta[0]), log_beta = std::log(alpha_beta[1]), huge = 1e300;
    in_blocks(rows, 1, threads, [=](int64_t i, int64_t) {
        const T* z = logits[i];
        double* numbers = kept + i * DRAINAGE_NUMBERS;
        const int64_t label = labels[i];
        if (label < 0 || label >= classes) {
            loss[i] = NAN;
            std::fill(numbers, numbers + DRAINAGE_NUMBERS, NAN);
            return;
        }
        Rivals<T> rivals(z, label, classes);
        const T m = rivals.largest();
        const double total = rivals.shift(m), rest = std::log(total);
        const double z_t = z[label], z_d = z[classes], to_drainage = (m - z_d) + rest;
        // less: the smaller of drainage's mass and the rivals', as a part of the larger
        const bool alone = total == 0, behind = to_drainage > 0;
        const double less = alone ? 0 : std::exp(-std::fabs(to_drainage));
        const double of_drainage = (behind ? less : 1) / (1 + less), of_rivals = (behind ? 1 : less) / (1 + less);
        double t1 = log_alpha + (behind ? (m - z_t) + rest : z_d - z_t) + std::log1p(less);
        if (z_t == -INFINITY) t1 = INFINITY;
        const double t2 = alone || alpha_beta[1] == 0 ? -INFINITY : log_beta + to_drainage;
        // A term at +inf takes all of the weight.
        const double c1 = t1 > huge ? huge : t1, c2 = t2 > huge ? huge : t2, top = std::max(std::max(0.0, c1), c2);
        const double e1 = std::exp(c1 - top), e2 = std::exp(c2 - top);
        const double whole = (top == 0 ? 1 : std::exp(-top)) + e1 + e2, w1 = e1 / whole, w2 = e2 / whole;
        loss[i] = static_cast<T>(top == 0 ? std::log1p(e1 + e2) : std::max(std::max(t1, t2), 0.0) + std::log(whole));
        numbers[0] = m;
        numbers[1] = alone ? 0 : (w1 * of_rivals + w2) / total;
        numbers[2] = -w1;
        numbers[3] = w1 * of_drainage - w2;
    });
}

template <class T>
void drainage_backward(Matrix<const T> logits, const int64_t* labels, int64_t rows, int64_t columns,
                       const double* kept, const T* upstream, int64_t threads, T* grad) {
    in_blocks(rows, 1, threads, [=](int64_t i, int64_t) {
        const double* numbers = kept + i * DRAINAGE_NUMBERS;
        T* to = grad + i * columns;
        spread(logits[i], columns, static_cast<T>(numbers[0]), static_cast<T>(numbers[1] * upstream[i]), to);
        if (labels[i] >= 0 && labels[i] < columns) to[labels[i]] = static_cast<T>(numbers[2] * upstream[i]);
        to[columns - 1] = static_cast<T>(numbers[3] * upstream[i]);
    });
}

// The functions h of one class's probability in class_terms.py, with their slopes dh/dlog p.

template <class T>
struct Value {
    T h, slope;
};

// IS_ROOT: gamma is 1/2. through: gamma, or 0 where no gradient goes through the factor.
template <class T, bool IS_ROOT>
INLINE Value<T> focal(T gamma, T through, T log_p, T p) {
    const T not_p = but(log_p, p), factor = IS_ROOT ? std::sqrt(not_p) : exp_of(gamma * log_of(not_p));
    return {factor * log_p, factor * (1 - through * p * log_p / not_p)};
}

enum Kind { COUNT, LOG, SQUARE, P_LOG_P, SHORTFALL, LOG_ABOVE, FOCAL, FOCAL_ABOVE };

struct Terms {
    static constexpr int64_t PARAMETERS = 4;
    int64_t number;
    const int64_t* kinds;
    const double* parameters;

    // Calls visit(h) with the term as a function of (log p, p).
    template <class T, class Visit>
    void visit(int64_t term, Visit visit) const {
        const double* q = parameters + term * PARAMETERS;
        const T a = static_cast<T>(q[0]), b = static_cast<T>(q[2]), c = static_cast<T>(q[3]);
        const T through = q[1] != 0 ? 0 : a;
        switch (kinds[term]) {
            case COUNT: return visit([](T, T) { return Value<T>{1, 0}; });
            case LOG: return visit([](T log_p, T) { return Value<T>{log_p, 1}; });
            case SQUARE: return visit([](T, T p) { return Value<T>{p * p, 2 * p * p}; });
            case P_LOG_P: return visit([](T log_p, T p) { return Value<T>{p * log_p, p * log_p + p}; });
            case SHORTFALL:
                return visit([=](T, T p) { return Value<T>{p < a ? a - p : 0, p < a ? -p : 0}; });
            case LOG_ABOVE:
                return visit([=](T log_p, T) {
                    return Value<T>{log_p > a ? log_p - a : 0, log_p > a ? T(1) : T(0)};
                });
            case FOCAL:
                if (a == T(0.5))
                    return visit([=](T log_p, T p) { return focal<T, true>(a, through, log_p, p); });
                return visit([=](T log_p, T p) { return focal<T, false>(a, through, log_p, p); });
            case FOCAL_ABOVE: {
                const auto above = [=](Value<T> v, T log_p) {
                    return Value<T>{log_p > b ? v.h - c : 0, log_p > b ? v.slope : 0};
                };
                if (a == T(0.5))
                    return visit([=](T log_p, T p) { return above(focal<T, true>(a, through, log_p, p), log_p); });
                return visit([=](T log_p, T p) { return above(focal<T, false>(a, through, log_p, p), log_p); });
            }
        }
    }
};

// The log odds r against the label, and sums of h over the rivals.

template <class T>
struct OfRow {
    double log_odds;
    T log_scale = 0, scale = 0;  // log p = (z - m) + log_scale, p = e^(z - m) scale

    OfRow(T m, double total, T z_label) : log_odds((m - static_cast<double>(z_label)) + std::log(total)) {
        if (total == 0) return;
        const double log_others = -logaddexp(0, -log_odds);  // log(1 - p_y)
        log_scale = static_cast<T>(log_others - std::log(total));
        scale = static_cast<T>(std::exp(log_others) / total);
    }
};

// kept of each row: m, S, and the sum of each term's slopes
template <class T>
void sums_forward(Matrix<const T> logits, const int64_t* labels, int64_t rows, int64_t classes, Terms terms,
                  int64_t threads, T* const* numbers, double* kept) {
    in_blocks(rows, 1, threads, [=](int64_t i, int64_t) {
        const T* z = logits[i];
        double* of_row = kept + i * (2 + terms.number);
        const int64_t label = labels[i];
        if (label < 0 || label >= classes) {
            for (int64_t t = 0; t <= terms.number; ++t) numbers[t][i] = NAN;
            std::fill(of_row, of_row + 2 + terms.number, NAN);
            return;
        }
        Rivals<T> rivals(z, label, classes);
        const T m = rivals.largest();
        const double total = rivals.shift(m);
        const OfRow<T> row(m, total, z[label]);
        numbers[0][i] = static_cast<T>(row.log_odds);
        of_row[0] = m;
        of_row[1] = total;
        for (int64_t t = 0; t < terms.number; ++t) {
            double value = 0, slopes = 0;
            terms.visit<T>(t, [&](auto h) {
                const T *__restrict x = rivals.shifted, *__restrict e = rivals.mass;
                const T log_scale = row.log_scale, scale = row.scale, lowest = std::numeric_limits<T>::lowest();
                for (int64_t from = 0; from < rivals.size; from += CHUNK) {
                    const int64_t to = std::min(rivals.size, from + CHUNK);
                    T part = 0, slope_part = 0;
#pragma omp simd reduction(+ : part, slope_part)
                    for (int64_t j = from; j < to; ++j) {
                        const T present = x[j] == Rivals<T>::ABSENT ? 0 : 1;
                        const Value<T> v = h(std::max(x[j] + log_scale, lowest), e[j] * scale);
                        part += present * v.h;
                        slope_part += present * v.slope;
                    }
                    value += part;
                    slopes += slope_part;
                }
            });
            numbers[1 + t][i] = std::isnan(row.log_odds) ? NAN : static_cast<T>(value);
            of_row[2 + t] = slopes;
        }
    });
}

template <class T>
void sums_backward(Matrix<const T> logits, const int64_t* labels, int64_t rows, int64_t classes, Terms terms,
                   const double* kept, const T* const* upstream, int64_t threads, T* grad) {
    in_blocks(rows, 1, threads, [=](int64_t i, int64_t) {
        const T* z = logits[i];
        const double* of_row = kept + i * (2 + terms.number);
        const int64_t label = labels[i];
        T* __restrict to = grad + i * classes;
        if (label < 0 || label >= classes) {
            std::fill(to, to + classes, NAN);
            return;
        }
        const T m = static_cast<T>(of_row[0]);
        const double total = of_row[1], of_log_odds = total == 0 ? 0 : upstream[0][i] / total;
        if (terms.number == 0) {
            spread(z, classes, m, static_cast<T>(of_log_odds), to);
            to[label] = -upstream[0][i];
            return;
        }
        const OfRow<T> row(m, total, z[label]);
        double pull = 0;
        for (int64_t t = 0; t < terms.number; ++t) pull += of_row[2 + t] * upstream[1 + t][i];
        const T factor = total == 0 ? 0 : static_cast<T>(of_log_odds - pull * row.scale);
        T* __restrict e = room<T>(classes);
#pragma omp simd
        for (int64_t j = 0; j < classes; ++j) {
            e[j] = exp_of(z[j] - m);
            to[j] = e[j] * factor;
        }
        for (int64_t t = 0; t < terms.number; ++t) {
            const T weight = upstream[1 + t][i];
            terms.visit<T>(t, [&](auto h) {
                const T log_scale = row.log_scale, scale = row.scale, lowest = std::numeric_limits<T>::lowest();
#pragma omp simd
                for (int64_t j = 0; j < classes; ++j) {
                    const T present = z[j] == Rivals<T>::ABSENT ? 0 : 1;
                    const Value<T> v = h(std::max((z[j] - m) + log_scale, lowest), e[j] * scale);
                    to[j] += weight * present * v.slope;
                }
            });
        }
        to[label] = static_cast<T>(-(upstream[0][i] + sigmoid(-row.log_odds) * pull));
    });
}

// The first of the largest; 0 where all are NaN.
template <class T>
void argmax(Matrix<const T> logits, int64_t rows, int64_t classes, int64_t threads, int64_t* top) {
    in_blocks(rows, 1, threads, [=](int64_t i, int64_t) {
        const T* z = logits[i];
        T m = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : m)
        for (int64_t j = 0; j < classes; ++j) m = z[j] > m ? z[j] : m;
        const int64_t found = std::find(z, z + classes, m) - z;
        top[i] = found < classes ? found : 0;
    });
}

}  // namespace

#define CATCHMENT_LOSSES(T)                                                                                           \
    void catchment_drainage_forward_##T(const T* logits, int64_t stride, const int64_t* labels, int64_t rows,          \
                                        int64_t columns, const double* alpha_beta, int64_t threads, T* loss,           \
                                        double* kept) {                                                                \
        drainage_forward<T>({logits, stride}, labels, rows, columns, alpha_beta, threads, loss, kept);                 \
    }                                                                                                                  \
    void catchment_drainage_backward_##T(const T* logits, int64_t stride, const int64_t* labels, int64_t rows,         \
                                         int64_t columns, const double* kept, const T* upstream, int64_t threads,      \
                                         T* grad) {                                                                    \
        drainage_backward<T>({logits, stride}, labels, rows, columns, kept, upstream, threads, grad);                  \
    }                                                                                                                  \
    void catchment_sums_forward_##T(const T* logits, int64_t stride, const int64_t* labels, int64_t rows,              \
                                    int64_t classes, int64_t terms, const int64_t* kinds, const double* parameters,    \
                                    int64_t threads, T* const* numbers, double* kept) {                                \
        sums_forward<T>({logits, stride}, labels, rows, classes, {terms, kinds, parameters}, threads, numbers, kept);  \
    }                                                                                                                  \
    void catchment_sums_backward_##T(const T* logits, int64_t stride, const int64_t* labels, int64_t rows,             \
                                     int64_t classes, int64_t terms, const int64_t* kinds, const double* parameters,   \
                                     const double* kept, const T* const* upstream, int64_t threads, T* grad) {         \
        sums_backward<T>({logits, stride}, labels, rows, classes, {terms, kinds, parameters}, kept, upstream, threads, \
                         grad);                                                                                        \
    }                                                                                                                  \
    void catchment_argmax_##T(const T* logits, int64_t stride, int64_t rows, int64_t classes, int64_t threads,         \
                              int64_t* top) {                                                                          \
        argmax<T>({logits, stride}, rows, classes, threads, top);                                                      \
    }

extern "C" {
CATCHMENT_LOSSES(float)
CATCHMENT_LOSSES(double)
}
