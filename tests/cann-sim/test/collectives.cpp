// HCCL between threads of one process, each with a device of its own, and ATB's operations over it.
#include <atomic>
#include <cstring>
#include <fstream>
#include <functional>
#include <thread>

#include "bench.h"

namespace {

enum { HCCL_INT32 = 2, HCCL_FP16 = 3, HCCL_FP32 = 4, HCCL_INT64 = 5, HCCL_BF16 = 11 };
enum { SUM = 0, PROD = 1, MAX = 2, MIN = 3 };

struct Rank {
    int number = 0, count = 0;
    void *stream = nullptr, *comm = nullptr;
    std::vector<void *> memory;

    void *upload(const Floats &values, int dtype, size_t copies = 1) {
        const std::vector<uint8_t> data = encode(values, dtype);
        void *place = nullptr;
        EQ(aclrtMalloc(&place, data.size() * copies, 0), 0);
        EQ(aclrtMemcpy(place, data.size(), data.data(), data.size(), HOST_TO_DEVICE), 0);
        memory.push_back(place);
        return place;
    }
    Floats read(void *place, size_t count, int dtype) {
        std::vector<uint8_t> data(count * itemSize(dtype));
        EQ(aclrtMemcpy(data.data(), data.size(), place, data.size(), DEVICE_TO_HOST), 0);
        return decode(data, dtype);
    }
};

// body(rank) on a thread for each rank, with a communicator over all of them.
void ranks(int count, const std::function<void(Rank &)> &body) {
    setenv("AQUILA_SIM_DEVICES", std::to_string(count).c_str(), 1);
    setenv("HCCL_BUFFSIZE", "1", 1);
    aclInit(nullptr);
    EQ(aclrtSetDevice(0), 0);
    char root[ROOT_INFO_BYTES];
    EQ(HcclGetRootInfo(root), 0);
    std::vector<std::thread> threads;
    for (int i = 0; i < count; i++) {
        threads.emplace_back([&, i] {
            Rank rank;
            rank.number = i;
            rank.count = count;
            EQ(aclrtSetDevice(i), 0);
            EQ(aclrtCreateStream(&rank.stream), 0);
            const uint64_t before = aquilaSimUsed(i);
            EQ(HcclCommInitRootInfo(uint32_t(count), root, uint32_t(i), &rank.comm), 0);
            CHECK(aquilaSimUsed(i) - before >= 2u << 20);  // two buffers of HCCL_BUFFSIZE
            body(rank);
            for (void *one : rank.memory) aclrtFree(one);
            EQ(HcclCommDestroy(rank.comm), 0);
            aclrtDestroyStreamForce(rank.stream);
            EQ(aclrtResetDevice(i), 0);
        });
    }
    for (std::thread &thread : threads) thread.join();
    EQ(aclrtResetDevice(0), 0);
    EQ(aquilaSimLeaks(), 0);
}

TEST(all_kinds) {
    ranks(3, [](Rank &rank) {
        uint32_t size = 0;
        EQ(HcclGetRankSize(rank.comm, &size), 0);
        EQ(size, 3);
        const float r = float(rank.number + 1);  // 1, 2, 3
        for (const auto &[type, dtype] : {std::pair{HCCL_FP32, F32},
                                          {HCCL_FP16, F16},
                                          {HCCL_BF16, BF16},
                                          {HCCL_INT32, INT32},
                                          {HCCL_INT64, INT64}}) {
            void *x = rank.upload({r, 10 * r, -r}, dtype);
            EQ(HcclAllReduce(x, x, 3, type, SUM, rank.comm, rank.stream), 0);
            EQ(aclrtSynchronizeStream(rank.stream), 0);
            CHECK(rank.read(x, 3, dtype) == (Floats{6, 60, -6}));
        }
        void *x = rank.upload({r, 10 * r, -r}, F32), *y = rank.upload({0, 0, 0}, F32);
        const Floats reduced[] = {{}, {6, 6000, -6}, {3, 30, -1}, {1, 10, -3}};
        for (const int op : {PROD, MAX, MIN}) {
            EQ(HcclAllReduce(x, y, 3, HCCL_FP32, op, rank.comm, rank.stream), 0);
            EQ(aclrtSynchronizeStream(rank.stream), 0);
            CHECK(rank.read(y, 3, F32) == reduced[op]);
        }
        void *all = rank.upload({0, 0, 0}, F32, 3);
        EQ(HcclAllGather(x, all, 3, HCCL_FP32, rank.comm, rank.stream), 0);
        EQ(aclrtSynchronizeStream(rank.stream), 0);
        CHECK(rank.read(all, 9, F32) == (Floats{1, 10, -1, 2, 20, -2, 3, 30, -3}));
        void *part = rank.upload({0}, F32);
        EQ(HcclReduceScatter(x, part, 1, HCCL_FP32, SUM, rank.comm, rank.stream), 0);
        EQ(aclrtSynchronizeStream(rank.stream), 0);
        EQ(rank.read(part, 1, F32)[0], Floats({6, 60, -6})[size_t(rank.number)]);
        EQ(HcclBroadcast(x, 3, HCCL_FP32, 1, rank.comm, rank.stream), 0);
        EQ(HcclBarrier(rank.comm, rank.stream), 0);
        EQ(aclrtSynchronizeStream(rank.stream), 0);
        CHECK(rank.read(x, 3, F32) == (Floats{2, 20, -2}));
    });
}

TEST(refused_at_once) {
    ranks(2, [](Rank &rank) {
        void *x = rank.upload({1, 2}, F32);
        EQ(HcclAllReduce(x, x, 0, HCCL_FP32, SUM, rank.comm, rank.stream), 1);
        EQ(HcclAllReduce(nullptr, x, 2, HCCL_FP32, SUM, rank.comm, rank.stream), 2);
        EQ(HcclAllReduce(x, x, 2, 99, SUM, rank.comm, rank.stream), 5);
        EQ(HcclAllReduce(x, x, 2, HCCL_FP32, SUM, &x, rank.stream), 1);
        EQ(HcclAllReduce(x, x, 2, HCCL_FP32, SUM, rank.comm, &x), 1);
        EQ(HcclBroadcast(x, 2, HCCL_FP32, 2, rank.comm, rank.stream), 1);
        EQ(HcclCommInitAll(2, nullptr, nullptr), 5);  // not on 800I A2
        float host[2];
        EQ(HcclAllReduce(host, host, 2, HCCL_FP32, SUM, rank.comm, rank.stream), 1);
    });
}

TEST(types_of_a_310p) {
    setenv("AQUILA_SIM_SOC", "Ascend310P3", 1);
    ranks(2, [](Rank &rank) {
        void *x = rank.upload({1, 2}, F32);
        EQ(HcclAllReduce(x, x, 2, HCCL_BF16, SUM, rank.comm, rank.stream), 5);
        EQ(HcclAllReduce(x, x, 1, HCCL_INT64, SUM, rank.comm, rank.stream), 5);
        EQ(HcclAllReduce(x, x, 2, HCCL_FP16, SUM, rank.comm, rank.stream), 0);
        EQ(aclrtSynchronizeStream(rank.stream), 0);
    });
}

TEST(ranks_that_disagree) {
    ranks(2, [](Rank &rank) {
        void *x = rank.upload({1, 2}, F32);
        EQ(HcclAllReduce(x, x, rank.number == 0 ? 1 : 2, HCCL_FP32, SUM, rank.comm, rank.stream), 0);
        EQ(aclrtSynchronizeStream(rank.stream), 507015);
        int error = 0;
        EQ(HcclGetCommAsyncError(rank.comm, &error), 0);
        CHECK(error != 0);
        CHECK(std::strstr(aquilaSimLastFailure(), "another rank"));
    });
}

TEST(a_rank_that_does_not_come) {
    static std::atomic<bool> given{false};
    ranks(2, [](Rank &rank) {
        void *x = rank.upload({1, 2}, F32);
        if (rank.number == 1) {
            while (!given) std::this_thread::yield();
            return;
        }
        setenv("AQUILA_SIM_HCCL_TIMEOUT", "0.3", 1);
        EQ(HcclAllReduce(x, x, 2, HCCL_FP32, SUM, rank.comm, rank.stream), 0);
        EQ(aclrtSynchronizeStream(rank.stream), 507048);
        int error = 0;
        EQ(HcclGetCommAsyncError(rank.comm, &error), 0);
        EQ(error, 9);
        given = true;
    });
}

TEST(a_rank_that_hangs_and_is_given_up) {
    ranks(2, [](Rank &rank) {
        if (rank.number == 0) aquilaSimFaults("HcclAllReduce#1@1=hang");
        static std::atomic<int> ready{0};
        for (ready++; ready < 2;) std::this_thread::yield();
        void *x = rank.upload({1, 2}, F32);
        EQ(HcclAllReduce(x, x, 2, HCCL_FP32, SUM, rank.comm, rank.stream), 0);
        EQ(aclrtSynchronizeStreamWithTimeout(rank.stream, 200), 507046);
    });
}

TEST(joining) {
    setenv("AQUILA_SIM_DEVICES", "2", 1);
    setenv("AQUILA_SIM_HCCL_TIMEOUT", "0.2", 1);
    setenv("HCCL_BUFFSIZE", "1", 1);
    aclInit(nullptr);
    char root[ROOT_INFO_BYTES] = {};
    void *comm = nullptr;
    EQ(HcclGetRootInfo(root), 15);  // no device
    EQ(aclrtSetDevice(0), 0);
    EQ(HcclCommInitRootInfo(2, root, 0, &comm), 1);  // not a root info
    EQ(HcclGetRootInfo(root), 0);
    EQ(HcclCommInitRootInfo(2, root, 2, &comm), 1);
    EQ(HcclCommInitRootInfo(2, root, 0, &comm), 9);  // nobody else came
    // Two ranks on one device.
    setenv("AQUILA_SIM_HCCL_TIMEOUT", "60", 1);
    EQ(HcclGetRootInfo(root), 0);
    int codes[2];
    std::thread threads[2];
    for (int i = 0; i < 2; i++) {
        threads[i] = std::thread([&, i] {
            void *mine = nullptr;
            aclrtSetDevice(0);
            codes[i] = HcclCommInitRootInfo(2, root, uint32_t(i), &mine);
        });
    }
    for (std::thread &thread : threads) thread.join();
    CHECK(codes[0] != 0 && codes[1] != 0);
    CHECK(codes[0] == 1 || codes[1] == 1);
    // No memory for the buffers, one rank alone.
    setenv("HCCL_BUFFSIZE", "100000", 1);
    EQ(HcclGetRootInfo(root), 0);
    EQ(HcclCommInitRootInfo(1, root, 0, &comm), 3);
    setenv("HCCL_BUFFSIZE", "1", 1);
    // A root info of another process: here ranks are threads.
    EQ(HcclGetRootInfo(root), 0);
    EQ(inChild([&] {
           void *mine = nullptr;
           EQ(HcclCommInitRootInfo(1, root, 0, &mine), 5);
       }),
       0);
}

TEST(a_rank_table) {
    setenv("HCCL_BUFFSIZE", "1", 1);
    aclInit(nullptr);
    EQ(aclrtSetDevice(0), 0);
    char path[] = "/tmp/aquila-sim-table-XXXXXX";
    close(mkstemp(path));
    const auto write = [&](const char *text) { std::ofstream(path) << text; };
    void *comm = nullptr;
    const std::string good = R"({"version": "1.0", "status": "completed",
        "server_list": [{"server_id": "a", "device": [{"device_id": "0", "rank_id": "0"}]}]})";
    const auto with = [&](const char *from, const char *to) {
        std::string text = good;
        write(text.replace(text.find(from), std::strlen(from), to).c_str());
    };
    write(good.c_str());
    EQ(HcclCommInitClusterInfo(path, 0, &comm), 0);
    EQ(HcclCommDestroy(comm), 0);
    write(R"({"server_list": [{"server_id": "a"}, {"server_id": "b", "device": [{"rank_id": "0"}]}]})");
    EQ(HcclCommInitClusterInfo(path, 0, &comm), 5);
    with("completed", "initializing");
    EQ(HcclCommInitClusterInfo(path, 0, &comm), 1);
    with("1.0", "1.2");
    EQ(HcclCommInitClusterInfo(path, 0, &comm), 1);
    with("\"device_id\": \"0\"", "\"device_id\": \"1\"");
    EQ(HcclCommInitClusterInfo(path, 0, &comm), 1);
    unlink(path);
    EQ(HcclCommInitClusterInfo(path, 0, &comm), 10);
}

