/* Absurd numbers: each is refused with its name or does what it says, and the engine goes on. */
#include "check.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <sys/resource.h>

#define CONTEXT 128 /* of the model */

static aquila_engine *engine;
static uint32_t vocab;

/* Generates; the message of a refusal names `field`, and what is made are ids of the model. */
static void try_params(const aquila_gen_params *params, const char *field, int fine) {
    aquila_result *result;
    aquila_error error;
    const int32_t *tokens;
    size_t n, i;

    if (!fine) {
        EXPECT(aquila_generate(engine, "hello", params, &result, &error), AQUILA_ERR_ARGUMENT);
        CHECK(strstr(error.message, field) != NULL);
        return;
    }
    EXPECT(aquila_generate(engine, "hello", params, &result, &error), AQUILA_OK);
    tokens = aquila_result_tokens(result, &n);
    for (i = 0; i < n; i++) CHECK(tokens[i] >= 0 && (uint32_t)tokens[i] < vocab);
    aquila_result_free(result);
}

/* The ranges are those of the header; what lies outside them, and no number, is refused. */
static void float_parameters(void) {
    static const struct { const char *name; size_t at; float least, most; } fields[] = {
        {"temperature", offsetof(aquila_gen_params, temperature), 0, 100},
        {"top_p", offsetof(aquila_gen_params, top_p), 0, 1},
        {"min_p", offsetof(aquila_gen_params, min_p), 0, 1},
        {"typical_p", offsetof(aquila_gen_params, typical_p), 0, 1},
        {"repeat_penalty", offsetof(aquila_gen_params, repeat_penalty), 0.01f, 100},
        {"frequency_penalty", offsetof(aquila_gen_params, frequency_penalty), -100, 100},
        {"presence_penalty", offsetof(aquila_gen_params, presence_penalty), -100, 100},
    };
    static const float values[] = {-INFINITY, -1e30f, -100.5f, -1, -1e-6f, -0.0f, 0, 1e-45f, 1e-30f, 0.005f, 1,
                                   1.001f, 100, 100.5f, 1e30f, INFINITY, NAN};
    size_t i, k;
    for (i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        for (k = 0; k < 2 + sizeof values / sizeof values[0]; k++) {
            float value = k == 0 ? fields[i].least : k == 1 ? fields[i].most : values[k - 2];
            aquila_gen_params params = short_params(3);
            params.temperature = 1;
            params.seed = 3;
            memcpy((char *)&params + fields[i].at, &value, sizeof value);
            try_params(&params, fields[i].name, value >= fields[i].least && value <= fields[i].most);
        }
    }
}

static void whole_parameters(void) {
    aquila_gen_params good = short_params(3), params;
    aquila_logit_bias bias[2] = {{0, -INFINITY}, {0, 0}};
    const char *stop = "\xFF";
#define TRY(field, value, fine) (params = good, params.field = (value), try_params(&params, #field, fine))
    TRY(top_k, INT32_MIN, 0), TRY(top_k, -2, 0), TRY(top_k, -1, 1), TRY(top_k, INT32_MAX, 1);
    TRY(penalty_last_n, INT32_MIN, 0), TRY(penalty_last_n, -2, 0), TRY(penalty_last_n, INT32_MAX, 1);
    TRY(min_tokens, UINT32_MAX, 0), TRY(min_tokens, 3, 1);
    TRY(speculate, 65, 0), TRY(speculate, UINT32_MAX, 0), TRY(speculate, 64, 1);
    TRY(n_logprobs, 21, 0), TRY(n_logprobs, UINT32_MAX, 0), TRY(n_logprobs, 20, 1);
    TRY(deadline_ms, -1, 0), TRY(deadline_ms, INT64_MIN, 0), TRY(deadline_ms, INT64_MAX, 1);
    TRY(priority, INT32_MIN, 1), TRY(priority, INT32_MAX, 1);
    TRY(seed, 0, 1), TRY(seed, UINT64_MAX - 1, 1);
    TRY(max_tokens, UINT32_MAX, 1), TRY(max_tokens, 0, 1);
    good.max_tokens = 0;
    TRY(min_tokens, UINT32_MAX, 1);
    good = short_params(3);
    good.logit_bias = bias;
    TRY(n_logit_bias, 1, 1);
#undef TRY
    params = good;
    params.n_logit_bias = 2;
    bias[1].bias = NAN;
    try_params(&params, "logit_bias", 0);
    bias[1].bias = INFINITY;
    try_params(&params, "logit_bias", 0);
    params.n_logit_bias = 0;
    params.n_stop = 1;
    params.stop = &stop;
    try_params(&params, "stop[0]", 0);
}

