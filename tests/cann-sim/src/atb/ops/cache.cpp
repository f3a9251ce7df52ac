// ReshapeAndCache: keys and values into the slots of a paged cache, in place.
#include "../kernel.h"

namespace sim {
namespace {

enum { CACHE = 0, CACHE_NZ = 2 };

class ReshapeAndCache final : public Kernel {
  public:
    explicit ReshapeAndCache(bool nz)
        : Kernel("ReshapeAndCache", nz && !is310p() ? "ReshapeAndCache.NZ" : "ReshapeAndCache", 5, 2), nz_(nz) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        const auto wrong = [](const char *why) {
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "ReshapeAndCache: %s", why);
        };
        for (int i = 0; i < 2; i++) {
            const Desc &fresh = in[size_t(i)], &cache = in[size_t(i) + 2];
            if (fresh.shape.count != 3 || cache.shape.count != 4)
                return refuse(atb::ERROR_INVALID_TENSOR_DIM_NUM,
                              "ReshapeAndCache: key and value are 3-D, caches 4-D");
            const int64_t *of = cache.shape.dims, heads = fresh.shape.dims[1], size = fresh.shape.dims[2];
            if (!nz_ && (of[2] != heads || of[3] != size))
                return wrong("the cache is not [blocks, block, heads, size]");
            const int64_t wide = itemSize(cache.dtype) == 1 ? 32 : 16;
            if (nz_ && (of[1] * wide != heads * size || of[3] != wide || of[2] % 16))
                return wrong("the NZ cache is not [blocks, heads x size / 16, block, 16]");
        }
        if (in[0].shape.dims[0] != in[1].shape.dims[0]) return wrong("key and value have another number of tokens");
        if (in[4].shape.count != 1 || in[4].shape.dims[0] != in[0].shape.dims[0])
            return wrong("slots are not [tokens]");
        out = {in[2], in[3]};
        return atb::NO_ERROR;
    }

    Status check(const std::vector<Tensor> &in, const std::vector<Tensor> &out) const override {
        for (size_t i = 0; i < 2; i++) {
            if (in[i + 2].device != out[i].device)
                return refuse(atb::ERROR_INVALID_TENSOR_ADDR, "ReshapeAndCache: cache %zu is not in place", i);
        }
        if (!in[4].device)
            return refuse(atb::ERROR_INVALID_TENSOR_ADDR, "ReshapeAndCache: slots have no deviceData");
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        for (size_t i = 0; i < 2; i++) {
            const Operand &fresh = launch.in[i], &cache = launch.out[i];
            const size_t item = itemSize(fresh.desc.dtype);
            const int64_t width = fresh.dim(1) * fresh.dim(2), block = nz_ ? cache.dim(2) : cache.dim(1);
            const int64_t slots = cache.dim(0) * block, wide = nz_ ? cache.dim(3) : width;
            for (int64_t t = 0; t < fresh.dim(0); t++) {
                const int64_t slot = launch.in[4].ints()[t];
                if (slot < 0) continue;
                if (slot >= slots)
                    return launch.fail("slot " + std::to_string(slot) + " of " + std::to_string(slots));
                for (int64_t c = 0; c < width; c += wide) {
                    const int64_t at = nz_ ? (slot / block * (width / wide) + c / wide) * block * wide +
                                                 slot % block * wide
                                           : slot * width;
                    std::memcpy(cache.data + size_t(at) * item, fresh.data + size_t(t * width + c) * item,
                                size_t(wide) * item);
                }
            }
        }
        return 0;
    }

  private:
    const bool nz_;
};

}  // namespace

Status makeReshapeAndCache(Bytes param, Made *made) {
    if (!param.zero(8, 24)) return refuse(atb::ERROR_INVALID_PARAM, "ReshapeAndCacheParam: rsv is not zero");
    const int compress = param.i32(0), config = param.i32(4);
    if (compress != 0)
        return refuse(atb::ERROR_INVALID_PARAM, "ReshapeAndCacheParam: compressType is not simulated");
    const bool nzAllowed = !is310p() && atbVersion() >= 80100;
    if (config != CACHE && !(config == CACHE_NZ && nzAllowed))
        return refuse(atb::ERROR_INVALID_PARAM, "ReshapeAndCacheParam: kvCacheCfg %d", config);
    *made = std::make_unique<ReshapeAndCache>(is310p() || config == CACHE_NZ);
    return atb::NO_ERROR;
}

}  // namespace sim
