/* errors.c: what goes wrong is a status and a sentence, never the end of the process.
 *
 *   cc errors.c $(pkg-config --cflags --libs aquila) -o errors && ./errors models/Aquila-7B
 */
#include <aquila.h>
#include <stdio.h>

static int failures = 0;

/* Prints how a call ended, and counts what was not expected. */
static void show(const char *what, const aquila_error *error, aquila_status expected) {
    printf("%-18s %-24s %s\n", what, aquila_status_name(error->status), error->message);
    failures += error->status != expected;
}

int main(int argc, char **argv) {
    aquila_engine *engine;
    aquila_result *result;
    aquila_load_options options;
    aquila_gen_params params;
    aquila_error error;

    if (argc != 2) {
        fprintf(stderr, "usage: errors MODEL\n");
        return 2;
    }
    aquila_load("/no/such/model", NULL, &engine, &error);
    show("missing path", &error, AQUILA_ERR_NOT_FOUND);

    aquila_load_options_init(&options, sizeof options);
    options.device = "toaster:0";
    aquila_load(argv[1], &options, &engine, &error);
    show("unknown device", &error, AQUILA_ERR_ARGUMENT);

    options.device = "cpu";
    if (aquila_load(argv[1], &options, &engine, &error) != AQUILA_OK) {
        show("load", &error, AQUILA_OK);
        return 1;
    }
    aquila_generate(engine, NULL, NULL, &result, &error);
    show("no prompt", &error, AQUILA_ERR_ARGUMENT);

    aquila_gen_params_init(&params, sizeof params);
    params.temperature = -1;
    aquila_generate(engine, "Hello", &params, &result, &error);
    show("bad temperature", &error, AQUILA_ERR_ARGUMENT);

    params.temperature = 0;
    params.max_tokens = 4;
    if (aquila_generate(engine, "Hello", &params, &result, &error) == AQUILA_OK) aquila_result_free(result);
    show("a good call", &error, AQUILA_OK);

    aquila_free(engine);
    aquila_generate(engine, "Hello", &params, &result, &error);
    show("after the free", &error, AQUILA_ERR_CLOSED);
    aquila_free(engine); /* a second free does nothing */
    return failures != 0;
}
