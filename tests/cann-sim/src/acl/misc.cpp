// Versions, data types and the small functions beside the runtime.
#include <cstdio>
#include <cstring>

#include "../half.h"
#include "state.h"

using namespace sim;

// The version of CANN whose rules are simulated; the text says that it is not CANN.
SIM_EXPORT int aclsysGetCANNVersion(int name, void *version) {
    SIM_CALL(aclsysGetCANNVersion, nullptr);
    if (!version || name < 0 || name > 4) return call.fail(INVALID_PARAM, "aclsysGetCANNVersion: package %d", name);
    // Offsets of aclCANNPackageVersion: 128 bytes of text, four parts of 64, 128 reserved.
    char *bytes = static_cast<char *>(version);
    std::memset(bytes, 0, 512);
    std::snprintf(bytes, 128, "8.3.RC1.%s", SIM_VERSION);
    std::snprintf(bytes + 128, 64, "8");
    std::snprintf(bytes + 192, 64, "3");
    std::snprintf(bytes + 256, 64, "RC1");
    return call.end(OK);
}

SIM_EXPORT int aclrtGetVersion(int32_t *major, int32_t *minor, int32_t *patch) {
    SIM_CALL(aclrtGetVersion, nullptr);
    if (!major || !minor || !patch) return call.fail(INVALID_PARAM, "aclrtGetVersion: a null pointer");
    *major = 1;
    *minor = 14;
    *patch = 0;
    return call.end(OK);
}

SIM_EXPORT int aclrtSetOpWaitTimeout(uint32_t timeoutSec) {
    SIM_CALL(aclrtSetOpWaitTimeout, nullptr);
    call.detail("seconds=%u", timeoutSec);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Device *device = nullptr;
    return requireDevice(call, &device);
}

SIM_EXPORT int aclrtPeekAtLastError(int level) {
    (void)level;
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    return currentContext ? int(machine().devices[size_t(currentContext->device)].lost) : 0;
}

SIM_EXPORT int aclrtHostRegister(void *ptr, uint64_t size, int type, void **devPtr) {
    SIM_CALL(aclrtHostRegister, nullptr);
    (void)ptr, (void)size, (void)type, (void)devPtr;
    return call.fail(RT_FEATURE_NOT_SUPPORT, "aclrtHostRegister is not simulated");
}

SIM_EXPORT int aclInitCallbackRegister(int type, void *fn, void *userData) {
    SIM_CALL(aclInitCallbackRegister, nullptr);
    (void)type, (void)fn, (void)userData;
    return call.fail(API_NOT_SUPPORT, "aclInitCallbackRegister is not simulated");
}

SIM_EXPORT size_t aclDataTypeSize(int dataType) {
    switch (dataType) {
        case 2:
        case 4:
        case 12: return 1;
        case 1:
        case 6:
        case 7:
        case 27: return 2;
        case 0:
        case 3:
        case 8: return 4;
        case 9:
        case 10:
        case 11: return 8;
        default: return 0;
    }
}

SIM_EXPORT float aclFloat16ToFloat(uint16_t value) {
    return f16ToFloat(value);
}
SIM_EXPORT uint16_t aclFloatToFloat16(float value) {
    return floatToF16(value);
}
