// Linear: y = x Wᵀ + b, in floats, or in int8 with int32 sums and scales.
#include "../kernel.h"

namespace sim {
namespace {

enum { QUANT_NONE = 0, QUANT_PER_CHANNEL = 1, QUANT_PER_TOKEN = 2 };

struct Matrix {  // a weight, as N rows of K
    int64_t n, k;
    bool transposed, nz;
    int64_t rows, wide;  // of the NZ form: padded rows, columns of a fractal

    // The place of weight (output n, input k).
    int64_t index(int64_t out, int64_t in) const {
        const int64_t row = transposed ? out : in, column = transposed ? in : out;
        if (nz) return nzIndex(row, column, rows, wide);
        return row * (transposed ? k : n) + column;
    }
};

bool readMatrix(const Desc &desc, bool transposed, Matrix *matrix) {
    const Dims &shape = desc.shape;
    const int64_t wide = itemSize(desc.dtype) == 1 ? 32 : 16;
    const bool nz = desc.format == FORMAT_NZ;
    int64_t rows, columns;
    if (shape.count == 2) {
        rows = shape.dims[0];
        columns = shape.dims[1];
    } else if (nz && shape.count == 4 && shape.dims[0] == 1 && shape.dims[2] % 16 == 0 && shape.dims[3] == wide) {
        rows = shape.dims[2];
        columns = shape.dims[1] * wide;
    } else {
        return false;
    }
    *matrix = {transposed ? rows : columns, transposed ? columns : rows, transposed, nz, alignUp(rows, 16), wide};
    return true;
}

class Linear final : public Kernel {
  public:
    struct Config {
        bool transposeA, transposeB, hasBias, accumulate;
        int outType, quantMode;
        bool quantised() const { return outType >= 0; }
        bool perToken() const { return quantMode == QUANT_PER_TOKEN; }
    };

    Linear(const Config &config, std::string column)
        : Kernel("Linear", std::move(column),
                 2 + config.hasBias + config.accumulate + config.quantised() + config.perToken(), 1),
          config_(config) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        const Desc &x = in[0];
        if (x.shape.count != 2 && x.shape.count != 3)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM_NUM, "Linear: x has %llu dimensions",
                          (unsigned long long)x.shape.count);
        Matrix w;
        if (!readMatrix(in[1], config_.transposeB, &w))
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Linear: the weight is no matrix, ND or NZ");
        const size_t last = x.shape.count - 1;
        const int64_t k = x.shape.dims[config_.transposeA ? last - 1 : last];
        if (k != w.k)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Linear: x has %lld columns, the weight %lld",
                          (long long)k, (long long)w.k);
        Desc y = x;
        y.dtype = config_.accumulate ? int(F32) : config_.quantised() ? config_.outType : x.dtype;
        if (config_.transposeA) y.shape.dims[last - 1] = x.shape.dims[last];
        y.shape.dims[last] = w.n;
        const int64_t m = numel(y.shape) / w.n;
        size_t next = 2;
        if (config_.hasBias && !isVector(in[next++], w.n))
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Linear: the bias is not [%lld]", (long long)w.n);
        if (config_.accumulate && !sameShape(in[next++].shape, y.shape))
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Linear: the accumulator is not like y");
        if (config_.quantised() && !isVector(in[next++], w.n))
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Linear: deqScale is not [%lld]", (long long)w.n);
        if (config_.perToken() && !isVector(in[next], m))
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Linear: perTokenScale is not [%lld]", (long long)m);
        out = {y};
        return atb::NO_ERROR;
    }

    Status check(const std::vector<Tensor> &in, const std::vector<Tensor> &out) const override {
        if (config_.accumulate && in[2].device != out[0].device)
            return refuse(atb::ERROR_INVALID_TENSOR_ADDR, "Linear: the accumulator is not in place");
        return atb::NO_ERROR;
    }

    uint64_t workspace(const std::vector<Desc> &in) const override { return 4096 + uint64_t(lastDim(in[0])) * 4; }

    int run(Launch &launch) const override {
        Matrix w;
        readMatrix(launch.in[1].desc, config_.transposeB, &w);
        return config_.quantised() ? runInt8(launch, w) : runFloat(launch, w);
    }

  private:
    static bool isVector(const Desc &desc, int64_t length) {
        return numel(desc.shape) == length && lastDim(desc) == length;
    }

    // x as rows of K.
    std::vector<float> rowsOf(const Operand &x, const Matrix &w) const {
        std::vector<float> values = load(x);
        if (!config_.transposeA) return values;
        const int64_t m = int64_t(values.size()) / w.k;
        std::vector<float> turned(values.size());
        for (int64_t i = 0; i < m; i++) {
            for (int64_t k = 0; k < w.k; k++) turned[size_t(i * w.k + k)] = values[size_t(k * m + i)];
        }
        return turned;
    }

    static void weightRow(const Operand &weight, const Matrix &w, int64_t n, float *row) {
        if (!w.transposed) {
            for (int64_t k = 0; k < w.k; k++) row[k] = readNumber(weight.data, weight.desc.dtype, w.index(n, k));
            return;
        }
        const int64_t run = w.nz ? w.wide : w.k;  // numbers that lie side by side
        for (int64_t k = 0; k < w.k; k += run) {
            toFloats(weight.data, weight.desc.dtype, w.index(n, k), std::min(run, w.k - k), row + k);
        }
    }

    int runFloat(Launch &launch, const Matrix &w) const {
        const std::vector<float> x = rowsOf(launch.in[0], w);
        const std::vector<float> extra = launch.in.size() > 2 ? load(launch.in[2]) : std::vector<float>();
        const int64_t m = int64_t(x.size()) / w.k;
        const Operand &y = launch.out[0];
        inParallel(w.n, [&](int64_t from, int64_t to) {
            std::vector<float> row(size_t(w.k));
            for (int64_t n = from; n < to; n++) {
                weightRow(launch.in[1], w, n, row.data());
                for (int64_t i = 0; i < m; i++) {
                    float sum = dot(x.data() + i * w.k, row.data(), w.k);
                    if (config_.hasBias) sum += extra[size_t(n)];
                    if (config_.accumulate) sum += extra[size_t(i * w.n + n)];
                    writeNumber(y.data, y.desc.dtype, i * w.n + n, sum);
                }
            }
        });
        return 0;
    }

    // int8 by int8 with exact int32 sums, then bias, then the scales of channel and token.
    int runInt8(Launch &launch, const Matrix &w) const {
        const auto *x = reinterpret_cast<const int8_t *>(launch.in[0].data);
        const auto *weight = reinterpret_cast<const int8_t *>(launch.in[1].data);
        const int64_t m = launch.in[0].size() / w.k;
        const Operand *bias = config_.hasBias ? &launch.in[2] : nullptr;
        const Operand &scale = launch.in[config_.hasBias ? 3 : 2];
        const Operand &y = launch.out[0];
        std::vector<float> scales(size_t(w.n));
        for (int64_t n = 0; n < w.n; n++) {
            // 64-bit scales hold the bits of an f32 in their low half.
            scales[size_t(n)] = Bytes(scale.data).f32(size_t(n) * itemSize(scale.desc.dtype));
        }
        const std::vector<float> tokens = config_.perToken() ? load(launch.in[3])
                                                             : std::vector<float>(size_t(m), 1.0f);
        inParallel(w.n, [&](int64_t from, int64_t to) {
            std::vector<int8_t> row(size_t(w.k));
            for (int64_t n = from; n < to; n++) {
                for (int64_t k = 0; k < w.k; k++) row[size_t(k)] = weight[w.index(n, k)];
                for (int64_t i = 0; i < m; i++) {
                    int32_t sum = bias ? bias->ints()[n] : 0;
                    for (int64_t k = 0; k < w.k; k++) sum += int32_t(x[i * w.k + k]) * row[size_t(k)];
                    writeNumber(y.data, y.desc.dtype, i * w.n + n,
                                float(sum) * scales[size_t(n)] * tokens[size_t(i)]);
                }
            }
        });
        return 0;
    }

    const Config config_;
};

}  // namespace

