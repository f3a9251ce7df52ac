/* Generation: whole and streamed, stopped, refused, and with handles freed under it. */
#include "check.h"
#include <stddef.h>

struct seen {
    char text[1 << 16];
    size_t size;
    size_t tokens;
    uint32_t finish;
    int events, finishes, stop_after;
    aquila_engine *to_free;
};

static int is_utf8(const unsigned char *text, size_t size) {
    size_t i = 0;
    while (i < size) {
        int more = text[i] < 0x80 ? 0 : text[i] < 0xC2 ? -1 : text[i] < 0xE0 ? 1 : text[i] < 0xF0 ? 2 : 3;
        if (more < 0 || text[i] > 0xF4) return 0;
        for (i++; more > 0; more--, i++)
            if (i >= size || (text[i] & 0xC0) != 0x80) return 0;
    }
    return 1;
}

static int32_t see(const aquila_event *event, void *user) {
    struct seen *seen = user;
    CHECK(event->struct_size == sizeof *event);
    CHECK(event->text != NULL && event->text[event->text_size] == '\0');
    CHECK(is_utf8((const unsigned char *)event->text, event->text_size));
    CHECK(seen->finishes == 0);
    CHECK(event->n_tokens == 0 || (event->tokens != NULL && event->logprobs != NULL));
    if (seen->size + event->text_size < sizeof seen->text) {
        memcpy(seen->text + seen->size, event->text, event->text_size);
        seen->size += event->text_size;
    }
    seen->tokens += event->n_tokens;
    seen->events++;
    if (event->kind == AQUILA_EVENT_FINISH) {
        seen->finishes++;
        seen->finish = event->finish;
        CHECK(event->stats != NULL && event->stats->struct_size == sizeof *event->stats);
    } else {
        CHECK(event->finish == AQUILA_FINISH_NONE && event->stats == NULL);
    }
    if (seen->to_free != NULL) {
        aquila_free(seen->to_free);
        aquila_free(seen->to_free);
    }
    return event->kind == AQUILA_EVENT_TEXT && seen->stop_after > 0 && --seen->stop_after == 0;
}

static void whole_equals_streamed(aquila_engine *engine) {
    static struct seen seen;
    aquila_gen_params params = short_params(24);
    aquila_result *result, *again;
    aquila_error error;
    char whole[1024];
    size_t size, n;

    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_OK);
    CHECK(aquila_result_finish(result) == AQUILA_FINISH_LENGTH);
    CHECK(aquila_result_tokens(result, &n) != NULL && n == 24);
    /* Also where the last token left a character unfinished: the text is that of the tokens. */
    EXPECT(aquila_detokenize(engine, aquila_result_tokens(result, &n), 24, 0, whole, sizeof whole, &size, &error),
           AQUILA_OK);
    CHECK(strcmp(aquila_result_text(result, NULL), whole) == 0);
    EXPECT(aquila_stream(engine, "hello", &params, see, &seen, &error), AQUILA_OK);
    CHECK(seen.finishes == 1 && seen.finish == AQUILA_FINISH_LENGTH && seen.tokens == 24);
    CHECK(strcmp(aquila_result_text(result, &size), seen.text) == 0 && size == seen.size);

    params.temperature = 1;
    params.seed = 7;
    EXPECT(aquila_generate(engine, "hello", &params, &again, &error), AQUILA_OK);
    aquila_result_free(result);
    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_OK);
    CHECK(strcmp(aquila_result_text(result, NULL), aquila_result_text(again, NULL)) == 0);
    aquila_result_free(again);
    params.seed = 8;
    EXPECT(aquila_generate(engine, "hello", &params, &again, &error), AQUILA_OK);
    CHECK(strcmp(aquila_result_text(result, NULL), aquila_result_text(again, NULL)) != 0);
    aquila_result_free(again);
    aquila_result_free(result);
}

