// Elewise and Activation: what happens to each number, or to each row for its scale.
#include <algorithm>
#include <cmath>

#include "../kernel.h"

namespace sim {
namespace {

enum { CAST = 1, MULS = 2, ADD = 8, MUL = 9, QUANT_PER_CHANNEL = 17, DYNAMIC_QUANT = 19 };
enum { SWISH = 4, SWIGLU_FORWARD = 6 };

float toInt8(float value) {
    return std::min(127.0f, std::max(-128.0f, value));
}

class Cast final : public Kernel {
  public:
    explicit Cast(int type) : Kernel("Elewise", "Elewise.CAST", 1, 1), type_(type) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        out = {in[0]};
        out[0].dtype = type_;
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        const Operand &x = launch.in[0], &y = launch.out[0];
        const bool whole = x.desc.dtype == INT32 || x.desc.dtype == INT64;
        for (int64_t i = 0; i < x.size(); i++) {
            if (!whole) {
                writeNumber(y.data, type_, i, readNumber(x.data, x.desc.dtype, i));
            } else if (type_ == INT64) {
                reinterpret_cast<int64_t *>(y.data)[i] = x.ints()[i];
            } else {
                reinterpret_cast<int32_t *>(y.data)[i] = int32_t(reinterpret_cast<const int64_t *>(x.data)[i]);
            }
        }
        return 0;
    }

  private:
    const int type_;
};

class Muls final : public Kernel {
  public:
    explicit Muls(float factor) : Kernel("Elewise", "Elewise.MULS", 1, 1), factor_(factor) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        out = {in[0]};
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        std::vector<float> x = load(launch.in[0]);
        for (float &value : x) value *= factor_;
        store(x, launch.out[0]);
        return 0;
    }

  private:
    const float factor_;
};

// ADD and MUL, with dimensions of 1 repeated.
class Binary final : public Kernel {
  public:
    explicit Binary(bool add) : Kernel("Elewise", add ? "Elewise.ADD" : "Elewise.MUL", 2, 1), add_(add) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        const Dims &a = in[0].shape, &b = in[1].shape;
        Desc result = in[0];
        result.shape.count = std::max(a.count, b.count);
        for (uint64_t i = 0; i < result.shape.count; i++) {
            const int64_t x = fromBack(a, i), y = fromBack(b, i);
            if (x != y && x != 1 && y != 1)
                return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Elewise: the shapes do not fit each other");
            result.shape.dims[result.shape.count - 1 - i] = std::max(x, y);
        }
        out = {result};
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        const Operand &y = launch.out[0];
        const bool whole = y.desc.dtype == INT32 || y.desc.dtype == INT64;
        for (int64_t i = 0; i < y.size(); i++) {
            const int64_t a = source(launch.in[0].desc.shape, y.desc.shape, i),
                          b = source(launch.in[1].desc.shape, y.desc.shape, i);
            if (whole) {
                addWhole(launch, a, b, i);
                continue;
            }
            const float left = readNumber(launch.in[0].data, y.desc.dtype, a),
                        right = readNumber(launch.in[1].data, y.desc.dtype, b);
            writeNumber(y.data, y.desc.dtype, i, add_ ? left + right : left * right);
        }
        return 0;
    }

  private:
    static int64_t fromBack(const Dims &shape, uint64_t i) {
        return i < shape.count ? shape.dims[shape.count - 1 - i] : 1;
    }

    static int64_t source(const Dims &from, const Dims &whole, int64_t index) {
        if (sameShape(from, whole)) return index;
        int64_t at = 0, step = 1;
        for (uint64_t i = 0; i < whole.count; i++) {
            const int64_t dim = fromBack(whole, i), own = fromBack(from, i);
            at += own == 1 ? 0 : index % dim * step;
            step *= own;
            index /= dim;
        }
        return at;
    }

    static void addWhole(Launch &launch, int64_t a, int64_t b, int64_t i) {
        if (launch.out[0].desc.dtype == INT32) {
            reinterpret_cast<int32_t *>(launch.out[0].data)[i] = launch.in[0].ints()[a] + launch.in[1].ints()[b];
        } else {
            reinterpret_cast<int64_t *>(
                launch.out[0].data)[i] = reinterpret_cast<const int64_t *>(launch.in[0].data)[a] +
                                         reinterpret_cast<const int64_t *>(launch.in[1].data)[b];
        }
    }

    const bool add_;
};

