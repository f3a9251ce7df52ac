/* Requests: submit, next, wait, cancel, deadlines, tokens and messages, misuse. */
#include "check.h"

#include <pthread.h>
#include <unistd.h>

static aquila_request *submit(aquila_engine *engine, const char *text, const aquila_gen_params *params) {
    aquila_job job = job_of(text, params);
    aquila_request *request;
    aquila_error error;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_OK);
    return request;
}

static aquila_event empty_event(void) {
    aquila_event event;
    memset(&event, 0, sizeof event);
    event.struct_size = sizeof event;
    return event;
}

/* All events of a request, one after another, say what aquila_generate says. */
static void events_are_the_text(aquila_engine *engine) {
    aquila_gen_params params = short_params(20);
    aquila_request *request = submit(engine, "hello world", &params);
    aquila_event event = empty_event();
    aquila_result *whole, *waited, *again;
    char text[4096] = "";
    int32_t tokens[64];
    size_t n = 0, count, size;
    int finished = 0;
    aquila_error error;
    aquila_status status;

    EXPECT(aquila_generate(engine, "hello world", &params, &whole, &error), AQUILA_OK);
    while ((status = aquila_next(request, &event, AQUILA_FOREVER, &error)) == AQUILA_OK) {
        CHECK(!finished && event.struct_size == sizeof event && event.text != NULL);
        if (event.kind == AQUILA_EVENT_TEXT) {
            CHECK(strlen(event.text) == event.text_size && event.logprobs != NULL);
            strcat(text, event.text);
            memcpy(tokens + n, event.tokens, event.n_tokens * sizeof *tokens);
            n += event.n_tokens;
        } else if (event.kind == AQUILA_EVENT_PREFILL) {
            CHECK(event.prefill_done <= event.prefill_total && n == 0);
        } else {
            CHECK(event.kind == AQUILA_EVENT_FINISH && event.finish == AQUILA_FINISH_LENGTH);
            CHECK(event.status == AQUILA_OK && event.stats->output_tokens == 20);
            finished = 1;
        }
    }
    CHECK(status == AQUILA_DONE && error.status == AQUILA_DONE && error.message[0] == '\0' && finished);
    CHECK(aquila_next(request, &event, 0, NULL) == AQUILA_DONE);
    CHECK(strcmp(text, aquila_result_text(whole, NULL)) == 0);
    CHECK(n == 20 && memcmp(tokens, aquila_result_tokens(whole, &count), n * sizeof *tokens) == 0 && count == n);

    /* What was read by events is in the result, too, as often as it is asked for. */
    EXPECT(aquila_wait(request, 0, &waited, &error), AQUILA_OK);
    EXPECT(aquila_wait(request, AQUILA_FOREVER, &again, &error), AQUILA_OK);
    aquila_request_free(request);
    CHECK(strcmp(aquila_result_text(waited, &size), text) == 0 && size == strlen(text));
    CHECK(strcmp(aquila_result_text(again, NULL), text) == 0);
    CHECK(aquila_result_finish(again) == AQUILA_FINISH_LENGTH);
    aquila_result_free(waited);
    aquila_result_free(again);
    aquila_result_free(whole);
}

/* The same text from its ids, and a chat from messages. */
static void other_inputs(aquila_engine *engine) {
    static const char chat[] = "[{\"role\":\"user\",\"content\":\"hello\"}]";
    aquila_gen_params params = short_params(10);
    aquila_job job = job_of(NULL, &params);
    aquila_request *request;
    aquila_result *of_text, *of_ids;
    aquila_error error;
    int32_t ids[64];
    size_t n;

    EXPECT(aquila_generate(engine, "hello world", &params, &of_text, &error), AQUILA_OK);
    EXPECT(aquila_tokenize(engine, "hello world", AQUILA_NTS, AQUILA_TOK_ADD_SPECIAL, ids, 64, &n, &error), AQUILA_OK);
    job.input_kind = AQUILA_INPUT_TOKENS;
    job.input = ids;
    job.input_size = n;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_OK);
    EXPECT(aquila_wait(request, AQUILA_FOREVER, &of_ids, &error), AQUILA_OK);
    CHECK(strcmp(aquila_result_text(of_text, NULL), aquila_result_text(of_ids, NULL)) == 0);
    aquila_request_free(request);
    aquila_result_free(of_text);
    aquila_result_free(of_ids);

    ids[0] = -1;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_ERR_ARGUMENT);
    CHECK(request == NULL && strstr(error.message, "input") != NULL);
    job.input_kind = AQUILA_INPUT_MESSAGES;
    job.input = chat;
    job.input_size = sizeof chat - 1;
    /* Its template's own words are more than this model's context. */
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_ERR_CONTEXT_FULL);
    job.input_kind = 9;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_ERR_ARGUMENT);
    CHECK(strstr(error.message, "input_kind") != NULL);
}

