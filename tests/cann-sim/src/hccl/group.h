// Communicators: the ranks of a group are threads of this process.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../sim.h"

namespace sim {

enum HcclCode {
    HCCL_SUCCESS = 0,
    HCCL_E_PARA = 1,
    HCCL_E_PTR = 2,
    HCCL_E_MEMORY = 3,
    HCCL_E_INTERNAL = 4,
    HCCL_E_NOT_SUPPORT = 5,
    HCCL_E_NOT_FOUND = 6,
    HCCL_E_TIMEOUT = 9,
    HCCL_E_OPEN_FILE_FAILURE = 10,
    HCCL_E_RUNTIME = 15,
    HCCL_E_REMOTE = 21,
};

struct Collective {
    int kind;
    void *send, *recv;
    uint64_t count;
    int dtype, reduce;
    uint32_t root;
    uint64_t sequence;  // the how-manieth of its communicator
};

// One collective, while the ranks come to it.
struct Meeting {
    std::vector<const Collective *> parts;
    uint32_t arrived = 0, left = 0;
    bool done = false;
    int code = 0;  // of the device, for all ranks
};

struct Group {
    std::string name;
    uint32_t ranks = 0;
    std::mutex lock;
    std::condition_variable changed;
    std::vector<int> devices;  // by rank; -1: not there yet
    uint32_t joined = 0;
    bool failed = false;
    std::map<uint64_t, Meeting> meetings;
};

struct Comm {
    std::shared_ptr<Group> group;
    uint32_t rank = 0;
    int device = -1;
    void *buffers[2] = {nullptr, nullptr};
    std::atomic<uint64_t> sequence{0};
    std::atomic<int> asyncError{0};
};

// The communicator behind a handle, alive; else null.
std::shared_ptr<Comm> findComm(const void *handle);
double timeoutSeconds();
size_t itemSize(int dtype);  // 0: not a type of this card

int hcclFail(SimCounter *counter, const void *stream, int code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

// Counts, traces and fails a call as told to.
#define HCCL_CALL(name)                                                                       \
    static SimCounter *const counter = aquilaSimCounter(#name);                               \
    if (const SimFault fault = aquilaSimEnter(counter); fault.kind == SIM_FAULT_HANG) {       \
        aquilaSimHang(aquilaSimCurrentDevice());                                              \
        return hcclFail(counter, nullptr, sim::HCCL_E_TIMEOUT, "injected hang of %s", #name); \
    } else if (fault.kind == SIM_FAULT_CODE) {                                                \
        return hcclFail(counter, nullptr, fault.code, "injected failure of %s", #name);       \
    }

}  // namespace sim
