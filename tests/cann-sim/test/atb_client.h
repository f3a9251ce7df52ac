// ATB as a client declares it, with the sizes of the reference asserted.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

namespace atb {

using Status = int32_t;

template <class T>
class SVector {
  public:
    SVector() = default;
    SVector(std::initializer_list<T> items) {
        for (const T &item : items) push_back(item);
    }
    SVector(const std::vector<T> &items) {
        for (const T &item : items) push_back(item);
    }
    void push_back(const T &item) { storage_[size_++] = item; }
    void resize(size_t size) { size_ = size; }
    size_t size() const { return size_; }
    T &operator[](size_t i) { return storage_[i]; }
    const T &operator[](size_t i) const { return storage_[i]; }

  private:
    size_t capacity_ = 64;
    size_t size_ = 0;
    T storage_[65] = {};
    T *heap_ = nullptr;
};

struct Dims {
    int64_t dims[8] = {};
    uint64_t dimNum = 0;
};
struct TensorDesc {
    int dtype = -1;
    int format = -1;
    Dims shape;
};
struct Tensor {
    TensorDesc desc;
    void *deviceData = nullptr;
    void *hostData = nullptr;
    uint64_t dataSize = 0;
};
struct VariantPack {
    SVector<Tensor> inTensors, outTensors;
};
static_assert(sizeof(Tensor) == 104 && sizeof(VariantPack) == 13568);

class Context {
  public:
    virtual ~Context() = default;
    virtual Status SetExecuteStream(void *stream) = 0;
    virtual void *GetExecuteStream() const = 0;
    virtual Status SetAsyncTilingCopyStatus(bool enable) = 0;
    virtual bool GetAsyncTilingCopyStatus() const = 0;
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

struct Node {
    Operation *operation = nullptr;
    SVector<uint32_t> inTensorIds, outTensorIds;
    SVector<std::function<void(const Dims &, Dims &)>> inTensorReshapeFuncs;
    SVector<SVector<int64_t> *> inTensorChunks;
};
static_assert(sizeof(Node) == 3232);

struct GraphParam {
    std::string name;
    uint32_t inTensorNum = 0, outTensorNum = 0, internalTensorNum = 0;
    std::vector<Node> nodes;
    std::function<Status(const SVector<TensorDesc> &, SVector<TensorDesc> &)> inferShapeFunc;
};

Status CreateContext(Context **context);
Status DestroyContext(Context *context);
Status DestroyOperation(Operation *operation);
template <class P>
Status CreateOperation(const P &param, Operation **operation);

class Utils {
  public:
    static std::string GetAtbVersion();
    static uint64_t GetTensorSize(const Tensor &tensor);
    static void QuantParamConvert(const float *src, uint64_t *dest, uint64_t itemCount);
};

namespace infer {

struct RmsNormParam {
    struct Norm {
        int quantType = 0;
        float epsilon = 1e-5f;
        double layerNormEps = 1e-5;
        bool rstd = false;
        int precisionMode = 0, modelType = 0, dynamicQuantType = 0;
        uint8_t rsv[32] = {};
    };
    struct Pre {
        int quantType = 0;
        float epsilon = 1e-5f;
        bool hasBias = false;
        uint8_t rsv[23] = {};
    };
    int layerType = 0;
    Norm normParam;
    Pre preNormParam, postNormParam;
    uint8_t rsv[8] = {};
};
struct LinearParam {
    bool transposeA = false, transposeB = true, hasBias = true;
    int outDataType = -1;
    bool enAccum = false;
    uint8_t matmulType = 0, quantMode = 0;
    uint8_t rsv[21] = {};
};
struct SelfAttentionParam {
    int quantType = 0, outDataType = -1;
    int32_t headNum = 0, kvHeadNum = 0;
    float qScale = 1, qkScale = 1;
    bool batchRunStatusEnable = false;
    uint32_t isTriuMask = 0;
    int calcType = 0, kernelType = 0, clampType = 0;
    float clampMin = 0, clampMax = 0;
    int maskType = 0, kvcacheCfg = 0, scaleType = 0, inputLayout = 0;
    uint32_t mlaVHeadSize = 0;
    int8_t cacheType = 0;
    uint32_t windowSize = 0;
    uint8_t rsv[64] = {};
};
struct PagedAttentionParam {
    int32_t headNum = 0;
    float qkScale = 1;
    int32_t kvHeadNum = 0;
    int maskType = 0;
    bool batchRunStatusEnable = false;
    int quantType = 0, outDataType = -1;
    bool hasQuantOffset = false;
    int compressType = 0, calcType = 0, scaleType = 0, inputLayout = 0;
    uint32_t mlaVHeadSize = 0;
    float qScale = 0;
    uint8_t rsv[64] = {};
};
struct ReshapeAndCacheParam {
    int compressType = 0, kvCacheCfg = 0;
    uint8_t rsv[16] = {};
};
struct RopeParam {
    int32_t rotaryCoeff = 4, cosFormat = 0;
    uint8_t rsv[8] = {};
};
struct ElewiseParam {
    int elewiseType = 0;
    struct {
        float inputScale = 1;
        bool asymmetric = false;
        int inputOffset = 0;
        uint8_t rsv[20] = {};
    } quantParam;
    struct {
        float varAttr = 0;
        uint8_t rsv[12] = {};
    } mulsParam;
    int outTensorType = -1;
    uint8_t rsv[8] = {};
};
struct ActivationParam {
    int activationType = 0;
    float scale = 1;
    int32_t dim = -1;
    int geluMode = 0;
    uint8_t rsv[8] = {};
};
struct GatherParam {
    int64_t axis = 0, batchDims = 0;
    uint8_t rsv[16] = {};
};
struct SplitParam {
    int32_t splitDim = 0, splitNum = 2;
    SVector<int32_t> splitSizes;
    uint8_t rsv[8] = {};
};
struct ConcatParam {
    int concatDim = 0;
    uint8_t rsv[12] = {};
};
struct SliceParam {
    SVector<int64_t> offsets, size;
    uint8_t rsv[8] = {};
};
struct TransposeParam {
    SVector<int32_t> perm;
    uint8_t rsv[8] = {};
};
struct SoftmaxParam {
    SVector<int64_t> axes;
    uint8_t rsv[8] = {};
};
struct TransdataParam {
    int transdataType = 0;
    SVector<int64_t> outCrops = {0, 0};
    uint8_t rsv[8] = {};
};
struct SortParam {
    SVector<int32_t> num;
    uint8_t rsv[8] = {};
};
struct TopkToppSamplingParam {
    int topkToppSamplingType = 0;
    std::vector<uint32_t> randSeeds;
    uint32_t randSeed = 0, topk = 100;
    int32_t logProbsSize = 0;
    uint8_t rsv[12] = {};
};
struct AllReduceParam {
    int rank = 0, rankSize = 0, rankRoot = 0;
    std::string allReduceType = "sum", backend = "hccl";
    void *hcclComm = nullptr;
    int commMode = 0;
    std::string rankTableFile, commDomain;
    int quantType = 0, outDataType = -1;
    uint8_t rsv[64] = {};
};
struct AllGatherParam {
    int rank = 0, rankSize = 0, rankRoot = 0;
    std::string backend = "hccl";
    void *hcclComm = nullptr;
    int commMode = 0;
    std::string rankTableFile, commDomain;
    uint8_t rsv[64] = {};
};

static_assert(sizeof(RmsNormParam) == 144 && sizeof(LinearParam) == 32 && sizeof(SelfAttentionParam) == 144);
static_assert(sizeof(PagedAttentionParam) == 120 && sizeof(ReshapeAndCacheParam) == 24 && sizeof(RopeParam) == 16);
static_assert(sizeof(ElewiseParam) == 64 && sizeof(ActivationParam) == 24 && sizeof(GatherParam) == 32);
static_assert(sizeof(SplitParam) == 304 && sizeof(ConcatParam) == 16 && sizeof(SliceParam) == 1096);
static_assert(sizeof(TransposeParam) == 296 && sizeof(SoftmaxParam) == 552 && sizeof(TransdataParam) == 560);
static_assert(sizeof(SortParam) == 296 && sizeof(TopkToppSamplingParam) == 56);
#if _GLIBCXX_USE_CXX11_ABI
static_assert(sizeof(GraphParam) == 104 && sizeof(AllReduceParam) == 232 && sizeof(AllGatherParam) == 192);
#else
static_assert(sizeof(GraphParam) == 80 && sizeof(AllReduceParam) == 136 && sizeof(AllGatherParam) == 120);
#endif

}  // namespace infer
}  // namespace atb
