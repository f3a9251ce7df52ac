#include "context.h"

#include "kernel.h"

extern "C" {
int aclrtMalloc(void **devPtr, size_t size, int policy);
int aclrtFree(void *devPtr);
}

namespace sim {
namespace {

struct Contexts {
    std::mutex lock;
    std::set<const atb::Context *> live;
};

Contexts &contexts() {
    static Contexts *const instance = new Contexts;
    return *instance;
}

constexpr int DEVICE_OOM = 207001;

}  // namespace

ContextImpl *findContext(const atb::Context *context) {
    std::lock_guard<std::mutex> guard(contexts().lock);
    if (!contexts().live.count(context)) return nullptr;
    return static_cast<ContextImpl *>(const_cast<atb::Context *>(context));
}

// The ring is real device memory: it counts, and it leaks with the context.
Status ContextImpl::open() {
    if (aquilaSimCurrentDevice() < 0) return refuse(atb::ERROR_RT_FAIL, "CreateContext: this thread has no device");
    const int code = aclrtMalloc(&ring_, TILING_BLOCKS * TILING_BLOCK_BYTES, 0);
    if (code == 0) return atb::NO_ERROR;
    return refuse(code == DEVICE_OOM ? atb::ERROR_OUT_OF_DEVICE_MEMORY : atb::ERROR_RT_FAIL,
                  "CreateContext: aclrtMalloc gave %d", code);
}

ContextImpl::~ContextImpl() {
    if (ring_) aclrtFree(ring_);
}

Status ContextImpl::SetExecuteStream(void *stream) {
    if (!stream) return refuse(atb::ERROR_INVALID_STREAM, "SetExecuteStream: null");
    if (aquilaSimStreamDevice(stream) < 0)
        return refuse(atb::ERROR_INVALID_STREAM, "SetExecuteStream: %p is no stream", stream);
    stream_ = stream;
    return atb::NO_ERROR;
}

Status ContextImpl::SetExecuteStreams(const std::vector<void *> &streams) {
    if (streams.size() != 1) return refuse(atb::ERROR_INVALID_PARAM, "several execute streams are not simulated");
    return SetExecuteStream(streams[0]);
}

Status ContextImpl::SetExecuteType(atb::ExecuteType type) {
    return type == atb::EXECUTE_NORMAL ? Status(atb::NO_ERROR)
                                       : refuse(atb::ERROR_INVALID_PARAM, "only EXECUTE_NORMAL is simulated");
}

Status ContextImpl::SetLaunchMode(atb::LaunchMode mode) {
    return mode == atb::KERNEL_LAUNCH_MODE
               ? Status(atb::NO_ERROR)
               : refuse(atb::ERROR_INVALID_PARAM, "only KERNEL_LAUNCH_MODE is simulated");
}

bool ContextImpl::overrun() const {
    const Use &last = uses_[executes_ % TILING_BLOCKS];
    return last.stream && aquilaSimStreamId(last.stream) == last.id &&
           aquilaSimKnownDone(last.stream) < last.number;
}

void ContextImpl::taken(uint64_t number) {
    uses_[executes_ % TILING_BLOCKS] = {stream_, aquilaSimStreamId(stream_), number};
    executes_++;
}

}  // namespace sim

using namespace sim;

namespace atb {

ATB_EXPORT Status CreateContext(Context **context) {
    static SimCounter *const counter = aquilaSimCounter("CreateContext");
    const SimFault fault = aquilaSimEnter(counter);
    Status code = NO_ERROR;
    if (fault.kind == SIM_FAULT_HANG) aquilaSimHang(aquilaSimCurrentDevice());
    if (fault.kind != SIM_NO_FAULT) {
        code = refuse(fault.kind == SIM_FAULT_CODE ? Status(fault.code) : Status(ERROR_RT_FAIL),
                      "injected failure of CreateContext");
    } else if (!context) {
        code = refuse(ERROR_INVALID_PARAM, "CreateContext: a null pointer");
    } else {
        auto made = std::make_unique<ContextImpl>();
        code = made->open();
        if (code == NO_ERROR) {
            std::lock_guard<std::mutex> guard(contexts().lock);
            contexts().live.insert(made.get());
            *context = made.release();
        }
    }
    aquilaSimLeave(counter, nullptr, code, "");
    return code;
}

ATB_EXPORT Status DestroyContext(Context *context) {
    static SimCounter *const counter = aquilaSimCounter("DestroyContext");
    const SimFault fault = aquilaSimEnter(counter);
    ContextImpl *found = findContext(context);
    Status code = fault.kind == SIM_FAULT_CODE ? Status(fault.code) : Status(NO_ERROR);
    if (!found) {
        code = refuse(ERROR_INVALID_CONTEXT_ADDR, "DestroyContext: %p is no context", static_cast<void *>(context));
    } else {
        {
            std::lock_guard<std::mutex> guard(contexts().lock);
            contexts().live.erase(context);
        }
        delete found;
    }
    aquilaSimLeave(counter, nullptr, code, "");
    return code;
}

}  // namespace atb
