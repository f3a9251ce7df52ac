// A second translation unit with aquila.hpp: everything in it must be inline.
#include <aquila.hpp>

std::size_t second_unit(const aquila::Engine &engine);

std::size_t second_unit(const aquila::Engine &engine) {
    std::vector<std::int32_t> ids;
    return engine.try_tokenize("h", 0, ids).ok() ? ids.size() : 0;
}
