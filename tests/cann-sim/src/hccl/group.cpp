// How ranks find each other, and what a communicator takes.
#include "group.h"

#include <unistd.h>

#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

extern "C" {
int aclrtMalloc(void **devPtr, size_t size, int policy);
int aclrtFree(void *devPtr);
}

namespace sim {
namespace {

constexpr size_t ROOT_INFO_BYTES = 4108;
constexpr char ROOT_INFO_MAGIC[] = "aquila-sim-root";
constexpr uint32_t COMM_CONFIG_MAGIC = 0xf0f0f0f0, NOT_SET = 0xffffffff;
constexpr double MEGABYTE = 1 << 20;

struct Registry {
    std::mutex lock;
    std::map<std::string, std::shared_ptr<Group>> open;  // those that still wait for ranks
    std::map<const void *, std::shared_ptr<Comm>> comms;
    uint64_t roots = 0;
};

Registry &registry() {
    static Registry *const instance = new Registry;
    return *instance;
}

// The group waits for nobody any more: the next one of this key is another.
void forget(const std::string &key, const std::shared_ptr<Group> &group) {
    std::lock_guard<std::mutex> guard(registry().lock);
    auto found = registry().open.find(key);
    if (found != registry().open.end() && found->second == group) registry().open.erase(found);
}

// Joins the group of this key and waits for the other ranks.
int join(SimCounter *counter, const std::string &key, uint32_t ranks, uint32_t rank, uint32_t bufferMegabytes,
         void **out) {
    const int device = aquilaSimCurrentDevice();
    if (!out) return hcclFail(counter, nullptr, HCCL_E_PTR, "no place for the communicator");
    if (ranks == 0 || rank >= ranks) return hcclFail(counter, nullptr, HCCL_E_PARA, "rank %u of %u", rank, ranks);
    if (device < 0) return hcclFail(counter, nullptr, HCCL_E_RUNTIME, "this thread has no context");
    std::shared_ptr<Group> group;
    {
        std::lock_guard<std::mutex> guard(registry().lock);
        auto &entry = registry().open[key];
        if (!entry) {
            entry = std::make_shared<Group>();
            entry->name = key;
            entry->ranks = ranks;
            entry->devices.assign(ranks, -1);
        }
        group = entry;
    }
    auto comm = std::make_shared<Comm>();
    comm->group = group;
    comm->rank = rank;
    comm->device = device;
    std::unique_lock<std::mutex> guard(group->lock);
    if (group->ranks != ranks)
        return hcclFail(counter, nullptr, HCCL_E_PARA, "%u ranks here, %u elsewhere", ranks, group->ranks);
    if (group->devices[rank] >= 0) return hcclFail(counter, nullptr, HCCL_E_PARA, "rank %u is there already", rank);
    for (const int other : group->devices) {
        if (other == device) {
            group->failed = true;
            group->changed.notify_all();
            return hcclFail(counter, nullptr, HCCL_E_PARA, "two ranks on device %d", device);
        }
    }
    group->devices[rank] = device;
    group->joined++;
    group->changed.notify_all();
    const auto limit = std::chrono::duration<double>(std::min(timeoutSeconds(), 120.0));
    const bool all = group->changed.wait_for(guard, limit, [&] { return group->failed || group->joined == ranks; });
    if (!all || group->failed) {
        const uint32_t joined = group->joined;
        group->failed = true;
        group->changed.notify_all();
        guard.unlock();
        forget(key, group);
        return hcclFail(counter, nullptr, HCCL_E_TIMEOUT, "rank %u: %u of %u ranks came", rank, joined, ranks);
    }
    guard.unlock();
    forget(key, group);
    for (void *&buffer : comm->buffers) {
        if (aclrtMalloc(&buffer, size_t(bufferMegabytes * MEGABYTE), 0) == 0) continue;
        if (comm->buffers[0]) aclrtFree(comm->buffers[0]);
        return hcclFail(counter, nullptr, HCCL_E_MEMORY, "no device memory for 2 buffers of %u MB",
                        bufferMegabytes);
    }
    std::lock_guard<std::mutex> registered(registry().lock);
    registry().comms[comm.get()] = comm;
    *out = comm.get();
    char text[96];
    std::snprintf(text, sizeof text, "rank=%u of %u comm=%p", rank, ranks, *out);
    aquilaSimLeave(counter, nullptr, HCCL_SUCCESS, text);
    return HCCL_SUCCESS;
}

uint32_t bufferSize() {
    return uint32_t(aquilaSimSetting("HCCL_BUFFSIZE", 200));
}

// The key of a root info; empty: it is not one of this process.
std::string keyOf(const void *rootInfo) {
    const char *bytes = static_cast<const char *>(rootInfo);
    if (std::memcmp(bytes, ROOT_INFO_MAGIC, sizeof ROOT_INFO_MAGIC) != 0) return "";
    const std::string key(bytes, strnlen(bytes, ROOT_INFO_BYTES));
    return key == ROOT_INFO_MAGIC ? std::string(bytes + 16, strnlen(bytes + 16, 64)) : "";
}

int initByRoot(SimCounter *counter, uint32_t ranks, const void *rootInfo, uint32_t rank, uint32_t megabytes,
               void **comm) {
    if (!rootInfo) return hcclFail(counter, nullptr, HCCL_E_PTR, "no root info");
    const std::string key = keyOf(rootInfo);
    if (key.empty()) return hcclFail(counter, nullptr, HCCL_E_PARA, "not a root info");
    const std::string own = "root:" + std::to_string(getpid()) + ":";
    if (key.compare(0, own.size(), own) != 0) {
        return hcclFail(counter, nullptr, HCCL_E_NOT_SUPPORT,
                        "a root info of another process: ranks are threads here");
    }
    return join(counter, key, ranks, rank, megabytes, comm);
}

// What stands behind a key within a piece of JSON whose values are strings; empty where the key is not there.
std::string valueOf(const std::string &text, const char *key) {
    size_t at = text.find(std::string("\"") + key + "\"");
    if (at == std::string::npos) return "";
    at = text.find('"', text.find(':', at));
    const size_t end = at == std::string::npos ? at : text.find('"', at + 1);
    return end == std::string::npos ? "" : text.substr(at + 1, end - at - 1);
}

// The device that a table gives to a rank; -1 where it has no such rank.
int tableDevice(const std::string &text, uint32_t rank) {
    for (size_t at = text.find("\"rank_id\""); at != std::string::npos; at = text.find("\"rank_id\"", at + 1)) {
        const size_t begin = text.rfind('{', at), end = text.find('}', at);
        if (begin == std::string::npos || end == std::string::npos) return -1;
        const std::string device = text.substr(begin, end - begin);
        if (valueOf(device, "rank_id") == std::to_string(rank)) return std::atoi(valueOf(device, "device_id").c_str());
    }
    return -1;
}

// The server's number of a device that ASCEND_RT_VISIBLE_DEVICES numbers anew.
int physicalDevice(int device) {
    const char *list = std::getenv("ASCEND_RT_VISIBLE_DEVICES");
    for (int i = 0; list && *list && i < device; i++) {
        list = std::strchr(list, ',');
        if (list) list++;
    }
    return list && *list ? std::atoi(list) : device;
}

}  // namespace

int hcclFail(SimCounter *counter, const void *stream, int code, const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    aquilaSimSetMessage(text);
    aquilaSimLeave(counter, stream, code, text);
    return code;
}

std::shared_ptr<Comm> findComm(const void *handle) {
    std::lock_guard<std::mutex> guard(registry().lock);
    auto found = registry().comms.find(handle);
    return found == registry().comms.end() ? nullptr : found->second;
}

// AQUILA_SIM_HCCL_TIMEOUT holds for joining and for collectives alike; HCCL's own 1836 s otherwise.
double timeoutSeconds() {
    return aquilaSimSetting("AQUILA_SIM_HCCL_TIMEOUT", aquilaSimSetting("HCCL_EXEC_TIMEOUT", 1836));
}

}  // namespace sim

