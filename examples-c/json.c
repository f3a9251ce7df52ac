/* json.c: an answer that a program can read: JSON that fits a schema.
 *
 *   cc json.c $(pkg-config --cflags --libs aquila) -o json
 *   ./json models/AquilaChat-7B "Beijing had 21.9 million inhabitants in 2020, Shanghai 24.9 million."
 */
#include <aquila.h>
#include <stdio.h>

static const char schema[] =
    "{\"type\": \"array\", \"minItems\": 1, \"maxItems\": 3, \"items\": {"
    "  \"type\": \"object\", \"additionalProperties\": false, \"required\": [\"city\", \"millions\", \"large\"],"
    "  \"properties\": {"
    "    \"city\": {\"type\": \"string\", \"pattern\": \"^[A-Z][a-z]{1,12}$\"},"
    "    \"millions\": {\"type\": \"number\", \"minimum\": 0, \"maximum\": 100},"
    "    \"large\": {\"enum\": [true, false]}}},"
    " \"x-guidance\": {\"whitespace_flexible\": false}}";

int main(int argc, char **argv) {
    char prompt[4096];
    aquila_engine *engine;
    aquila_result *result;
    aquila_gen_params params;
    aquila_error error;
    int complete;

    if (argc != 3) {
        fprintf(stderr, "usage: json MODEL TEXT\n");
        return 2;
    }
    if (aquila_load(argv[1], NULL, &engine, &error) != AQUILA_OK) {
        fprintf(stderr, "load: %s\n", error.message);
        return 1;
    }
    /* The schema keeps the form; what is wanted, the model must be told. */
    snprintf(prompt, sizeof prompt, "%s\nThe cities and their inhabitants as JSON:\n", argv[2]);

    aquila_gen_params_init(&params, sizeof params);
    params.max_tokens = 200;
    params.constraint_kind = AQUILA_CONSTRAINT_JSON_SCHEMA;
    params.constraint = schema;
    if (aquila_generate(engine, prompt, &params, &result, &error) != AQUILA_OK) {
        fprintf(stderr, "generate: %s\n", error.message); /* AQUILA_ERR_CONSTRAINT: the schema, and where */
        aquila_free(engine);
        return 1;
    }
    printf("%s\n", aquila_result_text(result, NULL));

    /* Anything but an end of its own, such as AQUILA_FINISH_LENGTH, left the JSON incomplete. */
    complete = aquila_result_finish(result) == AQUILA_FINISH_STOP || aquila_result_finish(result) == AQUILA_FINISH_EOS;
    if (!complete) fprintf(stderr, "incomplete: the limit of tokens came first\n");
    aquila_result_free(result);
    aquila_free(engine);
    return complete ? 0 : 1;
}
