// The checks of Setup and Execute, in the order in which ATB makes them.
#include "operation.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace sim {
namespace {

constexpr uint64_t MOST_TENSOR_BYTES = 256ull << 30;
constexpr uintptr_t ALIGNMENT = 32;  // stricter than ATB, which leaves it to the kernel
constexpr uint64_t WORKSPACE_STEP = 512;

Status checkDesc(const Desc &desc, const char *what, size_t i) {
    if (itemSize(desc.dtype) == 0)
        return refuse(atb::ERROR_INVALID_TENSOR_DTYPE, "%s %zu: data type %d", what, i, desc.dtype);
    if (desc.shape.count < 1 || desc.shape.count > MAX_DIM) {
        return refuse(atb::ERROR_INVALID_TENSOR_DIM_NUM, "%s %zu: %llu dimensions", what, i,
                      (unsigned long long)desc.shape.count);
    }
    for (uint64_t d = 0; d < desc.shape.count; d++) {
        if (desc.shape.dims[d] <= 0)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "%s %zu: a dimension of %lld", what, i,
                          (long long)desc.shape.dims[d]);
    }
    return atb::NO_ERROR;
}

Status checkTensor(const Tensor &tensor, const char *what, size_t i) {
    if (Status code = checkDesc(tensor.desc, what, i)) return code;
    const uint64_t bytes = uint64_t(numel(tensor.desc.shape)) * itemSize(tensor.desc.dtype);
    if (tensor.bytes != bytes || bytes > MOST_TENSOR_BYTES) {
        return refuse(atb::ERROR_INVALID_TENSOR_SIZE, "%s %zu: dataSize %llu, the shape has %llu bytes", what, i,
                      (unsigned long long)tensor.bytes, (unsigned long long)bytes);
    }
    if (!tensor.device && !tensor.host)
        return refuse(atb::ERROR_INVALID_TENSOR_ADDR, "%s %zu: no address", what, i);
    if (uintptr_t(tensor.device) % ALIGNMENT)
        return refuse(atb::ERROR_INVALID_TENSOR_ADDR, "%s %zu: %p is not aligned to 32", what, i, tensor.device);
    return atb::NO_ERROR;
}

Ref external(const Tensor &tensor, Origin origin, size_t index) {
    Ref ref{tensor, origin, uint32_t(index), 0, nullptr};
    if (tensor.host && origin == Origin::Input) {
        auto *bytes = static_cast<const uint8_t *>(tensor.host);
        ref.host = std::make_shared<std::vector<uint8_t>>(bytes, bytes + tensor.bytes);
    }
    return ref;
}

Status compare(const Desc &wanted, const Desc &found, const char *kind, size_t i) {
    if (wanted.dtype != found.dtype)
        return refuse(atb::ERROR_INVALID_TENSOR_DTYPE, "%s: output %zu has type %d, InferShape says %d", kind, i,
                      found.dtype, wanted.dtype);
    if (wanted.format != found.format)
        return refuse(atb::ERROR_INVALID_TENSOR_FORMAT, "%s: output %zu has format %d, InferShape says %d", kind, i,
                      found.format, wanted.format);
    if (!sameShape(wanted.shape, found.shape))
        return refuse(atb::ERROR_INVALID_TENSOR_DIM, "%s: output %zu has another shape than InferShape says", kind,
                      i);
    return atb::NO_ERROR;
}

std::vector<Desc> descsOf(const std::vector<Ref> &refs) {
    std::vector<Desc> descs;
    for (const Ref &ref : refs) descs.push_back(ref.tensor.desc);
    return descs;
}

std::vector<Tensor> tensorsOf(const std::vector<Ref> &refs) {
    std::vector<Tensor> tensors;
    for (const Ref &ref : refs) tensors.push_back(ref.tensor);
    return tensors;
}

bool sameTensors(const std::vector<Tensor> &a, const std::vector<Tensor> &b) {
    if (a.size() != b.size()) return false;
    for (size_t i = 0; i < a.size(); i++) {
        const Desc &x = a[i].desc, &y = b[i].desc;
        if (x.dtype != y.dtype || x.format != y.format || !sameShape(x.shape, y.shape) || a[i].bytes != b[i].bytes)
            return false;
    }
    return true;
}

bool sameAddresses(const std::vector<Tensor> &a, const std::vector<Tensor> &b) {
    return std::equal(a.begin(), a.end(), b.begin(),
                      [](const Tensor &x, const Tensor &y) { return x.device == y.device; });
}

// One thread at a time in an operation.
class Busy {
  public:
    explicit Busy(std::atomic<bool> &flag) : flag_(flag) {
        if (flag_.exchange(true)) aquilaSimViolation("an operation is used by two threads at once");
    }
    ~Busy() { flag_ = false; }

  private:
    std::atomic<bool> &flag_;
};

}  // namespace

Status refuse(Status code, const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    aquilaSimSetMessage(text);
    aquilaSimNote((std::string("REFUSED ") + text).c_str());
    return code;
}

bool is310p() {
    return aquilaSimIs310P() != 0;
}