using namespace sim;

SIM_EXPORT int HcclGetRootInfo(void *rootInfo) {
    HCCL_CALL(HcclGetRootInfo)
    if (!rootInfo) return hcclFail(counter, nullptr, HCCL_E_PTR, "no place for the root info");
    if (aquilaSimCurrentDevice() < 0)
        return hcclFail(counter, nullptr, HCCL_E_RUNTIME, "this thread has no context");
    char *bytes = static_cast<char *>(rootInfo);
    std::memset(bytes, 0, ROOT_INFO_BYTES);
    std::memcpy(bytes, ROOT_INFO_MAGIC, sizeof ROOT_INFO_MAGIC);
    std::lock_guard<std::mutex> guard(registry().lock);
    std::snprintf(bytes + 16, 64, "root:%d:%llu", int(getpid()), (unsigned long long)++registry().roots);
    aquilaSimLeave(counter, nullptr, HCCL_SUCCESS, "");
    return HCCL_SUCCESS;
}

SIM_EXPORT int HcclCommInitRootInfo(uint32_t nRanks, const void *rootInfo, uint32_t rank, void **comm) {
    HCCL_CALL(HcclCommInitRootInfo)
    return initByRoot(counter, nRanks, rootInfo, rank, bufferSize(), comm);
}

SIM_EXPORT int HcclCommInitRootInfoConfig(uint32_t nRanks, const void *rootInfo, uint32_t rank, const void *config,
                                          void **comm) {
    HCCL_CALL(HcclCommInitRootInfoConfig)
    if (!config) return hcclFail(counter, nullptr, HCCL_E_PTR, "no configuration");
    uint32_t magic, megabytes;
    std::memcpy(&magic, static_cast<const char *>(config) + 8, 4);
    std::memcpy(&megabytes, static_cast<const char *>(config) + 24, 4);
    if (magic != COMM_CONFIG_MAGIC)
        return hcclFail(counter, nullptr, HCCL_E_PARA, "HcclCommConfigInit comes first");
    return initByRoot(counter, nRanks, rootInfo, rank, megabytes == NOT_SET ? bufferSize() : megabytes, comm);
}

