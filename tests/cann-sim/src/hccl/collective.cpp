// Collectives: work of a stream that meets the same work of the other ranks, in the order of each communicator.
#include <chrono>
#include <cstdio>
#include <cstring>

#include "../half.h"
#include "group.h"

namespace sim {
namespace {

constexpr int FFTS_TIMEOUT = 507048, AICORE_EXCEPTION = 507015, DEVICE_MEM_ERROR = 507053;
constexpr auto LOOK_AGAIN = std::chrono::milliseconds(20);
enum { INT8 = 0, INT16 = 1, INT32 = 2, FP16 = 3, FP32 = 4, INT64 = 5, BFP16 = 11 };
enum { SUM = 0, PROD = 1, MAX = 2, MIN = 3 };
const char *const NAMES[] = {"HcclAllReduce", "HcclAllGather", "HcclReduceScatter", "HcclBroadcast", "HcclBarrier"};

struct Prepared {
    std::shared_ptr<Comm> comm;
    Collective what;
};

template <class T>
T combine(int reduce, T a, T b) {
    switch (reduce) {
        case SUM: return T(a + b);
        case PROD: return T(a * b);
        case MAX: return a > b ? a : b;
        default: return a < b ? a : b;
    }
}

// into[i] = into[i] (reduce) from[i]; 16-bit numbers are added in f32 and rounded once a rank.
void reduceInto(int dtype, int reduce, uint8_t *into, const uint8_t *from, uint64_t count) {
    const auto each = [&](auto zero) {
        using T = decltype(zero);
        for (uint64_t i = 0; i < count; i++) {
            T a, b;
            std::memcpy(&a, into + i * sizeof a, sizeof a);
            std::memcpy(&b, from + i * sizeof b, sizeof b);
            a = combine(reduce, a, b);
            std::memcpy(into + i * sizeof a, &a, sizeof a);
        }
    };
    switch (dtype) {
        case INT8: return each(int8_t{});
        case INT16: return each(int16_t{});
        case INT32: return each(int32_t{});
        case INT64: return each(int64_t{});
        case FP32: return each(float{});
        default: break;
    }
    auto *a = reinterpret_cast<uint16_t *>(into);
    auto *b = reinterpret_cast<const uint16_t *>(from);
    for (uint64_t i = 0; i < count; i++) {
        if (dtype == FP16) {
            a[i] = floatToF16(combine(reduce, f16ToFloat(a[i]), f16ToFloat(b[i])));
        } else {
            a[i] = floatToBf16(combine(reduce, bf16ToFloat(a[i]), bf16ToFloat(b[i])));
        }
    }
}

// Bytes that rank's send and receive buffers must have.
size_t sendBytes(const Collective &c, uint32_t ranks) {
    return c.count * itemSize(c.dtype) * (c.kind == SIM_REDUCE_SCATTER ? ranks : 1);
}
size_t recvBytes(const Collective &c, uint32_t ranks) {
    return c.count * itemSize(c.dtype) * (c.kind == SIM_ALL_GATHER ? ranks : 1);
}

bool sameWork(const Collective &a, const Collective &b) {
    return a.kind == b.kind && a.count == b.count && a.dtype == b.dtype && a.reduce == b.reduce && a.root == b.root;
}

// All ranks are there: the last one does the work of all.
int compute(const Meeting &meeting) {
    const uint32_t ranks = uint32_t(meeting.parts.size());
    const Collective &first = *meeting.parts[0];
    if (first.kind == SIM_BARRIER || aquilaSimNoop()) return 0;
    std::vector<uint8_t *> send, recv;
    for (const Collective *part : meeting.parts) {
        send.push_back(static_cast<uint8_t *>(aquilaSimResolve(part->send, sendBytes(*part, ranks))));
        recv.push_back(static_cast<uint8_t *>(aquilaSimResolve(part->recv, recvBytes(*part, ranks))));
        if (!send.back() || !recv.back()) {
            aquilaSimKernelFailed("collective: a buffer is not one allocation of the size that the count asks for");
            return DEVICE_MEM_ERROR;
        }
    }
    const size_t bytes = sendBytes(first, ranks), item = itemSize(first.dtype);
    std::vector<uint8_t> result;
    switch (first.kind) {
        case SIM_ALL_GATHER:
            for (const uint8_t *part : send) result.insert(result.end(), part, part + bytes);
            break;
        case SIM_BROADCAST: result.assign(send[first.root], send[first.root] + bytes); break;
        default:
            result.assign(send[0], send[0] + bytes);
            for (uint32_t rank = 1; rank < ranks; rank++) {
                reduceInto(first.dtype, first.reduce, result.data(), send[rank], bytes / item);
            }
    }
    const size_t out = recvBytes(first, ranks);
    for (uint32_t rank = 0; rank < ranks; rank++) {
        std::memcpy(recv[rank], result.data() + (first.kind == SIM_REDUCE_SCATTER ? rank * out : 0), out);
    }
    return 0;
}

int meet(Prepared &prepared, void *stream) {
    Group &group = *prepared.comm->group;
    const Collective &mine = prepared.what;
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeoutSeconds());
    std::unique_lock<std::mutex> guard(group.lock);
    Meeting &meeting = group.meetings[mine.sequence];
    if (meeting.parts.empty()) meeting.parts.assign(group.ranks, nullptr);
    const auto settle = [&](int code, int error, const char *text) {
        if (meeting.done) return;
        aquilaSimKernelFailed(text);
        meeting.done = true;
        meeting.code = code;
        prepared.comm->asyncError = error;
        group.changed.notify_all();
    };
    for (const Collective *other : meeting.parts) {
        if (!other || meeting.done || sameWork(*other, mine)) continue;
        char text[200];
        std::snprintf(
            text, sizeof text,
            "collective %llu of %s: rank %u has %s of %llu of type %d, another rank %s of %llu of type %d",
            (unsigned long long)mine.sequence, group.name.substr(0, 40).c_str(), prepared.comm->rank,
            NAMES[mine.kind], (unsigned long long)mine.count, mine.dtype, NAMES[other->kind],
            (unsigned long long)other->count, other->dtype);
        settle(AICORE_EXCEPTION, HCCL_E_PARA, text);
    }
    meeting.parts[prepared.comm->rank] = &mine;
    if (++meeting.arrived == group.ranks && !meeting.done) {
        meeting.code = compute(meeting);
        meeting.done = true;
        group.changed.notify_all();
    }
    while (!meeting.done) {
        group.changed.wait_for(guard, LOOK_AGAIN);
        if (meeting.done) break;
        if (aquilaSimCancelled(stream)) {
            settle(FFTS_TIMEOUT, HCCL_E_REMOTE, "collective: a rank went away");
        } else if (std::chrono::steady_clock::now() >= end) {
            char text[120];
            std::snprintf(text, sizeof text, "%s: %u of %u ranks came within %g s", NAMES[mine.kind],
                          meeting.arrived, group.ranks, timeoutSeconds());
            settle(FFTS_TIMEOUT, HCCL_E_TIMEOUT, text);
        }
    }
    const int code = meeting.code;
    if (code && prepared.comm->asyncError == 0) prepared.comm->asyncError = HCCL_E_REMOTE;
    if (++meeting.left == group.ranks) group.meetings.erase(mine.sequence);
    return code;
}

int collective(SimCounter *counter, const SimFault &fault, int kind, void *send, void *recv, uint64_t count,
               int dtype, int reduce, uint32_t root, void *handle, void *stream) {
    const bool late = fault.kind == SIM_FAULT_HANG || (fault.kind == SIM_FAULT_CODE && fault.code >= 507000);
    if (fault.kind == SIM_FAULT_CODE && !late)
        return hcclFail(counter, stream, fault.code, "injected failure of %s", NAMES[kind]);
    const std::shared_ptr<Comm> comm = findComm(handle);
    if (!comm) return hcclFail(counter, stream, HCCL_E_PARA, "%p is not a communicator", handle);
    if (aquilaSimStreamDevice(stream) != comm->device || aquilaSimCurrentDevice() != comm->device) {
        return hcclFail(counter, stream, HCCL_E_PARA,
                        "the stream or the thread is not of device %d, the communicator's", comm->device);
    }
    void *prepared = nullptr;
    if (int code = aquilaSimHcclPrepare(kind, send, recv, count, dtype, reduce, root, handle, &prepared)) {
        return hcclFail(counter, stream, code, "%s",
                        HcclCode(code) == HCCL_E_NOT_SUPPORT ? "a type or operation that the card lacks"
                                                             : "wrong buffers, count or root");
    }
    const SimWork work{NAMES[kind], prepared, aquilaSimHcclRun, aquilaSimHcclDrop,
                       late ? fault : SimFault{SIM_NO_FAULT, 0}};
    const int code = aquilaSimEnqueue(stream, &work) ? HCCL_E_RUNTIME : HCCL_SUCCESS;
    char text[80];
    std::snprintf(text, sizeof text, "count=%llu type=%d", (unsigned long long)count, dtype);
    aquilaSimLeave(counter, stream, code, text);
    return code;
}

}  // namespace

