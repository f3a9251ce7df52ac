// The rules of ATB: each broken once, and what it gives.
#include <thread>

#include "bench.h"

namespace {

using atb::Tensor;

atb::infer::LinearParam plain() {
    atb::infer::LinearParam param;
    param.hasBias = false;
    return param;
}

atb::infer::ElewiseParam elewise(int type) {
    atb::infer::ElewiseParam param;
    param.elewiseType = type;
    return param;
}

template <class P>
int created(const P &param) {
    atb::Operation *operation = nullptr;
    const int code = atb::CreateOperation(param, &operation);
    if (code == 0) EQ(atb::DestroyOperation(operation), 0);
    return code;
}

TEST(reserved_bytes_are_zero) {
    Bench bench;
    const auto dirty = [](auto param) {
        param.rsv[sizeof param.rsv - 1] = 1;
        return created(param);
    };
    atb::infer::RmsNormParam norm;
    norm.layerType = 1;
    EQ(created(norm), 0);
    EQ(dirty(norm), 1);
    norm.normParam.rsv[3] = 1;
    EQ(created(norm), 1);
    EQ(created(plain()), 0);
    EQ(dirty(plain()), 1);
    EQ(created(atb::infer::RopeParam()), 0);
    EQ(dirty(atb::infer::RopeParam()), 1);
    EQ(created(atb::infer::ReshapeAndCacheParam()), 0);
    EQ(dirty(atb::infer::ReshapeAndCacheParam()), 1);
    atb::infer::SelfAttentionParam self;
    self.headNum = 2;
    self.calcType = 3;
    EQ(created(self), 0);
    EQ(dirty(self), 1);
    atb::infer::PagedAttentionParam paged;
    paged.headNum = 2;
    EQ(created(paged), 0);
    EQ(dirty(paged), 1);
    EQ(created(elewise(8)), 0);
    EQ(dirty(elewise(8)), 1);
    auto quant = elewise(8);
    quant.quantParam.rsv[19] = 1;
    EQ(created(quant), 1);
    atb::infer::ActivationParam activation;
    activation.activationType = 4;
    EQ(created(activation), 0);
    EQ(dirty(activation), 1);
    EQ(dirty(atb::infer::GatherParam()), 1);
    EQ(dirty(atb::infer::SplitParam()), 1);
    EQ(dirty(atb::infer::ConcatParam()), 1);
    atb::infer::TransposeParam transpose;
    transpose.perm = {1, 0};
    EQ(created(transpose), 0);
    EQ(dirty(transpose), 1);
    atb::infer::TransdataParam transdata;
    transdata.transdataType = 2;
    EQ(created(transdata), 0);
    EQ(dirty(transdata), 1);
    atb::infer::SortParam sort;
    sort.num = {4};
    EQ(created(sort), 0);
    EQ(dirty(sort), 1);
}

TEST(later_fields_are_reserved_in_older_versions) {
    setenv("AQUILA_SIM_ATB_VERSION", "8.0.0", 1);
    Bench bench;
    auto param = plain();
    param.outDataType = F16;
    EQ(created(param), 0);
    param.quantMode = 2;
    EQ(created(param), 1);
    CHECK(atb::Utils::GetAtbVersion().find("8.0.0") == 0);
    CHECK(atb::Utils::GetAtbVersion().find("simulator") != std::string::npos);
}

TEST(parameters) {
    Bench bench;
    EQ(created(atb::infer::RmsNormParam()), 1);  // no layerType
    atb::infer::SelfAttentionParam self;
    self.calcType = 3;
    EQ(created(self), 1);  // no heads
    self.headNum = 6;
    self.kvHeadNum = 4;
    EQ(created(self), 1);  // 6 is no multiple of 4
    self.kvHeadNum = 3;
    EQ(created(self), 0);
    self.isTriuMask = 1;
    EQ(created(self), 1);  // without a mask
    self.maskType = 3;
    EQ(created(self), 0);
    self.calcType = 2;
    EQ(created(self), 1);
    atb::infer::SplitParam split;
    split.splitNum = 4;
    EQ(created(split), 1);
    split.splitNum = 2;
    split.splitDim = -1;
    split.splitSizes = {1, 2};
    EQ(created(split), 1);
    auto quant = plain();
    quant.quantMode = 1;
    EQ(created(quant), 1);  // without outDataType
    EQ(created(elewise(0)), 1);
    atb::Operation **nowhere = nullptr;
    EQ(atb::CreateOperation(plain(), nowhere), 1);
}

// One Elewise MULS whose single tensors are changed: what Setup gives.
struct Muls {
    Bench bench;
    atb::Operation *operation = nullptr;
    Tensor x, y;

