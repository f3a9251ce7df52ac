/* threads.c: one engine, many threads, each with its own request.
 *
 *   cc threads.c $(pkg-config --cflags --libs aquila) -lpthread -o threads
 *   ./threads models/Aquila-7B 8
 */
#include <aquila.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define THREADS_MAX 64

static aquila_engine *engine;

struct job {
    char prompt[64];
    aquila_result *result;
    aquila_error error;
};

static void *work(void *argument) {
    struct job *job = argument;
    aquila_gen_params params;

    aquila_gen_params_init(&params, sizeof params);
    params.max_tokens = 16;
    aquila_generate(engine, job->prompt, &params, &job->result, &job->error);
    return NULL;
}

int main(int argc, char **argv) {
    static struct job jobs[THREADS_MAX];
    pthread_t threads[THREADS_MAX];
    aquila_error error;
    int i, started = 0, failed = 0, count = argc == 3 ? atoi(argv[2]) : 8;

    if (argc < 2 || count < 1 || count > THREADS_MAX) {
        fprintf(stderr, "usage: threads MODEL [1 to %d]\n", THREADS_MAX);
        return 2;
    }
    if (aquila_load(argv[1], NULL, &engine, &error) != AQUILA_OK) {
        fprintf(stderr, "load: %s\n", error.message);
        return 1;
    }
    for (; started < count; started++) {
        sprintf(jobs[started].prompt, "Number %d is", started);
        if (pthread_create(&threads[started], NULL, work, &jobs[started]) != 0) break;
    }
    for (i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
        if (jobs[i].error.status == AQUILA_OK) {
            printf("%2d: %s\n", i, aquila_result_text(jobs[i].result, NULL));
        } else {
            printf("%2d: %s\n", i, jobs[i].error.message);
            failed = 1;
        }
        aquila_result_free(jobs[i].result);
    }
    aquila_free(engine);
    return failed || started < count;
}
