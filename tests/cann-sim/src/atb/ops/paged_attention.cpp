// PagedAttention: queries over a paged cache; one a sequence, or with SPEC several.
#include "attention.h"

namespace sim {
namespace {

enum { MASK_NONE = 0, MASK_SPEC = 3 };
constexpr int64_t MOST_BLOCK_NUMBERS = 128 * 128;

class PagedAttention final : public Kernel {
  public:
    struct Config {
        int heads, kvHeads;
        float qkScale;
        bool speculative, masked;
    };

    explicit PagedAttention(const Config &config)
        : Kernel("PagedAttention",
                 !config.speculative ? "PagedAttention"
                 : config.masked     ? "PagedAttention.SPEC_MASK"
                                     : "PagedAttention.SPEC",
                 5 + config.speculative + config.masked, 1),
          config_(config) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        const auto wrong = [](const char *why) {
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "PagedAttention: %s", why);
        };
        const Dims &q = in[0].shape, &cache = in[1].shape, &tables = in[3].shape, &lengths = in[4].shape;
        if (q.count != 3 || cache.count != 4 || in[2].shape.count != 4)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM_NUM, "PagedAttention: q is 3-D, caches are 4-D");
        if (!sameShape(cache, in[2].shape)) return wrong("key and value caches differ");
        const int64_t size = q.dims[2];
        if (q.dims[1] != config_.heads) return wrong("q is not [tokens, headNum, size]");
        if (is310p()) {
            if (cache.dims[1] * 16 != config_.kvHeads * size || cache.dims[3] != 16 || cache.dims[2] % 16)
                return wrong("the cache is not NZ [blocks, heads x size / 16, block, 16]");
            if (size % 16 || size > 256 || cache.dims[2] * size > MOST_BLOCK_NUMBERS)
                return wrong("Atlas 300I DUO: size % 16 = 0, size <= 256, block x size <= 16384");
        } else {
            if (cache.dims[2] != config_.kvHeads || cache.dims[3] != size)
                return wrong("the cache is not [blocks, block, heads, size]");
            if (size > 576 || (size > 256 && cache.dims[1] > 128))
                return wrong("size <= 576, and block <= 128 where size > 256");
            if (config_.speculative && (size > 256 || cache.dims[1] * size > MOST_BLOCK_NUMBERS))
                return wrong("SPEC: size <= 256, block x size <= 16384");
        }
        if (tables.count != 2 || lengths.count != 1 || tables.dims[0] != lengths.dims[0])
            return wrong("blockTables [sequences, blocks], contextLens [sequences]");
        if (!config_.speculative && lengths.dims[0] != q.dims[0]) return wrong("one query a sequence");
        if (config_.masked && (in[5].shape.count != 2 || in[5].shape.dims[0] != q.dims[0]))
            return wrong("the mask is [queries, keys]");
        if (config_.speculative && !sameShape(in.back().shape, lengths)) return wrong("qSeqLen is [sequences]");
        out = {in[0]};
        return atb::NO_ERROR;
    }

    // 910B takes the lengths from the host in Setup; 310P's kernel reads them from the device.
    Status check(const std::vector<Tensor> &in, const std::vector<Tensor> &) const override {
        const auto addressless = [](const char *what) {
            return refuse(atb::ERROR_INVALID_TENSOR_ADDR, "PagedAttention: %s", what);
        };
        if (!in[3].device) return addressless("blockTables have no deviceData");
        if (is310p()) return in[4].device ? Status(atb::NO_ERROR) : addressless("contextLens have no deviceData");
        if (!in[4].host) return addressless("contextLens have no hostData");
        int64_t sum, queries;
        int32_t longest, unused;
        const std::vector<int32_t> lengths = hostLengths(in[4], &sum, &longest);
        if (sum < 0 || longest > room(in[1].desc, in[3].desc))
            return refuse(atb::ERROR_INVALID_PARAM,
                          "PagedAttention: a context length is not positive, or more than its blocks hold");
        if (!config_.speculative) return atb::NO_ERROR;
        if (!in.back().host) return addressless("qSeqLen has no hostData");
        const std::vector<int32_t> queriesOf = hostLengths(in.back(), &queries, &unused);
        if (queries != in[0].desc.shape.dims[0])
            return refuse(atb::ERROR_INVALID_PARAM, "PagedAttention: qSeqLen does not add up to the queries");
        for (size_t i = 0; i < lengths.size(); i++) {
            if (queriesOf[i] > lengths[i])
                return refuse(atb::ERROR_INVALID_PARAM, "PagedAttention: more queries than context");
        }
        if (config_.masked && longest > lastDim(in[5].desc))
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "PagedAttention: a context is longer than the mask");
        return atb::NO_ERROR;
    }

    uint64_t workspace(const std::vector<Desc> &in) const override {
        return uint64_t(numel(in[0].shape)) * 4 + 65536;
    }

    int run(Launch &launch) const override {
        const Operand &q = launch.in[0], &tables = launch.in[3], &lengths = launch.in[4];
        const int32_t *contexts = is310p() ? lengths.ints() : lengths.hostInts();
        const int64_t blocks = launch.in[1].dim(0), most = room(launch.in[1].desc, tables.desc),
                      block = most / tables.dim(1);
        std::vector<int64_t> sequence;
        for (int64_t b = 0; b < lengths.size(); b++) {
            const int32_t queries = config_.speculative ? launch.in.back().hostInts()[b] : 1;
            sequence.insert(sequence.end(), size_t(queries), b);
            if (contexts[b] <= 0 || contexts[b] > most)
                return launch.fail("context length " + std::to_string(contexts[b]) + " of " + std::to_string(most));
            for (int64_t i = 0; i * block < contexts[b]; i++) {
                const int32_t id = tables.ints()[b * tables.dim(1) + i];
                if (id < 0 || id >= blocks)
                    return launch.fail("block " + std::to_string(id) + " of " + std::to_string(blocks));
            }
        }
        const int64_t size = q.dim(2);
        const std::vector<float> queries = load(q);
        std::vector<float> result(queries.size());
        inParallel(q.dim(0) * config_.heads, [&](int64_t from, int64_t to) {
            std::vector<float> row(static_cast<size_t>(size));
            for (int64_t item = from; item < to; item++) {
                const int64_t t = item / config_.heads, head = item % config_.heads,
                              kvHead = head / (config_.heads / config_.kvHeads);
                const int64_t b = sequence[size_t(t)];
                const int32_t *table = tables.ints() + b * tables.dim(1);
                const auto read = [&](const Operand &cache, int64_t j) {
                    cacheRow(cache, table[j / block], j % block, kvHead, size, row.data());
                    return row.data();
                };
                attend(
                    queries.data() + item * size, contexts[b], size, size,
                    [&](int64_t j) { return read(launch.in[1], j); },
                    [&](int64_t j) { return read(launch.in[2], j); },
                    [&](float score, int64_t j) {
                        score *= config_.qkScale;
                        return config_.masked ? score + readNumber(launch.in[5].data, launch.in[5].desc.dtype,
                                                                   t * launch.in[5].dim(1) + j)
                                              : score;
                    },
                    result.data() + item * size);
            }
        });
        store(result, launch.out[0]);
        return 0;
    }

  private:
    // The tokens that a row of the block table has room for.
    static int64_t room(const Desc &cache, const Desc &tables) {
        return tables.shape.dims[1] * (cache.format == FORMAT_NZ ? cache.shape.dims[2] : cache.shape.dims[1]);
    }

    void cacheRow(const Operand &cache, int64_t id, int64_t slot, int64_t head, int64_t size, float *row) const {
        if (cache.desc.format != FORMAT_NZ) {
            const int64_t at = ((id * cache.dim(1) + slot) * cache.dim(2) + head) * size;
            return toFloats(cache.data, cache.desc.dtype, at, size, row);
        }
        const int64_t block = cache.dim(2);
        for (int64_t d = 0; d < size; d += 16) {
            const int64_t at = ((id * cache.dim(1) + (head * size + d) / 16) * block + slot) * 16;
            toFloats(cache.data, cache.desc.dtype, at, 16, row + d);
        }
    }

    const Config config_;
};

}  // namespace

