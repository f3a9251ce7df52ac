/* Queues: one thread that waits for many requests, its descriptor, wake-ups, and frees under it; the counters. */
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#define REQUESTS 64

static int readable(aquila_queue *queue, int timeout_ms) {
    struct pollfd entry;
    entry.fd = aquila_queue_fd(queue);
    entry.events = POLLIN;
    return poll(&entry, 1, timeout_ms) == 1;
}

static aquila_request *submit(aquila_engine *engine, aquila_queue *queue, int number, void *user) {
    aquila_gen_params params = short_params(4 + (uint32_t)number % 13);
    char text[64];
    aquila_request *request;
    aquila_error error;
    aquila_job job;
    memset(&job, 0, sizeof job);
    job.struct_size = sizeof job;
    sprintf(text, "hello %d the world", number);
    job.input = text;
    job.input_size = strlen(text);
    job.params = &params;
    job.queue = queue;
    job.user = user;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_OK);
    return request;
}

/* The server's loop: every request comes to its end, and what it made is what it makes alone. */
static void one_thread_serves_all(aquila_engine *engine) {
    static struct { aquila_request *request; char text[512]; size_t size; int ended; } all[REQUESTS];
    aquila_request *ready[7];
    aquila_queue *queue;
    aquila_error error;
    int i, left = REQUESTS;

    EXPECT(aquila_queue_create(&queue, &error), AQUILA_OK);
    CHECK(!readable(queue, 0));
    for (i = 0; i < REQUESTS; i++) all[i].request = submit(engine, queue, i, &all[i]);
    while (left > 0) {
        size_t n, k;
        if (left % 2) CHECK(readable(queue, 60000));
        EXPECT(aquila_queue_wait(queue, ready, 7, &n, 60000, &error), AQUILA_OK);
        CHECK(n > 0 && n <= 7);
        for (k = 0; k < n; k++) {
            aquila_event event;
            i = (int)((char *)aquila_request_user(ready[k]) - (char *)all) / (int)sizeof all[0];
            CHECK(i >= 0 && i < REQUESTS && all[i].request == ready[k] && !all[i].ended);
            event.struct_size = sizeof event;
            /* One event only: the queue gives the request again while there are more. */
            if (aquila_next(ready[k], &event, 0, &error) != AQUILA_OK) continue;
            if (event.kind == AQUILA_EVENT_TEXT) { /* which may hold a NUL */
                memcpy(all[i].text + all[i].size, event.text, event.text_size);
                all[i].size += event.text_size;
            }
            if (event.kind == AQUILA_EVENT_FINISH) {
                CHECK(event.finish == AQUILA_FINISH_LENGTH);
                all[i].ended = 1;
                left--;
            }
        }
    }
    CHECK(!readable(queue, 0));
    for (i = 0; i < REQUESTS; i++) {
        aquila_request *alone = submit(engine, NULL, i, NULL);
        aquila_result *result;
        const char *text;
        size_t size;
        EXPECT(aquila_wait(alone, AQUILA_FOREVER, &result, &error), AQUILA_OK);
        text = aquila_result_text(result, &size);
        CHECK(size == all[i].size && memcmp(all[i].text, text, size) == 0);
        aquila_result_free(result);
        aquila_request_free(alone);
        aquila_request_free(all[i].request);
    }
    aquila_queue_free(queue);
}

struct waiter {
    aquila_queue *queue;
    aquila_status status;
    size_t count;
};

static void *wait_for_ever(void *argument) {
    struct waiter *waiter = argument;
    aquila_request *ready[1];
    waiter->status = aquila_queue_wait(waiter->queue, ready, 1, &waiter->count, AQUILA_FOREVER, NULL);
    return NULL;
}

