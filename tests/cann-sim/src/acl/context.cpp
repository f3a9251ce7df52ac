// Initialisation, devices and the contexts of threads.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "state.h"

namespace sim {

thread_local Context *currentContext = nullptr;

Machine &machine() {
    static Machine *const instance = new Machine;  // outlives every thread
    return *instance;
}

namespace {

std::string variable(const char *name, const char *otherwise) {
    const char *value = std::getenv(name);
    return value && *value ? value : otherwise;
}

// How many devices ASCEND_RT_VISIBLE_DEVICES leaves, up to the first entry that is none or not above the one
// before.
int visibleDevices(int devices) {
    const std::string list = variable("ASCEND_RT_VISIBLE_DEVICES", "");
    if (list.empty()) return devices;
    int visible = 0, last = -1;
    const char *at = list.c_str();
    while (true) {
        char *end = nullptr;
        const long id = std::strtol(at, &end, 10);
        if (end == at || id <= last || id >= devices) return visible;
        visible++;
        last = int(id);
        if (*end != ',') return visible;
        at = end + 1;
    }
}

Settings readSettings() {
    Settings read;
    read.soc = variable("AQUILA_SIM_SOC", "Ascend910B3");
    read.is310p = read.soc.find("Ascend310P") != std::string::npos;
    read.devices = int(aquilaSimSetting("AQUILA_SIM_DEVICES", 1));
    if (read.devices < 0 || read.devices > MAX_DEVICES) {
        std::fprintf(stderr, "aquila CANN simulator: AQUILA_SIM_DEVICES is 0 to %d\n", MAX_DEVICES);
        std::abort();
    }
    read.devices = visibleDevices(read.devices);
    read.memory = uint64_t(aquilaSimSetting("AQUILA_SIM_MEMORY", read.is310p ? 24e9 : 64e9));
    read.noop = aquilaSimSetting("AQUILA_SIM_NOOP", 0) != 0;
    read.poison = aquilaSimSetting("AQUILA_SIM_POISON", read.noop ? 0 : 1) != 0;
    read.jitterMicros = aquilaSimSetting("AQUILA_SIM_JITTER", read.noop ? 0 : 200);
    read.hangSeconds = aquilaSimSetting("AQUILA_SIM_HANG", 600);
    return read;
}

// Contexts are never deleted: a thread may hold one that another thread destroyed.
Context *newContext(int device, bool primary) {
    auto *context = new Context{device, primary};
    machine().contexts.insert(context);
    return context;
}

Context *usableContext() {
    return machine().contexts.count(currentContext) ? currentContext : nullptr;
}

bool validDevice(int device) {
    return device >= 0 && device < settings().devices;
}

// Everything of a device that goes with it; what its owner should have destroyed is a leak.
void closeDevice(Device &device) {
    Machine &all = machine();
    auto ofDevice = [&](const auto *thing) { return thing->device == device.id; };
    // Begun anew each time: a stream's end lets go of the lock.
    const auto next = [&] { return std::find_if(all.streams.begin(), all.streams.end(), ofDevice); };
    for (auto it = next(); it != all.streams.end(); it = next()) {
        reportLeak(describe("device %d: a stream", device.id));
        destroyStream(*it, true);
    }
    for (auto it = all.events.begin(); it != all.events.end();) {
        Event *event = *it++;
        if (event->device != device.id) continue;
        reportLeak(describe("device %d: an event", device.id));
        all.events.erase(event);
    }
    for (auto it = all.contexts.begin(); it != all.contexts.end();) {
        Context *context = *it++;
        if (context->device != device.id) continue;
        if (!context->primary) reportLeak(describe("device %d: a context", device.id));
        all.contexts.erase(context);
    }
    releaseAll(device);
    device.primary = nullptr;
    device.references = 0;
    device.peers.clear();
    device.lost = 0;
}

int resetDevice(Call &call, int id, bool force) {
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    call.detail("device=%d", id);
    if (!validDevice(id)) return call.fail(RT_INVALID_DEVICEID, "device %d of %d", id, settings().devices);
    Device &device = machine().devices[size_t(id)];
    if (device.references == 0) return call.fail(RT_INVALID_DEVICEID, "device %d was not set", id);
    if (force || --device.references == 0) closeDevice(device);
    if (currentContext && currentContext->device == id && !usableContext()) currentContext = nullptr;
    return call.end(OK);
}

}  // namespace

const Settings &settings() {
    static const Settings values = readSettings();
    return values;
}

int requireDevice(Call &call, Device **device) {
    Context *context = usableContext();
    if (!context) return call.fail(RT_CONTEXT_NULL, "this thread has no context");
    *device = &machine().devices[size_t(context->device)];
    if (const int lost = (*device)->lost) return call.fail(lost, "device %d is lost", context->device);
    return OK;
}

int requireStream(Call &call, void *handle, Stream **stream) {
    Device *device = nullptr;
    if (int code = requireDevice(call, &device)) return code;
    auto found = machine().streams.find(static_cast<Stream *>(handle));
    if (found == machine().streams.end()) return call.fail(RT_INVALID_HANDLE, "%p is not a stream", handle);
    if ((*found)->context != currentContext)
        return call.fail(RT_STREAM_CONTEXT, "the stream is of another context");
    *stream = *found;
    return OK;
}

}  // namespace sim

