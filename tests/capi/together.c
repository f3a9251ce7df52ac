/* Everything at once: 64 threads do 20 random things each on two engines, of which one is freed and loaded again under them;
   requests are read by their maker, by servers of a queue, and cancelled by strangers; the log's function changes. */
#include "check.h"

#include <pthread.h>

#define CLIENTS 64
#define THINGS 20
#define SERVERS 3

static const char *model;
static aquila_engine *engines[2]; /* the second one changes; atomic */
static aquila_queue *queue;
static aquila_request *known[16]; /* whose requests may be cancelled by anybody, also after their free; atomic */
static int submitted, served, ended, records; /* atomic */

static uint32_t random_number(uint32_t *state) { return (*state = *state * 1664525u + 1013904223u) >> 8; }

static aquila_engine *any_engine(uint32_t *state) {
    return __atomic_load_n(&engines[random_number(state) % 4 == 0], __ATOMIC_ACQUIRE);
}

/* The engine that is freed under its users says so; the other one never does. */
static int fine(const aquila_engine *engine, aquila_status status) {
    int closed = status == AQUILA_ERR_CLOSED && engine != engines[0];
    CHECK(status == AQUILA_OK || closed);
    return status == AQUILA_OK;
}

static void count(aquila_log_level level, const char *target, const char *message, void *user) {
    CHECK(level <= AQUILA_LOG_DEBUG && target[0] != '\0' && message != NULL && user == &records);
    __atomic_add_fetch(&records, 1, __ATOMIC_RELAXED);
}

static aquila_request *submit(aquila_engine *engine, uint32_t *state, aquila_queue *to) {
    aquila_gen_params params = short_params(1 + random_number(state) % 12);
    aquila_request *request = NULL;
    aquila_error error;
    aquila_job job;
    memset(&job, 0, sizeof job);
    job.struct_size = sizeof job;
    job.input = random_number(state) % 2 ? "the same beginning of a text, and then" : "hello";
    job.input_size = AQUILA_NTS;
    job.params = &params;
    job.queue = to;
    params.deadline_ms = random_number(state) % 8 == 0 ? 1 + random_number(state) % 20 : 0;
    params.priority = (int32_t)(random_number(state) % 3) - 1;
    params.speculate = random_number(state) % 2 * 4;
    if (!fine(engine, aquila_submit(engine, &job, &request, &error))) return NULL;
    __atomic_store_n(&known[random_number(state) % 16], request, __ATOMIC_RELEASE);
    return request;
}

static void wait_for(aquila_engine *engine, uint32_t *state) {
    aquila_request *request = submit(engine, state, NULL);
    aquila_result *result;
    if (request == NULL) return;
    if (random_number(state) % 4 == 0) usleep(random_number(state) % 3000);
    else if (fine(engine, aquila_wait(request, AQUILA_FOREVER, &result, NULL))) {
        CHECK(aquila_result_json(result, NULL) != NULL);
        aquila_result_free(result);
    }
    aquila_request_free(request); /* perhaps while it runs */
}

static void read_events(aquila_engine *engine, uint32_t *state) {
    aquila_request *request = submit(engine, state, NULL);
    aquila_event event;
    aquila_status status = AQUILA_OK;
    event.struct_size = sizeof event;
    while (request != NULL && status != AQUILA_DONE) {
        status = aquila_next(request, &event, 5, NULL);
        CHECK(status == AQUILA_OK || status == AQUILA_TIMEOUT || status == AQUILA_DONE);
        if (status < 0) break;
    }
    aquila_request_free(request);
}

static int32_t stop_sometimes(const aquila_event *event, void *state) {
    return event->kind == AQUILA_EVENT_TEXT && random_number(state) % 4 == 0;
}

static void stream(aquila_engine *engine, uint32_t *state) {
    aquila_gen_params params = short_params(8);
    fine(engine, aquila_stream(engine, "hello", &params, stop_sometimes, state, NULL));
}

static void to_the_queue(aquila_engine *engine, uint32_t *state) {
    if (submit(engine, state, queue) != NULL) __atomic_add_fetch(&submitted, 1, __ATOMIC_SEQ_CST);
}