/* The likeliest token of each place is the greedy choice, and the others follow in order. */
static void most_likely(aquila_engine *engine) {
    aquila_gen_params params = short_params(7);
    const aquila_logprob *top;
    const float *logprobs;
    const int32_t *tokens;
    aquila_result *result;
    aquila_error error;
    size_t n, all, i;

    params.n_logprobs = 3;
    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_OK);
    tokens = aquila_result_tokens(result, &n);
    logprobs = aquila_result_logprobs(result, NULL);
    top = aquila_result_top_logprobs(result, &all);
    CHECK(n == 7 && all == 21 && strstr(aquila_result_json(result, NULL), "\"top_logprobs\":[[[") != NULL);
    for (i = 0; i < n; i++) {
        float apart = top[3 * i].logprob - logprobs[i];
        CHECK(top[3 * i].token == tokens[i] && apart < 1e-5f && apart > -1e-5f);
        CHECK(top[3 * i].logprob >= top[3 * i + 1].logprob && top[3 * i + 1].logprob >= top[3 * i + 2].logprob);
    }
    aquila_result_free(result);
    CHECK(aquila_result_top_logprobs(result, &all) == NULL && all == 0);
    params.n_logprobs = 21;
    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_ERR_ARGUMENT);
    CHECK(strstr(error.message, "n_logprobs") != NULL);
}

static void *cancel_soon(void *request) {
    usleep(2000);
    aquila_cancel(request);
    return NULL;
}

/* A cancelled request and one past its deadline end with what they made. */
static void ended_early(aquila_engine *engine) {
    aquila_gen_params params = short_params(0);
    aquila_request *request;
    aquila_result *result;
    aquila_error error;
    pthread_t thread;
    int i, cancelled = 0;

    for (i = 0; i < 20; i++) {
        request = submit(engine, "hello", &params);
        if (i % 2 == 0) aquila_cancel(request);
        CHECK(pthread_create(&thread, NULL, cancel_soon, request) == 0);
        EXPECT(aquila_wait(request, AQUILA_FOREVER, &result, &error), AQUILA_OK);
        /* A busy machine may let the small model fill its context before the caller goes on to cancel it. */
        CHECK(aquila_result_finish(result) == AQUILA_FINISH_CANCELLED ||
              aquila_result_finish(result) == AQUILA_FINISH_CONTEXT);
        if (i % 2 == 0) cancelled += aquila_result_finish(result) == AQUILA_FINISH_CANCELLED;
        pthread_join(thread, NULL);
        aquila_result_free(result);
        aquila_request_free(request);
    }
    CHECK(cancelled > 0);
    params.deadline_ms = 1;
    for (i = 0; i < 8; i++) { /* together, so that one step after another is late */
        aquila_request *all[8];
        int k, late = 0;
        for (k = 0; k < 8; k++) all[k] = submit(engine, "hello", &params);
        for (k = 0; k < 8; k++) {
            EXPECT(aquila_wait(all[k], AQUILA_FOREVER, &result, &error), AQUILA_OK);
            late += aquila_result_finish(result) == AQUILA_FINISH_DEADLINE;
            aquila_result_free(result);
            aquila_request_free(all[k]);
        }
        if (late > 0) break;
    }
    CHECK(i < 8);
    params.deadline_ms = -1;
    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_ERR_ARGUMENT);
    CHECK(strstr(error.message, "deadline_ms") != NULL);
}