using namespace sim;

SIM_EXPORT double aquilaSimSetting(const char *name, double otherwise) {
    const char *value = std::getenv(name);
    if (!value || !*value) return otherwise;
    char *end = nullptr;
    const double number = std::strtod(value, &end);
    if (*end == 0) return number;
    std::fprintf(stderr, "aquila CANN simulator: %s=%s is not a number\n", name, value);
    std::abort();
}

SIM_EXPORT int aquilaSimIs310P(void) {
    return settings().is310p;
}
SIM_EXPORT int aquilaSimNoop(void) {
    return settings().noop;
}

SIM_EXPORT int aquilaSimCurrentDevice(void) {
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    const Context *context = usableContext();
    return context ? context->device : -1;
}

SIM_EXPORT int aclInit(const char *configPath) {
    SIM_CALL(aclInit, nullptr);
    (void)configPath;
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    settings();
    if (machine().initialised) return call.fail(REPEAT_INITIALIZE, "aclInit was called before");
    machine().initialised = true;
    aquilaSimNote(describe("%s: a test double, not CANN; %s, %d devices", SIM_VERSION, settings().soc.c_str(),
                           settings().devices)
                      .c_str());
    return call.end(OK);
}

SIM_EXPORT int aclFinalize(void) {
    SIM_CALL(aclFinalize, nullptr);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    if (!machine().initialised) return call.fail(UNINITIALIZE, "aclInit was not called");
    if (machine().finalised) return call.fail(REPEAT_FINALIZE, "aclFinalize was called before");
    machine().finalised = true;
    for (Device &device : machine().devices) {
        if (device.references) reportLeak(describe("device %d was not reset", device.id));
        closeDevice(device);
    }
    for (auto &[address, size] : machine().pinned) {
        reportLeak(describe("%zu bytes of pinned memory at %p", size, reinterpret_cast<void *>(address)));
    }
    return call.end(OK);
}

SIM_EXPORT const char *aclrtGetSocName(void) {
    static SimCounter *const counter = aquilaSimCounter("aclrtGetSocName");
    sim::Call call(counter);
    if (int code = call.injected(false)) return call.end(code), nullptr;
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    return usableContext() ? settings().soc.c_str() : nullptr;
}

SIM_EXPORT int aclrtGetRunMode(int *runMode) {
    SIM_CALL(aclrtGetRunMode, nullptr);
    if (!runMode) return call.fail(INVALID_PARAM, "aclrtGetRunMode: a null pointer");
    *runMode = 1;  // a host beside the device
    return call.end(OK);
}

SIM_EXPORT int aclrtGetDeviceCount(uint32_t *count) {
    SIM_CALL(aclrtGetDeviceCount, nullptr);
    if (!count) return call.fail(INVALID_PARAM, "aclrtGetDeviceCount: a null pointer");
    *count = uint32_t(settings().devices);
    return call.end(OK);
}

SIM_EXPORT int aclrtSetDevice(int32_t deviceId) {
    SIM_CALL(aclrtSetDevice, nullptr);
    call.detail("device=%d", deviceId);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    if (!machine().initialised || machine().finalised) return call.fail(UNINITIALIZE, "aclInit comes first");
    if (!validDevice(deviceId))
        return call.fail(RT_INVALID_DEVICEID, "device %d of %d", deviceId, settings().devices);
    Device &device = machine().devices[size_t(deviceId)];
    if (const int lost = device.lost) return call.fail(lost, "device %d is lost", deviceId);
    device.id = deviceId;
    openDevice(device);
    if (!device.primary) device.primary = newContext(deviceId, true);
    device.references++;
    currentContext = device.primary;
    return call.end(OK);
}

SIM_EXPORT int aclrtResetDevice(int32_t deviceId) {
    SIM_CALL(aclrtResetDevice, nullptr);
    return resetDevice(call, deviceId, false);
}

