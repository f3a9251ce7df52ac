// ATB's types, declared by ourselves: what they are called, how large they are and where their members lie. ATB's own
// headers are under a licence that keeps them out of this tree. Sizes and offsets are the same from ATB 8.0.0 to 9.1.0,
// are asserted below, and are compared with the real headers where they exist (tests/ascend).
//
// The file is compiled for both C++ ABIs of the GNU library, which differ in std::string. Each variant has a namespace of
// its own, so that nothing of the two can be merged by a linker. Functions of ATB are found by their symbols, its methods
// by their place in the virtual table: the names here need not be ATB's, only the order.
//
// Parameter structs end in `rsv`. ATB refuses an operation whose rsv is not zero, and puts new parameters there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#if _GLIBCXX_USE_CXX11_ABI
#define AQATB_ABI 1
#define AQATB_NAMESPACE aquila_atb_abi1
#else
#define AQATB_ABI 0
#define AQATB_NAMESPACE aquila_atb_abi0
#endif

namespace AQATB_NAMESPACE {

using Status = int32_t;

constexpr size_t MAX_DIM = 8;
constexpr size_t SVECTOR_INLINE = 64;

// A vector whose first 64 elements are in it. ATB's own code for more is unsound, so here there are never more, and
// `heap` stays empty; a vector that ATB hands to us may have one.
template <class T>
class SVector {
public:
    SVector() = default;
    SVector(const SVector &other) { *this = other; }
    SVector &operator=(const SVector &other)
    {
        size_ = other.size_;
        for (size_t i = 0; i < other.size_ && i < SVECTOR_INLINE; i++) storage_[i] = other.data()[i];
        return *this;
    }
    ~SVector() = default;

    size_t size() const { return size_; }
    T *data() { return heap_ ? heap_ : storage_; }
    const T *data() const { return heap_ ? heap_ : storage_; }
    T &operator[](size_t i) { return data()[i]; }
    const T &operator[](size_t i) const { return data()[i]; }
    // At most 64.
    void resize(size_t size) { size_ = size; }
    void push(const T &value) { storage_[size_++] = value; }

private:
    size_t capacity_ = SVECTOR_INLINE;
    size_t size_ = 0;
    T storage_[SVECTOR_INLINE + 1] = {};
    T *heap_ = nullptr;
};

struct Dims {
    int64_t dims[MAX_DIM] = {};
    uint64_t dimNum = 0;
};

struct TensorDesc {
    int32_t dtype = -1;
    int32_t format = -1;
    Dims shape;
};

struct Tensor {
    TensorDesc desc;
    void *deviceData = nullptr;
    void *hostData = nullptr;
    uint64_t dataSize = 0;
};

struct VariantPack {
    SVector<Tensor> inTensors;
    SVector<Tensor> outTensors;
};

// The order of the virtual functions is ATB's; it only ever appends.
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
    virtual std::string GetName() const = 0; // never called
    virtual Status InferShape(const SVector<TensorDesc> &in, SVector<TensorDesc> &out) const = 0;
    virtual uint32_t GetInputNum() const = 0;
    virtual uint32_t GetOutputNum() const = 0;
    virtual Status Setup(const VariantPack &pack, uint64_t &workspaceSize, Context *context) = 0;
    virtual Status Execute(const VariantPack &pack, uint8_t *workspace, uint64_t workspaceSize, Context *context) = 0;
};

struct Chunk {
    uint32_t number = 1;
    uint32_t index = 0;
};

struct Node {
    Operation *operation = nullptr;
    SVector<uint32_t> inTensorIds;
    SVector<uint32_t> outTensorIds;
    SVector<std::function<void(const Dims &, Dims &)>> inTensorReshapeFuncs;
    SVector<Chunk> inTensorChunks;
};

struct GraphParam {
    std::string name;
    uint32_t inTensorNum = 0;
    uint32_t outTensorNum = 0;
    uint32_t internalTensorNum = 0;
    std::vector<Node> nodes;
    std::function<Status(const SVector<TensorDesc> &, SVector<TensorDesc> &)> inferShapeFunc;
};

