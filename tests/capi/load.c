/* Options, plan, load, free: good and bad. */
#include "check.h"

static int stages;

static int32_t follow(const char *stage, uint64_t done, uint64_t total, void *user) {
    CHECK(stage[0] != '\0' && done <= total && user == &stages);
    stages++;
    return 0;
}

static int32_t abandon(const char *stage, uint64_t done, uint64_t total, void *user) {
    (void)stage, (void)done, (void)total, (void)user;
    stages++;
    return 1;
}

static void bad_arguments(const char *model) {
    aquila_load_options options, *odd;
    aquila_engine *engine = (aquila_engine *)&options;
    aquila_error error;
    char room[2 * sizeof(aquila_error)];

    EXPECT(aquila_load(NULL, NULL, &engine, &error), AQUILA_ERR_ARGUMENT);
    CHECK(engine == NULL);
    EXPECT(aquila_load("", NULL, &engine, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_load(model, NULL, NULL, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_load(model, NULL, ODD(aquila_engine *, room), &error), AQUILA_ERR_ARGUMENT);
    CHECK(strstr(error.message, "misaligned") != NULL);
    engine = (aquila_engine *)&options;
    CHECK(aquila_load(model, NULL, &engine, ODD(aquila_error, room)) == AQUILA_ERR_ARGUMENT);
    CHECK(engine == NULL); /* NULL on every failure */
    aquila_load_options_init(&options, sizeof options);
    odd = ODD(aquila_load_options, room);
    memcpy(odd, &options, sizeof options);
    EXPECT(aquila_load(model, odd, &engine, &error), AQUILA_ERR_ARGUMENT);
    aquila_load_options_init(NULL, sizeof options);
    aquila_load_options_init(odd, sizeof options);

    options.device = "toaster:0";
    EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_ERR_ARGUMENT);
    CHECK(strstr(error.message, "toaster:0") != NULL);
    options.device = "\xFF";
    EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_ERR_ARGUMENT);
    options.device = NULL;
    options.dtype = "f12";
    EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_ERR_ARGUMENT);
    options.dtype = NULL;
    options.flags = 1u << 30;
    EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_ERR_UNSUPPORTED);
    options.flags = 0;
    options.cache_dir = "";
    EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_ERR_ARGUMENT);
    CHECK(strstr(error.message, "cache_dir") != NULL);
    CHECK(engine == NULL);
}

/* Callers from the past and from the future. */
static void struct_sizes(const char *model) {
    struct {
        aquila_load_options known;
        uint64_t tail[4];
    } future;
    aquila_plan plan;
    aquila_error error;

    memset(&future, 0, sizeof future);
    aquila_load_options_init(&future.known, sizeof future);
    CHECK(future.known.struct_size == sizeof future);
    plan.struct_size = sizeof plan;
    EXPECT(aquila_plan_load(model, &future.known, &plan, &error), AQUILA_OK);
    future.tail[2] = 1;
    EXPECT(aquila_plan_load(model, &future.known, &plan, &error), AQUILA_ERR_UNSUPPORTED);
    CHECK(strstr(error.message, "aquila_load_options") != NULL);
    future.known.struct_size = 8; /* flags only: all else is the default, whatever stands there */
    future.known.device = "toaster:0";
    EXPECT(aquila_plan_load(model, &future.known, &plan, &error), AQUILA_OK);
    future.known.struct_size = 12; /* half a pointer */
    EXPECT(aquila_plan_load(model, &future.known, &plan, &error), AQUILA_ERR_ARGUMENT);
    future.known.struct_size = 0;
    EXPECT(aquila_plan_load(model, &future.known, &plan, &error), AQUILA_ERR_ARGUMENT);
    future.known.struct_size = UINT32_MAX;
    EXPECT(aquila_plan_load(model, &future.known, &plan, &error), AQUILA_ERR_ARGUMENT);
    plan.struct_size = 0;
    EXPECT(aquila_plan_load(model, NULL, &plan, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_plan_load(model, NULL, NULL, &error), AQUILA_ERR_ARGUMENT);
    plan.struct_size = 16; /* an older header's, if there had been one */
    plan.workspace_bytes = 77;
    EXPECT(aquila_plan_load(model, NULL, &plan, &error), AQUILA_OK);
    CHECK(plan.struct_size == 16 && plan.weight_bytes > 0 && plan.workspace_bytes == 77);
}

static void plan_and_budgets(const char *model) {
    aquila_load_options options;
    aquila_engine *engine;
    aquila_engine_info info;
    aquila_plan plan;
    aquila_error error;

    plan.struct_size = sizeof plan;
    EXPECT(aquila_plan_load(model, NULL, &plan, &error), AQUILA_OK);
    CHECK(plan.fits == 1 && plan.layers == 2 && plan.max_context == 128);
    CHECK(plan.weight_bytes > 0 && plan.parameters * 4 == plan.weight_bytes);
    CHECK(plan.kv_tokens >= plan.max_context && plan.kv_bytes_per_token > 0 && plan.host_available > 0);

    aquila_load_options_init(&options, sizeof options);
    options.max_context = 64;
    options.threads = 2;
    options.progress = follow;
    options.progress_user = &stages;
    EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_OK);
    CHECK(stages > 0);
    info.struct_size = sizeof info;
    CHECK(aquila_get_info(engine, &info) == AQUILA_OK && info.max_context == 64);
    aquila_free(engine);
    options.flags = AQUILA_LOAD_NO_MMAP | AQUILA_LOAD_VERIFY;
    EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_OK);
    aquila_free(engine);

    stages = 0;
    options.progress = abandon;
    EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_ERR_CANCELLED);
    CHECK(engine == NULL && stages == 1);

    options.progress = NULL;
    options.host_memory = 4096;
    EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_ERR_NO_MEMORY);
    EXPECT(aquila_plan_load(model, &options, &plan, &error), AQUILA_OK);
    CHECK(plan.fits == 0);
}

