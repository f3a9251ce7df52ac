/* The rules that the header states for all functions, against every function: the rows of contract_rows.h. What a
   function does when it is used well stands in its noun's test. */
#include "contract_rows.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *model;
static char file[64]; /* of a saved session */
static aquila_engine *engine;

/* Arguments that are good for every function. */
static void prepare(void) {
    memset(&room, 0, sizeof room);
    snprintf(room.model, sizeof room.model, "%s", model);
    strcpy(room.file, file);
    strcpy(room.prompt, "hello");
    strcpy(room.chat, "[{\"role\":\"user\",\"content\":\"hello\"}]");
    room.strings[0] = " world";
    room.strings[1] = "!";
    room.ids[0] = room.ids[1] = room.ids[2] = 'a';
    aquila_load_options_init(&room.options.value, sizeof room.options.value);
    room.options.value.chat_template = "aquila-v1";
    room.options.value.threads = 2;
    aquila_gen_params_init(&room.params.value, sizeof room.params.value);
    room.params.value.max_tokens = 2;
    room.params.value.flags = AQUILA_GEN_IGNORE_EOS;
    room.params.value.n_logprobs = 1;
    room.job.value.struct_size = sizeof room.job.value;
    room.job.value.input = room.prompt;
    room.job.value.input_size = AQUILA_NTS;
    room.job.value.params = &room.params.value;
    room.job.value.user = &room;
    room.plan.value.struct_size = sizeof room.plan.value;
    room.event.value.struct_size = sizeof room.event.value;
    room.info.value.struct_size = sizeof room.info.value;
    room.engine_stats.value.struct_size = sizeof room.engine_stats.value;
    room.stats.value.struct_size = sizeof room.stats.value;
    room.out = &room; /* no handle */
}

static void close_handle(enum kind kind, void *handle) {
    if (kind == ENGINE && handle != engine) aquila_free(handle);
    if (kind == REQUEST) aquila_request_free(handle);
    if (kind == QUEUE) aquila_queue_free(handle);
    if (kind == SESSION) aquila_session_free(handle);
    if (kind == RESULT) aquila_result_free(handle);
}

static aquila_request *submitted(aquila_queue *queue) {
    aquila_request *request = NULL;
    room.job.value.queue = queue;
    CHECK(aquila_submit(engine, &room.job.value, &request, NULL) == AQUILA_OK);
    room.job.value.queue = NULL;
    return request;
}

static aquila_session *session_with_tokens(void) {
    aquila_session *session = NULL;
    aquila_request *request;
    aquila_result *result = NULL;
    CHECK(aquila_session_create(engine, &session, NULL) == AQUILA_OK);
    room.job.value.session = session;
    request = submitted(NULL);
    room.job.value.session = NULL;
    CHECK(aquila_wait(request, AQUILA_FOREVER, &result, NULL) == AQUILA_OK);
    aquila_result_free(result);
    aquila_request_free(request);
    return session;
}

/* A handle of a kind, for a row to use: of its own where the row frees it. A queue has a request in `*held`. */
static void *fresh(const struct row *row, void **held) {
    void *handle = NULL;
    *held = NULL;
    prepare();
    if (row->kind == ENGINE && !row->frees) return engine;
    if (row->kind == ENGINE) CHECK(aquila_load(model, &room.options.value, (aquila_engine **)&handle, NULL) == AQUILA_OK);
    if (row->kind == REQUEST) handle = submitted(NULL);
    if (row->kind == SESSION) handle = session_with_tokens();
    if (row->kind == RESULT)
        CHECK(aquila_generate(engine, "hello", &room.params.value, (aquila_result **)&handle, NULL) == AQUILA_OK);
    if (row->kind == QUEUE) {
        CHECK(aquila_queue_create((aquila_queue **)&handle, NULL) == AQUILA_OK);
        *held = submitted(handle);
    }
    prepare();
    return handle;
}

