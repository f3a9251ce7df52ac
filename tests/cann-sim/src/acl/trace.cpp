// Calls: their counts, the trace file, injected faults and the error text of a thread.
//
// AQUILA_SIM_TRACE=FILE    a line a call; after each mark and at the end the counts of every kind of call
// AQUILA_SIM_FAULT=RULES   rules NAME@N=ACTION, separated by commas or semicolons:
//     NAME    a function of the interface (aclrtMalloc, Setup, Execute, CreateOperation, HcclAllReduce …), * for
//     any of
//             them, or kernel:KIND for an operation while it runs (kernel:Linear); NAME#D only on device D
//     N       the N-th such call since the rule was set, from 1; N+ for this one and all later ones
//     ACTION  a code; hang; nan (the outputs of the work become NaN). A code from 507000 on of a call that puts
//     work
//             on a stream is met by the work: the call succeeds, the stream fails
#include <unistd.h>

#include <chrono>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "state.h"

struct SimCounter {
    std::string name;
    std::atomic<uint64_t> step{0}, total{0};
};

namespace sim {
namespace {

struct Rule {
    std::string name;
    int device = -1;
    uint64_t at = 1;
    bool onwards = false;
    SimFault action{SIM_NO_FAULT, 0};
    uint64_t seen = 0;
};

struct Book {
    std::mutex lock;
    std::map<std::string, std::unique_ptr<SimCounter>> counters;
    std::vector<Rule> rules;
    std::atomic<bool> hasRules{false};
    FILE *file = nullptr;
    std::atomic<uint64_t> line{0}, violations{0}, leaks{0};
    std::string lastFailure;

    Book() {
        if (const char *path = std::getenv("AQUILA_SIM_TRACE"); path && *path) {
            file = std::fopen(path, "a");
            if (file) std::setvbuf(file, nullptr, _IOLBF, 1 << 16);
        }
        if (const char *script = std::getenv("AQUILA_SIM_FAULT"); script && !setRules(script)) {
            std::fprintf(stderr, "aquila CANN simulator: AQUILA_SIM_FAULT is not understood: %s\n", script);
            std::abort();
        }
    }

    static bool parse(std::string text, Rule *rule) {
        const size_t equals = text.find('='), at = text.find('@');
        if (equals == std::string::npos || at == std::string::npos || at > equals || at == 0) return false;
        rule->name = text.substr(0, at);
        if (const size_t hash = rule->name.find('#'); hash != std::string::npos) {
            rule->device = std::atoi(rule->name.c_str() + hash + 1);
            rule->name.resize(hash);
        }
        char *end = nullptr;
        rule->at = std::strtoull(text.c_str() + at + 1, &end, 10);
        rule->onwards = *end == '+';
        if (rule->at == 0 || end + (rule->onwards ? 1 : 0) != text.c_str() + equals) return false;
        const std::string action = text.substr(equals + 1);
        if (action == "hang" || action == "nan") {
            rule->action.kind = action == "hang" ? SIM_FAULT_HANG : SIM_FAULT_NAN;
            return true;
        }
        rule->action = {SIM_FAULT_CODE, int(std::strtol(action.c_str(), &end, 10))};
        return !action.empty() && *end == 0 && rule->action.code != 0;
    }

    bool setRules(const std::string &script) {
        std::vector<Rule> read;
        for (size_t from = 0; from <= script.size();) {
            const size_t to = std::min(script.find_first_of(",;", from), script.size());
            from = std::min(script.find_first_not_of(' ', from), to);
            const std::string text = script.substr(from, to - from);
            if (!text.empty()) {
                read.emplace_back();
                if (!parse(text, &read.back())) return false;
            }
            from = to + 1;
        }
        std::lock_guard<std::mutex> guard(lock);
        rules = std::move(read);
        hasRules = !rules.empty();
        return true;
    }

    SimFault match(const std::string &name, int device) {
        if (!hasRules) return {SIM_NO_FAULT, 0};
        std::lock_guard<std::mutex> guard(lock);
        const bool kernel = name.find(':') != std::string::npos;
        SimFault found{SIM_NO_FAULT, 0};
        for (Rule &rule : rules) {
            if (rule.name != name && (rule.name != "*" || kernel)) continue;
            if (rule.device >= 0 && rule.device != device) continue;
            rule.seen++;
            if (rule.seen == rule.at || (rule.onwards && rule.seen > rule.at)) found = rule.action;
        }
        return found;
    }

