// aquila.hpp: aquila.h for C++17, header-only. It needs nothing but aquila.h and the standard library.
//
//     aquila::Engine engine("models/AquilaChat-7B");
//     engine.stream("Hello", {}, [](const aquila::Event &event) {
//         std::cout << event.text() << std::flush;
//         return true;                                     // false stops
//     });
//
// Engine and Result own their handles and can only be moved. Every call that can fail has two forms: one
// that throws aquila::Error, and a try_ twin that returns a Failure and never throws one. Without exceptions
// (-fno-exceptions, or AQUILA_NO_EXCEPTIONS defined before) only the twins exist. An exception that leaves
// a callback stops the call and leaves from it.
//
// Threads: as in aquila.h, everything const may be called on one object by any number of threads at once.
// Engine::close may, too; moving and destroying an object that others use may not.

#ifndef AQUILA_HPP
#define AQUILA_HPP

#include "aquila.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#if !defined(AQUILA_NO_EXCEPTIONS) && !defined(__cpp_exceptions)
#  define AQUILA_NO_EXCEPTIONS 1
#endif
#ifndef AQUILA_NO_EXCEPTIONS
#  include <exception>
#endif

namespace aquila {
inline namespace v1 {

/// How a call ended: ok(), or a status, the system's own code and one sentence.
class Failure {
public:
    Failure() : raw_() {}
    bool ok() const { return raw_.status == AQUILA_OK; }
    aquila_status status() const { return raw_.status; }
    const char *status_name() const { return aquila_status_name(raw_.status); }
    std::int32_t native_code() const { return raw_.native_code; }
    const char *message() const { return raw_.message; }

    /// Where the C functions write it.
    aquila_error *raw() { return &raw_; }
    /// For the functions of C that take no error struct.
    static Failure of(aquila_status status) {
        return status == AQUILA_OK ? Failure() : Failure(status, aquila_status_name(status));
    }
    /// One of this header.
    Failure(aquila_status status, std::string_view message) : raw_() {
        raw_.status = status;
        message.copy(raw_.message, sizeof raw_.message - 1);
    }

private:
    aquila_error raw_;
};

/// A failure that is thrown.
class Error : public std::runtime_error {
public:
    explicit Error(const Failure &failure) : std::runtime_error(failure.message()), failure_(failure) {}
    aquila_status status() const { return failure_.status(); }
    std::int32_t native_code() const { return failure_.native_code(); }
    const Failure &failure() const { return failure_; }

private:
    Failure failure_;
};

namespace detail {

inline const char *nullable(const std::string &text) { return text.empty() ? nullptr : text.c_str(); }

template <typename T> const T *first(const std::vector<T> &of) { return of.empty() ? nullptr : of.data(); }

/// A callback of the caller, behind a C function: keeps what it throws until the C call has returned.
template <typename... Arguments> class Carrier {
public:
    explicit Carrier(const std::function<bool(Arguments...)> &function) : function_(function) {}

    /// Non-zero to stop.
    std::int32_t call(Arguments... arguments) noexcept {
#ifdef AQUILA_NO_EXCEPTIONS
        return function_(arguments...) ? 0 : 1;
#else
        if (thrown_) return 1; // the FINISH event after the stop
        try {
            return function_(arguments...) ? 0 : 1;
        } catch (...) {
            thrown_ = std::current_exception();
            return 1;
        }
#endif
    }

    /// Lets go what the callback threw.
    void finish() {
#ifndef AQUILA_NO_EXCEPTIONS
        if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
#endif
    }

private:
    const std::function<bool(Arguments...)> &function_;
#ifndef AQUILA_NO_EXCEPTIONS
    std::exception_ptr thrown_;
#endif
};

#ifndef AQUILA_NO_EXCEPTIONS
inline void check(const Failure &failure) {
    if (!failure.ok()) throw Error(failure);
}
#endif

} // namespace detail

/// How a model is loaded: the fields of aquila_load_options. An empty string is NULL.
struct LoadOptions {
    std::uint32_t flags = 0;
    std::string device, dtype, kv_dtype, tokenizer, chat_template, cache_dir;
    std::uint64_t host_memory = 0, device_memory = 0, kv_memory = 0;
    std::uint32_t max_context = 0, max_batch = 0, max_waiting = 0, threads = 0;
    /// Stage, bytes done, bytes in all; false abandons the load.
    std::function<bool(std::string_view, std::uint64_t, std::uint64_t)> progress;

    /// The same for C, valid while this is unchanged.
    aquila_load_options raw() const {
        aquila_load_options out;
        aquila_load_options_init(&out, sizeof out);
        out.flags = flags;
        out.device = detail::nullable(device);
        out.dtype = detail::nullable(dtype);
        out.kv_dtype = detail::nullable(kv_dtype);
        out.tokenizer = detail::nullable(tokenizer);
        out.cache_dir = detail::nullable(cache_dir);
        out.chat_template = detail::nullable(chat_template);
        out.host_memory = host_memory;
        out.device_memory = device_memory;
        out.kv_memory = kv_memory;
        out.max_context = max_context;
        out.max_batch = max_batch;
        out.max_waiting = max_waiting;
        out.threads = threads;
        return out;
    }
};

/// What a text must fit: Constraint::json_schema(R"({"type": "object"})"), and so on. As it is made: nothing.
struct Constraint {
    /// AQUILA_CONSTRAINT_...
    std::uint32_t kind = AQUILA_CONSTRAINT_NONE;
    std::string text;

    static Constraint json_schema(std::string text) { return {AQUILA_CONSTRAINT_JSON_SCHEMA, std::move(text)}; }
    static Constraint regex(std::string text) { return {AQUILA_CONSTRAINT_REGEX, std::move(text)}; }
    static Constraint lark(std::string text) { return {AQUILA_CONSTRAINT_LARK, std::move(text)}; }
};

/// How to generate: the fields of aquila_gen_params, with its defaults.
struct Params {
    std::uint32_t flags, max_tokens, min_tokens;
    float temperature, top_p, min_p, typical_p;
    std::int32_t top_k, penalty_last_n;
    float repeat_penalty, frequency_penalty, presence_penalty;
    std::uint64_t seed;
    std::vector<std::string> stop;
    std::vector<std::int32_t> stop_tokens;
    std::vector<aquila_logit_bias> logit_bias;
    std::uint32_t speculate;
    std::int64_t deadline_ms;
    std::int32_t priority;
    Constraint constraint;

    Params() {
        aquila_gen_params raw;
        aquila_gen_params_init(&raw, sizeof raw);
        flags = raw.flags;
        max_tokens = raw.max_tokens;
        min_tokens = raw.min_tokens;
        temperature = raw.temperature;
        top_p = raw.top_p;
        min_p = raw.min_p;
        typical_p = raw.typical_p;
        top_k = raw.top_k;
        penalty_last_n = raw.penalty_last_n;
        repeat_penalty = raw.repeat_penalty;
        frequency_penalty = raw.frequency_penalty;
        presence_penalty = raw.presence_penalty;
        seed = raw.seed;
        speculate = raw.speculate;
        deadline_ms = raw.deadline_ms;
        priority = raw.priority;
    }

    /// The same for C; `strings` holds the addresses of the stop strings, and both are valid while this
    /// is unchanged.
    aquila_gen_params raw(std::vector<const char *> &strings) const {
        for (const std::string &text : stop) strings.push_back(text.c_str());
        aquila_gen_params out;
        aquila_gen_params_init(&out, sizeof out);
        out.flags = flags;
        out.max_tokens = max_tokens;
        out.min_tokens = min_tokens;
        out.temperature = temperature;
        out.top_p = top_p;
        out.min_p = min_p;
        out.typical_p = typical_p;
        out.top_k = top_k;
        out.penalty_last_n = penalty_last_n;
        out.repeat_penalty = repeat_penalty;
        out.frequency_penalty = frequency_penalty;
        out.presence_penalty = presence_penalty;
        out.seed = seed;
        out.stop = detail::first(strings);
        out.stop_tokens = detail::first(stop_tokens);
        out.logit_bias = detail::first(logit_bias);
        out.n_stop = static_cast<std::uint32_t>(strings.size());
        out.n_stop_tokens = static_cast<std::uint32_t>(stop_tokens.size());
        out.n_logit_bias = static_cast<std::uint32_t>(logit_bias.size());
        out.speculate = speculate;
        out.deadline_ms = deadline_ms;
        out.priority = priority;
        out.constraint_kind = constraint.kind;
        out.constraint = constraint.kind == AQUILA_CONSTRAINT_NONE ? nullptr : constraint.text.c_str();
        return out;
    }
};

/// What a generation says while it runs. Valid until the callback returns; of Request::next, until the next call
/// of that on the request.
class Event {
public:
    explicit Event(const aquila_event *raw) : raw_(raw) {}
    /// AQUILA_EVENT_...
    std::uint32_t kind() const { return raw_->kind; }
    std::string_view text() const { return {raw_->text, raw_->text_size}; }
    std::vector<std::int32_t> tokens() const { return {raw_->tokens, raw_->tokens + raw_->n_tokens}; }
    /// AQUILA_FINISH_..., of the last event.
    std::uint32_t finish() const { return raw_->finish; }
    const aquila_event &raw() const { return *raw_; }

private:
    const aquila_event *raw_;
};

/// How a streamed generation ended.
struct Outcome {
    std::uint32_t finish = AQUILA_FINISH_NONE;
    aquila_stats stats = {};
};

/// A finished text.
class Result {
public:
    Result() = default;
    explicit Result(aquila_result *owned) : handle_(owned) {}
    Result(Result &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Result &operator=(Result &&other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Result() { aquila_result_free(handle_); }

    /// Valid while this lives, as is json().
    std::string_view text() const {
        std::size_t size = 0;
        const char *text = aquila_result_text(handle_, &size);
        return {text, size};
    }
    std::string_view json() const {
        std::size_t size = 0;
        const char *text = aquila_result_json(handle_, &size);
        return {text, size};
    }
    std::vector<std::int32_t> tokens() const {
        std::size_t count = 0;
        const std::int32_t *tokens = aquila_result_tokens(handle_, &count);
        return {tokens, tokens + count};
    }
    std::vector<float> logprobs() const {
        std::size_t count = 0;
        const float *logprobs = aquila_result_logprobs(handle_, &count);
        return {logprobs, logprobs + count};
    }
    /// AQUILA_FINISH_...
    std::uint32_t finish() const { return aquila_result_finish(handle_); }
    /// All zero for an empty result.
    aquila_stats stats() const {
        aquila_stats stats = {};
        stats.struct_size = sizeof stats;
        static_cast<void>(aquila_result_stats(handle_, &stats));
        return stats;
    }
    aquila_result *get() const { return handle_; }

private:
    aquila_result *handle_ = nullptr;
};

/// Milliseconds to wait.
using Wait = std::int64_t;

/// Where requests are given out when they have an event, so that one thread can wait for hundreds.
class Queue {
public:
    Queue() = default;
    explicit Queue(aquila_queue *owned) : handle_(owned) {}
    Queue(Queue &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Queue &operator=(Queue &&other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Queue() { aquila_queue_free(handle_); }

    [[nodiscard]] static Failure try_create(Queue &out) {
        Failure failure;
        aquila_queue *handle = nullptr;
        aquila_queue_create(&handle, failure.raw());
        if (failure.ok()) out = Queue(handle);
        return failure;
    }

    /// Waits until requests have events, and gives their `user` pointers: none when the time passed, and when woken.
    [[nodiscard]] Failure try_wait(std::vector<void *> &users, Wait timeout_ms = AQUILA_FOREVER) const {
        aquila_request *ready[64];
        std::size_t count = 0;
        Failure failure;
        users.clear();
        if (aquila_queue_wait(handle_, ready, 64, &count, timeout_ms, failure.raw()) >= AQUILA_OK) failure = Failure();
        for (std::size_t i = 0; i < count; i++) users.push_back(aquila_request_user(ready[i]));
        return failure;
    }

    /// Makes one wait return.
    void wake() const { aquila_queue_wake(handle_); }
    /// Readable while a wait would not wait; for poll, select and epoll.
    int fd() const { return aquila_queue_fd(handle_); }
    aquila_queue *get() const { return handle_; }

private:
    aquila_queue *handle_ = nullptr;
};

/// A generation in flight. Destroying it cancels it.
class Request {
public:
    Request() = default;
    explicit Request(aquila_request *owned) : handle_(owned) {}
    Request(Request &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Request &operator=(Request &&other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Request() { aquila_request_free(handle_); }

    /// Waits for the next event, which is kept here. `out` is AQUILA_OK with an event, AQUILA_TIMEOUT without one,
    /// AQUILA_DONE after the last one.
    [[nodiscard]] Failure try_next(aquila_status &out, Wait timeout_ms = AQUILA_FOREVER) {
        event_ = {};
        event_.struct_size = sizeof event_;
        return succeeded(out, [&](aquila_error *error) { return aquila_next(handle_, &event_, timeout_ms, error); });
    }
    /// What try_next found.
    Event event() const { return Event(&event_); }

    /// Waits for the end, and gives all that was made. `out` is AQUILA_TIMEOUT without a result.
    [[nodiscard]] Failure try_wait(aquila_status &out, Result &result, Wait timeout_ms = AQUILA_FOREVER) const {
        aquila_result *handle = nullptr;
        const Failure failure = succeeded(
            out, [&](aquila_error *error) { return aquila_wait(handle_, timeout_ms, &handle, error); });
        if (handle != nullptr) result = Result(handle);
        return failure;
    }

    /// From any thread.
    void cancel() const { aquila_cancel(handle_); }
    aquila_request *get() const { return handle_; }

#ifndef AQUILA_NO_EXCEPTIONS
    /// Whether there is another event, in event(); waits for it.
    bool next() {
        aquila_status status = AQUILA_OK;
        detail::check(try_next(status));
        return status == AQUILA_OK;
    }
    Result wait() const {
        Result out;
        aquila_status status = AQUILA_OK;
        detail::check(try_wait(status, out));
        return out;
    }
#endif

private:
    /// A positive status is no failure.
    template <class Call>
    static Failure succeeded(aquila_status &out, const Call &call) {
        Failure failure;
        out = call(failure.raw());
        return out >= AQUILA_OK ? Failure() : failure;
    }

    aquila_request *handle_ = nullptr;
    aquila_event event_ = {};
};

/// A text that grows from request to request. Destroying it changes nothing for a request that runs on it.
class Session {
public:
    Session() = default;
    explicit Session(aquila_session *owned) : handle_(owned) {}
    Session(Session &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Session &operator=(Session &&other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Session() { aquila_session_free(handle_); }

    aquila_session *get() const { return handle_; }
    /// Its tokens; while a request runs on it, how many it had before.
    std::size_t length() const { return aquila_session_length(handle_); }

    /// A copy that goes its own way.
    [[nodiscard]] Failure try_fork(Session &out) const {
        return made(out, [&](aquila_session **copy, aquila_error *error) {
            aquila_session_fork(handle_, copy, error);
        });
    }
    /// Cuts it to its first `length` tokens.
    [[nodiscard]] Failure try_rollback(std::size_t length) const {
        Failure failure;
        aquila_session_rollback(handle_, length, failure.raw());
        return failure;
    }
    [[nodiscard]] Failure try_tokens(std::vector<std::int32_t> &out) const {
        Failure failure;
        std::vector<std::int32_t> found(length());
        std::size_t count = 0;
        aquila_session_tokens(handle_, found.data(), found.size(), &count, failure.raw());
        if (failure.ok()) out = std::move(found);
        return failure;
    }
    /// Writes it to a file, which Engine::restore reads.
    [[nodiscard]] Failure try_save(const std::string &path) const {
        Failure failure;
        aquila_session_save(handle_, path.c_str(), failure.raw());
        return failure;
    }

#ifndef AQUILA_NO_EXCEPTIONS
    Session fork() const {
        Session out;
        detail::check(try_fork(out));
        return out;
    }
    void rollback(std::size_t length) const { detail::check(try_rollback(length)); }
    std::vector<std::int32_t> tokens() const {
        std::vector<std::int32_t> out;
        detail::check(try_tokens(out));
        return out;
    }
    void save(const std::string &path) const { detail::check(try_save(path)); }
#endif

private:
    friend class Engine;

    template <class Call> static Failure made(Session &out, const Call &call) {
        Failure failure;
        aquila_session *handle = nullptr;
        call(&handle, failure.raw());
        if (failure.ok()) out = Session(handle);
        return failure;
    }

    aquila_session *handle_ = nullptr;
};

/// A loaded model.
class Engine {
public:
    using OnEvent = std::function<bool(const Event &)>;

    Engine() = default;
    explicit Engine(aquila_engine *owned) : handle_(owned) {}
    Engine(Engine &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Engine &operator=(Engine &&other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Engine() { close(); }

    /// Ends all requests, also those of other threads, and gives the memory back. Later calls fail with
    /// AQUILA_ERR_CLOSED.
    void close() const { aquila_free(handle_); }
    aquila_engine *get() const { return handle_; }

    [[nodiscard]] static Failure try_load(const std::string &model, const LoadOptions &options, Engine &out) {
        using Progress = detail::Carrier<std::string_view, std::uint64_t, std::uint64_t>;
        Progress progress(options.progress);
        aquila_load_options raw = options.raw();
        if (options.progress) {
            raw.progress = [](const char *stage, std::uint64_t done, std::uint64_t total, void *user) {
                return static_cast<Progress *>(user)->call(stage, done, total);
            };
            raw.progress_user = &progress;
        }
        Failure failure;
        aquila_engine *handle = nullptr;
        aquila_load(model.c_str(), &raw, &handle, failure.raw());
        Engine loaded(handle);
        progress.finish();
        if (failure.ok()) out = std::move(loaded);
        return failure;
    }

    [[nodiscard]] Failure try_generate(const std::string &prompt, const Params &params, Result &out) const {
        if (is_cut(prompt)) return cut();
        std::vector<const char *> strings;
        const aquila_gen_params raw = params.raw(strings);
        Failure failure;
        aquila_result *handle = nullptr;
        aquila_generate(handle_, prompt.c_str(), &raw, &handle, failure.raw());
        if (failure.ok()) out = Result(handle);
        return failure;
    }

    [[nodiscard]] Failure try_stream(const std::string &prompt, const Params &params, const OnEvent &on_event,
                                     Outcome &out) const {
        if (is_cut(prompt)) return cut();
        const OnEvent keep = [&](const Event &event) {
            if (event.kind() == AQUILA_EVENT_FINISH) out = {event.finish(), *event.raw().stats};
            return on_event(event);
        };
        using Events = detail::Carrier<const Event &>;
        Events events(keep);
        const auto call = [](const aquila_event *event, void *user) {
            return static_cast<Events *>(user)->call(Event(event));
        };
        std::vector<const char *> strings;
        const aquila_gen_params raw = params.raw(strings);
        Failure failure;
        aquila_stream(handle_, prompt.c_str(), &raw, call, &events, failure.raw());
        events.finish();
        return failure;
    }

    /// Starts a request with text; AQUILA_GEN_MESSAGES in the parameters makes it a chat. `user` is what a queue
    /// gives for it; `session` is what it continues.
    [[nodiscard]] Failure try_submit(std::string_view prompt, const Params &params, Request &out,
                                     const Queue *queue = nullptr, void *user = nullptr,
                                     const Session *session = nullptr) const {
        aquila_job job = {};
        job.input = data(prompt);
        job.input_size = prompt.size();
        return start(job, params, out, queue, user, session);
    }
    /// The same with token ids.
    [[nodiscard]] Failure try_submit(const std::vector<std::int32_t> &ids, const Params &params, Request &out,
                                     const Queue *queue = nullptr, void *user = nullptr,
                                     const Session *session = nullptr) const {
        aquila_job job = {};
        job.input_kind = AQUILA_INPUT_TOKENS;
        job.input = detail::first(ids);
        job.input_size = ids.size();
        return start(job, params, out, queue, user, session);
    }

    /// An empty session.
    [[nodiscard]] Failure try_session(Session &out) const {
        return Session::made(out, [&](aquila_session **session, aquila_error *error) {
            aquila_session_create(handle_, session, error);
        });
    }
    /// One that was saved.
    [[nodiscard]] Failure try_restore(const std::string &path, Session &out) const {
        return Session::made(out, [&](aquila_session **session, aquila_error *error) {
            aquila_session_restore(handle_, path.c_str(), session, error);
        });
    }

    /// The log-probability of each of `choices` after `prompt`.
    [[nodiscard]] Failure try_score(const std::string &prompt, const std::vector<std::string> &choices,
                                    std::vector<double> &out) const {
        std::vector<const char *> strings;
        for (const std::string &choice : choices) strings.push_back(choice.c_str());
        std::vector<double> found(choices.size());
        Failure failure;
        aquila_score(handle_, prompt.c_str(), detail::first(strings), strings.size(), found.data(), failure.raw());
        if (failure.ok()) out = std::move(found);
        return failure;
    }

    /// One vector of `hidden` numbers for each text, one behind the other.
    [[nodiscard]] Failure try_embed(const std::vector<std::string> &texts, std::vector<float> &out) const {
        std::vector<const char *> strings;
        for (const std::string &text : texts) strings.push_back(text.c_str());
        Failure failure;
        std::size_t width = 0;
        aquila_embed(handle_, nullptr, 0, nullptr, 0, &width, failure.raw());
        if (!failure.ok()) return failure;
        std::vector<float> found(texts.size() * width);
        if (!found.empty())
            aquila_embed(handle_, strings.data(), strings.size(), found.data(), found.size(), nullptr, failure.raw());
        if (failure.ok()) out = std::move(found);
        return failure;
    }

    /// What the engine does now, and what it has done.
    [[nodiscard]] Failure try_stats(aquila_engine_stats &out) const {
        out.struct_size = sizeof out;
        return Failure::of(aquila_get_stats(handle_, &out));
    }

    /// The same in the text form of Prometheus.
    [[nodiscard]] Failure try_metrics_text(std::string &out) const {
        return text_of(out, [&](char *text, std::size_t capacity, std::size_t *size, aquila_error *error) {
            aquila_metrics_text(handle_, text, capacity, size, error);
        });
    }

    [[nodiscard]] Failure try_tokenize(std::string_view text, std::uint32_t flags,
                                       std::vector<std::int32_t> &out) const {
        Failure failure;
        std::size_t count = 0;
        aquila_tokenize(handle_, data(text), text.size(), flags, nullptr, 0, &count, failure.raw());
        if (!failure.ok() || count == 0) {
            if (failure.ok()) out.clear();
            return failure;
        }
        out.resize(count);
        aquila_tokenize(handle_, data(text), text.size(), flags, out.data(), count, &count, failure.raw());
        return failure;
    }

    [[nodiscard]] Failure try_detokenize(const std::vector<std::int32_t> &ids, std::uint32_t flags,
                                         std::string &out) const {
        return text_of(out, [&](char *text, std::size_t capacity, std::size_t *size, aquila_error *error) {
            aquila_detokenize(handle_, detail::first(ids), ids.size(), flags, text, capacity, size, error);
        });
    }

    [[nodiscard]] Failure try_apply_template(const std::string &messages, const std::string &tools,
                                             bool add_prompt, std::string &out) const {
        return text_of(out, [&](char *text, std::size_t capacity, std::size_t *size, aquila_error *error) {
            aquila_apply_template(handle_, messages.c_str(), detail::nullable(tools), add_prompt ? 1u : 0u, text,
                                  capacity, size, error);
        });
    }

    [[nodiscard]] Failure try_json(std::string &out) const {
        return text_of(out, [&](char *text, std::size_t capacity, std::size_t *size, aquila_error *error) {
            aquila_engine_json(handle_, text, capacity, size, error);
        });
    }

    [[nodiscard]] Failure try_info(aquila_engine_info &out) const {
        out.struct_size = sizeof out;
        return Failure::of(aquila_get_info(handle_, &out));
    }

#ifndef AQUILA_NO_EXCEPTIONS
    /// Loads a model: a directory (Hugging Face's or FlagAI's, or one that holds part_model) or a GGUF file.
    explicit Engine(const std::string &model, const LoadOptions &options = {}) {
        detail::check(try_load(model, options, *this));
    }

    Result generate(const std::string &prompt, const Params &params = {}) const {
        Result out;
        detail::check(try_generate(prompt, params, out));
        return out;
    }

    /// Calls `on_event` for each event, on this thread; false stops.
    Outcome stream(const std::string &prompt, const Params &params, const OnEvent &on_event) const {
        Outcome out;
        detail::check(try_stream(prompt, params, on_event, out));
        return out;
    }

    Request submit(std::string_view prompt, const Params &params = {}, const Queue *queue = nullptr,
                   void *user = nullptr, const Session *session = nullptr) const {
        Request out;
        detail::check(try_submit(prompt, params, out, queue, user, session));
        return out;
    }

    Session session() const {
        Session out;
        detail::check(try_session(out));
        return out;
    }
    Session restore(const std::string &path) const {
        Session out;
        detail::check(try_restore(path, out));
        return out;
    }

    std::vector<std::int32_t> tokenize(std::string_view text, std::uint32_t flags = 0) const {
        std::vector<std::int32_t> out;
        detail::check(try_tokenize(text, flags, out));
        return out;
    }

    std::string detokenize(const std::vector<std::int32_t> &ids, std::uint32_t flags = 0) const {
        std::string out;
        detail::check(try_detokenize(ids, flags, out));
        return out;
    }

    /// `messages` is JSON, an array or an object with "messages", "tools" and options; `tools` is a JSON array, or
    /// empty.
    std::string apply_template(const std::string &messages, const std::string &tools = {},
                               bool add_prompt = true) const {
        std::string out;
        detail::check(try_apply_template(messages, tools, add_prompt, out));
        return out;
    }

    std::string json() const {
        std::string out;
        detail::check(try_json(out));
        return out;
    }

    aquila_engine_info info() const {
        aquila_engine_info out = {};
        detail::check(try_info(out));
        return out;
    }
#endif

private:
    Failure start(aquila_job &job, const Params &params, Request &out, const Queue *queue, void *user,
                  const Session *session) const {
        std::vector<const char *> strings;
        const aquila_gen_params raw = params.raw(strings);
        job.struct_size = sizeof job;
        job.params = &raw;
        job.queue = queue == nullptr ? nullptr : queue->get();
        job.user = user;
        job.session = session == nullptr ? nullptr : session->get();
        Failure failure;
        aquila_request *handle = nullptr;
        aquila_submit(handle_, &job, &handle, failure.raw());
        if (failure.ok()) out = Request(handle);
        return failure;
    }

    /// An address also for the empty view, which may have none.
    static const char *data(std::string_view text) { return text.empty() ? "" : text.data(); }

    /// C reads a prompt up to its first NUL: one inside would cut it in silence.
    static bool is_cut(const std::string &prompt) { return prompt.find('\0') != std::string::npos; }
    static Failure cut() { return {AQUILA_ERR_ARGUMENT, "prompt: a NUL inside it, expected text without"}; }

    /// The two-call protocol: ask for the size, then for the text.
    template <typename Call> static Failure text_of(std::string &out, const Call &call) {
        Failure failure;
        std::size_t size = 0;
        call(nullptr, 0, &size, failure.raw());
        if (!failure.ok()) return failure;
        std::string text(size, '\0');
        call(text.data(), size + 1, &size, failure.raw());
        if (failure.ok()) out = std::move(text);
        return failure;
    }

    aquila_engine *handle_ = nullptr;
};

} // namespace v1
} // namespace aquila

#endif // AQUILA_HPP
