/* What the library leaves alone: signals, locale, directory, environment, umask, the mode of the processor's arithmetic; and how
   a process ends while an engine lives. */
#include "check.h"

#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

extern char **environ;

/* The mode of the processor's arithmetic: rounding, and what becomes of the smallest numbers; not the flags that it raises. */
#if defined(__x86_64__)
#include <xmmintrin.h>
#define UNUSUAL_MODE (0x1F80 | 0x4000 | 0x8000 | 0x0040) /* upwards; such numbers are 0 as results and as operands */
static uint64_t mode(void) { return _mm_getcsr() & 0xFFC0; }
static void set_mode(uint64_t mode) { _mm_setcsr((uint32_t)mode); }
#elif defined(__aarch64__)
#define UNUSUAL_MODE (1 << 24 | 1 << 22)
static uint64_t mode(void) { uint64_t mode; __asm__ volatile("mrs %0, fpcr" : "=r"(mode)); return mode; }
static void set_mode(uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#else
#error "which mode?"
#endif

struct state {
    void (*handlers[NSIG])(int);
    int flags[NSIG];
    sigset_t mask;
    char locale[256], directory[4096], environment[1 << 16];
    mode_t umask;
    uint64_t mode;
};

static void look(struct state *state) {
    size_t size = 0;
    int i;
    memset(state, 0, sizeof *state);
    for (i = 1; i < NSIG; i++) {
        struct sigaction action;
        if (sigaction(i, NULL, &action) != 0) continue;
        state->handlers[i] = action.sa_handler;
        state->flags[i] = action.sa_flags;
    }
    pthread_sigmask(SIG_SETMASK, NULL, &state->mask);
    snprintf(state->locale, sizeof state->locale, "%s", setlocale(LC_ALL, NULL));
    CHECK(getcwd(state->directory, sizeof state->directory) != NULL);
    for (i = 0; environ[i] != NULL; i++)
        size += (size_t)snprintf(state->environment + size, sizeof state->environment - size, "%s\n", environ[i]);
    state->umask = umask(0);
    umask(state->umask);
    state->mode = mode();
}

/* Loads, generates in each way, fails, and frees. */
static void use(const char *model, char *text, size_t size) {
    static const char *const choice[] = {" world"};
    aquila_gen_params params = short_params(12);
    aquila_engine *engine = load(model);
    aquila_result *result;
    aquila_error error;
    double logprob;
    float vector[64];
    int32_t ids[16];
    size_t n;
    params.temperature = 1;
    params.seed = 5;
    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_OK);
    snprintf(text, size, "%s", aquila_result_text(result, NULL));
    aquila_result_free(result);
    EXPECT(aquila_generate(engine, "\xFF", &params, &result, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_tokenize(engine, "hello", AQUILA_NTS, 0, ids, 16, &n, &error), AQUILA_OK);
    EXPECT(aquila_score(engine, "hello", choice, 1, &logprob, &error), AQUILA_OK);
    EXPECT(aquila_embed(engine, choice, 1, vector, 64, NULL, &error), AQUILA_OK);
    aquila_free(engine);
    EXPECT(aquila_load("/no/such/model", NULL, &engine, &error), AQUILA_ERR_NOT_FOUND);
}

/* Also a host with a mode of its own keeps it, and gets the same text. */
static void nothing_changes(const char *model) {
    static struct state before, after;
    char text[256], other[256];
    look(&before);
    use(model, text, sizeof text);
    look(&after);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    set_mode(UNUSUAL_MODE);
    use(model, other, sizeof other);
    CHECK(mode() == UNUSUAL_MODE && strcmp(text, other) == 0);
    set_mode(before.mode);
}

static volatile sig_atomic_t signals;
static pthread_t main_thread;

static void count(int number) {
    (void)number;
    signals++;
    if (!pthread_equal(pthread_self(), main_thread)) abort(); /* threads of the library block all signals */
}

/* A thousand signals a second interrupt the host's calls: they go on. */
static void interrupted(const char *model) {
    struct itimerval often = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    struct sigaction action;
    char text[256];
    int i;
    main_thread = pthread_self();
    memset(&action, 0, sizeof action);
    action.sa_handler = count; /* without SA_RESTART */
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    for (i = 0; i < 1000 && (i < 5 || signals < 20); i++) use(model, text, sizeof text);
    setitimer(ITIMER_REAL, &off, NULL);
    CHECK(signals >= 20);
}

static void *end_it(void *unused) {
    (void)unused;
    exit(0);
}

/* A process may end while its engine works, in any way, also on another thread. */
static void ends(const char *model) {
    int way, status;
    for (way = 0; way < 4; way++) {
        pid_t child = fork_with_idle_threads();
        if (child == 0) {
            aquila_gen_params params = short_params(0);
            aquila_request *request;
            pthread_t thread;
            aquila_job job;
            int i;
            alarm(60);
            job = job_of("hello", &params);
            params.max_tokens = 100;
            {
                aquila_engine *engine = load(model);
                for (i = 0; i < 50; i++) CHECK(aquila_submit(engine, &job, &request, NULL) == AQUILA_OK);
            }
            if (failures) _exit(1);
            if (way == 0) exit(0);
#if __STDC_VERSION__ >= 201112L
            if (way == 1) quick_exit(0);
#endif
            if (way == 2) _exit(0);
            CHECK(pthread_create(&thread, NULL, end_it, NULL) == 0);
            for (;;) pause();
        }
        CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    }
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    nothing_changes(argv[1]);
    ends(argv[1]);
    interrupted(argv[1]);
    return failures != 0;
}
