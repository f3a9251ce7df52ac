// CreateOperation for each parameter type, DestroyOperation, and the functions of atb::Utils and atb::Comm.
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>

#include "operation.h"

extern "C" int HcclCommDestroy(void *comm);

namespace sim {
namespace {

struct Operations {
    std::mutex lock;
    std::set<const atb::Operation *> live;
};

Operations &operations() {
    static Operations *const instance = new Operations;
    return *instance;
}

std::string versionText() {
    const char *text = std::getenv("AQUILA_SIM_ATB_VERSION");
    return text && *text ? text : "8.3.0";
}

Status create(const char *name, const void *param, atb::Operation **operation,
              const std::function<Status(Bytes, std::unique_ptr<BaseOperation> *)> &make) {
    static SimCounter *const counter = aquilaSimCounter("CreateOperation");
    const SimFault fault = aquilaSimEnter(counter);
    Status code;
    std::unique_ptr<BaseOperation> made;
    if (fault.kind == SIM_FAULT_HANG) aquilaSimHang(aquilaSimCurrentDevice());
    if (fault.kind == SIM_FAULT_CODE || fault.kind == SIM_FAULT_HANG) {
        code = refuse(fault.code ? Status(fault.code) : Status(atb::ERROR_RT_FAIL),
                      "injected failure of CreateOperation(%s)", name);
    } else if (!operation) {
        code = refuse(atb::ERROR_INVALID_PARAM, "CreateOperation(%s): a null pointer", name);
    } else {
        code = make(Bytes(param), &made);
    }
    if (code == atb::NO_ERROR) {
        registerOperation(made.get());
        *operation = made.release();
    }
    aquilaSimLeave(counter, nullptr, code, name);
    return code;
}

Status createSingle(const char *name, const void *param, atb::Operation **operation,
                    Status (*make)(Bytes, Made *)) {
    return create(name, param, operation, [&](Bytes bytes, std::unique_ptr<BaseOperation> *made) {
        Made kernel;
        const Status code = make(bytes, &kernel);
        if (code == atb::NO_ERROR) *made = std::make_unique<SingleOperation>(std::move(kernel));
        return code;
    });
}

Status unknown(Bytes, Made *) {
    return refuse(atb::ERROR_INVALID_SINGLE_OPERATION_PARAM, "this operation is not simulated");
}

}  // namespace

int atbVersion() {
    int major = 0, minor = 0, patch = 0;
    std::sscanf(versionText().c_str(), "%d.%d.%d", &major, &minor, &patch);
    return major * 10000 + minor * 100 + patch;
}

BaseOperation *findOperation(const atb::Operation *operation) {
    std::lock_guard<std::mutex> guard(operations().lock);
    if (!operations().live.count(operation)) return nullptr;
    return static_cast<BaseOperation *>(const_cast<atb::Operation *>(operation));
}

void registerOperation(BaseOperation *operation) {
    std::lock_guard<std::mutex> guard(operations().lock);
    operations().live.insert(operation);
}

void forgetOperation(BaseOperation *operation) {
    std::lock_guard<std::mutex> guard(operations().lock);
    operations().live.erase(operation);
}

}  // namespace sim

using namespace sim;

SIM_EXPORT uint64_t aquilaSimOperations(void) {
    std::lock_guard<std::mutex> guard(operations().lock);
    return operations().live.size();
}

