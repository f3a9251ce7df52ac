/* Constrained output: each kind, alone and together, and what is refused. */
#include "check.h"

#include <ctype.h>
#include <time.h>

static aquila_gen_params constrained(uint32_t kind, const char *text) {
    aquila_gen_params params;
    aquila_gen_params_init(&params, sizeof params);
    params.constraint_kind = kind;
    params.constraint = text;
    params.max_tokens = 60;
    return params;
}

static const char *const SCHEMA =
    "{\"type\": \"object\", \"additionalProperties\": false, \"required\": [\"ok\", \"n\"], \"properties\":"
    " {\"ok\": {\"type\": \"boolean\"}, \"n\": {\"type\": \"integer\", \"minimum\": 10, \"maximum\": 99}},"
    " \"x-guidance\": {\"whitespace_flexible\": false}}";

static int is_object(const char *text) {
    const char *rest = strncmp(text, "{\"ok\":true,", 11) == 0 ? text + 11 : text + 12;
    if (rest == text + 12 && strncmp(text, "{\"ok\":false,", 12) != 0) return 0;
    return strncmp(rest, "\"n\":", 4) == 0 && isdigit((unsigned char)rest[4]) && isdigit((unsigned char)rest[5]) &&
           strcmp(rest + 6, "}") == 0;
}

static int is_number(const char *text) {
    return strlen(text) == 4 && strspn(text, "0123456789") == 4;
}

static int is_pair(const char *text) {
    return strlen(text) == 5 && strncmp(text, "(a,", 3) == 0 && strchr("ab", text[3]) != NULL && text[4] == ')';
}

static const struct {
    uint32_t kind;
    const char *text;
    int (*fits)(const char *);
} kinds[] = {
    {AQUILA_CONSTRAINT_JSON_SCHEMA, NULL, is_object},
    {AQUILA_CONSTRAINT_REGEX, "[0-9]{4}", is_number},
    {AQUILA_CONSTRAINT_LARK, "start: \"(\" A \",\" /[ab]/ \")\"\nA: \"a\"", is_pair},
};

static void texts_fit(aquila_engine *engine) {
    aquila_request *requests[30];
    aquila_result *result;
    aquila_error error;
    int i;

    for (i = 0; i < 30; i++) {
        aquila_gen_params params = constrained(kinds[i % 3].kind, kinds[i % 3].text ? kinds[i % 3].text : SCHEMA);
        aquila_job job;
        job = job_of("hello", &params);
        params.temperature = (float)i / 4;
        params.seed = (uint64_t)i;
        params.speculate = i % 2 ? 7 : 0;
        EXPECT(aquila_submit(engine, &job, &requests[i], &error), AQUILA_OK);
    }
    for (i = 0; i < 30; i++) {
        EXPECT(aquila_wait(requests[i], AQUILA_FOREVER, &result, &error), AQUILA_OK);
        CHECK(aquila_result_finish(result) == AQUILA_FINISH_STOP);
        CHECK(kinds[i % 3].fits(aquila_result_text(result, NULL)));
        aquila_result_free(result);
        aquila_request_free(requests[i]);
    }
}

static void refuse(aquila_engine *engine, uint32_t kind, const char *text, aquila_status status, const char *word) {
    aquila_gen_params params = constrained(kind, text);
    aquila_result *result = ODD(aquila_result, &params);
    aquila_error error;
    const time_t start = time(NULL);
    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), status);
    CHECK(result == NULL);
    CHECK(time(NULL) - start < 20);
    if (strstr(error.message, word) == NULL) {
        failures++;
        fprintf(stderr, "%.40s: %s, expected %s\n", text ? text : "NULL", error.message, word);
    }
}

static char *repeated(const char *piece, size_t times) {
    const size_t size = strlen(piece);
    char *text = malloc(size * times + 1);
    size_t i;
    if (text == NULL) exit(2);
    for (i = 0; i < times; i++) memcpy(text + i * size, piece, size);
    text[size * times] = '\0';
    return text;
}

