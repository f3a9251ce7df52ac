/* Many threads on one engine: the same texts as one after another, and a free under all of them. */
#include "check.h"

#include <pthread.h>
#include <sched.h>

#define THREADS 8
#define TOKENS 12

static aquila_engine *engine;
static int started; /* streams that gave a first event; atomic */

struct job {
    char prompt[32];
    aquila_result *result;
    aquila_error error;
};

static void *generate(void *argument) {
    struct job *job = argument;
    aquila_gen_params params = short_params(TOKENS);
    aquila_generate(engine, job->prompt, &params, &job->result, &job->error);
    return NULL;
}

static void equal_to_sequential(void) {
    static struct job alone[THREADS], together[THREADS];
    pthread_t threads[THREADS];
    int i;

    for (i = 0; i < THREADS; i++) {
        sprintf(alone[i].prompt, "hello %d%s", i, i % 2 ? " the world" : "");
        strcpy(together[i].prompt, alone[i].prompt);
        generate(&alone[i]);
        CHECK(alone[i].error.status == AQUILA_OK);
    }
    for (i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, generate, &together[i]) == 0);
    for (i = 0; i < THREADS; i++) {
        size_t a, b;
        const int32_t *one, *many;
        pthread_join(threads[i], NULL);
        CHECK(together[i].error.status == AQUILA_OK);
        one = aquila_result_tokens(alone[i].result, &a);
        many = aquila_result_tokens(together[i].result, &b);
        CHECK(a == TOKENS && a == b && memcmp(one, many, a * sizeof *one) == 0);
        CHECK(memcmp(aquila_result_logprobs(alone[i].result, &a), aquila_result_logprobs(together[i].result, &b),
                     TOKENS * sizeof(float)) == 0);
        aquila_result_free(alone[i].result);
        aquila_result_free(together[i].result);
    }
}

static int32_t count_first(const aquila_event *event, void *user) {
    int *seen = user;
    if (event->kind == AQUILA_EVENT_TEXT && (*seen)++ == 0) __atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
    return 0;
}

/* Streams until the engine is freed under it; a request may also end before that. */
static void *stream(void *argument) {
    aquila_gen_params params = short_params(0);
    aquila_error error;
    int seen = 0;
    (void)argument;
    do {
        aquila_stream(engine, "hello", &params, count_first, &seen, &error);
        CHECK(error.status == AQUILA_OK || error.status == AQUILA_ERR_CLOSED);
    } while (error.status == AQUILA_OK);
    CHECK(strstr(error.message, "freed") != NULL);
    return NULL;
}

static void *free_it(void *argument) {
    (void)argument;
    aquila_free(engine);
    return NULL;
}

static void freed_under_streams(void) {
    pthread_t threads[THREADS], two[2];
    int i;

    for (i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, stream, NULL) == 0);
    while (__atomic_load_n(&started, __ATOMIC_SEQ_CST) < 2) sched_yield();
    for (i = 0; i < 2; i++) CHECK(pthread_create(&two[i], NULL, free_it, NULL) == 0);
    for (i = 0; i < 2; i++) pthread_join(two[i], NULL);
    for (i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    engine = load(argv[1]);
    equal_to_sequential();
    freed_under_streams();
    return failures != 0;
}