uint64_t Plan::takeInternal(uint64_t bytes) {
    const uint64_t offset = internalBytes;
    internalBytes += uint64_t(alignUp(int64_t(bytes), WORKSPACE_STEP));
    return offset;
}

Status SingleOperation::infer(const std::vector<Desc> &in, std::vector<Desc> &out) const {
    for (size_t i = 0; i < in.size(); i++) {
        if (kernel_->optionalInput(uint32_t(i)) && (in[i].shape.count == 0 || numel(in[i].shape) == 0)) continue;
        if (Status code = checkDesc(in[i], "input", i)) return code;
    }
    out.clear();
    return kernel_->infer(in, out);
}

Status SingleOperation::plan(const std::vector<Ref> &in, std::vector<Ref> &out, Plan &plan) const {
    const std::vector<Desc> given = descsOf(in);
    const char *kind = kernel_->kind.c_str();
    const bool allGiven = std::none_of(out.begin(), out.end(),
                                       [](const Ref &ref) { return ref.tensor.desc.dtype < 0; });
    if (allGiven) {
        if (Status code = matchColumn(*kernel_, given, descsOf(out))) return code;
    }
    std::vector<Desc> inferred;
    if (Status code = infer(given, inferred)) return code;
    for (size_t i = 0; i < out.size(); i++) {
        Tensor &tensor = out[i].tensor;
        if (tensor.desc.dtype >= 0) {
            if (Status code = compare(inferred[i], tensor.desc, kind, i)) return code;
            continue;
        }
        tensor.desc = inferred[i];
        tensor.bytes = uint64_t(numel(tensor.desc.shape)) * itemSize(tensor.desc.dtype);
        out[i].offset = plan.takeInternal(physicalBytes(tensor.desc));
        tensor.device = reinterpret_cast<void *>(uintptr_t(4096 + out[i].offset));
    }
    if (!allGiven) {
        if (Status code = matchColumn(*kernel_, given, descsOf(out))) return code;
    }
    if (Status code = kernel_->check(tensorsOf(in), tensorsOf(out))) return code;
    plan.scratchBytes = std::max(plan.scratchBytes,
                                 uint64_t(alignUp(int64_t(kernel_->workspace(given)), WORKSPACE_STEP)));
    plan.steps.push_back({kernel_, in, out});
    return atb::NO_ERROR;
}

Status BaseOperation::InferShape(const atb::SVector<atb::TensorDesc> &in,
                                 atb::SVector<atb::TensorDesc> &out) const {
    static SimCounter *const counter = aquilaSimCounter("InferShape");
    const SimFault fault = aquilaSimEnter(counter);
    Status code;
    std::vector<Desc> inferred;
    const List<Desc> given(&in);
    if (fault.kind == SIM_FAULT_CODE) code = refuse(Status(fault.code), "injected failure of InferShape");
    else if (given.size() != GetInputNum())
        code = refuse(atb::ERROR_INVALID_IN_TENSOR_NUM, "%s: %zu inputs, not %u", GetName().c_str(), given.size(),
                      GetInputNum());
    else code = infer(given.items(), inferred);
    if (code == atb::NO_ERROR) List<Desc>(&out).set(inferred);
    aquilaSimLeave(counter, nullptr, code, "");
    return code;
}

Status BaseOperation::setup(const atb::VariantPack &pack, uint64_t &workspaceSize, atb::Context *context) {
    ready_ = false;
    workspaceSize = 0;
    ContextImpl *found = findContext(context);
    if (!found) return refuse(atb::ERROR_INVALID_CONTEXT_ADDR, "Setup: no context");
    void *stream = found->GetExecuteStream();
    if (!stream || aquilaSimStreamDevice(stream) < 0)
        return refuse(atb::ERROR_INVALID_STREAM, "Setup: the context has no stream");
    if (aquilaSimStreamDevice(stream) != aquilaSimCurrentDevice())
        return refuse(atb::ERROR_RT_FAIL, "Setup: this thread has another device than the stream, or none");
    const List<Tensor> ins(&pack), outs(reinterpret_cast<const uint8_t *>(&pack) + OUT_TENSORS);
    if (ins.size() != GetInputNum())
        return refuse(atb::ERROR_INVALID_IN_TENSOR_NUM, "%s: %zu inputs, not %u", GetName().c_str(), ins.size(),
                      GetInputNum());
    if (outs.size() != GetOutputNum())
        return refuse(atb::ERROR_INVALID_TENSOR_NUM, "%s: %zu outputs, not %u", GetName().c_str(), outs.size(),
                      GetOutputNum());
    const std::vector<Tensor> lastInputs = std::move(inputs_), lastOutputs = std::move(outputs_);
    inputs_ = ins.items();
    outputs_ = outs.items();
    // Where kernels do nothing the host's time is measured: what was checked for these shapes is not checked again.
    if (aquilaSimNoop() && plan_ && sameTensors(inputs_, lastInputs) && sameTensors(outputs_, lastOutputs)) {
        workspaceSize = plan_->workspace();
        context_ = found;
        ready_ = true;
        return atb::NO_ERROR;
    }
    plan_ = nullptr;
    std::vector<Ref> in, out;
    for (size_t i = 0; i < inputs_.size(); i++) {
        const bool absent = optionalInput(uint32_t(i)) && inputs_[i].bytes == 0;
        if (!absent) {
            if (Status code = checkTensor(inputs_[i], "input", i)) return code;
        }
        in.push_back(external(inputs_[i], Origin::Input, i));
    }
    for (size_t i = 0; i < outputs_.size(); i++) {
        if (Status code = checkTensor(outputs_[i], "output", i)) return code;
        out.push_back(external(outputs_[i], Origin::Output, i));
    }
    auto made = std::make_shared<Plan>();
    if (Status code = plan(in, out, *made)) return code;
    plan_ = made;
    workspaceSize = plan_->workspace();
    context_ = found;
    ready_ = true;
    return atb::NO_ERROR;
}

