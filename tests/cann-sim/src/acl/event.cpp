// Events: marks in a stream that other streams and the host wait for.
#include "state.h"

namespace sim {
namespace {

constexpr size_t MOST_EVENTS_310P = 1023, MOST_EVENTS_910B = 65536;
constexpr auto LOOK_AGAIN = std::chrono::milliseconds(20);

int createEvent(Call &call, void **event, uint32_t flags) {
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Device *device = nullptr;
    if (int code = requireDevice(call, &device)) return code;
    if (!event) return call.fail(INVALID_PARAM, "a null pointer for an event");
    size_t there = 0;
    for (const Event *other : machine().events) there += other->device == device->id;
    if (there >= (settings().is310p ? MOST_EVENTS_310P : MOST_EVENTS_910B)) {
        return call.fail(RT_NO_EVENT_RESOURCE, "device %d has %zu events", device->id, there);
    }
    auto *made = new Event{device->id, flags};  // never deleted: work in a queue may still name it
    machine().events.insert(made);
    *event = made;
    return call.end(OK);
}

int requireEvent(Call &call, void *handle, Event **event) {
    Device *device = nullptr;
    if (int code = requireDevice(call, &device)) return code;
    auto found = machine().events.find(static_cast<Event *>(handle));
    if (found == machine().events.end()) return call.fail(RT_INVALID_HANDLE, "%p is not an event", handle);
    *event = *found;
    return OK;
}

// The host learns that the stream came so far.
void learn(Event &event, uint64_t record) {
    if (record != event.recorded || !machine().streams.count(event.stream)) return;
    if (event.stream->knownDone < event.number) event.stream->knownDone = event.number;
}

int waitOnHost(Call &call, void *handle, double seconds) {
    std::unique_lock<std::recursive_mutex> guard(machine().lock);
    Event *event = nullptr;
    if (int code = requireEvent(call, handle, &event)) return code;
    const uint64_t record = event->recorded;
    if (record == 0) return call.fail(RT_PARAM_INVALID, "the event was not recorded");
    const double end = nowMillis() + seconds * 1000;
    while (event->done < record) {
        if (seconds >= 0 && nowMillis() >= end)
            return call.fail(RT_EVENT_SYNC_TIMEOUT, "the event did not come in %g s", seconds);
        machine().eventPassed.wait_for(guard, LOOK_AGAIN);
    }
    learn(*event, record);
    if (const int lost = machine().devices[size_t(event->device)].lost)
        return call.fail(lost, "%s", aquilaSimLastFailure());
    return call.end(OK);
}

}  // namespace
}  // namespace sim

using namespace sim;

SIM_EXPORT int aclrtCreateEvent(void **event) {
    SIM_CALL(aclrtCreateEvent, nullptr);
    return createEvent(call, event, EVENT_SYNC | EVENT_TIME_LINE);
}

SIM_EXPORT int aclrtCreateEventWithFlag(void **event, uint32_t flag) {
    SIM_CALL(aclrtCreateEventWithFlag, nullptr);
    if (flag == 0 || flag > 0x1f) return call.fail(RT_PARAM_INVALID, "event flags %#x", flag);
    return createEvent(call, event, flag);
}

SIM_EXPORT int aclrtCreateEventExWithFlag(void **event, uint32_t flag) {
    SIM_CALL(aclrtCreateEventExWithFlag, nullptr);
    if (flag == 0 || flag > 0x1f) return call.fail(RT_PARAM_INVALID, "event flags %#x", flag);
    return createEvent(call, event, flag);
}

SIM_EXPORT int aclrtDestroyEvent(void *handle) {
    static SimCounter *const counter = aquilaSimCounter("aclrtDestroyEvent");
    sim::Call call(counter);
    const int injected = call.injected(false);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    auto found = machine().events.find(static_cast<Event *>(handle));
    if (found == machine().events.end()) return call.fail(RT_INVALID_HANDLE, "%p is not an event", handle);
    machine().events.erase(found);
    return call.end(injected);
}

