// The formulas of a decoder as they are written in books, in double precision.
#pragma once
#include "bench.h"

// y = x wᵀ + b
inline Doubles matmul(const Floats &x, const Floats &w, int64_t m, int64_t n, int64_t k, const Floats &bias = {}) {
    Doubles y(size_t(m * n));
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            double sum = bias.empty() ? 0 : double(bias[size_t(j)]);
            for (int64_t l = 0; l < k; l++) sum += double(x[size_t(i * k + l)]) * double(w[size_t(j * k + l)]);
            y[size_t(i * n + j)] = sum;
        }
    }
    return y;
}

// softmax(q kᵀ scale, causal) v for one sequence whose queries are its last tokens.
inline Doubles attention(const Floats &q, const Floats &k, const Floats &v, int64_t queries, int64_t keys,
                         int64_t heads, int64_t kvHeads, int64_t size, bool causal) {
    Doubles out(size_t(queries * heads * size));
    for (int64_t t = 0; t < queries; t++) {
        for (int64_t h = 0; h < heads; h++) {
            const int64_t kv = h / (heads / kvHeads), last = causal ? keys - queries + t : keys - 1;
            Doubles score(size_t(last + 1));
            double most = -1e300, sum = 0;
            for (int64_t j = 0; j <= last; j++) {
                double dot = 0;
                for (int64_t d = 0; d < size; d++)
                    dot += double(q[size_t((t * heads + h) * size + d)]) *
                           double(k[size_t((j * kvHeads + kv) * size + d)]);
                score[size_t(j)] = dot / std::sqrt(double(size));
                most = std::max(most, score[size_t(j)]);
            }
            for (double &value : score) sum += value = std::exp(value - most);
            for (int64_t j = 0; j <= last; j++) {
                for (int64_t d = 0; d < size; d++)
                    out[size_t((t * heads + h) * size + d)] += score[size_t(j)] / sum *
                                                               double(v[size_t((j * kvHeads + kv) * size + d)]);
            }
        }
    }
    return out;
}

inline Floats triangle(int64_t side, float masked) {
    Floats mask(size_t(side * side), 0.0f);
    for (int64_t r = 0; r < side; r++) {
        for (int64_t c = r + 1; c < side; c++) mask[size_t(r * side + c)] = masked;
    }
    return mask;
}
