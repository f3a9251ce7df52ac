/* Sessions: what they hold, copies, cuts, files, misuse. */
#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

static aquila_request *submit(aquila_engine *engine, aquila_session *session, const int32_t *ids, size_t n,
                              const aquila_gen_params *params) {
    aquila_job job;
    aquila_request *request;
    aquila_error error;
    job = job_of(ids, params);
    job.input_kind = AQUILA_INPUT_TOKENS;
    job.input_size = n;
    job.session = session;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_OK);
    return request;
}

/* Goes on with `n` ids and gives the result. */
static aquila_result *say(aquila_engine *engine, aquila_session *session, const int32_t *ids, size_t n,
                          uint32_t tokens) {
    aquila_gen_params params = short_params(tokens);
    aquila_request *request = submit(engine, session, ids, n, &params);
    aquila_result *result;
    aquila_error error;
    EXPECT(aquila_wait(request, AQUILA_FOREVER, &result, &error), AQUILA_OK);
    aquila_request_free(request);
    return result;
}

static uint32_t cached(const aquila_result *result) {
    aquila_stats stats;
    stats.struct_size = sizeof stats;
    CHECK(aquila_result_stats(result, &stats) == AQUILA_OK);
    return stats.cached_tokens;
}

static int same_tokens(const aquila_result *a, const aquila_result *b) {
    size_t n, m;
    const int32_t *x = aquila_result_tokens(a, &n), *y = aquila_result_tokens(b, &m);
    return n == m && memcmp(x, y, n * sizeof *x) == 0;
}

static size_t tokens_of(const aquila_session *session, int32_t *ids, size_t capacity) {
    aquila_error error;
    size_t n = 0;
    EXPECT(aquila_session_tokens((aquila_session *)session, ids, capacity, &n, &error), AQUILA_OK);
    return n;
}

static void a_text_grows(aquila_engine *engine) {
    static const int32_t input[] = {65, 66, 67, 68, 69, 70};
    int32_t text[128], again[128];
    aquila_session *session, *copy;
    aquila_result *first, *second, *whole;
    aquila_engine_stats stats;
    aquila_error error;
    size_t n, count;

    EXPECT(aquila_session_create(engine, &session, &error), AQUILA_OK);
    CHECK(session != NULL && aquila_session_length(session) == 0 && tokens_of(session, NULL, 0) == 0);
    first = say(engine, session, input, 6, 30);
    CHECK(aquila_session_length(session) == 36);
    n = tokens_of(session, text, 128);
    CHECK(n == 36 && memcmp(text, input, sizeof input) == 0);
    CHECK(memcmp(text + 6, aquila_result_tokens(first, &count), 30 * sizeof *text) == 0 && count == 30);
    EXPECT(aquila_session_tokens(session, again, 35, &count, &error), AQUILA_ERR_TOO_SMALL);
    CHECK(count == 36);

    /* What was computed is found, and the answer is that of the whole text. */
    EXPECT(aquila_session_fork(session, &copy, &error), AQUILA_OK);
    stats.struct_size = sizeof stats;
    CHECK(aquila_get_stats(engine, &stats) == AQUILA_OK && stats.sessions == 2);
    second = say(engine, session, input, 6, 10);
    CHECK(cached(second) == 32);
    memcpy(text + 36, input, sizeof input);
    whole = say(engine, NULL, text, 42, 10);
    CHECK(same_tokens(second, whole));

    /* The copy knows nothing of that; cut to where it was, it is the same text again. */
    CHECK(aquila_session_length(copy) == 36);
    aquila_result_free(whole);
    whole = say(engine, copy, input, 6, 10);
    CHECK(same_tokens(second, whole));
    EXPECT(aquila_session_rollback(copy, 6, &error), AQUILA_OK);
    CHECK(aquila_session_length(copy) == 6 && tokens_of(copy, again, 128) == 6);
    aquila_result_free(whole);
    whole = say(engine, copy, NULL, 0, 30); /* nothing is added */
    CHECK(same_tokens(first, whole));
    EXPECT(aquila_session_rollback(copy, 37, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_session_rollback(copy, 0, &error), AQUILA_OK);
    aquila_session_free(copy);
    aquila_session_free(session);
    aquila_result_free(first);
    aquila_result_free(second);
    aquila_result_free(whole);
    CHECK(aquila_get_stats(engine, &stats) == AQUILA_OK && stats.sessions == 0);
}

/* Text goes on without a begin-of-sequence token; a chat is the whole chat. */
static void texts_and_chats(const char *model) {
    static const char turn[] = "[{\"role\":\"user\",\"content\":\"hello\"}]";
    aquila_load_options options;
    aquila_engine *engine;
    aquila_gen_params params = short_params(4);
    aquila_session *session;
    aquila_request *request;
    aquila_result *result;
    aquila_error error;
    aquila_job job;
    size_t first = 0, second;
    int i;

    aquila_load_options_init(&options, sizeof options);
    options.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    EXPECT(aquila_load(model, &options, &engine, &error), AQUILA_OK);
    EXPECT(aquila_session_create(engine, &session, &error), AQUILA_OK);
    job = job_of("hello world", &params);
    job.session = session;
    for (i = 0; i < 2; i++) {
        EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_OK);
        EXPECT(aquila_wait(request, AQUILA_FOREVER, &result, &error), AQUILA_OK);
        aquila_result_free(result);
        aquila_request_free(request);
        if (i == 0) first = aquila_session_length(session);
    }
    second = aquila_session_length(session) - first;
    {
        size_t plain, special;
        EXPECT(aquila_tokenize(engine, "hello world", AQUILA_NTS, 0, NULL, 0, &plain, &error), AQUILA_OK);
        EXPECT(aquila_tokenize(engine, "hello world", AQUILA_NTS, AQUILA_TOK_ADD_SPECIAL, NULL, 0, &special, &error),
               AQUILA_OK);
        CHECK(second == plain + 4 && first <= special + 4 && first >= plain + 4);
    }
    job.input = turn;
    job.input_kind = AQUILA_INPUT_MESSAGES;
    for (i = 0; i < 2; i++) { /* the same chat again is no longer one */
        EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_OK);
        EXPECT(aquila_wait(request, AQUILA_FOREVER, &result, &error), AQUILA_OK);
        aquila_result_free(result);
        aquila_request_free(request);
        if (i == 0) first = aquila_session_length(session);
        CHECK(aquila_session_length(session) == first);
    }
    aquila_session_free(session);
    aquila_free(engine);
}

