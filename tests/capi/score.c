/* Scores and embeddings: against what aquila_generate says of the same tokens, together and alone, and misuse. */
#include "check.h"

#include <math.h>

/* The greedy continuation has the log-probability that generating it had, and no other token of its place a higher one. */
static void scores(aquila_engine *engine) {
    static const char *const choices[] = {" there", " world", " w", "!"};
    const char *one;
    aquila_gen_params params = short_params(1);
    double logprobs[4], alone, again[4];
    aquila_result *result;
    aquila_error error;
    char text[64];
    int i;

    EXPECT(aquila_score(engine, "hello", choices, 4, logprobs, &error), AQUILA_OK);
    for (i = 0; i < 4; i++) {
        CHECK(logprobs[i] < 0 && logprobs[i] > -1000);
        EXPECT(aquila_score(engine, "hello", &choices[i], 1, &alone, &error), AQUILA_OK);
        CHECK(alone == logprobs[i]); /* to the bit, whatever else is scored */
    }
    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_OK);
    if (aquila_result_tokens(result, NULL)[0] < 256 && strlen(aquila_result_text(result, NULL)) == 1) {
        sprintf(text, "%s", aquila_result_text(result, NULL));
        one = text;
        EXPECT(aquila_score(engine, "hello", &one, 1, &alone, &error), AQUILA_OK);
        CHECK(fabs(alone - (double)aquila_result_logprobs(result, NULL)[0]) < 1e-5);
        for (i = 0; i < 4; i++) CHECK(strlen(choices[i]) > 1 || logprobs[i] <= alone + 1e-6);
    }
    aquila_result_free(result);

    memset(again, 0x7F, sizeof again);
    EXPECT(aquila_score(engine, "", choices, 4, again, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_score(engine, NULL, choices, 4, again, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_score(engine, "hello", NULL, 4, again, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_score(engine, "hello", choices, 4, NULL, &error), AQUILA_ERR_ARGUMENT);
    one = "";
    EXPECT(aquila_score(engine, "hello", &one, 1, again, &error), AQUILA_ERR_ARGUMENT);
    CHECK(strstr(error.message, "choices[0]") != NULL);
    one = "\xFF";
    EXPECT(aquila_score(engine, "hello", &one, 1, again, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_score(engine, "hello", NULL, 0, NULL, &error), AQUILA_OK);
    memset(logprobs, 0x7F, sizeof logprobs);
    CHECK(memcmp(again, logprobs, sizeof again) == 0);
}

static void embeddings(aquila_engine *engine) {
    static const char *const texts[] = {"hello world", "hello there", "hello world", "x"};
    float vectors[4 * 64], alone[64];
    aquila_error error;
    size_t width = 0;
    int i, k;

    EXPECT(aquila_embed(engine, texts, 4, NULL, 0, &width, &error), AQUILA_OK);
    CHECK(width == 64);
    EXPECT(aquila_embed(engine, texts, 4, vectors, 4 * 64, NULL, &error), AQUILA_OK);
    for (i = 0; i < 4; i++) {
        double length = 0;
        for (k = 0; k < 64; k++) length += (double)vectors[64 * i + k] * (double)vectors[64 * i + k];
        CHECK(fabs(length - 1) < 1e-5);
        EXPECT(aquila_embed(engine, &texts[i], 1, alone, 64, NULL, &error), AQUILA_OK);
        CHECK(memcmp(alone, vectors + 64 * i, sizeof alone) == 0);
    }
    CHECK(memcmp(vectors, vectors + 128, sizeof alone) == 0);
    CHECK(memcmp(vectors, vectors + 64, sizeof alone) != 0);
    width = 0;
    EXPECT(aquila_embed(engine, texts, 4, vectors, 4 * 64 - 1, &width, &error), AQUILA_ERR_TOO_SMALL);
    CHECK(width == 64);
    EXPECT(aquila_embed(engine, NULL, 1, vectors, 64, NULL, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_embed(engine, texts, 1, NULL, 64, NULL, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_embed(NULL, texts, 1, vectors, 64, NULL, &error), AQUILA_ERR_ARGUMENT);
}

int main(int argc, char **argv) {
    aquila_engine *engine;
    aquila_error error;
    double logprob;
    const char *choice = "x";
    if (argc != 2) return 2;
    engine = load(argv[1]);
    scores(engine);
    embeddings(engine);
    aquila_free(engine);
    EXPECT(aquila_score(engine, "hello", &choice, 1, &logprob, &error), AQUILA_ERR_CLOSED);
    return failures != 0;
}