/* Every token forbidden: nothing can be chosen. */
static void no_token_left(void) {
    aquila_gen_params params = short_params(3);
    aquila_logit_bias *bias = malloc(vocab * sizeof *bias);
    aquila_result *result;
    aquila_error error;
    uint32_t i;
    for (i = 0; i < vocab; i++) bias[i].token = (int32_t)i, bias[i].bias = -INFINITY;
    params.logit_bias = bias;
    params.n_logit_bias = vocab;
    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_ERR_STATE);
    CHECK(result == NULL);
    free(bias);
}

/* Prompts of every length around the context, and counts that were never meant. */
static void lengths(void) {
    static int32_t ids[CONTEXT + 2];
    static const char text[] = "hello";
    static const size_t absurd[] = {AQUILA_NTS, AQUILA_NTS - 1, (size_t)1 << 62, (size_t)1 << 40, ((size_t)1 << 24) + 1};
    aquila_gen_params params = short_params(0);
    const char *texts[] = {text};
    float vector[64];
    aquila_request *request;
    aquila_result *result;
    aquila_error error;
    aquila_job job;
    size_t n, i;

    for (i = 0; i < CONTEXT + 2; i++) ids[i] = 'a';
    memset(&job, 0, sizeof job);
    job.struct_size = sizeof job;
    job.input_kind = AQUILA_INPUT_TOKENS;
    job.input = ids;
    job.params = &params;
    job.input_size = 0;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_ERR_ARGUMENT);
    for (n = CONTEXT - 2; n < CONTEXT + 2; n++) {
        job.input_size = n;
        EXPECT(aquila_submit(engine, &job, &request, &error), n < CONTEXT ? AQUILA_OK : AQUILA_ERR_CONTEXT_FULL);
        if (n >= CONTEXT) continue;
        EXPECT(aquila_wait(request, INT64_MAX, &result, &error), AQUILA_OK);
        CHECK(aquila_result_finish(result) == AQUILA_FINISH_CONTEXT);
        aquila_result_tokens(result, &i);
        CHECK(i == CONTEXT - n);
        aquila_result_free(result);
        EXPECT(aquila_wait(request, INT64_MIN, &result, &error), AQUILA_ERR_ARGUMENT);
        aquila_request_free(request);
    }
    params.flags |= AQUILA_GEN_MESSAGES;
    job.input_size = 3;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_ERR_ARGUMENT);
    params.flags &= ~(uint32_t)AQUILA_GEN_MESSAGES;
    for (i = 0; i < sizeof absurd / sizeof absurd[0]; i++) { /* refused before anything is read or taken */
        job.input_size = absurd[i];
        EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_ERR_ARGUMENT);
        EXPECT(aquila_detokenize(engine, ids, absurd[i], 0, NULL, 0, &n, &error), AQUILA_ERR_ARGUMENT);
        if (i > 0 && i < 4) EXPECT(aquila_tokenize(engine, text, absurd[i], 0, NULL, 0, &n, &error), AQUILA_ERR_ARGUMENT);
        EXPECT(aquila_embed(engine, texts, absurd[i], vector, 64, &n, &error), AQUILA_ERR_TOO_SMALL);
    }
}

