// Operations: plain arguments to ATB's parameters. Every parameter that matters is written, whatever ATB's default is:
// some of them are surprising (Linear has a bias, Rope rotates quarters, attention does not scale).

#include "library.hpp"

#include <cstring>

using namespace AQATB_NAMESPACE;

namespace {

// Parameters that are all 0, what lies between and behind them too.
template <class Param>
Param zeroed()
{
    static_assert(std::is_trivial<Param>::value, "only plain data may be cleared");
    Param param;
    std::memset(&param, 0, sizeof param);
    return param;
}

constexpr int32_t AS_GIVEN = -1; // ACL_DT_UNDEFINED
constexpr int32_t MULTI_THREAD = 1;
constexpr double LAYER_NORM_EPSILON = 1e-5; // not used by RmsNorm; ATB's default

} // namespace

int32_t aqatb_rms_norm_create(const aqatb_library *library, const aqatb_rms_norm *a, aqatb_operation **operation,
                              aqatb_error *error)
{
    return guarded(error, "aqatb_rms_norm_create", [&]() -> int32_t {
        auto p = zeroed<infer::RmsNormParam>();
        p.layerType = a->layer;
        p.normParam.epsilon = p.preNormParam.epsilon = p.postNormParam.epsilon = a->epsilon;
        p.normParam.layerNormEps = LAYER_NORM_EPSILON;
        switch (a->layer) {
        case 1:
            p.normParam.quantType = a->quant;
            p.normParam.dynamicQuantType = a->dynamic;
            break;
        case 2:
            p.preNormParam.quantType = a->quant;
            p.preNormParam.hasBias = a->has_bias != 0;
            break;
        case 3:
            p.postNormParam.quantType = a->quant;
            p.postNormParam.hasBias = a->has_bias != 0;
            break;
        default:
            return fail(error, AQATB_ERROR_ARGUMENT, 0, "RmsNorm: no layer type %d", a->layer);
        }
        return library->create(Symbol::rms_norm, "RmsNorm", p, operation, error);
    });
}

int32_t aqatb_linear_create(const aqatb_library *library, const aqatb_linear *a, aqatb_operation **operation,
                            aqatb_error *error)
{
    return guarded(error, "aqatb_linear_create", [&] {
        auto p = zeroed<infer::LinearParam>();
        p.transposeA = a->transpose_a != 0;
        p.transposeB = a->transpose_b != 0;
        p.hasBias = a->has_bias != 0;
        p.outDataType = a->out_dtype;
        p.enAccum = a->accumulate != 0;
        p.quantMode = static_cast<uint8_t>(a->quant_mode);
        return library->create(Symbol::linear, "Linear", p, operation, error);
    });
}

int32_t aqatb_rope_create(const aqatb_library *library, const aqatb_rope *a, aqatb_operation **operation,
                          aqatb_error *error)
{
    return guarded(error, "aqatb_rope_create", [&] {
        auto p = zeroed<infer::RopeParam>();
        p.rotaryCoeff = a->rotary_coeff;
        p.cosFormat = a->cos_format;
        return library->create(Symbol::rope, "Rope", p, operation, error);
    });
}

int32_t aqatb_reshape_cache_create(const aqatb_library *library, const aqatb_reshape_cache *a,
                                   aqatb_operation **operation, aqatb_error *error)
{
    return guarded(error, "aqatb_reshape_cache_create", [&] {
        auto p = zeroed<infer::ReshapeAndCacheParam>();
        p.compressType = a->compress;
        p.kvCacheCfg = a->kv_cache_cfg;
        return library->create(Symbol::reshape_cache, "ReshapeAndCache", p, operation, error);
    });
}