namespace infer {

// Plain parameters have no defaults: `zeroed` fills all of them with 0, paddings and all, and the rest is written.
struct RmsNormParam {
    struct NormParam {
        int32_t quantType;
        float epsilon;
        double layerNormEps;
        bool rstd;
        int32_t precisionMode;
        int32_t modelType;
        int32_t dynamicQuantType;
        uint8_t rsv[32];
    };
    struct PreNormParam {
        int32_t quantType;
        float epsilon;
        bool hasBias;
        uint8_t rsv[23];
    };
    using PostNormParam = PreNormParam;
    int32_t layerType;
    NormParam normParam;
    PreNormParam preNormParam;
    PostNormParam postNormParam;
    uint8_t rsv[8];
};

struct LinearParam {
    bool transposeA;
    bool transposeB;
    bool hasBias;
    int32_t outDataType;
    bool enAccum;
    uint8_t matmulType; // rsv before 8.1
    uint8_t quantMode;  // rsv before 8.2
    uint8_t rsv[21];
};

struct SelfAttentionParam {
    int32_t quantType;
    int32_t outDataType;
    int32_t headNum;
    int32_t kvHeadNum;
    float qScale;
    float qkScale;
    bool batchRunStatusEnable;
    uint32_t isTriuMask;
    int32_t calcType;
    int32_t kernelType;
    int32_t clampType;
    float clampMin;
    float clampMax;
    int32_t maskType;
    int32_t kvcacheCfg;
    int32_t scaleType;
    int32_t inputLayout;
    uint32_t mlaVHeadSize;
    uint8_t rsv[72];
};

struct PagedAttentionParam {
    int32_t headNum;
    float qkScale;
    int32_t kvHeadNum;
    int32_t maskType;
    bool batchRunStatusEnable;
    int32_t quantType;
    int32_t outDataType;
    bool hasQuantOffset;
    int32_t compressType;
    int32_t calcType;
    int32_t scaleType;
    int32_t inputLayout;
    uint32_t mlaVHeadSize;
    uint8_t rsv[68];
};

struct ReshapeAndCacheParam {
    int32_t compressType;
    int32_t kvCacheCfg;
    uint8_t rsv[16];
};

struct RopeParam {
    int32_t rotaryCoeff;
    int32_t cosFormat;
    uint8_t rsv[8];
};

struct ElewiseParam {
    struct QuantParam {
        float inputScale;
        bool asymmetric;
        int32_t inputOffset;
        uint8_t rsv[20];
    };
    struct MulsParam {
        float varAttr;
        uint8_t rsv[12];
    };
    int32_t elewiseType;
    QuantParam quantParam;
    MulsParam mulsParam;
    int32_t outTensorType;
    uint8_t rsv[8];
};

struct ActivationParam {
    int32_t activationType;
    float scale;
    int32_t dim;
    int32_t geluMode;
    uint8_t rsv[8];
};

struct GatherParam {
    int64_t axis;
    int64_t batchDims;
    uint8_t rsv[16];
};

struct SplitParam {
    int32_t splitDim = 0;
    int32_t splitNum = 2;
    SVector<int32_t> splitSizes;
    uint8_t rsv[8] = {};
};

struct ConcatParam {
    int32_t concatDim;
    uint8_t rsv[12];
};

struct SliceParam {
    SVector<int64_t> offsets;
    SVector<int64_t> size;
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

struct SortParam {
    SVector<int32_t> num;
    uint8_t rsv[8] = {};
};

struct TransdataParam {
    int32_t transdataType = 0;
    SVector<int64_t> outCrops;
    uint8_t rsv[8] = {};
};

struct TopkToppSamplingParam {
    int32_t topkToppSamplingType = 0;
    std::vector<uint32_t> randSeeds;
    uint32_t randSeed = 0;
    uint32_t topk = 100;
    int32_t logProbsSize = 0; // rsv before 8.1
    uint8_t rsv[12] = {};
};

struct AllReduceParam {
    int32_t rank = 0;
    int32_t rankSize = 0;
    int32_t rankRoot = 0;
    std::string allReduceType = "sum";
    std::string backend = "hccl";
    void *hcclComm = nullptr;
    int32_t commMode = 0;
    std::string rankTableFile;
    std::string commDomain;
    int32_t quantType = 0;
    int32_t outDataType = -1;
    uint8_t rsv[64] = {};
};

struct AllGatherParam {
    int32_t rank = 0;
    int32_t rankSize = 0;
    int32_t rankRoot = 0;
    std::string backend = "hccl";
    void *hcclComm = nullptr;
    int32_t commMode = 0;
    std::string rankTableFile;
    std::string commDomain;
    uint8_t rsv[64] = {};
};

} // namespace infer

#include "layouts.inc"

} // namespace AQATB_NAMESPACE
