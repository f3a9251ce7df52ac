// atb::Context: the stream that operations run on, and the ring of device blocks for their tilings.
#pragma once
#include <array>
#include <mutex>
#include <set>

#include "../sim.h"
#include "api.h"

namespace sim {

constexpr size_t TILING_BLOCKS = 32;
constexpr size_t TILING_BLOCK_BYTES = 3 << 20;

class ContextImpl final : public atb::Context {
  public:
    ~ContextImpl() override;
    atb::Status open();

    atb::Status SetExecuteStream(void *stream) override;
    void *GetExecuteStream() const override { return stream_; }
    atb::Status SetAsyncTilingCopyStatus(bool enable) override {
        asyncTiling_ = enable;
        return atb::NO_ERROR;
    }
    bool GetAsyncTilingCopyStatus() const override { return asyncTiling_; }
    atb::Status SetExecuteStreams(const std::vector<void *> &streams) override;
    std::vector<void *> GetExecuteStreams() override { return {stream_}; }
    atb::Status SetExecuteType(atb::ExecuteType type) override;
    atb::ExecuteType GetExecuteType() override { return atb::EXECUTE_NORMAL; }
    atb::Status SetLaunchMode(atb::LaunchMode mode) override;
    atb::LaunchMode GetLaunchMode() override { return atb::KERNEL_LAUNCH_MODE; }

    // Whether the next block of the ring may still be read by work that the host has not seen done.
    bool overrun() const;
    // The block is taken by the work that was just put on the stream.
    void taken(uint64_t number);

  private:
    struct Use {
        void *stream = nullptr;
        uint64_t id = 0, number = 0;
    };
    void *stream_ = nullptr;
    bool asyncTiling_ = false;
    void *ring_ = nullptr;
    std::array<Use, TILING_BLOCKS> uses_;
    uint64_t executes_ = 0;
};

// The context behind a pointer of a client, alive; else null.
ContextImpl *findContext(const atb::Context *context);

}  // namespace sim