// A rank table whose ranks are all threads of this process; the number of its rank_id keys is the number of ranks.
SIM_EXPORT int HcclCommInitClusterInfo(const char *clusterInfo, uint32_t rank, void **comm) {
    HCCL_CALL(HcclCommInitClusterInfo)
    if (!clusterInfo) return hcclFail(counter, nullptr, HCCL_E_PTR, "no rank table");
    std::ifstream file(clusterInfo);
    if (!file) return hcclFail(counter, nullptr, HCCL_E_OPEN_FILE_FAILURE, "%s: cannot be read", clusterInfo);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const auto occurrences = [&](const char *word) {
        uint32_t count = 0;
        for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) count++;
        return count;
    };
    if (occurrences("\"server_id\"") > 1) {
        return hcclFail(counter, nullptr, HCCL_E_NOT_SUPPORT, "%s: several servers; ranks are threads here",
                        clusterInfo);
    }
    if (valueOf(text, "version") != "1.0" || valueOf(text, "status") != "completed")
        return hcclFail(counter, nullptr, HCCL_E_PARA, "%s: not a completed table of version 1.0", clusterInfo);
    const uint32_t ranks = occurrences("\"rank_id\"");
    if (ranks == 0) return hcclFail(counter, nullptr, HCCL_E_PARA, "%s: no rank_id", clusterInfo);
    const int named = tableDevice(text, rank), own = physicalDevice(aquilaSimCurrentDevice());
    if (named != own)
        return hcclFail(counter, nullptr, HCCL_E_PARA, "%s: rank %u is device %d there, and the thread's is %d",
                        clusterInfo, rank, named, own);
    return join(counter, "table:" + text, ranks, rank, bufferSize(), comm);
}

SIM_EXPORT int HcclCommInitAll(uint32_t ndev, int32_t *devices, void **comms) {
    HCCL_CALL(HcclCommInitAll)
    (void)ndev, (void)devices, (void)comms;
    const char *why = aquilaSimIs310P() ? "HcclCommInitAll is not simulated" : "not supported on Atlas 800I A2";
    return hcclFail(counter, nullptr, HCCL_E_NOT_SUPPORT, "%s", why);
}

