/* Tokenizer and chat template, by the two-call protocol. */
#include "check.h"

static const char *messages = "[{\"role\":\"user\",\"content\":\"hello\"}]";

static void round_trip(aquila_engine *engine, const char *text) {
    aquila_error error;
    int32_t ids[64];
    char back[256];
    size_t n = 99, again, size;

    EXPECT(aquila_tokenize(engine, text, AQUILA_NTS, 0, NULL, 0, &n, &error), AQUILA_OK);
    CHECK(n <= 64);
    if (n > 0) {
        memset(ids, 0x55, sizeof ids);
        EXPECT(aquila_tokenize(engine, text, strlen(text), 0, ids, n - 1, &again, &error), AQUILA_ERR_TOO_SMALL);
        CHECK(again == n && ids[0] == 0x55555555);
    }
    EXPECT(aquila_tokenize(engine, text, strlen(text), 0, ids, 64, &again, &error), AQUILA_OK);
    CHECK(again == n);
    EXPECT(aquila_detokenize(engine, ids, n, 0, NULL, 0, &size, &error), AQUILA_OK);
    CHECK(size == strlen(text));
    back[0] = '?';
    EXPECT(aquila_detokenize(engine, ids, n, 0, back, size, &size, &error), AQUILA_ERR_TOO_SMALL);
    CHECK(back[0] == '?');
    EXPECT(aquila_detokenize(engine, ids, n, 0, back, size + 1, NULL, &error), AQUILA_OK);
    CHECK(strcmp(back, text) == 0);
}

static void refusals(aquila_engine *engine) {
    aquila_error error;
    aquila_engine_info info;
    int32_t ids[4] = {1, -5, 1 << 28, 0};
    char room[16];
    size_t size;

    EXPECT(aquila_tokenize(engine, NULL, AQUILA_NTS, 0, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_tokenize(engine, NULL, 3, 0, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_tokenize(engine, "\xE6\xA8", 2, 0, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_tokenize(engine, "x", 1, 64, NULL, 0, &size, &error), AQUILA_ERR_UNSUPPORTED);
    EXPECT(aquila_tokenize(engine, "x", 1, 0, NULL, 4, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_tokenize(engine, "x", 1, 0, ODD(int32_t, ids), 1, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_tokenize(NULL, "x", 1, 0, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_detokenize(engine, ids, 2, 0, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
    CHECK(strstr(error.message, "ids[1]: id -5") != NULL);
    EXPECT(aquila_detokenize(engine, ids + 2, 1, 0, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
    info.struct_size = sizeof info;
    CHECK(aquila_get_info(engine, &info) == AQUILA_OK);
    ids[0] = (int32_t)info.vocab - 1; /* the model may choose it, and the tokenizer does not know it */
    EXPECT(aquila_detokenize(engine, ids, 1, 0, room, sizeof room, &size, &error), AQUILA_OK);
    CHECK(size == 0 && room[0] == '\0');
    ids[0]++;
    EXPECT(aquila_detokenize(engine, ids, 1, 0, room, sizeof room, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_detokenize(engine, NULL, 2, 0, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_detokenize(engine, NULL, 0, 0, room, sizeof room, &size, &error), AQUILA_OK);
    CHECK(size == 0 && room[0] == '\0');
    EXPECT(aquila_apply_template(engine, NULL, NULL, 1, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
}

/* A chat gives a prompt, and generation from messages takes the same JSON. */
static void chat(aquila_engine *engine) {
    aquila_gen_params params = short_params(3);
    aquila_result *result;
    aquila_error error;
    char prompt[1024];
    size_t size;

    EXPECT(aquila_apply_template(engine, messages, NULL, 1, NULL, 0, &size, &error), AQUILA_OK);
    EXPECT(aquila_apply_template(engine, messages, NULL, 1, prompt, sizeof prompt, &size, &error), AQUILA_OK);
    CHECK(strstr(prompt, "hello") != NULL && strlen(prompt) == size);
    EXPECT(aquila_apply_template(engine, "{", NULL, 1, prompt, sizeof prompt, &size, &error), AQUILA_ERR_ARGUMENT);
    params.flags |= AQUILA_GEN_MESSAGES;
    EXPECT(aquila_generate(engine, messages, &params, &result, &error), AQUILA_OK);
    aquila_result_free(result);
}

int main(int argc, char **argv) {
    aquila_load_options options;
    aquila_engine *engine;
    aquila_error error;

    if (argc != 2) return 2;
    aquila_load_options_init(&options, sizeof options);
    options.chat_template = "aquila-v1";
    EXPECT(aquila_load(argv[1], &options, &engine, &error), AQUILA_OK);
    round_trip(engine, "hello world");
    round_trip(engine, "\xE4\xBD\xA0\xE5\xA5\xBD, \xE4\xB8\x96\xE7\x95\x8C! \xF0\x9F\xA6\x85");
    round_trip(engine, "");
    refusals(engine);
    chat(engine);
    aquila_free(engine);
    return failures != 0;
}