/* Speculation changes when a text comes, not what it is. A struct of the header before it has none. */
static void speculates(aquila_engine *engine) {
    aquila_gen_params params = short_params(90);
    aquila_result *plain, *fast, *old;
    aquila_stats stats;
    aquila_error error;

    CHECK(params.speculate == 0);
    EXPECT(aquila_generate(engine, "hello hello hello", &params, &plain, &error), AQUILA_OK);
    params.speculate = 7;
    EXPECT(aquila_generate(engine, "hello hello hello", &params, &fast, &error), AQUILA_OK);
    CHECK(strcmp(aquila_result_text(plain, NULL), aquila_result_text(fast, NULL)) == 0);
    stats.struct_size = sizeof stats;
    CHECK(aquila_result_stats(fast, &stats) == AQUILA_OK);
    CHECK(stats.proposed_tokens > 0 && stats.accepted_tokens <= stats.proposed_tokens);
    CHECK(strstr(aquila_result_json(fast, NULL), "\"accepted_tokens\":") != NULL);
    params.struct_size = (uint32_t)offsetof(aquila_gen_params, speculate);
    EXPECT(aquila_generate(engine, "hello hello hello", &params, &old, &error), AQUILA_OK);
    CHECK(aquila_result_stats(old, &stats) == AQUILA_OK && stats.proposed_tokens == 0);
    aquila_result_free(plain);
    aquila_result_free(fast);
    aquila_result_free(old);
}

static void stops(aquila_engine *engine) {
    static struct seen seen;
    aquila_gen_params params = short_params(40);
    aquila_result *result, *cut;
    aquila_error error;
    char stop[16] = "";
    const char *text, *kept, *stops[1];
    int32_t token;
    size_t size, n, from;
    int characters;

    seen.stop_after = 1;
    EXPECT(aquila_stream(engine, "hello", &params, see, &seen, &error), AQUILA_OK);
    /* However many tokens the first piece held: no further text comes, and the end says why. */
    CHECK(seen.finishes == 1 && seen.finish == AQUILA_FINISH_CANCELLED && seen.stop_after == 0);

    /* Two characters from the middle of the text, mostly of two tokens, as a stop string: it ends there and
     * does not leak. */
    params.max_tokens = 16;
    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_OK);
    text = aquila_result_text(result, &size);
    for (from = size / 2; (text[from] & 0xC0) == 0x80; from++) {}
    for (n = from, characters = 0; n < size && characters < 2; characters++)
        for (n++; (text[n] & 0xC0) == 0x80; n++) {}
    CHECK(characters == 2);
    memcpy(stop, text + from, n - from);
    stops[0] = stop;
    params.stop = stops;
    params.n_stop = 1;
    EXPECT(aquila_generate(engine, "hello", &params, &cut, &error), AQUILA_OK);
    CHECK(aquila_result_finish(cut) == AQUILA_FINISH_STOP);
    CHECK(strstr(aquila_result_text(cut, NULL), stop) == NULL);
    kept = aquila_result_text(cut, &n);
    CHECK(strncmp(text, kept, n) == 0);
    memset(&seen, 0, sizeof seen);
    EXPECT(aquila_stream(engine, "hello", &params, see, &seen, &error), AQUILA_OK);
    CHECK(seen.finish == AQUILA_FINISH_STOP && strcmp(seen.text, aquila_result_text(cut, NULL)) == 0);
    aquila_result_free(cut);
    params.flags |= AQUILA_GEN_KEEP_STOP;
    EXPECT(aquila_generate(engine, "hello", &params, &cut, &error), AQUILA_OK);
    CHECK(aquila_result_finish(cut) == AQUILA_FINISH_STOP);
    kept = aquila_result_text(cut, &n);
    CHECK(n >= strlen(stop) && strcmp(kept + n - strlen(stop), stop) == 0 && n == seen.size + strlen(stop));
    aquila_result_free(cut);
    params.flags &= ~(uint32_t)AQUILA_GEN_KEEP_STOP;

    token = aquila_result_tokens(result, &n)[3];
    params.n_stop = 0;
    params.stop_tokens = &token;
    params.n_stop_tokens = 1;
    EXPECT(aquila_generate(engine, "hello", &params, &cut, &error), AQUILA_OK);
    CHECK(aquila_result_finish(cut) == AQUILA_FINISH_STOP);
    aquila_result_tokens(cut, &n);
    CHECK(n <= 3);
    aquila_result_free(cut);
    aquila_result_free(result);
}

