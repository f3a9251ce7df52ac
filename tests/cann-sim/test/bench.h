// A device with a stream and a context, tensors on it, and one call that sets up, executes and waits.
#pragma once
#include <map>
#include <numeric>
#include <random>

#include "../src/half.h"
#include "acl_client.h"
#include "atb_client.h"
#include "check.h"

enum { F32 = 0, F16 = 1, INT8 = 2, INT32 = 3, INT64 = 9, UINT64 = 10, BF16 = 27 };
enum { ND = 2, NZ = 29 };

inline size_t itemSize(int dtype) {
    return dtype == INT8 ? 1 : dtype == F16 || dtype == BF16 ? 2 : dtype == INT64 || dtype == UINT64 ? 8 : 4;
}

using Floats = std::vector<float>;
using Doubles = std::vector<double>;
using Shape = std::vector<int64_t>;

// As a device of this type stores them.
inline float stored(float value, int dtype) {
    if (dtype == F16) return sim::f16ToFloat(sim::floatToF16(value));
    if (dtype == BF16) return sim::bf16ToFloat(sim::floatToBf16(value));
    return value;
}

// Tolerances by type: a rounding of the output, and of sums in f32.
inline double toleranceOf(int dtype) {
    return dtype == F32 ? 2e-6 : dtype == F16 ? 6e-4 : 5e-3;
}

inline Floats storedAs(Floats values, int dtype) {
    for (float &value : values) value = stored(value, dtype);
    return values;
}

// Row and column of an NZ matrix to its place, as the reference writes it.
inline size_t nzPlace(int64_t r, int64_t c, int64_t rows, int64_t wide) {
    return size_t(((c / wide) * ((rows + 15) / 16 * 16) + r) * wide + c % wide);
}

inline Floats toNz(const Floats &plain, int64_t rows, int64_t columns, int64_t wide, float padding) {
    Floats tiled(size_t((rows + 15) / 16 * 16 * ((columns + wide - 1) / wide) * wide), padding);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < columns; c++) tiled[nzPlace(r, c, rows, wide)] = plain[size_t(r * columns + c)];
    }
    return tiled;
}

inline std::vector<uint8_t> encode(const Floats &values, int dtype) {
    std::vector<uint8_t> bytes(values.size() * itemSize(dtype));
    for (size_t i = 0; i < values.size(); i++) {
        const auto put = [&](auto value) { std::memcpy(bytes.data() + i * sizeof value, &value, sizeof value); };
        switch (dtype) {
            case F16: put(sim::floatToF16(values[i])); break;
            case BF16: put(sim::floatToBf16(values[i])); break;
            case INT8: put(int8_t(values[i])); break;
            case INT32: put(int32_t(values[i])); break;
            case INT64: put(int64_t(values[i])); break;
            default: put(values[i]);
        }
    }
    return bytes;
}

inline Floats decode(const std::vector<uint8_t> &bytes, int dtype) {
    Floats values(bytes.size() / itemSize(dtype));
    for (size_t i = 0; i < values.size(); i++) {
        const auto get = [&](auto value) {
            std::memcpy(&value, bytes.data() + i * sizeof value, sizeof value);
            return value;
        };
        switch (dtype) {
            case F16: values[i] = sim::f16ToFloat(get(uint16_t())); break;
            case BF16: values[i] = sim::bf16ToFloat(get(uint16_t())); break;
            case INT8: values[i] = get(int8_t()); break;
            case INT32: values[i] = float(get(int32_t())); break;
            case INT64: values[i] = float(get(int64_t())); break;
            default: values[i] = get(float());
        }
    }
    return values;
}

inline Floats randoms(size_t count, float size = 1, unsigned seed = 1) {
    std::mt19937 random(seed * 7919 + unsigned(count));
    Floats values(count);
    for (float &value : values) value = (float(random() % 20001) / 10000 - 1) * size;
    return values;
}

inline int64_t product(const Shape &shape) {
    return std::accumulate(shape.begin(), shape.end(), int64_t(1), std::multiplies<>());
}

inline atb::TensorDesc desc(int dtype, const Shape &shape, int format = ND) {
    atb::TensorDesc made;
    made.dtype = dtype;
    made.format = format;
    for (int64_t dim : shape) made.shape.dims[made.shape.dimNum++] = dim;
    return made;
}

struct Bench {
    void *stream = nullptr;
    atb::Context *context = nullptr;
    std::vector<void *> memory;
    void *workspace = nullptr;
    uint64_t workspaceSize = 0;
    int device;

