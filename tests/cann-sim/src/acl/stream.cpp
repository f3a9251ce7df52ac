// Streams: a thread and a queue each. Work runs in order, later than the call that put it there.
#include <cstdio>
#include <cstring>

#include "state.h"

namespace sim {
namespace {

constexpr auto LOOK_AGAIN = std::chrono::milliseconds(20);  // how often waiting work asks whether it was cancelled
constexpr size_t MOST_STREAMS_910B = 1984, MOST_STREAMS_310P = 1024;

int hang(Stream &stream) {
    const double end = nowMillis() + settings().hangSeconds * 1000;
    std::unique_lock<std::mutex> guard(stream.lock);
    while (!stream.cancelled && nowMillis() < end) stream.changed.wait_for(guard, LOOK_AGAIN);
    return RT_AICORE_TIMEOUT;
}

void work(Stream *stream) {
    Device &device = machine().devices[size_t(stream->device)];
    std::unique_lock<std::mutex> guard(stream->lock);
    while (true) {
        stream->changed.wait(guard, [&] { return stream->stopping || !stream->queue.empty(); });
        if (stream->queue.empty()) return;
        Task task = std::move(stream->queue.front());
        stream->queue.pop_front();
        guard.unlock();
        if (task.always || (!stream->cancelled && device.lost == 0)) {
            const int code = task.run();
            if (code && !stream->cancelled) lose(device, code, task.name);
        }
        task.run = nullptr;  // its data goes before anybody learns that it is done
        guard.lock();
        stream->completed = task.number;
        stream->changed.notify_all();
    }
}

}  // namespace

void lose(Device &device, int code, const std::string &why) {
    int none = 0;
    if (device.lost.compare_exchange_strong(none, code)) {
        aquilaSimNote(describe("DEVICE LOST device=%d code=%d %s", device.id, code, why.c_str()).c_str());
    }
}

Stream *makeStream(Device &device, Context *context) {
    auto *stream = new Stream;
    static std::atomic<uint64_t> ids{0};
    stream->id = ++ids;
    stream->device = device.id;
    stream->context = context;
    stream->worker = std::thread(work, stream);
    machine().streams.insert(stream);
    return stream;
}

int enqueue(Stream &stream, Task task, SimFault fault) {
    if (fault.kind == SIM_FAULT_HANG) {
        task.run = [&stream] { return hang(stream); };
    } else if (fault.kind == SIM_FAULT_CODE) {
        task.run = [name = task.name, code = fault.code] {
            aquilaSimKernelFailed(describe("injected failure %d of %s", code, name).c_str());
            return code;
        };
    }
    std::lock_guard<std::mutex> guard(stream.lock);
    task.number = ++stream.submitted;
    stream.queue.push_back(std::move(task));
    stream.changed.notify_all();
    return OK;
}

int drain(Stream &stream, double seconds) {
    Device &device = machine().devices[size_t(stream.device)];
    const double end = nowMillis() + seconds * 1000;
    std::unique_lock<std::mutex> guard(stream.lock);
    const uint64_t upTo = stream.submitted;
    while (stream.completed < upTo) {
        if (seconds >= 0) {
            const double left = end - nowMillis();
            if (left <= 0) return RT_STREAM_SYNC_TIMEOUT;
            stream.changed.wait_for(guard, std::chrono::duration<double, std::milli>(left));
        } else {
            stream.changed.wait(guard);
        }
    }
    if (stream.knownDone < upTo) stream.knownDone = upTo;
    return device.lost;
}

// With force, what still waits is dropped; without, it is waited for.
void destroyStream(Stream *stream, bool force) {
    machine().streams.erase(stream);
    {
        std::lock_guard<std::mutex> guard(stream->lock);
        if (force) stream->cancelled = true;
        stream->stopping = true;
        stream->changed.notify_all();
    }
    machine().eventPassed.notify_all();
    // Work that is running may need the machine's lock, which the caller holds once.
    machine().lock.unlock();
    stream->worker.join();
    machine().lock.lock();
    delete stream;
}

}  // namespace sim

using namespace sim;

namespace {

int createStream(sim::Call &call, void **stream) {
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Device *device = nullptr;
    if (int code = requireDevice(call, &device)) return code;
    if (!stream) return call.fail(INVALID_PARAM, "a null pointer for a stream");
    size_t there = 0;
    for (const Stream *other : machine().streams) there += other->device == device->id;
    if (there >= (settings().is310p ? MOST_STREAMS_310P : MOST_STREAMS_910B)) {
        return call.fail(RT_NO_STREAM_RESOURCE, "device %d has %zu streams", device->id, there);
    }
    *stream = makeStream(*device, currentContext);
    call.detail("made=%p", *stream);
    return call.end(OK);
}

int destroyCall(const char *name, void *handle, bool force) {
    sim::Call call(aquilaSimCounter(name), handle);
    const int injected = call.injected(false);
    std::unique_lock<std::recursive_mutex> guard(machine().lock);
    auto found = machine().streams.find(static_cast<Stream *>(handle));
    if (found == machine().streams.end()) return call.fail(RT_INVALID_HANDLE, "%p is not a stream", handle);
    Stream *stream = *found;
    const int lost = machine().devices[size_t(stream->device)].lost;
    destroyStream(stream, force || lost);
    return call.end(injected ? injected : lost);
}

int synchronise(sim::Call &call, void *handle, double seconds) {
    std::unique_lock<std::recursive_mutex> guard(machine().lock);
    Stream *stream = nullptr;
    if (int code = requireStream(call, handle, &stream)) return code;
    guard.unlock();
    const int code = drain(*stream, seconds);
    if (code == RT_STREAM_SYNC_TIMEOUT) return call.fail(code, "the stream was not done in %g s", seconds);
    if (code) return call.fail(code, "%s", aquilaSimLastFailure());
    return call.end(OK);
}

}  // namespace

