/* What the C tests share: checks that say where they failed, and a small set of parameters. */
#ifndef CHECK_H
#define CHECK_H

#include <aquila.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int failures;

#define UNUSED __attribute__((unused)) /* not every test uses every part */

#define CHECK(condition)                                                                        \
    do {                                                                                        \
        if (!(condition)) {                                                                     \
            failures++;                                                                         \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                     \
        }                                                                                       \
    } while (0)

/* The status of a call that takes `&error` must be as expected, and the error must agree with it. */
#define EXPECT(call, expected)                                                                  \
    do {                                                                                        \
        aquila_status expect_status = (call);                                                   \
        if (expect_status != (expected)) {                                                      \
            failures++;                                                                         \
            fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #call,                   \
                    aquila_status_name(expect_status), error.message);                          \
        }                                                                                       \
        CHECK(error.status == expect_status);                                                   \
        CHECK((error.message[0] == '\0') == (expect_status == AQUILA_OK));                      \
    } while (0)

/* An address that no struct may have, inside `room`. */
#define ODD(type, room) ((type *)(void *)((char *)(room) + 1))

UNUSED static aquila_engine *load(const char *model) {
    aquila_engine *engine = NULL;
    aquila_error error;
    if (aquila_load(model, NULL, &engine, &error) != AQUILA_OK) {
        fprintf(stderr, "%s\n", error.message);
        exit(1);
    }
    return engine;
}

UNUSED static aquila_gen_params short_params(uint32_t tokens) {
    aquila_gen_params params;
    aquila_gen_params_init(&params, sizeof params);
    params.max_tokens = tokens;
    params.flags = AQUILA_GEN_IGNORE_EOS;
    return params;
}

/* A job of a text; what it continues, where it is listed and other inputs are set afterwards. */
UNUSED static aquila_job job_of(const void *input, const aquila_gen_params *params) {
    aquila_job job;
    memset(&job, 0, sizeof job);
    job.struct_size = sizeof job;
    job.input = input;
    job.input_size = AQUILA_NTS;
    job.params = params;
    return job;
}

/* Whether all threads of this process but the calling one sleep. */
UNUSED static int all_sleep(void) {
    char path[300], name[64], state;
    struct dirent *entry;
    int awake = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    while (tasks != NULL && (entry = readdir(tasks)) != NULL) {
        FILE *file;
        if (entry->d_name[0] == '.') continue;
        sprintf(path, "/proc/self/task/%s/stat", entry->d_name);
        if ((file = fopen(path, "r")) == NULL) continue;
        if (fscanf(file, "%*d (%63[^)]) %c", name, &state) == 2) awake += state != 'S';
        fclose(file);
    }
    if (tasks != NULL) closedir(tasks);
    return awake == 1;
}

/* fork(). The allocator of older AddressSanitizers takes no care of it: where a thread that is just being born holds
   its lock, the child waits for that lock for ever. */
UNUSED static pid_t fork_with_idle_threads(void) {
    while (!all_sleep()) usleep(1000);
    fflush(NULL);
    return fork();
}

#endif
