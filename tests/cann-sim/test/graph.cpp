// Graphs: operations as nodes, internal tensors in the workspace, caches in place.
#include "bench.h"

namespace {

using atb::Dims;
using atb::Tensor;

template <class P>
atb::Operation *make(const P &param) {
    atb::Operation *operation = nullptr;
    EQ(atb::CreateOperation(param, &operation), 0);
    return operation;
}

atb::infer::ElewiseParam elewise(int type, float factor = 0) {
    atb::infer::ElewiseParam param;
    param.elewiseType = type;
    param.mulsParam.varAttr = factor;
    return param;
}

atb::Node node(atb::Operation *operation, atb::SVector<uint32_t> in, atb::SVector<uint32_t> out) {
    atb::Node made;
    made.operation = operation;
    made.inTensorIds = in;
    made.outTensorIds = out;
    return made;
}

// (2 x + y) 3: tensors x 0, y 1, out 2, internal 3 and 4.
atb::GraphParam sum() {
    atb::GraphParam graph;
    graph.name = "Sum_1";
    graph.inTensorNum = 2;
    graph.outTensorNum = 1;
    graph.internalTensorNum = 2;
    graph.nodes = {node(make(elewise(2, 2)), {0}, {3}), node(make(elewise(8)), {3, 1}, {4}),
                   node(make(elewise(2, 3)), {4}, {2})};
    return graph;
}

TEST(a_graph_computes) {
    Bench bench;
    atb::Operation *graph = make(sum());
    CHECK(graph->GetName() == "Sum_1");
    EQ(graph->GetInputNum(), 2);
    EQ(graph->GetOutputNum(), 1);
    for (const int64_t rows : {2, 5, 1}) {  // the same operation with changing shapes
        const Floats x = randoms(size_t(rows * 16), 4), y = randoms(size_t(rows * 16), 4, 2);
        const Tensor out = bench.empty(F32, {rows, 16});
        Doubles expected;
        for (size_t i = 0; i < x.size(); i++) expected.push_back((2 * double(x[i]) + double(y[i])) * 3);
        EQ(bench.run(graph, {bench.upload(x, F32, {rows, 16}), bench.upload(y, F32, {rows, 16})}, {out}), 0);
        NEAR(bench.read(out), expected, 1e-6);
        atb::SVector<atb::TensorDesc> in = {desc(F32, {rows, 16}), desc(F32, {rows, 16})}, inferred;
        EQ(graph->InferShape(in, inferred), 0);
        EQ(inferred.size(), 1);
        EQ(inferred[0].shape.dims[0], rows);
    }
    EQ(bench.run(graph, {bench.empty(F32, {2, 16}), bench.empty(F32, {3, 16})}, {bench.empty(F32, {2, 16})}), 8);
    EQ(aquilaSimViolations(), 0);
    EQ(atb::DestroyOperation(graph), 0);
}

TEST(reshape_functions_and_caches_in_place) {
    Bench bench;
    // x [T, 32] doubled, then as [T, 2, 16] into both caches: inputs x 0, keys 1, values 2, slots 3; out 4.
    atb::GraphParam graph;
    graph.inTensorNum = 4;
    graph.outTensorNum = 1;
    atb::Node cache = node(make(atb::infer::ReshapeAndCacheParam()), {4, 4, 1, 2, 3}, {1, 2});
    int calls = 0;
    const auto heads = [&calls](const Dims &from, Dims &to) {
        calls++;
        to.dimNum = 3;
        to.dims[0] = from.dims[0];
        to.dims[1] = 2;
        to.dims[2] = 16;
    };
    cache.inTensorReshapeFuncs = {heads, heads, {}, {}, {}};
    graph.nodes = {node(make(elewise(2, 2)), {0}, {4}), cache};
    graph.inferShapeFunc = [](const atb::SVector<atb::TensorDesc> &in, atb::SVector<atb::TensorDesc> &out) {
        out[0] = in[0];
        return 0;
    };
    atb::Operation *operation = make(graph);
    const Tensor keys = bench.upload(Floats(1024, 0), F16, {2, 16, 2, 16}),
                 values = bench.upload(Floats(1024, 0), F16, {2, 16, 2, 16});
    const Floats x = randoms(64);
    const Tensor out = bench.empty(F16, {2, 32});
    EQ(bench.run(operation, {bench.upload(x, F16, {2, 32}), keys, values, bench.upload({17, 3}, INT32, {2})},
                 {out}),
       0);
    CHECK(calls >= 2);
    NEAR(Floats(1, bench.read(keys)[17 * 32 + 5]), (Doubles{double(stored(x[5], F16)) * 2}), 1e-3);
    NEAR(Floats(1, bench.read(values)[3 * 32 + 5]), (Doubles{double(stored(x[37], F16)) * 2}), 1e-3);
    EQ(atb::DestroyOperation(operation), 0);
}

TEST(functions_that_fail) {
    Bench bench;
    atb::GraphParam graph = sum();
    graph.inferShapeFunc = [](const atb::SVector<atb::TensorDesc> &, atb::SVector<atb::TensorDesc> &) { return 8; };
    atb::Operation *operation = make(graph);
    const Tensor x = bench.empty(F32, {2, 16});
    EQ(bench.run(operation, {x, x}, {x}), 11);
    EQ(atb::DestroyOperation(operation), 0);
    graph = sum();
    graph.nodes[0].inTensorReshapeFuncs = {[](const Dims &from, Dims &to) {
        to = from;
        to.dims[0]++;
    }};
    operation = make(graph);
    EQ(bench.run(operation, {x, x}, {x}), 18);
    EQ(atb::DestroyOperation(operation), 0);
}

// Each graph that is wrong is refused, and its operations stay the caller's.
template <class Change>
int refused(Change change) {
    atb::GraphParam graph = sum();
    std::vector<atb::Operation *> own;
    for (const atb::Node &one : graph.nodes) own.push_back(one.operation);
    change(graph);
    atb::Operation *made = nullptr;
    const int code = atb::CreateOperation(graph, &made);
    for (atb::Operation *operation : own) EQ(atb::DestroyOperation(operation), 0);
    return code;
}

TEST(wrong_graphs) {
    Bench bench;
    EQ(refused([](auto &g) { g.name = "a-b"; }), 1);
    EQ(refused([](auto &g) { g.name = std::string(129, 'a'); }), 1);
    EQ(refused([](auto &g) { g.nodes.clear(); }), 2);
    EQ(refused([](auto &g) { g.nodes[1].operation = nullptr; }), 2);
    EQ(refused([](auto &g) {
           g.nodes[1].operation = g.nodes[0].operation;
           g.nodes[1].inTensorIds = {3};
       }),
       2);
    EQ(refused([](auto &g) { g.nodes[1].inTensorIds = {3}; }), 2);     // ADD has two inputs
    EQ(refused([](auto &g) { g.nodes[1].inTensorIds = {3, 9}; }), 2);  // no such tensor
    EQ(refused([](auto &g) { g.nodes[0].inTensorIds = {4}; }), 2);     // not produced yet
    EQ(refused([](auto &g) { g.nodes[2].outTensorIds = {4}; }), 2);    // and tensor 2 never
    EQ(refused([](auto &g) { g.internalTensorNum = 3; }), 2);          // tensor 5 never
    EQ(refused([](auto &g) { g.nodes[2].outTensorIds = {3}; }), 2);    // produced twice
    EQ(refused([](auto &g) { g.nodes[2].outTensorIds = {1}; }), 2);    // an input that it does not read
    EQ(refused([](auto &g) { g.nodes[1].inTensorReshapeFuncs = {[](const Dims &, Dims &) {}}; }), 2);
    EQ(refused([](auto &g) { g.inTensorNum = 257; }), 2);
}

TEST(nodes_belong_to_their_graph) {
    Bench bench;
    atb::GraphParam param = sum();
    atb::Operation *graph = make(param);
    EQ(atb::DestroyOperation(param.nodes[0].operation), 24);
    EQ(aquilaSimViolations(), 1);
    atb::Operation *second = nullptr;
    EQ(atb::CreateOperation(param, &second), 2);  // they are taken
    EQ(atb::DestroyOperation(graph), 0);
    EQ(atb::DestroyOperation(graph), 24);
    EQ(atb::DestroyOperation(param.nodes[0].operation), 24);  // gone with it
}

TEST(graphs_in_graphs) {
    Bench bench;
    atb::GraphParam outer;
    outer.inTensorNum = 2;
    outer.outTensorNum = 1;
    outer.internalTensorNum = 1;
    outer.nodes = {node(make(sum()), {0, 1}, {3}), node(make(sum()), {3, 1}, {2})};
    atb::Operation *operation = make(outer);
    const Tensor out = bench.empty(F32, {2});
    EQ(bench.run(operation, {bench.upload({1, 2}, F32, {2}), bench.upload({10, 20}, F32, {2})}, {out}), 0);
    NEAR(bench.read(out), (Doubles{(2 * 36 + 10) * 3, (2 * 72 + 20) * 3}), 1e-6);
    EQ(aquilaSimTotal("Execute"), 1);
    EQ(aquilaSimTotal("kernel:Elewise"), 6);
    EQ(atb::DestroyOperation(operation), 0);
}

}  // namespace
