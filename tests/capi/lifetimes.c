/* What lives how long: inputs are copied, handles are freed under those that wait, callbacks stay on the caller's thread; a line
   that is full. */
#include "check.h"

#include <pthread.h>

/* All that a submission points to is overwritten as soon as the call has returned. */
static void inputs_are_copied(aquila_engine *engine) {
    char *texts[2] = {NULL, NULL};
    int i;
    for (i = 0; i < 2; i++) {
        char prompt[] = "hello the world", stop[] = "zqzq";
        const char *stops[] = {stop};
        int32_t stop_token = 3;
        aquila_logit_bias bias = {'e', 2};
        aquila_gen_params params = short_params(24);
        aquila_job job = job_of(prompt, &params);
        aquila_request *request;
        aquila_result *result;
        aquila_error error;
        params.temperature = 1;
        params.seed = 9;
        params.stop = stops, params.n_stop = 1;
        params.stop_tokens = &stop_token, params.n_stop_tokens = 1;
        params.logit_bias = &bias, params.n_logit_bias = 1;
        EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_OK);
        if (i == 1) {
            memset(prompt, 'x', sizeof prompt - 1);
            memset(stop, 0xFF, sizeof stop - 1);
            stops[0] = NULL;
            stop_token = -1;
            bias.token = -1;
            memset(&params, 0xFF, sizeof params);
            memset(&job, 0xFF, sizeof job);
        }
        EXPECT(aquila_wait(request, AQUILA_FOREVER, &result, &error), AQUILA_OK);
        texts[i] = strdup(aquila_result_text(result, NULL));
        aquila_result_free(result);
        aquila_request_free(request);
    }
    CHECK(strcmp(texts[0], texts[1]) == 0);
    free(texts[0]);
    free(texts[1]);
}

static int32_t on_thread(const aquila_event *event, void *caller) {
    (void)event;
    CHECK(pthread_equal(pthread_self(), *(pthread_t *)caller));
    return 0;
}
static int32_t progress_on_thread(const char *stage, uint64_t done, uint64_t total, void *caller) {
    (void)stage, (void)done, (void)total;
    CHECK(pthread_equal(pthread_self(), *(pthread_t *)caller));
    return 0;
}

static void callbacks_run_on_the_callers_thread(const char *model) {
    aquila_gen_params params = short_params(8);
    aquila_load_options options;
    aquila_engine *engine;
    aquila_error error;
    pthread_t self = pthread_self();
    aquila_load_options_init(&options, sizeof options);
    options.progress = progress_on_thread;
    options.progress_user = &self;
    EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_OK);
    EXPECT(aquila_stream(engine, "hello", &params, on_thread, &self, &error), AQUILA_OK);
    aquila_free(engine);
}

/* Somebody who waits, in one of three ways. */
struct waiter {
    aquila_engine *engine;
    aquila_request *request;
    int way, begun; /* atomic */
    aquila_status status;
    uint32_t finish;
};

static void *wait_to_the_end(void *argument) {
    struct waiter *waiter = argument;
    aquila_gen_params params = short_params(0);
    aquila_result *result = NULL;
    aquila_event event;
    event.struct_size = sizeof event;
    __atomic_store_n(&waiter->begun, 1, __ATOMIC_RELEASE);
    if (waiter->way == 0) waiter->status = aquila_wait(waiter->request, AQUILA_FOREVER, &result, NULL);
    if (waiter->way == 1) {
        while ((waiter->status = aquila_next(waiter->request, &event, AQUILA_FOREVER, NULL)) == AQUILA_OK)
            if (event.kind == AQUILA_EVENT_FINISH) waiter->finish = event.finish;
    }
    if (waiter->way == 2) waiter->status = aquila_generate(waiter->engine, "hello", &params, &result, NULL);
    if (result != NULL) waiter->finish = aquila_result_finish(result);
    aquila_result_free(result);
    return NULL;
}

/* The request, or its engine, is freed while a thread waits: that thread is told an end, whichever came first. */
static void freed_under_waiters(const char *model) {
    int round, i;
    for (round = 0; round < 60; round++) {
        int free_engine = round % 2, way = round / 2 % 3;
        aquila_gen_params params = short_params(0);
        aquila_job job = job_of("hello", &params);
        struct waiter waiter = {NULL, NULL, way, 0, 99, AQUILA_FINISH_NONE};
        aquila_request *others[8];
        aquila_error error;
        pthread_t thread;
        waiter.engine = load(model);
        for (i = 0; i < 8; i++) EXPECT(aquila_submit(waiter.engine, &job, &others[i], &error), AQUILA_OK);
        EXPECT(aquila_submit(waiter.engine, &job, &waiter.request, &error), AQUILA_OK);
        CHECK(pthread_create(&thread, NULL, wait_to_the_end, &waiter) == 0);
        while (!__atomic_load_n(&waiter.begun, __ATOMIC_ACQUIRE)) usleep(10);
        usleep((unsigned)round * 20);
        if (free_engine) aquila_free(waiter.engine);
        else aquila_request_free(waiter.request);
        pthread_join(thread, NULL);
        /* A waiter that came after the free is told AQUILA_ERR_CLOSED, too. */
        if (free_engine && way == 1) CHECK(waiter.status == AQUILA_DONE && waiter.finish != AQUILA_FINISH_NONE);
        else CHECK(waiter.status == AQUILA_ERR_CLOSED || waiter.finish != AQUILA_FINISH_NONE);
        for (i = 0; i < 8; i++) aquila_request_free(others[i]);
        aquila_request_free(waiter.request);
        aquila_free(waiter.engine);
    }
}

/* Beyond max_waiting a request is refused at once and counted. */
static void a_full_line(const char *model) {
    aquila_gen_params params = short_params(0);
    aquila_job job = job_of("hello", &params);
    aquila_load_options options;
    aquila_engine_stats stats;
    aquila_engine *engine;
    aquila_request *requests[400], *refused, *ready[4];
    aquila_error error;
    int n;
    size_t count = 0;
    aquila_load_options_init(&options, sizeof options);
    options.max_waiting = 2;
    options.max_batch = 1;
    EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_OK);
    EXPECT(aquila_queue_create(&job.queue, &error), AQUILA_OK);
    for (n = 0; n < 400; n++)
        if (aquila_submit(engine, &job, &requests[n], &error) != AQUILA_OK) break;
    CHECK(n < 400 && error.status == AQUILA_ERR_OVERLOADED && requests[n] == NULL);
    stats.struct_size = sizeof stats;
    CHECK(aquila_get_stats(engine, &stats) == AQUILA_OK && stats.refused == 1);
    while (n-- > 0) aquila_request_free(requests[n]);
    CHECK(aquila_queue_wait(job.queue, ready, 4, &count, 20, &error) == AQUILA_TIMEOUT);

    aquila_queue_free(job.queue);
    EXPECT(aquila_submit(engine, &job, &refused, &error), AQUILA_ERR_CLOSED);
    CHECK(refused == NULL && strstr(error.message, "queue") != NULL);
    aquila_free(engine);
}

int main(int argc, char **argv) {
    aquila_engine *engine;
    if (argc != 2) return 2;
    engine = load(argv[1]);
    inputs_are_copied(engine);
    aquila_free(engine);
    callbacks_run_on_the_callers_thread(argv[1]);
    freed_under_waiters(argv[1]);
    a_full_line(argv[1]);
    return failures != 0;
}
