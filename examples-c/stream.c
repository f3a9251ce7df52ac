/* stream.c: text as it is made, through a callback on this thread.
 *
 *   cc stream.c $(pkg-config --cflags --libs aquila) -o stream
 *   ./stream models/Aquila-7B "Once upon a time" 64
 */
#include <aquila.h>
#include <stdio.h>
#include <stdlib.h>

/* Returning non-zero stops: here, when nobody reads any more. */
static int32_t show(const aquila_event *event, void *user) {
    (void)user;
    if (event->kind == AQUILA_EVENT_FINISH)
        fprintf(stderr, "\n%u tokens, first after %.0f ms, then %.0f ms in all\n",
                (unsigned)event->stats->output_tokens, event->stats->first_token_ms, event->stats->total_ms);
    fwrite(event->text, 1, event->text_size, stdout);
    return fflush(stdout);
}

int main(int argc, char **argv) {
    aquila_engine *engine;
    aquila_gen_params params;
    aquila_error error;

    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: stream MODEL PROMPT [TOKENS]\n");
        return 2;
    }
    if (aquila_load(argv[1], NULL, &engine, &error) != AQUILA_OK) {
        fprintf(stderr, "load: %s\n", error.message);
        return 1;
    }
    aquila_gen_params_init(&params, sizeof params);
    params.max_tokens = argc == 4 ? (uint32_t)atoi(argv[3]) : 64;
    if (aquila_stream(engine, argv[2], &params, show, NULL, &error) != AQUILA_OK)
        fprintf(stderr, "stream: %s\n", error.message);
    puts("");
    aquila_free(engine);
    return error.status == AQUILA_OK ? 0 : 1;
}
