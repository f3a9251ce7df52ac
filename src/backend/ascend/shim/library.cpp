// Opening: symbols, version, contexts.

#include "library.hpp"

#include <cstring>
#include <dlfcn.h>

using namespace AQATB_NAMESPACE;

namespace {

struct Entry {
    const char *name;
    const char *symbol;
    bool needed;
};

constexpr Entry ENTRIES[] = {
#define AQATB_SYMBOL(name, symbol, needed) {#name, symbol, needed},
#include "symbols.def"
#undef AQATB_SYMBOL
};

} // namespace

int32_t AQATB_NAMESPACE::fail(aqatb_error *error, int32_t kind, int32_t code, const char *format, ...) noexcept
{
    if (error) {
        error->kind = kind;
        error->code = code;
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
    }
    return kind;
}

uint32_t aqatb_interface(void) { return AQATB_INTERFACE; }

uint32_t aqatb_abi(void) { return AQATB_ABI; }

int32_t aqatb_open(void *libatb, aqatb_library **library, aqatb_error *error)
{
    return guarded(error, "aqatb_open", [&]() -> int32_t {
        if (!libatb || !library) return fail(error, AQATB_ERROR_ARGUMENT, 0, "aqatb_open: NULL");
        auto opened = new aqatb_library{};
        std::string missing;
        size_t i = 0;
        for (const Entry &entry : ENTRIES) {
            opened->functions[i] = dlsym(libatb, entry.symbol);
            if (!opened->functions[i] && entry.needed) missing += std::string(missing.empty() ? "" : ", ") + entry.name;
            i++;
        }
        if (!missing.empty()) {
            delete opened;
            return fail(error, AQATB_ERROR_SYMBOL, 0, "this libatb.so lacks %s", missing.c_str());
        }
        *library = opened;
        return 0;
    });
}

int32_t aqatb_version(const aqatb_library *library, char *text, size_t capacity, aqatb_error *error)
{
    return guarded(error, "aqatb_version", [&]() -> int32_t {
        if (capacity == 0) return 0;
        text[0] = '\0';
        if (auto function = library->get<std::string (*)()>(Symbol::version)) {
            std::string version = function();
            snprintf(text, capacity, "%s", version.c_str());
        }
        return 0;
    });
}

int32_t aqatb_context_create(const aqatb_library *library, aqatb_context **context, aqatb_error *error)
{
    return guarded(error, "aqatb_context_create", [&]() -> int32_t {
        Context *made = nullptr;
        Status status = library->get<Status (*)(Context **)>(Symbol::create_context)(&made);
        if (status == 0 && !made) status = 3;
        *context = reinterpret_cast<aqatb_context *>(made);
        return answer(error, "CreateContext", status);
    });
}

int32_t aqatb_context_set_stream(aqatb_context *context, void *stream, aqatb_error *error)
{
    return guarded(error, "aqatb_context_set_stream", [&] {
        return answer(error, "SetExecuteStream", context_of(context)->SetExecuteStream(stream));
    });
}

int32_t aqatb_context_set_async_tiling(aqatb_context *context, int32_t on, aqatb_error *error)
{
    return guarded(error, "aqatb_context_set_async_tiling", [&] {
        return answer(error, "SetAsyncTilingCopyStatus", context_of(context)->SetAsyncTilingCopyStatus(on != 0));
    });
}

int32_t aqatb_context_destroy(const aqatb_library *library, aqatb_context *context, aqatb_error *error)
{
    return guarded(error, "aqatb_context_destroy", [&] {
        auto function = library->get<Status (*)(Context *)>(Symbol::destroy_context);
        return answer(error, "DestroyContext", function(context_of(context)));
    });
}
