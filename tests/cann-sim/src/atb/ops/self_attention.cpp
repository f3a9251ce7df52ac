// SelfAttention, PA_ENCODER: prompts whose tokens stand one after another, without padding.
#include "attention.h"

namespace sim {
namespace {

enum { PA_ENCODER = 3 };
enum { MASK_NONE = 0, MASK_NORM = 1, MASK_NORM_COMPRESS = 3 };
constexpr int64_t TILE = 128;

class SelfAttention final : public Kernel {
  public:
    struct Config {
        int heads, kvHeads;
        float qScale, qkScale;
        bool triangle, highPrecision, clamp;
        float least, most;
        int mask;
    };

    explicit SelfAttention(const Config &config)
        : Kernel("SelfAttention", config.mask ? "SelfAttention.PA_MASK" : "SelfAttention.PA", config.mask ? 5 : 4,
                 1),
          config_(config) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        const auto wrong = [](const char *why) {
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "SelfAttention: %s", why);
        };
        const Dims &q = in[0].shape, &k = in[1].shape, &v = in[2].shape;
        if ((q.count != 2 && q.count != 3) || k.count != q.count || v.count != q.count)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM_NUM, "SelfAttention: q, k and v are all 2-D or all 3-D");
        const int64_t size = sizeOf(q, config_.heads);
        if (size <= 0 || sizeOf(k, config_.kvHeads) != size || sizeOf(v, config_.kvHeads) != size)
            return wrong("heads and sizes of q, k and v");
        if (k.dims[0] != q.dims[0] || v.dims[0] != q.dims[0])
            return wrong("q, k and v have another number of tokens");
        if (is310p() && (size % 16 || size > 256))
            return wrong("Atlas 300I DUO: the head size is a multiple of 16, at most 256");
        if (in.back().shape.count != 1) return wrong("seqLen is [sequences]");
        if (config_.mask) {
            if (Status code = checkMask(in[3])) return code;
        }
        out = {in[0]};
        return atb::NO_ERROR;
    }

    Status check(const std::vector<Tensor> &in, const std::vector<Tensor> &) const override {
        int64_t sum;
        int32_t longest;
        hostLengths(in.back(), &sum, &longest);
        if (!in.back().host) return refuse(atb::ERROR_INVALID_TENSOR_ADDR, "SelfAttention: seqLen has no hostData");
        if (sum != in[0].desc.shape.dims[0])
            return refuse(atb::ERROR_INVALID_PARAM, "SelfAttention: seqLen does not add up to the tokens");
        if (config_.mask == MASK_NORM && longest > maskSide(in[3].desc))
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "SelfAttention: a sequence is longer than the mask");
        return atb::NO_ERROR;
    }

    uint64_t workspace(const std::vector<Desc> &in) const override {
        return uint64_t(numel(in[0].shape)) * 4 + 65536;
    }

    int run(Launch &launch) const override {
        const Operand &out = launch.out[0];
        const int64_t size = sizeOf(out.desc.shape, config_.heads), tokens = out.dim(0);
        const int64_t qWidth = size * config_.heads, kvWidth = size * config_.kvHeads;
        std::vector<float> q = load(launch.in[0]);
        const std::vector<float> k = load(launch.in[1]), v = load(launch.in[2]);
        for (float &value : q) value *= config_.qScale;
        // For each token: its sequence, and where that begins.
        std::vector<int64_t> sequence(static_cast<size_t>(tokens)), start(static_cast<size_t>(tokens)),
            length(static_cast<size_t>(tokens));
        const Operand &lengths = launch.in.back();
        for (int64_t b = 0, t = 0; b < lengths.size(); b++) {
            const int64_t first = t, count = lengths.hostInts()[b];
            for (; t < first + count; t++)
                sequence[size_t(t)] = b, start[size_t(t)] = first, length[size_t(t)] = count;
        }
        std::vector<float> result(q.size());
        inParallel(tokens * config_.heads, [&](int64_t from, int64_t to) {
            for (int64_t item = from; item < to; item++) {
                const int64_t t = item / config_.heads, head = item % config_.heads,
                              kvHead = head / (config_.heads / config_.kvHeads);
                const int64_t first = start[size_t(t)], row = t - first;
                const auto kvRow = [&](const std::vector<float> &all, int64_t j) {
                    return all.data() + (first + j) * kvWidth + kvHead * size;
                };
                attend(
                    q.data() + t * qWidth + head * size, length[size_t(t)], size, size,
                    [&](int64_t j) { return kvRow(k, j); }, [&](int64_t j) { return kvRow(v, j); },
                    [&](float score, int64_t j) { return adjust(score, launch, sequence[size_t(t)], row, j); },
                    result.data() + t * qWidth + head * size);
            }
        });
        store(result, out);
        return 0;
    }

  private:
    static int64_t sizeOf(const Dims &shape, int heads) {
        if (shape.count == 3) return shape.dims[1] == heads ? shape.dims[2] : -1;
        return shape.dims[1] % heads ? -1 : shape.dims[1] / heads;
    }

    static int64_t maskSide(const Desc &mask) {
        return mask.format == FORMAT_NZ ? mask.shape.dims[2] : lastDim(mask);
    }

    Status checkMask(const Desc &mask) const {
        const Dims &shape = mask.shape;
        const bool nz = mask.format == FORMAT_NZ;
        const bool square = nz ? shape.count == 4 && shape.dims[1] * 16 == shape.dims[2] &&
                                     shape.dims[2] % 16 == 0 && shape.dims[3] == 16
                               : (shape.count == 2 || shape.count == 3) &&
                                     shape.dims[shape.count - 1] == shape.dims[shape.count - 2];
        if (!square)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "SelfAttention: the mask is not square, ND or NZ");
        if (config_.mask == MASK_NORM_COMPRESS) {
            const bool small = maskSide(mask) == TILE && (nz ? shape.dims[0] == 1 : shape.count == 2);
            if (!small || nz != is310p())
                return refuse(atb::ERROR_INVALID_TENSOR_DIM,
                              "SelfAttention: the compressed mask is [128, 128], NZ on Atlas 300I DUO");
        }
        return atb::NO_ERROR;
    }

    float maskAt(const Operand &mask, int64_t sequence, int64_t row, int64_t column) const {
        const int64_t side = maskSide(mask.desc);
        if (mask.desc.format == FORMAT_NZ) {
            const int64_t batch = mask.dim(0) > 1 ? sequence : 0;
            return readNumber(mask.data, mask.desc.dtype, batch * side * side + nzIndex(row, column, side, 16));
        }
        const int64_t batch = mask.desc.shape.count == 3 && mask.dim(0) > 1 ? sequence : 0;
        return readNumber(mask.data, mask.desc.dtype, (batch * side + row) * side + column);
    }

    float adjust(float score, const Launch &launch, int64_t sequence, int64_t row, int64_t column) const {
        score *= config_.qkScale;
        if (config_.clamp) score = std::min(std::max(score, config_.least), config_.most);
        if (!config_.mask) return score;
        // Tiles right of the diagonal are not computed, tiles left of it not masked where the mask is compressed.
        if (config_.triangle && column / TILE > row / TILE) return SKIPPED;
        if (config_.mask == MASK_NORM_COMPRESS) {
            if (column / TILE < row / TILE) return score;
            row %= TILE;
            column %= TILE;
        }
        const float mask = maskAt(launch.in[3], sequence, row, column);
        const bool additive = launch.in[0].desc.dtype == F16 && !config_.highPrecision;
        return score + (additive ? mask : mask * MASK_FACTOR);
    }

    const Config config_;
};

}  // namespace

