/* What a call of the C interface costs its caller, beside what the engine does: medians and the 99th percentile of many
   calls on a tiny model, in microseconds. door.sh builds and runs it. */
#include <aquila.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CALLS 2000
#define PROMPT "the river and the mountain, the sun and the moon, a bird in a tree near the house by the road"

static double samples[CALLS];
static size_t n_samples;
static aquila_engine *engine;
static aquila_queue *queue;
static aquila_gen_params params;

static double now_us(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec * 1e-3;
}

static void check(aquila_status status, const char *what) {
    if (status >= 0) return;
    fprintf(stderr, "%s: %s\n", what, aquila_status_name(status));
    exit(1);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void row(const char *what, double goal) {
    double median, last;
    qsort(samples, n_samples, sizeof *samples, by_size);
    median = samples[n_samples / 2];
    last = samples[n_samples * 99 / 100];
    printf("%-58s %8.2f %8.2f", what, median, last);
    if (goal > 0) printf("   %4.0f %s", goal, median <= goal ? "met" : "MISSED");
    printf("\n");
    n_samples = 0;
}

static aquila_request *submit(int kind, const void *input, size_t size, double *took) {
    aquila_request *request;
    aquila_job job;
    double start;
    memset(&job, 0, sizeof job);
    job.struct_size = sizeof job;
    job.input_kind = (uint32_t)kind;
    job.input = input;
    job.input_size = size;
    job.params = &params;
    job.queue = queue;
    start = now_us(CLOCK_MONOTONIC);
    check(aquila_submit(engine, &job, &request, NULL), "aquila_submit");
    if (took != NULL) *took = now_us(CLOCK_MONOTONIC) - start;
    return request;
}

static void wait_and_free(aquila_request *request) {
    aquila_result *result;
    check(aquila_wait(request, AQUILA_FOREVER, &result, NULL), "aquila_wait");
    aquila_result_free(result);
    aquila_request_free(request);
}

/* The queue says that an event is there; then the call that fetches it has nothing to wait for. */
static void next_that_is_there(void) {
    aquila_request *request = NULL, *ready[1];
    aquila_event event;
    event.struct_size = sizeof event;
    params.max_tokens = 64;
    while (n_samples < CALLS) {
        aquila_status status;
        size_t n;
        double start;
        if (request == NULL) request = submit(AQUILA_INPUT_TEXT, PROMPT, AQUILA_NTS, NULL);
        check(aquila_queue_wait(queue, ready, 1, &n, AQUILA_FOREVER, NULL), "aquila_queue_wait");
        start = now_us(CLOCK_MONOTONIC);
        status = aquila_next(request, &event, 0, NULL);
        if (status == AQUILA_OK && event.n_tokens == 1) samples[n_samples++] = now_us(CLOCK_MONOTONIC) - start;
        if (status == AQUILA_OK && event.kind == AQUILA_EVENT_FINISH) {
            aquila_request_free(request);
            request = NULL;
        }
    }
    aquila_request_free(request);
    row("aquila_next, a token is there", 5);
}

/* The processor's time of a thread that sleeps in aquila_next until the next token comes: the system's sleep and wake too. */
static void next_with_waiting(void) {
    aquila_event event;
    event.struct_size = sizeof event;
    params.max_tokens = 64;
    while (n_samples < CALLS / 20) {
        aquila_request *request = submit(AQUILA_INPUT_TEXT, PROMPT, AQUILA_NTS, NULL);
        double start = now_us(CLOCK_THREAD_CPUTIME_ID);
        int calls = 0;
        while (aquila_next(request, &event, AQUILA_FOREVER, NULL) == AQUILA_OK) calls++;
        samples[n_samples++] = (now_us(CLOCK_THREAD_CPUTIME_ID) - start) / calls;
        aquila_request_free(request);
    }
    row("aquila_next, processor's time with a sleep in it", 0);
}

/* With ids there is nothing to tokenise: the goal is for what a submission costs beside that. */
static void submits(const int32_t *ids, size_t n_ids) {
    int32_t room[256];
    size_t n;
    params.max_tokens = 1;
    for (; n_samples < CALLS; n_samples++)
        wait_and_free(submit(AQUILA_INPUT_TOKENS, ids, n_ids, &samples[n_samples]));
    row("aquila_submit of ids", 50);
    for (; n_samples < CALLS; n_samples++)
        wait_and_free(submit(AQUILA_INPUT_TEXT, PROMPT, AQUILA_NTS, &samples[n_samples]));
    row("aquila_submit of text", 0);
    for (; n_samples < CALLS; n_samples++) {
        double start = now_us(CLOCK_MONOTONIC);
        check(aquila_tokenize(engine, PROMPT, AQUILA_NTS, AQUILA_TOK_ADD_SPECIAL, room, 256, &n, NULL), "aquila_tokenize");
        samples[n_samples] = now_us(CLOCK_MONOTONIC) - start;
    }
    row("aquila_tokenize of the same text", 0);
}

static void small_calls(void) {
    aquila_engine_stats stats;
    aquila_request *request = submit(AQUILA_INPUT_TEXT, PROMPT, AQUILA_NTS, NULL);
    stats.struct_size = sizeof stats;
    for (; n_samples < CALLS; n_samples++) {
        double start = now_us(CLOCK_MONOTONIC);
        check(aquila_get_stats(engine, &stats), "aquila_get_stats");
        samples[n_samples] = now_us(CLOCK_MONOTONIC) - start;
    }
    row("aquila_get_stats", 0);
    for (; n_samples < CALLS; n_samples++) {
        double start = now_us(CLOCK_MONOTONIC);
        aquila_request_user(request);
        samples[n_samples] = now_us(CLOCK_MONOTONIC) - start;
    }
    row("aquila_request_user: the way through the door and back", 0);
    wait_and_free(request);
}

int main(int argc, char **argv) {
    aquila_load_options options;
    aquila_error error;
    int32_t ids[256];
    size_t n;

    if (argc != 2) return 2;
    aquila_load_options_init(&options, sizeof options);
    options.threads = 1; /* the caller has a processor of its own */
    if (aquila_load(argv[1], &options, &engine, &error) != AQUILA_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    check(aquila_queue_create(&queue, NULL), "aquila_queue_create");
    aquila_gen_params_init(&params, sizeof params);
    params.flags = AQUILA_GEN_IGNORE_EOS;
    check(aquila_tokenize(engine, PROMPT, AQUILA_NTS, AQUILA_TOK_ADD_SPECIAL, ids, 256, &n, &error), "aquila_tokenize");
    printf("%-58s %8s %8s   %s\n", "microseconds", "median", "p99", "goal");
    next_that_is_there();
    next_with_waiting();
    submits(ids, n);
    small_calls();
    aquila_queue_free(queue);
    aquila_free(engine);
    return 0;
}
