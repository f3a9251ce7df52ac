// Where things lie in the memory of a client of ATB 8.0.0 to 9.1.0: numbers, taken from the project's reference and
// from no header of the project's own shim, so that a mistake in one is found by the other.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace sim {

constexpr int MAX_DIM = 8;
constexpr size_t MAX_LIST = 64;  // an SVector's own room; beyond it lie its traps

struct Dims {
    int64_t dims[MAX_DIM];
    uint64_t count;
};
static_assert(sizeof(Dims) == 72 && offsetof(Dims, count) == 64);

struct Desc {
    int32_t dtype;
    int32_t format;
    Dims shape;
};
static_assert(sizeof(Desc) == 80 && offsetof(Desc, format) == 4 && offsetof(Desc, shape) == 8);

struct Tensor {
    Desc desc;
    void *device;
    void *host;
    uint64_t bytes;
};
static_assert(sizeof(Tensor) == 104 && offsetof(Tensor, device) == 80 && offsetof(Tensor, host) == 88 &&
              offsetof(Tensor, bytes) == 96);

// aclDataType, aclFormat
enum {
    F32 = 0,
    F16 = 1,
    INT8 = 2,
    INT32 = 3,
    UINT8 = 4,
    INT16 = 6,
    UINT16 = 7,
    UINT32 = 8,
    INT64 = 9,
    UINT64 = 10,
    BOOL = 12,
    BF16 = 27
};
enum { FORMAT_ND = 2, FORMAT_NZ = 29 };

// Bytes of a client, read at an offset.
class Bytes {
  public:
    explicit Bytes(const void *start) : start_(static_cast<const uint8_t *>(start)) {}
    template <class T>
    T at(size_t offset) const {
        T value;
        std::memcpy(&value, start_ + offset, sizeof value);
        return value;
    }
    int32_t i32(size_t offset) const { return at<int32_t>(offset); }
    int64_t i64(size_t offset) const { return at<int64_t>(offset); }
    float f32(size_t offset) const { return at<float>(offset); }
    bool flag(size_t offset) const { return at<uint8_t>(offset) != 0; }
    uint8_t u8(size_t offset) const { return at<uint8_t>(offset); }
    bool zero(size_t from, size_t to) const {
        for (size_t i = from; i < to; i++) {
            if (start_[i]) return false;
        }
        return true;
    }
    const void *place(size_t offset) const { return start_ + offset; }
    const std::string &text(size_t offset) const { return *static_cast<const std::string *>(place(offset)); }

  private:
    const uint8_t *start_;
};

// An SVector<T> of a client: capacity at 0, size at 8, 65 items at 16, then a pointer to items on the heap.
template <class T>
class List {
  public:
    explicit List(const void *start) : start_(static_cast<uint8_t *>(const_cast<void *>(start))) {}
    static constexpr size_t heapOffset() { return (16 + 65 * sizeof(T) + 7) / 8 * 8; }
    static constexpr size_t bytes() { return heapOffset() + 8; }
    size_t size() const { return Bytes(start_).at<uint64_t>(8); }
    T *data() const {
        T *heap = Bytes(start_).at<T *>(heapOffset());
        return heap ? heap : reinterpret_cast<T *>(start_ + 16);
    }
    std::vector<T> items() const {
        return size() > MAX_LIST ? std::vector<T>() : std::vector<T>(data(), data() + size());
    }
    void set(const std::vector<T> &items) {
        const uint64_t count = items.size();
        std::memcpy(start_ + 8, &count, 8);
        std::memcpy(static_cast<void *>(data()), items.data(), count * sizeof(T));
    }

  private:
    uint8_t *start_;
};
static_assert(List<Tensor>::bytes() == 6784 && List<Desc>::bytes() == 5224 && List<uint32_t>::bytes() == 288 &&
              List<int64_t>::bytes() == 544 && List<std::function<void()>>::bytes() == 2104);

constexpr size_t OUT_TENSORS = 6784;  // in a VariantPack of 13568 bytes

struct NodeAt {
    static constexpr size_t OPERATION = 0, IN_IDS = 8, OUT_IDS = 296, RESHAPES = 584, CHUNKS = 2688, SIZE = 3232;
};

#if _GLIBCXX_USE_CXX11_ABI
struct GraphAt {
    static constexpr size_t NAME = 0, INPUTS = 32, OUTPUTS = 36, INTERNALS = 40, NODES = 48, INFER = 72;
};
struct AllReduceAt {
    static constexpr size_t KIND = 16, BACKEND = 48, COMM = 80, MODE = 88, TABLE = 96, DOMAIN = 128, QUANT = 160,
                            OUT_TYPE = 164, RSV = 168, SIZE = 232;
};
struct AllGatherAt {
    static constexpr size_t BACKEND = 16, COMM = 48, MODE = 56, TABLE = 64, DOMAIN = 96, RSV = 128, SIZE = 192;
};
static_assert(sizeof(std::string) == 32);
#else
struct GraphAt {
    static constexpr size_t NAME = 0, INPUTS = 8, OUTPUTS = 12, INTERNALS = 16, NODES = 24, INFER = 48;
};
struct AllReduceAt {
    static constexpr size_t KIND = 16, BACKEND = 24, COMM = 32, MODE = 40, TABLE = 48, DOMAIN = 56, QUANT = 64,
                            OUT_TYPE = 68, RSV = 72, SIZE = 136;
};
struct AllGatherAt {
    static constexpr size_t BACKEND = 16, COMM = 24, MODE = 32, TABLE = 40, DOMAIN = 48, RSV = 56, SIZE = 120;
};
static_assert(sizeof(std::string) == 8);
#endif
static_assert(sizeof(std::vector<int>) == 24 && sizeof(std::function<void()>) == 32);

inline size_t itemSize(int dtype) {
    switch (dtype) {
        case INT8:
        case UINT8:
        case BOOL: return 1;
        case F16:
        case BF16:
        case INT16:
        case UINT16: return 2;
        case F32:
        case INT32:
        case UINT32: return 4;
        case INT64:
        case UINT64: return 8;
        default: return 0;
    }
}

inline int64_t numel(const Dims &shape) {
    int64_t count = 1;
    for (uint64_t i = 0; i < shape.count && i < MAX_DIM; i++) count *= shape.dims[i];
    return count;
}

inline bool sameShape(const Dims &a, const Dims &b) {
    return a.count == b.count && std::memcmp(a.dims, b.dims, std::min<size_t>(a.count, MAX_DIM) * 8) == 0;
}

inline Desc makeDesc(int dtype, int format, std::initializer_list<int64_t> dims) {
    Desc desc{dtype, format, {}};
    for (int64_t dim : dims) desc.shape.dims[desc.shape.count++] = dim;
    return desc;
}

inline int64_t lastDim(const Desc &desc) {
    return desc.shape.count ? desc.shape.dims[desc.shape.count - 1] : 0;
}
inline int64_t alignUp(int64_t value, int64_t step) {
    return (value + step - 1) / step * step;
}

// What a kernel touches of a tensor. A 2-D NZ matrix states its logical size and takes the padded one.
inline size_t physicalBytes(const Desc &desc) {
    const size_t item = itemSize(desc.dtype);
    if (desc.format == FORMAT_NZ && desc.shape.count == 2) {
        const int64_t wide = item == 1 ? 32 : 16;
        return size_t(alignUp(desc.shape.dims[0], 16) * alignUp(desc.shape.dims[1], wide)) * item;
    }
    return size_t(numel(desc.shape)) * item;
}

}  // namespace sim
