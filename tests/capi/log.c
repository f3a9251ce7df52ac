/* The log: silent until asked, no finer than asked, and nothing of a former function once its successor is set. */
#include "check.h"

#include <pthread.h>

struct seen { int live, by_level[5]; }; /* atomic */

static void count(aquila_log_level level, const char *target, const char *message, void *user) {
    struct seen *seen = user;
    CHECK(__atomic_load_n(&seen->live, __ATOMIC_ACQUIRE)); /* else its owner has freed it */
    CHECK(level >= AQUILA_LOG_ERROR && level <= AQUILA_LOG_DEBUG);
    CHECK(strncmp(target, "aquila", 6) == 0 && message[0] != '\0');
    __atomic_add_fetch(&seen->by_level[level], 1, __ATOMIC_RELAXED);
}

/* A load says something on most levels: a warning of the directory, facts, details. */
static void talk(const char *model) {
    aquila_load_options options;
    aquila_engine *engine;
    aquila_error error;
    aquila_load_options_init(&options, sizeof options);
    options.dtype = "q8";
    options.cache_dir = "/no/such/directory";
    EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_OK);
    aquila_free(engine);
}

static void levels(const char *model) {
    int max;
    for (max = AQUILA_LOG_OFF - 2; max <= AQUILA_LOG_DEBUG + 2; max++) {
        struct seen seen = {1, {0}};
        int level;
        aquila_set_log(max, count, &seen);
        talk(model);
        aquila_set_log(AQUILA_LOG_OFF, NULL, NULL);
        for (level = AQUILA_LOG_ERROR; level <= AQUILA_LOG_DEBUG; level++)
            CHECK((seen.by_level[level] > 0) == (level <= max && level > AQUILA_LOG_ERROR)); /* nothing failed */
    }
}

static void change_it(aquila_log_level level, const char *target, const char *message, void *user) {
    struct seen *seen = user;
    aquila_set_log(AQUILA_LOG_OFF, NULL, NULL); /* does nothing here */
    count(level, target, message, seen);
}

static void from_inside(const char *model) {
    struct seen seen = {1, {0}};
    aquila_set_log(AQUILA_LOG_DEBUG, change_it, &seen);
    talk(model);
    CHECK(seen.by_level[AQUILA_LOG_WARN] > 0 && seen.by_level[AQUILA_LOG_INFO] > 1);
    aquila_set_log(AQUILA_LOG_DEBUG, NULL, &seen);
    memset(&seen, 0, sizeof seen);
    talk(model);
}

/* It takes its time, so that its user's owner has the time to free that too early. */
static void count_slowly(aquila_log_level level, const char *target, const char *message, void *user) {
    usleep(200);
    count(level, target, message, user);
}

static int ended;

static void *talk_on(void *model) {
    while (!__atomic_load_n(&ended, __ATOMIC_ACQUIRE)) talk(model);
    return NULL;
}

/* The owner of a `user` frees it as soon as aquila_set_log has returned, while other threads log. */
static void former_users(char *model) {
    static struct seen seen[200];
    pthread_t threads[4];
    int i, total = 0;
    for (i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, talk_on, model) == 0);
    for (i = 0; i < 200; i++) {
        __atomic_store_n(&seen[i].live, 1, __ATOMIC_RELEASE);
        aquila_set_log(AQUILA_LOG_DEBUG, count_slowly, &seen[i]);
        if (i > 0) __atomic_store_n(&seen[i - 1].live, 0, __ATOMIC_RELEASE);
        usleep(500);
    }
    aquila_set_log(AQUILA_LOG_OFF, NULL, NULL);
    __atomic_store_n(&seen[199].live, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&ended, 1, __ATOMIC_RELEASE);
    for (i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    for (i = 0; i < 200; i++) total += seen[i].by_level[AQUILA_LOG_INFO];
    CHECK(total > 0);
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    talk(argv[1]); /* silent, as programs.rs sees */
    levels(argv[1]);
    from_inside(argv[1]);
    former_users(argv[1]);
    return failures != 0;
}
