// A plan as work of a stream: resolve the addresses, run the kernels one after another.
#include <cstdio>

#include "operation.h"

namespace sim {

namespace {

struct ExecuteWork {
    std::shared_ptr<const Plan> plan;
    std::vector<Tensor> in, out;
    std::vector<void *> prepared;  // the collective of each step, or null; empty where there is none
    uint8_t *workspace;
    bool overrun;
    SimFault fault;

    ~ExecuteWork() {
        for (void *one : prepared) {
            if (one) aquilaSimHcclDrop(one);
        }
    }

    void *addressOf(const Ref &ref) const {
        switch (ref.origin) {
            case Origin::Input: return in[ref.index].device;
            case Origin::Output: return out[ref.index].device;
            default: return workspace + ref.offset;
        }
    }

    std::vector<Tensor> tensors(const std::vector<Ref> &refs) const {
        std::vector<Tensor> found;
        for (const Ref &ref : refs) {
            found.push_back(ref.tensor);
            found.back().device = addressOf(ref);
        }
        return found;
    }
};

constexpr int AICORE_EXCEPTION = 507015, DEVICE_MEM_ERROR = 507053;

void poison(void *address, uint64_t bytes) {
    if (void *place = address && bytes ? aquilaSimResolve(address, bytes) : nullptr)
        std::memset(place, 0xff, bytes);
}

void poisonAll(const std::vector<Tensor> &tensors) {
    for (const Tensor &tensor : tensors) poison(tensor.device, tensor.bytes);
}

void poisonOutputs(const ExecuteWork &work) {
    poisonAll(work.out);
    poisonAll(work.tensors(work.plan->steps.back().out));
}

// False: an address that is no device memory of this size.
bool resolveAll(const ExecuteWork &work, const std::vector<Ref> &refs, std::vector<Operand> *operands) {
    for (const Ref &ref : refs) {
        Operand operand{ref.tensor.desc, nullptr, ref.host.get()};
        if (const void *address = work.addressOf(ref)) {
            operand.data = static_cast<uint8_t *>(aquilaSimResolve(address, physicalBytes(ref.tensor.desc)));
            if (!operand.data) return false;
        }
        operands->push_back(operand);
    }
    return true;
}

int runStep(const ExecuteWork &work, size_t number, void *stream) {
    const Step &step = work.plan->steps[number];
    const Kernel &kernel = *step.kernel;
    const SimFault fault = aquilaSimEnter(kernel.counter);
    if (fault.kind == SIM_FAULT_CODE) {
        aquilaSimKernelFailed(("injected failure of " + kernel.kind).c_str());
        return fault.code;
    }
    if (aquilaSimNoop() && !kernel.isCollective()) return 0;
    Launch launch{{}, {}, stream, work.prepared.empty() ? nullptr : work.prepared[number], ""};
    if (!resolveAll(work, step.in, &launch.in) || !resolveAll(work, step.out, &launch.out)) {
        aquilaSimKernelFailed((kernel.kind + ": an operand is not device memory of its size").c_str());
        return DEVICE_MEM_ERROR;
    }
    const int code = kernel.run(launch);
    if (code && !launch.why.empty()) aquilaSimKernelFailed((kernel.kind + ": " + launch.why).c_str());
    if (fault.kind == SIM_FAULT_NAN) poisonAll(work.tensors(step.out));
    return code;
}

int runWork(void *data, void *stream) {
    const ExecuteWork &work = *static_cast<ExecuteWork *>(data);
    if (work.overrun) {
        poisonOutputs(work);
        char text[160];
        std::snprintf(text, sizeof text,
                      "tiling ring overrun: more than %zu Executes of a context that the host has not seen done",
                      TILING_BLOCKS);
        aquilaSimKernelFailed(text);
        return AICORE_EXCEPTION;
    }
    if (!aquilaSimNoop()) poison(work.workspace, work.plan->workspace());
    for (size_t i = 0; i < work.plan->steps.size(); i++) {
        if (const int code = runStep(work, i, stream)) {
            poisonOutputs(work);
            return code;
        }
    }
    if (work.fault.kind == SIM_FAULT_NAN) poisonOutputs(work);
    return 0;
}

void dropWork(void *data) {
    delete static_cast<ExecuteWork *>(data);
}

// The rules on addresses once more, where Execute has others than Setup: caches must still be in place.
Status checkAddresses(const ExecuteWork &work) {
    for (const Step &step : work.plan->steps) {
        if (Status code = step.kernel->check(work.tensors(step.in), work.tensors(step.out))) return code;
    }
    return atb::NO_ERROR;
}

// Collectives take their places, in the order of the nodes.
Status prepareAll(ExecuteWork *work) {
    const std::vector<Step> &steps = work->plan->steps;
    for (size_t i = 0; i < steps.size(); i++) {
        const Step &step = steps[i];
        if (!step.kernel->isCollective()) continue;
        work->prepared.resize(steps.size(), nullptr);
        if (Status code = step.kernel->prepare(work->tensors(step.in), work->tensors(step.out), &work->prepared[i]))
            return code;
    }
    return atb::NO_ERROR;
}

}  // namespace

Status launchPlan(std::shared_ptr<const Plan> plan, std::vector<Tensor> in, std::vector<Tensor> out,
                  uint8_t *workspace, ContextImpl &context, bool moved, SimFault fault) {
    auto work = std::make_unique<ExecuteWork>();
    work->plan = std::move(plan);
    work->in = std::move(in);
    work->out = std::move(out);
    work->workspace = workspace;
    work->overrun = context.overrun();
    work->fault = fault;
    if (Status code = moved ? checkAddresses(*work) : Status(atb::NO_ERROR)) return code;
    if (Status code = prepareAll(work.get())) return code;
    void *stream = context.GetExecuteStream();
    const SimWork queued{"Execute", work.release(), runWork, dropWork, fault};
    if (const int code = aquilaSimEnqueue(stream, &queued))
        return refuse(atb::ERROR_RT_FAIL, "Execute: the stream gave %d", code);
    context.taken(aquilaSimSubmitted(stream));
    return atb::NO_ERROR;
}

}  // namespace sim
