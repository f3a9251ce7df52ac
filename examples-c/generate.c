/* generate.c: a prompt in, a whole text out.
 *
 *   cc generate.c $(pkg-config --cflags --libs aquila) -o generate
 *   ./generate models/Aquila-7B "The capital of France is"
 */
#include <aquila.h>
#include <stdio.h>

int main(int argc, char **argv) {
    aquila_engine *engine;
    aquila_result *result;
    aquila_gen_params params;
    aquila_stats stats;
    aquila_error error;

    if (argc != 3) {
        fprintf(stderr, "usage: generate MODEL PROMPT\n");
        return 2;
    }
    if (aquila_load(argv[1], NULL, &engine, &error) != AQUILA_OK) {
        fprintf(stderr, "load: %s\n", error.message);
        return 1;
    }
    aquila_gen_params_init(&params, sizeof params);
    params.max_tokens = 32;
    if (aquila_generate(engine, argv[2], &params, &result, &error) != AQUILA_OK) {
        fprintf(stderr, "generate: %s\n", error.message);
        aquila_free(engine);
        return 1;
    }
    printf("%s\n", aquila_result_text(result, NULL));

    stats.struct_size = sizeof stats;
    if (aquila_result_stats(result, &stats) == AQUILA_OK)
        fprintf(stderr, "%u tokens in %.0f ms\n", (unsigned)stats.output_tokens, stats.total_ms);
    aquila_result_free(result);
    aquila_free(engine);
    return 0;
}
