// What the shim's parts share: the functions of libatb.so, and how an entry of the C interface ends.
#pragma once

#include "aquila_atb.h"
#include "atb_types.hpp"

#include <cstdarg>
#include <cstdio>
#include <exception>
#include <new>

namespace AQATB_NAMESPACE {

enum class Symbol : size_t {
#define AQATB_SYMBOL(name, symbol, needed) name,
#include "symbols.def"
#undef AQATB_SYMBOL
    count,
};

// Fills the caller's error and returns its kind.
__attribute__((format(printf, 4, 5))) int32_t fail(aqatb_error *error, int32_t kind, int32_t code, const char *format,
                                                   ...) noexcept;

// 0, or the error of an ATB function that answered `status`.
inline int32_t answer(aqatb_error *error, const char *function, Status status) noexcept
{
    return status == 0 ? 0 : fail(error, AQATB_ERROR_ATB, status, "%s", function);
}

// Runs an entry of the C interface: whatever is thrown in it or in ATB becomes an error.
template <class Body>
int32_t guarded(aqatb_error *error, const char *entry, Body body) noexcept
{
    try {
        return body();
    } catch (const std::bad_alloc &) {
        return fail(error, AQATB_ERROR_MEMORY, 0, "%s: host memory is exhausted", entry);
    } catch (const std::exception &thrown) {
        return fail(error, AQATB_ERROR_EXCEPTION, 0, "%s: C++ code threw: %s", entry, thrown.what());
    } catch (...) {
        return fail(error, AQATB_ERROR_EXCEPTION, 0, "%s: C++ code threw something without words", entry);
    }
}

inline Operation *operation_of(aqatb_operation *operation) { return reinterpret_cast<Operation *>(operation); }
inline const Operation *operation_of(const aqatb_operation *operation)
{
    return reinterpret_cast<const Operation *>(operation);
}
inline Context *context_of(aqatb_context *context) { return reinterpret_cast<Context *>(context); }

} // namespace AQATB_NAMESPACE

struct aqatb_library {
    void *functions[static_cast<size_t>(AQATB_NAMESPACE::Symbol::count)];

    // A function by its type, NULL where libatb.so lacks it.
    template <class Function>
    Function get(AQATB_NAMESPACE::Symbol symbol) const
    {
        return reinterpret_cast<Function>(functions[static_cast<size_t>(symbol)]);
    }

    // CreateOperation of the parameters' type.
    template <class Param>
    int32_t create(AQATB_NAMESPACE::Symbol symbol, const char *name, const Param &param, aqatb_operation **out,
                   aqatb_error *error) const
    {
        using namespace AQATB_NAMESPACE;
        if (!out) return fail(error, AQATB_ERROR_ARGUMENT, 0, "%s: nowhere to put the operation", name);
        *out = nullptr;
        auto function = get<Status (*)(const Param &, Operation **)>(symbol);
        if (!function) return fail(error, AQATB_ERROR_SYMBOL, 0, "this libatb.so has no operation %s", name);
        Operation *operation = nullptr;
        Status status = function(param, &operation);
        if (status != 0) return fail(error, AQATB_ERROR_ATB, status, "CreateOperation of %s", name);
        if (!operation) return fail(error, AQATB_ERROR_ATB, 3, "CreateOperation of %s gave nothing", name);
        *out = reinterpret_cast<aqatb_operation *>(operation);
        return 0;
    }
};

struct aqatb_pack {
    AQATB_NAMESPACE::VariantPack tensors;
};