// 800I A2 has 64-bit integers and bf16 beside what 300I Duo has.
size_t itemSize(int dtype) {
    const bool large = !aquilaSimIs310P();
    switch (dtype) {
        case INT8: return 1;
        case INT16:
        case FP16: return 2;
        case INT32:
        case FP32: return 4;
        case INT64: return large ? 8 : 0;
        case BFP16: return large ? 2 : 0;
        default: return 0;
    }
}

}  // namespace sim

using namespace sim;

SIM_EXPORT int aquilaSimHcclPrepare(int kind, void *send, void *recv, uint64_t count, int dtype, int reduce,
                                    uint32_t root, void *handle, void **prepared) {
    const std::shared_ptr<Comm> comm = findComm(handle);
    if (!comm) return HCCL_E_PARA;
    if (kind != SIM_BARRIER) {
        if (!send || !recv) return HCCL_E_PTR;
        if (itemSize(dtype) == 0 || reduce < SUM || reduce > MIN) return HCCL_E_NOT_SUPPORT;
        if (count == 0 || root >= comm->group->ranks) return HCCL_E_PARA;
        if (aquilaSimDeviceOf(send) != comm->device || aquilaSimDeviceOf(recv) != comm->device) return HCCL_E_PARA;
    }
    *prepared = new Prepared{comm, {kind, send, recv, count, dtype, reduce, root, ++comm->sequence}};
    return HCCL_SUCCESS;
}

