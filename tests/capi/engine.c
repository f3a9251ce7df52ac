/* Facts of an engine, and its handle after a fork. */
#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

static void in_the_child(aquila_engine *engine, aquila_queue *queue, aquila_request *request, const char *model) {
    aquila_gen_params params = short_params(2);
    aquila_request *ready[1], *another;
    aquila_event event;
    aquila_job job;
    size_t n;
    aquila_engine_info info;
    aquila_result *result;
    aquila_error error;
    aquila_engine *own;

    info.struct_size = sizeof info;
    CHECK(aquila_get_info(engine, &info) == AQUILA_ERR_FORKED);
    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_ERR_FORKED);
    EXPECT(aquila_tokenize(engine, "x", 1, 0, NULL, 0, NULL, &error), AQUILA_ERR_FORKED);
    memset(&job, 0, sizeof job);
    job.struct_size = sizeof job;
    event.struct_size = sizeof event;
    EXPECT(aquila_submit(engine, &job, &another, &error), AQUILA_ERR_FORKED);
    EXPECT(aquila_next(request, &event, AQUILA_FOREVER, &error), AQUILA_ERR_FORKED);
    EXPECT(aquila_wait(request, AQUILA_FOREVER, &result, &error), AQUILA_ERR_FORKED);
    EXPECT(aquila_queue_wait(queue, ready, 1, &n, AQUILA_FOREVER, &error), AQUILA_ERR_FORKED);
    aquila_cancel(request);
    aquila_queue_wake(queue);
    aquila_request_free(request);
    aquila_queue_free(queue);
    aquila_free(engine); /* does nothing: its threads are the parent's */
    own = load(model);
    EXPECT(aquila_generate(own, "hello", &params, &result, &error), AQUILA_OK);
    aquila_result_free(result);
    aquila_free(own);
}

/* Loads in a child of its own and writes a text of a random seed into the pipe. */
static void tell(const char *model, int to) {
    aquila_gen_params params = short_params(40);
    aquila_engine *own = load(model);
    aquila_result *result;
    aquila_error error;
    const char *text;
    size_t size;

    params.temperature = 1;
    EXPECT(aquila_generate(own, "hello", &params, &result, &error), AQUILA_OK);
    text = aquila_result_json(result, &size);
    size = (size_t)(strstr(text, "\"logprobs\"") - text); /* what follows holds times */
    CHECK(write(to, text, size) == (ssize_t)size);
    aquila_result_free(result);
    aquila_free(own);
    fflush(NULL);
    _exit(failures != 0);
}

/* A server that forks its workers: what random numbers its threads had, all workers inherit. */
static void random_in_each_child(const char *model) {
    static char texts[2][4096];
    int i, ends[2], status;

    for (i = 0; i < 2; i++) {
        size_t size = 0;
        ssize_t got;
        pid_t child;
        CHECK(pipe(ends) == 0);
        child = fork_with_idle_threads();
        if (child == 0) tell(model, ends[1]);
        close(ends[1]);
        while ((got = read(ends[0], texts[i] + size, sizeof texts[i] - 1 - size)) > 0) size += (size_t)got;
        close(ends[0]);
        CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0 && size > 0);
    }
    CHECK(strcmp(texts[0], texts[1]) != 0);
}

int main(int argc, char **argv) {
    aquila_engine_info info;
    aquila_engine *engine;
    aquila_result *result;
    aquila_error error;
    char json[4096];
    size_t size;
    int status = -1;
    pid_t child;
    aquila_request *request;
    aquila_queue *queue;
    aquila_job job;

    if (argc != 2) return 2;
    engine = load(argv[1]);
    info.struct_size = sizeof info;
    CHECK(aquila_get_info(engine, &info) == AQUILA_OK);
    CHECK(info.layers == 2 && info.hidden == 64 && info.max_context == 128 && info.tensor_parallel == 1);
    CHECK(info.vocab > 256 && info.parameters > 0 && info.weight_bytes > 0 && info.kv_tokens >= 128);
    CHECK(info.eos >= 0 && (uint32_t)info.eos < info.vocab);
    CHECK(aquila_get_info(engine, NULL) == AQUILA_ERR_ARGUMENT);
    info.struct_size = 2;
    CHECK(aquila_get_info(engine, &info) == AQUILA_ERR_ARGUMENT);
    CHECK(aquila_get_info(NULL, &info) == AQUILA_ERR_ARGUMENT);

    EXPECT(aquila_engine_json(engine, NULL, 0, &size, &error), AQUILA_OK);
    EXPECT(aquila_engine_json(engine, json, size, &size, &error), AQUILA_ERR_TOO_SMALL);
    EXPECT(aquila_engine_json(engine, json, sizeof json, &size, &error), AQUILA_OK);
    CHECK(strlen(json) == size && strstr(json, "\"device\":\"cpu\"") != NULL);

    EXPECT(aquila_queue_create(&queue, &error), AQUILA_OK);
    job = job_of("hello", NULL);
    job.queue = queue;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_OK);
    child = fork_with_idle_threads();
    if (child == 0) {
        in_the_child(engine, queue, request, argv[1]);
        fflush(NULL);
        _exit(failures != 0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    /* What the child freed is the parent's still. */
    EXPECT(aquila_wait(request, AQUILA_FOREVER, &result, &error), AQUILA_OK);
    aquila_result_free(result);
    aquila_request_free(request);
    aquila_queue_free(queue);
    random_in_each_child(argv[1]);
    EXPECT(aquila_generate(engine, "hello", NULL, &result, &error), AQUILA_OK);
    aquila_result_free(result);
    aquila_free(engine);
    info.struct_size = sizeof info;
    CHECK(aquila_get_info(engine, &info) == AQUILA_ERR_CLOSED);
    EXPECT(aquila_engine_json(engine, json, sizeof json, &size, &error), AQUILA_ERR_CLOSED);
    return failures != 0;
}