SIM_EXPORT int aquilaSimStreamDevice(const void *handle) {
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    auto found = machine().streams.find(static_cast<Stream *>(const_cast<void *>(handle)));
    return found == machine().streams.end() ? -1 : (*found)->device;
}

SIM_EXPORT uint64_t aquilaSimStreamId(const void *handle) {
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    auto found = machine().streams.find(static_cast<Stream *>(const_cast<void *>(handle)));
    return found == machine().streams.end() ? 0 : (*found)->id;
}

SIM_EXPORT int aquilaSimEnqueue(void *handle, const SimWork *work) {
    const std::shared_ptr<void> data(work->data, work->drop);
    sim::Call call(aquilaSimCounter("stream:work"), handle);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Stream *stream = nullptr;
    if (int code = requireStream(call, handle, &stream)) return code;
    Task task{work->name, 0, [data, run = work->run, stream] { return run(data.get(), stream); }};
    return call.end(enqueue(*stream, std::move(task), work->fault));
}

SIM_EXPORT uint64_t aquilaSimSubmitted(const void *handle) {
    auto *stream = static_cast<Stream *>(const_cast<void *>(handle));
    std::lock_guard<std::mutex> guard(stream->lock);
    return stream->submitted;
}

SIM_EXPORT uint64_t aquilaSimKnownDone(const void *handle) {
    return static_cast<const Stream *>(handle)->knownDone;
}
SIM_EXPORT int aquilaSimCancelled(void *handle) {
    return static_cast<Stream *>(handle)->cancelled;
}

SIM_EXPORT void aquilaSimHang(int device) {
    const double end = nowMillis() + settings().hangSeconds * 1000;
    while (nowMillis() < end) std::this_thread::sleep_for(LOOK_AGAIN);
    if (device >= 0) lose(machine().devices[size_t(device)], RT_LOST_HEARTBEAT, "injected hang");
}

SIM_EXPORT int aclrtCreateStream(void **stream) {
    SIM_CALL(aclrtCreateStream, nullptr);
    return createStream(call, stream);
}

SIM_EXPORT int aclrtCreateStreamWithConfig(void **stream, uint32_t priority, uint32_t flag) {
    SIM_CALL(aclrtCreateStreamWithConfig, nullptr);
    if (flag & ~0x3fu) return call.fail(RT_PARAM_INVALID, "stream flags %#x, priority %u", flag, priority);
    return createStream(call, stream);
}

SIM_EXPORT int aclrtDestroyStream(void *stream) {
    return destroyCall("aclrtDestroyStream", stream, false);
}
SIM_EXPORT int aclrtDestroyStreamForce(void *stream) {
    return destroyCall("aclrtDestroyStreamForce", stream, true);
}

SIM_EXPORT int aclrtSynchronizeStream(void *stream) {
    SIM_CALL(aclrtSynchronizeStream, stream);
    return synchronise(call, stream, -1);
}

SIM_EXPORT int aclrtSynchronizeStreamWithTimeout(void *stream, int32_t timeoutMs) {
    SIM_CALL(aclrtSynchronizeStreamWithTimeout, stream);
    if (timeoutMs < -1) return call.fail(RT_PARAM_INVALID, "a time-out of %d ms", timeoutMs);
    return synchronise(call, stream, timeoutMs < 0 ? -1 : timeoutMs / 1000.0);
}

SIM_EXPORT int aclrtSynchronizeDevice(void) {
    SIM_CALL(aclrtSynchronizeDevice, nullptr);
    std::unique_lock<std::recursive_mutex> guard(machine().lock);
    Device *device = nullptr;
    if (int code = requireDevice(call, &device)) return code;
    std::vector<Stream *> streams;
    for (Stream *stream : machine().streams) {
        if (stream->device == device->id) streams.push_back(stream);
    }
    guard.unlock();
    for (Stream *stream : streams) drain(*stream, -1);
    if (const int lost = device->lost) return call.fail(lost, "%s", aquilaSimLastFailure());
    return call.end(OK);
}

SIM_EXPORT int aclrtStreamQuery(void *handle, int *status) {
    SIM_CALL(aclrtStreamQuery, handle);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Stream *stream = nullptr;
    if (int code = requireStream(call, handle, &stream)) return code;
    if (!status) return call.fail(INVALID_PARAM, "aclrtStreamQuery: a null pointer");
    std::lock_guard<std::mutex> queue(stream->lock);
    const bool done = stream->completed == stream->submitted;
    if (done) stream->knownDone = stream->submitted;
    *status = done ? 0 : 1;
    return call.end(OK);
}

SIM_EXPORT int aclrtLaunchCallback(void (*fn)(void *), void *userData, int blockType, void *handle) {
    SIM_STREAM_CALL(aclrtLaunchCallback, handle);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Stream *stream = nullptr;
    if (int code = requireStream(call, handle, &stream)) return code;
    if (!fn || blockType < 0 || blockType > 1) return call.fail(INVALID_PARAM, "aclrtLaunchCallback: no function");
    const uint64_t before = aquilaSimSubmitted(stream);
    Task task{"aclrtLaunchCallback", 0, [=] {
                  stream->knownDone = std::max<uint64_t>(stream->knownDone, before);
                  fn(userData);
                  return int(OK);
              }};
    return call.end(enqueue(*stream, std::move(task), call.late));
}