static __thread const char *spoiled; /* for the message of a failure */
#define EXPECTED(condition)                                                                     \
    do {                                                                                        \
        if (!(condition)) {                                                                     \
            failures++;                                                                         \
            fprintf(stderr, "%s:%d: %s, %s: %s: %.120s\n", __FILE__, __LINE__, row->name, spoiled,  \
                    #condition, room.error.message);                                            \
        }                                                                                       \
    } while (0)

/* Calls with the pointer `which` replaced (-1: none) and closes the handles that were made. */
static int64_t call(const struct row *row, void *handle, int which, void *instead, aquila_error *error) {
    void *pointers[5];
    int64_t answer;
    int i;
    for (i = 0; i < 5; i++) pointers[i] = i == which ? instead : (char *)&room + row->parameters[i].at;
    memset(&room.error, 0x55, sizeof room.error);
    answer = row->call(handle, pointers, error);
    for (i = 0; i < 5; i++) {
        if (!(row->parameters[i].rules & HANDLE) || i == which) continue;
        EXPECTED((answer == AQUILA_OK) == (room.out != NULL) && room.out != (void *)&room);
        close_handle((enum kind)row->parameters[i].size, room.out);
    }
    if (row->answer == STATUS && !row->without_error && error == &room.error) {
        EXPECTED(error->status == answer && memchr(error->message, '\0', sizeof error->message) != NULL);
        EXPECTED((error->message[0] == '\0') == (answer >= AQUILA_OK));
    }
    return answer;
}

/* A call that must be refused: with the status, without a value, and with nothing written. */
static void refused(const struct row *row, void *handle, int which, void *instead, aquila_status status) {
    static __thread struct room before;
    int i, alone;
    for (alone = 0; alone < 2; alone++) { /* without an aquila_error, too */
        int64_t answer;
        before = room;
        answer = call(row, handle, which, instead, alone ? NULL : &room.error);
        EXPECTED(answer == (row->answer == STATUS ? status : 0));
        for (i = 0; i < 5; i++) {
            const struct parameter *parameter = &row->parameters[i];
            if (!(parameter->rules & OUT)) continue;
            EXPECTED(memcmp((char *)&room + parameter->at, (char *)&before + parameter->at, parameter->size + 64) == 0);
        }
        room.out = &room;
    }
}

static int64_t good(const struct row *row, void *handle) {
    int64_t answer = call(row, handle, -1, NULL, &room.error);
    EXPECTED(row->answer == VALUE ? answer != 0 : answer == AQUILA_OK);
    return answer;
}

/* Handles that are none, of another kind, and freed before. */
static void bad_handles(const struct row *row) {
    void *held, *handle = fresh(row, &held), *other;
    struct row others = {"", row->kind == RESULT ? QUEUE : RESULT, NOTHING, NULL, NO_POINTERS, 0, 0};
    spoiled = "the handle NULL";
    refused(row, NULL, -1, NULL, AQUILA_ERR_ARGUMENT);
    spoiled = "the handle no handle";
    refused(row, &room, -1, NULL, AQUILA_ERR_ARGUMENT);
    refused(row, (char *)handle + 1, -1, NULL, AQUILA_ERR_ARGUMENT);
    spoiled = "the handle of another kind";
    if (row->frees || row->kind != ENGINE) close_handle(row->kind, handle);
    close_handle(REQUEST, held);
    other = fresh(&others, &held);
    refused(row, other, -1, NULL, AQUILA_ERR_ARGUMENT);
    close_handle(others.kind, other);
    close_handle(REQUEST, held);
    spoiled = "the handle freed";
    handle = fresh(&(struct row){"", row->kind, NOTHING, NULL, NO_POINTERS, 1, 0}, &held);
    close_handle(row->kind, handle);
    close_handle(REQUEST, held);
    refused(row, handle, -1, NULL, AQUILA_ERR_CLOSED);
}

/* NULL, odd addresses and broken text where they must not be; NULL where it may. */
static void bad_pointers(const struct row *row, void *handle) {
    static __thread char odd[sizeof(struct room)];
    int i;
    for (i = 0; i < 5; i++) {
        int rules = row->parameters[i].rules;
        spoiled = "a pointer NULL";
        if (rules & NEEDED) refused(row, handle, i, NULL, AQUILA_ERR_ARGUMENT);
        spoiled = "a pointer misaligned";
        if (rules & ALIGNED) refused(row, handle, i, odd + 1, AQUILA_ERR_ARGUMENT);
        spoiled = "a text not UTF-8";
        if (rules & TEXT) refused(row, handle, i, "[\xE6\xA8", AQUILA_ERR_ARGUMENT);
        spoiled = "a pointer NULL that may be";
        if (rules != 0 && !(rules & NEEDED)) {
            int64_t answer = call(row, handle, i, NULL, &room.error);
            EXPECTED(row->answer == VALUE ? answer != 0 : answer == AQUILA_OK);
        }
    }
    if (row->answer == STATUS && !row->without_error) {
        spoiled = "the aquila_error misaligned";
        EXPECTED(call(row, handle, -1, NULL, ODD(aquila_error, &room.odd_error)) == AQUILA_ERR_ARGUMENT);
    }
}

/* Structs of callers from the past, the future, and of none. */
static void struct_sizes(const struct row *row) {
    static const uint32_t none[] = {0, 1, 2, 3, 5, 4097, UINT32_MAX};
    int i, k;
    for (i = 0; i < 5; i++) {
        const struct parameter *parameter = &row->parameters[i];
        char *place = (char *)&room + parameter->at;
        uint32_t size = (uint32_t)parameter->size;
        void *held, *handle;
        if (!(parameter->rules & (IN | OUT))) continue;
        handle = fresh(row, &held);
        spoiled = "a struct_size of none";
        for (k = -1; k < 7; k++) {
            uint32_t wrong = k < 0 ? size - 1 : none[k];
            memcpy(place, &wrong, sizeof wrong);
            refused(row, handle, -1, NULL, AQUILA_ERR_ARGUMENT);
        }
        prepare();
        spoiled = "a longer struct with a tail that is set";
        k = (int)size + 24;
        memcpy(place, &k, sizeof k);
        place[size + 20] = 1;
        if (parameter->rules & IN) refused(row, handle, -1, NULL, AQUILA_ERR_UNSUPPORTED);
        else good(row, handle); /* which clears it */
        EXPECTED(parameter->rules & IN || place[size + 20] == 0);
        close_handle(row->kind, handle);
        close_handle(REQUEST, held);
        handle = fresh(row, &held);
        spoiled = "a longer struct";
        memcpy(place, &k, sizeof k);
        good(row, handle);
        close_handle(row->kind, handle);
        close_handle(REQUEST, held);
    }
}

/* Every function as it is meant to be used. */
static void use_all(const char *where) {
    size_t i;
    for (i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];
        void *held, *handle = fresh(row, &held);
        spoiled = where;
        good(row, handle);
        if (row->frees) refused(row, handle, -1, NULL, AQUILA_ERR_CLOSED); /* a second free does nothing */
        close_handle(row->kind, handle);
        close_handle(REQUEST, held);
    }
}