int32_t aqatb_self_attention_create(const aqatb_library *library, const aqatb_self_attention *a,
                                    aqatb_operation **operation, aqatb_error *error)
{
    return guarded(error, "aqatb_self_attention_create", [&] {
        auto p = zeroed<infer::SelfAttentionParam>();
        p.outDataType = AS_GIVEN;
        p.headNum = a->heads;
        p.kvHeadNum = a->kv_heads;
        p.qScale = a->q_scale;
        p.qkScale = a->qk_scale;
        p.isTriuMask = a->triangular != 0;
        p.calcType = a->calc;
        p.kernelType = a->kernel;
        p.clampType = a->clamp;
        p.clampMin = a->clamp_min;
        p.clampMax = a->clamp_max;
        p.maskType = a->mask;
        return library->create(Symbol::self_attention, "SelfAttention", p, operation, error);
    });
}

int32_t aqatb_paged_attention_create(const aqatb_library *library, const aqatb_paged_attention *a,
                                     aqatb_operation **operation, aqatb_error *error)
{
    return guarded(error, "aqatb_paged_attention_create", [&] {
        auto p = zeroed<infer::PagedAttentionParam>();
        p.headNum = a->heads;
        p.kvHeadNum = a->kv_heads;
        p.qkScale = a->qk_scale;
        p.maskType = a->mask;
        p.outDataType = AS_GIVEN;
        p.calcType = a->calc;
        return library->create(Symbol::paged_attention, "PagedAttention", p, operation, error);
    });
}

int32_t aqatb_elewise_create(const aqatb_library *library, const aqatb_elewise *a, aqatb_operation **operation,
                             aqatb_error *error)
{
    return guarded(error, "aqatb_elewise_create", [&] {
        auto p = zeroed<infer::ElewiseParam>();
        p.elewiseType = a->type;
        p.quantParam.inputScale = a->input_scale;
        p.quantParam.inputOffset = a->input_offset;
        p.mulsParam.varAttr = a->factor;
        p.outTensorType = a->out_dtype;
        return library->create(Symbol::elewise, "Elewise", p, operation, error);
    });
}

int32_t aqatb_activation_create(const aqatb_library *library, const aqatb_activation *a, aqatb_operation **operation,
                                aqatb_error *error)
{
    return guarded(error, "aqatb_activation_create", [&] {
        auto p = zeroed<infer::ActivationParam>();
        p.activationType = a->type;
        p.scale = a->scale;
        p.dim = a->dim;
        return library->create(Symbol::activation, "Activation", p, operation, error);
    });
}

int32_t aqatb_gather_create(const aqatb_library *library, const aqatb_gather *a, aqatb_operation **operation,
                            aqatb_error *error)
{
    return guarded(error, "aqatb_gather_create", [&] {
        auto p = zeroed<infer::GatherParam>();
        p.axis = a->axis;
        p.batchDims = a->batch_dims;
        return library->create(Symbol::gather, "Gather", p, operation, error);
    });
}

int32_t aqatb_split_create(const aqatb_library *library, const aqatb_split *a, aqatb_operation **operation,
                           aqatb_error *error)
{
    return guarded(error, "aqatb_split_create", [&]() -> int32_t {
        if (a->count < 2 || a->count > 3) {
            return fail(error, AQATB_ERROR_ARGUMENT, 0, "Split: expected 2 or 3 parts, found %d", a->count);
        }
        infer::SplitParam p;
        p.splitDim = a->dim;
        p.splitNum = a->count;
        bool equal = a->sizes[0] == 0 && a->sizes[1] == 0 && a->sizes[2] == 0;
        for (int32_t i = 0; !equal && i < a->count; i++) p.splitSizes.push(a->sizes[i]);
        return library->create(Symbol::split, "Split", p, operation, error);
    });
}

int32_t aqatb_slice_create(const aqatb_library *library, const aqatb_slice *a, aqatb_operation **operation,
                           aqatb_error *error)
{
    return guarded(error, "aqatb_slice_create", [&]() -> int32_t {
        if (a->dim_count > AQATB_DIMS) {
            return fail(error, AQATB_ERROR_ARGUMENT, 0, "Slice: at most 8 dimensions, found %u", a->dim_count);
        }
        infer::SliceParam p;
        for (uint32_t i = 0; i < a->dim_count; i++) {
            p.offsets.push(a->offsets[i]);
            p.size.push(a->sizes[i]);
        }
        return library->create(Symbol::slice, "Slice", p, operation, error);
    });
}

