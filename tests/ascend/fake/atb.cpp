// Enough of libatb.so for tests of the opening and of the shim's paths: operations that remember and answer, and compute
// nothing. FAKE_VERSION is what it says of itself; FAKE_WITHOUT_LINEAR and FAKE_WITHOUT_PROBE leave functions out.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

using Status = int32_t;

static void trace(const char *what)
{
    const char *file = getenv("FAKE_TRACE");
    FILE *out = file ? fopen(file, "a") : nullptr;
    if (!out) return;
    fprintf(out, "%s\n", what);
    fclose(out);
}

static const size_t DESC = 80, TENSOR = 104;

// An SVector as it lies in memory.
static uint64_t size_of(const void *vector) { return static_cast<const uint64_t *>(vector)[1]; }
static const char *at(const void *vector, size_t i, size_t size)
{
    return static_cast<const char *>(vector) + 16 + i * size;
}

class FakeContext {
public:
    virtual ~FakeContext() = default;
    virtual Status SetExecuteStream(void *given)
    {
        stream = given;
        return 0;
    }
    virtual void *GetExecuteStream() const { return stream; }
    virtual Status SetAsyncTilingCopyStatus(bool) { return 0; }
    virtual bool GetAsyncTilingCopyStatus() const { return false; }
    void *stream = nullptr;
};

struct Descs; // an SVector of descriptions
using Infer = std::function<Status(const Descs &, Descs &)>;

class FakeOperation {
public:
    virtual ~FakeOperation() = default;
    virtual std::string GetName() const { return "fake"; }
    virtual Status InferShape(const Descs &in, Descs &out) const
    {
        if (infer) return infer(in, out);
        memcpy(reinterpret_cast<char *>(&out) + 16, at(&in, 0, DESC), DESC);
        return 0;
    }
    virtual uint32_t GetInputNum() const { return inputs; }
    virtual uint32_t GetOutputNum() const { return outputs; }
    virtual Status Setup(const void *pack, uint64_t &bytes, FakeContext *context)
    {
        if (!context || !context->stream) return 21;
        if (size_of(pack) != inputs) return 5;
        bytes = 0;
        for (uint32_t i = 0; i < inputs; i++) {
            uint64_t size;
            memcpy(&size, at(pack, i, TENSOR) + 96, sizeof size);
            bytes += size;
        }
        ready = true;
        return 0;
    }
    virtual Status Execute(const void *, uint8_t *, uint64_t, FakeContext *)
    {
        Status status = ready ? 0 : 3;
        ready = false;
        return status;
    }
    uint32_t inputs = 2, outputs = 1;
    bool ready = false;
    Infer infer;
};

static Status make(FakeOperation **out, uint32_t inputs)
{
    *out = new FakeOperation;
    (*out)->inputs = inputs;
    return 0;
}


#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT Status fake_create_context(FakeContext **context) __asm__("_ZN3atb13CreateContextEPPNS_7ContextE");
Status fake_create_context(FakeContext **context)
{
    *context = new FakeContext;
    return 0;
}

EXPORT Status fake_destroy_context(FakeContext *context) __asm__("_ZN3atb14DestroyContextEPNS_7ContextE");
Status fake_destroy_context(FakeContext *context)
{
    trace("destroy ATB context");
    delete context;
    return 0;
}

EXPORT Status fake_destroy_operation(FakeOperation *op) __asm__("_ZN3atb16DestroyOperationEPNS_9OperationE");
Status fake_destroy_operation(FakeOperation *op)
{
    trace("destroy operation");
    delete op;
    return 0;
}

#define CREATE(name, symbol)                                                                                        \
    EXPORT Status name(const char *param, FakeOperation **out) __asm__(                                             \
        "_ZN3atb15CreateOperationINS_" symbol "EEEiRKT_PPNS_9OperationE");                                          \
    Status name(const char *param, FakeOperation **out)

#ifndef FAKE_WITHOUT_LINEAR
CREATE(fake_linear, "5infer11LinearParam")
{
    for (size_t i = 9; i < 32; i++) {
        if (param[i] != 0) return 1;
    }
    return make(out, param[2] ? 3 : 2);
}
#endif

// 98 is refused, 99 throws.
CREATE(fake_elewise, "5infer12ElewiseParam")
{
    int32_t type;
    memcpy(&type, param, sizeof type);
    if (type == 98) return 13;
    if (type == 99) throw std::runtime_error("the fake throws");
    return make(out, 1);
}

// The counts and the function of a GraphParam, which begin behind its std::string and lie behind its std::vector.
CREATE(fake_graph, "10GraphParam")
{
    const std::string &name = *reinterpret_cast<const std::string *>(param);
    if (name.empty()) return 2;
    const char *counts = param + sizeof(std::string);
    uint32_t inputs, outputs;
    memcpy(&inputs, counts, sizeof inputs);
    memcpy(&outputs, counts + 4, sizeof outputs);
    make(out, inputs);
    (*out)->outputs = outputs;
    const char *function = param + sizeof(std::string) + 16 + 24;
    (*out)->infer = *reinterpret_cast<const Infer *>(function);
    return 0;
}

#define OTHER(name, symbol)                                                                                         \
    CREATE(fake_##name, symbol)                                                                                     \
    {                                                                                                               \
        (void)param;                                                                                                \
        return make(out, 1);                                                                                        \
    }
OTHER(rms_norm, "5infer12RmsNormParam")
OTHER(rope, "5infer9RopeParam")
OTHER(reshape_cache, "5infer20ReshapeAndCacheParam")
OTHER(self_attention, "5infer18SelfAttentionParam")
OTHER(paged_attention, "5infer19PagedAttentionParam")
OTHER(activation, "5infer15ActivationParam")
OTHER(gather, "5infer11GatherParam")
OTHER(split, "5infer10SplitParam")

#ifndef FAKE_WITHOUT_PROBE
namespace atb {
class Utils {
public:
    __attribute__((visibility("default"))) static std::string GetAtbVersion();
};
std::string Utils::GetAtbVersion() { return FAKE_VERSION; }
} // namespace atb
#endif