Status makePagedAttention(Bytes param, Made *made) {
    const auto wrong = [](const char *why) {
        return refuse(atb::ERROR_INVALID_PARAM, "PagedAttentionParam: %s", why);
    };
    if (!param.zero(56, 120)) return wrong("rsv is not zero");
    PagedAttention::Config config{param.i32(0), param.i32(8), param.f32(4), param.i32(36) == 1,
                                  param.i32(12) != MASK_NONE};
    if (config.heads <= 0 || config.kvHeads < 0) return wrong("headNum and kvHeadNum");
    if (config.kvHeads == 0) config.kvHeads = config.heads;
    if (config.heads % config.kvHeads) return wrong("headNum is no multiple of kvHeadNum");
    if (param.flag(16) || param.i32(20) || param.i32(24) > 0 || param.flag(28) || param.i32(32))
        return wrong("batchRunStatus, quantisation and compression are not simulated");
    if (param.i32(36) < 0 || param.i32(36) > 1 || param.i32(40) || param.i32(44) || param.i32(48) || param.i32(52))
        return wrong("calcType, scaleType, inputLayout, mlaVHeadSize or qScale");
    const int mask = param.i32(12);
    if (mask != MASK_NONE && !(config.speculative && mask == MASK_SPEC))
        return wrong("masks are simulated with SPEC only");
    if (config.speculative && is310p())
        return wrong("SPEC on Atlas 300I DUO depends on the version and is refused");
    *made = std::make_unique<PagedAttention>(config);
    return atb::NO_ERROR;
}

}  // namespace sim