class QuantPerChannel final : public Kernel {
  public:
    QuantPerChannel() : Kernel("Elewise", "Elewise.QUANT_PER_CHANNEL", 3, 1) {}
    bool optionalInput(uint32_t index) const override { return index == 2; }

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        const int64_t channels = lastDim(in[0]), scales = numel(in[1].shape);
        const bool noOffset = in[2].shape.count == 0 || numel(in[2].shape) == 0;
        if (scales != channels && scales != 1)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Elewise: a scale for each channel, or one");
        if (!noOffset && !sameShape(in[2].shape, in[1].shape))
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Elewise: scale and offset differ");
        out = {in[0]};
        out[0].dtype = INT8;
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        std::vector<float> x = load(launch.in[0]);
        const std::vector<float> scale = load(launch.in[1]);
        const bool hasOffset = launch.in[2].data != nullptr;
        const std::vector<float> offset = hasOffset ? load(launch.in[2]) : std::vector<float>(scale.size(), 0.0f);
        const size_t channels = size_t(lastDim(launch.in[0].desc));
        for (size_t i = 0; i < x.size(); i++) {
            const size_t c = scale.size() == 1 ? 0 : i % channels;
            x[i] = toInt8(std::nearbyint(x[i] / scale[c]) + offset[c]);
        }
        store(x, launch.out[0]);
        return 0;
    }
};

class DynamicQuant final : public Kernel {
  public:
    DynamicQuant() : Kernel("Elewise", "Elewise.DYNAMIC_QUANT", 1, 2) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        if (in[0].shape.count < 2)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM_NUM, "Elewise: DYNAMIC_QUANT wants rows");
        out = {in[0], in[0]};
        out[0].dtype = INT8;
        out[1].dtype = F32;
        out[1].shape.count--;
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        std::vector<float> x = load(launch.in[0]);
        const size_t width = size_t(lastDim(launch.in[0].desc));
        for (size_t row = 0; row < x.size(); row += width) {
            float most = 0;
            for (size_t i = row; i < row + width; i++) most = std::max(most, std::fabs(x[i]));
            const float scale = most / 127.0f;
            for (size_t i = row; i < row + width; i++) x[i] = most > 0 ? toInt8(std::nearbyint(x[i] / scale)) : 0;
            writeNumber(launch.out[1].data, F32, int64_t(row / width), scale);
        }
        store(x, launch.out[0]);
        return 0;
    }
};

class Activation final : public Kernel {
  public:
    Activation(bool gated, float scale)
        : Kernel("Activation", gated ? "Activation.SWIGLU_FORWARD" : "Activation.SWISH", 1, 1),
          gated_(gated),
          scale_(scale) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        out = {in[0]};
        if (!gated_) return atb::NO_ERROR;
        const int64_t last = lastDim(in[0]);
        if (last % 2 || (is310p() && last % 32))
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Activation: SWIGLU_FORWARD over %lld numbers",
                          (long long)last);
        out[0].shape.dims[out[0].shape.count - 1] = last / 2;
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        const std::vector<float> x = load(launch.in[0]);
        std::vector<float> y(gated_ ? x.size() / 2 : x.size());
        const size_t width = gated_ ? size_t(lastDim(launch.out[0].desc)) : y.size();
        for (size_t i = 0; i < y.size(); i++) {
            const size_t at = gated_ ? i / width * 2 * width + i % width : i;
            y[i] = x[at] / (1.0f + std::exp(-scale_ * x[at])) * (gated_ ? x[at + width] : 1.0f);
        }
        store(y, launch.out[0]);
        return 0;
    }

  private:
    const bool gated_;
    const float scale_;
};

}  // namespace

Status makeElewise(Bytes param, Made *made) {
    const auto wrong = [](const char *why) { return refuse(atb::ERROR_INVALID_PARAM, "ElewiseParam: %s", why); };
    if (!param.zero(16, 36) || !param.zero(40, 52) || !param.zero(56, 64)) return wrong("rsv is not zero");
    switch (param.i32(0)) {
        case CAST: *made = std::make_unique<Cast>(param.i32(52)); break;
        case MULS: *made = std::make_unique<Muls>(param.f32(36)); break;
        case ADD: *made = std::make_unique<Binary>(true); break;
        case MUL: *made = std::make_unique<Binary>(false); break;
        case QUANT_PER_CHANNEL: *made = std::make_unique<QuantPerChannel>(); break;
        case DYNAMIC_QUANT:
            if (is310p() || param.flag(8))
                return wrong("DYNAMIC_QUANT is symmetric here, and not on Atlas 300I DUO");
            *made = std::make_unique<DynamicQuant>();
            break;
        default: return wrong("this elewiseType is not simulated");
    }
    return atb::NO_ERROR;
}

Status makeActivation(Bytes param, Made *made) {
    const int type = param.i32(0), dim = param.i32(8);
    if (!param.zero(16, 24)) return refuse(atb::ERROR_INVALID_PARAM, "ActivationParam: rsv is not zero");
    if (type != SWISH && type != SWIGLU_FORWARD)
        return refuse(atb::ERROR_INVALID_PARAM, "ActivationParam: type %d is not simulated", type);
    if (type == SWIGLU_FORWARD && dim != -1)
        return refuse(atb::ERROR_INVALID_PARAM,
                      "ActivationParam: SWIGLU_FORWARD over another dimension than the last");
    *made = std::make_unique<Activation>(type == SWIGLU_FORWARD, type == SWISH ? param.f32(4) : 1.0f);
    return atb::NO_ERROR;
}

}  // namespace sim
