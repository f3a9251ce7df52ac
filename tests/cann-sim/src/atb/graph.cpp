// Operations made of operations.
#include <algorithm>
#include <cctype>

#include "operation.h"

namespace sim {
namespace {

constexpr uint32_t MOST_TENSORS = 256;
constexpr size_t MOST_NODES = 1024, MOST_NAME = 128;

using Reshape = std::function<void(const Dims &, Dims &)>;
using InferFunction = std::function<Status(const atb::SVector<atb::TensorDesc> &, atb::SVector<atb::TensorDesc> &)>;

struct Node {
    BaseOperation *operation;
    std::vector<uint32_t> in, out;
    std::vector<Reshape> reshapes;  // none, or one an input
};

class GraphOperation final : public BaseOperation {
  public:
    ~GraphOperation() override {
        for (const Node &node : nodes_) {
            forgetOperation(node.operation);
            delete node.operation;
        }
    }

    std::string GetName() const override { return name_; }
    uint32_t GetInputNum() const override { return inputs_; }
    uint32_t GetOutputNum() const override { return outputs_; }
    Status read(Bytes param);
    void adopt() {
        for (const Node &node : nodes_) node.operation->owned = true;
    }
    void disown() { nodes_.clear(); }
    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override;
    Status plan(const std::vector<Ref> &in, std::vector<Ref> &out, Plan &plan) const override;

  private:
    Status readNode(Bytes bytes, size_t number, std::vector<bool> *produced);
    Status reshaped(const Node &node, size_t i, Desc *desc) const;