    explicit Bench(int device = 0) : device(device) {
        aclInit(nullptr);
        EQ(aclrtSetDevice(device), 0);
        EQ(aclrtCreateStream(&stream), 0);
        EQ(atb::CreateContext(&context), 0);
        EQ(context->SetExecuteStream(stream), 0);
    }
    ~Bench() {
        for (void *one : memory) aclrtFree(one);
        if (workspace) aclrtFree(workspace);
        atb::DestroyContext(context);
        aclrtDestroyStream(stream);
        aclrtResetDevice(device);
    }

    void *bytes(size_t size) {
        void *place = nullptr;
        EQ(aclrtMalloc(&place, size, 0), 0);
        memory.push_back(place);
        return place;
    }

    // On the device; of a 2-D NZ matrix the padded size is taken.
    atb::Tensor empty(int dtype, const Shape &shape, int format = ND) {
        atb::Tensor tensor;
        tensor.desc = desc(dtype, shape, format);
        tensor.dataSize = uint64_t(product(shape)) * itemSize(dtype);
        tensor.deviceData = bytes(tensor.dataSize);
        return tensor;
    }

    atb::Tensor upload(const Floats &values, int dtype, const Shape &shape, int format = ND) {
        atb::Tensor tensor = empty(dtype, shape, format);
        const std::vector<uint8_t> data = encode(values, dtype);
        EQ(aclrtMemcpy(tensor.deviceData, tensor.dataSize, data.data(), data.size(), HOST_TO_DEVICE), 0);
        return tensor;
    }

    Floats read(const atb::Tensor &tensor) {
        std::vector<uint8_t> data(tensor.dataSize);
        EQ(aclrtMemcpy(data.data(), data.size(), tensor.deviceData, data.size(), DEVICE_TO_HOST), 0);
        return decode(data, tensor.desc.dtype);
    }

    atb::VariantPack pack(const std::vector<atb::Tensor> &in, const std::vector<atb::Tensor> &out) {
        atb::VariantPack made;
        made.inTensors = atb::SVector<atb::Tensor>(in);
        made.outTensors = atb::SVector<atb::Tensor>(out);
        return made;
    }

    // Setup and Execute; the work may still run.
    int launch(atb::Operation *operation, const atb::VariantPack &variant) {
        uint64_t needed = 0;
        if (int code = operation->Setup(variant, needed, context)) return code;
        CHECK(needed > 0);
        if (needed > workspaceSize) {
            if (workspace) aclrtFree(workspace);
            EQ(aclrtMalloc(&workspace, needed, 0), 0);
            workspaceSize = needed;
        }
        return operation->Execute(variant, static_cast<uint8_t *>(workspace), workspaceSize, context);
    }

    int run(atb::Operation *operation, const std::vector<atb::Tensor> &in, const std::vector<atb::Tensor> &out) {
        const int code = launch(operation, pack(in, out));
        return code ? code : aclrtSynchronizeStream(stream);
    }

    // Creates, runs and destroys.
    template <class P>
    int once(const P &param, const std::vector<atb::Tensor> &in, const std::vector<atb::Tensor> &out) {
        atb::Operation *operation = nullptr;
        if (int code = atb::CreateOperation(param, &operation)) return code;
        const int code = run(operation, in, out);
        EQ(atb::DestroyOperation(operation), 0);
        return code;
    }
};

// Lengths on the device and on the host, as the attention operations take them.
inline atb::Tensor withHost(Bench &bench, std::vector<int32_t> *values) {
    atb::Tensor tensor = bench.upload(Floats(values->begin(), values->end()), INT32, {int64_t(values->size())});
    tensor.hostData = values->data();
    return tensor;
}

// The largest difference, in units of `tolerance` relative to 1 or the value.
inline void near(const Floats &found, const std::vector<double> &expected, double tolerance, const char *file,
                 int line) {
    if (found.size() != expected.size()) {
        failures()++;
        std::printf("%s:%d: %zu numbers, not %zu\n", file, line, found.size(), expected.size());
        return;
    }
    for (size_t i = 0; i < found.size(); i++) {
        const double limit = tolerance * std::max(1.0, std::fabs(expected[i]));
        if (std::fabs(found[i] - expected[i]) <= limit) continue;
        failures()++;
        std::printf("%s:%d: number %zu is %g, expected %g\n", file, line, i, double(found[i]), expected[i]);
        return;
    }
}
#define NEAR(found, expected, tolerance) near((found), (expected), (tolerance), __FILE__, __LINE__)
