// Running: packs of tensors, shapes, setup and execute.

#include "library.hpp"

#include <cstring>

using namespace AQATB_NAMESPACE;

// The C structs are ATB's own, under other names: a pack's arrays are handed out and read as they are.
static_assert(sizeof(aqatb_desc) == sizeof(TensorDesc) && sizeof(aqatb_tensor) == sizeof(Tensor), "tensors");
static_assert(offsetof(aqatb_desc, dims) == offsetof(TensorDesc, shape), "tensors");
static_assert(offsetof(aqatb_desc, dim_count) == offsetof(TensorDesc, shape) + offsetof(Dims, dimNum), "tensors");
static_assert(offsetof(aqatb_tensor, device) == offsetof(Tensor, deviceData), "tensors");
static_assert(offsetof(aqatb_tensor, host) == offsetof(Tensor, hostData), "tensors");
static_assert(offsetof(aqatb_tensor, bytes) == offsetof(Tensor, dataSize), "tensors");

namespace {

// At most 64 on either side.
int32_t check_counts(uint32_t inputs, uint32_t outputs, aqatb_error *error)
{
    if (inputs <= AQATB_TENSORS && outputs <= AQATB_TENSORS) return 0;
    return fail(error, AQATB_ERROR_ARGUMENT, 0, "%u inputs and %u outputs, at most %d each", inputs, outputs,
                AQATB_TENSORS);
}

} // namespace

int32_t aqatb_pack_create(uint32_t inputs, uint32_t outputs, aqatb_pack **pack, aqatb_tensor **in, aqatb_tensor **out,
                          aqatb_error *error)
{
    return guarded(error, "aqatb_pack_create", [&]() -> int32_t {
        if (int32_t kind = check_counts(inputs, outputs, error)) return kind;
        auto made = new aqatb_pack;
        made->tensors.inTensors.resize(inputs);
        made->tensors.outTensors.resize(outputs);
        *in = reinterpret_cast<aqatb_tensor *>(made->tensors.inTensors.data());
        *out = reinterpret_cast<aqatb_tensor *>(made->tensors.outTensors.data());
        *pack = made;
        return 0;
    });
}

void aqatb_pack_destroy(aqatb_pack *pack) { delete pack; }

int32_t aqatb_operation_counts(const aqatb_operation *operation, uint32_t *inputs, uint32_t *outputs, aqatb_error *error)
{
    return guarded(error, "aqatb_operation_counts", [&]() -> int32_t {
        *inputs = operation_of(operation)->GetInputNum();
        *outputs = operation_of(operation)->GetOutputNum();
        return 0;
    });
}

int32_t aqatb_operation_infer(const aqatb_operation *operation, const aqatb_desc *in, uint32_t inputs, aqatb_desc *out,
                              uint32_t outputs, aqatb_error *error)
{
    return guarded(error, "aqatb_operation_infer", [&]() -> int32_t {
        if (int32_t kind = check_counts(inputs, outputs, error)) return kind;
        SVector<TensorDesc> given, made;
        given.resize(inputs);
        std::memcpy(static_cast<void *>(given.data()), in, inputs * sizeof *in);
        // Some releases of ATB write into a vector of the right size, others give it one.
        made.resize(outputs);
        Status status = operation_of(operation)->InferShape(given, made);
        if (status != 0) return answer(error, "InferShape", status);
        if (made.size() != outputs) {
            return fail(error, AQATB_ERROR_ATB, 15, "InferShape gave %zu outputs, expected %u", made.size(), outputs);
        }
        std::memcpy(out, made.data(), outputs * sizeof *out);
        return 0;
    });
}

int32_t aqatb_operation_destroy(const aqatb_library *library, aqatb_operation *operation, aqatb_error *error)
{
    return guarded(error, "aqatb_operation_destroy", [&] {
        auto function = library->get<Status (*)(Operation *)>(Symbol::destroy_operation);
        return answer(error, "DestroyOperation", function(operation_of(operation)));
    });
}

int32_t aqatb_setup(aqatb_operation *operation, const aqatb_pack *pack, aqatb_context *context, uint64_t *workspace_bytes,
                    aqatb_error *error)
{
    return guarded(error, "aqatb_setup", [&] {
        uint64_t bytes = 0;
        Status status = operation_of(operation)->Setup(pack->tensors, bytes, context_of(context));
        *workspace_bytes = bytes;
        return answer(error, "Setup", status);
    });
}

int32_t aqatb_execute(aqatb_operation *operation, const aqatb_pack *pack, aqatb_context *context, void *workspace,
                      uint64_t workspace_bytes, aqatb_error *error)
{
    return guarded(error, "aqatb_execute", [&] {
        Status status = operation_of(operation)->Execute(pack->tensors, static_cast<uint8_t *>(workspace),
                                                         workspace_bytes, context_of(context));
        return answer(error, "Execute", status);
    });
}
