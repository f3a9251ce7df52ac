// Device memory and pinned host memory.
//
// A device address is a place in a range that nobody may touch: a host that reads or writes it dies of SIGSEGV, as
// it would by touching an NPU's memory. The bytes live in a second range, the shadow, which only the simulator's
// kernels and copies use. Every access is checked against the allocation's requested size.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <shared_mutex>

#include "state.h"

namespace sim {
namespace {

constexpr size_t SMALL = 1 << 20;  // up to here from small pages
constexpr size_t HUGE_PAGE = 2 << 20;
constexpr size_t SMALL_STEP = 512;
constexpr size_t START_OFFSET = 64;  // a small allocation starts at 64 bytes, as promised, and not at more

size_t roundUp(size_t value, size_t step) {
    return (value + step - 1) / step * step;
}

std::map<uintptr_t, size_t>::iterator firstFit(Device &device, size_t bytes) {
    return std::find_if(device.holes.begin(), device.holes.end(), [&](auto &hole) { return hole.second >= bytes; });
}

void giveBack(Device &device, const Allocation &gone) {
    uintptr_t start = gone.block;
    size_t size = gone.charged;
    auto next = device.holes.lower_bound(start);
    if (next != device.holes.end() && next->first == start + size) {
        size += next->second;
        next = device.holes.erase(next);
    }
    if (next != device.holes.begin()) {
        auto before = std::prev(next);
        if (before->first + before->second == start) {
            start = before->first;
            size += before->second;
            device.holes.erase(before);
        }
    }
    device.holes[start] = size;
    device.used -= gone.charged;
    // The host gets its pages back; what comes next there is poisoned again.
    uint8_t *bytes = device.shadow + (gone.block - uintptr_t(device.base));
    const uintptr_t from = roundUp(uintptr_t(bytes), 4096), to = (uintptr_t(bytes) + gone.charged) / 4096 * 4096;
    if (to > from) madvise(reinterpret_cast<void *>(from), to - from, MADV_DONTNEED);
}

}  // namespace

std::shared_mutex pinnedLock;

void openDevice(Device &device) {
    if (device.base) return;
    device.span = roundUp(settings().memory + settings().memory / 4 + (64 << 20), HUGE_PAGE);
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *base = mmap(nullptr, device.span + HUGE_PAGE, PROT_NONE, flags, -1, 0);
    void *shadow = mmap(nullptr, device.span + HUGE_PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (base == MAP_FAILED || shadow == MAP_FAILED) {
        std::fprintf(stderr, "aquila CANN simulator: no address space for a device of %zu bytes\n", device.span);
        std::abort();
    }
    madvise(shadow, device.span + HUGE_PAGE, MADV_DONTDUMP);
    device.base = reinterpret_cast<uint8_t *>(roundUp(uintptr_t(base), HUGE_PAGE));
    device.shadow = reinterpret_cast<uint8_t *>(roundUp(uintptr_t(shadow), HUGE_PAGE));
    device.holes = {{uintptr_t(device.base), device.span}};
}

int allocate(Call &call, Device &device, size_t size, int policy, void **out) {
    if (policy < 0 || policy > 5) {
        return call.fail(RT_PARAM_INVALID, "policy %d: exactly one of 0 to 5 is expected", policy);
    }
    const bool normalOnly = policy == 2 || policy == 5;
    const bool small = size <= SMALL || normalOnly;
    if (size > settings().memory)
        return call.fail(RT_MEMORY_ALLOCATION, "%zu bytes: more than the device has", size);
    const size_t taken = roundUp(size, 32) + 32;
    const size_t charged = small ? roundUp(taken + START_OFFSET, SMALL_STEP) : roundUp(taken, HUGE_PAGE);
    if (device.used + charged > settings().memory) {
        return call.fail(RT_MEMORY_ALLOCATION, "device %d: %zu bytes asked for, %llu of %llu taken", device.id,
                         size, (unsigned long long)device.used, (unsigned long long)settings().memory);
    }
    auto hole = firstFit(device, charged);
    if (hole == device.holes.end()) return call.fail(RT_MEMORY_ALLOCATION, "device %d: fragmented", device.id);
    const uintptr_t block = hole->first;
    const size_t left = hole->second - charged;
    device.holes.erase(hole);
    if (left) device.holes[block + charged] = left;
    const uintptr_t address = block + (small ? START_OFFSET : 0);
    device.live[address] = {size, block, charged};
    device.used += charged;
    device.peak = std::max(device.peak, device.used);
    if (settings().poison) std::memset(device.shadow + (block - uintptr_t(device.base)), 0xff, charged);
    *out = reinterpret_cast<void *>(address);
    return OK;
}

int release(Call &call, void *address) {
    for (Device &device : machine().devices) {
        auto found = device.live.find(uintptr_t(address));
        if (found == device.live.end()) continue;
        giveBack(device, found->second);
        device.live.erase(found);
        return OK;
    }
    return call.fail(RT_PARAM_INVALID, "%p is not the start of a live allocation", address);
}

void releaseAll(Device &device) {
    while (!device.live.empty()) {
        reportLeak(describe("device %d: %zu bytes at %p", device.id, device.live.begin()->second.size,
                            reinterpret_cast<void *>(device.live.begin()->first)));
        giveBack(device, device.live.begin()->second);
        device.live.erase(device.live.begin());
    }
}

// The place of `bytes` device bytes; null if they do not lie in one live allocation.
uint8_t *resolve(const void *address, size_t bytes, int *where) {
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    const uintptr_t at = uintptr_t(address);
    for (Device &device : machine().devices) {
        if (!device.base || at < uintptr_t(device.base) || at >= uintptr_t(device.base) + device.span) continue;
        auto next = device.live.upper_bound(at);
        if (next == device.live.begin()) return nullptr;
        const auto &[start, allocation] = *std::prev(next);
        if (at - start > allocation.size || bytes > allocation.size - (at - start)) return nullptr;
        if (where) *where = device.id;
        return device.shadow + (at - uintptr_t(device.base));
    }
    return nullptr;
}

bool isPinned(const void *address, size_t bytes) {
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    auto next = machine().pinned.upper_bound(uintptr_t(address));
    if (next == machine().pinned.begin()) return false;
    const auto &[start, size] = *std::prev(next);
    const size_t offset = uintptr_t(address) - start;
    return offset < size && bytes <= size - offset;
}

}  // namespace sim

using namespace sim;

SIM_EXPORT void *aquilaSimResolve(const void *address, size_t bytes) {
    return resolve(address, bytes);
}

SIM_EXPORT int aquilaSimDeviceOf(const void *address) {
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    const uintptr_t at = uintptr_t(address);
    for (const Device &device : machine().devices) {
        if (device.base && at >= uintptr_t(device.base) && at < uintptr_t(device.base) + device.span)
            return device.id;
    }
    return -1;
}

SIM_EXPORT size_t aquilaSimRoom(const void *address) {
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    for (const Device &device : machine().devices) {
        auto next = device.live.upper_bound(uintptr_t(address));
        if (next == device.live.begin()) continue;
        const auto &[start, allocation] = *std::prev(next);
        if (uintptr_t(address) - start < allocation.size) return allocation.size - (uintptr_t(address) - start);
    }
    return 0;
}

SIM_EXPORT uint64_t aquilaSimUsed(int device) {
    return machine().devices.at(size_t(device)).used;
}
SIM_EXPORT uint64_t aquilaSimPeak(int device) {
    return machine().devices.at(size_t(device)).peak;
}

static int mallocCall(const char *name, void **devPtr, size_t size, int policy) {
    sim::Call call(aquilaSimCounter(name));
    if (int code = call.injected(false)) return call.end(code);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Device *device = nullptr;
    if (int code = requireDevice(call, &device)) return code;
    if (!devPtr || size == 0) return call.fail(INVALID_PARAM, "%s: a null pointer, or no bytes", name);
    if (int code = allocate(call, *device, size, policy, devPtr)) return code;
    call.detail("size=%zu policy=%d at=%p", size, policy, *devPtr);
    return call.end(OK);
}

SIM_EXPORT int aclrtMalloc(void **devPtr, size_t size, int policy) {
    return mallocCall("aclrtMalloc", devPtr, size, policy);
}
SIM_EXPORT int aclrtMallocAlign32(void **devPtr, size_t size, int policy) {
    return mallocCall("aclrtMallocAlign32", devPtr, size, policy);
}
SIM_EXPORT int aclrtMallocCached(void **devPtr, size_t size, int policy) {
    return mallocCall("aclrtMallocCached", devPtr, size, policy);
}

SIM_EXPORT int aclrtFree(void *devPtr) {
    static SimCounter *const counter = aquilaSimCounter("aclrtFree");
    sim::Call call(counter);
    const int injected = call.injected(false);  // what is to go goes, whatever the code
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    if (!devPtr) return call.fail(INVALID_PARAM, "aclrtFree of null");
    Device *device = nullptr;
    if (int code = release(call, devPtr)) return code;
    if (int code = requireDevice(call, &device)) return code;
    call.detail("at=%p", devPtr);
    return call.end(injected);
}

SIM_EXPORT int aclrtMallocHost(void **hostPtr, size_t size) {
    SIM_CALL(aclrtMallocHost, nullptr);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Device *device = nullptr;
    if (int code = requireDevice(call, &device)) return code;
    if (!hostPtr || size == 0) return call.fail(INVALID_PARAM, "aclrtMallocHost: a null pointer, or no bytes");
    void *bytes = mmap(nullptr, roundUp(size, 4096), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED) return call.fail(RT_MEMORY_ALLOCATION, "no host memory for %zu bytes", size);
    std::memset(bytes, 0xff, size);
    machine().pinned[uintptr_t(bytes)] = size;
    *hostPtr = bytes;
    call.detail("size=%zu", size);
    return call.end(OK);
}

SIM_EXPORT int aclrtFreeHost(void *hostPtr) {
    static SimCounter *const counter = aquilaSimCounter("aclrtFreeHost");
    sim::Call call(counter);
    const int injected = call.injected(false);
    std::unique_lock<std::shared_mutex> noCopy(pinnedLock);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    auto found = machine().pinned.find(uintptr_t(hostPtr));
    if (found == machine().pinned.end())
        return call.fail(INVALID_PARAM, "aclrtFreeHost: %p is not pinned memory", hostPtr);
    munmap(hostPtr, roundUp(found->second, 4096));
    machine().pinned.erase(found);
    return call.end(injected);
}

SIM_EXPORT int aclrtGetMemInfo(int attr, size_t *free, size_t *total) {
    SIM_CALL(aclrtGetMemInfo, nullptr);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Device *device = nullptr;
    if (int code = requireDevice(call, &device)) return code;
    if (!free || !total) return call.fail(INVALID_PARAM, "aclrtGetMemInfo: a null pointer");
    // 910B has HBM alone, 310P has DDR alone; of what a device lacks it says 0.
    const bool ofHbm = attr == HBM_MEM || attr == 4 || attr == 5;
    const bool ofDdr = attr == DDR_MEM || attr == 2 || attr == 3;
    if (!ofHbm && !ofDdr) return call.fail(RT_PARAM_INVALID, "aclrtGetMemInfo: attribute %d", attr);
    const bool has = settings().is310p ? ofDdr : ofHbm;
    *total = has ? settings().memory : 0;
    *free = has ? settings().memory - device->used : 0;
    return call.end(OK);
}
