// What the simulator's libascendcl.so offers to its libhccl.so and libatb.so, and to tests. C types only: libatb.so
// exists in two C++ ABIs. None of these names exists in the real libraries.
#pragma once
#include <cstddef>
#include <cstdint>

#define SIM_EXPORT extern "C" __attribute__((visibility("default")))
#define SIM_VERSION "aquila-cann-simulator"

struct SimCounter;
struct SimTask;

enum SimFaultKind { SIM_NO_FAULT, SIM_FAULT_CODE, SIM_FAULT_HANG, SIM_FAULT_NAN };

struct SimFault {
    int kind;
    int code;
};

// Work of a stream. `run` returns 0 or the code of a device error; `drop` frees `data`, whether it ran or not.
struct SimWork {
    const char *name;  // kept, not copied
    void *data;
    int (*run)(void *data, void *stream);
    void (*drop)(void *data);
    SimFault fault;
};

// --- calls: counted, traced, looked up among the faults (trace.cpp) ---
SIM_EXPORT SimCounter *aquilaSimCounter(const char *name);
SIM_EXPORT SimFault aquilaSimEnter(SimCounter *counter);
SIM_EXPORT void aquilaSimLeave(SimCounter *counter, const void *stream, int code, const char *detail);
SIM_EXPORT void aquilaSimNote(const char *text);        // a line of the trace
SIM_EXPORT void aquilaSimViolation(const char *text);   // the same, for a rule that was broken without a code
SIM_EXPORT void aquilaSimSetMessage(const char *text);  // what aclGetRecentErrMsg gives to this thread
SIM_EXPORT void aquilaSimHang(int device);              // blocks as an injected hang does

// --- what tests ask ---
SIM_EXPORT const char *aquilaSimVersion(void);
SIM_EXPORT void aquilaSimMark(const char *label);      // ends a step: its counts go to the trace
SIM_EXPORT uint64_t aquilaSimCount(const char *name);  // calls since the last mark
SIM_EXPORT uint64_t aquilaSimTotal(const char *name);  // calls since the process began
SIM_EXPORT uint64_t aquilaSimViolations(void);
SIM_EXPORT uint64_t aquilaSimLeaks(void);           // things that resets and aclFinalize found alive
SIM_EXPORT const char *aquilaSimLastFailure(void);  // why the last kernel or copy failed, in words
SIM_EXPORT uint64_t aquilaSimUsed(int device);      // bytes of device memory taken
SIM_EXPORT uint64_t aquilaSimPeak(int device);
SIM_EXPORT int aquilaSimFaults(const char *script);  // replaces AQUILA_SIM_FAULT and its counts; 0 = understood

// --- the machine ---
SIM_EXPORT int aquilaSimIs310P(void);
SIM_EXPORT int aquilaSimNoop(void);
SIM_EXPORT int aquilaSimCurrentDevice(void);  // -1: this thread has no context
SIM_EXPORT double aquilaSimSetting(const char *name, double otherwise);

// --- device memory ---
SIM_EXPORT void *aquilaSimResolve(const void *address,
                                  size_t bytes);        // where kernels find it; NULL: not one live allocation
SIM_EXPORT int aquilaSimDeviceOf(const void *address);  // -1: no device address
SIM_EXPORT size_t aquilaSimRoom(const void *address);   // bytes to the end of its allocation

// --- streams ---
SIM_EXPORT int aquilaSimStreamDevice(const void *stream);            // -1: no stream
SIM_EXPORT uint64_t aquilaSimStreamId(const void *stream);           // 0: no stream; never given twice
SIM_EXPORT int aquilaSimEnqueue(void *stream, const SimWork *work);  // takes the data over, also when it fails
SIM_EXPORT uint64_t aquilaSimSubmitted(const void *stream);          // number of the last piece of work
SIM_EXPORT uint64_t aquilaSimKnownDone(const void *stream);          // the last one that the host knows to be done
SIM_EXPORT int aquilaSimCancelled(void *stream);                     // work that waits asks this now and then
SIM_EXPORT void aquilaSimKernelFailed(const char *text);             // before `run` returns a code: why

// --- libhccl.so, for libatb.so: a collective in two halves, the call and the work (hccl/collective.cpp) ---
enum SimCollective { SIM_ALL_REDUCE, SIM_ALL_GATHER, SIM_REDUCE_SCATTER, SIM_BROADCAST, SIM_BARRIER };
SIM_EXPORT int aquilaSimHcclPrepare(int kind, void *send, void *recv, uint64_t count, int dtype, int reduce,
                                    uint32_t root, void *comm, void **prepared);
SIM_EXPORT int aquilaSimHcclRun(void *prepared, void *stream);
SIM_EXPORT void aquilaSimHcclDrop(void *prepared);
SIM_EXPORT int aquilaSimHcclJoin(const char *key, uint32_t ranks, uint32_t rank, void **comm);
