// aquila.hpp: ownership, exceptions carried through C, and the twins without exceptions.
#include <aquila.hpp>

#include <cstdio>
#include <string>
#include <type_traits>

static int failures;
#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            failures++;                                                               \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);      \
        }                                                                             \
    } while (0)

std::size_t second_unit(const aquila::Engine &engine); // wrapper_second.cpp

static_assert(!std::is_copy_constructible_v<aquila::Engine> && std::is_nothrow_move_constructible_v<aquila::Engine>);
static_assert(!std::is_copy_constructible_v<aquila::Result> && std::is_nothrow_move_assignable_v<aquila::Result>);

static void without_exceptions(const char *model) {
    aquila::Engine engine;
    aquila::Failure failure = aquila::Engine::try_load("/no/such/model", {}, engine);
    CHECK(!failure.ok() && failure.status() == AQUILA_ERR_NOT_FOUND && engine.get() == nullptr);
    CHECK(std::string(failure.message()).find("/no/such/model") != std::string::npos);
    CHECK(aquila::Engine::try_load(model, {}, engine).ok());

    aquila::Params params;
    params.max_tokens = 6;
    params.flags = AQUILA_GEN_IGNORE_EOS;
    aquila::Result result;
    CHECK(result.text().empty() && result.tokens().empty() && result.finish() == AQUILA_FINISH_NONE);
    CHECK(engine.try_generate("hello", params, result).ok());
    CHECK(result.tokens().size() == 6 && result.logprobs().size() == 6 && result.stats().output_tokens == 6);
    CHECK(result.json().find("\"finish\"") != std::string_view::npos);

    std::string streamed;
    aquila::Outcome outcome;
    CHECK(engine.try_stream("hello", params, [&](const aquila::Event &event) {
        streamed += event.text();
        return true;
    }, outcome).ok());
    CHECK(streamed == result.text() && outcome.finish == AQUILA_FINISH_LENGTH && outcome.stats.output_tokens == 6);
    const std::string nul("hello\0world", 11);
    CHECK(engine.try_generate(nul, params, result).status() == AQUILA_ERR_ARGUMENT && result.tokens().size() == 6);
    failure = engine.try_stream(nul, params, [](const aquila::Event &) { return true; }, outcome);
    CHECK(failure.status() == AQUILA_ERR_ARGUMENT && std::string(failure.message()).find("NUL") != std::string::npos);
    params.max_tokens = 50;
    CHECK(engine.try_stream("hello", params, [](const aquila::Event &) { return false; }, outcome).ok());
    CHECK(outcome.finish == AQUILA_FINISH_CANCELLED);

    aquila::Params answer = params;
    aquila::Result limited;
    answer.max_tokens = 40;
    answer.constraint = aquila::Constraint::regex("(yes|no), [0-9]{3}");
    CHECK(engine.try_generate("hello", answer, limited).ok() && limited.finish() == AQUILA_FINISH_STOP);
    const std::string fits(limited.text());
    CHECK((fits.rfind("yes, ", 0) == 0 || fits.rfind("no, ", 0) == 0) && fits.size() == fits.find(' ') + 4);
    answer.constraint = aquila::Constraint::json_schema("{\"type\": 1}");
    failure = engine.try_generate("hello", answer, limited);
    CHECK(failure.status() == AQUILA_ERR_CONSTRAINT && limited.text() == fits);
    answer.constraint = aquila::Constraint::lark("start: \"a\"");
    CHECK(engine.try_generate("hello", answer, limited).ok() && limited.text() == "a");

    aquila::Queue queue;
    aquila::Request request, other;
    aquila_status status = AQUILA_ERR_STATE;
    params.max_tokens = 6;
    CHECK(aquila::Queue::try_create(queue).ok() && queue.fd() >= 0);
    CHECK(engine.try_submit("hello", params, request, &queue, &streamed).ok());
    CHECK(engine.try_submit(std::vector<std::int32_t>{65, 66}, params, other).ok());
    std::vector<void *> users;
    CHECK(queue.try_wait(users).ok() && users.size() == 1 && users[0] == &streamed);
    std::string pieces;
    while (request.try_next(status).ok() && status == AQUILA_OK) pieces += request.event().text();
    CHECK(status == AQUILA_DONE && pieces == streamed);
    aquila::Result waited;
    CHECK(other.try_wait(status, waited).ok() && status == AQUILA_OK && waited.tokens().size() == 6);
    queue.wake();
    CHECK(queue.try_wait(users, 0).ok() && users.empty());
    CHECK(aquila::Request().try_wait(status, waited, 0).status() == AQUILA_ERR_ARGUMENT);
    aquila::Session session, copy;
    std::vector<std::int32_t> said;
    CHECK(engine.try_session(session).ok() && session.length() == 0);
    CHECK(engine.try_submit("hello", params, request, nullptr, nullptr, &session).ok());
    CHECK(request.try_wait(status, waited).ok() && session.try_tokens(said).ok() && said.size() == session.length());
    CHECK(session.try_fork(copy).ok() && copy.try_rollback(2).ok() && copy.length() == 2 && session.length() > 2);
    CHECK(copy.try_save("/nonexistent/x").status() == AQUILA_ERR_NOT_FOUND);
    CHECK(engine.try_restore("/nonexistent/x", copy).status() == AQUILA_ERR_NOT_FOUND && copy.length() == 2);
    std::vector<double> scores;
    std::vector<float> vectors;
    CHECK(engine.try_score("hello", {" world", "!"}, scores).ok() && scores.size() == 2 && scores[0] < 0);
    CHECK(engine.try_embed({"hello", "world"}, vectors).ok() && vectors.size() == 2 * 64);
    aquila_engine_stats stats = {};
    std::string metrics;
    CHECK(engine.try_stats(stats).ok() && stats.requests >= 5);
    CHECK(engine.try_metrics_text(metrics).ok() && metrics.find("aquila_steps_total") != std::string::npos);

    std::vector<std::int32_t> ids;
    std::string text;
    CHECK(engine.try_tokenize("hello world", 0, ids).ok() && !ids.empty());
    CHECK(engine.try_detokenize(ids, 0, text).ok() && text == "hello world");
    CHECK(engine.try_tokenize("", 0, ids).ok() && ids.empty());
    CHECK(engine.try_detokenize(ids, 0, text).ok() && text.empty());
    CHECK(engine.try_detokenize({-1}, 0, text).status() == AQUILA_ERR_ARGUMENT);
    aquila_engine_info info = {};
    CHECK(engine.try_info(info).ok() && info.layers == 2);
    CHECK(second_unit(engine) == 1);

    aquila::Engine moved = std::move(engine);
    CHECK(moved.try_json(text).ok() && text.find("\"cpu\"") != std::string::npos);
    moved.close();
    CHECK(moved.try_generate("hello", params, result).status() == AQUILA_ERR_CLOSED);
    CHECK(result.tokens().size() == 6); // untouched by the failure
}

