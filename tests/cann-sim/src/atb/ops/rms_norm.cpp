// RmsNorm: y = x / sqrt(mean(x²) + ε) · γ, alone, after an addition, or quantised to int8.
#include <algorithm>
#include <cmath>

#include "../kernel.h"

namespace sim {
namespace {

enum { NORM = 1, PRENORM = 2, POSTNORM = 3 };
enum { DYNAMIC_NONE = 0, DYNAMIC_SYMMETRIC = 1 };

class RmsNorm final : public Kernel {
  public:
    struct Config {
        int layer;
        float epsilon;
        bool hasBias, staticQuant, dynamicQuant;
    };

    RmsNorm(const Config &config, std::string column, uint32_t inputs, uint32_t outputs)
        : Kernel("RmsNorm", std::move(column), inputs, outputs), config_(config) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        const int64_t hidden = lastDim(in[0]);
        if (hidden % 16)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "RmsNorm: the last dimension %lld is no multiple of 16",
                          (long long)hidden);
        if (numel(in[gammaAt()].shape) != hidden || lastDim(in[gammaAt()]) != hidden)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "RmsNorm: gamma is not [%lld]", (long long)hidden);
        if (config_.layer != NORM && !sameShape(in[residualAt()].shape, in[0].shape))
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "RmsNorm: x and res_in differ");
        out = {in[0]};
        if (config_.layer == PRENORM) out.push_back(in[0]);
        if (config_.staticQuant || config_.dynamicQuant) out[0].dtype = INT8;
        if (config_.dynamicQuant) {
            Desc scale = in[0];
            scale.dtype = F32;
            scale.shape.count = std::max<uint64_t>(1, scale.shape.count - 1);
            out.push_back(scale);
        }
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        const int64_t hidden = lastDim(launch.in[0].desc);
        std::vector<float> x = load(launch.in[0]);
        if (config_.layer != NORM) {
            const std::vector<float> residual = load(launch.in[residualAt()]);
            const std::vector<float> bias = config_.hasBias ? load(launch.in[1])
                                                            : std::vector<float>(size_t(hidden), 0.0f);
            for (size_t i = 0; i < x.size(); i++) x[i] += residual[i] + bias[i % size_t(hidden)];
            if (config_.layer == PRENORM) store(x, launch.out[1]);
        }
        const std::vector<float> gamma = load(launch.in[gammaAt()]);
        for (size_t row = 0; row < x.size(); row += size_t(hidden)) {
            const float scale = 1.0f / std::sqrt(dot(x.data() + row, x.data() + row, hidden) / float(hidden) +
                                                 config_.epsilon);
            for (size_t i = 0; i < size_t(hidden); i++) x[row + i] *= scale * gamma[i];
        }
        if (config_.staticQuant) return quantise(launch, x);
        if (config_.dynamicQuant) return quantiseRows(launch, x, hidden);
        store(x, launch.out[0]);
        return 0;
    }

  private:
    size_t residualAt() const { return config_.hasBias ? 2 : 1; }
    size_t gammaAt() const { return config_.layer == NORM ? 1 : residualAt() + 1; }

    static float toInt8(float value) { return std::min(127.0f, std::max(-128.0f, std::nearbyint(value))); }

    int quantise(Launch &launch, std::vector<float> &y) const {
        const std::vector<float> beta = load(launch.in[2]);
        const float scale = readNumber(launch.in[3].data, launch.in[3].desc.dtype, 0);
        const float offset = readNumber(launch.in[4].data, INT8, 0);
        for (size_t i = 0; i < y.size(); i++) y[i] = toInt8((y[i] + beta[i % beta.size()]) / scale + offset);
        store(y, launch.out[0]);
        return 0;
    }

    int quantiseRows(Launch &launch, std::vector<float> &y, int64_t hidden) const {
        const std::vector<float> beta = load(launch.in[2]);
        for (size_t row = 0; row < y.size() / size_t(hidden); row++) {
            float *values = y.data() + row * size_t(hidden), most = 0;
            for (size_t i = 0; i < size_t(hidden); i++) {
                values[i] += beta[i];
                most = std::max(most, std::fabs(values[i]));
            }
            const float scale = most > 0 ? most / 127.0f : 1.0f;
            for (size_t i = 0; i < size_t(hidden); i++) values[i] = toInt8(values[i] / scale);
            writeNumber(launch.out[1].data, F32, int64_t(row), scale);
        }
        store(y, launch.out[0]);
        return 0;
    }

    const Config config_;
};

}  // namespace

Status makeRmsNorm(Bytes param, Made *made) {
    const auto wrong = [](const char *why) { return refuse(atb::ERROR_INVALID_PARAM, "RmsNormParam: %s", why); };
    const bool clean = param.zero(40, 72) && param.zero(81, 104) && param.zero(113, 136) && param.zero(136, 144);
    if (!clean) return wrong("rsv is not zero");
    const int layer = param.i32(0);
    if (layer < NORM || layer > POSTNORM) return wrong("layerType");
    if (layer == NORM) {
        const int quant = param.i32(8), dynamic = param.i32(36);
        if (param.flag(24)) return wrong("rstd is not simulated");
        if (param.i32(32) != 0) return wrong("modelType is not simulated");
        if (quant != 0 && quant != 2) return wrong("quantType");
        if (dynamic > DYNAMIC_SYMMETRIC || (dynamic && (quant == 0 || is310p()))) return wrong("dynamicQuantType");
        const bool isStatic = quant == 2 && dynamic == DYNAMIC_NONE,
                   isDynamic = quant == 2 && dynamic == DYNAMIC_SYMMETRIC;
        const RmsNorm::Config config{layer, param.f32(12), false, isStatic, isDynamic};
        if (isStatic) *made = std::make_unique<RmsNorm>(config, "RmsNorm.NORM_QUANT", 5, 1);
        else if (isDynamic) *made = std::make_unique<RmsNorm>(config, "RmsNorm.NORM_DYNAMIC_QUANT", 3, 2);
        else *made = std::make_unique<RmsNorm>(config, "RmsNorm.NORM", 2, 1);
        return atb::NO_ERROR;
    }
    const size_t at = layer == PRENORM ? 72 : 104;
    if (param.i32(at) != 0) return wrong("quantType is simulated with NORM only");
    const bool hasBias = param.flag(at + 8);
    if (hasBias && layer == POSTNORM) return wrong("POSTNORM with a bias is not simulated");
    const RmsNorm::Config config{layer, param.f32(at + 4), hasBias, false, false};
    if (layer == POSTNORM) *made = std::make_unique<RmsNorm>(config, "RmsNorm.POSTNORM", 3, 1);
    else
        *made = std::make_unique<RmsNorm>(config, hasBias ? "RmsNorm.PRENORM_BIAS" : "RmsNorm.PRENORM",
                                          hasBias ? 4 : 3, 2);
    return atb::NO_ERROR;
}

}  // namespace sim
