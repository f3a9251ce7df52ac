/* The table of contract.c: every function of the header with what its pointers must be, and a call that is good but for
   what the table's reader spoils. */
#ifndef CONTRACT_ROWS_H
#define CONTRACT_ROWS_H

#include "check.h"
#include <stddef.h>

/* Arguments that are good, and room for what comes back; each thread has its own. A tail follows each struct. */
#define WITH_TAIL(type, name) union { type value; char bytes[sizeof(type) + 64]; } name
struct room {
    char model[4096], file[64], prompt[16], chat[64], text[1 << 15];
    const char *strings[2];
    WITH_TAIL(aquila_load_options, options);
    WITH_TAIL(aquila_plan, plan);
    WITH_TAIL(aquila_gen_params, params);
    WITH_TAIL(aquila_job, job);
    WITH_TAIL(aquila_event, event);
    WITH_TAIL(aquila_engine_info, info);
    WITH_TAIL(aquila_engine_stats, engine_stats);
    WITH_TAIL(aquila_stats, stats);
    int32_t ids[64];
    float vectors[2 * 64];
    double logprobs[2];
    aquila_request *ready[4];
    size_t size;
    void *out;
    aquila_error error, odd_error;
};
static __thread struct room room;

enum kind { NONE, ENGINE, REQUEST, QUEUE, SESSION, RESULT, KINDS };
enum answer { STATUS, VALUE, NOTHING }; /* a VALUE is 0 where there is none */

/* What is expected of a pointer. */
enum {
    NEEDED = 1,  /* not NULL */
    ALIGNED = 2, /* not at an odd address */
    TEXT = 4,    /* UTF-8 */
    IN = 8,      /* a struct with a struct_size that is read */
    OUT = 16,    /* one that is written, whole or not at all */
    HANDLE = 32  /* where a handle is written, NULL on failure */
};
struct parameter { size_t at; int rules; size_t size; };
#define AT(field) offsetof(struct room, field)
#define STRUCT(field, type, rules) {AT(field), ALIGNED | (rules), sizeof(type)}

struct row {
    const char *name;
    enum kind kind;     /* of its first argument */
    enum answer answer;
    int64_t (*call)(void *handle, void *const *p, aquila_error *error);
    struct parameter parameters[5];
    int frees, without_error;
};

/* The calls: what the table does not vary is good. */
#define CALL(name) static int64_t call_##name(void *h, void *const *p, aquila_error *e)
#define UNUSED_HERE (void)h, (void)p, (void)e
CALL(version) { UNUSED_HERE; return aquila_version(); }
CALL(version_string) { UNUSED_HERE; return aquila_version_string() != NULL; }
CALL(build_info) { UNUSED_HERE; return aquila_build_info() != NULL; }
CALL(status_name) { UNUSED_HERE; return aquila_status_name(INT32_MIN) != NULL; }
CALL(set_log) { UNUSED_HERE; aquila_set_log(AQUILA_LOG_OFF, NULL, NULL); return 0; }
CALL(get_info) { (void)e; return aquila_get_info(h, p[0]); }
CALL(get_stats) { (void)e; return aquila_get_stats(h, p[0]); }
CALL(engine_json) { return aquila_engine_json(h, p[0], sizeof room.text, p[1], e); }
CALL(metrics_text) { return aquila_metrics_text(h, p[0], sizeof room.text, p[1], e); }
CALL(load_options_init) { UNUSED_HERE; aquila_load_options_init(p[0], sizeof(aquila_load_options)); return 0; }
CALL(gen_params_init) { UNUSED_HERE; aquila_gen_params_init(p[0], sizeof(aquila_gen_params)); return 0; }
CALL(plan_load) { (void)h; return aquila_plan_load(p[0], p[1], p[2], e); }
CALL(load) { (void)h; return aquila_load(p[0], p[1], p[2], e); }
CALL(free) { (void)p, (void)e; aquila_free(h); return 0; }
CALL(generate) { return aquila_generate(h, p[0], p[1], p[2], e); }
static int32_t go_on(const aquila_event *event, void *user) { (void)event, (void)user; return 0; }
CALL(stream) { return aquila_stream(h, p[0], p[1], go_on, NULL, e); }
CALL(submit) { return aquila_submit(h, p[0], p[1], e); }
CALL(next) { return aquila_next(h, p[0], AQUILA_FOREVER, e); }
CALL(wait) { return aquila_wait(h, AQUILA_FOREVER, p[0], e); }
CALL(cancel) { (void)p, (void)e; aquila_cancel(h); return 0; }
CALL(request_user) { (void)p, (void)e; return aquila_request_user(h) != NULL; }
CALL(request_free) { (void)p, (void)e; aquila_request_free(h); return 0; }
CALL(queue_create) { (void)h; return aquila_queue_create(p[0], e); }
CALL(queue_wait) { return aquila_queue_wait(h, p[0], 4, p[1], 60000, e); }
CALL(queue_wake) { (void)p, (void)e; aquila_queue_wake(h); return 0; }
CALL(queue_fd) { (void)p, (void)e; return aquila_queue_fd(h) + 1; }
CALL(queue_free) { (void)p, (void)e; aquila_queue_free(h); return 0; }
CALL(session_create) { return aquila_session_create(h, p[0], e); }
CALL(session_fork) { return aquila_session_fork(h, p[0], e); }
CALL(session_rollback) { (void)p; return aquila_session_rollback(h, 1, e); }
CALL(session_length) { (void)p, (void)e; return (int64_t)aquila_session_length(h); }
CALL(session_tokens) { return aquila_session_tokens(h, p[0], 64, p[1], e); }
CALL(session_save) { return aquila_session_save(h, p[0], e); }
CALL(session_restore) { return aquila_session_restore(h, p[0], p[1], e); }
CALL(session_free) { (void)p, (void)e; aquila_session_free(h); return 0; }
CALL(result_text) { (void)e; return aquila_result_text(h, p[0]) != NULL; }
CALL(result_tokens) { (void)e; return aquila_result_tokens(h, p[0]) != NULL; }
CALL(result_logprobs) { (void)e; return aquila_result_logprobs(h, p[0]) != NULL; }
CALL(result_top_logprobs) { (void)e; return aquila_result_top_logprobs(h, p[0]) != NULL; }
CALL(result_finish) { (void)p, (void)e; return aquila_result_finish(h); }
CALL(result_json) { (void)e; return aquila_result_json(h, p[0]) != NULL; }
CALL(result_stats) { (void)e; return aquila_result_stats(h, p[0]); }
CALL(result_free) { (void)p, (void)e; aquila_result_free(h); return 0; }
CALL(tokenize) { return aquila_tokenize(h, p[0], AQUILA_NTS, 0, p[1], 64, p[2], e); }
CALL(detokenize) { return aquila_detokenize(h, p[0], 3, 0, p[1], sizeof room.text, p[2], e); }
CALL(apply_template) { return aquila_apply_template(h, p[0], NULL, 1, p[1], sizeof room.text, p[2], e); }
CALL(score) { return aquila_score(h, p[0], p[1], 2, p[2], e); }
CALL(embed) { return aquila_embed(h, p[0], 2, p[1], 2 * 64, p[2], e); }