namespace atb {

template <>
ATB_EXPORT Status CreateOperation(const GraphParam &param, Operation **operation) {
    return create("Graph", &param, operation, makeGraph);
}

#define CREATE(type, make)                                                               \
    template <>                                                                          \
    ATB_EXPORT Status CreateOperation(const infer::type &param, Operation **operation) { \
        return createSingle(#type, &param, operation, make);                             \
    }

CREATE(ActivationParam, makeActivation)
CREATE(AllGatherParam, makeAllGather)
CREATE(AllReduceParam, makeAllReduce)
CREATE(ConcatParam, makeConcat)
CREATE(ElewiseParam, makeElewise)
CREATE(GatherParam, makeGather)
CREATE(GroupTopkParam, unknown)
CREATE(KvCacheParam, unknown)
CREATE(LinearParallelParam, unknown)
CREATE(LinearParam, makeLinear)
CREATE(MultinomialParam, unknown)
CREATE(PagedAttentionParam, makePagedAttention)
CREATE(ReshapeAndCacheParam, makeReshapeAndCache)
CREATE(RmsNormParam, makeRmsNorm)
CREATE(RopeParam, makeRope)
CREATE(SelfAttentionParam, makeSelfAttention)
CREATE(SliceParam, makeSlice)
CREATE(SoftmaxParam, makeSoftmax)
CREATE(SortParam, makeSort)
CREATE(SplitParam, makeSplit)
CREATE(TopkToppSamplingParam, makeTopkTopp)
CREATE(TransdataParam, makeTransdata)
CREATE(TransposeParam, makeTranspose)

ATB_EXPORT Status DestroyOperation(Operation *operation) {
    static SimCounter *const counter = aquilaSimCounter("DestroyOperation");
    const SimFault fault = aquilaSimEnter(counter);
    BaseOperation *found = findOperation(operation);
    Status code = fault.kind == SIM_FAULT_CODE ? Status(fault.code) : Status(NO_ERROR);
    if (!found) {
        code = refuse(ERROR_INVALID_OPERATION_ADDR, "DestroyOperation: %p is no operation that is alive",
                      static_cast<void *>(operation));
    } else if (found->owned) {
        aquilaSimViolation("DestroyOperation of a graph's node: the graph destroys it");
        code = ERROR_INVALID_OPERATION_ADDR;
    } else {
        forgetOperation(found);
        delete found;
    }
    aquilaSimLeave(counter, nullptr, code, "");
    return code;
}

class ATB_EXPORT Utils {
  public:
    static std::string GetAtbVersion();
    static uint64_t GetTensorSize(const Tensor &tensor);
    static uint64_t GetTensorSize(const TensorDesc &desc);
    static uint64_t GetTensorNumel(const Tensor &tensor);
    static uint64_t GetTensorNumel(const TensorDesc &desc);
    static void QuantParamConvert(const float *src, uint64_t *dest, uint64_t itemCount);
};

std::string Utils::GetAtbVersion() {
    return versionText() + " (" SIM_VERSION ")";
}

static const Desc &descAt(const void *place) {
    return *static_cast<const Desc *>(place);
}

uint64_t Utils::GetTensorSize(const TensorDesc &desc) {
    return GetTensorNumel(desc) * itemSize(descAt(&desc).dtype);
}
uint64_t Utils::GetTensorSize(const Tensor &tensor) {
    return uint64_t(numel(descAt(&tensor).shape)) * itemSize(descAt(&tensor).dtype);
}
uint64_t Utils::GetTensorNumel(const TensorDesc &desc) {
    return uint64_t(numel(descAt(&desc).shape));
}
uint64_t Utils::GetTensorNumel(const Tensor &tensor) {
    return uint64_t(numel(descAt(&tensor).shape));
}

// The bits of the f32 in the low half.
void Utils::QuantParamConvert(const float *src, uint64_t *dest, uint64_t itemCount) {
    for (uint64_t i = 0; i < itemCount; i++) dest[i] = Bytes(src).at<uint32_t>(i * 4);
}

namespace Comm {

ATB_EXPORT void *CreateHcclComm(int32_t rank, int32_t rankRoot, int32_t rankSize, char *commName) {
    void *comm = nullptr;
    (void)rankRoot;
    const std::string key = "CreateHcclComm";
    if (rank < 0 || rankSize <= 0 || aquilaSimHcclJoin(key.c_str(), uint32_t(rankSize), uint32_t(rank), &comm))
        return nullptr;
    if (commName) std::snprintf(commName, 128, "%s", key.c_str());
    return comm;
}

ATB_EXPORT Status DestoryHcclComm(void *comm) {
    return HcclCommDestroy(comm) ? Status(ERROR_HCCL_FAIL) : Status(NO_ERROR);
}

}  // namespace Comm

}  // namespace atb
