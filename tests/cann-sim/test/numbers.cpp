// What each operation computes, against the plain formula in double precision on the numbers as they are stored.
#include <algorithm>
#include <limits>

#include "bench.h"
#include "plain.h"

namespace {

using atb::Tensor;

TEST(linear_in_floats) {
    Bench bench;
    const int64_t m = 5, n = 24, k = 48;
    for (const int dtype : {F16, BF16, F32}) {
        const Floats x = storedAs(randoms(size_t(m * k)), dtype), w = storedAs(randoms(size_t(n * k), 1, 2), dtype),
                     b = storedAs(randoms(size_t(n), 1, 3), dtype);
        const Tensor y = bench.empty(dtype, {m, n});
        atb::infer::LinearParam param;
        param.hasBias = false;
        EQ(bench.once(param, {bench.upload(x, dtype, {m, k}), bench.upload(w, dtype, {n, k})}, {y}), 0);
        NEAR(bench.read(y), matmul(x, w, m, n, k), toleranceOf(dtype));
        param.hasBias = true;
        EQ(bench.once(param,
                      {bench.upload(x, dtype, {m, k}), bench.upload(w, dtype, {n, k}), bench.upload(b, dtype, {n})},
                      {y}),
           0);
        NEAR(bench.read(y), matmul(x, w, m, n, k, b), toleranceOf(dtype));
        Floats turned(w.size());
        for (int64_t i = 0; i < n; i++) {
            for (int64_t l = 0; l < k; l++) turned[size_t(l * n + i)] = w[size_t(i * k + l)];
        }
        param.hasBias = false;
        param.transposeB = false;
        EQ(bench.once(param, {bench.upload(x, dtype, {m, k}), bench.upload(turned, dtype, {k, n})}, {y}), 0);
        NEAR(bench.read(y), matmul(x, w, m, n, k), toleranceOf(dtype));
    }
}

TEST(linear_with_an_nz_weight) {
    Bench bench;
    const int64_t m = 3, n = 40, k = 32;  // 40 outputs are padded to 48
    const Floats x = storedAs(randoms(size_t(m * k)), F16), w = storedAs(randoms(size_t(n * k), 1, 2), F16);
    const Floats tiled = toNz(w, n, k, 16, std::numeric_limits<float>::quiet_NaN());
    atb::infer::LinearParam param;
    param.hasBias = false;
    // In four dimensions the padding is part of the output: garbage there, and right in front of it.
    const Tensor wide = bench.empty(F16, {m, 48});
    EQ(bench.once(param, {bench.upload(x, F16, {m, k}), bench.upload(tiled, F16, {1, k / 16, 48, 16}, NZ)}, {wide}),
       0);
    const Floats all = bench.read(wide);
    Floats real;
    for (int64_t i = 0; i < m; i++) real.insert(real.end(), all.begin() + i * 48, all.begin() + i * 48 + n);
    NEAR(real, matmul(x, w, m, n, k), toleranceOf(F16));
    CHECK(std::isnan(all[47]));
    // In two dimensions the desc is logical and the buffer padded.
    Tensor logical = bench.upload(tiled, F16, {1, k / 16, 48, 16}, NZ);
    logical.desc = desc(F16, {n, k}, NZ);
    logical.dataSize = uint64_t(n * k * 2);
    const Tensor y = bench.empty(F16, {m, n});
    EQ(bench.once(param, {bench.upload(x, F16, {m, k}), logical}, {y}), 0);
    NEAR(bench.read(y), matmul(x, w, m, n, k), toleranceOf(F16));
    // A buffer of the logical size is too small.
    EQ(bench.once(param, {bench.upload(x, F16, {m, k}), bench.empty(F16, {n, k}, NZ)}, {y}), 507053);
}

TEST(linear_in_int8) {
    Bench bench;
    const int64_t m = 4, n = 32, k = 64;
    Floats x = randoms(size_t(m * k), 127), w = randoms(size_t(n * k), 127, 2);
    for (float &value : x) value = std::round(value);
    for (float &value : w) value = std::round(value);
    Floats scale = randoms(size_t(n), 0.001f, 4), tokens = randoms(size_t(m), 1, 5);
    std::vector<uint64_t> bits(static_cast<size_t>(n));
    atb::Utils::QuantParamConvert(scale.data(), bits.data(), uint64_t(n));
    Tensor deq = bench.empty(UINT64, {n});
    EQ(aclrtMemcpy(deq.deviceData, deq.dataSize, bits.data(), deq.dataSize, HOST_TO_DEVICE), 0);
    const Tensor qx = bench.upload(x, INT8, {m, k}), qw = bench.upload(w, INT8, {n, k}),
                 y = bench.empty(F16, {m, n});
    Doubles expected = matmul(x, w, m, n, k), scaled = expected;
    for (size_t i = 0; i < scaled.size(); i++) scaled[i] *= double(scale[i % size_t(n)]);
    atb::infer::LinearParam param;
    param.hasBias = false;
    param.outDataType = F16;
    param.quantMode = 1;
    EQ(bench.once(param, {qx, qw, deq}, {y}), 0);
    NEAR(bench.read(y), scaled, toleranceOf(F16));
    // The weight in NZ, 32 columns a fractal.
    EQ(bench.once(param, {qx, bench.upload(toNz(w, n, k, 32, 99), INT8, {1, k / 32, n, 32}, NZ), deq}, {y}), 0);
    NEAR(bench.read(y), scaled, toleranceOf(F16));
    // With an int32 bias, which is added before the scale.
    Floats bias = randoms(size_t(n), 5000, 6);
    for (float &value : bias) value = std::round(value);
    param.hasBias = true;
    EQ(bench.once(param, {qx, qw, bench.upload(bias, INT32, {n}), deq}, {y}), 0);
    Doubles biased = expected;
    for (size_t i = 0; i < biased.size(); i++)
        biased[i] = (biased[i] + double(bias[i % size_t(n)])) * double(scale[i % size_t(n)]);
    NEAR(bench.read(y), biased, toleranceOf(F16));
    // A scale for each token too.
    param.hasBias = false;
    param.quantMode = 2;
    EQ(bench.once(param, {qx, qw, bench.upload(scale, F32, {n}), bench.upload(tokens, F32, {m})}, {y}), 0);
    for (size_t i = 0; i < scaled.size(); i++) scaled[i] *= double(tokens[i / size_t(n)]);
    NEAR(bench.read(y), scaled, toleranceOf(F16));
}

TEST(rms_norm) {
    Bench bench;
    const int64_t rows = 3, hidden = 48;
    for (const int dtype : {F16, BF16}) {
        const Floats x = storedAs(randoms(size_t(rows * hidden), 3), dtype),
                     r = storedAs(randoms(size_t(rows * hidden), 2, 2), dtype),
                     g = storedAs(randoms(size_t(hidden), 1, 3), dtype);
        const auto norm = [&](const Floats &residual) {
            Doubles y(x.size());
            for (int64_t i = 0; i < rows; i++) {
                double sum = 0;
                const auto at = [&](int64_t c) {
                    return double(x[size_t(i * hidden + c)]) +
                           (residual.empty() ? 0 : double(residual[size_t(i * hidden + c)]));
                };
                for (int64_t c = 0; c < hidden; c++) sum += at(c) * at(c);
                for (int64_t c = 0; c < hidden; c++)
                    y[size_t(i * hidden + c)] = at(c) / std::sqrt(sum / double(hidden) + 1e-3) *
                                                double(g[size_t(c)]);
            }
            return y;
        };
        const Tensor tx = bench.upload(x, dtype, {rows, hidden}), tr = bench.upload(r, dtype, {rows, hidden}),
                     tg = bench.upload(g, dtype, {hidden});
        const Tensor y = bench.empty(dtype, {rows, hidden}), sum = bench.empty(dtype, {rows, hidden});
        atb::infer::RmsNormParam param;
        param.layerType = 1;
        param.normParam.epsilon = 1e-3f;
        EQ(bench.once(param, {tx, tg}, {y}), 0);
        NEAR(bench.read(y), norm({}), toleranceOf(dtype));
        param.layerType = 2;
        param.preNormParam.epsilon = 1e-3f;
        EQ(bench.once(param, {tx, tr, tg}, {y, sum}), 0);
        NEAR(bench.read(y), norm(r), toleranceOf(dtype));
        Doubles added(x.size());
        for (size_t i = 0; i < x.size(); i++) added[i] = double(x[i]) + double(r[i]);
        NEAR(bench.read(sum), added, toleranceOf(dtype));
        param.layerType = 3;
        param.postNormParam.epsilon = 1e-3f;
        EQ(bench.once(param, {tx, tr, tg}, {y}), 0);
        NEAR(bench.read(y), norm(r), toleranceOf(dtype));
    }
}

TEST(rope) {
    Bench bench;
    const int64_t tokens = 4, qHeads = 4, kHeads = 2, size = 16;
    const Floats q = storedAs(randoms(size_t(tokens * qHeads * size)), F16),
                 k = storedAs(randoms(size_t(tokens * kHeads * size), 1, 2), F16);
    for (const int table : {F16, F32}) {
        for (const int coefficient : {2, 4, 16}) {
            const Floats c = storedAs(randoms(size_t(tokens * size), 1, 3), table),
                         s = storedAs(randoms(size_t(tokens * size), 1, 4), table);
            const auto turned = [&](const Floats &x, int64_t heads) {
                Doubles y(x.size());
                for (size_t i = 0; i < x.size(); i++) {
                    const int64_t d = int64_t(i) % size, t = int64_t(i) / (heads * size), head = int64_t(i) - d;
                    // The halves of the head, or of each of its halves, or of each pair.
                    const int64_t group = coefficient == 2   ? size
                                          : coefficient == 4 ? size / 2
                                                             : 2,
                                  inside = d % group;
                    const double other = inside < group / 2 ? -double(x[size_t(head + d + group / 2)])
                                                            : double(x[size_t(head + d - group / 2)]);
                    y[i] = double(x[i]) * double(c[size_t(t * size + d)]) + other * double(s[size_t(t * size + d)]);
                }
                return y;
            };
            const Tensor qOut = bench.empty(F16, {tokens, qHeads * size}),
                         kOut = bench.empty(F16, {tokens, kHeads * size});
            atb::infer::RopeParam param;
            param.rotaryCoeff = coefficient;
            EQ(bench.once(param,
                          {bench.upload(q, F16, {tokens, qHeads * size}),
                           bench.upload(k, F16, {tokens, kHeads * size}), bench.upload(c, table, {tokens, size}),
                           bench.upload(s, table, {tokens, size}), bench.upload({4}, INT32, {1})},
                          {qOut, kOut}),
               0);
            NEAR(bench.read(qOut), turned(q, qHeads), toleranceOf(F16));
            NEAR(bench.read(kOut), turned(k, kHeads), toleranceOf(F16));
        }
    }
}

}  // namespace