SIM_EXPORT int aquilaSimHcclRun(void *prepared, void *stream) {
    return meet(*static_cast<Prepared *>(prepared), stream);
}
SIM_EXPORT void aquilaSimHcclDrop(void *prepared) {
    delete static_cast<Prepared *>(prepared);
}

#define COLLECTIVE(name, ...)                                   \
    static SimCounter *const counter = aquilaSimCounter(#name); \
    return collective(counter, aquilaSimEnter(counter), __VA_ARGS__)

SIM_EXPORT int HcclAllReduce(void *sendBuf, void *recvBuf, uint64_t count, int dataType, int op, void *comm,
                             void *stream) {
    COLLECTIVE(HcclAllReduce, SIM_ALL_REDUCE, sendBuf, recvBuf, count, dataType, op, 0, comm, stream);
}
SIM_EXPORT int HcclAllGather(void *sendBuf, void *recvBuf, uint64_t sendCount, int dataType, void *comm,
                             void *stream) {
    COLLECTIVE(HcclAllGather, SIM_ALL_GATHER, sendBuf, recvBuf, sendCount, dataType, SUM, 0, comm, stream);
}
SIM_EXPORT int HcclReduceScatter(void *sendBuf, void *recvBuf, uint64_t recvCount, int dataType, int op, void *comm,
                                 void *stream) {
    COLLECTIVE(HcclReduceScatter, SIM_REDUCE_SCATTER, sendBuf, recvBuf, recvCount, dataType, op, 0, comm, stream);
}
SIM_EXPORT int HcclBroadcast(void *buf, uint64_t count, int dataType, uint32_t root, void *comm, void *stream) {
    COLLECTIVE(HcclBroadcast, SIM_BROADCAST, buf, buf, count, dataType, SUM, root, comm, stream);
}
SIM_EXPORT int HcclBarrier(void *comm, void *stream) {
    COLLECTIVE(HcclBarrier, SIM_BARRIER, nullptr, nullptr, 1, FP32, SUM, 0, comm, stream);
}
