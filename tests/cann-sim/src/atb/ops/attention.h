// What the two attention operations share: scores, mask, soft-max and sum of one query head.
#pragma once
#include <cmath>
#include <limits>

#include "../kernel.h"

namespace sim {

constexpr float SKIPPED = -std::numeric_limits<float>::infinity();  // a key that is not looked at
constexpr float MASK_FACTOR = -3e38f;                               // what a 0/1 mask is multiplied with

// scores[j] = q · key(j); out = Σ softmax(score)(j) · value(j). `adjust` scales, clamps and masks a score.
// `key` and `value` give a pointer to row j, valid until the next call.
template <class Key, class Value, class Adjust>
void attend(const float *q, int64_t keys, int64_t keySize, int64_t valueSize, Key key, Value value, Adjust adjust,
            float *out) {
    std::vector<float> scores(static_cast<size_t>(keys));
    float most = -std::numeric_limits<float>::infinity();
    for (int64_t j = 0; j < keys; j++) {
        scores[size_t(j)] = adjust(dot(q, key(j), keySize), j);
        // A NaN stays: max() would lose it.
        if (scores[size_t(j)] > most || std::isnan(scores[size_t(j)])) most = scores[size_t(j)];
    }
    float sum = 0;
    std::fill(out, out + valueSize, 0.0f);
    for (int64_t j = 0; j < keys; j++) {
        if (scores[size_t(j)] == SKIPPED && most != SKIPPED) continue;
        const float weight = std::exp(scores[size_t(j)] - most);
        const float *row = value(j);
        sum += weight;
        for (int64_t d = 0; d < valueSize; d++) out[d] += weight * row[d];
    }
    for (int64_t d = 0; d < valueSize; d++) out[d] /= sum;
}

// The lengths of a tensor's hostData; -1 for `sum` where there is none or one is not positive.
inline std::vector<int32_t> hostLengths(const Tensor &tensor, int64_t *sum, int32_t *most) {
    std::vector<int32_t> lengths;
    *sum = tensor.host ? 0 : -1;
    *most = 0;
    if (!tensor.host) return lengths;
    for (int64_t i = 0; i < numel(tensor.desc.shape); i++) {
        const int32_t length = static_cast<const int32_t *>(tensor.host)[i];
        lengths.push_back(length);
        if (length <= 0) return *sum = -1, lengths;
        *sum += length;
        *most = std::max(*most, length);
    }
    return lengths;
}

}  // namespace sim
