// The attention operations, against softmax in double precision.
#include <algorithm>
#include <limits>

#include "bench.h"
#include "plain.h"

namespace {

using atb::Tensor;

atb::infer::SelfAttentionParam encoder(int heads, int kvHeads, int64_t size, int mask) {
    atb::infer::SelfAttentionParam param;
    param.headNum = heads;
    param.kvHeadNum = kvHeads;
    param.qkScale = float(1 / std::sqrt(double(size)));
    param.calcType = 3;
    param.maskType = mask;
    return param;
}

TEST(attention_over_prompts) {
    Bench bench;
    const int64_t heads = 4, kvHeads = 2, size = 16;
    std::vector<int32_t> lengths = {150, 3, 20};  // the first is longer than a tile of 128
    const int64_t tokens = 173;
    for (const int dtype : {F16, BF16}) {
        const Floats q = storedAs(randoms(size_t(tokens * heads * size), 2), dtype),
                     k = storedAs(randoms(size_t(tokens * kvHeads * size), 2, 2), dtype),
                     v = storedAs(randoms(size_t(tokens * kvHeads * size), 1, 3), dtype);
        Doubles expected, open;
        for (int64_t b = 0, first = 0; b < 3; first += lengths[size_t(b++)]) {
            const auto part = [&](const Floats &all, int64_t width) {
                return Floats(all.begin() + first * width, all.begin() + (first + lengths[size_t(b)]) * width);
            };
            for (const bool causal : {true, false}) {
                const Doubles one = attention(part(q, heads * size), part(k, kvHeads * size),
                                              part(v, kvHeads * size), lengths[size_t(b)], lengths[size_t(b)],
                                              heads, kvHeads, size, causal);
                (causal ? expected : open).insert((causal ? expected : open).end(), one.begin(), one.end());
            }
        }
        const std::vector<Tensor> qkv = {bench.upload(q, dtype, {tokens, heads, size}),
                                         bench.upload(k, dtype, {tokens, kvHeads, size}),
                                         bench.upload(v, dtype, {tokens, kvHeads, size})};
        const Tensor out = bench.empty(dtype, {tokens, heads, size}), seqLen = withHost(bench, &lengths);
        // f16 masks are added, bf16 masks are 0 and 1.
        const float masked = dtype == F16 ? -10000.0f : 1.0f;
        const Tensor mask = bench.upload(triangle(256, masked), dtype, {256, 256});
        EQ(bench.once(encoder(4, 2, size, 0), {qkv[0], qkv[1], qkv[2], seqLen}, {out}), 0);
        NEAR(bench.read(out), open, toleranceOf(dtype));
        auto param = encoder(4, 2, size, 1);
        EQ(bench.once(param, {qkv[0], qkv[1], qkv[2], mask, seqLen}, {out}), 0);
        NEAR(bench.read(out), expected, toleranceOf(dtype));
        param.isTriuMask = 1;
        EQ(bench.once(param, {qkv[0], qkv[1], qkv[2], mask, seqLen}, {out}), 0);
        NEAR(bench.read(out), expected, toleranceOf(dtype));
        param.maskType = 3;
        const Tensor small = bench.upload(triangle(128, masked), dtype, {128, 128});
        EQ(bench.once(param, {qkv[0], qkv[1], qkv[2], small, seqLen}, {out}), 0);
        NEAR(bench.read(out), expected, toleranceOf(dtype));
        if (dtype == BF16) continue;
        // The high precision kernel takes 0 and 1 in f16 as well; an additive mask does nothing good there.
        param = encoder(4, 2, size, 1);
        param.kernelType = 1;
        EQ(bench.once(param, {qkv[0], qkv[1], qkv[2], bench.upload(triangle(256, 1), F16, {256, 256}), seqLen},
                      {out}),
           0);
        NEAR(bench.read(out), expected, toleranceOf(F16));
        EQ(bench.once(param, {qkv[0], qkv[1], qkv[2], mask, seqLen}, {out}), 0);
        const Floats wrong = bench.read(out);
        double worst = 0;
        for (size_t i = 0; i < wrong.size(); i++)
            worst = std::max(worst, std::isnan(wrong[i]) ? 1e9 : std::fabs(double(wrong[i]) - expected[i]));
        CHECK(worst > 0.1);
    }
}

TEST(attention_clamps_scores) {
    Bench bench;
    std::vector<int32_t> lengths = {2};
    // Scores 0 and 100; clamped to 1 the second token weighs e times the first.
    const Floats q(32, 1.0f), v = [] {
        Floats all(32, 0.0f);
        std::fill(all.begin() + 16, all.end(), 1.0f);
        return all;
    }();
    Floats k(32, 0.0f);
    std::fill(k.begin() + 16, k.end(), 100.0f / 16);
    auto param = encoder(1, 1, 16, 0);
    param.qkScale = 1;
    param.clampType = 1;
    param.clampMin = -1;
    param.clampMax = 1;
    const Tensor out = bench.empty(F16, {2, 1, 16});
    EQ(bench.once(param,
                  {bench.upload(q, F16, {2, 1, 16}), bench.upload(k, F16, {2, 1, 16}),
                   bench.upload(v, F16, {2, 1, 16}), withHost(bench, &lengths)},
                  {out}),
       0);
    NEAR(bench.read(out), Doubles(32, std::exp(1.0) / (1 + std::exp(1.0))), 1e-3);
}

// Keys and values into a paged cache and attention over it, on either card.
void pagedAttention(bool nz, int dtype) {
    Bench bench;
    const int64_t heads = 4, kvHeads = 2, size = 32, block = 16, blocks = 7, width = kvHeads * size;
    std::vector<int32_t> contexts = {37, 5};
    const std::vector<std::vector<int>> tables = {{4, 0, 6}, {2, 0, 0}};
    const Shape cacheShape = nz ? Shape{blocks, width / 16, block, 16} : Shape{blocks, block, kvHeads, size};
    const float hole = std::numeric_limits<float>::quiet_NaN();
    const Tensor keyCache = bench.upload(Floats(size_t(blocks * block * width), hole), dtype, cacheShape,
                                         nz ? NZ : ND);
    const Tensor valueCache = bench.upload(Floats(size_t(blocks * block * width), hole), dtype, cacheShape,
                                           nz ? NZ : ND);
    Doubles expected;
    Floats queries;
    for (size_t b = 0; b < 2; b++) {
        const int64_t tokens = contexts[b];
        const Floats k = storedAs(randoms(size_t(tokens * width), 1, unsigned(10 + b)), dtype),
                     v = storedAs(randoms(size_t(tokens * width), 1, unsigned(20 + b)), dtype);
        const Floats q = storedAs(randoms(size_t(heads * size), 1, unsigned(30 + b)), dtype);
        Floats slots;
        for (int64_t t = 0; t < tokens; t++)
            slots.push_back(float(tables[b][size_t(t / block)] * block + t % block));
        // One token more, which a negative slot keeps out of the cache.
        Floats kMore = k, vMore = v;
        kMore.insert(kMore.end(), size_t(width), 9.0f);
        vMore.insert(vMore.end(), size_t(width), 9.0f);
        slots.push_back(-1);
        const Tensor tk = bench.upload(kMore, dtype, {tokens + 1, kvHeads, size}),
                     tv = bench.upload(vMore, dtype, {tokens + 1, kvHeads, size});
        EQ(bench.once(atb::infer::ReshapeAndCacheParam(),
                      {tk, tv, keyCache, valueCache, bench.upload(slots, INT32, {tokens + 1})},
                      {keyCache, valueCache}),
           0);
        const Doubles one = attention(q, k, v, 1, tokens, heads, kvHeads, size, false);
        expected.insert(expected.end(), one.begin(), one.end());
        queries.insert(queries.end(), q.begin(), q.end());
        // The place of one number by the formula of the reference.
        const int64_t t = tokens - 1, slot = int64_t(slots[size_t(t)]), column = width - 3;
        const int64_t at = nz ? ((slot / block * (width / 16) + column / 16) * block + slot % block) * 16 +
                                    column % 16
                              : slot * width + column;
        EQ(bench.read(keyCache)[size_t(at)], k[size_t(t * width + column)]);
    }
    atb::infer::PagedAttentionParam param;
    param.headNum = int(heads);
    param.kvHeadNum = int(kvHeads);
    param.qkScale = float(1 / std::sqrt(double(size)));
    const Tensor q = bench.upload(queries, dtype, {2, heads, size}),
                 table = bench.upload({4, 0, 6, 2, 0, 0}, INT32, {2, 3}),
                 out = bench.empty(dtype, {2, heads, size});
    Tensor lengths = withHost(bench, &contexts);
    EQ(bench.once(param, {q, keyCache, valueCache, table, lengths}, {out}), 0);
    NEAR(bench.read(out), expected, toleranceOf(dtype));
    // 910B reads the lengths of the host, 310P those of the device: whichever is wrong shows on its card only.
    std::vector<int32_t> wrong = {1, 1};
    lengths.hostData = wrong.data();
    EQ(bench.once(param, {q, keyCache, valueCache, table, lengths}, {out}), 0);
    const bool changed = std::fabs(double(bench.read(out)[0]) - expected[0]) > 1e-2;
    EQ(changed, !nz);
}

TEST(paged_attention_910b) {
    pagedAttention(false, F16);
    pagedAttention(false, BF16);
}

TEST(paged_attention_310p) {
    setenv("AQUILA_SIM_SOC", "Ascend310P3", 1);
    pagedAttention(true, F16);
}

TEST(paged_attention_over_several_queries) {
    Bench bench;
    const int64_t heads = 2, size = 16, block = 16, keys = 20, queries = 6;
    std::vector<int32_t> contexts = {20}, asked = {6};
    const Floats k = storedAs(randoms(size_t(keys * heads * size)), F16),
                 v = storedAs(randoms(size_t(keys * heads * size), 1, 2), F16),
                 q = storedAs(randoms(size_t(queries * heads * size), 1, 3), F16);
    Floats slots(static_cast<size_t>(keys));
    std::iota(slots.begin(), slots.end(), 0.0f);
    const Tensor keyCache = bench.empty(F16, {2, block, heads, size}),
                 valueCache = bench.empty(F16, {2, block, heads, size});
    EQ(bench.once(atb::infer::ReshapeAndCacheParam(),
                  {bench.upload(k, F16, {keys, heads, size}), bench.upload(v, F16, {keys, heads, size}), keyCache,
                   valueCache, bench.upload(slots, INT32, {keys})},
                  {keyCache, valueCache}),
       0);
    Floats mask(size_t(queries * keys), 0.0f);
    for (int64_t t = 0; t < queries; t++) {
        for (int64_t j = keys - queries + t + 1; j < keys; j++) mask[size_t(t * keys + j)] = -10000;
    }
    atb::infer::PagedAttentionParam param;
    param.headNum = param.kvHeadNum = int(heads);
    param.qkScale = 0.25f;
    param.calcType = 1;
    param.maskType = 3;
    const Tensor out = bench.empty(F16, {queries, heads, size});
    EQ(bench.once(
           param,
           {bench.upload(q, F16, {queries, heads, size}), keyCache, valueCache, bench.upload({0, 1}, INT32, {1, 2}),
            withHost(bench, &contexts), bench.upload(mask, F16, {queries, keys}), withHost(bench, &asked)},
           {out}),
       0);
    NEAR(bench.read(out), attention(q, k, v, queries, keys, heads, heads, size, true), toleranceOf(F16));
}

TEST(attention_with_an_nz_mask) {
    setenv("AQUILA_SIM_SOC", "Ascend310P3", 1);
    Bench bench;
    const int64_t heads = 2, size = 16, tokens = 20;
    std::vector<int32_t> lengths = {20};
    const Floats q = storedAs(randoms(size_t(tokens * heads * size)), F16),
                 k = storedAs(randoms(size_t(tokens * heads * size), 1, 2), F16),
                 v = storedAs(randoms(size_t(tokens * heads * size), 1, 3), F16);
    const Tensor out = bench.empty(F16, {tokens, heads, size});
    const std::vector<Tensor> qkv = {bench.upload(q, F16, {tokens, heads, size}),
                                     bench.upload(k, F16, {tokens, heads, size}),
                                     bench.upload(v, F16, {tokens, heads, size})};
    const Tensor mask = bench.upload(toNz(triangle(32, -10000), 32, 32, 16, 0), F16, {1, 2, 32, 16}, NZ);
    EQ(bench.once(encoder(2, 2, size, 1), {qkv[0], qkv[1], qkv[2], mask, withHost(bench, &lengths)}, {out}), 0);
    NEAR(bench.read(out), attention(q, k, v, tokens, tokens, heads, heads, size, true), toleranceOf(F16));
    const Tensor small = bench.upload(toNz(triangle(128, -10000), 128, 128, 16, 0), F16, {1, 8, 128, 16}, NZ);
    EQ(bench.once(encoder(2, 2, size, 3), {qkv[0], qkv[1], qkv[2], small, withHost(bench, &lengths)}, {out}), 0);
    NEAR(bench.read(out), attention(q, k, v, tokens, tokens, heads, heads, size, true), toleranceOf(F16));
}

}  // namespace