int32_t aqatb_concat_create(const aqatb_library *library, const aqatb_concat *a, aqatb_operation **operation,
                            aqatb_error *error)
{
    return guarded(error, "aqatb_concat_create", [&] {
        auto p = zeroed<infer::ConcatParam>();
        p.concatDim = a->dim;
        return library->create(Symbol::concat, "Concat", p, operation, error);
    });
}

int32_t aqatb_transpose_create(const aqatb_library *library, const aqatb_transpose *a, aqatb_operation **operation,
                               aqatb_error *error)
{
    return guarded(error, "aqatb_transpose_create", [&]() -> int32_t {
        if (a->dim_count > AQATB_DIMS) {
            return fail(error, AQATB_ERROR_ARGUMENT, 0, "Transpose: at most 8 dimensions, found %u", a->dim_count);
        }
        infer::TransposeParam p;
        for (uint32_t i = 0; i < a->dim_count; i++) p.perm.push(a->order[i]);
        return library->create(Symbol::transpose, "Transpose", p, operation, error);
    });
}

int32_t aqatb_softmax_create(const aqatb_library *library, const aqatb_softmax *a, aqatb_operation **operation,
                             aqatb_error *error)
{
    return guarded(error, "aqatb_softmax_create", [&] {
        infer::SoftmaxParam p;
        p.axes.push(a->axis);
        return library->create(Symbol::softmax, "Softmax", p, operation, error);
    });
}

int32_t aqatb_sort_create(const aqatb_library *library, const aqatb_sort *a, aqatb_operation **operation,
                          aqatb_error *error)
{
    return guarded(error, "aqatb_sort_create", [&] {
        infer::SortParam p;
        p.num.push(a->count);
        return library->create(Symbol::sort, "Sort", p, operation, error);
    });
}

int32_t aqatb_top_create(const aqatb_library *library, const aqatb_top *a, aqatb_operation **operation,
                         aqatb_error *error)
{
    return guarded(error, "aqatb_top_create", [&] {
        infer::TopkToppSamplingParam p;
        p.topkToppSamplingType = a->type;
        p.randSeed = a->seed;
        p.topk = a->k;
        p.logProbsSize = a->log_probs;
        return library->create(Symbol::top, "TopkToppSampling", p, operation, error);
    });
}

int32_t aqatb_transdata_create(const aqatb_library *library, const aqatb_transdata *a, aqatb_operation **operation,
                               aqatb_error *error)
{
    return guarded(error, "aqatb_transdata_create", [&] {
        infer::TransdataParam p;
        p.transdataType = a->type;
        p.outCrops.push(a->rows);
        p.outCrops.push(a->cols);
        return library->create(Symbol::transdata, "Transdata", p, operation, error);
    });
}

int32_t aqatb_all_reduce_create(const aqatb_library *library, const aqatb_all_reduce *a, aqatb_operation **operation,
                                aqatb_error *error)
{
    return guarded(error, "aqatb_all_reduce_create", [&] {
        infer::AllReduceParam p;
        p.rank = a->rank;
        p.rankSize = a->ranks;
        p.allReduceType = a->type;
        p.backend = a->backend;
        p.hcclComm = a->comm;
        p.commMode = MULTI_THREAD;
        return library->create(Symbol::all_reduce, "AllReduce", p, operation, error);
    });
}

int32_t aqatb_all_gather_create(const aqatb_library *library, const aqatb_all_gather *a, aqatb_operation **operation,
                                aqatb_error *error)
{
    return guarded(error, "aqatb_all_gather_create", [&] {
        infer::AllGatherParam p;
        p.rank = a->rank;
        p.rankSize = a->ranks;
        p.backend = a->backend;
        p.hcclComm = a->comm;
        p.commMode = MULTI_THREAD;
        return library->create(Symbol::all_gather, "AllGather", p, operation, error);
    });
}
