/* service.c: many requests on one engine, served by one thread that waits for all of them.
 *
 *   cc service.c $(pkg-config --cflags --libs aquila) -o service
 *   ./service models/Aquila-7B "Once upon a time" "The capital of France is" ...
 *
 * A server would add aquila_queue_fd to its epoll set beside its sockets, and submit from any thread.
 */
#include <aquila.h>
#include <stdio.h>
#include <string.h>

#define CLIENTS 64

static struct client {
    const char *prompt;
    char text[4096];
    size_t size;
    aquila_request *request;
} clients[CLIENTS];

static int submit(aquila_engine *engine, aquila_queue *queue, struct client *client, aquila_error *error) {
    aquila_gen_params params;
    aquila_job job;

    aquila_gen_params_init(&params, sizeof params);
    params.max_tokens = 48;
    params.deadline_ms = 120000;
    memset(&job, 0, sizeof job);
    job.struct_size = sizeof job;
    job.input = client->prompt;
    job.input_size = AQUILA_NTS;
    job.params = &params;
    job.queue = queue;
    job.user = client;
    return aquila_submit(engine, &job, &client->request, error) == AQUILA_OK;
}

/* Reads what a request has to say; 1 at its end. */
static int serve(struct client *client) {
    aquila_event event;

    event.struct_size = sizeof event;
    while (aquila_next(client->request, &event, 0, NULL) == AQUILA_OK) {
        if (event.kind == AQUILA_EVENT_TEXT && client->size + event.text_size < sizeof client->text) {
            memcpy(client->text + client->size, event.text, event.text_size);
            client->size += event.text_size;
        } else if (event.kind == AQUILA_EVENT_FINISH) {
            printf("%s%s\n  (first token after %.0f ms)\n\n", client->prompt, client->text, event.stats->first_token_ms);
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    aquila_engine *engine = NULL;
    aquila_queue *queue = NULL;
    aquila_request *ready[16];
    aquila_error error = {0};
    int i, left = argc - 2;

    if (left < 1 || left > CLIENTS) return fprintf(stderr, "usage: service MODEL PROMPT...\n"), 2;
    if (aquila_load(argv[1], NULL, &engine, &error) == AQUILA_OK) aquila_queue_create(&queue, &error);
    for (i = 0; i < left && error.status == AQUILA_OK; i++) {
        clients[i].prompt = argv[i + 2];
        submit(engine, queue, &clients[i], &error);
    }
    while (left > 0 && error.status == AQUILA_OK) {
        size_t n, k;
        aquila_queue_wait(queue, ready, 16, &n, AQUILA_FOREVER, &error);
        for (k = 0; k < n; k++) left -= serve(aquila_request_user(ready[k]));
    }
    if (error.status != AQUILA_OK) fprintf(stderr, "service: %s\n", error.message);
    for (i = 0; i < CLIENTS; i++) aquila_request_free(clients[i].request); /* NULL is fine */
    aquila_queue_free(queue);
    aquila_free(engine);
    return error.status != AQUILA_OK;
}
