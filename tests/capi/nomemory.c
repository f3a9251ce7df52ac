/* No memory: every allocation that a call makes fails in turn, once and for good, on the caller's thread and on the
   engine's. Each call says so or does what it should; nothing ends the process, and afterwards all is as before. */
#define _GNU_SOURCE
#include "check.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>

/* The C library's allocator, with this program's functions in front of it. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *place, size_t size);
void *__libc_memalign(size_t align, size_t size);

static atomic_long asked; /* since it was set to 0 */
static atomic_long fails_at = -1, fails_until = -1;

/* The C library ends the process where it has no memory to write down what to do at a thread's end: that is no call's to
   report, and so not refused here. */
typedef int register_fn(void (*)(void *), void *, void *);
static __thread int in_the_c_library;
int __cxa_thread_atexit_impl(void (*end)(void *), void *object, void *handle);
int __cxa_thread_atexit_impl(void (*end)(void *), void *object, void *handle) {
    static register_fn *own;
    int outcome;
    in_the_c_library = 1;
    if (own == NULL) *(void **)(&own) = dlsym(RTLD_NEXT, "__cxa_thread_atexit_impl");
    outcome = own(end, object, handle);
    in_the_c_library = 0;
    return outcome;
}

/* Nor what Rust's standard library takes for the handle of a new thread past every allocator of a program. */
static const size_t handle_bytes = 64;
static atomic_bool makes_threads;

static int refuses(size_t size) {
    int spared = in_the_c_library || (atomic_load(&makes_threads) && size < handle_bytes);
    long now = spared ? -1 : atomic_fetch_add(&asked, 1);
    int refused = now >= 0 && now >= atomic_load(&fails_at) && now < atomic_load(&fails_until);
    if (refused) errno = ENOMEM;
    return refused;
}

void *malloc(size_t size) { return refuses(size) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return refuses(count * size) ? NULL : __libc_calloc(count, size); }
void *realloc(void *place, size_t size) { return refuses(size) ? NULL : __libc_realloc(place, size); }
void *aligned_alloc(size_t align, size_t size) { return refuses(size) ? NULL : __libc_memalign(align, size); }
int posix_memalign(void **place, size_t align, size_t size) {
    if (refuses(size)) return ENOMEM;
    *place = __libc_memalign(align, size);
    return *place == NULL ? ENOMEM : 0;
}

static const char *model;
static char file[64];
static aquila_engine *engine;
static aquila_gen_params params;

/* The scenarios: each gives the status of its first call that failed, and leaves nothing behind. */

static aquila_status loads(void) {
    aquila_load_options options;
    aquila_engine *own;
    aquila_status status;
    aquila_load_options_init(&options, sizeof options);
    options.max_context = 64;
    options.threads = 2;
    status = aquila_load(model, &options, &own, NULL);
    CHECK((status == AQUILA_OK) == (own != NULL));
    aquila_free(own);
    return status;
}

static aquila_status generates(void) {
    aquila_result *result;
    aquila_status status = aquila_generate(engine, "hello world", &params, &result, NULL);
    CHECK((status == AQUILA_OK) == (result != NULL));
    aquila_result_free(result);
    return status;
}

static int32_t go_on(const aquila_event *event, void *user) { return (void)event, (void)user, 0; }
static aquila_status streams(void) { return aquila_stream(engine, "hello world", &params, go_on, NULL, NULL); }

static aquila_status submits(void) {
    aquila_queue *queue = NULL;
    aquila_request *request = NULL, *ready[1];
    aquila_result *result = NULL;
    aquila_status status = aquila_queue_create(&queue, NULL);
    size_t n;
    aquila_job job;
    job = job_of("hello world", &params);
    job.queue = queue;
    if (status == AQUILA_OK) status = aquila_submit(engine, &job, &request, NULL);
    if (status == AQUILA_OK) status = aquila_queue_wait(queue, ready, 1, &n, 60000, NULL);
    if (status == AQUILA_OK) status = aquila_wait(request, 60000, &result, NULL);
    aquila_result_free(result);
    aquila_request_free(request);
    aquila_queue_free(queue);
    return status;
}