static void woken_and_freed(aquila_engine *engine) {
    struct waiter waiter = {NULL, 99, 99};
    aquila_request *ready[1], *request;
    aquila_error error;
    pthread_t thread;
    size_t n = 5;

    EXPECT(aquila_queue_create(&waiter.queue, &error), AQUILA_OK);
    CHECK(aquila_queue_wait(waiter.queue, ready, 1, &n, 0, &error) == AQUILA_TIMEOUT && n == 0);
    CHECK(aquila_queue_wait(waiter.queue, ready, 1, &n, 5, &error) == AQUILA_TIMEOUT);
    aquila_queue_wake(waiter.queue);
    CHECK(readable(waiter.queue, 0));
    CHECK(aquila_queue_wait(waiter.queue, ready, 1, &n, 0, &error) == AQUILA_OK && n == 0);
    CHECK(pthread_create(&thread, NULL, wait_for_ever, &waiter) == 0);
    usleep(5000);
    aquila_queue_wake(waiter.queue);
    pthread_join(thread, NULL);
    CHECK(waiter.status == AQUILA_OK && waiter.count == 0);

    /* A request that is freed is not given out any more. */
    request = submit(engine, waiter.queue, 0, NULL);
    CHECK(readable(waiter.queue, 60000));
    aquila_request_free(request);
    CHECK(aquila_queue_wait(waiter.queue, ready, 1, &n, 20, &error) == AQUILA_TIMEOUT);

    request = submit(engine, waiter.queue, 0, NULL);
    CHECK(pthread_create(&thread, NULL, wait_for_ever, &waiter) == 0);
    usleep(5000);
    aquila_queue_free(waiter.queue);
    pthread_join(thread, NULL);
    CHECK(waiter.status == AQUILA_ERR_CLOSED || (waiter.status == AQUILA_OK && waiter.count == 1));
    EXPECT(aquila_queue_wait(waiter.queue, ready, 1, &n, 0, &error), AQUILA_ERR_CLOSED);
    CHECK(aquila_queue_fd(waiter.queue) == -1 && aquila_queue_fd(NULL) == -1);
    aquila_queue_wake(waiter.queue);
    aquila_queue_free(waiter.queue);
    aquila_queue_free(NULL);
    { /* The request goes on without its queue. */
        aquila_result *result;
        EXPECT(aquila_wait(request, AQUILA_FOREVER, &result, &error), AQUILA_OK);
        aquila_result_free(result);
        aquila_request_free(request);
    }
}

static void misuse(aquila_engine *engine) {
    aquila_request *ready[1];
    aquila_queue *queue;
    aquila_error error;
    size_t n;

    EXPECT(aquila_queue_create(NULL, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_queue_create(&queue, &error), AQUILA_OK);
    EXPECT(aquila_queue_wait(queue, ready, 0, &n, 0, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_queue_wait(queue, NULL, 1, &n, 0, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_queue_wait(queue, ready, 1, NULL, 0, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_queue_wait(queue, ready, 1, &n, -7, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_queue_wait((aquila_queue *)engine, ready, 1, &n, 0, &error), AQUILA_ERR_ARGUMENT);
    aquila_queue_free(queue);
}

static void counters(aquila_engine *engine) {
    static char text[16384];
    aquila_engine_stats before, after;
    aquila_gen_params params = short_params(3);
    aquila_result *result;
    aquila_error error;
    size_t size;
    int i;

    before.struct_size = after.struct_size = sizeof before;
    CHECK(aquila_get_stats(engine, &before) == AQUILA_OK);
    for (i = 0; i < 2; i++) {
        EXPECT(aquila_generate(engine, "a prompt that is longer than a block of the cache", &params, &result, &error),
               AQUILA_OK);
        aquila_result_free(result);
    }
    CHECK(aquila_get_stats(engine, &after) == AQUILA_OK);
    CHECK(after.requests == before.requests + 2 && after.output_tokens == before.output_tokens + 6);
    CHECK(after.prompt_tokens > before.prompt_tokens && after.steps > before.steps && after.host_bytes > 0);
    CHECK(after.cached_tokens >= before.cached_tokens + 16 && after.kv_tokens_cached > 0); /* the second found it */
    CHECK(aquila_get_stats(engine, NULL) == AQUILA_ERR_ARGUMENT && aquila_get_stats(NULL, &after) == AQUILA_ERR_ARGUMENT);

    EXPECT(aquila_metrics_text(engine, text, sizeof text, &size, &error), AQUILA_OK);
    CHECK(strlen(text) == size && text[size - 1] == '\n');
    CHECK(strstr(text, "\n# TYPE aquila_requests_total counter\n") != NULL);
    CHECK(strstr(text, "aquila_finished_total{reason=\"length\"} ") != NULL);
    CHECK(strstr(text, "aquila_first_token_seconds_bucket{le=\"+Inf\"} ") != NULL);
    EXPECT(aquila_metrics_text(engine, text, 10, &size, &error), AQUILA_ERR_TOO_SMALL);
}

int main(int argc, char **argv) {
    aquila_engine *engine;
    if (argc != 2) return 2;
    engine = load(argv[1]);
    one_thread_serves_all(engine);
    woken_and_freed(engine);
    misuse(engine);
    counters(engine);
    aquila_free(engine);
    return failures != 0;
}