/* A look without waiting, a wait that runs out, and a free while another thread waits. */
static void waits(aquila_engine *engine) {
    aquila_gen_params params = short_params(0);
    aquila_request *running = submit(engine, "hello", &params);
    aquila_event event = empty_event();
    aquila_result *result = (aquila_result *)&event;
    aquila_error error;
    aquila_status status;

    status = aquila_wait(running, 0, &result, &error);
    CHECK(status == AQUILA_TIMEOUT ? result == NULL && error.status == AQUILA_TIMEOUT : status == AQUILA_OK);
    aquila_result_free(result);
    EXPECT(aquila_next(running, &event, -2, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_next(running, NULL, 0, &error), AQUILA_ERR_ARGUMENT);
    event.struct_size = 3;
    EXPECT(aquila_next(running, &event, 0, &error), AQUILA_ERR_ARGUMENT);
    event.struct_size = offsetof(aquila_event, finish); /* as from an older header */
    CHECK((status = aquila_next(running, &event, AQUILA_FOREVER, &error)) == AQUILA_OK);
    aquila_request_free(running);
    aquila_request_free(running);
    EXPECT(aquila_next(running, &event, 0, &error), AQUILA_ERR_CLOSED);
    EXPECT(aquila_wait(running, 0, &result, &error), AQUILA_ERR_CLOSED);
    CHECK(aquila_request_user(running) == NULL);
    aquila_cancel(running);
    aquila_cancel(NULL);
    aquila_request_free(NULL);
}

static void *wait_to_the_end(void *request) {
    aquila_result *result;
    while (aquila_wait(request, AQUILA_FOREVER, &result, NULL) == AQUILA_ERR_BUSY) usleep(100);
    aquila_result_free(result);
    return NULL;
}

/* One reader at a time: the second is told so at once, and loses nothing by it. */
static void two_readers(aquila_engine *engine) {
    aquila_gen_params params = short_params(0);
    int busy = 0, i;
    for (i = 0; i < 200 && !busy; i++) {
        aquila_request *request = submit(engine, "hello", &params);
        aquila_event event = empty_event();
        aquila_error error;
        aquila_status status;
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, wait_to_the_end, request) == 0);
        while ((status = aquila_next(request, &event, 0, &error)) != AQUILA_DONE && !busy) {
            busy = status == AQUILA_ERR_BUSY && strstr(error.message, "another thread") != NULL;
            CHECK(busy || status == AQUILA_OK || status == AQUILA_TIMEOUT);
        }
        pthread_join(thread, NULL);
        aquila_request_free(request);
    }
    CHECK(busy);
}

static void misuse(aquila_engine *engine) {
    aquila_job job = job_of("hello", NULL);
    aquila_request *request = (aquila_request *)&job;
    aquila_error error;

    EXPECT(aquila_submit(engine, NULL, &request, &error), AQUILA_ERR_ARGUMENT);
    CHECK(request == NULL);
    EXPECT(aquila_submit(engine, &job, NULL, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_submit(NULL, &job, &request, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_submit((aquila_engine *)&job, &job, &request, &error), AQUILA_ERR_ARGUMENT);
    job.queue = (aquila_queue *)engine;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_ERR_ARGUMENT);
    CHECK(strstr(error.message, "queue") != NULL);
    job = job_of(NULL, NULL);
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_ERR_ARGUMENT);
    job = job_of("a\xFF", NULL);
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_ERR_ARGUMENT);
    job.struct_size = 5;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_ERR_ARGUMENT);
}

/* Requests that outlive their engine say so; each other one still has its own user. */
static void engine_freed(aquila_engine *engine) {
    aquila_gen_params params = short_params(0);
    aquila_job job = job_of("hello", &params);
    aquila_request *requests[4];
    aquila_result *result;
    aquila_error error;
    int i;

    for (i = 0; i < 4; i++) {
        job.user = &requests[i];
        EXPECT(aquila_submit(engine, &job, &requests[i], &error), AQUILA_OK);
    }
    aquila_free(engine);
    for (i = 0; i < 4; i++) {
        CHECK(aquila_request_user(requests[i]) == &requests[i]);
        EXPECT(aquila_wait(requests[i], AQUILA_FOREVER, &result, &error), AQUILA_ERR_CLOSED);
        EXPECT(aquila_wait(requests[i], 0, &result, &error), AQUILA_ERR_CLOSED);
        aquila_request_free(requests[i]);
    }
    EXPECT(aquila_submit(engine, &job, &requests[0], &error), AQUILA_ERR_CLOSED);
}

int main(int argc, char **argv) {
    aquila_engine *engine;
    if (argc != 2) return 2;
    engine = load(argv[1]);
    events_are_the_text(engine);
    other_inputs(engine);
    most_likely(engine);
    ended_early(engine);
    waits(engine);
    two_readers(engine);
    misuse(engine);
    engine_freed(engine);
    return failures != 0;
}
