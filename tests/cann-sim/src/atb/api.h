// The classes of ATB as its clients see them: names that mangle alike and virtual tables with the slots in order.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "layout.h"

#define ATB_EXPORT __attribute__((visibility("default")))

namespace atb {

using Status = int32_t;
template <class T>
class SVector;
struct Tensor;
struct TensorDesc;
struct VariantPack;
struct GraphParam;

enum ErrorType : int32_t {
    NO_ERROR = 0,
    ERROR_INVALID_PARAM = 1,
    ERROR_INVALID_GRAPH = 2,
    ERROR_INTERNAL_ERROR = 3,
    ERROR_RT_FAIL = 4,
    ERROR_INVALID_IN_TENSOR_NUM = 5,
    ERROR_INVALID_TENSOR_DTYPE = 6,
    ERROR_INVALID_TENSOR_FORMAT = 7,
    ERROR_INVALID_TENSOR_DIM = 8,
    ERROR_INVALID_TENSOR_SIZE = 9,
    ERROR_GRAPH_INFERSHAPE_FUNC_FAIL = 11,
    ERROR_CANN_ERROR = 12,
    ERROR_INVALID_TENSOR_INI_MATCH = 13,
    ERROR_INVALID_TENSOR_ADDR = 14,
    ERROR_INVALID_TENSOR_NUM = 15,
    ERROR_INVALID_TENSOR_DIM_NUM = 16,
    ERROR_INVALID_SINGLE_OPERATION_PARAM = 17,
    ERROR_GRAPH_NODE_RESHAPE_FUNC_FAIL = 18,
    ERROR_INVALID_GRAPH_NODE_CHUNK = 19,
    ERROR_INVALID_CONTEXT_ADDR = 20,
    ERROR_INVALID_STREAM = 21,
    ERROR_INVALID_WORKSPACE_SIZE = 22,
    ERROR_INVALID_WORKSPACE_ADDR = 23,
    ERROR_INVALID_OPERATION_ADDR = 24,
    ERROR_HCCL_FAIL = 25,
    ERROR_OUT_OF_DEVICE_MEMORY = 26,
    ERROR_COMM_EMPTY = 28,
};

enum ExecuteType : int { EXECUTE_NORMAL = 0, EXECUTE_PRELAUNCH = 1, EXECUTE_LAUNCH = 2 };
enum LaunchMode : int { KERNEL_LAUNCH_MODE = 0, GRAPH_LAUNCH_MODE = 1 };

class Context {
  public:
    virtual ~Context() = default;
    virtual Status SetExecuteStream(void *stream) = 0;
    virtual void *GetExecuteStream() const = 0;
    virtual Status SetAsyncTilingCopyStatus(bool enable) = 0;
    virtual bool GetAsyncTilingCopyStatus() const = 0;
    virtual Status SetExecuteStreams(const std::vector<void *> &streams) = 0;
    virtual std::vector<void *> GetExecuteStreams() = 0;
    virtual Status SetExecuteType(ExecuteType type) = 0;
    virtual ExecuteType GetExecuteType() = 0;
    virtual Status SetLaunchMode(LaunchMode mode) = 0;
    virtual LaunchMode GetLaunchMode() = 0;
};

class Operation {
  public:
    virtual ~Operation() = default;
    virtual std::string GetName() const = 0;
    virtual Status InferShape(const SVector<TensorDesc> &in, SVector<TensorDesc> &out) const = 0;
    virtual uint32_t GetInputNum() const = 0;
    virtual uint32_t GetOutputNum() const = 0;
    virtual Status Setup(const VariantPack &pack, uint64_t &workspaceSize, Context *context) = 0;
    virtual Status Execute(const VariantPack &pack, uint8_t *workspace, uint64_t workspaceSize,
                           Context *context) = 0;
};

ATB_EXPORT Status CreateContext(Context **context);
ATB_EXPORT Status DestroyContext(Context *context);
ATB_EXPORT Status DestroyOperation(Operation *operation);
template <class P>
Status CreateOperation(const P &param, Operation **operation);

namespace infer {
struct ActivationParam;
struct AllGatherParam;
struct AllReduceParam;
struct ConcatParam;
struct ElewiseParam;
struct GatherParam;
struct GroupTopkParam;
struct KvCacheParam;
struct LinearParallelParam;
struct LinearParam;
struct MultinomialParam;
struct PagedAttentionParam;
struct ReshapeAndCacheParam;
struct RmsNormParam;
struct RopeParam;
struct SelfAttentionParam;
struct SliceParam;
struct SoftmaxParam;
struct SortParam;
struct SplitParam;
struct TopkToppSamplingParam;
struct TransdataParam;
struct TransposeParam;
}  // namespace infer

}  // namespace atb