#ifndef AQUILA_NO_EXCEPTIONS
struct Mine {
    int value;
};

static void with_exceptions(const char *model) {
    aquila::LoadOptions options;
    options.progress = [](std::string_view, std::uint64_t, std::uint64_t) -> bool { throw Mine{1}; };
    try {
        aquila::Engine engine(model, options);
        CHECK(false);
    } catch (const Mine &mine) {
        CHECK(mine.value == 1);
    }
    try {
        aquila::Engine engine("/no/such/model");
        CHECK(false);
    } catch (const aquila::Error &error) {
        CHECK(error.status() == AQUILA_ERR_NOT_FOUND && std::string(error.what()).find("/no/such") == 0);
    }
    const aquila::Engine engine(model);
    int events = 0;
    try {
        engine.stream("hello", {}, [&](const aquila::Event &) -> bool {
            events++;
            throw Mine{2};
        });
        CHECK(false);
    } catch (const Mine &mine) {
        CHECK(mine.value == 2 && events == 1);
    }
    aquila::Params params;
    params.max_tokens = 3;
    params.stop = {"never in the text"};
    CHECK(engine.generate("hello", params).finish() != AQUILA_FINISH_NONE);
    CHECK(engine.detokenize(engine.tokenize("hello")) == "hello");
    CHECK(engine.info().max_context == 128);
}
#endif

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    without_exceptions(argv[1]);
#ifndef AQUILA_NO_EXCEPTIONS
    with_exceptions(argv[1]);
#endif
    return failures != 0;
}
