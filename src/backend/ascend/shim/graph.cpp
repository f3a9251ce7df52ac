// Graphs: a plain description becomes a GraphParam, with functions that say how inputs are viewed and what outputs are.
// ATB keeps these functions as long as the operation lives, so they own copies of their descriptions.

#include "library.hpp"

#include <memory>

using namespace AQATB_NAMESPACE;

namespace {

constexpr Status INFER_FAILED = 11; // GRAPH_INFERSHAPE_FUNC_FAIL

// A dimension from its description; `dims_of` gives the dims of tensor number n, or NULL. 0, which no tensor may have,
// where it does not work out.
template <class DimsOf>
int64_t evaluate(const aqatb_dim &dim, DimsOf dims_of)
{
    if (dim.tensor < 0) return dim.factor;
    const Dims *dims = dims_of(static_cast<size_t>(dim.tensor));
    if (!dims || dim.dim < 0 || static_cast<uint64_t>(dim.dim) >= dims->dimNum || dim.divisor <= 0) return 0;
    int64_t value = dims->dims[dim.dim];
    if (__builtin_mul_overflow(value, dim.factor, &value) || value % dim.divisor != 0) return 0;
    return value / dim.divisor;
}

std::function<void(const Dims &, Dims &)> reshape_function(const aqatb_reshape &reshape)
{
    auto kept = std::make_shared<const aqatb_reshape>(reshape);
    return [kept](const Dims &from, Dims &to) {
        Dims made;
        made.dimNum = kept->dim_count;
        for (uint32_t i = 0; i < kept->dim_count; i++) {
            made.dims[i] = evaluate(kept->dims[i], [&](size_t) { return &from; });
        }
        to = made;
    };
}

std::function<Status(const SVector<TensorDesc> &, SVector<TensorDesc> &)> infer_function(const aqatb_output *outputs,
                                                                                         uint32_t count)
{
    auto kept = std::make_shared<const std::vector<aqatb_output>>(outputs, outputs + count);
    return [kept](const SVector<TensorDesc> &in, SVector<TensorDesc> &out) -> Status {
        out.resize(kept->size());
        for (size_t i = 0; i < kept->size(); i++) {
            const aqatb_output &output = (*kept)[i];
            if (output.like < 0 || static_cast<size_t>(output.like) >= in.size()) return INFER_FAILED;
            TensorDesc desc = in[output.like];
            if (output.dtype >= 0) desc.dtype = output.dtype;
            if (output.format >= 0) desc.format = output.format;
            if (output.dim_count > 0) desc.shape.dimNum = output.dim_count;
            for (uint32_t d = 0; d < output.dim_count; d++) {
                auto dims_of = [&](size_t n) { return n < in.size() ? &in[n].shape : nullptr; };
                desc.shape.dims[d] = evaluate(output.dims[d], dims_of);
                if (desc.shape.dims[d] <= 0) return INFER_FAILED;
            }
            out[i] = desc;
        }
        return 0;
    };
}

// One node, or an error that names it.
int32_t add_node(GraphParam &param, uint32_t number, const aqatb_node &node, uint32_t tensors, aqatb_error *error)
{
    if (!node.operation) return fail(error, AQATB_ERROR_ARGUMENT, 0, "node %u has no operation", number);
    if (node.input_count > AQATB_TENSORS || node.output_count > AQATB_TENSORS) {
        return fail(error, AQATB_ERROR_ARGUMENT, 0, "node %u: %u inputs and %u outputs, at most %d each", number,
                    node.input_count, node.output_count, AQATB_TENSORS);
    }
    param.nodes.emplace_back();
    Node &made = param.nodes.back();
    made.operation = operation_of(node.operation);
    for (uint32_t i = 0; i < node.input_count; i++) {
        if (node.inputs[i] >= tensors) {
            return fail(error, AQATB_ERROR_ARGUMENT, 0, "node %u reads tensor %u of %u", number, node.inputs[i], tensors);
        }
        made.inTensorIds.push(node.inputs[i]);
    }
    for (uint32_t i = 0; i < node.output_count; i++) {
        if (node.outputs[i] >= tensors) {
            return fail(error, AQATB_ERROR_ARGUMENT, 0, "node %u writes tensor %u of %u", number, node.outputs[i],
                        tensors);
        }
        made.outTensorIds.push(node.outputs[i]);
    }
    // As many functions as inputs, empty ones where nothing changes; or none at all.
    if (node.reshape_count > 0) made.inTensorReshapeFuncs.resize(node.input_count);
    for (uint32_t i = 0; i < node.reshape_count; i++) {
        const aqatb_reshape &reshape = node.reshapes[i];
        if (reshape.input >= node.input_count || reshape.dim_count == 0 || reshape.dim_count > AQATB_DIMS) {
            return fail(error, AQATB_ERROR_ARGUMENT, 0, "node %u: input %u of %u seen with %u dimensions", number,
                        reshape.input, node.input_count, reshape.dim_count);
        }
        made.inTensorReshapeFuncs[reshape.input] = reshape_function(reshape);
    }
    return 0;
}

} // namespace

int32_t aqatb_graph_create(const aqatb_library *library, const aqatb_graph *graph, aqatb_operation **operation,
                           aqatb_error *error)
{
    return guarded(error, "aqatb_graph_create", [&]() -> int32_t {
        if (graph->inputs > AQATB_TENSORS || graph->outputs > AQATB_TENSORS) {
            return fail(error, AQATB_ERROR_ARGUMENT, 0, "graph %s: %u inputs and %u outputs, at most %d each",
                        graph->name, graph->inputs, graph->outputs, AQATB_TENSORS);
        }
        GraphParam param;
        param.name = graph->name;
        param.inTensorNum = graph->inputs;
        param.outTensorNum = graph->outputs;
        param.internalTensorNum = graph->internals;
        param.nodes.reserve(graph->node_count);
        uint32_t tensors = graph->inputs + graph->outputs + graph->internals;
        for (uint32_t i = 0; i < graph->node_count; i++) {
            if (int32_t kind = add_node(param, i, graph->nodes[i], tensors, error)) return kind;
        }
        for (uint32_t i = 0; graph->output_descs && i < graph->outputs; i++) {
            if (graph->output_descs[i].dim_count > AQATB_DIMS) {
                return fail(error, AQATB_ERROR_ARGUMENT, 0, "graph %s: output %u has %u dimensions, at most %d",
                            graph->name, i, graph->output_descs[i].dim_count, AQATB_DIMS);
            }
        }
        if (graph->output_descs) param.inferShapeFunc = infer_function(graph->output_descs, graph->outputs);
        return library->create(Symbol::graph, graph->name, param, operation, error);
    });
}