    void summary(const char *title, bool ofStep) {
        std::lock_guard<std::mutex> guard(lock);
        if (file) std::fprintf(file, "== %s\n", title);
        for (auto &[name, counter] : counters) {
            const uint64_t count = ofStep ? counter->step.exchange(0) : counter->total.load();
            if (file && count) std::fprintf(file, "%8" PRIu64 "  %s\n", count, name.c_str());
        }
    }
};

Book &book() {
    static Book *const instance = new Book;  // never destroyed: streams may still run when the process ends
    return *instance;
}

// The totals at the end of the process, also where nobody calls aclFinalize.
const struct Closing {
    ~Closing() {
        if (book().file) book().summary("totals at exit", false);
    }
} closing;

thread_local std::string recentMessage, returnedMessage;

}  // namespace

double nowMillis() {
    using namespace std::chrono;
    static const auto start = steady_clock::now();
    return duration<double, std::milli>(steady_clock::now() - start).count();
}

std::string describe(const char *format, ...) {
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return text;
}

void reportLeak(const std::string &what) {
    book().leaks++;
    aquilaSimNote(("LEAK " + what).c_str());
}

Call::Call(SimCounter *counter, const void *stream)
    : counter_(counter), stream_(stream), fault_(aquilaSimEnter(counter)) {}

int Call::injected(bool streamOrdered) {
    if (fault_.kind == SIM_NO_FAULT) return OK;
    if (streamOrdered && (fault_.kind != SIM_FAULT_CODE || fault_.code >= 507000)) {
        late = fault_;
        return OK;
    }
    if (fault_.kind == SIM_FAULT_HANG) {
        aquilaSimHang(aquilaSimCurrentDevice());
        return fail(RT_LOST_HEARTBEAT, "injected hang of %s", counter_->name.c_str());
    }
    if (fault_.kind == SIM_FAULT_NAN) return OK;
    return fail(fault_.code, "injected failure of %s", counter_->name.c_str());
}

Call::~Call() {
    aquilaSimLeave(counter_, stream_, code_, detail_);
}

int Call::end(int code) {
    return code_ = code;
}

void Call::detail(const char *format, ...) {
    if (!book().file) return;
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(detail_, sizeof detail_, format, arguments);
    va_end(arguments);
}

int Call::fail(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(detail_, sizeof detail_, format, arguments);
    va_end(arguments);
    aquilaSimSetMessage(detail_);
    return code_ = code;
}

}  // namespace sim

using sim::book;

SIM_EXPORT SimCounter *aquilaSimCounter(const char *name) {
    std::lock_guard<std::mutex> guard(book().lock);
    auto &counter = book().counters[name];
    if (!counter) {
        counter = std::make_unique<SimCounter>();
        counter->name = name;
    }
    return counter.get();
}

SIM_EXPORT SimFault aquilaSimEnter(SimCounter *counter) {
    counter->step++;
    counter->total++;
    return book().match(counter->name, aquilaSimCurrentDevice());
}

SIM_EXPORT void aquilaSimLeave(SimCounter *counter, const void *stream, int code, const char *detail) {
    if (!book().file) return;
    const unsigned thread = unsigned(gettid());
    const int device = aquilaSimCurrentDevice();  // before the lock: it takes one itself
    std::lock_guard<std::mutex> guard(book().lock);
    std::fprintf(book().file, "%10.3f thread=%u device=%d stream=%p %s %s -> %d\n", sim::nowMillis(), thread,
                 device, stream, counter->name.c_str(), detail, code);
}

SIM_EXPORT void aquilaSimNote(const char *text) {
    if (!book().file) return;
    std::lock_guard<std::mutex> guard(book().lock);
    std::fprintf(book().file, "%10.3f %s\n", sim::nowMillis(), text);
}

SIM_EXPORT void aquilaSimViolation(const char *text) {
    book().violations++;
    aquilaSimSetMessage(text);
    aquilaSimNote((std::string("VIOLATION ") + text).c_str());
}

SIM_EXPORT void aquilaSimKernelFailed(const char *text) {
    {
        std::lock_guard<std::mutex> guard(book().lock);
        book().lastFailure = text;
    }
    aquilaSimNote((std::string("FAILED ") + text).c_str());
}

SIM_EXPORT const char *aquilaSimLastFailure(void) {
    std::lock_guard<std::mutex> guard(book().lock);
    sim::returnedMessage = book().lastFailure;
    return sim::returnedMessage.c_str();
}

SIM_EXPORT void aquilaSimSetMessage(const char *text) {
    sim::recentMessage = text;
}

SIM_EXPORT const char *aclGetRecentErrMsg(void) {
    if (sim::recentMessage.empty()) return nullptr;
    sim::returnedMessage.swap(sim::recentMessage);
    sim::recentMessage.clear();
    return sim::returnedMessage.c_str();
}

SIM_EXPORT void aquilaSimMark(const char *label) {
    book().summary(label, true);
}

SIM_EXPORT uint64_t aquilaSimCount(const char *name) {
    return aquilaSimCounter(name)->step;
}
SIM_EXPORT uint64_t aquilaSimTotal(const char *name) {
    return aquilaSimCounter(name)->total;
}
SIM_EXPORT uint64_t aquilaSimViolations(void) {
    return book().violations;
}
SIM_EXPORT uint64_t aquilaSimLeaks(void) {
    return book().leaks;
}
SIM_EXPORT int aquilaSimFaults(const char *script) {
    return book().setRules(script) ? 0 : 1;
}
SIM_EXPORT const char *aquilaSimVersion(void) {
    return SIM_VERSION;
}
