// Rope: the rotation of q and k by positions that the client gathered into cos and sin, a row a token.
#include <cmath>
#include <limits>

#include "../kernel.h"

namespace sim {
namespace {

class Rope final : public Kernel {
  public:
    Rope(int coefficient, bool perSequence)
        : Kernel("Rope", "Rope", 5, 2), coefficient_(coefficient), perSequence_(perSequence) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        const auto wrong = [](const char *why) { return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Rope: %s", why); };
        if (in[0].shape.count != 2 || in[1].shape.count != 2)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM_NUM,
                          "Rope: q and k are simulated as [tokens, heads x size]");
        if (in[2].shape.count != 2 || !sameShape(in[2].shape, in[3].shape))
            return wrong("cos and sin are two matrices of one shape");
        if (in[0].shape.dims[0] != in[1].shape.dims[0]) return wrong("q and k have another number of tokens");
        const int64_t size = in[2].shape.dims[1], q = in[0].shape.dims[1], k = in[1].shape.dims[1];
        if (coefficient_ != 2 && coefficient_ != 4 && coefficient_ != size)
            return wrong("rotaryCoeff is 2, 4 or the columns of cos");
        if (size % coefficient_ || size < 16 || size > 4096) return wrong("the columns of cos");
        if (q % k || k % size) return wrong("q, k and cos do not divide each other");
        out = {in[0], in[1]};
        return atb::NO_ERROR;
    }

    Status check(const std::vector<Tensor> &in, const std::vector<Tensor> &) const override {
        if (!in[4].device) return refuse(atb::ERROR_INVALID_TENSOR_ADDR, "Rope: seqLen has no deviceData");
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        const int64_t tokens = launch.in[0].dim(0);
        std::vector<int64_t> rows(static_cast<size_t>(tokens));
        for (int64_t t = 0; t < tokens; t++) rows[size_t(t)] = t;
        if (perSequence_) {
            int64_t t = 0;
            for (int64_t b = 0; b < launch.in[4].size(); b++) {
                for (int32_t i = 0; i < launch.in[4].ints()[b] && t < tokens; i++) rows[size_t(t++)] = i;
            }
            if (t != tokens) return launch.fail("seqLen does not add up to the tokens");
        }
        const std::vector<float> cosine = load(launch.in[2]), sine = load(launch.in[3]);
        for (int i = 0; i < 2; i++)
            turn(launch.in[size_t(i)], launch.out[size_t(i)], cosine, sine, rows, launch.in[2]);
        return 0;
    }

  private:
    // Which number is turned into this one, and with which sign.
    void partner(int64_t d, int64_t size, int64_t *other, float *sign) const {
        const int64_t group = coefficient_ == size ? 2 : 2 * (size / coefficient_), half = group / 2;
        const bool first = d % group < half;
        *other = first ? d + half : d - half;
        *sign = first ? -1.0f : 1.0f;
    }

    void turn(const Operand &from, const Operand &to, const std::vector<float> &cosine,
              const std::vector<float> &sine, const std::vector<int64_t> &rows, const Operand &table) const {
        const int64_t size = table.dim(1), width = from.dim(1);
        const std::vector<float> x = load(from);
        std::vector<float> y(x.size());
        for (int64_t t = 0; t < from.dim(0); t++) {
            const int64_t row = rows[size_t(t)];
            const bool there = row <
                               table.dim(0);  // the number of rows is not checked: what is not there is garbage
            for (int64_t i = 0; i < width; i++) {
                const int64_t d = i % size;
                int64_t other;
                float sign;
                partner(d, size, &other, &sign);
                const size_t at = size_t(row * size + d);
                y[size_t(t * width + i)] = !there ? std::numeric_limits<float>::quiet_NaN()
                                                  : x[size_t(t * width + i)] * cosine[at] +
                                                        sign * x[size_t(t * width + i - d + other)] * sine[at];
            }
        }
        store(y, to);
    }

    const int64_t coefficient_;
    const bool perSequence_;
};

}  // namespace

Status makeRope(Bytes param, Made *made) {
    if (!param.zero(8, 16)) return refuse(atb::ERROR_INVALID_PARAM, "RopeParam: rsv is not zero");
    const int coefficient = param.i32(0), format = param.i32(4);
    if (coefficient < 2 || format < 0 || format > 1)
        return refuse(atb::ERROR_INVALID_PARAM, "RopeParam: rotaryCoeff %d, cosFormat %d", coefficient, format);
    *made = std::make_unique<Rope>(coefficient, format == 1);
    return atb::NO_ERROR;
}

}  // namespace sim