SIM_EXPORT int aclrtRecordEvent(void *handle, void *streamHandle) {
    SIM_STREAM_CALL(aclrtRecordEvent, streamHandle);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Event *event = nullptr;
    Stream *stream = nullptr;
    if (int code = requireEvent(call, handle, &event)) return code;
    if (int code = requireStream(call, streamHandle, &stream)) return code;
    const uint64_t record = ++event->recorded;
    event->stream = stream;
    Task task{"aclrtRecordEvent", 0, [event, record] {
                  std::lock_guard<std::recursive_mutex> inside(machine().lock);
                  event->done = std::max(event->done, record);
                  event->millis = nowMillis();
                  machine().eventPassed.notify_all();
                  return int(OK);
              }};
    task.always = true;
    const int code = enqueue(*stream, std::move(task), call.late);
    event->number = aquilaSimSubmitted(stream);
    return call.end(code);
}

SIM_EXPORT int aclrtResetEvent(void *handle, void *streamHandle) {
    SIM_STREAM_CALL(aclrtResetEvent, streamHandle);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Event *event = nullptr;
    Stream *stream = nullptr;
    if (int code = requireEvent(call, handle, &event)) return code;
    if (int code = requireStream(call, streamHandle, &stream)) return code;
    return call.end(enqueue(*stream, {"aclrtResetEvent", 0, [] { return int(OK); }}, call.late));
}

SIM_EXPORT int aclrtSynchronizeEvent(void *event) {
    SIM_CALL(aclrtSynchronizeEvent, nullptr);
    return waitOnHost(call, event, -1);
}

SIM_EXPORT int aclrtSynchronizeEventWithTimeout(void *event, int32_t timeoutMs) {
    SIM_CALL(aclrtSynchronizeEventWithTimeout, nullptr);
    if (timeoutMs < -1) return call.fail(RT_PARAM_INVALID, "a time-out of %d ms", timeoutMs);
    return waitOnHost(call, event, timeoutMs < 0 ? -1 : timeoutMs / 1000.0);
}

SIM_EXPORT int aclrtQueryEventStatus(void *handle, int *status) {
    SIM_CALL(aclrtQueryEventStatus, nullptr);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Event *event = nullptr;
    if (int code = requireEvent(call, handle, &event)) return code;
    if (!status) return call.fail(INVALID_PARAM, "aclrtQueryEventStatus: a null pointer");
    const bool done = event->recorded > 0 && event->done >= event->recorded;
    if (done) learn(*event, event->recorded);
    *status = done ? 1 : 0;
    return call.end(OK);
}

SIM_EXPORT int aclrtEventElapsedTime(float *ms, void *startHandle, void *endHandle) {
    SIM_CALL(aclrtEventElapsedTime, nullptr);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Event *start = nullptr, *finish = nullptr;
    if (int code = requireEvent(call, startHandle, &start)) return code;
    if (int code = requireEvent(call, endHandle, &finish)) return code;
    if (!ms) return call.fail(INVALID_PARAM, "aclrtEventElapsedTime: a null pointer");
    if (!(start->flags & finish->flags & EVENT_TIME_LINE))
        return call.fail(RT_PARAM_INVALID, "an event without time line");
    if (start->done == 0 || finish->done == 0)
        return call.fail(RT_EVENT_TIMESTAMP_INVALID, "an event that has not passed");
    *ms = float(finish->millis - start->millis);
    return call.end(OK);
}

SIM_EXPORT int aclrtStreamWaitEvent(void *streamHandle, void *handle) {
    SIM_STREAM_CALL(aclrtStreamWaitEvent, streamHandle);
    std::lock_guard<std::recursive_mutex> guard(machine().lock);
    Event *event = nullptr;
    Stream *stream = nullptr;
    if (int code = requireEvent(call, handle, &event)) return code;
    if (int code = requireStream(call, streamHandle, &stream)) return code;
    if (!(event->flags & EVENT_SYNC))
        return call.fail(RT_PARAM_INVALID, "the event was made without ACL_EVENT_SYNC");
    if (event->recorded == 0) return call.fail(RT_PARAM_INVALID, "the event is waited for before it was recorded");
    Task task{"aclrtStreamWaitEvent", 0, [event, stream, record = event->recorded] {
                  std::unique_lock<std::recursive_mutex> inside(machine().lock);
                  while (event->done < record && !stream->cancelled)
                      machine().eventPassed.wait_for(inside, LOOK_AGAIN);
                  return int(OK);
              }};
    return call.end(enqueue(*stream, std::move(task), call.late));
}