    std::string name_;
    uint32_t inputs_ = 0, outputs_ = 0, internals_ = 0;
    std::vector<Node> nodes_;
    InferFunction inferFunction_;
};

template <class Function>
Function copyFunction(const void *place) {
    return *static_cast<const Function *>(place);
}

Status bad(size_t node, const char *what) {
    return refuse(atb::ERROR_INVALID_GRAPH, "graph: node %zu: %s", node, what);
}

Status GraphOperation::readNode(Bytes bytes, size_t number, std::vector<bool> *produced) {
    Node node{findOperation(bytes.at<atb::Operation *>(NodeAt::OPERATION)), {}, {}, {}};
    if (!node.operation) return bad(number, "no operation that is alive");
    if (node.operation->owned) return bad(number, "its operation belongs to a graph already");
    for (const Node &other : nodes_) {
        if (other.operation == node.operation) return bad(number, "its operation stands in two nodes");
    }
    const List<uint32_t> in(bytes.place(NodeAt::IN_IDS)), out(bytes.place(NodeAt::OUT_IDS));
    if (in.size() > MAX_LIST || out.size() > MAX_LIST) return bad(number, "more than 64 tensors");
    node.in = in.items();
    node.out = out.items();
    if (node.in.size() != node.operation->GetInputNum())
        return bad(number, "another number of inputs than its operation");
    if (node.out.size() != node.operation->GetOutputNum())
        return bad(number, "another number of outputs than its operation");
    for (const uint32_t id : node.in) {
        if (id >= produced->size()) return bad(number, "an input that is no tensor of the graph");
        if (!(*produced)[id]) return bad(number, "an input that no earlier node produces");
    }
    for (const uint32_t id : node.out) {
        if (id >= produced->size()) return bad(number, "an output that is no tensor of the graph");
        const bool inPlace = std::count(node.in.begin(), node.in.end(), id) > 0;
        if (id < inputs_ && !inPlace) return bad(number, "a graph input as output that is not its input");
        if (id >= inputs_ && (*produced)[id] && !inPlace) return bad(number, "an output that is produced already");
        (*produced)[id] = true;
    }
    const List<Reshape> reshapes(bytes.place(NodeAt::RESHAPES));
    if (reshapes.size() != 0 && reshapes.size() != node.in.size())
        return bad(number, "another number of reshape functions than inputs");
    for (size_t i = 0; i < reshapes.size(); i++)
        node.reshapes.push_back(copyFunction<Reshape>(reshapes.data() + i));
    if (bytes.at<uint64_t>(NodeAt::CHUNKS + 8) != 0)
        return refuse(atb::ERROR_INVALID_GRAPH_NODE_CHUNK, "graph: chunks are not simulated");
    nodes_.push_back(std::move(node));
    return atb::NO_ERROR;
}

Status GraphOperation::read(Bytes param) {
    name_ = param.text(GraphAt::NAME);
    inputs_ = param.at<uint32_t>(GraphAt::INPUTS);
    outputs_ = param.at<uint32_t>(GraphAt::OUTPUTS);
    internals_ = param.at<uint32_t>(GraphAt::INTERNALS);
    const auto *begin = param.at<const uint8_t *>(GraphAt::NODES),
               *end = param.at<const uint8_t *>(GraphAt::NODES + 8);
    const size_t count = size_t(end - begin) / NodeAt::SIZE;
    inferFunction_ = copyFunction<InferFunction>(param.place(GraphAt::INFER));
    const bool plain = std::all_of(name_.begin(), name_.end(),
                                   [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; });
    if (!plain || name_.size() > MOST_NAME)
        return refuse(atb::ERROR_INVALID_PARAM, "graph: its name is letters, digits and _, at most 128");
    if (inputs_ > MOST_TENSORS || outputs_ > MOST_TENSORS || internals_ > MOST_TENSORS)
        return refuse(atb::ERROR_INVALID_GRAPH, "graph: more than 256 tensors of a kind");
    if (inputs_ > MAX_LIST || outputs_ > MAX_LIST)
        return refuse(atb::ERROR_INVALID_GRAPH, "graph: more inputs or outputs than an SVector holds safely (64)");
    if (count == 0 || count > MOST_NODES || size_t(end - begin) % NodeAt::SIZE)
        return refuse(atb::ERROR_INVALID_GRAPH, "graph: %zu nodes", count);
    std::vector<bool> produced(inputs_ + outputs_ + internals_, false);
    std::fill(produced.begin(), produced.begin() + inputs_, true);
    for (size_t i = 0; i < count; i++) {
        if (Status code = readNode(Bytes(begin + i * NodeAt::SIZE), i, &produced)) return code;
    }
    for (size_t id = 0; id < produced.size(); id++) {
        if (!produced[id]) return refuse(atb::ERROR_INVALID_GRAPH, "graph: no node produces tensor %zu", id);
    }
    return atb::NO_ERROR;
}

Status GraphOperation::reshaped(const Node &node, size_t i, Desc *desc) const {
    if (node.reshapes.empty() || !node.reshapes[i]) return atb::NO_ERROR;
    Dims view = desc->shape;
    node.reshapes[i](desc->shape, view);
    if (view.count > MAX_DIM || numel(view) != numel(desc->shape)) {
        return refuse(atb::ERROR_GRAPH_NODE_RESHAPE_FUNC_FAIL,
                      "graph %s: a reshape function changes the number of elements", name_.c_str());
    }
    desc->shape = view;
    return atb::NO_ERROR;
}

// The client's own function where there is one; else what the nodes say.
Status GraphOperation::infer(const std::vector<Desc> &in, std::vector<Desc> &out) const {
    if (inferFunction_) {
        std::vector<uint64_t> given(List<Desc>::bytes() / 8), made(List<Desc>::bytes() / 8);
        given[0] = made[0] = MAX_LIST;
        List<Desc>(given.data()).set(in);
        List<Desc>(made.data()).set(std::vector<Desc>(outputs_, Desc{-1, -1, {}}));
        const Status code = inferFunction_(*reinterpret_cast<const atb::SVector<atb::TensorDesc> *>(given.data()),
                                           *reinterpret_cast<atb::SVector<atb::TensorDesc> *>(made.data()));
        out = List<Desc>(made.data()).items();
        if (code || out.size() != outputs_)
            return refuse(atb::ERROR_GRAPH_INFERSHAPE_FUNC_FAIL, "graph %s: inferShapeFunc gave %d", name_.c_str(),
                          code);
        return atb::NO_ERROR;
    }
    std::vector<Desc> all(inputs_ + outputs_ + internals_);
    std::copy(in.begin(), in.end(), all.begin());
    for (const Node &node : nodes_) {
        std::vector<Desc> nodeIn, nodeOut;
        for (size_t i = 0; i < node.in.size(); i++) {
            nodeIn.push_back(all[node.in[i]]);
            if (Status code = reshaped(node, i, &nodeIn.back())) return code;
        }
        if (Status code = node.operation->infer(nodeIn, nodeOut)) return code;
        for (size_t i = 0; i < node.out.size(); i++) all[node.out[i]] = nodeOut[i];
    }
    out.assign(all.begin() + inputs_, all.begin() + inputs_ + outputs_);
    return atb::NO_ERROR;
}

Status GraphOperation::plan(const std::vector<Ref> &in, std::vector<Ref> &out, Plan &plan) const {
    if (inferFunction_) {
        std::vector<Desc> given, said;
        for (const Ref &ref : in) given.push_back(ref.tensor.desc);
        if (Status code = infer(given, said)) return code;
        for (size_t i = 0; i < out.size(); i++) {
            const Desc &desc = out[i].tensor.desc;
            if (desc.dtype < 0) continue;
            if (desc.dtype != said[i].dtype)
                return refuse(atb::ERROR_INVALID_TENSOR_DTYPE, "graph %s: output %zu", name_.c_str(), i);
            if (!sameShape(desc.shape, said[i].shape))
                return refuse(atb::ERROR_INVALID_TENSOR_DIM,
                              "graph %s: output %zu has another shape than inferShapeFunc says", name_.c_str(), i);
        }
    }
    const Ref unknown{{{-1, -1, {}}, nullptr, nullptr, 0}, Origin::Internal, 0, 0, nullptr};
    std::vector<Ref> all(inputs_ + outputs_ + internals_, unknown);
    std::copy(in.begin(), in.end(), all.begin());
    std::copy(out.begin(), out.end(), all.begin() + inputs_);
    for (size_t n = 0; n < nodes_.size(); n++) {
        const Node &node = nodes_[n];
        std::vector<Ref> nodeIn, nodeOut;
        for (size_t i = 0; i < node.in.size(); i++) {
            nodeIn.push_back(all[node.in[i]]);
            if (Status code = reshaped(node, i, &nodeIn.back().tensor.desc)) return code;
        }
        for (const uint32_t id : node.out) nodeOut.push_back(all[id]);
        if (Status code = node.operation->plan(nodeIn, nodeOut, plan)) {
            aquilaSimNote(("REFUSED by node " + std::to_string(n) + " of graph " + name_).c_str());
            return code;
        }
        for (size_t i = 0; i < node.out.size(); i++) all[node.out[i]] = nodeOut[i];
    }
    std::copy(all.begin() + inputs_, all.begin() + inputs_ + outputs_, out.begin());
    return atb::NO_ERROR;
}

}  // namespace

Status makeGraph(Bytes param, std::unique_ptr<BaseOperation> *made) {
    auto graph = std::make_unique<GraphOperation>();
    const Status code = graph->read(param);
    if (code) graph->disown();  // the caller keeps the nodes' operations
    else graph->adopt();
    *made = std::move(graph);
    return code;
}

}  // namespace sim
