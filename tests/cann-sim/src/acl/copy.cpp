// Copies and fills: at once, or as work of a stream.
#include <cstring>
#include <random>
#include <shared_mutex>

#include "state.h"

namespace sim {
namespace {

bool isDevice(const void *address) {
    return aquilaSimDeviceOf(address) >= 0;
}

// Both ends of a copy as the host can use them, or the code that refuses it.
struct Ends {
    void *target;
    const void *source;
    bool fromHost, toHost;
};

int checkCopy(Call &call, Device &device, void *dst, size_t room, const void *src, size_t count, int kind,
              Ends *ends) {
    call.detail("dst=%p max=%zu src=%p count=%zu kind=%d", dst, room, src, count, kind);
    if (!dst || !src || count == 0) return call.fail(INVALID_PARAM, "copy: a null address, or nothing to copy");
    if (room < count) return call.fail(INVALID_PARAM, "copy of %zu bytes into %zu", count, room);
    if (kind < HOST_TO_HOST || kind > DEVICE_TO_DEVICE) return call.fail(RT_PARAM_INVALID, "copy of kind %d", kind);
    const bool toDevice = kind == HOST_TO_DEVICE || kind == DEVICE_TO_DEVICE;
    const bool fromDevice = kind == DEVICE_TO_HOST || kind == DEVICE_TO_DEVICE;
    if (isDevice(dst) != toDevice || isDevice(src) != fromDevice) {
        return call.fail(RT_PARAM_INVALID, "copy of kind %d from %s to %s", kind, isDevice(src) ? "device" : "host",
                         isDevice(dst) ? "device" : "host");
    }
    int targetDevice = device.id, sourceDevice = device.id;
    ends->target = toDevice ? resolve(dst, count, &targetDevice) : dst;
    ends->source = fromDevice ? resolve(src, count, &sourceDevice) : src;
    if (!ends->target)
        return call.fail(RT_PARAM_INVALID, "copy: %zu bytes at %p are not one allocation", count, dst);
    if (!ends->source)
        return call.fail(RT_PARAM_INVALID, "copy: %zu bytes at %p are not one allocation", count, src);
    for (const int other : {targetDevice, sourceDevice}) {
        const bool open = other == device.id ||
                          (device.peers.count(other) && machine().devices[other].peers.count(device.id));
        if (!open)
            return call.fail(RT_PARAM_INVALID, "device %d has no peer access to device %d", device.id, other);
    }
    ends->fromHost = !fromDevice;
    ends->toHost = !toDevice;
    return OK;
}

// Without kernels there is nothing to copy; a host that reads gets zeros.
void move(const Ends &ends, size_t count) {
    if (!settings().noop) {
        std::memmove(ends.target, ends.source, count);
    } else if (ends.toHost) {
        std::memset(ends.target, 0, count);
    }
}

// Late by a little, at random: a source that was overwritten too early shows.
void wait(double most) {
    thread_local std::minstd_rand random{std::random_device{}()};
    if (most > 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % int64_t(most + 1)));
}

int copyLater(void *dst, const void *src, size_t count, Ends ends) {
    wait(settings().jitterMicros);
    std::shared_lock<std::shared_mutex> guard(pinnedLock);
    ends.target = ends.toHost ? dst : resolve(dst, count);
    ends.source = ends.fromHost ? src : resolve(src, count);
    const bool hostThere = (!ends.fromHost || isPinned(src, count)) && (!ends.toHost || isPinned(dst, count));
    if (!ends.target || !ends.source || !hostThere) {
        aquilaSimKernelFailed(
            describe("copy of %zu bytes from %p to %p: freed before it ran", count, src, dst).c_str());
        return RT_DEVICE_MEM_ERROR;
    }
    move(ends, count);
    return OK;
}

}  // namespace
}  // namespace sim

using namespace sim;

SIM_EXPORT int aclrtMemcpy(void *dst, size_t destMax, const void *src, size_t count, int kind) {
    SIM_CALL(aclrtMemcpy, nullptr);
    Device *device = nullptr;
    Ends ends{};
    {
        std::lock_guard<std::recursive_mutex> guard(machine().lock);
        if (int code = requireDevice(call, &device)) return code;
        if (int code = checkCopy(call, *device, dst, destMax, src, count, kind, &ends)) return code;
    }
    move(ends, count);
    return call.end(OK);
}

SIM_EXPORT int aclrtMemcpyAsync(void *dst, size_t destMax, const void *src, size_t count, int kind, void *handle) {
    SIM_STREAM_CALL(aclrtMemcpyAsync, handle);
    std::unique_lock<std::recursive_mutex> guard(machine().lock);
    Stream *stream = nullptr;
    Ends ends{};
    if (int code = requireStream(call, handle, &stream)) return code;
    Device &device = machine().devices[size_t(stream->device)];
    if (kind == HOST_TO_HOST) return call.fail(RT_FEATURE_NOT_SUPPORT, "asynchronous copy within the host");
    if (int code = checkCopy(call, device, dst, destMax, src, count, kind, &ends)) return code;
    // Pageable memory: the call returns when the copy is done.
    const bool pageable = (ends.fromHost && !isPinned(src, count)) || (ends.toHost && !isPinned(dst, count));
    Task task{"aclrtMemcpyAsync", 0, nullptr};
    if (pageable) {
        task.run = [=] {
            move(ends, count);
            return OK;
        };
    } else {
        task.run = [=] { return copyLater(dst, src, count, ends); };
    }
    if (call.late.kind == SIM_FAULT_NAN && !ends.toHost) {
        task.run = [=] {
            std::memset(ends.target, 0xff, count);
            return OK;
        };
    }
    if (int code = enqueue(*stream, std::move(task), call.late)) return call.end(code);
    guard.unlock();
    return call.end(pageable ? drain(*stream, -1) : OK);
}

static int memsetChecked(sim::Call &call, void *devPtr, size_t room, size_t count) {
    call.detail("at=%p max=%zu count=%zu", devPtr, room, count);
    if (!devPtr || count == 0 || count > room)
        return call.fail(INVALID_PARAM, "memset of %zu bytes into %zu", count, room);
    if (!resolve(devPtr, count))
        return call.fail(RT_PARAM_INVALID, "memset: %zu bytes at %p are not one allocation", count, devPtr);
    return OK;
}

SIM_EXPORT int aclrtMemset(void *devPtr, size_t maxCount, int32_t value, size_t count) {
    SIM_CALL(aclrtMemset, nullptr);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Device *device = nullptr;
    if (int code = requireDevice(call, &device)) return code;
    if (int code = memsetChecked(call, devPtr, maxCount, count)) return code;
    if (!settings().noop) std::memset(resolve(devPtr, count), value, count);
    return call.end(OK);
}

SIM_EXPORT int aclrtMemsetAsync(void *devPtr, size_t maxCount, int32_t value, size_t count, void *handle) {
    SIM_STREAM_CALL(aclrtMemsetAsync, handle);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Stream *stream = nullptr;
    if (int code = requireStream(call, handle, &stream)) return code;
    if (int code = memsetChecked(call, devPtr, maxCount, count)) return code;
    Task task{"aclrtMemsetAsync", 0, [=] {
                  void *bytes = resolve(devPtr, count);
                  if (!bytes) {
                      aquilaSimKernelFailed("memset: freed before it ran");
                      return int(RT_DEVICE_MEM_ERROR);
                  }
                  if (!settings().noop) std::memset(bytes, value, count);
                  return int(OK);
              }};
    return call.end(enqueue(*stream, std::move(task), call.late));
}