#define NO_POINTERS {{0, 0, 0}}
static const struct row rows[] = {
    {"aquila_version", NONE, VALUE, call_version, NO_POINTERS, 0, 1},
    {"aquila_version_string", NONE, VALUE, call_version_string, NO_POINTERS, 0, 1},
    {"aquila_build_info", NONE, VALUE, call_build_info, NO_POINTERS, 0, 1},
    {"aquila_status_name", NONE, VALUE, call_status_name, NO_POINTERS, 0, 1},
    {"aquila_set_log", NONE, NOTHING, call_set_log, NO_POINTERS, 0, 1},
    {"aquila_get_info", ENGINE, STATUS, call_get_info, {STRUCT(info, aquila_engine_info, OUT | NEEDED)}, 0, 1},
    {"aquila_get_stats", ENGINE, STATUS, call_get_stats, {STRUCT(engine_stats, aquila_engine_stats, OUT | NEEDED)}, 0, 1},
    {"aquila_engine_json", ENGINE, STATUS, call_engine_json, {{AT(text), NEEDED, 0}, {AT(size), ALIGNED, 0}}, 0, 0},
    {"aquila_metrics_text", ENGINE, STATUS, call_metrics_text, {{AT(text), NEEDED, 0}, {AT(size), ALIGNED, 0}}, 0, 0},
    {"aquila_load_options_init", NONE, NOTHING, call_load_options_init, {{AT(options), ALIGNED, 0}}, 0, 1},
    {"aquila_gen_params_init", NONE, NOTHING, call_gen_params_init, {{AT(params), ALIGNED, 0}}, 0, 1},
    {"aquila_plan_load", NONE, STATUS, call_plan_load,
     {{AT(model), NEEDED, 0}, STRUCT(options, aquila_load_options, IN), STRUCT(plan, aquila_plan, OUT | NEEDED)}, 0, 0},
    {"aquila_load", NONE, STATUS, call_load,
     {{AT(model), NEEDED, 0}, STRUCT(options, aquila_load_options, IN), {AT(out), NEEDED | ALIGNED | HANDLE, ENGINE}}, 0, 0},
    {"aquila_free", ENGINE, NOTHING, call_free, NO_POINTERS, 1, 1},
    {"aquila_generate", ENGINE, STATUS, call_generate,
     {{AT(prompt), NEEDED | TEXT, 0}, STRUCT(params, aquila_gen_params, IN), {AT(out), NEEDED | ALIGNED | HANDLE, RESULT}}, 0, 0},
    {"aquila_stream", ENGINE, STATUS, call_stream,
     {{AT(prompt), NEEDED | TEXT, 0}, STRUCT(params, aquila_gen_params, IN)}, 0, 0},
    {"aquila_submit", ENGINE, STATUS, call_submit,
     {STRUCT(job, aquila_job, IN | NEEDED), {AT(out), NEEDED | ALIGNED | HANDLE, REQUEST}}, 0, 0},
    {"aquila_next", REQUEST, STATUS, call_next, {STRUCT(event, aquila_event, OUT | NEEDED)}, 0, 0},
    {"aquila_wait", REQUEST, STATUS, call_wait, {{AT(out), NEEDED | ALIGNED | HANDLE, RESULT}}, 0, 0},
    {"aquila_cancel", REQUEST, NOTHING, call_cancel, NO_POINTERS, 0, 1},
    {"aquila_request_user", REQUEST, VALUE, call_request_user, NO_POINTERS, 0, 1},
    {"aquila_request_free", REQUEST, NOTHING, call_request_free, NO_POINTERS, 1, 1},
    {"aquila_queue_create", NONE, STATUS, call_queue_create, {{AT(out), NEEDED | ALIGNED | HANDLE, QUEUE}}, 0, 0},
    {"aquila_queue_wait", QUEUE, STATUS, call_queue_wait, {{AT(ready), NEEDED | ALIGNED, 0}, {AT(size), NEEDED | ALIGNED, 0}}, 0, 0},
    {"aquila_queue_wake", QUEUE, NOTHING, call_queue_wake, NO_POINTERS, 0, 1},
    {"aquila_queue_fd", QUEUE, VALUE, call_queue_fd, NO_POINTERS, 0, 1},
    {"aquila_queue_free", QUEUE, NOTHING, call_queue_free, NO_POINTERS, 1, 1},
    {"aquila_session_create", ENGINE, STATUS, call_session_create, {{AT(out), NEEDED | ALIGNED | HANDLE, SESSION}}, 0, 0},
    {"aquila_session_fork", SESSION, STATUS, call_session_fork, {{AT(out), NEEDED | ALIGNED | HANDLE, SESSION}}, 0, 0},
    {"aquila_session_rollback", SESSION, STATUS, call_session_rollback, NO_POINTERS, 0, 0},
    {"aquila_session_length", SESSION, VALUE, call_session_length, NO_POINTERS, 0, 1},
    {"aquila_session_tokens", SESSION, STATUS, call_session_tokens, {{AT(ids), NEEDED | ALIGNED, 0}, {AT(size), ALIGNED, 0}}, 0, 0},
    {"aquila_session_save", SESSION, STATUS, call_session_save, {{AT(file), NEEDED, 0}}, 0, 0},
    {"aquila_session_restore", ENGINE, STATUS, call_session_restore,
     {{AT(file), NEEDED, 0}, {AT(out), NEEDED | ALIGNED | HANDLE, SESSION}}, 0, 0},
    {"aquila_session_free", SESSION, NOTHING, call_session_free, NO_POINTERS, 1, 1},
    {"aquila_result_text", RESULT, VALUE, call_result_text, {{AT(size), ALIGNED, 0}}, 0, 1},
    {"aquila_result_tokens", RESULT, VALUE, call_result_tokens, {{AT(size), ALIGNED, 0}}, 0, 1},
    {"aquila_result_logprobs", RESULT, VALUE, call_result_logprobs, {{AT(size), ALIGNED, 0}}, 0, 1},
    {"aquila_result_top_logprobs", RESULT, VALUE, call_result_top_logprobs, {{AT(size), ALIGNED, 0}}, 0, 1},
    {"aquila_result_finish", RESULT, VALUE, call_result_finish, NO_POINTERS, 0, 1},
    {"aquila_result_json", RESULT, VALUE, call_result_json, {{AT(size), ALIGNED, 0}}, 0, 1},
    {"aquila_result_stats", RESULT, STATUS, call_result_stats, {STRUCT(stats, aquila_stats, OUT | NEEDED)}, 0, 1},
    {"aquila_result_free", RESULT, NOTHING, call_result_free, NO_POINTERS, 1, 1},
    {"aquila_tokenize", ENGINE, STATUS, call_tokenize,
     {{AT(prompt), NEEDED | TEXT, 0}, {AT(ids), NEEDED | ALIGNED, 0}, {AT(size), ALIGNED, 0}}, 0, 0},
    {"aquila_detokenize", ENGINE, STATUS, call_detokenize,
     {{AT(ids), NEEDED | ALIGNED, 0}, {AT(text), NEEDED, 0}, {AT(size), ALIGNED, 0}}, 0, 0},
    {"aquila_apply_template", ENGINE, STATUS, call_apply_template,
     {{AT(chat), NEEDED | TEXT, 0}, {AT(text), NEEDED, 0}, {AT(size), ALIGNED, 0}}, 0, 0},
    {"aquila_score", ENGINE, STATUS, call_score,
     {{AT(prompt), NEEDED | TEXT, 0}, {AT(strings), NEEDED | ALIGNED, 0}, {AT(logprobs), NEEDED | ALIGNED, 0}}, 0, 0},
    {"aquila_embed", ENGINE, STATUS, call_embed,
     {{AT(strings), NEEDED | ALIGNED, 0}, {AT(vectors), NEEDED | ALIGNED, 0}, {AT(size), ALIGNED, 0}}, 0, 0},
};
#define ROWS (sizeof rows / sizeof rows[0])

#endif
