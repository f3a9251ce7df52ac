// What single operations and graphs have in common: Setup makes a plan of steps, Execute puts it on the stream.
#pragma once
#include <atomic>
#include <memory>

#include "context.h"
#include "kernel.h"

namespace sim {

// Where a tensor of a plan lies.
enum class Origin { Input, Output, Internal };

struct Ref {
    Tensor tensor;  // of an internal one the address is a stand-in that only tells places apart
    Origin origin;
    uint32_t index;                              // among the inputs or outputs
    uint64_t offset;                             // in the workspace
    std::shared_ptr<std::vector<uint8_t>> host;  // hostData as it was in Setup
};

struct Step {
    std::shared_ptr<const Kernel> kernel;
    std::vector<Ref> in, out;
};

struct Plan {
    std::vector<Step> steps;
    uint64_t internalBytes = 0, scratchBytes = 0;
    uint64_t workspace() const { return internalBytes + scratchBytes; }
    uint64_t takeInternal(uint64_t bytes);
};

class BaseOperation : public atb::Operation {
  public:
    Status InferShape(const atb::SVector<atb::TensorDesc> &in, atb::SVector<atb::TensorDesc> &out) const override;
    Status Setup(const atb::VariantPack &pack, uint64_t &workspaceSize, atb::Context *context) override;
    Status Execute(const atb::VariantPack &pack, uint8_t *workspace, uint64_t workspaceSize,
                   atb::Context *context) override;

    virtual Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const = 0;
    // Adds the steps for these tensors. An output without a description (dtype -1) is internal and gets one, and a
    // place.
    virtual Status plan(const std::vector<Ref> &in, std::vector<Ref> &out, Plan &plan) const = 0;

    virtual bool optionalInput(uint32_t index) const {
        (void)index;
        return false;
    }

    bool owned = false;  // by a graph

  private:
    Status setup(const atb::VariantPack &pack, uint64_t &workspaceSize, atb::Context *context);
    Status execute(const atb::VariantPack &pack, uint8_t *workspace, uint64_t workspaceSize, atb::Context *context,
                   SimFault late);

    std::shared_ptr<Plan> plan_;  // of the last Setup; work on the stream shares it
    bool ready_ = false;
    ContextImpl *context_ = nullptr;
    std::vector<Tensor> inputs_, outputs_;  // of Setup
    std::atomic<bool> busy_{false};
};

class SingleOperation final : public BaseOperation {
  public:
    explicit SingleOperation(Made kernel) : kernel_(std::move(kernel)) {}
    std::string GetName() const override { return kernel_->kind; }
    uint32_t GetInputNum() const override { return kernel_->inputs; }
    uint32_t GetOutputNum() const override { return kernel_->outputs; }
    bool optionalInput(uint32_t index) const override { return kernel_->optionalInput(index); }
    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override;
    Status plan(const std::vector<Ref> &in, std::vector<Ref> &out, Plan &plan) const override;

  private:
    std::shared_ptr<const Kernel> kernel_;
};

// --- operations that are alive (create.cpp) ---
BaseOperation *findOperation(const atb::Operation *operation);
void registerOperation(BaseOperation *operation);
void forgetOperation(BaseOperation *operation);
Status makeGraph(Bytes param, std::unique_ptr<BaseOperation> *made);

// Puts a plan on the stream of a context (execute.cpp). `moved`: the addresses are not those of Setup.
Status launchPlan(std::shared_ptr<const Plan> plan, std::vector<Tensor> in, std::vector<Tensor> out,
                  uint8_t *workspace, ContextImpl &context, bool moved, SimFault fault);

}  // namespace sim