// A graph of two nodes on two ranks: x doubled, then summed between them; and AllGather.
TEST(operations_over_hccl) {
    ranks(2, [](Rank &rank) {
        Bench bench(rank.number);
        atb::infer::ElewiseParam muls;
        muls.elewiseType = 2;
        muls.mulsParam.varAttr = 2;
        atb::infer::AllReduceParam reduce;
        reduce.rank = rank.number;
        reduce.rankSize = rank.count;
        reduce.hcclComm = rank.comm;
        atb::GraphParam graph;
        graph.inTensorNum = graph.outTensorNum = graph.internalTensorNum = 1;
        graph.nodes.resize(2);
        EQ(atb::CreateOperation(muls, &graph.nodes[0].operation), 0);
        EQ(atb::CreateOperation(reduce, &graph.nodes[1].operation), 0);
        graph.nodes[0].inTensorIds = {0};
        graph.nodes[0].outTensorIds = {2};
        graph.nodes[1].inTensorIds = {2};
        graph.nodes[1].outTensorIds = {1};
        atb::Operation *operation = nullptr;
        EQ(atb::CreateOperation(graph, &operation), 0);
        const atb::Tensor y = bench.empty(F16, {2, 2});
        for (int i = 0; i < 20; i++) {
            const float r = float(rank.number + i);
            EQ(bench.run(operation, {bench.upload({r, 1, 2, 3}, F16, {2, 2})}, {y}), 0);
            CHECK(bench.read(y) == (Floats{float(2 * i + 2 * (i + 1)), 4, 8, 12}));
        }
        EQ(atb::DestroyOperation(operation), 0);
        atb::infer::AllGatherParam gather;
        gather.rank = rank.number;
        gather.rankSize = rank.count;
        gather.hcclComm = rank.comm;
        const atb::Tensor all = bench.empty(F16, {2, 1, 2});
        EQ(bench.once(gather, {bench.upload({float(rank.number), 7}, F16, {1, 2})}, {all}), 0);
        CHECK(bench.read(all) == (Floats{0, 7, 1, 7}));
        // Strings of this ABI are read where they lie.
        reduce.allReduceType = "max";
        EQ(bench.once(reduce, {bench.upload({float(rank.number), 5}, F16, {2})}, {bench.empty(F16, {2})}), 0);
        reduce.allReduceType = "median";
        EQ(atb::CreateOperation(reduce, &operation), 1);
        reduce.allReduceType = "sum";
        reduce.backend = "lccl";
        EQ(atb::CreateOperation(reduce, &operation), 1);
    });
}

// Without a communicator ATB makes one, by its domain, and never destroys it.
TEST(a_communicator_of_atb_itself) {
    setenv("AQUILA_SIM_DEVICES", "2", 1);
    setenv("HCCL_BUFFSIZE", "1", 1);
    aclInit(nullptr);
    std::thread threads[2];
    for (int i = 0; i < 2; i++) {
        threads[i] = std::thread([i] {
            Bench bench(i);
            atb::infer::AllReduceParam reduce;
            reduce.rank = i;
            reduce.rankSize = 2;
            reduce.commDomain = "ours, with a name that no short string holds";
            const atb::Tensor y = bench.empty(F16, {2});
            EQ(bench.once(reduce, {bench.upload({float(i), 5}, F16, {2})}, {y}), 0);
            CHECK(bench.read(y) == (Floats{1, 10}));
        });
    }
    for (std::thread &thread : threads) thread.join();
    EQ(aquilaSimLeaks(), 4);
}

}  // namespace