Status makeLinear(Bytes param, Made *made) {
    const size_t known = atbVersion() >= 80200 ? 11 : atbVersion() >= 80100 ? 10 : 9;
    if (!param.zero(known, 32)) return refuse(atb::ERROR_INVALID_PARAM, "LinearParam: rsv is not zero");
    const Linear::Config config{param.flag(0), param.flag(1), param.flag(2),
                                param.flag(8), param.i32(4),  known > 10 ? param.u8(10) : 0};
    const auto wrong = [](const char *why) { return refuse(atb::ERROR_INVALID_PARAM, "LinearParam: %s", why); };
    if (known > 9 && param.u8(9) != 0) return wrong("matmulType is not simulated");
    if (config.outType != -1 && config.outType != F16 && config.outType != BF16) return wrong("outDataType");
    if (config.quantMode < 0 || config.quantMode > 2) return wrong("quantMode");
    if (!config.quantised()) {
        if (config.quantMode != QUANT_NONE) return wrong("quantMode without outDataType");
        if (config.accumulate && (config.hasBias || is310p()))
            return wrong("enAccum with a bias, or on Atlas 300I DUO");
        *made = std::make_unique<Linear>(config, config.accumulate ? "Linear.ACCUMULATE"
                                                 : config.hasBias  ? "Linear.MATMUL_BIAS"
                                                                   : "Linear.MATMUL");
        return atb::NO_ERROR;
    }
    if (config.accumulate || config.transposeA) return wrong("int8 with enAccum or transposeA");
    if (config.perToken() && config.hasBias) return wrong("PER_TOKEN with a bias");
    if (is310p() && (!config.hasBias || !config.transposeB || config.outType != F16 || config.perToken())) {
        return wrong("Atlas 300I DUO: int8 only with a bias, transposeB and f16 out, per channel");
    }
    const std::string type = config.outType == F16 ? "F16" : "BF16";
    const std::string column = config.perToken() ? "Linear.PER_TOKEN_" + type
                                                 : "Linear.DEQUANT_" + type + (config.hasBias ? "_BIAS" : "");
    *made = std::make_unique<Linear>(config, column);
    return atb::NO_ERROR;
}

}  // namespace sim