static void *use_all_in_a_thread(void *unused) {
    use_all("in one of eight threads with small stacks");
    return unused;
}

/* A stream function may call anything; so may a progress function, which runs on the thread of the load. */
static int32_t use_all_once(int *times, const char *where) {
    if ((*times)++ == 0) use_all(where);
    return 0;
}
static int32_t in_a_stream(const aquila_event *event, void *times) {
    return event->kind == AQUILA_EVENT_TEXT ? use_all_once(times, "inside a stream function") : 0;
}
static int32_t in_a_load(const char *stage, uint64_t done, uint64_t total, void *times) {
    (void)stage, (void)done, (void)total;
    return use_all_once(times, "inside a progress function");
}

static void inside_callbacks(void) {
    aquila_gen_params params = short_params(8);
    aquila_load_options options;
    aquila_engine *other;
    aquila_error error;
    int times = 0;

    EXPECT(aquila_stream(engine, "hello", &params, in_a_stream, &times, &error), AQUILA_OK);
    CHECK(times > 0);
    times = 0;
    aquila_load_options_init(&options, sizeof options);
    options.progress = in_a_load;
    options.progress_user = &times;
    EXPECT(aquila_load(model, &options, &other, &error), AQUILA_OK);
    CHECK(times > 0);
    aquila_free(other);
}

/* What came through a fork is refused at once; results are the child's own, and new things can be made. */
static void in_a_child(void *const *handles) {
    size_t i;
    alarm(60); /* a call that waits for a thread of the parent's never ends */
    for (i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];
        void *handle = handles[row->kind];
        int of_the_parent = row->kind != NONE && row->kind != RESULT;
        prepare();
        spoiled = "in a child";
        if (!of_the_parent) good(row, handle);
        else if (row->answer == STATUS) refused(row, handle, -1, NULL, AQUILA_ERR_FORKED);
        else call(row, handle, -1, NULL, &room.error);
    }
    fflush(NULL);
    _exit(failures != 0);
}

static void after_a_fork(void) {
    void *handles[KINDS] = {0}, *held;
    int status = -1, kind;
    pid_t child;
    for (kind = ENGINE; kind < KINDS; kind++)
        handles[kind] = fresh(&(struct row){"", (enum kind)kind, NOTHING, NULL, NO_POINTERS, 0, 0}, &held);
    child = fork_with_idle_threads();
    if (child == 0) in_a_child(handles);
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    /* What the child freed is the parent's still. */
    for (kind = ENGINE; kind < KINDS; kind++) {
        size_t i;
        for (i = 0; i < ROWS; i++) {
            const struct row *row = &rows[i];
            if ((int)row->kind != kind || row->frees) continue;
            prepare();
            spoiled = "in the parent of a child";
            good(row, handles[kind]);
        }
        close_handle((enum kind)kind, handles[kind]);
    }
    close_handle(REQUEST, held);
}

int main(int argc, char **argv) {
    pthread_attr_t small;
    pthread_t threads[8];
    size_t i;

    if (argc != 2) return 2;
    model = argv[1];
    prepare();
    CHECK(aquila_load(model, &room.options.value, &engine, NULL) == AQUILA_OK);
    sprintf(file, "/tmp/aquila-contract-%ld", (long)getpid());
    {
        aquila_session *session = session_with_tokens();
        CHECK(aquila_session_save(session, file, NULL) == AQUILA_OK);
        aquila_session_free(session);
    }
    for (i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];
        void *held, *handle = fresh(row, &held);
        bad_pointers(row, handle);
        close_handle(row->kind, handle);
        close_handle(REQUEST, held);
        if (row->kind != NONE) bad_handles(row);
        struct_sizes(row);
    }
    use_all("alone");
    /* 128 KiB beside what this program itself keeps there, of a thread's own and in locals. */
    pthread_attr_init(&small);
    CHECK(pthread_attr_setstacksize(&small, (128 << 10) + 4 * sizeof(struct room)) == 0);
    for (i = 0; i < 8; i++) CHECK(pthread_create(&threads[i], &small, use_all_in_a_thread, NULL) == 0);
    for (i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    inside_callbacks();
    after_a_fork();
    use_all("at the end");
    CHECK(unlink(file) == 0);
    aquila_free(engine);
    return failures != 0;
}