Status makeSelfAttention(Bytes param, Made *made) {
    const auto wrong = [](const char *why) {
        return refuse(atb::ERROR_INVALID_PARAM, "SelfAttentionParam: %s", why);
    };
    if (!param.zero(80, 144)) return wrong("rsv is not zero");
    if (param.u8(72) != 0 || param.i32(76) != 0) return wrong("cacheType and windowSize are not simulated");
    if (param.i32(0) != 0 || param.i32(4) > 0) return wrong("quantType and outDataType are not simulated");
    SelfAttention::Config config{param.i32(8),       param.i32(12),      param.f32(16),      param.f32(20),
                                 param.i32(28) == 1, param.i32(36) == 1, param.i32(40) == 1, param.f32(44),
                                 param.f32(48),      param.i32(52)};
    if (config.heads <= 0 || config.kvHeads < 0) return wrong("headNum and kvHeadNum");
    if (config.kvHeads == 0) config.kvHeads = config.heads;
    if (config.heads % config.kvHeads) return wrong("headNum is no multiple of kvHeadNum");
    if (param.flag(24)) return wrong("batchRunStatusEnable is not simulated");
    if (param.i32(32) != PA_ENCODER) return wrong("only PA_ENCODER is simulated");
    if (param.i32(36) < 0 || param.i32(36) > 1 || param.i32(40) < 0 || param.i32(40) > 1 || param.i32(28) < 0 ||
        param.i32(28) > 1)
        return wrong("kernelType, clampType or isTriuMask");
    if (param.i32(56) || param.i32(60) || param.i32(64) || param.i32(68))
        return wrong("kvcacheCfg, scaleType, inputLayout and mlaVHeadSize are 0");
    if (config.mask != MASK_NONE && config.mask != MASK_NORM && config.mask != MASK_NORM_COMPRESS)
        return wrong("this maskType is not simulated");
    if (config.triangle && config.mask == MASK_NONE) return wrong("isTriuMask without a mask");
    if (is310p() && config.clamp) return wrong("Atlas 300I DUO has no clamp");
    if (is310p() && config.highPrecision) return wrong("Atlas 300I DUO has no high precision kernel");
    if (config.mask == MASK_NORM_COMPRESS) {
        if (!config.triangle && !is310p()) return wrong("MASK_TYPE_NORM_COMPRESS wants isTriuMask");
        config.triangle = true;
    }
    *made = std::make_unique<SelfAttention>(config);
    return atb::NO_ERROR;
}

}  // namespace sim