Status BaseOperation::execute(const atb::VariantPack &pack, uint8_t *workspace, uint64_t workspaceSize,
                              atb::Context *context, SimFault late) {
    if (!ready_) return refuse(atb::ERROR_INTERNAL_ERROR, "%s: Execute without Setup", GetName().c_str());
    ready_ = false;
    ContextImpl *found = findContext(context);
    if (!found) return refuse(atb::ERROR_INVALID_CONTEXT_ADDR, "Execute: no context");
    if (found != context_) return refuse(atb::ERROR_INTERNAL_ERROR, "Execute: another context than in Setup");
    void *stream = found->GetExecuteStream();
    if (!stream || aquilaSimStreamDevice(stream) < 0)
        return refuse(atb::ERROR_INVALID_STREAM, "Execute: the context has no stream");
    const List<Tensor> ins(&pack), outs(reinterpret_cast<const uint8_t *>(&pack) + OUT_TENSORS);
    const std::vector<Tensor> in = ins.items(), out = outs.items();
    if (!sameTensors(in, inputs_) || !sameTensors(out, outputs_))
        return refuse(atb::ERROR_INTERNAL_ERROR, "%s: Execute with other shapes than Setup", GetName().c_str());
    const auto addressed = [](const std::vector<Tensor> &tensors) {
        return std::all_of(tensors.begin(), tensors.end(), [](const Tensor &t) {
            return t.bytes == 0 || ((t.device || t.host) && uintptr_t(t.device) % ALIGNMENT == 0);
        });
    };
    if (!addressed(in) || !addressed(out))
        return refuse(atb::ERROR_INVALID_TENSOR_ADDR, "%s: Execute with a tensor without address",
                      GetName().c_str());
    const uint64_t needed = plan_->workspace();
    if (workspaceSize < needed)
        return refuse(atb::ERROR_INVALID_WORKSPACE_SIZE, "%s: workspace of %llu, %llu are needed",
                      GetName().c_str(), (unsigned long long)workspaceSize, (unsigned long long)needed);
    if (!workspace || aquilaSimRoom(workspace) < needed || uintptr_t(workspace) % ALIGNMENT) {
        return refuse(atb::ERROR_INVALID_WORKSPACE_ADDR, "%s: %p has no %llu bytes of device memory",
                      GetName().c_str(), static_cast<void *>(workspace), (unsigned long long)needed);
    }
    const bool moved = !sameAddresses(in, inputs_) || !sameAddresses(out, outputs_);
    return launchPlan(plan_, in, out, workspace, *found, moved, late);
}

Status BaseOperation::Setup(const atb::VariantPack &pack, uint64_t &workspaceSize, atb::Context *context) {
    static SimCounter *const counter = aquilaSimCounter("Setup");
    const Busy busy(busy_);
    const SimFault fault = aquilaSimEnter(counter);
    if (fault.kind == SIM_FAULT_HANG) aquilaSimHang(aquilaSimCurrentDevice());
    const bool fails = fault.kind == SIM_FAULT_CODE || fault.kind == SIM_FAULT_HANG;
    const Status code = fails
                            ? refuse(fault.kind == SIM_FAULT_CODE ? Status(fault.code) : Status(atb::ERROR_RT_FAIL),
                                     "injected failure of Setup")
                            : setup(pack, workspaceSize, context);
    aquilaSimLeave(counter, nullptr, code, (GetName() + " workspace=" + std::to_string(workspaceSize)).c_str());
    return code;
}

Status BaseOperation::Execute(const atb::VariantPack &pack, uint8_t *workspace, uint64_t workspaceSize,
                              atb::Context *context) {
    static SimCounter *const counter = aquilaSimCounter("Execute");
    const Busy busy(busy_);
    const SimFault fault = aquilaSimEnter(counter);
    const bool atOnce = fault.kind == SIM_FAULT_CODE && fault.code < 507000;
    const Status code = atOnce ? refuse(Status(fault.code), "injected failure of Execute")
                               : execute(pack, workspace, workspaceSize, context, fault);
    aquilaSimLeave(counter, context_ ? context_->GetExecuteStream() : nullptr, code, GetName().c_str());
    return code;
}

}  // namespace sim