static void refusals(aquila_engine *engine) {
    static struct seen seen;
    static char long_prompt[4096];
    aquila_gen_params params = short_params(4);
    aquila_logit_bias bias = {-1, 1};
    aquila_result *result = (aquila_result *)&seen;
    aquila_error error;
    const char *stops[2] = {"a", NULL};
    int32_t token = 1 << 29;
    char room[2 * sizeof params], errors[2 * sizeof error];

    EXPECT(aquila_generate(engine, NULL, NULL, &result, &error), AQUILA_ERR_ARGUMENT);
    CHECK(result == NULL && strstr(error.message, "prompt") != NULL);
    EXPECT(aquila_generate(engine, "x", NULL, NULL, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_generate(engine, "\xC3(", &params, &result, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_stream(engine, "x", &params, NULL, NULL, &error), AQUILA_ERR_ARGUMENT);
    result = (aquila_result *)&seen;
    CHECK(aquila_generate(engine, "x", &params, &result, ODD(aquila_error, errors)) == AQUILA_ERR_ARGUMENT);
    CHECK(result == NULL);
    memcpy(ODD(aquila_gen_params, room), &params, sizeof params);
    EXPECT(aquila_generate(engine, "x", ODD(aquila_gen_params, room), &result, &error), AQUILA_ERR_ARGUMENT);

#define REFUSED(change, restore, word, status)                                  \
    change;                                                                     \
    EXPECT(aquila_generate(engine, "x", &params, &result, &error), status);     \
    CHECK(strstr(error.message, word) != NULL);                                 \
    restore

    REFUSED(params.temperature = -1, params.temperature = 0, "temperature", AQUILA_ERR_ARGUMENT);
    REFUSED(params.top_p = 2, params.top_p = 1, "top_p", AQUILA_ERR_ARGUMENT);
    REFUSED(params.top_k = -7, params.top_k = 0, "top_k", AQUILA_ERR_ARGUMENT);
    REFUSED(params.flags = 1u << 31, params.flags = 0, "flags", AQUILA_ERR_UNSUPPORTED);
    REFUSED(params.speculate = 65, params.speculate = 0, "speculate", AQUILA_ERR_ARGUMENT);
    REFUSED(params.struct_size = 3, params.struct_size = sizeof params, "struct_size", AQUILA_ERR_ARGUMENT);
    REFUSED((params.stop = stops, params.n_stop = 2), params.n_stop = 0, "stop[1]", AQUILA_ERR_ARGUMENT);
    REFUSED((params.stop = NULL, params.n_stop = 2), params.n_stop = 0, "stop", AQUILA_ERR_ARGUMENT);
    REFUSED((params.stop = stops, params.n_stop = 1000000), params.n_stop = 0, "n_stop: 1000000", AQUILA_ERR_ARGUMENT);
    REFUSED((params.stop_tokens = &token, params.n_stop_tokens = UINT32_MAX), params.n_stop_tokens = 0,
            "n_stop_tokens", AQUILA_ERR_ARGUMENT);
    REFUSED((params.logit_bias = &bias, params.n_logit_bias = UINT32_MAX), params.n_logit_bias = 0, "n_logit_bias",
            AQUILA_ERR_ARGUMENT);
    REFUSED((params.stop_tokens = &token, params.n_stop_tokens = 1), params.n_stop_tokens = 0, "stop_tokens[0]",
            AQUILA_ERR_ARGUMENT);
    REFUSED((params.logit_bias = &bias, params.n_logit_bias = 1), params.n_logit_bias = 0, "logit_bias[0]",
            AQUILA_ERR_ARGUMENT);
    REFUSED(params.flags = AQUILA_GEN_MESSAGES, params.flags = 0, "", AQUILA_ERR_ARGUMENT);

    memset(long_prompt, 'q', sizeof long_prompt - 1);
    EXPECT(aquila_generate(engine, long_prompt, &params, &result, &error), AQUILA_ERR_CONTEXT_FULL);
    EXPECT(aquila_stream(engine, long_prompt, &params, see, &seen, &error), AQUILA_ERR_CONTEXT_FULL);
    CHECK(seen.events == 0 && result == NULL);
    EXPECT(aquila_generate(engine, "x", &params, &result, &error), AQUILA_OK);
    aquila_result_free(result);
}

static void freed_inside_the_callback(const char *model) {
    static struct seen seen;
    aquila_gen_params params = short_params(100);
    aquila_error error;

    seen.to_free = load(model);
    EXPECT(aquila_stream(seen.to_free, "hello", &params, see, &seen, &error), AQUILA_ERR_CLOSED);
    CHECK(seen.events == 1);
    EXPECT(aquila_stream(seen.to_free, "hello", &params, see, &seen, &error), AQUILA_ERR_CLOSED);
}

int main(int argc, char **argv) {
    aquila_engine *engine;
    if (argc != 2) return 2;
    engine = load(argv[1]);
    whole_equals_streamed(engine);
    speculates(engine);
    stops(engine);
    refusals(engine);
    freed_inside_the_callback(argv[1]);
    aquila_free(engine);
    return failures != 0;
}