/* A prompt and a continuation beyond the context are refused like any other. */
static void measured_beyond_the_context(void) {
    static char longer[4096];
    const char *choice = "x", *texts[] = {longer};
    float vector[64];
    aquila_error error;
    double logprob = 7;
    memset(longer, 'q', sizeof longer - 1);
    EXPECT(aquila_score(engine, longer, &choice, 1, &logprob, &error), AQUILA_ERR_CONTEXT_FULL);
    EXPECT(aquila_score(engine, "x", texts, 1, &logprob, &error), AQUILA_ERR_CONTEXT_FULL);
    EXPECT(aquila_embed(engine, texts, 1, vector, 64, NULL, &error), AQUILA_ERR_CONTEXT_FULL);
    CHECK(logprob == 7);
}

/* Options that no machine has; those that lower a limit only are fine. */
static void load_options(const char *model) {
    aquila_load_options good, options;
    aquila_engine *other;
    aquila_error error;
    aquila_status status;
    aquila_load_options_init(&good, sizeof good);
#define TRY(field, value, expected)                                                             \
    do {                                                                                        \
        options = good;                                                                         \
        options.field = (value);                                                                \
        status = aquila_load(model, &options, &other, &error);                                  \
        CHECK((status == AQUILA_OK) == (other != NULL));                                        \
        if (status != (expected)) fprintf(stderr, "%s: %s: %s\n", #field, #value, error.message); \
        CHECK(status == (expected));                                                            \
        aquila_free(other);                                                                     \
    } while (0)
    TRY(threads, 257, AQUILA_ERR_ARGUMENT);
    TRY(threads, UINT32_MAX, AQUILA_ERR_ARGUMENT);
    TRY(max_batch, 257, AQUILA_ERR_ARGUMENT);
    TRY(max_batch, 256, AQUILA_OK);
    TRY(max_context, UINT32_MAX, AQUILA_OK);
    TRY(max_context, 1, AQUILA_OK);
    TRY(max_waiting, UINT32_MAX, AQUILA_OK);
    TRY(kv_memory, 1, AQUILA_ERR_NO_MEMORY);
    TRY(kv_memory, UINT64_MAX, AQUILA_OK);
    TRY(host_memory, 1, AQUILA_ERR_NO_MEMORY);
    TRY(host_memory, UINT64_MAX, AQUILA_OK);
    TRY(device, "", AQUILA_OK);
    TRY(dtype, "", AQUILA_ERR_ARGUMENT);
    TRY(kv_dtype, "q4", AQUILA_ERR_ARGUMENT);
    TRY(tokenizer, "/no/such/tokenizer.json", AQUILA_ERR_NOT_FOUND);
    TRY(chat_template, "{% for", AQUILA_ERR_FORMAT);
    TRY(chat_template, "\xFF", AQUILA_ERR_ARGUMENT);
#undef TRY
}

/* What the system refuses has its number. */
static void no_descriptor_left(const char *model) {
    struct rlimit limit = {0, 0}, none;
    aquila_engine *other;
    aquila_queue *queue;
    aquila_error error;
    int free_one = dup(2);
    CHECK(free_one >= 0 && close(free_one) == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0);
    none = limit;
    none.rlim_cur = (rlim_t)free_one;
    CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
    EXPECT(aquila_queue_create(&queue, &error), AQUILA_ERR_IO);
    CHECK(queue == NULL && error.native_code == EMFILE);
    EXPECT(aquila_load(model, NULL, &other, &error), AQUILA_ERR_IO);
    CHECK(other == NULL && error.native_code == EMFILE);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    EXPECT(aquila_queue_create(&queue, &error), AQUILA_OK);
    aquila_queue_free(queue);
}

int main(int argc, char **argv) {
    aquila_engine_info info;
    if (argc != 2) return 2;
    engine = load(argv[1]);
    info.struct_size = sizeof info;
    CHECK(aquila_get_info(engine, &info) == AQUILA_OK && info.max_context == CONTEXT);
    vocab = info.vocab;
    float_parameters();
    whole_parameters();
    no_token_left();
    lengths();
    measured_beyond_the_context();
    load_options(argv[1]);
    no_descriptor_left(argv[1]);
    aquila_free(engine);
    return failures != 0;
}
