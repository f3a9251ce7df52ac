// Calls of all functions of ATB that the shim looks up, as a program that has ATB's headers would write them: the
// compiler gives them their names. Compiled, never linked.

#include <cstdint>
#include <string>

namespace atb {

class Context;
class Operation;
struct GraphParam;
namespace infer {
struct RmsNormParam;
struct LinearParam;
struct RopeParam;
struct ReshapeAndCacheParam;
struct SelfAttentionParam;
struct PagedAttentionParam;
struct ElewiseParam;
struct ActivationParam;
struct GatherParam;
struct SplitParam;
struct SliceParam;
struct ConcatParam;
struct TransposeParam;
struct SoftmaxParam;
struct SortParam;
struct TopkToppSamplingParam;
struct TransdataParam;
struct AllReduceParam;
struct AllGatherParam;
} // namespace infer

using Status = int32_t;
Status CreateContext(Context **context);
Status DestroyContext(Context *context);
Status DestroyOperation(Operation *operation);
template <typename Param>
Status CreateOperation(const Param &param, Operation **operation);
class Utils {
public:
    static std::string GetAtbVersion();
};

} // namespace atb

template <class Param>
static void create(void *param)
{
    atb::CreateOperation(*static_cast<Param *>(param), nullptr);
}

void all(void *param)
{
    using namespace atb::infer;
    atb::CreateContext(nullptr);
    atb::DestroyContext(nullptr);
    atb::DestroyOperation(nullptr);
    atb::Utils::GetAtbVersion();
    create<atb::GraphParam>(param);
    create<RmsNormParam>(param);
    create<LinearParam>(param);
    create<RopeParam>(param);
    create<ReshapeAndCacheParam>(param);
    create<SelfAttentionParam>(param);
    create<PagedAttentionParam>(param);
    create<ElewiseParam>(param);
    create<ActivationParam>(param);
    create<GatherParam>(param);
    create<SplitParam>(param);
    create<SliceParam>(param);
    create<ConcatParam>(param);
    create<TransposeParam>(param);
    create<SoftmaxParam>(param);
    create<SortParam>(param);
    create<TopkToppSamplingParam>(param);
    create<TransdataParam>(param);
    create<AllReduceParam>(param);
    create<AllGatherParam>(param);
}
