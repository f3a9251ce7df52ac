// The functions of AscendCL and HCCL as a client declares them, and what the simulator offers beside them.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {
int aclInit(const char *configPath);
int aclFinalize(void);
const char *aclrtGetSocName(void);
const char *aclGetRecentErrMsg(void);
int aclrtGetDeviceCount(uint32_t *count);
int aclrtSetDevice(int32_t deviceId);
int aclrtResetDevice(int32_t deviceId);
int aclrtResetDeviceForce(int32_t deviceId);
int aclrtGetDevice(int32_t *deviceId);
int aclrtSynchronizeDevice(void);
int aclrtDeviceCanAccessPeer(int32_t *canAccessPeer, int32_t deviceId, int32_t peerDeviceId);
int aclrtDeviceEnablePeerAccess(int32_t peerDeviceId, uint32_t flags);
int aclrtCreateContext(void **context, int32_t deviceId);
int aclrtDestroyContext(void *context);
int aclrtSetCurrentContext(void *context);
int aclrtGetCurrentContext(void **context);
int aclrtCreateStream(void **stream);
int aclrtDestroyStream(void *stream);
int aclrtDestroyStreamForce(void *stream);
int aclrtSynchronizeStream(void *stream);
int aclrtSynchronizeStreamWithTimeout(void *stream, int32_t timeoutMs);
int aclrtStreamQuery(void *stream, int *status);
int aclrtCreateEvent(void **event);
int aclrtCreateEventWithFlag(void **event, uint32_t flag);
int aclrtDestroyEvent(void *event);
int aclrtRecordEvent(void *event, void *stream);
int aclrtQueryEventStatus(void *event, int *status);
int aclrtSynchronizeEvent(void *event);
int aclrtSynchronizeEventWithTimeout(void *event, int32_t timeoutMs);
int aclrtEventElapsedTime(float *ms, void *start, void *end);
int aclrtStreamWaitEvent(void *stream, void *event);
int aclrtMalloc(void **devPtr, size_t size, int policy);
int aclrtFree(void *devPtr);
int aclrtMallocHost(void **hostPtr, size_t size);
int aclrtFreeHost(void *hostPtr);
int aclrtMemcpy(void *dst, size_t destMax, const void *src, size_t count, int kind);
int aclrtMemcpyAsync(void *dst, size_t destMax, const void *src, size_t count, int kind, void *stream);
int aclrtMemset(void *devPtr, size_t maxCount, int32_t value, size_t count);
int aclrtMemsetAsync(void *devPtr, size_t maxCount, int32_t value, size_t count, void *stream);
int aclrtGetMemInfo(int attr, size_t *free, size_t *total);
int aclrtLaunchCallback(void (*fn)(void *), void *userData, int blockType, void *stream);

int HcclGetRootInfo(void *rootInfo);
int HcclCommInitRootInfo(uint32_t nRanks, const void *rootInfo, uint32_t rank, void **comm);
int HcclCommInitAll(uint32_t ndev, int32_t *devices, void **comms);
int HcclCommInitClusterInfo(const char *clusterInfo, uint32_t rank, void **comm);
int HcclCommDestroy(void *comm);
int HcclAllReduce(void *sendBuf, void *recvBuf, uint64_t count, int dataType, int op, void *comm, void *stream);
int HcclAllGather(void *sendBuf, void *recvBuf, uint64_t sendCount, int dataType, void *comm, void *stream);
int HcclReduceScatter(void *sendBuf, void *recvBuf, uint64_t recvCount, int dataType, int op, void *comm,
                      void *stream);
int HcclBroadcast(void *buf, uint64_t count, int dataType, uint32_t root, void *comm, void *stream);
int HcclBarrier(void *comm, void *stream);
int HcclGetRankSize(void *comm, uint32_t *rankSize);
int HcclGetCommAsyncError(void *comm, int *asyncError);

uint64_t aquilaSimCount(const char *name);
uint64_t aquilaSimTotal(const char *name);
uint64_t aquilaSimViolations(void);
uint64_t aquilaSimLeaks(void);
uint64_t aquilaSimUsed(int device);
const char *aquilaSimLastFailure(void);
void aquilaSimMark(const char *label);
int aquilaSimFaults(const char *script);
}

constexpr size_t ROOT_INFO_BYTES = 4108;
enum { HOST_TO_HOST = 0, HOST_TO_DEVICE = 1, DEVICE_TO_HOST = 2, DEVICE_TO_DEVICE = 3 };
