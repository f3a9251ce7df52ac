/* Facts of an engine, and its handle after a fork. */
#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

static void in_the_child(aquila_engine *engine, const char *model) {
    aquila_gen_params params = short_params(2);
    aquila_engine_info info;
    aquila_result *result;
    aquila_error error;
    aquila_engine *own;

    info.struct_size = sizeof info;
    CHECK(aquila_get_info(engine, &info) == AQUILA_ERR_FORKED);
    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_ERR_FORKED);
    EXPECT(aquila_tokenize(engine, "x", 1, 0, NULL, 0, NULL, &error), AQUILA_ERR_FORKED);
    aquila_free(engine); /* does nothing: its threads are the parent's */
    own = load(model);
    EXPECT(aquila_generate(own, "hello", &params, &result, &error), AQUILA_OK);
    aquila_result_free(result);
    aquila_free(own);
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

    fflush(NULL);
    child = fork();
    if (child == 0) {
        in_the_child(engine, argv[1]);
        fflush(NULL);
        _exit(failures != 0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    EXPECT(aquila_generate(engine, "hello", NULL, &result, &error), AQUILA_OK);
    aquila_result_free(result);
    aquila_free(engine);
    info.struct_size = sizeof info;
    CHECK(aquila_get_info(engine, &info) == AQUILA_ERR_CLOSED);
    EXPECT(aquila_engine_json(engine, json, sizeof json, &size, &error), AQUILA_ERR_CLOSED);
    return failures != 0;
}
