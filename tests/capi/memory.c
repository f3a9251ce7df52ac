/* What is made and freed again leaves the process as large as it was: memory, descriptors, threads, mappings. A cycle of each
   noun is a function; a further noun is one more line of `cycles`. */
#include "check.h"

#include <malloc.h>

static const char *model;
static aquila_engine *engine; /* of the cycles that do not load one */
static aquila_gen_params params;

static void an_engine(void) {
    aquila_engine *own = load(model);
    aquila_result *result;
    aquila_error error;
    EXPECT(aquila_generate(own, "hello", &params, &result, &error), AQUILA_OK);
    CHECK(aquila_result_json(result, NULL) != NULL);
    aquila_result_free(result);
    aquila_free(own);
}

static aquila_request *submit(aquila_queue *queue) {
    aquila_request *request;
    aquila_error error;
    aquila_job job;
    job = job_of("hello", &params);
    job.queue = queue;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_OK);
    return request;
}

/* One is read to its end, the next one is freed while it runs. */
static void requests(void) {
    aquila_request *request = submit(NULL);
    aquila_result *result;
    aquila_error error;
    EXPECT(aquila_wait(request, AQUILA_FOREVER, &result, &error), AQUILA_OK);
    aquila_result_free(result);
    aquila_request_free(request);
    aquila_request_free(submit(NULL));
}

static void a_queue(void) {
    aquila_request *ready[1], *request;
    aquila_queue *queue;
    aquila_error error;
    size_t n;
    EXPECT(aquila_queue_create(&queue, &error), AQUILA_OK);
    request = submit(queue);
    EXPECT(aquila_queue_wait(queue, ready, 1, &n, 60000, &error), AQUILA_OK);
    CHECK(n == 1 && ready[0] == request);
    aquila_request_free(request);
    aquila_queue_free(queue);
}

static void sessions(void) {
    aquila_session *session, *copy;
    aquila_error error;
    EXPECT(aquila_session_create(engine, &session, &error), AQUILA_OK);
    EXPECT(aquila_session_fork(session, &copy, &error), AQUILA_OK);
    aquila_session_free(session);
    aquila_session_free(copy);
}

/* One is read to its end and kept, the other one freed with its request running. */
static void sessions_at_work(void) {
    char path[64];
    aquila_session *session, *restored;
    aquila_request *request;
    aquila_result *result;
    aquila_error error;
    aquila_job job;
    EXPECT(aquila_session_create(engine, &session, &error), AQUILA_OK);
    job = job_of("hello", &params);
    job.session = session;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_OK);
    EXPECT(aquila_wait(request, AQUILA_FOREVER, &result, &error), AQUILA_OK);
    aquila_result_free(result);
    aquila_request_free(request);
    sprintf(path, "/tmp/aquila-memory-%ld", (long)getpid());
    EXPECT(aquila_session_save(session, path, &error), AQUILA_OK);
    EXPECT(aquila_session_restore(engine, path, &restored, &error), AQUILA_OK);
    CHECK(unlink(path) == 0);
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_OK);
    aquila_session_free(session);
    aquila_request_free(request);
    aquila_session_free(restored);
}

/* Failures give back what they took until they failed. */
static void failures_of_calls(void) {
    static const char *const choice = "";
    aquila_result *result;
    aquila_engine *own;
    aquila_error error;
    double logprob;
    EXPECT(aquila_load("/no/such/model", NULL, &own, &error), AQUILA_ERR_NOT_FOUND);
    EXPECT(aquila_generate(engine, "\xFF", &params, &result, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_score(engine, "hello", &choice, 1, &logprob, &error), AQUILA_ERR_ARGUMENT);
}

static const struct { const char *name; void (*cycle)(void); int times; } cycles[] = {
    {"load, generate, free", an_engine, 200},
    {"submit, free", requests, 5000}, /* two requests each */
    {"queue, submit, wait, free", a_queue, 1000},
    {"session, copy, free", sessions, 5000}, /* two sessions each */
    {"session, submit, save, restore, free", sessions_at_work, 300},
    {"failed calls", failures_of_calls, 1000},
};

struct size { long resident_kib; int descriptors, threads, mappings; };

static int entries(const char *path) {
    DIR *folder = opendir(path);
    int n = 0;
    if (folder == NULL) return -1;
    while (readdir(folder) != NULL) n++;
    closedir(folder);
    return n;
}

static struct size size_now(void) {
    struct size size = {0, entries("/proc/self/fd"), entries("/proc/self/task"), 0};
    char line[512];
    FILE *file;
    /* What was freed and kept is no leak. */
    malloc_trim(0);
    if ((file = fopen("/proc/self/status", "r")) != NULL) {
        while (fgets(line, sizeof line, file) != NULL) sscanf(line, "VmRSS: %ld", &size.resident_kib);
        fclose(file);
    }
    if ((file = fopen("/proc/self/maps", "r")) != NULL) {
        int c;
        while ((c = getc(file)) != EOF) size.mappings += c == '\n';
        fclose(file);
    }
    return size;
}

/* The engine puts the last blocks away after the last event; threads that were told to end need a moment. */
static void settle(void) {
    aquila_engine_stats stats;
    int i;
    stats.struct_size = sizeof stats;
    for (i = 0; i < 1000; i++) {
        CHECK(aquila_get_stats(engine, &stats) == AQUILA_OK);
        if (stats.running == 0 && stats.waiting == 0 && all_sleep()) break;
        usleep(1000);
    }
}

int main(int argc, char **argv) {
    int divisor = argc == 3 ? atoi(argv[2]) : 1; /* for a shorter run */
    size_t i;

    if (argc < 2 || divisor < 1) return 2;
    model = argv[1];
    params = short_params(8);
    engine = load(model);
    for (i = 0; i < sizeof cycles / sizeof cycles[0]; i++) {
        struct size early = {0, 0, 0, 0}, late;
        int times = cycles[i].times / divisor, k;
        for (k = 1; k <= times; k++) {
            cycles[i].cycle();
            if (k == times / 10) settle(), early = size_now();
        }
        settle();
        late = size_now();
        printf("%s: %ld KiB after %d, %+ld KiB after %d; %d descriptors, %d threads, %d mappings\n", cycles[i].name,
               early.resident_kib, times / 10, late.resident_kib - early.resident_kib, times, late.descriptors,
               late.threads - 2, late.mappings);
        CHECK(late.descriptors == early.descriptors && late.threads == early.threads);
#ifndef __SANITIZE_ADDRESS__ /* which keeps what is freed */
        CHECK(late.resident_kib - early.resident_kib <= 1024);
        CHECK(late.mappings <= early.mappings + 2); /* the C library's heaps may split */
#endif
    }
    aquila_free(engine);
    return failures != 0;
}
