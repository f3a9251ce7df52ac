// Numbers of the device as f32 and back, and the processors that compute with them.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "../half.h"
#include "kernel.h"

namespace sim {
namespace {

// Threads that share a loop with the stream's thread. One loop at a time: another one runs alone.
class Pool {
  public:
    Pool() {
        const unsigned count = std::min(8u, std::max(1u, std::thread::hardware_concurrency()));
        for (unsigned i = 1; i < count; i++) std::thread([this] { serve(); }).detach();
        helpers_ = count - 1;
    }

    void run(int64_t count, const std::function<void(int64_t, int64_t)> &body) {
        std::unique_lock<std::mutex> mine(user_, std::try_to_lock);
        if (!mine || helpers_ == 0 || count < 2) return body(0, count);
        {
            std::lock_guard<std::mutex> guard(lock_);
            body_ = &body;
            count_ = count;
            share_ = std::max<int64_t>(1, count / (4 * int64_t(helpers_ + 1)));
            next_ = 0;
            busy_ = helpers_;
            round_++;
        }
        wake_.notify_all();
        take();
        std::unique_lock<std::mutex> guard(lock_);
        done_.wait(guard, [&] { return busy_ == 0; });
    }

  private:
    void take() {
        while (true) {
            const int64_t from = next_.fetch_add(share_);
            if (from >= count_) return;
            (*body_)(from, std::min(from + share_, count_));
        }
    }

    void serve() {
        uint64_t seen = 0;
        std::unique_lock<std::mutex> guard(lock_);
        while (true) {
            wake_.wait(guard, [&] { return round_ != seen; });
            seen = round_;
            guard.unlock();
            take();
            guard.lock();
            if (--busy_ == 0) done_.notify_all();
        }
    }

    std::mutex user_, lock_;
    std::condition_variable wake_, done_;
    const std::function<void(int64_t, int64_t)> *body_ = nullptr;
    int64_t count_ = 0, share_ = 1;
    std::atomic<int64_t> next_{0};
    unsigned helpers_ = 0, busy_ = 0;
    uint64_t round_ = 0;
};

}  // namespace

void inParallel(int64_t count, const std::function<void(int64_t, int64_t)> &body) {
    static Pool *const pool = new Pool;  // its threads outlive static objects
    pool->run(count, body);
}

void toFloats(const uint8_t *data, int dtype, int64_t first, int64_t count, float *into) {
    if (dtype == F16) {
        auto *from = reinterpret_cast<const uint16_t *>(data) + first;
        for (int64_t i = 0; i < count; i++) into[i] = f16ToFloat(from[i]);
    } else if (dtype == BF16) {
        auto *from = reinterpret_cast<const uint16_t *>(data) + first;
        for (int64_t i = 0; i < count; i++) into[i] = bf16ToFloat(from[i]);
    } else if (dtype == F32) {
        std::memcpy(into, data + first * 4, size_t(count) * 4);
    } else {
        for (int64_t i = 0; i < count; i++) into[i] = readNumber(data, dtype, first + i);
    }
}

void fromFloats(const float *from, int64_t count, uint8_t *data, int dtype, int64_t first) {
    for (int64_t i = 0; i < count; i++) writeNumber(data, dtype, first + i, from[i]);
}

float readNumber(const uint8_t *data, int dtype, int64_t index) {
    const Bytes bytes(data);
    const size_t at = size_t(index);
    switch (dtype) {
        case F16: return f16ToFloat(bytes.at<uint16_t>(at * 2));
        case BF16: return bf16ToFloat(bytes.at<uint16_t>(at * 2));
        case F32: return bytes.f32(at * 4);
        case INT8: return bytes.at<int8_t>(at);
        case UINT8:
        case BOOL: return bytes.u8(at);
        case INT32: return float(bytes.i32(at * 4));
        case UINT32: return float(bytes.at<uint32_t>(at * 4));
        case INT64:
        case UINT64: return float(bytes.i64(at * 8));
        default: return 0;
    }
}

namespace {

template <class T>
void put(uint8_t *data, int64_t index, T value) {
    std::memcpy(data + size_t(index) * sizeof value, &value, sizeof value);
}

}  // namespace

void writeNumber(uint8_t *data, int dtype, int64_t index, float value) {
    switch (dtype) {
        case F16: return put(data, index, floatToF16(value));
        case BF16: return put(data, index, floatToBf16(value));
        case F32: return put(data, index, value);
        case INT8: return put(data, index, int8_t(value));
        case INT32: return put(data, index, int32_t(value));
        case INT64: return put(data, index, int64_t(value));
        default: return;
    }
}

std::vector<float> load(const Operand &operand) {
    std::vector<float> values(size_t(operand.size()));
    toFloats(operand.data, operand.desc.dtype, 0, operand.size(), values.data());
    return values;
}

void store(const std::vector<float> &values, const Operand &operand) {
    fromFloats(values.data(), int64_t(values.size()), operand.data, operand.desc.dtype, 0);
}

// Sixteen running sums, so that the order does not depend on what else is computed.
float dot(const float *a, const float *b, int64_t count) {
    constexpr int LANES = 16;
    float sums[LANES] = {};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) sums[lane] += a[i + lane] * b[i + lane];
    }
    for (int lane = 0; i < count; i++, lane++) sums[lane] += a[i] * b[i];
    for (int half = LANES / 2; half; half /= 2) {
        for (int lane = 0; lane < half; lane++) sums[lane] += sums[lane + half];
    }
    return sums[0];
}

}  // namespace sim