    Muls() {
        EQ(atb::CreateOperation(elewise(2), &operation), 0);
        x = bench.upload({1, 2, 3, 4}, F16, {2, 2});
        y = bench.empty(F16, {2, 2});
    }
    ~Muls() { atb::DestroyOperation(operation); }
    int setup(const Tensor &in, const Tensor &out) {
        uint64_t size = 0;
        return operation->Setup(bench.pack({in}, {out}), size, bench.context);
    }
    template <class Change>
    int changed(Change change) {
        Tensor other = x;
        change(other);
        return setup(other, y);
    }
};

TEST(tensors) {
    Muls muls;
    EQ(muls.setup(muls.x, muls.y), 0);
    EQ(muls.changed([](Tensor &t) { t.dataSize++; }), 9);
    EQ(muls.changed([](Tensor &t) { t.dataSize = 4; }), 9);
    EQ(muls.changed([](Tensor &t) { t.deviceData = nullptr; }), 14);
    EQ(muls.changed([](Tensor &t) { t.deviceData = static_cast<char *>(t.deviceData) + 2; }), 14);
    EQ(muls.changed([](Tensor &t) { t.desc.shape.dimNum = 0; }), 16);
    EQ(muls.changed([](Tensor &t) { t.desc.shape.dimNum = 9; }), 16);
    EQ(muls.changed([](Tensor &t) {
        t.desc.shape.dims[1] = 0;
        t.dataSize = 0;
    }),
       8);
    EQ(muls.changed([](Tensor &t) {
        t.desc.dtype = INT32;
        t.dataSize *= 2;
    }),
       13);  // in no column
    EQ(muls.changed([](Tensor &t) { t.desc.dtype = -1; }), 6);
    EQ(muls.changed([](Tensor &t) { t.desc.format = NZ; }), 13);
    EQ(muls.changed([](Tensor &t) { t.desc.format = 0; }), 13);
    Tensor wide = muls.bench.empty(F32, {2, 2}), flat = muls.bench.empty(F16, {4});
    EQ(muls.setup(muls.x, wide), 13);  // f16 in and f32 out stand in different columns
    EQ(muls.setup(muls.x, flat), 8);
    uint64_t size = 0;
    EQ(muls.operation->Setup(muls.bench.pack({muls.x, muls.x}, {muls.y}), size, muls.bench.context), 5);
    EQ(muls.operation->Setup(muls.bench.pack({muls.x}, {}), size, muls.bench.context), 15);
    CHECK(aclGetRecentErrMsg() != nullptr);
}

TEST(the_table_of_types_is_needed) {
    setenv("ATB_HOME_PATH", "/nonexistent", 1);
    Muls muls;
    EQ(muls.setup(muls.x, muls.y), 13);
    CHECK(std::strstr(aclGetRecentErrMsg(), "/nonexistent/configs/ops_configs/atb_ops_info.ini"));
}

TEST(setup_and_execute) {
    Muls muls;
    Bench &bench = muls.bench;
    const atb::VariantPack pack = bench.pack({muls.x}, {muls.y});
    void *place = bench.bytes(1 << 20);
    auto *workspace = static_cast<uint8_t *>(place);
    uint64_t size = 0;
    const auto setup = [&] { return muls.operation->Setup(pack, size, bench.context); };
    EQ(muls.operation->Execute(pack, workspace, 1 << 20, bench.context), 3);  // no Setup
    EQ(setup(), 0);
    CHECK(size > 0);
    EQ(aclrtMemset(workspace, size, 0, size), 0);
    EQ(muls.operation->Execute(pack, workspace, size, bench.context), 0);
    EQ(aclrtSynchronizeStream(bench.stream), 0);
    std::vector<uint8_t> left(size);
    EQ(aclrtMemcpy(left.data(), size, workspace, size, DEVICE_TO_HOST), 0);
    CHECK(left[0] == 0xff && left[size - 1] == 0xff);  // it is the operation's: what lay there is gone
    EQ(muls.operation->Execute(pack, workspace, size, bench.context), 3);  // one Setup, one Execute
    EQ(setup(), 0);
    EQ(muls.operation->Execute(pack, workspace, size - 1, bench.context), 22);
    EQ(setup(), 0);
    EQ(muls.operation->Execute(pack, nullptr, size, bench.context), 23);
    EQ(setup(), 0);
    EQ(muls.operation->Execute(pack, workspace + (1 << 20) - 32, size, bench.context), 23);  // past its end
    uint64_t host[512];
    EQ(setup(), 0);
    EQ(muls.operation->Execute(pack, reinterpret_cast<uint8_t *>(host), size, bench.context), 23);
    EQ(setup(), 0);
    const Tensor other = bench.upload({1, 2, 3}, F16, {1, 3}), out = bench.empty(F16, {1, 3});
    EQ(muls.operation->Execute(bench.pack({other}, {out}), workspace, size, bench.context), 3);  // other shapes
    atb::Context *second = nullptr;
    EQ(atb::CreateContext(&second), 0);
    EQ(muls.operation->Setup(pack, size, second), 21);  // no stream
    EQ(second->SetExecuteStream(nullptr), 21);
    EQ(second->SetExecuteStream(bench.stream), 0);
    EQ(setup(), 0);
    EQ(muls.operation->Execute(pack, workspace, size, second), 3);  // another context
    EQ(muls.operation->Setup(pack, size, nullptr), 20);
    EQ(atb::DestroyContext(second), 0);
    EQ(atb::DestroyContext(second), 20);
    EQ(aclrtSynchronizeStream(bench.stream), 0);
    int code = 0;
    std::thread([&] { code = setup(); }).join();
    EQ(code, 4);  // a thread without a device
}

TEST(host_lengths) {
    Bench bench;
    std::vector<int32_t> lengths = {3, 2}, wrong = {3, 1};
    atb::infer::SelfAttentionParam param;
    param.headNum = 1;
    param.calcType = 3;
    const Tensor q = bench.upload(randoms(80), F16, {5, 1, 16}), out = bench.empty(F16, {5, 1, 16});
    Tensor seqLen = bench.upload({3, 2}, INT32, {2});
    EQ(bench.once(param, {q, q, q, seqLen}, {out}), 14);  // the device's copy is not enough
    seqLen.hostData = wrong.data();
    EQ(bench.once(param, {q, q, q, seqLen}, {out}), 1);
    seqLen.hostData = lengths.data();
    EQ(bench.once(param, {q, q, q, seqLen}, {out}), 0);
    // Read in Setup: what is written there later does not count.
    atb::Operation *operation = nullptr;
    EQ(atb::CreateOperation(param, &operation), 0);
    uint64_t size = 0;
    const atb::VariantPack pack = bench.pack({q, q, q, seqLen}, {out});
    const Floats before = bench.read(out);
    EQ(operation->Setup(pack, size, bench.context), 0);
    lengths = {1, 4};
    EQ(operation->Execute(pack, static_cast<uint8_t *>(bench.bytes(size)), size, bench.context), 0);
    EQ(aclrtSynchronizeStream(bench.stream), 0);
    CHECK(bench.read(out) == before);
    EQ(atb::DestroyOperation(operation), 0);
    param.maskType = 1;
    lengths = {3, 2};
    EQ(bench.once(param, {q, q, q, bench.upload(Floats(4, 0), F16, {2, 2}), seqLen}, {out}),
       8);  // 3 tokens, a mask for 2
    atb::infer::PagedAttentionParam paged;
    paged.headNum = 1;
    const Tensor cache = bench.upload(Floats(256, 0), F16, {1, 16, 1, 16}),
                 one = bench.upload(randoms(16), F16, {1, 1, 16}), result = bench.empty(F16, {1, 1, 16});
    std::vector<int32_t> context = {17};
    Tensor contextLens = bench.upload({4}, INT32, {1});
    EQ(bench.once(paged, {one, cache, cache, bench.upload({0}, INT32, {1, 1}), contextLens}, {result}), 14);
    contextLens.hostData = context.data();
    EQ(bench.once(paged, {one, cache, cache, bench.upload({0}, INT32, {1, 1}), contextLens}, {result}),
       1);  // 17 in a block of 16
    context = {4};
    EQ(bench.once(paged, {one, cache, cache, bench.upload({0}, INT32, {1, 1}), contextLens}, {result}), 0);
    EQ(bench.once(paged, {one, cache, cache, bench.upload({1}, INT32, {1, 1}), contextLens}, {result}),
       507015);  // block 1 of 1
}

TEST(caches_are_in_place) {
    Bench bench;
    const Tensor fresh = bench.upload(randoms(32), F16, {1, 2, 16}), k = bench.empty(F16, {2, 16, 2, 16}),
                 v = bench.empty(F16, {2, 16, 2, 16}), other = bench.empty(F16, {2, 16, 2, 16});
    const Tensor slots = bench.upload({5}, INT32, {1});
    EQ(bench.once(atb::infer::ReshapeAndCacheParam(), {fresh, fresh, k, v, slots}, {k, other}), 14);
    EQ(bench.once(atb::infer::ReshapeAndCacheParam(), {fresh, fresh, k, v, slots}, {k, v}), 0);
    // In Execute as well, which may have other addresses than Setup.
    atb::Operation *operation = nullptr;
    EQ(atb::CreateOperation(atb::infer::ReshapeAndCacheParam(), &operation), 0);
    auto *workspace = static_cast<uint8_t *>(bench.bytes(4096));
    for (const bool inPlace : {true, false}) {
        uint64_t size = 0;
        EQ(operation->Setup(bench.pack({fresh, fresh, k, v, slots}, {k, v}), size, bench.context), 0);
        const atb::VariantPack moved = bench.pack({fresh, fresh, other, v, slots}, {inPlace ? other : k, v});
        EQ(operation->Execute(moved, workspace, size, bench.context), inPlace ? 0 : 14);
    }
    EQ(atb::DestroyOperation(operation), 0);
    const Tensor flat = bench.upload(randoms(32), F16, {1, 32});
    EQ(bench.once(atb::infer::ReshapeAndCacheParam(), {flat, flat, k, v, slots}, {k, v}), 16);
    EQ(bench.once(atb::infer::ReshapeAndCacheParam(), {fresh, fresh, k, v, bench.upload({32}, INT32, {1})}, {k, v}),
       507015);
    CHECK(std::strstr(aquilaSimLastFailure(), "slot 32 of 32"));
}

TEST(operands_are_bounded_by_their_allocation) {
    Muls muls;
    // A desc that says more than was allocated: found when the kernel runs.
    Tensor more = muls.bench.empty(F16, {2, 2}), out = muls.bench.empty(F16, {4, 4});
    more.desc = out.desc;
    more.dataSize = out.dataSize;
    EQ(muls.bench.run(muls.operation, {more}, {out}), 507053);
}

TEST(freed_while_pending) {
    Muls muls;
    void *gone = nullptr;
    EQ(aclrtMalloc(&gone, 8, 0), 0);
    Tensor x = muls.x;
    x.deviceData = gone;
    Gate gate;
    EQ(aclrtLaunchCallback(Gate::wait, &gate, 0, muls.bench.stream), 0);
    EQ(muls.bench.launch(muls.operation, muls.bench.pack({x}, {muls.y})), 0);
    EQ(aclrtFree(gone), 0);
    gate.open();
    EQ(aclrtSynchronizeStream(muls.bench.stream), 507053);
}

// More than 32 Executes that the host has not seen done: ATB would write a tiling that a kernel still reads.
TEST(the_tiling_ring) {
    Muls muls;
    const atb::VariantPack pack = muls.bench.pack({muls.x}, {muls.y});
    const auto execute = [&](int count) {
        for (int i = 0; i < count; i++) EQ(muls.bench.launch(muls.operation, pack), 0);
    };
    execute(32);
    EQ(aclrtSynchronizeStream(muls.bench.stream), 0);
    execute(32);
    void *event = nullptr;
    EQ(aclrtCreateEvent(&event), 0);
    EQ(aclrtRecordEvent(event, muls.bench.stream), 0);
    EQ(aclrtSynchronizeEvent(event), 0);  // an event tells the host as well
    execute(32);
    EQ(aclrtDestroyStream(muls.bench.stream), 0);  // a new stream may lie where the old one was
    EQ(aclrtCreateStream(&muls.bench.stream), 0);
    EQ(muls.bench.context->SetExecuteStream(muls.bench.stream), 0);
    execute(1);
    EQ(aclrtSynchronizeStream(muls.bench.stream), 0);
    execute(33);
    EQ(aclrtSynchronizeStream(muls.bench.stream), 507015);
    CHECK(std::strstr(aquilaSimLastFailure(), "tiling ring overrun"));
}

TEST(the_tiling_ring_is_device_memory) {
    aclInit(nullptr);
    EQ(aclrtSetDevice(0), 0);
    const uint64_t before = aquilaSimUsed(0);
    atb::Context *context = nullptr;
    EQ(atb::CreateContext(&context), 0);
    CHECK(aquilaSimUsed(0) - before >= 96u << 20);
    EQ(aclrtResetDevice(0), 0);
    EQ(aquilaSimLeaks(), 1);
}

TEST(no_memory_for_a_context) {
    setenv("AQUILA_SIM_MEMORY", "50000000", 1);
    aclInit(nullptr);
    EQ(aclrtSetDevice(0), 0);
    atb::Context *context = nullptr;
    EQ(atb::CreateContext(&context), 26);
}

TEST(injected_failures) {
    Muls muls;
    EQ(aquilaSimFaults("Setup@1=3, CreateOperation@1=27"), 0);
    EQ(muls.setup(muls.x, muls.y), 3);
    EQ(created(plain()), 27);
    EQ(aquilaSimFaults("Execute@1=12"), 0);
    EQ(muls.bench.run(muls.operation, {muls.x}, {muls.y}), 12);
    EQ(aquilaSimFaults("Execute@1=nan, kernel:Elewise@2=nan"), 0);
    for (int i = 0; i < 3; i++) {
        EQ(muls.bench.run(muls.operation, {muls.x}, {muls.y}), 0);
        EQ(std::isnan(muls.bench.read(muls.y)[0]), i < 2);
    }
    EQ(aquilaSimFaults("kernel:Elewise@1=507014"), 0);
    EQ(muls.bench.run(muls.operation, {muls.x}, {muls.y}), 507014);
}

TEST(an_execute_that_hangs) {
    Muls muls;
    EQ(aquilaSimFaults("Execute@1=hang"), 0);
    EQ(muls.bench.launch(muls.operation, muls.bench.pack({muls.x}, {muls.y})), 0);
    EQ(aclrtSynchronizeStreamWithTimeout(muls.bench.stream, 50), 507046);
    EQ(aclrtDestroyStreamForce(muls.bench.stream), 0);
    EQ(muls.setup(muls.x, muls.y), 21);
    EQ(aclrtCreateStream(&muls.bench.stream), 0);
    EQ(muls.bench.context->SetExecuteStream(muls.bench.stream), 0);
    EQ(muls.bench.run(muls.operation, {muls.x}, {muls.y}), 0);
}

TEST(a_310p_is_another_card) {
    setenv("AQUILA_SIM_SOC", "Ascend310P3", 1);
    Bench bench;
    const Tensor bf = bench.upload({1, 2}, BF16, {1, 2}), out = bench.empty(BF16, {1, 2});
    EQ(bench.once(elewise(2), {bf}, {out}), 6);
    const Tensor f32 = bench.upload(Floats(32, 0), F32, {2, 16}), y32 = bench.empty(F32, {2, 2});
    EQ(bench.once(plain(), {f32, f32}, {y32}), 13);
    auto w8a8 = plain();
    w8a8.outDataType = F16;
    EQ(created(w8a8), 1);  // only with a bias
    w8a8.hasBias = true;
    EQ(created(w8a8), 0);
    EQ(created(elewise(19)), 1);
    atb::infer::SelfAttentionParam self;
    self.headNum = 2;
    self.calcType = 3;
    self.clampType = 1;
    EQ(created(self), 1);
    // Caches are NZ, and blocks of 128 numbers by 128 tokens are the most.
    const Tensor fresh = bench.upload(randoms(32), F16, {1, 2, 16}), plainCache = bench.empty(F16, {2, 16, 2, 16}),
                 slots = bench.upload({5}, INT32, {1});
    EQ(bench.once(atb::infer::ReshapeAndCacheParam(), {fresh, fresh, plainCache, plainCache, slots},
                  {plainCache, plainCache}),
       13);
    const Tensor cache = bench.empty(F16, {2, 2, 16, 16}, NZ);
    EQ(bench.once(atb::infer::ReshapeAndCacheParam(), {fresh, fresh, cache, cache, slots}, {cache, cache}), 0);
    atb::infer::PagedAttentionParam paged;
    paged.headNum = 1;
    const Tensor q = bench.empty(F16, {1, 1, 256}), large = bench.empty(F16, {1, 16, 128, 16}, NZ),
                 lengths = bench.upload({1}, INT32, {1});
    EQ(bench.once(paged, {q, large, large, bench.upload({0}, INT32, {1, 1}), lengths},
                  {Tensor(bench.empty(F16, {1, 1, 256}))}),
       8);
    paged.calcType = 1;
    EQ(created(paged), 1);
    atb::infer::ActivationParam gated;
    gated.activationType = 6;
    EQ(bench.once(gated, {bench.upload(Floats(48, 0), F16, {1, 48})}, {Tensor(bench.empty(F16, {1, 24}))}), 8);
}

TEST(without_kernels) {
    setenv("AQUILA_SIM_NOOP", "1", 1);
    Muls muls;
    EQ(muls.bench.run(muls.operation, {muls.x}, {muls.y}), 0);
    EQ(muls.bench.read(muls.y)[0], 0);
    EQ(aquilaSimCount("kernel:Elewise"), 1);
}

}  // namespace
