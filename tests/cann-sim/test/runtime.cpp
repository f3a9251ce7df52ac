// The rules of AscendCL: each broken once, and what it gives.
#include <signal.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "acl_client.h"
#include "check.h"

namespace {

using Clock = std::chrono::steady_clock;
double millisSince(Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

void begin(int device = 0) {
    EQ(aclInit(nullptr), 0);
    EQ(aclrtSetDevice(device), 0);
}

TEST(initialisation) {
    EQ(aclrtSetDevice(0), 100001);
    EQ(aclInit(nullptr), 0);
    EQ(aclInit(nullptr), 100002);
    CHECK(aclrtGetSocName() == nullptr);
    EQ(aclrtSetDevice(0), 0);
    CHECK(std::string(aclrtGetSocName()) == "Ascend910B3");
    EQ(aclrtResetDevice(0), 0);
    EQ(aclFinalize(), 0);
    EQ(aclFinalize(), 100037);
    EQ(aquilaSimLeaks(), 0);
}

TEST(device_ids) {
    setenv("AQUILA_SIM_DEVICES", "2", 1);
    EQ(aclInit(nullptr), 0);
    uint32_t count = 0;
    EQ(aclrtGetDeviceCount(&count), 0);
    EQ(count, 2);
    EQ(aclrtSetDevice(2), 107001);
    EQ(aclrtSetDevice(-1), 107001);
    EQ(aclrtResetDevice(1), 107001);
}

TEST(visible_devices) {
    setenv("AQUILA_SIM_DEVICES", "4", 1);
    setenv("ASCEND_RT_VISIBLE_DEVICES", "1,3", 1);
    uint32_t count = 0;
    EQ(aclrtGetDeviceCount(&count), 0);
    EQ(count, 2);
    EQ(aclInit(nullptr), 0);
    EQ(aclrtSetDevice(1), 0);
    EQ(aclrtSetDevice(2), 107001);
}

TEST(a_thread_without_context) {
    begin();
    void *memory = nullptr;
    int code = 0, after = 1;
    std::thread([&] {
        code = aclrtMalloc(&memory, 64, 0);
        const char *text = aclGetRecentErrMsg();
        CHECK(text && std::strstr(text, "context"));
        CHECK(aclGetRecentErrMsg() == nullptr);  // reading clears it
        aclrtSetDevice(0);
        after = aclrtMalloc(&memory, 64, 0);
    }).join();
    EQ(code, 107002);
    EQ(after, 0);
    CHECK(aclGetRecentErrMsg() == nullptr);  // and it is this thread's own
}

TEST(a_device_is_counted) {
    begin();
    EQ(aclrtSetDevice(0), 0);
    void *memory = nullptr;
    EQ(aclrtMalloc(&memory, 100, 0), 0);
    EQ(aclrtResetDevice(0), 0);
    EQ(aclrtFree(memory), 0);
    EQ(aclrtResetDevice(0), 0);
    EQ(aclrtMalloc(&memory, 100, 0), 107002);
}

TEST(leaks_are_reported) {
    begin();
    void *memory = nullptr, *stream = nullptr, *event = nullptr, *context = nullptr;
    EQ(aclrtMalloc(&memory, 100, 0), 0);
    EQ(aclrtCreateStream(&stream), 0);
    EQ(aclrtCreateEvent(&event), 0);
    EQ(aclrtCreateContext(&context, 0), 0);
    EQ(aclrtResetDevice(0), 0);
    EQ(aquilaSimLeaks(), 4);
    EQ(aquilaSimUsed(0), 0);
}

TEST(the_host_may_not_touch_device_memory) {
    begin();
    volatile char *memory = nullptr;
    EQ(aclrtMalloc(const_cast<void **>(reinterpret_cast<volatile void **>(&memory)), 4096, 0), 0);
    EQ(inChild([&] { std::printf("%d", memory[0]); }), -SIGSEGV);
    EQ(inChild([&] { memory[100] = 1; }), -SIGSEGV);
}

TEST(fresh_memory_is_poisoned) {
    begin();
    for (int i = 0; i < 2; i++) {
        void *memory = nullptr;
        EQ(aclrtMalloc(&memory, 1000, 0), 0);
        EQ(uintptr_t(memory) % 64, 0);
        unsigned char bytes[1000];
        EQ(aclrtMemcpy(bytes, 1000, memory, 1000, DEVICE_TO_HOST), 0);
        for (unsigned char byte : bytes) CHECK(byte == 0xff);
        EQ(aclrtMemset(memory, 1000, 0, 1000), 0);
        EQ(aclrtFree(memory), 0);
    }
}

TEST(memory_ends) {
    setenv("AQUILA_SIM_MEMORY", "16777216", 1);
    begin();
    void *memory = nullptr, *more = nullptr;
    EQ(aclrtMalloc(&memory, 32 << 20, 0), 207001);
    EQ(aclrtMalloc(&memory, 13 << 20, 0), 0);
    EQ(aclrtMalloc(&more, 4 << 20, 0), 207001);
    size_t free = 0, total = 0;
    EQ(aclrtGetMemInfo(1, &free, &total), 0);
    EQ(total, 16777216);
    EQ(free, 2 << 20);
    EQ(aclrtGetMemInfo(0, &free, &total), 0);
    EQ(total, 0);
    EQ(aclrtFree(memory), 0);
    EQ(aclrtMalloc(&more, 4 << 20, 0), 0);
    EQ(aclrtMalloc(&memory, 0, 0), 100000);
    EQ(aclrtMalloc(&memory, 64, 0x1000), 107000);
}

TEST(a_310p_has_ddr) {
    setenv("AQUILA_SIM_SOC", "Ascend310P3", 1);
    unsetenv("AQUILA_SIM_MEMORY");
    begin();
    size_t free = 0, total = 0;
    EQ(aclrtGetMemInfo(1, &free, &total), 0);
    EQ(total, 0);
    EQ(aclrtGetMemInfo(0, &free, &total), 0);
    EQ(total, size_t(24e9));
}

TEST(copies_are_checked) {
    begin();
    void *memory = nullptr, *other = nullptr;
    char host[200] = {};
    EQ(aclrtMalloc(&memory, 100, 0), 0);
    EQ(aclrtMalloc(&other, 100, 0), 0);
    EQ(aclrtMemcpy(memory, 99, host, 100, HOST_TO_DEVICE), 100000);
    EQ(aclrtMemcpy(memory, 101, host, 101, HOST_TO_DEVICE), 107000);  // past the end of the allocation
    EQ(aclrtMemcpy(static_cast<char *>(memory) + 50, 51, host, 51, HOST_TO_DEVICE), 107000);
    EQ(aclrtMemcpy(host, 200, memory, 100, HOST_TO_DEVICE), 107000);  // the wrong way round
    EQ(aclrtMemcpy(memory, 100, other, 100, HOST_TO_DEVICE), 107000);
    EQ(aclrtMemcpy(memory, 100, other, 100, DEVICE_TO_DEVICE), 0);
    EQ(aclrtMemcpy(nullptr, 100, host, 100, HOST_TO_DEVICE), 100000);
    EQ(aclrtFree(static_cast<char *>(memory) + 32), 107000);
    EQ(aclrtFree(memory), 0);
    EQ(aclrtFree(memory), 107000);
    EQ(aclrtMemcpy(memory, 100, host, 100, HOST_TO_DEVICE), 107000);
}

TEST(copies_between_devices_need_peer_access) {
    setenv("AQUILA_SIM_DEVICES", "2", 1);
    begin(0);
    void *zero = nullptr, *one = nullptr;
    char value = 7, back = 0;
    EQ(aclrtMalloc(&zero, 64, 0), 0);
    EQ(aclrtMemcpy(zero, 64, &value, 1, HOST_TO_DEVICE), 0);
    EQ(aclrtSetDevice(1), 0);
    EQ(aclrtMalloc(&one, 64, 0), 0);
    EQ(aclrtMemcpy(one, 64, zero, 1, DEVICE_TO_DEVICE), 107000);
    EQ(aclrtDeviceEnablePeerAccess(0, 0), 0);
    EQ(aclrtMemcpy(one, 64, zero, 1, DEVICE_TO_DEVICE), 107000);  // one direction is not enough
    EQ(aclrtSetDevice(0), 0);
    EQ(aclrtDeviceEnablePeerAccess(1, 0), 0);
    EQ(aclrtSetDevice(1), 0);
    EQ(aclrtMemcpy(one, 64, zero, 1, DEVICE_TO_DEVICE), 0);
    EQ(aclrtMemcpy(&back, 1, one, 1, DEVICE_TO_HOST), 0);
    EQ(back, 7);
}

TEST(asynchronous_copies_read_pinned_memory_late) {
    begin();
    void *stream = nullptr, *memory = nullptr, *pinned = nullptr;
    EQ(aclrtCreateStream(&stream), 0);
    EQ(aclrtMalloc(&memory, 64, 0), 0);
    EQ(aclrtMallocHost(&pinned, 64), 0);
    Gate gate;
    EQ(aclrtLaunchCallback(Gate::wait, &gate, 0, stream), 0);
    *static_cast<char *>(pinned) = 1;
    EQ(aclrtMemcpyAsync(memory, 64, pinned, 1, HOST_TO_DEVICE, stream), 0);
    *static_cast<char *>(pinned) = 2;  // too early
    gate.open();
    EQ(aclrtSynchronizeStream(stream), 0);
    char found = 0;
    EQ(aclrtMemcpy(&found, 1, memory, 1, DEVICE_TO_HOST), 0);
    EQ(found, 2);
    // Pageable memory is read before the call returns.
    char pageable = 3;
    EQ(aclrtMemcpyAsync(memory, 64, &pageable, 1, HOST_TO_DEVICE, stream), 0);
    pageable = 4;
    EQ(aclrtMemcpy(&found, 1, memory, 1, DEVICE_TO_HOST), 0);
    EQ(found, 3);
    EQ(aclrtMemcpyAsync(&found, 1, &pageable, 1, HOST_TO_HOST, stream), 207000);
}

TEST(pinned_memory_is_read_later_by_some_time) {
    setenv("AQUILA_SIM_JITTER", "20000", 1);
    begin();
    void *stream = nullptr, *memory = nullptr, *pinned = nullptr;
    EQ(aclrtCreateStream(&stream), 0);
    EQ(aclrtMalloc(&memory, 64, 0), 0);
    EQ(aclrtMallocHost(&pinned, 64), 0);
    int late = 0;
    for (int i = 0; i < 20 && !late; i++) {
        *static_cast<char *>(pinned) = 1;
        EQ(aclrtMemcpyAsync(memory, 64, pinned, 1, HOST_TO_DEVICE, stream), 0);
        *static_cast<char *>(pinned) = 2;
        EQ(aclrtSynchronizeStream(stream), 0);
        char found = 0;
        EQ(aclrtMemcpy(&found, 1, memory, 1, DEVICE_TO_HOST), 0);
        late += found == 2;
    }
    CHECK(late);
}

TEST(a_pinned_source_that_was_freed_fails_the_stream) {
    begin();
    void *stream = nullptr, *memory = nullptr, *pinned = nullptr;
    EQ(aclrtCreateStream(&stream), 0);
    EQ(aclrtMalloc(&memory, 64, 0), 0);
    EQ(aclrtMallocHost(&pinned, 64), 0);
    Gate gate;
    EQ(aclrtLaunchCallback(Gate::wait, &gate, 0, stream), 0);
    EQ(aclrtMemcpyAsync(memory, 64, pinned, 64, HOST_TO_DEVICE, stream), 0);
    EQ(aclrtFreeHost(pinned), 0);
    gate.open();
    EQ(aclrtSynchronizeStream(stream), 507053);
    CHECK(std::strstr(aquilaSimLastFailure(), "freed before it ran"));
    EQ(aclrtMalloc(&memory, 64, 0), 507053);  // the device is lost
    EQ(aclrtResetDevice(0), 0);
    EQ(aclrtSetDevice(0), 0);
    EQ(aclrtMalloc(&memory, 64, 0), 0);  // and back
}

TEST(streams_belong_to_contexts) {
    begin();
    void *stream = nullptr, *context = nullptr, *first = nullptr;
    EQ(aclrtCreateStream(&stream), 0);
    EQ(aclrtGetCurrentContext(&first), 0);
    EQ(aclrtCreateContext(&context, 0), 0);
    EQ(aclrtSynchronizeStream(stream), 107003);
    EQ(aclrtSetCurrentContext(first), 0);
    EQ(aclrtSynchronizeStream(stream), 0);
    EQ(aclrtDestroyContext(context), 0);
    EQ(aclrtSetCurrentContext(context), 107002);
    EQ(aclrtDestroyStream(stream), 0);
    EQ(aclrtDestroyStream(stream), 107017);
    EQ(aclrtSynchronizeStream(&stream), 107017);
}

void passLater(void *gate) {
    Gate::wait(gate);
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
}

TEST(events_order_streams) {
    begin();
    void *a = nullptr, *b = nullptr, *start = nullptr, *end = nullptr, *plain = nullptr;
    EQ(aclrtCreateStream(&a), 0);
    EQ(aclrtCreateStream(&b), 0);
    EQ(aclrtCreateEvent(&start), 0);
    EQ(aclrtCreateEvent(&end), 0);
    EQ(aclrtStreamWaitEvent(b, end), 107000);  // never recorded
    EQ(aclrtSynchronizeEvent(end), 107000);
    EQ(aclrtCreateEventWithFlag(&plain, 2), 0);
    EQ(aclrtRecordEvent(plain, a), 0);
    EQ(aclrtStreamWaitEvent(b, plain), 107000);  // made without ACL_EVENT_SYNC
    Gate gate;
    EQ(aclrtRecordEvent(start, a), 0);
    EQ(aclrtLaunchCallback(passLater, &gate, 0, a), 0);
    EQ(aclrtRecordEvent(end, a), 0);
    int status = 9;
    EQ(aclrtQueryEventStatus(end, &status), 0);
    EQ(status, 0);
    EQ(aclrtStreamQuery(a, &status), 0);
    EQ(status, 1);
    EQ(aclrtSynchronizeEventWithTimeout(end, 1), 507047);
    EQ(aclrtStreamWaitEvent(b, end), 0);
    EQ(aclrtSynchronizeStreamWithTimeout(b, 30), 507046);  // behind the event
    gate.open();
    EQ(aclrtSynchronizeStream(b), 0);
    EQ(aclrtQueryEventStatus(end, &status), 0);
    EQ(status, 1);
    float millis = 0;
    EQ(aclrtEventElapsedTime(&millis, start, end), 0);
    CHECK(millis >= 55);
    EQ(aclrtStreamQuery(a, &status), 0);
    EQ(aclrtSynchronizeDevice(), 0);
}

TEST(a_hang_meets_a_time_out) {
    begin();
    EQ(aquilaSimFaults("aclrtMemsetAsync@2=hang"), 0);
    void *stream = nullptr, *memory = nullptr;
    EQ(aclrtCreateStream(&stream), 0);
    EQ(aclrtMalloc(&memory, 64, 0), 0);
    EQ(aclrtMemsetAsync(memory, 64, 0, 64, stream), 0);
    EQ(aclrtSynchronizeStreamWithTimeout(stream, 60000), 0);
    EQ(aclrtMemsetAsync(memory, 64, 0, 64, stream), 0);
    const auto start = Clock::now();
    EQ(aclrtSynchronizeStreamWithTimeout(stream, 100), 507046);
    CHECK(millisSince(start) < 60000);
    EQ(aclrtDestroyStreamForce(stream), 0);
    EQ(aclrtFree(memory), 0);
    EQ(aclrtResetDevice(0), 0);
    EQ(aquilaSimLeaks(), 0);
}

TEST(a_hang_of_a_call_ends_in_a_lost_device) {
    setenv("AQUILA_SIM_HANG", "0.2", 1);
    setenv("AQUILA_SIM_FAULT", "aclrtMalloc@1=hang", 1);
    begin();
    void *memory = nullptr;
    const auto start = Clock::now();
    EQ(aclrtMalloc(&memory, 64, 0), 507010);
    CHECK(millisSince(start) >= 200);
    EQ(aclrtMalloc(&memory, 64, 0), 507010);
    EQ(aclrtResetDeviceForce(0), 0);
}

TEST(faults_come_at_the_nth_call) {
    begin();
    void *memory = nullptr;
    EQ(aquilaSimFaults("aclrtMalloc@2=207001; aclrtMalloc@4+=200000, aclrtSynchronizeDevice#1@1=1"), 0);
    EQ(aclrtMalloc(&memory, 64, 0), 0);
    EQ(aclrtMalloc(&memory, 64, 0), 207001);
    EQ(aclrtMalloc(&memory, 64, 0), 0);
    EQ(aclrtMalloc(&memory, 64, 0), 200000);
    EQ(aclrtMalloc(&memory, 64, 0), 200000);
    EQ(aclrtSynchronizeDevice(), 0);  // the rule is for device 1
    EQ(aquilaSimFaults("*@2=500001"), 0);
    EQ(aclrtSynchronizeDevice(), 0);
    EQ(aclrtSynchronizeDevice(), 500001);
    for (const char *wrong :
         {"aclrtMalloc", "aclrtMalloc=1", "aclrtMalloc@0=1", "aclrtMalloc@1=", "aclrtMalloc@x=1", "@1=2"})
        EQ(aquilaSimFaults(wrong), 1);
    EQ(aquilaSimFaults(""), 0);
}

TEST(a_device_error_comes_with_the_stream) {
    begin();
    void *stream = nullptr, *memory = nullptr, *event = nullptr;
    EQ(aclrtCreateStream(&stream), 0);
    EQ(aclrtCreateEvent(&event), 0);
    EQ(aclrtMalloc(&memory, 64, 0), 0);
    EQ(aquilaSimFaults("aclrtMemsetAsync@1=507015"), 0);
    Gate gate;
    EQ(aclrtLaunchCallback(Gate::wait, &gate, 0, stream), 0);
    EQ(aclrtMemsetAsync(memory, 64, 0, 64, stream), 0);
    bool ran = false;
    EQ(aclrtLaunchCallback([](void *flag) { *static_cast<bool *>(flag) = true; }, &ran, 0, stream), 0);
    EQ(aclrtRecordEvent(event, stream), 0);
    gate.open();
    EQ(aclrtSynchronizeEvent(event), 507015);  // who waits is not left waiting
    EQ(aclrtSynchronizeStream(stream), 507015);
    CHECK(!ran);  // what stood behind the failure
    EQ(aclrtSetDevice(0), 507015);
    EQ(aclrtFree(memory), 507015);  // and yet it is gone
    EQ(aclrtDestroyEvent(event), 0);
    EQ(aclrtDestroyStream(stream), 507015);
    EQ(aclrtResetDevice(0), 0);
    EQ(aquilaSimLeaks(), 0);
    EQ(aclrtSetDevice(0), 0);
}

TEST(calls_are_counted_and_traced) {
    char path[] = "/tmp/aquila-sim-trace-XXXXXX";
    close(mkstemp(path));
    setenv("AQUILA_SIM_TRACE", path, 1);
    begin();
    void *memory = nullptr;
    EQ(aclrtMalloc(&memory, 77, 0), 0);
    EQ(aquilaSimCount("aclrtMalloc"), 1);
    aquilaSimMark("step one");
    EQ(aquilaSimCount("aclrtMalloc"), 0);
    EQ(aquilaSimTotal("aclrtMalloc"), 1);
    EQ(aclrtMalloc(&memory, 0, 0), 100000);
    EQ(aclrtResetDevice(0), 0);
    std::string text;
    FILE *file = std::fopen(path, "r");
    char line[400];
    while (std::fgets(line, sizeof line, file)) text += line;
    std::fclose(file);
    unlink(path);
    for (const char *expected :
         {"test double", "aclrtMalloc size=77", "== step one", "1  aclrtMalloc", "-> 100000", "LEAK"}) {
        CHECK(text.find(expected) != std::string::npos);
    }
}

}  // namespace
