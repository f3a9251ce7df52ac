// The table of types, read from $ATB_HOME_PATH/configs/ops_configs/atb_ops_info.ini. All tensors of a call must
// match one and the same column.
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include "kernel.h"

namespace sim {
namespace {

struct Kind {
    int dtype, format;
};
using Alternatives = std::vector<Kind>;
struct Column {
    std::vector<Alternatives> in, out;
};
using Columns = std::map<std::string, std::vector<Column>>;  // by section and card: "Rope 310P"

const std::map<std::string, int> &typeNames() {
    static const std::map<std::string, int> names = {
        {"f32", F32},   {"f16", F16},    {"bf16", BF16}, {"i8", INT8},    {"i16", INT16},
        {"i32", INT32}, {"u32", UINT32}, {"i64", INT64}, {"u64", UINT64}, {"bool", BOOL}};
    return names;
}

Alternatives parseTensor(const std::string &text, bool *good) {
    Alternatives read;
    std::istringstream parts(text);
    for (std::string part; std::getline(parts, part, ',');) {
        const bool nz = part.size() > 3 && part.compare(part.size() - 3, 3, "/nz") == 0;
        if (nz) part.resize(part.size() - 3);
        const auto name = typeNames().find(part);
        if (name == typeNames().end()) *good = false;
        else read.push_back({name->second, nz ? FORMAT_NZ : FORMAT_ND});
    }
    return read;
}

Columns parse(std::istream &file, bool *good) {
    Columns read;
    std::string section;
    for (std::string line; std::getline(file, line);) {
        if (line.empty() || line[0] == ';') continue;
        if (line[0] == '[') {
            section = line.substr(1, line.find(']') - 1);
            continue;
        }
        std::istringstream words(line);
        std::string card, word;
        words >> card >> word;
        auto &columns = read[section + " " + card];
        columns.emplace_back();
        bool outputs = false;
        while (words >> word) {
            if (word == "->") {
                outputs = true;
            } else if (word == "|") {
                columns.emplace_back();
                outputs = false;
            } else {
                (outputs ? columns.back().out : columns.back().in).push_back(parseTensor(word, good));
            }
        }
    }
    return read;
}

struct Table {
    Columns columns;
    std::string path;
    bool good = true;

    Table() {
        const char *home = std::getenv("ATB_HOME_PATH");
        path = std::string(home ? home : "(ATB_HOME_PATH is not set)") + "/configs/ops_configs/atb_ops_info.ini";
        std::ifstream file(path);
        good = bool(file);
        if (good) columns = parse(file, &good);
    }
};

bool matches(const std::vector<Alternatives> &column, const std::vector<Desc> &tensors) {
    if (column.size() != tensors.size()) return false;
    for (size_t i = 0; i < tensors.size(); i++) {
        const auto same = [&](const Kind &kind) {
            return kind.dtype == tensors[i].dtype && kind.format == tensors[i].format;
        };
        if (std::none_of(column[i].begin(), column[i].end(), same)) return false;
    }
    return true;
}

std::string describeTensors(const std::vector<Desc> &tensors) {
    std::string text;
    for (const Desc &desc : tensors) text += " " + std::to_string(desc.dtype) + "/" + std::to_string(desc.format);
    return text;
}

}  // namespace

Status matchColumn(const Kernel &kernel, const std::vector<Desc> &in, const std::vector<Desc> &out) {
    static const Table *const table = new Table;
    if (!table->good) return refuse(atb::ERROR_INVALID_TENSOR_INI_MATCH, "%s: cannot be read", table->path.c_str());
    const auto noBf16 = [](const std::vector<Desc> &tensors) {
        return std::none_of(tensors.begin(), tensors.end(), [](const Desc &desc) { return desc.dtype == BF16; });
    };
    if (is310p() && !(noBf16(in) && noBf16(out))) {
        return refuse(atb::ERROR_INVALID_TENSOR_DTYPE, "%s: no bf16 on Atlas 300I DUO", kernel.kind.c_str());
    }
    const auto found = table->columns.find(kernel.column + (is310p() ? " 310P" : " 910B"));
    if (found != table->columns.end()) {
        for (const Column &column : found->second) {
            if (matches(column.in, in) && matches(column.out, out)) return atb::NO_ERROR;
        }
    }
    return refuse(atb::ERROR_INVALID_TENSOR_INI_MATCH,
                  "%s: types and formats match no column of %s on this card: in%s, out%s", kernel.kind.c_str(),
                  kernel.column.c_str(), describeTensors(in).c_str(), describeTensors(out).c_str());
}

}  // namespace sim