/* Written by the first load, mapped by the second; the same text from both, and from a load without. */
static void packed_cache(const char *model) {
    char dir[] = "/tmp/aquila-capi-XXXXXX", command[64];
    uint64_t private_bytes = 0;
    aquila_load_options options;
    aquila_gen_params params;
    aquila_engine *engine;
    aquila_result *result;
    aquila_plan plan;
    aquila_error error;
    char first[256] = "";
    int round;

    CHECK(mkdtemp(dir) != NULL);
    aquila_load_options_init(&options, sizeof options);
    aquila_gen_params_init(&params, sizeof params);
    params.max_tokens = 8;
    params.flags = AQUILA_GEN_IGNORE_EOS;
    options.dtype = "q8";
    for (round = 0; round < 3; round++) {
        options.cache_dir = round == 0 ? NULL : dir;
        EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_OK);
        EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_OK);
        if (round == 0) snprintf(first, sizeof first, "%s", aquila_result_text(result, NULL));
        CHECK(strcmp(first, aquila_result_text(result, NULL)) == 0);
        aquila_result_free(result);
        aquila_free(engine);
        plan.struct_size = sizeof plan;
        EXPECT(aquila_plan_load(model, &options, &plan, &error), AQUILA_OK);
        if (round == 0) private_bytes = plan.private_bytes;
        CHECK(round == 0 || plan.private_bytes < private_bytes);
    }
    options.flags = AQUILA_LOAD_VERIFY;
    EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_OK);
    aquila_free(engine);
    options.cache_dir = "/no/such/directory"; /* a warning in the log, no error */
    EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_OK);
    aquila_free(engine);
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
}

static void stale_handles(const char *model) {
    aquila_engine *first = load(model), *second;
    aquila_error error;
    aquila_result *result;

    aquila_free(NULL);
    aquila_free((aquila_engine *)&error);
    aquila_free((aquila_engine *)(uintptr_t)1);
    EXPECT(aquila_generate((aquila_engine *)&error, "x", NULL, &result, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_generate(NULL, "x", NULL, &result, &error), AQUILA_ERR_ARGUMENT);
    aquila_free(first);
    aquila_free(first);
    EXPECT(aquila_generate(first, "x", NULL, &result, &error), AQUILA_ERR_CLOSED);
    second = load(model);
    CHECK(first != second);
    aquila_free(first); /* must not hit the second, which may have its slot */
    CHECK(aquila_tokenize(second, "x", AQUILA_NTS, 0, NULL, 0, NULL, &error) == AQUILA_OK);
    aquila_free(second);
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    bad_arguments(argv[1]);
    struct_sizes(argv[1]);
    plan_and_budgets(argv[1]);
    packed_cache(argv[1]);
    stale_handles(argv[1]);
    return failures != 0;
}
