/* 64 threads, 20 requests each on one engine, of mixed lengths and priorities; a fifth are cancelled at random, a tenth have
   a deadline. What each makes is what it makes alone, as far as it came; nothing is left behind. */
#include "check.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

#define THREADS 64
#define REQUESTS 20
#define PROMPTS 16

static aquila_engine *engine;
static aquila_result *alone[PROMPTS];
static int counts[8]; /* by AQUILA_FINISH_..., atomic */

static uint32_t random_number(uint32_t *state) { return (*state = *state * 1664525u + 1013904223u) >> 8; }

static void prompt_of(int number, char *text) {
    /* Half of them begin alike. */
    sprintf(text, number % 2 ? "the same beginning of a text, then %d" : "%d begins otherwise", number);
}

static aquila_request *submit(int number, int64_t deadline_ms, int32_t priority) {
    aquila_gen_params params = short_params(1 + (uint32_t)number * 3);
    aquila_request *request;
    aquila_error error;
    aquila_job job;
    char text[64];
    prompt_of(number, text);
    params.deadline_ms = deadline_ms;
    params.priority = priority;
    memset(&job, 0, sizeof job);
    job.struct_size = sizeof job;
    job.input = text;
    job.input_size = AQUILA_NTS;
    job.params = &params;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_OK);
    return request;
}

/* The result's tokens are the first ones of those made alone, all of them unless it ended early. */
static void compare(int number, const aquila_result *result) {
    uint32_t finish = aquila_result_finish(result);
    size_t n, all;
    const int32_t *tokens = aquila_result_tokens(result, &n);
    const int32_t *expected = aquila_result_tokens(alone[number], &all);
    CHECK(n <= all && memcmp(tokens, expected, n * sizeof *tokens) == 0);
    CHECK(n == all || finish == AQUILA_FINISH_CANCELLED || finish == AQUILA_FINISH_DEADLINE);
    __atomic_add_fetch(&counts[finish & 7], 1, __ATOMIC_RELAXED);
}

static void *client(void *seed) {
    uint32_t state = (uint32_t)(size_t)seed;
    int i;
    for (i = 0; i < REQUESTS; i++) {
        int number = (int)(random_number(&state) % PROMPTS);
        uint32_t fate = random_number(&state) % 10;
        int64_t deadline = fate == 9 ? 1 + random_number(&state) % 20 : 0;
        aquila_request *request = submit(number, deadline, (int32_t)(random_number(&state) % 3) - 1);
        aquila_result *result;
        aquila_error error;
        if (fate < 2) {
            usleep(random_number(&state) % 20000);
            aquila_cancel(request);
        }
        EXPECT(aquila_wait(request, AQUILA_FOREVER, &result, &error), AQUILA_OK);
        compare(number, result);
        aquila_result_free(result);
        aquila_request_free(request);
    }
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[THREADS];
    struct timespec start, end;
    aquila_engine_stats stats;
    aquila_error error;
    size_t i;

    if (argc != 2) return 2;
    engine = load(argv[1]);
    for (i = 0; i < PROMPTS; i++) {
        aquila_request *request = submit((int)i, 0, 0);
        EXPECT(aquila_wait(request, AQUILA_FOREVER, &alone[i], &error), AQUILA_OK);
        aquila_request_free(request);
    }
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, client, (void *)(i + 1)) == 0);
    for (i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);

    stats.struct_size = sizeof stats;
    for (i = 0; i < 1000; i++) { /* the engine puts the last blocks away after the last event */
        CHECK(aquila_get_stats(engine, &stats) == AQUILA_OK);
        if (stats.running == 0 && stats.kv_tokens_used == 0) break;
        usleep(5000);
    }
    CHECK(stats.running == 0 && stats.waiting == 0 && stats.kv_tokens_used == 0 && stats.refused == 0);
    CHECK(stats.requests == THREADS * REQUESTS + PROMPTS);
    printf("%d requests of %d threads in %.2f s: %d to their length, %d cancelled, %d past their deadline, %u preemptions, "
           "%.0f%% of the prompts' tokens cached\n",
           THREADS * REQUESTS, THREADS, (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) * 1e-9,
           counts[AQUILA_FINISH_LENGTH], counts[AQUILA_FINISH_CANCELLED], counts[AQUILA_FINISH_DEADLINE],
           (unsigned)stats.preemptions, 100.0 * (double)stats.cached_tokens / (double)stats.prompt_tokens);
    for (i = 0; i < PROMPTS; i++) aquila_result_free(alone[i]);
    aquila_free(engine);
    return failures != 0;
}