static void one_request_at_a_time(aquila_engine *engine) {
    static const int32_t input[] = {65, 66, 67};
    aquila_gen_params params = short_params(100);
    aquila_session *session, *copy = (aquila_session *)8;
    aquila_request *request, *none = (aquila_request *)8;
    aquila_result *result;
    aquila_error error;
    aquila_job job;
    size_t length;

    EXPECT(aquila_session_create(engine, &session, &error), AQUILA_OK);
    request = submit(engine, session, input, 3, &params);
    memset(&job, 0, sizeof job);
    job.struct_size = sizeof job;
    job.input_kind = AQUILA_INPUT_TOKENS;
    job.input = input;
    job.input_size = 3;
    job.session = session;
    if (aquila_session_length(session) == 0) { /* else it has ended already */
        aquila_status status = aquila_submit(engine, &job, &none, &error);
        CHECK(status == AQUILA_ERR_BUSY || aquila_session_length(session) > 0);
        if (status == AQUILA_OK) aquila_request_free(none);
        else CHECK(none == NULL);
        status = aquila_session_fork(session, &copy, &error);
        CHECK(status == AQUILA_ERR_BUSY || aquila_session_length(session) > 0);
        if (status == AQUILA_OK) aquila_session_free(copy);
        else CHECK(copy == NULL);
    }
    aquila_cancel(request);
    EXPECT(aquila_wait(request, AQUILA_FOREVER, &result, &error), AQUILA_OK);
    /* The end was told: what was made belongs to it, and the next may come. */
    aquila_result_tokens(result, &length);
    CHECK(aquila_session_length(session) == 3 + length);
    aquila_result_free(result);
    aquila_request_free(request);

    /* A session may be freed while its request runs. */
    EXPECT(aquila_session_rollback(session, 0, &error), AQUILA_OK);
    request = submit(engine, session, input, 3, &params);
    aquila_session_free(session);
    EXPECT(aquila_wait(request, AQUILA_FOREVER, &result, &error), AQUILA_OK);
    aquila_result_tokens(result, &length);
    CHECK(length == 100);
    aquila_result_free(result);
    aquila_request_free(request);
}

