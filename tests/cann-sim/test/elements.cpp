// The operations on elements, and those that move them.
#include <algorithm>

#include "bench.h"

namespace {

using atb::Tensor;

atb::infer::ElewiseParam elewise(int type) {
    atb::infer::ElewiseParam param;
    param.elewiseType = type;
    return param;
}

Doubles doubles(const Floats &values) {
    return Doubles(values.begin(), values.end());
}

TEST(add_and_multiply) {
    Bench bench;
    const Floats a = {1, 2, 3, 4, 5, 6}, b = {10, 20, 30};
    const Tensor x = bench.upload(a, F16, {2, 3}), y = bench.upload(b, F16, {3}), z = bench.empty(F16, {2, 3});
    EQ(bench.once(elewise(8), {x, y}, {z}), 0);
    NEAR(bench.read(z), (Doubles{11, 22, 33, 14, 25, 36}), 0);
    EQ(bench.once(elewise(9), {x, y}, {z}), 0);
    NEAR(bench.read(z), (Doubles{10, 40, 90, 40, 100, 180}), 0);
    EQ(bench.once(elewise(8), {x, bench.upload({10, 20}, F16, {2, 1})}, {z}), 0);
    NEAR(bench.read(z), (Doubles{11, 12, 13, 24, 25, 26}), 0);
    const Tensor whole = bench.empty(INT64, {2});
    EQ(bench.once(elewise(8), {bench.upload({1e9f, 1}, INT64, {2}), bench.upload({1e9f, 2}, INT64, {2})}, {whole}),
       0);
    NEAR(bench.read(whole), (Doubles{2e9, 3}), 0);
    auto muls = elewise(2);
    muls.mulsParam.varAttr = 0.5f;
    EQ(bench.once(muls, {x}, {z}), 0);
    NEAR(bench.read(z), (Doubles{0.5, 1, 1.5, 2, 2.5, 3}), 0);
    // f16 ends at 65504.
    EQ(bench.once(elewise(8), {bench.upload({60000, 1}, F16, {2}), bench.upload({10000, 2048}, F16, {2})},
                  {Tensor(bench.empty(F16, {2}))}),
       0);
}

TEST(cast) {
    Bench bench;
    auto param = elewise(1);
    param.outTensorType = F16;
    const Tensor half = bench.empty(F16, {3});
    EQ(bench.once(param, {bench.upload({1.0f / 3, 70000, 2049}, F32, {3})}, {half}), 0);
    const Floats rounded = bench.read(half);
    EQ(rounded[0], 0.333251953125f);
    CHECK(std::isinf(rounded[1]));
    EQ(rounded[2], 2048);  // to even
    param.outTensorType = F32;
    const Tensor back = bench.empty(F32, {3});
    EQ(bench.once(param, {half}, {back}), 0);
    EQ(bench.read(back)[0], 0.333251953125f);
    param.outTensorType = INT64;
    const Tensor wide = bench.empty(INT64, {2});
    EQ(bench.once(param, {bench.upload({-5, 7}, INT32, {2})}, {wide}), 0);
    NEAR(bench.read(wide), (Doubles{-5, 7}), 0);
    param.outTensorType = BF16;
    EQ(bench.once(param, {half}, {bench.empty(BF16, {3})}), 13);  // not directly
}

// Every f16 is what its bits say, and comes back; what lies between two goes to the nearer one, or to the even one.
TEST(half_precision) {
    for (uint32_t bits = 0; bits < 0x7c00; bits++) {
        const auto number = [](uint32_t half) {
            const int exponent = int(half >> 10);
            return std::ldexp(double(half & 0x3ff) + (exponent ? 1024 : 0), std::max(exponent, 1) - 25);
        };
        const float value = sim::f16ToFloat(uint16_t(bits));
        EQ(value, float(number(bits)));
        EQ(sim::floatToF16(value), bits);
        EQ(sim::floatToF16(-value), bits | 0x8000);
        EQ(sim::f16ToFloat(uint16_t(bits | 0x8000)), -value);
        const double middle = (number(bits) + number(bits + 1)) / 2;
        EQ(sim::floatToF16(float(middle)), bits + (bits & 1));
        EQ(sim::floatToF16(std::nextafter(float(middle), 0.0f)), bits);
        EQ(sim::floatToF16(std::nextafter(float(middle), 1e9f)), bits + 1);
    }
    CHECK(std::isnan(sim::f16ToFloat(sim::floatToF16(NAN))) && std::isnan(sim::bf16ToFloat(sim::floatToBf16(NAN))));
    EQ(sim::f16ToFloat(0x7c00), INFINITY);
    EQ(sim::floatToBf16(1 + 1 / 256.0f), 0x3f80);  // halfway: to even
    EQ(sim::floatToBf16(1 + 3 / 256.0f), 0x3f82);
}

TEST(quantise) {
    Bench bench;
    const Tensor rows = bench.upload({1, -2, 0.5f, 0, 100, 200}, F16, {2, 3}), q = bench.empty(INT8, {2, 3}),
                 scale = bench.empty(F32, {2});
    EQ(bench.once(elewise(19), {rows}, {q, scale}), 0);
    NEAR(bench.read(scale), (Doubles{2.0 / 127, 200.0 / 127}), 1e-7);
    NEAR(bench.read(q), (Doubles{64, -127, 32, 0, 64, 127}), 0);
    const Tensor channels = bench.upload({0.5f, 1, 2}, F16, {3}), offset = bench.upload({1, 0, -1}, INT8, {3});
    EQ(bench.once(elewise(17), {rows, channels, offset}, {q}), 0);
    NEAR(bench.read(q), (Doubles{3, -2, -1, 1, 100, 99}), 0);  // 0.25 rounds to 0; 100 - 1
    Tensor none;
    none.desc = desc(INT8, {});
    EQ(bench.once(elewise(17), {rows, channels, none}, {q}), 0);
    NEAR(bench.read(q), (Doubles{2, -2, 0, 0, 100, 100}), 0);
}

TEST(activations) {
    Bench bench;
    const Floats x = {-3, -1, 0, 2, 4, 1, 2, 3};
    const auto silu = [](double value) { return value / (1 + std::exp(-value)); };
    atb::infer::ActivationParam param;
    param.activationType = 4;
    const Tensor in = bench.upload(x, F32, {2, 4}), half = bench.upload(x, F16, {2, 4}),
                 y = bench.empty(F16, {2, 4});
    EQ(bench.once(param, {half}, {y}), 0);
    Doubles expected;
    for (float value : x) expected.push_back(silu(double(value)));
    NEAR(bench.read(y), expected, 6e-4);
    param.activationType = 6;
    const Tensor gated = bench.empty(F32, {2, 2});
    EQ(bench.once(param, {in}, {gated}), 0);
    NEAR(bench.read(gated), (Doubles{0, silu(-1) * 2, silu(4) * 2, silu(1) * 3}), 1e-6);
}

TEST(gather_slice_split_concat_transpose) {
    Bench bench;
    Floats x(24);
    std::iota(x.begin(), x.end(), 0.0f);
    const Tensor all = bench.upload(x, F16, {4, 6});
    const Tensor picked = bench.empty(F16, {2, 6});
    EQ(bench.once(atb::infer::GatherParam(), {all, bench.upload({3, 1}, INT32, {2})}, {picked}), 0);
    NEAR(bench.read(picked), (Doubles{18, 19, 20, 21, 22, 23, 6, 7, 8, 9, 10, 11}), 0);
    EQ(bench.once(atb::infer::GatherParam(), {all, bench.upload({0, 2}, INT64, {2})}, {picked}), 0);
    EQ(bench.read(picked)[6], 12);
    atb::infer::SliceParam slice;
    slice.offsets = {1, 2};
    slice.size = {2, -1};
    const Tensor part = bench.empty(F16, {2, 4});
    EQ(bench.once(slice, {all}, {part}), 0);
    NEAR(bench.read(part), (Doubles{8, 9, 10, 11, 14, 15, 16, 17}), 0);
    atb::infer::SplitParam split;
    split.splitDim = 1;
    split.splitNum = 3;
    split.splitSizes = {3, 2, 1};
    const Tensor a = bench.empty(F16, {4, 3}), b = bench.empty(F16, {4, 2}), c = bench.empty(F16, {4, 1});
    EQ(bench.once(split, {all}, {a, b, c}), 0);
    NEAR(bench.read(b), (Doubles{3, 4, 9, 10, 15, 16, 21, 22}), 0);
    NEAR(bench.read(c), (Doubles{5, 11, 17, 23}), 0);
    atb::infer::SplitParam halves;
    halves.splitDim = -1;
    const Tensor left = bench.empty(F16, {4, 3}), right = bench.empty(F16, {4, 3});
    EQ(bench.once(halves, {all}, {left, right}), 0);
    EQ(bench.read(right)[0], 3);
    atb::infer::ConcatParam concat;
    concat.concatDim = 1;
    const Tensor whole = bench.empty(F16, {4, 6});
    EQ(bench.once(concat, {left, right}, {whole}), 0);
    NEAR(bench.read(whole), doubles(x), 0);
    atb::infer::TransposeParam turn;
    turn.perm = {1, 0, 2};
    const Tensor turned = bench.empty(F16, {2, 4, 3});
    EQ(bench.once(turn, {bench.upload(x, F16, {4, 2, 3})}, {turned}), 0);
    NEAR(bench.read(turned),
         (Doubles{0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20, 3, 4, 5, 9, 10, 11, 15, 16, 17, 21, 22, 23}), 0);
    // Last, for it costs the device: an index outside the table.
    EQ(bench.once(atb::infer::GatherParam(), {all, bench.upload({3, 4}, INT32, {2})}, {picked}), 507015);
    CHECK(std::strstr(aquilaSimLastFailure(), "index 4 of 4"));
}

TEST(nz_and_back) {
    Bench bench;
    const int64_t rows = 19, columns = 37;
    const Floats x = [&] {
        Floats values = randoms(size_t(rows * columns));
        for (float &v : values) v = stored(v, F16);
        return values;
    }();
    atb::infer::TransdataParam param;
    param.transdataType = 2;
    const Tensor nz = bench.empty(F16, {1, 3, 32, 16}, NZ), back = bench.empty(F16, {1, rows, columns});
    EQ(bench.once(param, {bench.upload(x, F16, {rows, columns})}, {nz}), 0);
    const Floats tiled = bench.read(nz);
    for (int64_t r = 0; r < 32; r++) {
        for (int64_t c = 0; c < 48; c++) {
            const float expected = r < rows && c < columns ? x[size_t(r * columns + c)] : 0;
            EQ(tiled[size_t((c / 16 * 32 + r) * 16 + c % 16)], expected);
        }
    }
    param.transdataType = 1;
    param.outCrops = {rows, columns};
    EQ(bench.once(param, {nz}, {back}), 0);
    NEAR(bench.read(back), doubles(x), 0);
}

TEST(from_logits_to_tokens) {
    Bench bench;
    const Floats x = {1, 3, 2, -1, 0, 0.5f, 7, 7};
    const Tensor logits = bench.upload(x, F16, {2, 4});
    atb::infer::SoftmaxParam softmax;
    softmax.axes = {-1};
    const Tensor probs = bench.empty(F16, {2, 4});
    EQ(bench.once(softmax, {logits}, {probs}), 0);
    Doubles expected;
    for (int row = 0; row < 2; row++) {
        double sum = 0;
        for (int i = 0; i < 4; i++) sum += std::exp(double(x[size_t(row * 4 + i)]));
        for (int i = 0; i < 4; i++) expected.push_back(std::exp(double(x[size_t(row * 4 + i)])) / sum);
    }
    NEAR(bench.read(probs), expected, 6e-4);
    atb::infer::SortParam sort;
    sort.num = {3};
    const Tensor values = bench.empty(F16, {2, 3}), indices = bench.empty(INT32, {2, 3});
    EQ(bench.once(sort, {logits}, {values, indices}), 0);
    NEAR(bench.read(values), (Doubles{3, 2, 1, 7, 7, 0.5}), 0);
    NEAR(bench.read(indices), (Doubles{1, 2, 0, 2, 3, 1}), 0);
    // As many as there are, and no more.
    sort.num = {4};
    const Tensor four = bench.empty(F16, {2, 4}), places = bench.empty(INT32, {2, 4});
    EQ(bench.once(sort, {logits}, {four, places}), 0);
    NEAR(bench.read(places), (Doubles{1, 2, 0, 3, 2, 3, 1, 0}), 0);
    sort.num = {5};
    EQ(bench.once(sort, {logits}, {bench.empty(F16, {2, 5}), bench.empty(INT32, {2, 5})}), 1);
    sort.num = {0};
    EQ(bench.once(sort, {logits}, {four, places}), 1);
    atb::infer::TopkToppSamplingParam sampling;
    sampling.topk = 2;
    const Tensor chosen = bench.empty(INT32, {2, 1}), chance = bench.empty(F16, {2, 1});
    EQ(bench.once(sampling, {probs, bench.upload({0.1f, 0.1f}, F16, {2, 1})}, {chosen, chance}), 0);
    NEAR(bench.read(chosen), (Doubles{1, 2}), 0);
    NEAR(bench.read(chance), (Doubles{expected[1], expected[6]}), 1e-3);
}

}  // namespace
