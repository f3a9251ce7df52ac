/* session.c: one beginning, several ways on. What they share is computed once, and kept in a file if one is named.
 *
 *   cc session.c $(pkg-config --cflags --libs aquila) -o session && ./session models/Aquila-7B [FILE]
 */
#include <aquila.h>
#include <stdio.h>
#include <string.h>

static const char beginning[] =
    "The town library opens at nine in the morning and closes at six. It has eleven thousand books, some maps, and "
    "all newspapers since 1950. Its oldest book is about bees. Who lives in the town may borrow four for a month.";
static const char *const questions[] = {" When does it open? It", " What is the oldest book about? It"};

/* Puts `text` behind the session and shows what the model makes of it; with one token it is little more than read. */
static aquila_status go_on(aquila_engine *engine, aquila_session *session, const char *text, uint32_t max_tokens,
                           aquila_error *error) {
    aquila_gen_params params;
    aquila_job job;
    aquila_request *request;
    aquila_result *result;
    aquila_stats stats;
    aquila_status status;

    aquila_gen_params_init(&params, sizeof params);
    params.max_tokens = max_tokens;
    memset(&job, 0, sizeof job);
    job.struct_size = sizeof job;
    job.input = text;
    job.input_size = AQUILA_NTS;
    job.params = &params;
    job.session = session;
    status = aquila_submit(engine, &job, &request, error);
    if (status != AQUILA_OK) return status;
    status = aquila_wait(request, AQUILA_FOREVER, &result, error);
    aquila_request_free(request);
    if (status != AQUILA_OK) return status;
    stats.struct_size = sizeof stats;
    aquila_result_stats(result, &stats);
    printf("%s|%s\n(%u tokens, %u of them not computed again)\n", text, aquila_result_text(result, NULL),
           stats.prompt_tokens, stats.cached_tokens);
    aquila_result_free(result);
    return AQUILA_OK;
}

int main(int argc, char **argv) {
    aquila_engine *engine = NULL;
    aquila_session *session = NULL, *copy = NULL;
    aquila_error error;
    aquila_status status;
    size_t i;

    if (argc < 2) {
        fprintf(stderr, "usage: session MODEL [FILE]\n");
        return 1;
    }
    status = aquila_load(argv[1], NULL, &engine, &error);
    if (status == AQUILA_OK && (argc < 3 || aquila_session_restore(engine, argv[2], &session, &error) != AQUILA_OK)) {
        if (argc > 2) printf("a new one: %s\n", error.message);
        status = aquila_session_create(engine, &session, &error);
        if (status == AQUILA_OK) status = go_on(engine, session, beginning, 1, &error);
        /* The token that came with it is not wanted. */
        if (status == AQUILA_OK) status = aquila_session_rollback(session, aquila_session_length(session) - 1, &error);
        if (status == AQUILA_OK && argc > 2) status = aquila_session_save(session, argv[2], &error);
    }
    for (i = 0; i < 2 && status == AQUILA_OK; i++) {
        status = aquila_session_fork(session, &copy, &error);
        if (status == AQUILA_OK) status = go_on(engine, copy, questions[i], 24, &error);
        aquila_session_free(copy);
    }
    if (status != AQUILA_OK) fprintf(stderr, "%s\n", error.message);
    aquila_session_free(session);
    aquila_free(engine);
    return status == AQUILA_OK ? 0 : 1;
}