static void refuse_long(aquila_engine *engine, uint32_t kind, const char *piece, size_t times, const char *word) {
    char *text = repeated(piece, times);
    refuse(engine, kind, text, AQUILA_ERR_CONSTRAINT, word);
    free(text);
}

static void misuse(aquila_engine *engine) {
    const uint32_t json = AQUILA_CONSTRAINT_JSON_SCHEMA, regex = AQUILA_CONSTRAINT_REGEX, lark = AQUILA_CONSTRAINT_LARK;
    const aquila_status bad = AQUILA_ERR_CONSTRAINT;
    uint32_t kind;

    for (kind = json; kind <= lark; kind++) refuse(engine, kind, NULL, AQUILA_ERR_ARGUMENT, "constraint");
    refuse(engine, AQUILA_CONSTRAINT_NONE, "a", AQUILA_ERR_ARGUMENT, "AQUILA_CONSTRAINT_NONE");
    refuse(engine, 9, "a", AQUILA_ERR_UNSUPPORTED, "constraint_kind: 9");
    refuse(engine, regex, "\xFF", AQUILA_ERR_ARGUMENT, "constraint");

    refuse(engine, json, "{\"type\": ", bad, "line 1 column 9");
    refuse(engine, json, "[]", bad, "expected an object, found an array");
    refuse(engine, json, "{\"not\": {\"type\": \"null\"}}", bad, "[\"not\"]");
    refuse(engine, json, "{\"type\": \"integer\", \"minimum\": 2, \"maximum\": 1}", bad, "minimum (2)");
    refuse(engine, json, "{\"$ref\": \"http://example.com/schema\"}", bad, "example.com");
    refuse(engine, regex, "a[", bad, "line 1, column 2");
    refuse(engine, regex, "[^\\s\\S]", bad, "no text fits it");
    refuse(engine, lark, "start: \"a\"\nb: (", bad, "line 2, column ");
    refuse(engine, lark, "start: start \"a\"", bad, "no text fits it");

    refuse_long(engine, json, "[", 100000, "bytes, at most");
    refuse_long(engine, json, "[", 60000, "recursion limit");
    refuse_long(engine, regex, "(", 100000, "bytes, at most");
    refuse_long(engine, regex, "(", 16000, "unclosed group");
    refuse_long(engine, lark, "(", 100000, "bytes, at most");
    refuse_long(engine, regex, "(a|b|c|[d-z]?)?", 1000, "");
}

/* What is ignored, and what is large only when it is written out. */
static void taken(aquila_engine *engine) {
    aquila_gen_params params = constrained(AQUILA_CONSTRAINT_REGEX, "((a{1000}){1000}){1000}");
    aquila_result *result;
    aquila_error error;
    size_t size;

    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_OK);
    CHECK(strspn(aquila_result_text(result, &size), "a") == size && size >= 60);
    CHECK(aquila_result_finish(result) == AQUILA_FINISH_LENGTH);
    aquila_result_free(result);
    params = constrained(AQUILA_CONSTRAINT_JSON_SCHEMA, "{\"const\": 7, \"title\": \"x\", \"my-own-keyword\": [1]}");
    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_OK);
    CHECK(strcmp(aquila_result_text(result, NULL), "7") == 0);
    aquila_result_free(result);
    /* A program of an older header, whose struct ends before the constraint. */
    params = constrained(AQUILA_CONSTRAINT_NONE, NULL);
    params.struct_size = (uint32_t)offsetof(aquila_gen_params, constraint);
    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_OK);
    aquila_result_free(result);
    params.constraint_kind = AQUILA_CONSTRAINT_REGEX;
    EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_ERR_ARGUMENT);
}

int main(int argc, char **argv) {
    aquila_engine *engine;
    if (argc != 2) return 2;
    engine = load(argv[1]);
    texts_fit(engine);
    misuse(engine);
    taken(engine);
    texts_fit(engine); /* nothing that was refused has changed anything */
    aquila_free(engine);
    return failures != 0;
}