static void in_a_file(const char *model, aquila_engine *engine) {
    static const int32_t input[] = {72, 101, 108, 108, 111};
    char path[] = "/tmp/aquila-session-XXXXXX", bytes[64];
    aquila_engine *other = load(model);
    aquila_session *session, *restored;
    aquila_result *first, *one, *two;
    aquila_error error;
    FILE *file;
    int descriptor = mkstemp(path);

    CHECK(descriptor >= 0);
    close(descriptor);
    EXPECT(aquila_session_create(engine, &session, &error), AQUILA_OK);
    first = say(engine, session, input, 5, 60);
    EXPECT(aquila_session_save(session, path, &error), AQUILA_OK);
    EXPECT(aquila_session_restore(other, path, &restored, &error), AQUILA_OK);
    CHECK(aquila_session_length(restored) == 65);
    one = say(engine, session, input, 5, 12);
    two = say(other, restored, input, 5, 12);
    CHECK(same_tokens(one, two) && cached(one) == 64 && cached(two) == 64);
    aquila_session_free(restored);

    /* A byte is another, the file is cut, the file is none. */
    file = fopen(path, "r+b");
    CHECK(file != NULL && fseek(file, 300, SEEK_SET) == 0 && fread(bytes, 1, 1, file) == 1);
    bytes[0] ^= 1;
    CHECK(fseek(file, 300, SEEK_SET) == 0 && fwrite(bytes, 1, 1, file) == 1 && fclose(file) == 0);
    restored = (aquila_session *)8;
    EXPECT(aquila_session_restore(other, path, &restored, &error), AQUILA_ERR_FORMAT);
    CHECK(restored == NULL && strstr(error.message, path) != NULL);
    EXPECT(aquila_session_save(session, path, &error), AQUILA_OK);
    CHECK(truncate(path, 1000) == 0);
    EXPECT(aquila_session_restore(other, path, &restored, &error), AQUILA_ERR_FORMAT);
    CHECK(unlink(path) == 0);
    EXPECT(aquila_session_restore(other, path, &restored, &error), AQUILA_ERR_NOT_FOUND);
    EXPECT(aquila_session_restore(other, "", &restored, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_session_restore(other, "/tmp", &restored, &error), AQUILA_ERR_FORMAT);
    EXPECT(aquila_session_save(session, "/nonexistent/directory/file", &error), AQUILA_ERR_NOT_FOUND);
    EXPECT(aquila_session_save(session, NULL, &error), AQUILA_ERR_ARGUMENT);
    aquila_result_free(first);
    aquila_result_free(one);
    aquila_result_free(two);

    /* The engine goes: its sessions say so, and are freed all the same. */
    EXPECT(aquila_session_create(other, &restored, &error), AQUILA_OK);
    aquila_free(other);
    EXPECT(aquila_session_save(restored, path, &error), AQUILA_ERR_CLOSED);
    EXPECT(aquila_session_rollback(restored, 0, &error), AQUILA_ERR_CLOSED);
    EXPECT(aquila_session_fork(restored, &session, &error), AQUILA_ERR_CLOSED);
    CHECK(session == NULL);
    aquila_session_free(restored);
}

static void misuse(aquila_engine *engine) {
    static const int32_t input[] = {65};
    uint64_t room[4] = {0};
    aquila_session *session, *freed;
    aquila_request *request;
    aquila_error error;
    aquila_job job;
    size_t n = 7;
    pid_t child;
    int status;

    EXPECT(aquila_session_create(NULL, &session, &error), AQUILA_ERR_ARGUMENT);
    CHECK(session == NULL);
    EXPECT(aquila_session_create(engine, NULL, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_session_create(engine, ODD(aquila_session *, room), &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_session_create((aquila_engine *)(void *)room, &session, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_session_create(engine, &freed, &error), AQUILA_OK);
    EXPECT(aquila_session_fork(freed, NULL, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_session_tokens(freed, ODD(int32_t, room), 1, NULL, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_session_tokens(freed, NULL, 4, NULL, &error), AQUILA_ERR_ARGUMENT);
    aquila_session_free(freed);
    aquila_session_free(freed);
    aquila_session_free(NULL);
    aquila_session_free((aquila_session *)(void *)engine);
    EXPECT(aquila_session_fork(freed, &session, &error), AQUILA_ERR_CLOSED);
    EXPECT(aquila_session_rollback(freed, 0, &error), AQUILA_ERR_CLOSED);
    EXPECT(aquila_session_tokens(freed, NULL, 0, &n, &error), AQUILA_ERR_CLOSED);
    EXPECT(aquila_session_save(freed, "/tmp/x", &error), AQUILA_ERR_CLOSED);
    EXPECT(aquila_session_fork(NULL, &session, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_session_fork((aquila_session *)(void *)engine, &session, &error), AQUILA_ERR_ARGUMENT);
    CHECK(aquila_session_length(NULL) == 0 && aquila_session_length(freed) == 0);
    memset(&job, 0, sizeof job);
    job.struct_size = sizeof job;
    job.input_kind = AQUILA_INPUT_TOKENS;
    job.input = input;
    job.input_size = 1;
    job.session = freed;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_ERR_CLOSED);
    CHECK(request == NULL && strstr(error.message, "session") != NULL);
    job.session = (aquila_session *)(void *)engine;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_ERR_ARGUMENT);

    EXPECT(aquila_session_create(engine, &session, &error), AQUILA_OK);
    child = fork_with_idle_threads();
    if (child == 0) {
        aquila_session *copy;
        int wrong = aquila_session_fork(session, &copy, NULL) != AQUILA_ERR_FORKED ||
                    aquila_session_create(engine, &copy, NULL) != AQUILA_ERR_FORKED ||
                    aquila_session_rollback(session, 0, NULL) != AQUILA_ERR_FORKED ||
                    aquila_session_tokens(session, NULL, 0, NULL, NULL) != AQUILA_ERR_FORKED ||
                    aquila_session_save(session, "/tmp/x", NULL) != AQUILA_ERR_FORKED ||
                    aquila_session_restore(engine, "/tmp/x", &copy, NULL) != AQUILA_ERR_FORKED ||
                    aquila_session_length(session) != 0;
        aquila_session_free(session);
        _exit(wrong);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    aquila_session_free(session);
}

int main(int argc, char **argv) {
    aquila_engine *engine;
    if (argc != 2) return 2;
    engine = load(argv[1]);
    a_text_grows(engine);
    texts_and_chats(argv[1]);
    one_request_at_a_time(engine);
    in_a_file(argv[1], engine);
    misuse(engine);
    aquila_free(engine);
    return failures != 0;
}
