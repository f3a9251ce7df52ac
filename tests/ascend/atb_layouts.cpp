// The sizes, places and virtual tables that the shim relies on, of the shim's own declarations or, with
// AQATB_REAL_HEADERS, of ATB's real headers on a machine that has them (`make test-ascend`). It links to nothing.
//
//   g++ -std=c++17 -DAQATB_REAL_HEADERS -D_GLIBCXX_USE_CXX11_ABI=1 -I$ATB_HOME_PATH/include
//       -I$ASCEND_HOME_PATH/include -Isrc/backend/ascend/shim tests/ascend/atb_layouts.cpp

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#ifdef AQATB_REAL_HEADERS
#include <atb/atb_infer.h>
#if _GLIBCXX_USE_CXX11_ABI
#define AQATB_ABI 1
#else
#define AQATB_ABI 0
#endif
namespace atb {
#include "layouts.inc"
} // namespace atb

// The numbers that the shim passes on.
static_assert(atb::infer::RmsNormParam::RMS_NORM_NORM == 1 && atb::infer::RmsNormParam::RMS_NORM_PRENORM == 2, "");
static_assert(atb::infer::SelfAttentionParam::PA_ENCODER == 3, "");
static_assert(atb::infer::SelfAttentionParam::MASK_TYPE_NORM == 1, "");
static_assert(atb::infer::ElewiseParam::ELEWISE_CAST == 1 && atb::infer::ElewiseParam::ELEWISE_MULS == 2, "");
static_assert(atb::infer::ElewiseParam::ELEWISE_ADD == 8 && atb::infer::ElewiseParam::ELEWISE_MUL == 9, "");
static_assert(atb::infer::ACTIVATION_SWISH == 4 && atb::infer::ACTIVATION_SWIGLU_FORWARD == 6, "");
static_assert(atb::infer::QUANT_INT8 == 2, "");
static_assert(atb::infer::TransdataParam::FRACTAL_NZ_TO_ND == 1 && atb::infer::TransdataParam::ND_TO_FRACTAL_NZ == 2, "");
static_assert(atb::infer::COMM_MULTI_THREAD == 1, "");
static_assert(atb::ERROR_INVALID_TENSOR_SIZE == 9 && atb::ERROR_OUT_OF_DEVICE_MEMORY == 26, "");
#else
#include "atb_types.hpp"
namespace atb = AQATB_NAMESPACE;
#endif

// The place of a virtual function: the Itanium C++ ABI keeps its offset in the pointer to it.
template <class Method>
static long slot(Method method)
{
    static_assert(sizeof method == 2 * sizeof(ptrdiff_t), "a pointer to a member function");
    ptrdiff_t words[2];
    std::memcpy(words, &method, sizeof words);
    return static_cast<long>(words[0] / static_cast<ptrdiff_t>(sizeof(void *)));
}

static int wrong = 0;

static void expect(const char *what, long found, long expected)
{
    if (found == expected) return;
    std::printf("%s: slot %ld, expected %ld\n", what, found, expected);
    wrong++;
}

int main()
{
    expect("Operation::InferShape", slot(&atb::Operation::InferShape), 3);
    expect("Operation::GetInputNum", slot(&atb::Operation::GetInputNum), 4);
    expect("Operation::GetOutputNum", slot(&atb::Operation::GetOutputNum), 5);
    expect("Operation::Setup", slot(&atb::Operation::Setup), 6);
    expect("Operation::Execute", slot(&atb::Operation::Execute), 7);
    expect("Context::SetExecuteStream", slot(&atb::Context::SetExecuteStream), 2);
    expect("Context::SetAsyncTilingCopyStatus", slot(&atb::Context::SetAsyncTilingCopyStatus), 4);
    return wrong == 0 ? 0 : 1;
}
