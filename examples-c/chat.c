/* chat.c: a conversation. A line in, an answer out, until the input ends.
 *
 *   cc chat.c $(pkg-config --cflags --libs aquila) -o chat && ./chat models/AquilaChat-7B
 */
#include <aquila.h>
#include <stdio.h>
#include <string.h>

static char history[1 << 20] = "["; /* the messages so far, as JSON without the closing bracket */
static char answer[1 << 18];
static size_t answer_size;

static int append(const char *text, size_t size) {
    size_t used = strlen(history);
    if (size >= sizeof history - used - 2) return 0;
    memcpy(history + used, text, size);
    history[used + size] = '\0';
    return 1;
}

/* Adds {"role":"...","content":"..."}, escaped. */
static int add_message(const char *role, const char *text, size_t size) {
    char escape[8];
    size_t i;
    int first = history[1] == '\0';
    int ok = append(",", first ? 0 : 1) && append("{\"role\":\"", 9) && append(role, strlen(role)) &&
             append("\",\"content\":\"", 13);
    for (i = 0; i < size && ok; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == '"' || c == '\\') {
            sprintf(escape, "\\u%04x", (unsigned)c);
            ok = append(escape, 6);
        } else {
            ok = append(text + i, 1);
        }
    }
    return ok && append("\"}", 2);
}

static int32_t show(const aquila_event *event, void *user) {
    (void)user;
    if (event->text_size < sizeof answer - answer_size) {
        memcpy(answer + answer_size, event->text, event->text_size);
        answer_size += event->text_size;
    }
    fwrite(event->text, 1, event->text_size, stdout);
    return fflush(stdout);
}

int main(int argc, char **argv) {
    static char line[1 << 16];
    aquila_engine *engine;
    aquila_gen_params params;
    aquila_error error;

    if (argc != 2 || aquila_load(argv[1], NULL, &engine, &error) != AQUILA_OK) {
        fprintf(stderr, "%s\n", argc != 2 ? "usage: chat MODEL" : error.message);
        return 1;
    }
    aquila_gen_params_init(&params, sizeof params);
    params.flags = AQUILA_GEN_MESSAGES;
    params.max_tokens = 256;
    while (fputs("> ", stdout), fflush(stdout), fgets(line, sizeof line, stdin) != NULL) {
        answer_size = 0;
        if (!add_message("user", line, strcspn(line, "\n")) || !append("]", 1)) break;
        if (aquila_stream(engine, history, &params, show, NULL, &error) != AQUILA_OK) break;
        history[strlen(history) - 1] = '\0';
        if (!add_message("assistant", answer, answer_size)) break;
        puts("");
    }
    if (error.status != AQUILA_OK) fprintf(stderr, "\n%s\n", error.message);
    aquila_free(engine);
    return error.status == AQUILA_OK ? 0 : 1;
}
