// The simulated machine: devices, their memory, contexts, streams and events. One lock guards all of it but the
// queues of the streams.
#pragma once
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

#include "../sim.h"
#include "codes.h"

namespace sim {

constexpr int MAX_DEVICES = 8;

struct Settings {
    std::string soc;
    bool is310p;
    int devices;
    uint64_t memory;  // bytes a device
    bool noop;        // kernels and copies do nothing
    bool poison;
    double jitterMicros;  // at most this long a pinned source is read late
    double hangSeconds;   // how long a hang lasts before the device gives up
};
const Settings &settings();

struct Context {
    int device;
    bool primary;
};

struct Task {
    const char *name;
    uint64_t number;
    std::function<int()> run;  // 0 or the code of a device error
    bool always = false;       // runs on a lost device too: events, so that waiters wake
};

struct Stream {
    uint64_t id;  // never given twice, unlike its address
    int device;
    Context *context;
    std::mutex lock;
    std::condition_variable changed;
    std::deque<Task> queue;
    uint64_t submitted = 0, completed = 0;
    std::atomic<uint64_t> knownDone{0};
    std::atomic<bool> cancelled{false};
    bool stopping = false;
    std::thread worker;
};

struct Event {
    int device;
    uint32_t flags;
    uint64_t recorded = 0, done = 0;  // records asked for, records passed
    double millis = 0;                // when the last one passed
    Stream *stream = nullptr;         // where it was last recorded, and as which piece of work
    uint64_t number = 0;
};

struct Allocation {
    size_t size;  // what was asked for: the bound of every access
    uintptr_t block;
    size_t charged;  // what it takes
};

struct Device {
    int id = 0;
    uint8_t *base = nullptr;    // handed out; no access for anybody
    uint8_t *shadow = nullptr;  // the same bytes, for the simulator's kernels
    size_t span = 0;
    uint64_t used = 0, peak = 0;
    std::map<uintptr_t, Allocation> live;  // by address
    std::map<uintptr_t, size_t> holes;     // free blocks by address
    int references = 0;
    Context *primary = nullptr;
    std::atomic<int> lost{0};  // the code that every later call gets
    std::set<int> peers;
};

struct Machine {
    std::recursive_mutex lock;
    bool initialised = false, finalised = false;
    std::array<Device, MAX_DEVICES> devices;
    std::set<Context *> contexts;
    std::set<Stream *> streams;
    std::set<Event *> events;
    std::map<uintptr_t, size_t> pinned;
    std::condition_variable_any eventPassed;
};
Machine &machine();

extern thread_local Context *currentContext;

// --- one call of the interface ---
// Counts it, looks for an injected fault, and writes the trace line when it ends.
class Call {
  public:
    Call(SimCounter *counter, const void *stream = nullptr);
    ~Call();
    Call(const Call &) = delete;
    Call &operator=(const Call &) = delete;
    // The injected code of a call that ends at once; a stream's work gets its fault from `late`.
    int injected(bool streamOrdered);
    int fail(int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
    int end(int code);
    void detail(const char *format, ...) __attribute__((format(printf, 2, 3)));
    SimFault late{SIM_NO_FAULT, 0};

  private:
    SimCounter *counter_;
    const void *stream_;
    SimFault fault_;
    int code_ = 0;
    char detail_[256] = "";
};

#define SIM_CALL(name, stream)                                  \
    static SimCounter *const counter = aquilaSimCounter(#name); \
    sim::Call call(counter, stream);                            \
    if (int injectedCode = call.injected(false)) return call.end(injectedCode)
#define SIM_STREAM_CALL(name, stream)                           \
    static SimCounter *const counter = aquilaSimCounter(#name); \
    sim::Call call(counter, stream);                            \
    if (int injectedCode = call.injected(true)) return call.end(injectedCode)

// The device of this thread's context, alive; else the code that the call fails with.
int requireDevice(Call &call, Device **device);
// The same for a stream, which must belong to this thread's context.
int requireStream(Call &call, void *handle, Stream **stream);

// --- memory.cpp ---
int allocate(Call &call, Device &device, size_t size, int policy, void **out);
int release(Call &call, void *address);
void openDevice(Device &device);
void releaseAll(Device &device);
uint8_t *resolve(const void *address, size_t bytes, int *device = nullptr);
bool isPinned(const void *address, size_t bytes);
extern std::shared_mutex pinnedLock;  // held while a copy reads or writes pinned memory, which then stays

// --- stream.cpp ---
Stream *makeStream(Device &device, Context *context);
int enqueue(Stream &stream, Task task, SimFault fault = {SIM_NO_FAULT, 0});
int drain(Stream &stream, double seconds);  // seconds < 0: for ever; 0, a device error or the code of a time-out
void destroyStream(Stream *stream, bool force);
void lose(Device &device, int code, const std::string &why);
std::string describe(const char *format, ...) __attribute__((format(printf, 1, 2)));
void reportLeak(const std::string &what);
double nowMillis();

}  // namespace sim
