// One operation of the device: what it accepts and what it computes.
#pragma once
#include <memory>

#include "../sim.h"
#include "api.h"

namespace sim {

using atb::Status;

// A tensor while a kernel runs.
struct Operand {
    Desc desc;
    uint8_t *data;                     // its device bytes, where kernels find them; null: it has none
    const std::vector<uint8_t> *host;  // its hostData as it was in Setup; null: it had none

    int64_t dim(int i) const { return desc.shape.dims[i]; }
    int64_t size() const { return numel(desc.shape); }
    const int32_t *ints() const { return reinterpret_cast<const int32_t *>(data); }
    // Length tensors that are read on the host.
    const int32_t *hostInts() const { return host ? reinterpret_cast<const int32_t *>(host->data()) : nullptr; }
};

struct Launch {
    std::vector<Operand> in, out;
    void *stream;
    void *prepared;   // what Kernel::prepare gave
    std::string why;  // when run() fails
    int fail(const std::string &text) {
        why = text;
        return 507015;
    }
};

class Kernel {
  public:
    Kernel(std::string kind, std::string column, uint32_t inputs, uint32_t outputs)
        : kind(std::move(kind)),
          column(std::move(column)),
          inputs(inputs),
          outputs(outputs),
          counter(aquilaSimCounter(("kernel:" + this->kind).c_str())) {}
    virtual ~Kernel() = default;
    const std::string kind, column;  // RmsNorm; the section of the table of types
    const uint32_t inputs, outputs;
    SimCounter *const counter;  // of its runs

    // The outputs' descriptions, after the checks of dimensions.
    virtual Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const = 0;
    // What Setup checks beside descriptions: lengths on the host, buffers in place.
    virtual Status check(const std::vector<Tensor> &in, const std::vector<Tensor> &out) const {
        (void)in, (void)out;
        return atb::NO_ERROR;
    }
    // An input that may have no elements.
    virtual bool optionalInput(uint32_t index) const {
        (void)index;
        return false;
    }
    virtual uint64_t workspace(const std::vector<Desc> &in) const {
        (void)in;
        return 512;
    }
    // Collectives: they run even where kernels do nothing, and take their place in the order of the calls, on the
    // caller's thread.
    virtual bool isCollective() const { return false; }
    virtual Status prepare(const std::vector<Tensor> &in, const std::vector<Tensor> &out, void **prepared) const {
        (void)in, (void)out, (void)prepared;
        return atb::NO_ERROR;
    }
    virtual int run(Launch &launch) const = 0;  // 0 or a device code
};

// A refusal, with its reason in the trace and in the thread's error text.
Status refuse(Status code, const char *format, ...) __attribute__((format(printf, 2, 3)));
// The version of ATB whose rules hold, as 80300 for 8.3.0.
int atbVersion();
bool is310p();

// --- numbers (numbers.cpp) ---
float readNumber(const uint8_t *data, int dtype, int64_t index);
void writeNumber(uint8_t *data, int dtype, int64_t index, float value);
void toFloats(const uint8_t *data, int dtype, int64_t first, int64_t count, float *into);
void fromFloats(const float *from, int64_t count, uint8_t *data, int dtype, int64_t first);
std::vector<float> load(const Operand &operand);
void store(const std::vector<float> &values, const Operand &operand);
float dot(const float *a, const float *b, int64_t count);
// body(from, to) over shares of 0..count, on the machine's processors.
void inParallel(int64_t count, const std::function<void(int64_t, int64_t)> &body);
// The place of element (row, column) of a matrix in NZ with this many padded rows and columns a fractal.
inline int64_t nzIndex(int64_t row, int64_t column, int64_t paddedRows, int64_t wide) {
    return (column / wide * paddedRows + row) * wide + column % wide;
}

// --- the table of types (table.cpp) ---
Status matchColumn(const Kernel &kernel, const std::vector<Desc> &in, const std::vector<Desc> &out);

// --- makers, one for each parameter type (ops/) ---
using Made = std::unique_ptr<Kernel>;
Status makeActivation(Bytes param, Made *made);
Status makeAllGather(Bytes param, Made *made);
Status makeAllReduce(Bytes param, Made *made);
Status makeConcat(Bytes param, Made *made);
Status makeElewise(Bytes param, Made *made);
Status makeGather(Bytes param, Made *made);
Status makeLinear(Bytes param, Made *made);
Status makePagedAttention(Bytes param, Made *made);
Status makeReshapeAndCache(Bytes param, Made *made);
Status makeRmsNorm(Bytes param, Made *made);
Status makeRope(Bytes param, Made *made);
Status makeSelfAttention(Bytes param, Made *made);
Status makeSlice(Bytes param, Made *made);
Status makeSoftmax(Bytes param, Made *made);
Status makeSort(Bytes param, Made *made);
Status makeSplit(Bytes param, Made *made);
Status makeTopkTopp(Bytes param, Made *made);
Status makeTransdata(Bytes param, Made *made);
Status makeTranspose(Bytes param, Made *made);

}  // namespace sim