static void look(aquila_engine *engine, uint32_t *state) {
    char text[16384];
    aquila_engine_stats stats;
    aquila_engine_info info;
    (void)state;
    stats.struct_size = sizeof stats;
    info.struct_size = sizeof info;
    fine(engine, aquila_get_stats(engine, &stats));
    fine(engine, aquila_get_info(engine, &info));
    fine(engine, aquila_metrics_text(engine, text, sizeof text, NULL, NULL));
    fine(engine, aquila_engine_json(engine, text, sizeof text, NULL, NULL));
}

static void measure(aquila_engine *engine, uint32_t *state) {
    static const char *const texts[] = {" world", " there", "!"};
    float vectors[3 * 64];
    double logprobs[3];
    (void)state;
    fine(engine, aquila_score(engine, "hello", texts, 3, logprobs, NULL));
    fine(engine, aquila_embed(engine, texts, 3, vectors, 3 * 64, NULL, NULL));
}

static void change_the_log(aquila_engine *engine, uint32_t *state) {
    int level = (int)(random_number(state) % 5);
    (void)engine;
    aquila_set_log(level, level == 0 ? NULL : count, &records);
}

static void cancel_a_stranger(aquila_engine *engine, uint32_t *state) {
    (void)engine;
    aquila_cancel(__atomic_load_n(&known[random_number(state) % 16], __ATOMIC_ACQUIRE));
}

static void *client(void *seed) {
    static void (*const things[])(aquila_engine *, uint32_t *) = {
        wait_for, wait_for, read_events, stream, to_the_queue, to_the_queue, look, measure, change_the_log, cancel_a_stranger,
    };
    uint32_t state = (uint32_t)(size_t)seed;
    int i;
    for (i = 0; i < THINGS; i++) things[random_number(&state) % 10](any_engine(&state), &state);
    return NULL;
}

/* One of those that read what comes to the queue; two may be given the same request one after the other. */
static void *server(void *unused) {
    aquila_request *ready[4];
    aquila_event event;
    size_t n, i;
    event.struct_size = sizeof event;
    while (!__atomic_load_n(&ended, __ATOMIC_SEQ_CST) ||
           __atomic_load_n(&served, __ATOMIC_SEQ_CST) < __atomic_load_n(&submitted, __ATOMIC_SEQ_CST)) {
        aquila_status status = aquila_queue_wait(queue, ready, 4, &n, 20, NULL);
        CHECK(status == AQUILA_OK || status == AQUILA_TIMEOUT);
        for (i = 0; i < n; i++) {
            while ((status = aquila_next(ready[i], &event, 0, NULL)) == AQUILA_OK) {
                if (event.kind != AQUILA_EVENT_FINISH) continue;
                aquila_request_free(ready[i]);
                __atomic_add_fetch(&served, 1, __ATOMIC_SEQ_CST);
                break;
            }
            CHECK(status >= 0 || status == AQUILA_ERR_BUSY || status == AQUILA_ERR_CLOSED);
        }
    }
    return unused;
}

static void *reload(void *unused) {
    while (!__atomic_load_n(&ended, __ATOMIC_SEQ_CST)) {
        usleep(20000);
        aquila_free(engines[1]);
        __atomic_store_n(&engines[1], load(model), __ATOMIC_RELEASE);
    }
    return unused;
}

int main(int argc, char **argv) {
    pthread_t clients[CLIENTS], servers[SERVERS], reloader;
    aquila_error error;
    size_t i;

    if (argc != 2) return 2;
    model = argv[1];
    engines[0] = load(model);
    engines[1] = load(model);
    EXPECT(aquila_queue_create(&queue, &error), AQUILA_OK);
    for (i = 0; i < SERVERS; i++) CHECK(pthread_create(&servers[i], NULL, server, NULL) == 0);
    CHECK(pthread_create(&reloader, NULL, reload, NULL) == 0);
    for (i = 0; i < CLIENTS; i++) CHECK(pthread_create(&clients[i], NULL, client, (void *)(i + 1)) == 0);
    for (i = 0; i < CLIENTS; i++) pthread_join(clients[i], NULL);
    __atomic_store_n(&ended, 1, __ATOMIC_SEQ_CST);
    for (i = 0; i < SERVERS; i++) pthread_join(servers[i], NULL);
    pthread_join(reloader, NULL);
    CHECK(served == submitted && submitted > 0);
    aquila_set_log(AQUILA_LOG_OFF, NULL, NULL);
    aquila_queue_free(queue);
    aquila_free(engines[1]);
    aquila_free(engines[0]);
    CHECK(records > 0);
    return failures != 0;
}