static aquila_status sessions(void) {
    aquila_session *session = NULL, *copy = NULL, *restored = NULL;
    aquila_request *request = NULL;
    aquila_result *result = NULL;
    aquila_status status = aquila_session_create(engine, &session, NULL);
    aquila_job job;
    job = job_of("hello", &params);
    job.session = session;
    if (status == AQUILA_OK) status = aquila_submit(engine, &job, &request, NULL);
    if (status == AQUILA_OK) status = aquila_wait(request, 60000, &result, NULL);
    if (status == AQUILA_OK) status = aquila_session_fork(session, &copy, NULL);
    if (status == AQUILA_OK) status = aquila_session_save(copy, file, NULL);
    if (status == AQUILA_OK) status = aquila_session_restore(engine, file, &restored, NULL);
    aquila_result_free(result);
    aquila_request_free(request);
    aquila_session_free(session);
    aquila_session_free(copy);
    aquila_session_free(restored);
    return status;
}

static aquila_status texts(void) {
    static const int32_t ids[] = {104, 105};
    char text[4096];
    int32_t found[64];
    size_t n;
    aquila_status status = aquila_tokenize(engine, "hello world", AQUILA_NTS, 0, found, 64, &n, NULL);
    if (status == AQUILA_OK) status = aquila_detokenize(engine, ids, 2, 0, text, sizeof text, &n, NULL);
    return status;
}

static aquila_status templates(void) {
    static const char chat[] = "[{\"role\":\"user\",\"content\":\"hi\"}]";
    char text[4096];
    size_t n;
    return aquila_apply_template(engine, chat, NULL, 1, text, sizeof text, &n, NULL);
}

static aquila_status measures(void) {
    static const char *const strings[] = {" world", "!"};
    static char text[1 << 16];
    static float vectors[2 * 64];
    double scores[2];
    size_t n;
    aquila_status status = aquila_score(engine, "hello", strings, 2, scores, NULL);
    if (status == AQUILA_OK) status = aquila_embed(engine, strings, 2, vectors, 2 * 64, &n, NULL);
    if (status == AQUILA_OK) status = aquila_metrics_text(engine, text, sizeof text, &n, NULL);
    if (status == AQUILA_OK) status = aquila_engine_json(engine, text, sizeof text, &n, NULL);
    return status;
}

/* Where something is made that lives on, it is not made with the help of the library's reserve; what a call only needs in
   passing may come from there, and then the call does what it should. */
static const struct { const char *name; aquila_status (*run)(void); bool makes_threads, must_refuse; } scenarios[] = {
    {"load", loads, true, true},          {"generate", generates, false, true}, {"stream", streams, false, false},
    {"submit", submits, false, true},     {"session", sessions, false, true},   {"text", texts, false, false},
    {"template", templates, true, false}, {"measure", measures, false, false},
};

static aquila_status run(size_t scenario, long from, long until) {
    aquila_status status;
    atomic_store(&asked, 0);
    atomic_store(&makes_threads, scenarios[scenario].makes_threads);
    atomic_store(&fails_until, until);
    atomic_store(&fails_at, from);
    status = scenarios[scenario].run();
    atomic_store(&fails_at, -1);
    atomic_store(&fails_until, -1);
    return status;
}

static void succeeds(size_t scenario) {
    aquila_status status = run(scenario, -1, -1);
    if (status == AQUILA_OK) return;
    failures++;
    fprintf(stderr, "%s, with memory: %s\n", scenarios[scenario].name, aquila_status_name(status));
}

int main(int argc, char **argv) {
    aquila_load_options options;
    size_t i;
    if (argc != 2) return 2;
    model = argv[1];
    sprintf(file, "/tmp/aquila-nomemory-%ld", (long)getpid());
    aquila_load_options_init(&options, sizeof options);
    options.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    if (aquila_load(model, &options, &engine, NULL) != AQUILA_OK) return 2;
    params = short_params(4);
    for (i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        long count, at, step, refused = 0;
        int forever;
        succeeds(i);
        succeeds(i);
        count = atomic_load(&asked);
        step = count / 400 + 1; /* a load makes thousands */
        for (forever = 0; forever < 2; forever++)
            for (at = 0; at < count; at += step) {
                aquila_status status = run(i, at, forever ? 1L << 40 : at + 1);
                refused += status == AQUILA_ERR_NO_MEMORY;
                if (status != AQUILA_OK && status != AQUILA_ERR_NO_MEMORY) {
                    failures++;
                    fprintf(stderr, "%s: allocation %ld%s: %s\n", scenarios[i].name, at, forever ? " and all later" : "",
                            aquila_status_name(status));
                }
            }
        /* With memory all is well again. */
        succeeds(i);
        CHECK(refused > 0 || !scenarios[i].must_refuse);
        printf("%s: %ld allocations, %ld of %ld runs without memory were refused\n", scenarios[i].name, count, refused,
               2 * ((count + step - 1) / step));
    }
    aquila_free(engine);
    unlink(file);
    return failures != 0;
}