SIM_EXPORT int HcclCommDestroy(void *handle) {
    static SimCounter *const counter = aquilaSimCounter("HcclCommDestroy");
    const SimFault fault = aquilaSimEnter(counter);
    const std::shared_ptr<Comm> comm = findComm(handle);
    if (!comm) return hcclFail(counter, nullptr, HCCL_E_PARA, "%p is not a communicator", handle);
    {
        std::lock_guard<std::mutex> guard(registry().lock);
        registry().comms.erase(handle);
    }
    for (void *buffer : comm->buffers) aclrtFree(buffer);
    const int code = fault.kind == SIM_FAULT_CODE ? fault.code : HCCL_SUCCESS;
    aquilaSimLeave(counter, nullptr, code, "");
    return code;
}

SIM_EXPORT int aquilaSimHcclJoin(const char *key, uint32_t ranks, uint32_t rank, void **comm) {
    static SimCounter *const counter = aquilaSimCounter("atb:communicator");
    aquilaSimEnter(counter);
    return join(counter, std::string("domain:") + key, ranks, rank, bufferSize(), comm);
}

static int askComm(SimCounter *counter, void *handle, const void *place, std::shared_ptr<Comm> *comm) {
    *comm = findComm(handle);
    if (!*comm) return hcclFail(counter, nullptr, HCCL_E_PARA, "%p is not a communicator", handle);
    if (!place) return hcclFail(counter, nullptr, HCCL_E_PTR, "a null pointer");
    aquilaSimLeave(counter, nullptr, HCCL_SUCCESS, "");
    return HCCL_SUCCESS;
}

SIM_EXPORT int HcclGetRankSize(void *handle, uint32_t *rankSize) {
    HCCL_CALL(HcclGetRankSize)
    std::shared_ptr<Comm> comm;
    if (int code = askComm(counter, handle, rankSize, &comm)) return code;
    *rankSize = comm->group->ranks;
    return HCCL_SUCCESS;
}

SIM_EXPORT int HcclGetRankId(void *handle, uint32_t *rank) {
    HCCL_CALL(HcclGetRankId)
    std::shared_ptr<Comm> comm;
    if (int code = askComm(counter, handle, rank, &comm)) return code;
    *rank = comm->rank;
    return HCCL_SUCCESS;
}

SIM_EXPORT int HcclGetCommAsyncError(void *handle, int *asyncError) {
    HCCL_CALL(HcclGetCommAsyncError)
    std::shared_ptr<Comm> comm;
    if (int code = askComm(counter, handle, asyncError, &comm)) return code;
    *asyncError = comm->asyncError;
    return HCCL_SUCCESS;
}

SIM_EXPORT int HcclGetCommName(void *handle, char *commName) {
    HCCL_CALL(HcclGetCommName)
    std::shared_ptr<Comm> comm;
    if (int code = askComm(counter, handle, commName, &comm)) return code;
    std::snprintf(commName, 128, "%.127s", comm->group->name.c_str());
    return HCCL_SUCCESS;
}

SIM_EXPORT const char *HcclGetErrorString(int code) {
    static const char *const names[] = {"success",
                                        "a parameter is wrong",
                                        "a null pointer",
                                        "out of memory",
                                        "internal error",
                                        "not supported",
                                        "not found",
                                        "unavailable",
                                        "system call failed",
                                        "timed out",
                                        "a file cannot be opened",
                                        "TCP connect",
                                        "RoCE connect",
                                        "TCP transfer",
                                        "RoCE transfer",
                                        "runtime error",
                                        "driver error",
                                        "profiling",
                                        "CCE",
                                        "network",
                                        "again",
                                        "a remote rank failed",
                                        "suspending",
                                        "retry failed",
                                        "out of memory"};
    return code >= 0 && code < int(sizeof names / sizeof *names) ? names[code] : "unknown";
}