SIM_EXPORT int aclrtResetDeviceForce(int32_t deviceId) {
    SIM_CALL(aclrtResetDeviceForce, nullptr);
    return resetDevice(call, deviceId, true);
}

SIM_EXPORT int aclrtGetDevice(int32_t *deviceId) {
    SIM_CALL(aclrtGetDevice, nullptr);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    const Context *context = usableContext();
    if (!context) return call.fail(RT_CONTEXT_NULL, "this thread has no context");
    if (!deviceId) return call.fail(INVALID_PARAM, "aclrtGetDevice: a null pointer");
    *deviceId = context->device;
    return call.end(OK);
}

SIM_EXPORT int aclrtDeviceCanAccessPeer(int32_t *canAccessPeer, int32_t deviceId, int32_t peerDeviceId) {
    SIM_CALL(aclrtDeviceCanAccessPeer, nullptr);
    if (!canAccessPeer) return call.fail(INVALID_PARAM, "aclrtDeviceCanAccessPeer: a null pointer");
    if (!validDevice(deviceId) || !validDevice(peerDeviceId) || deviceId == peerDeviceId) {
        return call.fail(RT_INVALID_DEVICEID, "devices %d and %d", deviceId, peerDeviceId);
    }
    *canAccessPeer = 1;
    return call.end(OK);
}

SIM_EXPORT int aclrtDeviceEnablePeerAccess(int32_t peerDeviceId, uint32_t flags) {
    SIM_CALL(aclrtDeviceEnablePeerAccess, nullptr);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Device *device = nullptr;
    if (int code = requireDevice(call, &device)) return code;
    if (flags != 0) return call.fail(INVALID_PARAM, "aclrtDeviceEnablePeerAccess: flags are reserved");
    if (!validDevice(peerDeviceId) || peerDeviceId == device->id) {
        return call.fail(RT_INVALID_DEVICEID, "peer device %d", peerDeviceId);
    }
    device->peers.insert(peerDeviceId);
    return call.end(OK);
}

SIM_EXPORT int aclrtCreateContext(void **context, int32_t deviceId) {
    SIM_CALL(aclrtCreateContext, nullptr);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    if (!context) return call.fail(INVALID_PARAM, "aclrtCreateContext: a null pointer");
    if (!machine().initialised || machine().finalised) return call.fail(UNINITIALIZE, "aclInit comes first");
    if (!validDevice(deviceId)) return call.fail(RT_INVALID_DEVICEID, "device %d", deviceId);
    Device &device = machine().devices[size_t(deviceId)];
    if (const int lost = device.lost) return call.fail(lost, "device %d is lost", deviceId);
    device.id = deviceId;
    openDevice(device);
    *context = currentContext = newContext(deviceId, false);
    return call.end(OK);
}

SIM_EXPORT int aclrtDestroyContext(void *context) {
    static SimCounter *const counter = aquilaSimCounter("aclrtDestroyContext");
    sim::Call call(counter);
    const int injected = call.injected(false);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    auto found = machine().contexts.find(static_cast<Context *>(context));
    if (found == machine().contexts.end()) return call.fail(RT_INVALID_HANDLE, "%p is not a context", context);
    if ((*found)->primary) return call.fail(RT_PARAM_INVALID, "a default context goes with its device");
    Context *gone = *found;
    const auto next = [&] {
        return std::find_if(machine().streams.begin(), machine().streams.end(),
                            [&](auto *s) { return s->context == gone; });
    };
    for (auto it = next(); it != machine().streams.end(); it = next()) {
        reportLeak(describe("device %d: a stream of a destroyed context", (*it)->device));
        destroyStream(*it, true);
    }
    if (currentContext == gone) currentContext = nullptr;
    machine().contexts.erase(gone);
    return call.end(injected);
}

SIM_EXPORT int aclrtSetCurrentContext(void *context) {
    SIM_CALL(aclrtSetCurrentContext, nullptr);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    auto found = machine().contexts.find(static_cast<Context *>(context));
    if (found == machine().contexts.end()) return call.fail(RT_CONTEXT_NULL, "%p is not a context", context);
    currentContext = *found;
    return call.end(OK);
}

SIM_EXPORT int aclrtGetCurrentContext(void **context) {
    SIM_CALL(aclrtGetCurrentContext, nullptr);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    if (!context) return call.fail(INVALID_PARAM, "aclrtGetCurrentContext: a null pointer");
    if (!usableContext()) return call.fail(RT_CONTEXT_NULL, "this thread has no context");
    *context = currentContext;
    return call.end(OK);
}
