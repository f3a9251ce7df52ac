// Softmax, Sort and TopkToppSampling: from logits to tokens.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <random>

#include "../kernel.h"

namespace sim {
namespace {

enum { SINGLE_TOPK = 0 };

// The indices of the `count` largest, largest first; of equals the first one first, or with AQUILA_SIM_SORT=last the last one:
// no document says what ATB does, so nobody may rely on either. NaN is least.
std::vector<int32_t> largest(const float *values, int64_t size, int64_t count) {
    static const char *const ties = std::getenv("AQUILA_SIM_SORT");
    const bool last = ties && std::strcmp(ties, "last") == 0;
    std::vector<int32_t> order(static_cast<size_t>(size));
    for (int64_t i = 0; i < size; i++) order[size_t(i)] = int32_t(i);
    const auto key = [&](int32_t i) { return std::isnan(values[i]) ? -INFINITY : values[i]; };
    std::partial_sort(order.begin(), order.begin() + count, order.end(),
                      [&](int32_t a, int32_t b) { return key(a) > key(b) || (key(a) == key(b) && (last ? a > b : a < b)); });
    order.resize(size_t(count));
    return order;
}

class Softmax final : public Kernel {
  public:
    explicit Softmax(int64_t axis) : Kernel("Softmax", "Softmax", 1, 1), axis_(axis) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        if (axis_ != -1 && axis_ != int64_t(in[0].shape.count) - 1)
            return refuse(atb::ERROR_INVALID_PARAM, "Softmax: over the last dimension only");
        out = {in[0]};
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        std::vector<float> x = load(launch.in[0]);
        const size_t width = size_t(lastDim(launch.in[0].desc));
        for (size_t row = 0; row < x.size(); row += width) {
            const float most = *std::max_element(x.begin() + long(row), x.begin() + long(row + width));
            float sum = 0;
            for (size_t i = row; i < row + width; i++) sum += x[i] = std::exp(x[i] - most);
            for (size_t i = row; i < row + width; i++) x[i] /= sum;
        }
        store(x, launch.out[0]);
        return 0;
    }

  private:
    const int64_t axis_;
};

class Sort final : public Kernel {
  public:
    explicit Sort(int64_t count) : Kernel("Sort", "Sort", 1, 2), count_(count) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        if (count_ <= 0 || count_ > lastDim(in[0]))
            return refuse(atb::ERROR_INVALID_PARAM, "Sort: %lld of %lld", (long long)count_,
                          (long long)lastDim(in[0]));
        // What a 310P's kernel of few numbers counts rows with.
        for (int64_t i = 0; aquilaSimIs310P() && count_ < 16 && i + 1 < int64_t(in[0].shape.count); i++) {
            if (in[0].shape.dims[i] > 580000000)
                return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Sort: a dimension of %lld on a 310P",
                              (long long)in[0].shape.dims[i]);
        }
        out = {in[0], in[0]};
        for (Desc &desc : out) desc.shape.dims[desc.shape.count - 1] = count_;
        out[1].dtype = INT32;
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        const std::vector<float> x = load(launch.in[0]);
        const int64_t width = lastDim(launch.in[0].desc);
        for (int64_t row = 0; row < int64_t(x.size()) / width; row++) {
            const std::vector<int32_t> best = largest(x.data() + row * width, width, count_);
            for (int64_t i = 0; i < count_; i++) {
                writeNumber(launch.out[0].data, launch.out[0].desc.dtype, row * count_ + i,
                            x[size_t(row * width + best[size_t(i)])]);
                reinterpret_cast<int32_t *>(launch.out[1].data)[row * count_ + i] = best[size_t(i)];
            }
        }
        return 0;
    }

  private:
    const int64_t count_;
};

// Of the topk largest, the first ones whose sum reaches p; one of them by a random number of our own.
class TopkTopp final : public Kernel {
  public:
    TopkTopp(uint32_t seed, int64_t topk)
        : Kernel("TopkToppSampling", "TopkToppSampling.SINGLE", 2, 2), seed_(seed), topk_(topk) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        if (in[0].shape.count != 2 || in[1].shape.count != 2)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM_NUM, "TopkToppSampling: probs [B, V], p [B, 1]");
        if (in[1].shape.dims[0] != in[0].shape.dims[0] || in[1].shape.dims[1] != 1)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "TopkToppSampling: p is not [B, 1]");
        if (topk_ > in[0].shape.dims[1])
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "TopkToppSampling: topk %lld", (long long)topk_);
        out = {in[0], in[0]};
        out[0].dtype = INT32;
        out[0].shape.dims[1] = out[1].shape.dims[1] = 1;
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        const std::vector<float> probs = load(launch.in[0]), p = load(launch.in[1]);
        const int64_t width = launch.in[0].dim(1);
        std::mt19937 random(seed_);
        for (int64_t row = 0; row < launch.in[0].dim(0); row++) {
            const float *values = probs.data() + row * width;
            const std::vector<int32_t> best = largest(values, width, topk_);
            float sum = 0;
            size_t kept = 0;
            while (kept < best.size() && (kept == 0 || sum < p[size_t(row)])) sum += values[best[kept++]];
            float at = float(random()) / 4294967296.0f * sum;
            size_t chosen = 0;
            while (chosen + 1 < kept && at >= values[best[chosen]]) at -= values[best[chosen++]];
            reinterpret_cast<int32_t *>(launch.out[0].data)[row] = best[chosen];
            writeNumber(launch.out[1].data, launch.out[1].desc.dtype, row, values[best[chosen]]);
        }
        return 0;
    }

  private:
    const uint32_t seed_;
    const int64_t topk_;
};

}  // namespace

Status makeSoftmax(Bytes param, Made *made) {
    const List<int64_t> axes(param.place(0));
    if (!param.zero(544, 552)) return refuse(atb::ERROR_INVALID_PARAM, "SoftmaxParam: rsv is not zero");
    if (axes.size() != 1) return refuse(atb::ERROR_INVALID_PARAM, "SoftmaxParam: one axis is simulated");
    *made = std::make_unique<Softmax>(axes.items()[0]);
    return atb::NO_ERROR;
}

Status makeSort(Bytes param, Made *made) {
    const List<int32_t> num(param.place(0));
    if (!param.zero(288, 296)) return refuse(atb::ERROR_INVALID_PARAM, "SortParam: rsv is not zero");
    // ATB makes any, and refuses a num that is not one number when it sees the tensors; here it is refused at once.
    if (num.size() != 1) return refuse(atb::ERROR_INVALID_PARAM, "SortParam: num is one number");
    *made = std::make_unique<Sort>(num.items()[0]);
    return atb::NO_ERROR;
}

Status makeTopkTopp(Bytes param, Made *made) {
    if (!param.zero(44, 56)) return refuse(atb::ERROR_INVALID_PARAM, "TopkToppSamplingParam: rsv is not zero");
    if (param.i32(0) != SINGLE_TOPK || param.i32(36) <= 0)
        return refuse(atb::ERROR_INVALID_PARAM, "TopkToppSamplingParam: SINGLE_TOPK with topk > 0 is simulated");
    *made = std::make_unique<TopkTopp>(uint32_t(param.i32(32)), param.i32(36));
    return atb::NO_ERROR;
}

}  // namespace sim
