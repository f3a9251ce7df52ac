// A layer of a LLaMA as one graph for prompts and one for single tokens, as an engine builds them for each card,
// against the formulas in double precision.
#include "bench.h"
#include "plain.h"

namespace {

using atb::Dims;
using atb::Tensor;

constexpr int64_t HIDDEN = 64, HEADS = 4, KV_HEADS = 2, SIZE = 16, INNER = 96, BLOCK = 16, BLOCKS = 3, TOKENS = 37;
constexpr int64_t Q = HEADS * SIZE, KV = KV_HEADS * SIZE;
constexpr float EPSILON = 1e-5f;

struct Weights {
    Floats norm1 = f16(HIDDEN, 1, 1), q = f16(Q * HIDDEN, 0.3f, 2), k = f16(KV * HIDDEN, 0.3f, 3),
           v = f16(KV * HIDDEN, 0.3f, 4), o = f16(HIDDEN * Q, 0.3f, 5), norm2 = f16(HIDDEN, 1, 6),
           gateUp = f16(2 * INNER * HIDDEN, 0.3f, 7), down = f16(HIDDEN * INNER, 0.3f, 8);
    static Floats f16(int64_t count, float size, unsigned seed) {
        return storedAs(randoms(size_t(count), size, seed), F16);
    }
};

double angle(int64_t position, int64_t d) {
    return double(position) * std::pow(10000.0, -double(d % (SIZE / 2)) * 2 / double(SIZE));
}

Doubles norm(const Doubles &x, const Floats &gamma) {
    Doubles y(x.size());
    for (size_t row = 0; row < x.size(); row += HIDDEN) {
        double sum = 0;
        for (size_t i = row; i < row + HIDDEN; i++) sum += x[i] * x[i];
        for (size_t i = row; i < row + HIDDEN; i++)
            y[i] = x[i] / std::sqrt(sum / HIDDEN + EPSILON) * double(gamma[i - row]);
    }
    return y;
}

Floats floats(const Doubles &values) {
    return Floats(values.begin(), values.end());
}

Doubles turned(const Doubles &x, int64_t width) {
    Doubles y(x.size());
    for (size_t i = 0; i < x.size(); i++) {
        const int64_t d = int64_t(i) % SIZE, position = int64_t(i) / width;
        const double other = d < SIZE / 2 ? -x[i + SIZE / 2] : x[i - SIZE / 2];
        y[i] = x[i] * std::cos(angle(position, d)) + other * std::sin(angle(position, d));
    }
    return y;
}

// The layer's output for all tokens of one sequence.
Doubles truth(const Weights &w, const Floats &input) {
    Doubles hidden(input.begin(), input.end());
    const Floats x = floats(norm(hidden, w.norm1));
    const Floats q = floats(turned(matmul(x, w.q, TOKENS, Q, HIDDEN), Q)),
                 k = floats(turned(matmul(x, w.k, TOKENS, KV, HIDDEN), KV));
    const Floats v = floats(matmul(x, w.v, TOKENS, KV, HIDDEN));
    const Floats attended = floats(attention(q, k, v, TOKENS, TOKENS, HEADS, KV_HEADS, SIZE, true));
    const Doubles projected = matmul(attended, w.o, TOKENS, HIDDEN, Q);
    for (size_t i = 0; i < hidden.size(); i++) hidden[i] += projected[i];
    const Doubles both = matmul(floats(norm(hidden, w.norm2)), w.gateUp, TOKENS, 2 * INNER, HIDDEN);
    Floats gated;
    for (int64_t t = 0; t < TOKENS; t++) {
        for (int64_t i = 0; i < INNER; i++) {
            const double gate = both[size_t(t * 2 * INNER + i)], up = both[size_t(t * 2 * INNER + INNER + i)];
            gated.push_back(float(gate / (1 + std::exp(-gate)) * up));
        }
    }
    const Doubles down = matmul(gated, w.down, TOKENS, HIDDEN, INNER);
    for (size_t i = 0; i < hidden.size(); i++) hidden[i] += down[i];
    return hidden;
}

template <class P>
atb::Operation *make(const P &param) {
    atb::Operation *operation = nullptr;
    EQ(atb::CreateOperation(param, &operation), 0);
    return operation;
}

atb::Node node(atb::Operation *operation, atb::SVector<uint32_t> in, atb::SVector<uint32_t> out) {
    atb::Node made;
    made.operation = operation;
    made.inTensorIds = in;
    made.outTensorIds = out;
    return made;
}

// Tensors of the graph: inputs, the output, what lies between.
enum : uint32_t {
    X,
    NORM1,
    WQ,
    WK,
    WV,
    WO,
    NORM2,
    WGATEUP,
    WDOWN,
    COS,
    SIN,
    KEYS,
    VALUES,
    SLOTS,
    LENGTHS,
    EXTRA,
    OUT,
    NORMED,
    Q_FLAT,
    K_FLAT,
    V_FLAT,
    Q_TURNED,
    K_TURNED,
    ATTENDED,
    PROJECTED,
    RESIDUAL,
    NORMED2,
    BOTH,
    GATED,
    DOWN,
    END
};

atb::Operation *layer(bool prompt) {
    const auto heads = [](int64_t count) {
        return [count](const Dims &from, Dims &to) {
            to.dimNum = 3;
            to.dims[0] = from.dims[0];
            to.dims[1] = count;
            to.dims[2] = SIZE;
        };
    };
    const auto flat = [](const Dims &from, Dims &to) {
        to.dimNum = 2;
        to.dims[0] = from.dims[0];
        to.dims[1] = Q;
    };
    atb::infer::RmsNormParam norm;
    norm.layerType = 1;
    norm.normParam.epsilon = EPSILON;
    atb::infer::LinearParam linear;
    linear.hasBias = false;
    atb::infer::RopeParam rope;
    rope.rotaryCoeff = 2;
    atb::infer::ElewiseParam add;
    add.elewiseType = 8;
    atb::infer::ActivationParam gate;
    gate.activationType = 6;
    atb::Node cache = node(make(atb::infer::ReshapeAndCacheParam()), {K_TURNED, V_FLAT, KEYS, VALUES, SLOTS},
                           {KEYS, VALUES});
    cache.inTensorReshapeFuncs = {heads(KV_HEADS), heads(KV_HEADS), {}, {}, {}};
    atb::Node attend;
    if (prompt) {
        atb::infer::SelfAttentionParam param;
        param.headNum = HEADS;
        param.kvHeadNum = KV_HEADS;
        param.qkScale = 0.25f;
        param.calcType = 3;
        param.maskType = 1;
        attend = node(make(param), {Q_TURNED, K_TURNED, V_FLAT, EXTRA, LENGTHS}, {ATTENDED});
        attend.inTensorReshapeFuncs = {heads(HEADS), heads(KV_HEADS), heads(KV_HEADS), {}, {}};
    } else {
        atb::infer::PagedAttentionParam param;
        param.headNum = HEADS;
        param.kvHeadNum = KV_HEADS;
        param.qkScale = 0.25f;
        attend = node(make(param), {Q_TURNED, KEYS, VALUES, EXTRA, LENGTHS}, {ATTENDED});
        attend.inTensorReshapeFuncs = {heads(HEADS), {}, {}, {}, {}};
    }
    atb::Node project = node(make(linear), {ATTENDED, WO}, {PROJECTED});
    project.inTensorReshapeFuncs = {flat, {}};
    atb::GraphParam graph;
    graph.name = prompt ? "prompt" : "token";
    graph.inTensorNum = OUT;
    graph.outTensorNum = 1;
    graph.internalTensorNum = END - NORMED;
    graph.nodes = {node(make(norm), {X, NORM1}, {NORMED}),
                   node(make(linear), {NORMED, WQ}, {Q_FLAT}),
                   node(make(linear), {NORMED, WK}, {K_FLAT}),
                   node(make(linear), {NORMED, WV}, {V_FLAT}),
                   node(make(rope), {Q_FLAT, K_FLAT, COS, SIN, LENGTHS}, {Q_TURNED, K_TURNED}),
                   cache,
                   attend,
                   project,
                   node(make(add), {X, PROJECTED}, {RESIDUAL}),
                   node(make(norm), {RESIDUAL, NORM2}, {NORMED2}),
                   node(make(linear), {NORMED2, WGATEUP}, {BOTH}),
                   node(make(gate), {BOTH}, {GATED}),
                   node(make(linear), {GATED, WDOWN}, {DOWN}),
                   node(make(add), {RESIDUAL, DOWN}, {OUT})};
    return make(graph);
}

void decode(bool nz) {
    Bench bench;
    const Weights w;
    const Floats input = Weights::f16(TOKENS * HIDDEN, 1, 9);
    const Doubles expected = truth(w, input);
    const auto weight = [&](const Floats &values, int64_t n, int64_t k) {
        return nz ? bench.upload(toNz(values, n, k, 16, 0), F16, {1, k / 16, n, 16}, NZ)
                  : bench.upload(values, F16, {n, k});
    };
    const Shape cacheShape = nz ? Shape{BLOCKS, KV / 16, BLOCK, 16} : Shape{BLOCKS, BLOCK, KV_HEADS, SIZE};
    std::vector<Tensor> in(OUT);
    in[NORM1] = bench.upload(w.norm1, F16, {HIDDEN});
    in[WQ] = weight(w.q, Q, HIDDEN);
    in[WK] = weight(w.k, KV, HIDDEN);
    in[WV] = weight(w.v, KV, HIDDEN);
    in[WO] = weight(w.o, HIDDEN, Q);
    in[NORM2] = bench.upload(w.norm2, F16, {HIDDEN});
    in[WGATEUP] = weight(w.gateUp, 2 * INNER, HIDDEN);
    in[WDOWN] = weight(w.down, HIDDEN, INNER);
    in[KEYS] = bench.empty(F16, cacheShape, nz ? NZ : ND);
    in[VALUES] = bench.empty(F16, cacheShape, nz ? NZ : ND);
    const Floats blocks = {2, 0, 1};
    // Tokens from `first` on, in the cache's blocks in an order of their own.
    std::vector<int32_t> lengths(1);
    const auto feed = [&](int64_t first, int64_t count) {
        Floats cosine, sine, slots;
        for (int64_t t = first; t < first + count; t++) {
            for (int64_t d = 0; d < SIZE; d++) {
                cosine.push_back(float(std::cos(angle(t, d))));
                sine.push_back(float(std::sin(angle(t, d))));
            }
            slots.push_back(blocks[size_t(t / BLOCK)] * BLOCK + float(t % BLOCK));
        }
        in[X] = bench.upload(Floats(input.begin() + first * HIDDEN, input.begin() + (first + count) * HIDDEN), F16,
                             {count, HIDDEN});
        in[COS] = bench.upload(cosine, F32, {count, SIZE});
        in[SIN] = bench.upload(sine, F32, {count, SIZE});
        in[SLOTS] = bench.upload(slots, INT32, {count});
        lengths[0] = int32_t(first + count);
        in[LENGTHS] = withHost(bench, &lengths);
    };
    const auto row = [&](int64_t t) {
        return Doubles(expected.begin() + t * HIDDEN, expected.begin() + (t + 1) * HIDDEN);
    };
    atb::Operation *prompt = layer(true), *token = layer(false);
    const int64_t cut = TOKENS - 5;
    feed(0, cut);
    const int64_t side = (cut + 15) / 16 * 16;
    const Floats mask = triangle(side, -10000);
    in[EXTRA] = nz ? bench.upload(toNz(mask, side, side, 16, 0), F16, {1, side / 16, side, 16}, NZ)
                   : bench.upload(mask, F16, {side, side});
    const Tensor all = bench.empty(F16, {cut, HIDDEN}), one = bench.empty(F16, {1, HIDDEN});
    EQ(bench.run(prompt, in, {all}), 0);
    NEAR(bench.read(all), Doubles(expected.begin(), expected.begin() + cut * HIDDEN), 1e-2);
    in[EXTRA] = bench.upload(blocks, INT32, {1, BLOCKS});
    for (int64_t t = cut; t < TOKENS; t++) {
        feed(t, 1);
        EQ(bench.run(token, in, {one}), 0);
        NEAR(bench.read(one), row(t), 1e-2);
    }
    EQ(atb::DestroyOperation(prompt), 0);
    EQ(atb::DestroyOperation(token), 0);
}

TEST(a_layer_on_910b) {
    decode(false);
}

TEST(a_layer_on_310p) {
    setenv("AQUILA_SIM_SOC", "Ascend310P3", 1);
    decode(true);
}

}  // namespace
