/* aquila.h: BAAI's Aquila language models inside a program.
 *
 * This file is the manual. It is generated from src/capi by `make header`; change it there.
 *
 * Use: aquila_load gives an engine; aquila_generate gives a whole text, aquila_stream hands it on piece by
 * piece; aquila_free ends it. Link with `pkg-config --cflags --libs aquila`.
 *
 * A service: aquila_submit starts a request and returns, aquila_next reads its events, aquila_cancel ends it,
 * all from any thread; an aquila_queue lets one thread wait for hundreds of requests, with a descriptor for
 * poll. The engine runs the requests together. An aquila_session is a text that grows from request to request,
 * and that can be copied, cut, and kept in a file.
 *
 * Errors. Functions return an aquila_status: AQUILA_OK, or a negative number that says what to do (a positive
 * one is no error). The aquila_error that most take as their last argument says why; NULL is allowed. An
 * out-pointer is set to NULL on failure. NULL or a misaligned address for a required argument gives
 * AQUILA_ERR_ARGUMENT.
 *
 * Handles. aquila_engine, aquila_request, aquila_queue, aquila_session and aquila_result are never dereferenced: a
 * handle is looked up at each call. A freed one gives AQUILA_ERR_CLOSED, also while it is being used by another thread;
 * a second free does nothing. An object lives until the last running call on it returns. Nothing that the
 * library gives is freed with free().
 *
 * Threads. Every function may be called from any thread at any time, also on the same handle; of two that
 * read the events of one request at once, the second is told AQUILA_ERR_BUSY. Callbacks run on the thread
 * that made the call; only the log function runs on any thread.
 *
 * Strings are UTF-8 and NUL-terminated. Inputs are copied before a call returns.
 *
 * Structs that begin with struct_size only grow at the end. Set it to sizeof (the _init functions do).
 * A struct from an older header has a missing tail: the defaults. One from a newer header is accepted if
 * what this library does not know is 0, and refused if not (AQUILA_ERR_UNSUPPORTED).
 *
 * The library never prints, exits, aborts, changes signals, locale, directory or environment. After a
 * fork, engines are refused in the child (AQUILA_ERR_FORKED): load again there.
 */

#ifndef AQUILA_H
#define AQUILA_H

#include <stddef.h>
#include <stdint.h>

#ifndef AQUILA_API
#  if defined(__GNUC__) && __GNUC__ >= 4
#    define AQUILA_API __attribute__((visibility("default")))
#  else
#    define AQUILA_API
#  endif
#endif

/** As a size: the string is NUL-terminated, count it. */
#define AQUILA_NTS ((size_t)-1)

/** As a time-out: wait without limit. */
#define AQUILA_FOREVER ((int64_t)-1)

#ifdef __cplusplus
extern "C" {
#endif

/** Version of this header: new functions and fields raise MINOR. */
#define AQUILA_VERSION_MAJOR 1

/** See AQUILA_VERSION_MAJOR. */
#define AQUILA_VERSION_MINOR 0

/** See AQUILA_VERSION_MAJOR. */
#define AQUILA_VERSION_PATCH 0

/** The call did what was asked. */
#define AQUILA_OK 0

/** There is nothing more: all events of the request were read. */
#define AQUILA_DONE 1

/** The time passed; nothing is lost. */
#define AQUILA_TIMEOUT 2

/** A bug in the library, caught before it could leave it. Please report the message. */
#define AQUILA_ERR_INTERNAL (-1)

/** An argument or option is NULL, misaligned, or outside its stated range. */
#define AQUILA_ERR_ARGUMENT (-2)

/** The object cannot do this now: for example, its engine met a bug before. */
#define AQUILA_ERR_STATE (-3)

/** Host memory, or the host budget, is exhausted. */
#define AQUILA_ERR_NO_MEMORY (-4)

/** Device memory, or the device budget, is exhausted. */
#define AQUILA_ERR_DEVICE_MEMORY (-5)

/** No such path. */
#define AQUILA_ERR_NOT_FOUND (-6)

/** The operating system refused; `native_code` holds its errno. */
#define AQUILA_ERR_IO (-7)

/** A file is there and is not what it must be. */
#define AQUILA_ERR_FORMAT (-8)

/** Known, and not built into this library or not offered by this device or model. */
#define AQUILA_ERR_UNSUPPORTED (-9)

/** The prompt leaves no room for a token in the context. */
#define AQUILA_ERR_CONTEXT_FULL (-10)

/** The caller's callback abandoned the load. */
#define AQUILA_ERR_CANCELLED (-11)

/** The deadline passed. */
#define AQUILA_ERR_DEADLINE (-12)

/** The object already runs a request. */
#define AQUILA_ERR_BUSY (-13)

/** The waiting line is full: try again later. */
#define AQUILA_ERR_OVERLOADED (-14)

/** The handle, or the engine behind it, was freed. */
#define AQUILA_ERR_CLOSED (-15)

/** A device driver failed; `native_code` holds its number. */
#define AQUILA_ERR_DEVICE (-16)

/** A JSON schema, regular expression or grammar that is not understood or cannot be met; only its request is affected. */
#define AQUILA_ERR_CONSTRAINT (-17)

/** The caller's buffer is too small; the needed size was written. */
#define AQUILA_ERR_TOO_SMALL (-18)

/** The handle was made before a fork and is used in the child. Last added. */
#define AQUILA_ERR_FORKED (-19)

/** Bytes of an error message, its NUL included. */
#define AQUILA_MESSAGE_SIZE 504

/** Nothing. */
#define AQUILA_LOG_OFF 0

/** What failed. */
#define AQUILA_LOG_ERROR 1

/** What looks wrong and was worked around. */
#define AQUILA_LOG_WARN 2

/** What was loaded, and the limits that were chosen. */
#define AQUILA_LOG_INFO 3

/** Everything. */
#define AQUILA_LOG_DEBUG 4

/**
 * Copy the weights into memory instead of mapping the files. A mapped file must not be changed or
 * shortened while the engine lives: the system ends a process that reads beyond its end.
 */
#define AQUILA_LOAD_NO_MMAP 1

/** Keep the weights resident (mlock). */
#define AQUILA_LOAD_MLOCK 2

/** Look at every weight for NaN and infinity, and compare all of a packed cache with its checksums. */
#define AQUILA_LOAD_VERIFY 4

/** A part of the prompt is computed: `prefill_done` and `prefill_total` say how much. */
#define AQUILA_EVENT_PREFILL 1

/** New text and its tokens. */
#define AQUILA_EVENT_TEXT 2

/** The last event: `finish`, `status` and `stats` say how it ended. */
#define AQUILA_EVENT_FINISH 3

/** The text is free. */
#define AQUILA_CONSTRAINT_NONE 0

/**
 * `constraint` is a JSON Schema (an object, or true) of at most 64 KiB: the text is one JSON value that it
 * describes, with the members of an object in the order in which `properties` names them. Known are: type,
 * enum, const, anyOf, oneOf, allOf, $ref (within the schema: #/...), $defs, properties, required,
 * additionalProperties, patternProperties, minProperties, maxProperties, items, prefixItems, additionalItems,
 * minItems, maxItems, minLength, maxLength, pattern, format (date-time, time, date, duration, email,
 * hostname, ipv4, ipv6, uuid, uri), minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf.
 * Keywords that only describe (title, default ...) and such that JSON Schema does not know are ignored;
 * others of JSON Schema (not, if, uniqueItems ...) are refused by name, for they could not be kept. Between
 * its parts the text may have blanks and line breaks, at most 40 in a row; the member "x-guidance" of the
 * schema changes that: {"whitespace_flexible": false} allows none.
 */
#define AQUILA_CONSTRAINT_JSON_SCHEMA 1

/**
 * `constraint` is a regular expression of at most 16 KiB that the whole text matches, in the syntax of Rust's
 * regex crate: Perl's, with Unicode classes, without look-around and back-references. `.` is no line break;
 * ^ and $ at the ends change nothing.
 */
#define AQUILA_CONSTRAINT_REGEX 2

/**
 * `constraint` is a context-free grammar of at most 64 KiB, in the form of Lark that the llguidance crate
 * reads; the whole text matches its rule `start`. Names of terminals are in upper case; a terminal takes as
 * much of the text as it can. Known are also %ignore, %import common.INT, `rule: <token>` for a special
 * token, and `%json { ... }` for a JSON Schema.
 */
#define AQUILA_CONSTRAINT_LARK 3

/** Go on past the model's own end-of-sequence ids. */
#define AQUILA_GEN_IGNORE_EOS 1

/** Put the prompt's text in front. */
#define AQUILA_GEN_ECHO 2

/** Leave the stop string in the text. */
#define AQUILA_GEN_KEEP_STOP 4

/** Show special tokens as text. */
#define AQUILA_GEN_SHOW_SPECIAL 8

/** Do not add what the tokenizer's own rules add to a prompt. */
#define AQUILA_GEN_NO_ADD_SPECIAL 128

/**
 * Neither take over what the KV cache holds of prompts that begin alike, nor leave it for others. On a session: share
 * it with that session and its copies alone.
 */
#define AQUILA_GEN_NO_CACHE 32

/**
 * Where the context is full, go on without the middle of the text: the first n_keep tokens stay, and of the others the
 * newest, as many as fill half of the rest. What follows is what the model says after just these. A prompt, or a
 * session, that leaves no room is cut the same way. Needs max_tokens.
 */
#define AQUILA_GEN_SHIFT 64

/** Do not recognise special-token text in the prompt. */
#define AQUILA_GEN_NO_PARSE_SPECIAL 256

/**
 * The prompt is a chat: a JSON array of messages, or an object with "messages", "tools" and options, as
 * aquila_apply_template takes them, rendered by the model's chat template with the assistant's turn opened.
 * No text that the JSON holds becomes a special token.
 */
#define AQUILA_GEN_MESSAGES 512

/** As a seed: another text each time. */
#define AQUILA_SEED_RANDOM UINT64_MAX

/** The input is text, tokenised by the model's own rules; with AQUILA_GEN_MESSAGES in the parameters it is a chat. */
#define AQUILA_INPUT_TEXT 0

/** The input is an array of int32_t ids; nothing is added to it. */
#define AQUILA_INPUT_TOKENS 1

/**
 * The input is a chat: a JSON array of messages, or an object with "messages", "tools" and options, as with
 * AQUILA_GEN_MESSAGES.
 */
#define AQUILA_INPUT_MESSAGES 2

/** Not finished, or no result. */
#define AQUILA_FINISH_NONE 0

/** The model's end-of-sequence id. */
#define AQUILA_FINISH_EOS 1

/** A stop string or stop token, or the end of what a constraint describes. */
#define AQUILA_FINISH_STOP 2

/** `max_tokens` were made. */
#define AQUILA_FINISH_LENGTH 3

/** The context is full. */
#define AQUILA_FINISH_CONTEXT 4

/** The caller stopped it. */
#define AQUILA_FINISH_CANCELLED 5

/** The deadline passed. */
#define AQUILA_FINISH_DEADLINE 6

/** A step failed. */
#define AQUILA_FINISH_ERROR 7

/** Add what the tokenizer's own rules add, such as a begin-of-sequence id. */
#define AQUILA_TOK_ADD_SPECIAL 1

/** Recognise special-token text such as "</s>" in the input. */
#define AQUILA_TOK_PARSE_SPECIAL 2

/** Show special tokens as text (aquila_detokenize). */
#define AQUILA_TOK_SHOW_SPECIAL 4

/**
 * A loaded model with its threads: any number of threads may use one engine at once. A handle, never
 * dereferenced: using a freed one gives AQUILA_ERR_CLOSED, not a crash.
 */
typedef struct aquila_engine aquila_engine;

/**
 * Where requests are given out when they have an event, so that one thread can wait for hundreds. Requests of
 * several engines may share one. A handle, never dereferenced.
 */
typedef struct aquila_queue aquila_queue;

/** A generation in flight. A handle, never dereferenced. */
typedef struct aquila_request aquila_request;

/**
 * A finished text. A handle, never dereferenced. It does not need its engine any more, and may be read
 * in a child process.
 */
typedef struct aquila_result aquila_result;

/**
 * A text on an engine that grows from request to request: a request whose aquila_job names it continues it, and what it
 * made belongs to it. It is the list of its tokens, and costs no more memory than these; what was computed of them
 * stays in the engine's KV cache as long as there is room, and is computed again where there was none. A handle, never
 * dereferenced.
 */
typedef struct aquila_session aquila_session;

/**
 * What a call answers: `AQUILA_OK`, or a negative number that says what the caller can do about the
 * failure. A positive number will never be an error. Numbers never move and are never used again.
 */
typedef int32_t aquila_status;

/** How much is logged; each level includes those before it. */
typedef int32_t aquila_log_level;

/**
 * Receives one log record. Runs on any thread, also on threads of the library and on several at once;
 * it must not call the library, nor longjmp or throw. `target` is the part of the library that speaks;
 * both strings are UTF-8 and live until it returns.
 */
typedef void (*aquila_log_fn)(aquila_log_level level,
                              const char *target,
                              const char *message,
                              void *user);

/** Facts of a loaded engine. Set struct_size before the call. */
typedef struct aquila_engine_info {
    /** sizeof(aquila_engine_info). */
    uint32_t struct_size;
    /** Rows of the embedding: ids are below it. */
    uint32_t vocab;
    /** Decoder layers. */
    uint32_t layers;
    /** Width of the residual stream. */
    uint32_t hidden;
    /** Tokens that one sequence may have. */
    uint32_t max_context;
    /** Devices that share the model. */
    uint32_t tensor_parallel;
    /** Begin-of-sequence id; -1 without one. */
    int32_t bos;
    /** The first id that ends a text; -1 without one. */
    int32_t eos;
    /** Numbers in all weights. */
    uint64_t parameters;
    /** Stored bytes of all weights. */
    uint64_t weight_bytes;
    /** Tokens that the KV cache holds, all sequences together. */
    uint64_t kv_tokens;
} aquila_engine_info;

/**
 * Why a call failed. The caller owns it; every call that takes one rewrites it, also on success
 * (AQUILA_OK and an empty message). NULL is allowed everywhere. The layout is frozen at 512 bytes.
 */
typedef struct aquila_error {
    /** The status that the call returned. */
    aquila_status status;
    /** errno, aclError, HcclResult ... of the failure behind it, or 0. */
    int32_t native_code;
    /** One sentence for a person: UTF-8, NUL-terminated, cut between characters if too long. */
    char message[504];
} aquila_error;

/**
 * What an engine does now, and what it has done since it was loaded. Set struct_size before the call. Each number
 * is right; numbers of one call may be of slightly different moments.
 */
typedef struct aquila_engine_stats {
    /** sizeof(aquila_engine_stats). */
    uint32_t struct_size;
    /** Requests that hold KV cache. */
    uint32_t running;
    /** Requests that wait for a place. */
    uint32_t waiting;
    /** Sessions that were not freed. */
    uint32_t sessions;
    /** Tokens of the KV cache that requests hold. */
    uint64_t kv_tokens_used;
    /**
     * Tokens of the KV cache that are kept for prompts which begin alike; their room is given to requests that need
     * it.
     */
    uint64_t kv_tokens_cached;
    /** Memory that the engine took when it was loaded, in bytes; mapped files are not counted. */
    uint64_t host_bytes;
    /** Requests that were taken in. */
    uint64_t requests;
    /** Requests that were refused with AQUILA_ERR_OVERLOADED. */
    uint64_t refused;
    /** Tokens of prompts. */
    uint64_t prompt_tokens;
    /** Those of them that were found in the KV cache and not computed. */
    uint64_t cached_tokens;
    /** Tokens made. */
    uint64_t output_tokens;
    /** Steps: each runs through the model once, with tokens of many requests. */
    uint64_t steps;
    /** How often a request gave its KV cache to another one, to be computed again. */
    uint64_t preemptions;
} aquila_engine_stats;

/**
 * Told of progress while loading: the stage, and how much of it is done (bytes). Runs on the thread
 * that called aquila_load, never after it returned. Return non-zero to abandon the load
 * (AQUILA_ERR_CANCELLED). It must not longjmp or throw.
 */
typedef int32_t (*aquila_progress_fn)(const char *stage, uint64_t done, uint64_t total, void *user);

/**
 * How a model is loaded. Fill with aquila_load_options_init, then change fields. All strings are
 * UTF-8 (paths: any bytes), copied before the call returns.
 */
typedef struct aquila_load_options {
    /** sizeof(aquila_load_options). */
    uint32_t struct_size;
    /** AQUILA_LOAD_... bits. */
    uint32_t flags;
    /** "auto" or NULL, "cpu", "npu:0", "npu:0,1". */
    const char *device;
    /**
     * How weights are held: NULL as stored, quantised types of GGUF in 4 or 8 bits; "f32", "f16", "bf16", or
     * quantised while loading: "q8", "q4" (with 8 bits for embedding and head). On an NPU NULL, "f16", "bf16" or "w8a8":
     * weights of the layers and their inputs in 8 bits.
     */
    const char *dtype;
    /**
     * How keys and values are held: NULL like the weights (f16 where those are quantised); "f32", "f16", "bf16", or
     * "i8": bytes with a scale for each key and value of a head, half the memory of 16 bits.
     */
    const char *kv_dtype;
    /** A tokenizer.json, or a directory that holds the tokenizer's files; NULL beside the weights. */
    const char *tokenizer;
    /** Name of a built-in chat template, or Jinja text; NULL from the model. */
    const char *chat_template;
    /**
     * A directory where weights that are converted while loading are kept, in a file that the next load maps instead
     * of converting them; NULL: no file is written. The file is made again when the model's files change or it is
     * damaged. Where it cannot be read or written the load goes on without it, with a warning in the log. Weights that
     * are used as stored are not kept.
     */
    const char *cache_dir;
    /** Host bytes to stay within; 0: what the machine has. */
    uint64_t host_memory;
    /** Bytes to stay within on each device; 0: what it has. */
    uint64_t device_memory;
    /** Bytes for the KV cache; 0: what the budgets leave. */
    uint64_t kv_memory;
    /** Longest sequence in tokens; 0: the model's. The variable MAX_SEQ_LEN may lower it further. */
    uint32_t max_context;
    /** Most sequences in one step, at most 256; 0: chosen. */
    uint32_t max_batch;
    /** Most waiting requests, beyond which AQUILA_ERR_OVERLOADED; 0: a default. */
    uint32_t max_waiting;
    /** Worker threads, at most 256; 0: what affinity and the control group's quota allow. */
    uint32_t threads;
    /** Progress function; NULL for none. */
    aquila_progress_fn progress;
    /** Handed to it as it is. */
    void *progress_user;
} aquila_load_options;

/** What a load would take, in bytes unless said. Set struct_size before the call. */
typedef struct aquila_plan {
    /** sizeof(aquila_plan). */
    uint32_t struct_size;
    /** 1 if the load fits into memory and budgets, else 0. */
    uint32_t fits;
    /** All weights as stored. */
    uint64_t weight_bytes;
    /** Activations and scratch. */
    uint64_t workspace_bytes;
    /** Keys and values of one token. */
    uint64_t kv_bytes_per_token;
    /** Tokens that the KV cache would hold, all sequences together. */
    uint64_t kv_tokens;
    /** Host memory available now. */
    uint64_t host_available;
    /** Device memory available now; 0 on the CPU. */
    uint64_t device_available;
    /**
     * Memory that the load would take at most: KV cache, workspace, and the weights that are not used where
     * they lie in mapped files. A good packed cache is such a file; one that is still to be written is not counted
     * on.
     */
    uint64_t private_bytes;
    /** Numbers in all weights. */
    uint64_t parameters;
    /** Tokens that one sequence may have. */
    uint32_t max_context;
    /** Decoder layers. */
    uint32_t layers;
} aquila_plan;

/** Added to the logit of one token. */
typedef struct aquila_logit_bias {
    /** The token's id. */
    int32_t token;
    /** What is added: finite, or -INFINITY, which forbids the token. */
    float bias;
} aquila_logit_bias;

/**
 * How to generate. Fill with aquila_gen_params_init, then change fields. Everything is copied before
 * the call returns. The order of the choice is: constraint, logit_bias, penalties, top_k, typical_p, top_p,
 * min_p, temperature, the draw.
 *
 * A constraint (AQUILA_CONSTRAINT_...) lets the model choose, at each place, among exactly those tokens after
 * which the text can still be completed, and lets it end the text exactly when it is complete: by an
 * end-of-sequence id (AQUILA_FINISH_EOS) or one of `stop_tokens` (AQUILA_FINISH_STOP). Where nothing can
 * follow, the text ends by itself (AQUILA_FINISH_STOP). Ends that come before leave it incomplete:
 * `max_tokens`, the context, the deadline, a cancel, a string of `stop`, or a stop token that spells text; a
 * stop token that fits nowhere is never chosen.
 *
 * It is compiled by the call that submits the request, on its thread; the first of an engine also prepares
 * the vocabulary, which takes some tenths of a second and tens of megabytes for 100,000 tokens. One that is
 * not understood, is too complex or fits no text is AQUILA_ERR_CONSTRAINT, with the place. A text that cannot
 * be completed with the model's tokens, or only with too much work, ends with that error, and never with a
 * wrong token. Special tokens come only from a grammar that names them. A constraint says what a text looks
 * like and not what is wanted: say that in the prompt.
 */
typedef struct aquila_gen_params {
    /** sizeof(aquila_gen_params). */
    uint32_t struct_size;
    /** AQUILA_GEN_... bits. */
    uint32_t flags;
    /** Most new tokens; 0: what the context leaves. */
    uint32_t max_tokens;
    /**
     * New tokens before an end-of-sequence id or stop token may end the text; at most `max_tokens`, if
     * that is set.
     */
    uint32_t min_tokens;
    /** 0: greedy. Else logits are divided by it; at most 100. */
    float temperature;
    /** Keep the smallest set of tokens whose probability reaches it; 0 to 1, 1: all. */
    float top_p;
    /** Keep tokens with at least this share of the best one's probability; 0 to 1, 0: all. */
    float min_p;
    /** Keep this mass of tokens nearest the entropy; 0 to 1, 1: all. */
    float typical_p;
    /** Keep so many of the most probable tokens; 0 or -1: all. */
    int32_t top_k;
    /** Last tokens that the penalties look at; -1: all; 0: none. */
    int32_t penalty_last_n;
    /**
     * Divides positive and multiplies negative logits of tokens seen, in prompt or text; 0.01 to 100,
     * 1: off.
     */
    float repeat_penalty;
    /** Subtracted for each time a token was generated; -100 to 100, 0: off. */
    float frequency_penalty;
    /** Subtracted if a token was generated; -100 to 100, 0: off. */
    float presence_penalty;
    /** Strings in `stop`: at most 64, each of 1 to 4096 bytes. */
    uint32_t n_stop;
    /** The same seed gives the same text. AQUILA_SEED_RANDOM: another each time. */
    uint64_t seed;
    /** Strings that end the text, and are not part of it unless AQUILA_GEN_KEEP_STOP. */
    const char *const *stop;
    /** Ids that end the text, beside the model's own. */
    const int32_t *stop_tokens;
    /** Changes of single logits, made before everything else. */
    const aquila_logit_bias *logit_bias;
    /** Ids in `stop_tokens`. */
    uint32_t n_stop_tokens;
    /** Changes in `logit_bias`. */
    uint32_t n_logit_bias;
    /**
     * Most tokens a step that are looked up in the text so far and verified beside the next one; at most
     * 64, 0: none. The text stays the same, to the bit; it comes sooner where it repeats its prompt or
     * itself (rewriting, editing, quoting). The engine proposes fewer where they prove wrong, none while
     * other requests fill its steps, and never more than a step verifies at little cost: 7 on a CPU.
     */
    uint32_t speculate;
    /** In what language `constraint` is written: AQUILA_CONSTRAINT_...; AQUILA_CONSTRAINT_NONE: the text is free. */
    uint32_t constraint_kind;
    /**
     * Milliseconds from the submission after which the text ends with what was made (AQUILA_FINISH_DEADLINE);
     * waiting in line and tokenising are within it; 0: no limit.
     */
    int64_t deadline_ms;
    /** Requests of higher priority go first, and others give place and KV cache to them and go on later; 0: ordinary. */
    int32_t priority;
    /** How many of the most likely tokens are told at each place, by the model alone as logprobs are; at most 20. */
    uint32_t n_logprobs;
    /** What the new text must fit, as `constraint_kind` says; NULL without one. The prompt is no part of it. */
    const char *constraint;
    /**
     * Tokens at the beginning that AQUILA_GEN_SHIFT leaves; at most half of the context. A begin-of-sequence token stays
     * in any case.
     */
    uint32_t n_keep;
    /** 0. */
    uint32_t reserved;
} aquila_gen_params;

/** Times and counts of one generation. Set struct_size before the call that fills it. */
typedef struct aquila_stats {
    /** sizeof(aquila_stats). */
    uint32_t struct_size;
    /** Tokens of the prompt. */
    uint32_t prompt_tokens;
    /** Prompt tokens that were not computed because they were cached. */
    uint32_t cached_tokens;
    /** Tokens made, the ending one included. */
    uint32_t output_tokens;
    /** From submission to the first step. */
    double queue_ms;
    /** Rendering and tokenising. */
    double tokenize_ms;
    /** From the first step to the first token. */
    double prefill_ms;
    /** From submission to the first token. */
    double first_token_ms;
    /** From the first token to the last. */
    double decode_ms;
    /** From submission to the end. */
    double total_ms;
    /** Tokens proposed by lookup (`speculate`) and computed. */
    uint32_t proposed_tokens;
    /** Those of them that were right: so many steps were saved. */
    uint32_t accepted_tokens;
} aquila_stats;

/** A token that could have been chosen. */
typedef struct aquila_logprob {
    /** Its id. */
    int32_t token;
    /** Its log-probability, by the model alone. */
    float logprob;
} aquila_logprob;

/**
 * What a generation says while it runs. What it points to lives until the function that it was handed to
 * returns; with aquila_next, until the next call of that on the request, or its free. Fields that its kind does
 * not use are 0 and NULL, but `text` is never NULL.
 */
typedef struct aquila_event {
    /**
     * sizeof(aquila_event): of the library in a callback, where fields beyond it do not exist; with aquila_next the
     * caller's, to be set before.
     */
    uint32_t struct_size;
    /** AQUILA_EVENT_... */
    uint32_t kind;
    /** New text: whole UTF-8 characters, NUL-terminated. */
    const char *text;
    /** Its bytes, without the NUL. */
    size_t text_size;
    /** The tokens behind it; there may be some without text, and text without any. */
    const int32_t *tokens;
    /**
     * Log-probability of each of the tokens; NULL where an NPU chose them, or found the logits to choose among. Asked
     * for by `n_logprobs` they are always there.
     */
    const float *logprobs;
    /** How many tokens. */
    size_t n_tokens;
    /** AQUILA_FINISH_..., with AQUILA_EVENT_FINISH. */
    uint32_t finish;
    /** Tokens of the prompt computed so far. */
    uint32_t prefill_done;
    /** Tokens of the prompt. */
    uint32_t prefill_total;
    /** What failed, with AQUILA_FINISH_ERROR. */
    aquila_status status;
    /** Times and counts, with AQUILA_EVENT_FINISH. */
    const aquila_stats *stats;
    /**
     * The most likely tokens at the place of each token, `n_logprobs` for each, the likeliest first; NULL where none
     * were asked for.
     */
    const aquila_logprob *top;
    /** The number that was asked for, or the vocabulary's if that is less. */
    uint32_t n_logprobs;
    /** 0. */
    uint32_t reserved;
} aquila_event;

/**
 * Receives the events of a generation, on the thread that called aquila_stream and never two at once.
 * Return non-zero to stop: the text ends there, with AQUILA_FINISH_CANCELLED. It may call any function
 * of the library, and free any handle, also the engine's. It must not longjmp or throw.
 */
typedef int32_t (*aquila_stream_fn)(const aquila_event *event, void *user);

/**
 * What to generate from, how, and who is told. Set all to 0, then struct_size and what is wanted. Everything is
 * copied before the call returns.
 */
typedef struct aquila_job {
    /** sizeof(aquila_job). */
    uint32_t struct_size;
    /** AQUILA_INPUT_... */
    uint32_t input_kind;
    /** The input. */
    const void *input;
    /** Its bytes, or AQUILA_NTS for a NUL-terminated string; of tokens, how many. */
    size_t input_size;
    /** NULL: the defaults. */
    const aquila_gen_params *params;
    /** Where the request is given out when it has an event; NULL: nowhere. */
    struct aquila_queue *queue;
    /** The caller's own, for aquila_request_user. */
    void *user;
    /**
     * The session that the input continues: text and tokens are put behind what it has, without a begin-of-sequence
     * token; an empty input goes on from there. A chat is the whole one each time: it takes the place of what the
     * session had, and where both begin alike nothing is computed again. When the request ends, the session has the
     * input and what was made of it, also after a cancel and a deadline; after an error it is as it was. NULL: none.
     */
    struct aquila_session *session;
} aquila_job;

/**
 * The version of the library that is loaded, as 0x00MMmmpp (major, minor, patch).
 *
 * Returns: a number to compare with the header's; at least the header's is all that a program needs.
 * Threads: any, at any time.
 */
AQUILA_API uint32_t aquila_version(void);

/**
 * The version of the library as text, with a suffix before the first release: "1.0.0-rc.1".
 *
 * Returns: a static string. Never NULL.
 * Threads: any, at any time.
 */
AQUILA_API const char *aquila_version_string(void);

/**
 * How the library was built: a JSON object with "version", "architecture", "os", "optimized",
 * "backends" and "atb_shim": whether libaquila's part for Ascend NPUs was built with it.
 *
 * Returns: a static string; NULL only if memory is exhausted.
 * Threads: any, at any time.
 */
AQUILA_API const char *aquila_build_info(void);

/**
 * The name of a status as it stands in this header, for logs.
 *
 * Returns: a static string, for example "AQUILA_ERR_FORMAT"; "unknown status" for a number that this
 * library does not know. Never NULL.
 * Threads: any, at any time.
 */
AQUILA_API const char *aquila_status_name(aquila_status status);

/**
 * Sets where the library's log records go. Without this call there are none: the library never
 * prints.
 *
 * Parameters: `max`, the most verbose level wanted (AQUILA_LOG_OFF to AQUILA_LOG_DEBUG); `log`, the
 * function, NULL for none; `user`, handed to it as it is.
 * Ownership: `user` stays the caller's. When the call returns, the function set before runs no more
 * and its `user` can be freed.
 * Threads: any, at any time, but not from inside the log function, where it does nothing. It
 * waits for running calls of the former function.
 */
AQUILA_API void aquila_set_log(aquila_log_level max, aquila_log_fn log, void *user);

/**
 * Facts of an engine as numbers.
 *
 * Parameters: `info`, filled.
 * Returns: AQUILA_OK, AQUILA_ERR_ARGUMENT, AQUILA_ERR_CLOSED or AQUILA_ERR_FORKED.
 * Threads: any, at any time.
 */
AQUILA_API aquila_status aquila_get_info(struct aquila_engine *engine,
                                         struct aquila_engine_info *info);

/**
 * Facts of an engine as a JSON object: all of aquila_engine_info, and "device", "stop_ids",
 * "chat_template" (its name, or null), "memory" (an object of bytes) and "executor" (an object of
 * strings: threads, instruction level, arithmetic).
 *
 * Parameters, Returns: text is returned as by aquila_detokenize.
 * Threads: any, at any time.
 */
AQUILA_API aquila_status aquila_engine_json(struct aquila_engine *engine,
                                            char *text,
                                            size_t capacity,
                                            size_t *size,
                                            struct aquila_error *error);

/**
 * What an engine does now, and what it has done.
 *
 * Parameters: `stats`, filled.
 * Returns: AQUILA_OK, AQUILA_ERR_ARGUMENT, AQUILA_ERR_CLOSED or AQUILA_ERR_FORKED.
 * Threads: any, at any time. It does not wait for a step.
 */
AQUILA_API aquila_status aquila_get_stats(struct aquila_engine *engine,
                                          struct aquila_engine_stats *stats);

/**
 * The same, how requests ended, and histograms of waiting, first token and the time between tokens, in the text form
 * of Prometheus (text/plain; version=0.0.4): to be served at /metrics as it is. All names begin with "aquila_".
 *
 * Parameters, Returns: text is returned as by aquila_detokenize.
 * Threads: any, at any time. It does not wait for a step.
 */
AQUILA_API aquila_status aquila_metrics_text(struct aquila_engine *engine,
                                             char *text,
                                             size_t capacity,
                                             size_t *size,
                                             struct aquila_error *error);

/**
 * Fills load options with the defaults: as stored, on the best device, within what the machine has.
 *
 * Parameters: `options`, the struct; `size`, sizeof(aquila_load_options) of the caller's header, which
 * becomes its struct_size.
 * Threads: any, at any time.
 */
AQUILA_API void aquila_load_options_init(struct aquila_load_options *options,
                                         size_t size);

/**
 * Reads a checkpoint's headers and says what loading it would take. Takes nothing.
 *
 * Parameters: `model`, a directory (Hugging Face's or FlagAI's, or one that holds `part_model`) or a GGUF file; `options`,
 * as for aquila_load, NULL for the defaults; `plan`, filled.
 * Returns: AQUILA_OK also where it does not fit (`fits` is 0 then); AQUILA_ERR_NOT_FOUND,
 * AQUILA_ERR_IO, AQUILA_ERR_FORMAT, AQUILA_ERR_UNSUPPORTED for what is wrong with the checkpoint;
 * AQUILA_ERR_ARGUMENT for an option out of range.
 * Threads: any, at any time.
 */
AQUILA_API aquila_status aquila_plan_load(const char *model,
                                          const aquila_load_options *options,
                                          struct aquila_plan *plan,
                                          struct aquila_error *error);

/**
 * Loads a model and starts its engine.
 *
 * Parameters: `model`, a directory (Hugging Face's or FlagAI's, or one that holds `part_model`, a model cut for several
 * cards) or a GGUF file; `options`, NULL for the defaults;
 * `engine`, where the handle is written, NULL on failure.
 * Returns: AQUILA_OK; AQUILA_ERR_NOT_FOUND, AQUILA_ERR_IO, AQUILA_ERR_FORMAT, AQUILA_ERR_UNSUPPORTED
 * for what is wrong with the checkpoint, with file, tensor, expected and found in the message;
 * AQUILA_ERR_ARGUMENT for an option, or MAX_SEQ_LEN, out of range; AQUILA_ERR_NO_MEMORY or
 * AQUILA_ERR_DEVICE_MEMORY before anything large is taken;
 * AQUILA_ERR_CANCELLED where the progress function abandoned it.
 * Ownership: the engine is the caller's, to be given back with aquila_free.
 * Threads: any, at any time. The progress function runs on the calling thread.
 */
AQUILA_API aquila_status aquila_load(const char *model,
                                     const aquila_load_options *options,
                                     struct aquila_engine **engine,
                                     struct aquila_error *error);

/**
 * Frees an engine: its running requests end with AQUILA_ERR_CLOSED, its threads are joined and its
 * memory is given back before this returns. Results made with it stay valid.
 *
 * Parameters: `engine`; NULL, a freed handle and one from before a fork are fine: nothing happens.
 * Threads: any, at any time, also while other threads use the engine: their calls end with
 * AQUILA_ERR_CLOSED. Inside a callback it closes the engine at once and tears it down when the
 * outermost library call of this thread returns.
 */
AQUILA_API void aquila_free(struct aquila_engine *engine);

/**
 * Fills generation parameters with the defaults: greedy, to the end of the context.
 *
 * Parameters: `params`, the struct; `size`, sizeof(aquila_gen_params) of the caller's header, which
 * becomes its struct_size.
 * Threads: any, at any time.
 */
AQUILA_API void aquila_gen_params_init(struct aquila_gen_params *params, size_t size);

/**
 * Generates a whole text and waits for it.
 *
 * Parameters: `prompt`, NUL-terminated UTF-8; `params`, NULL for the defaults; `result`, where the
 * handle is written, NULL on failure.
 * Returns: AQUILA_OK; AQUILA_ERR_CONTEXT_FULL for a prompt that leaves no room; AQUILA_ERR_OVERLOADED at
 * once where the waiting line is full; AQUILA_ERR_ARGUMENT, naming the field; AQUILA_ERR_CONSTRAINT, naming
 * the place, for a constraint that is not understood or cannot be met; AQUILA_ERR_UNSUPPORTED for a model
 * without tokenizer, or chat template where one is needed; AQUILA_ERR_NO_MEMORY; AQUILA_ERR_CLOSED where the
 * engine was freed, before or meanwhile; AQUILA_ERR_FORKED in a child process; AQUILA_ERR_STATE where the
 * model's output has no finite number, or for good, after AQUILA_ERR_INTERNAL, which ends all requests of the
 * engine.
 * Ownership: the result is the caller's, to be given back with aquila_result_free.
 * Threads: any, at any time, many at once on one engine.
 */
AQUILA_API aquila_status aquila_generate(struct aquila_engine *engine,
                                         const char *prompt,
                                         const aquila_gen_params *params,
                                         struct aquila_result **result,
                                         struct aquila_error *error);

/**
 * Generates a text and hands it on piece by piece: whole characters, and no part of a stop string.
 *
 * Parameters: `prompt` and `params`, as for aquila_generate; `stream`, called for each event on this
 * thread; `user`, handed to it as it is.
 * Returns: as aquila_generate. AQUILA_OK means that the last event was AQUILA_EVENT_FINISH, also where
 * the function stopped it; no event follows one with AQUILA_EVENT_FINISH, and its return value is
 * ignored. Where the function freed the engine, no further event comes and the call returns
 * AQUILA_ERR_CLOSED.
 * Threads: any, at any time, many at once on one engine.
 */
AQUILA_API aquila_status aquila_stream(struct aquila_engine *engine,
                                       const char *prompt,
                                       const aquila_gen_params *params,
                                       aquila_stream_fn stream,
                                       void *user,
                                       struct aquila_error *error);

/**
 * Starts a request and returns as soon as its prompt is tokenised. The engine runs it together with all others.
 *
 * Parameters: `job`, what to do; `request`, where the handle is written, NULL on failure.
 * Returns: AQUILA_OK; AQUILA_ERR_CONTEXT_FULL for a prompt that leaves no room; AQUILA_ERR_OVERLOADED at
 * once where the waiting line is full; AQUILA_ERR_BUSY while another request runs on its session;
 * AQUILA_ERR_ARGUMENT, naming the field; AQUILA_ERR_CONSTRAINT, naming the place, for a constraint that is not
 * understood or cannot be met; AQUILA_ERR_UNSUPPORTED for a model without tokenizer, or chat template where one
 * is needed; AQUILA_ERR_NO_MEMORY; AQUILA_ERR_CLOSED where the engine, the queue or the session was freed;
 * AQUILA_ERR_FORKED in a child process;
 * AQUILA_ERR_STATE after AQUILA_ERR_INTERNAL.
 * Ownership: the request is the caller's, to be given back with aquila_request_free.
 * Threads: any, at any time. It does not wait for a step.
 */
AQUILA_API aquila_status aquila_submit(struct aquila_engine *engine,
                                       const aquila_job *job,
                                       struct aquila_request **request,
                                       struct aquila_error *error);

/**
 * Waits for the next event of a request. Events that nobody read yet are put together: a slow reader has fewer
 * and longer ones, and the same text.
 *
 * Parameters: `event`, filled, with its struct_size set before; `timeout_ms`, 0 to only look, AQUILA_FOREVER
 * without limit.
 * Returns: AQUILA_OK with an event; AQUILA_TIMEOUT without one; AQUILA_DONE after the last one, which is an
 * AQUILA_EVENT_FINISH; AQUILA_ERR_BUSY while another thread reads this request; AQUILA_ERR_ARGUMENT,
 * AQUILA_ERR_CLOSED, AQUILA_ERR_FORKED. A request that failed says so with its last event, also one whose
 * engine was freed.
 * Ownership: what the event points to is the request's, until the next aquila_next or aquila_request_free.
 * Threads: any, one at a time for a request.
 */
AQUILA_API aquila_status aquila_next(struct aquila_request *request,
                                     struct aquila_event *event,
                                     int64_t timeout_ms,
                                     struct aquila_error *error);

/**
 * Waits for the end of a request and gives all that it made, also what aquila_next told before.
 *
 * Parameters: `timeout_ms`, 0 to only look, AQUILA_FOREVER without limit; `result`, where the handle is written,
 * NULL without one.
 * Returns: AQUILA_OK with a result, of a cancelled request and one past its deadline, too: what was made;
 * AQUILA_TIMEOUT without one, nothing is lost; the error of a request that failed; AQUILA_ERR_BUSY while another
 * thread reads this request; AQUILA_ERR_ARGUMENT, AQUILA_ERR_CLOSED, AQUILA_ERR_FORKED. Called again it
 * answers the same.
 * Ownership: the result is the caller's, to be given back with aquila_result_free. It does not need the request.
 * Threads: any, one at a time for a request.
 */
AQUILA_API aquila_status aquila_wait(struct aquila_request *request,
                                     int64_t timeout_ms,
                                     struct aquila_result **result,
                                     struct aquila_error *error);

/**
 * Asks a request to end. Its last event then says AQUILA_FINISH_CANCELLED, unless it ended by itself before.
 *
 * Parameters: `request`; NULL and a freed handle are fine: nothing happens.
 * Threads: any, at any time, also while another thread waits for the request. It does not wait for a step. Not
 * from a signal handler.
 */
AQUILA_API void aquila_cancel(struct aquila_request *request);

/**
 * The `user` of the job that made a request.
 *
 * Returns: NULL also for NULL and for a freed request.
 * Threads: any, at any time.
 */
AQUILA_API void *aquila_request_user(const aquila_request *request);

/**
 * Frees a request. One that still runs is cancelled; this does not wait for it.
 *
 * Parameters: `request`; NULL and a freed handle are fine: nothing happens.
 * Threads: any, at any time: a thread that waits for the request is told its end. What its events pointed to must
 * not be in use.
 */
AQUILA_API void aquila_request_free(struct aquila_request *request);

/**
 * Makes a queue.
 *
 * Parameters: `queue`, where the handle is written, NULL on failure.
 * Returns: AQUILA_OK; AQUILA_ERR_IO where the process has no descriptor left; AQUILA_ERR_ARGUMENT,
 * AQUILA_ERR_NO_MEMORY.
 * Ownership: the queue is the caller's, to be given back with aquila_queue_free.
 * Threads: any, at any time.
 */
AQUILA_API aquila_status aquila_queue_create(struct aquila_queue **queue,
                                             struct aquila_error *error);

/**
 * Waits until requests have events, and gives these requests out. Read each with aquila_next until that says
 * AQUILA_TIMEOUT or AQUILA_DONE (with a `timeout_ms` of 0), or leave the rest: a request is given out again when it
 * has a new event, and when aquila_next left one unread.
 *
 * Parameters: `ready`, room for `capacity` handles, at least one; `count`, where their number is written;
 * `timeout_ms`, 0 to only look, AQUILA_FOREVER without limit.
 * Returns: AQUILA_OK, with a `count` of 0 where aquila_queue_wake ended the wait; AQUILA_TIMEOUT;
 * AQUILA_ERR_CLOSED where the queue was freed, before or meanwhile; AQUILA_ERR_ARGUMENT, AQUILA_ERR_FORKED.
 * Threads: any, many at once: each request is given to one of them.
 */
AQUILA_API aquila_status aquila_queue_wait(struct aquila_queue *queue,
                                           struct aquila_request **ready,
                                           size_t capacity,
                                           size_t *count,
                                           int64_t timeout_ms,
                                           struct aquila_error *error);

/**
 * Makes one wait return, with a count of 0: one that waits now, else the next.
 *
 * Parameters: `queue`; NULL and a freed handle are fine: nothing happens.
 * Threads: any, at any time. It does not wait. Not from a signal handler.
 */
AQUILA_API void aquila_queue_wake(struct aquila_queue *queue);

/**
 * A descriptor that is readable while requests have events, after aquila_queue_wake, and now and then for nothing; for
 * poll, select, epoll and event loops. When it is readable call aquila_queue_wait with a `timeout_ms` of 0. Do not
 * read from it.
 *
 * Returns: the descriptor; -1 for NULL and for a freed queue.
 * Ownership: the queue's, valid until aquila_queue_free.
 * Threads: any, at any time.
 */
AQUILA_API int32_t aquila_queue_fd(const aquila_queue *queue);

/**
 * Frees a queue. Its requests go on; they are not given out any more.
 *
 * Parameters: `queue`; NULL and a freed handle are fine: nothing happens.
 * Threads: any, at any time: waits end with AQUILA_ERR_CLOSED.
 */
AQUILA_API void aquila_queue_free(struct aquila_queue *queue);

/**
 * Makes an empty session.
 *
 * Parameters: `session`, where the handle is written, NULL on failure.
 * Returns: AQUILA_OK; AQUILA_ERR_ARGUMENT, AQUILA_ERR_CLOSED, AQUILA_ERR_FORKED, AQUILA_ERR_NO_MEMORY;
 * AQUILA_ERR_STATE after AQUILA_ERR_INTERNAL.
 * Ownership: the session is the caller's, to be given back with aquila_session_free, also after aquila_free.
 * Threads: any, at any time.
 */
AQUILA_API aquila_status aquila_session_create(struct aquila_engine *engine,
                                               struct aquila_session **session,
                                               struct aquila_error *error);

/**
 * Makes a copy of a session that goes its own way. It costs no computing: both share what is in the KV cache.
 *
 * Parameters: `session`; `copy`, where the handle is written, NULL on failure.
 * Returns: AQUILA_OK; AQUILA_ERR_BUSY while a request runs on the session; and as aquila_session_create.
 * Ownership: as aquila_session_create.
 * Threads: any, at any time.
 */
AQUILA_API aquila_status aquila_session_fork(struct aquila_session *session,
                                             struct aquila_session **copy,
                                             struct aquila_error *error);

/**
 * Cuts a session to its first `length` tokens.
 *
 * Parameters: `length`, at most aquila_session_length; 0 empties it.
 * Returns: AQUILA_OK; AQUILA_ERR_ARGUMENT where it has fewer tokens; AQUILA_ERR_BUSY while a request runs on it;
 * AQUILA_ERR_CLOSED, AQUILA_ERR_FORKED, AQUILA_ERR_STATE.
 * Threads: any, at any time.
 */
AQUILA_API aquila_status aquila_session_rollback(struct aquila_session *session,
                                                 size_t length,
                                                 struct aquila_error *error);

/**
 * How many tokens a session has; while a request runs on it, how many it had before.
 *
 * Returns: the number; 0 also for NULL, for a freed session, and in a forked child.
 * Threads: any, at any time.
 */
AQUILA_API size_t aquila_session_length(const aquila_session *session);

/**
 * The tokens of a session: those of all its inputs and of all that was made, without the ids that ended texts.
 *
 * Parameters: `ids`, room for `capacity` ids; `count`, NULL or where their number is written, also with
 * AQUILA_ERR_TOO_SMALL.
 * Returns: AQUILA_OK; AQUILA_ERR_TOO_SMALL if `capacity` is less than `count`, nothing but that is written then. With
 * `ids` NULL and `capacity` 0 it only counts and returns AQUILA_OK. AQUILA_ERR_BUSY while a request runs on it;
 * AQUILA_ERR_ARGUMENT, AQUILA_ERR_CLOSED, AQUILA_ERR_FORKED, AQUILA_ERR_STATE.
 * Threads: any, at any time.
 */
AQUILA_API aquila_status aquila_session_tokens(struct aquila_session *session,
                                               int32_t *ids,
                                               size_t capacity,
                                               size_t *count,
                                               struct aquila_error *error);

/**
 * Writes a session to a file: its tokens, and what the KV cache still holds of them. A file of that name is replaced when
 * the new one is whole and on the disk: after a crash there is the old one or the new one. It takes about
 * kv_bytes_per_token (of aquila_plan) for each token. Requests that run meanwhile go on.
 *
 * Parameters: `path`, of the file.
 * Returns: AQUILA_OK; AQUILA_ERR_IO or AQUILA_ERR_NOT_FOUND, naming the path; AQUILA_ERR_BUSY while a request runs on
 * it; AQUILA_ERR_ARGUMENT, AQUILA_ERR_NO_MEMORY, AQUILA_ERR_CLOSED, AQUILA_ERR_FORKED, AQUILA_ERR_STATE. On failure an
 * older file is as it was.
 * Threads: any, at any time.
 */
AQUILA_API aquila_status aquila_session_save(struct aquila_session *session,
                                             const char *path,
                                             struct aquila_error *error);

/**
 * Takes a session up from a file that aquila_session_save wrote, in this process or another one. The file is read and
 * checked as a whole before anything is changed. What it brings into the KV cache only this session and its
 * copies find.
 *
 * Parameters: `engine`, with the same model, dtype and kv_dtype as the one that saved it; `path`, of the file; `session`,
 * where the handle is written, NULL on failure.
 * Returns: AQUILA_OK; AQUILA_ERR_NOT_FOUND, AQUILA_ERR_IO; AQUILA_ERR_FORMAT, saying what is wrong, for a file that
 * was cut or altered, or is of another model, arithmetic or KV cache; AQUILA_ERR_CONTEXT_FULL where it has more
 * tokens than max_context; and as aquila_session_create.
 * Ownership: as aquila_session_create.
 * Threads: any, at any time.
 */
AQUILA_API aquila_status aquila_session_restore(struct aquila_engine *engine,
                                                const char *path,
                                                struct aquila_session **session,
                                                struct aquila_error *error);

/**
 * Frees a session. A request that runs on it goes on.
 *
 * Parameters: `session`; NULL and a freed handle are fine: nothing happens.
 * Threads: any, at any time.
 */
AQUILA_API void aquila_session_free(struct aquila_session *session);

/**
 * The text of a result.
 *
 * Parameters: `size`, NULL or where its bytes without the NUL are written.
 * Returns: NUL-terminated UTF-8; NULL for NULL and for a freed result.
 * Ownership: the result's, valid until aquila_result_free.
 * Threads: any, at any time.
 */
AQUILA_API const char *aquila_result_text(const aquila_result *result, size_t *size);

/**
 * The new tokens of a result; the ending end-of-sequence or stop token is not among them.
 *
 * Parameters: `count`, NULL or where their number is written.
 * Returns: an array; NULL for NULL and for a freed result.
 * Ownership: the result's, valid until aquila_result_free.
 * Threads: any, at any time.
 */
AQUILA_API const int32_t *aquila_result_tokens(const aquila_result *result, size_t *count);

/**
 * The log-probability of each new token, by the model alone: before penalties and filters. None where an NPU chose the
 * tokens, or found the logits to choose among, and `n_logprobs` was 0.
 *
 * Parameters: `count`, NULL or where their number is written.
 * Returns: an array; NULL for NULL and for a freed result.
 * Ownership: the result's, valid until aquila_result_free.
 * Threads: any, at any time.
 */
AQUILA_API const float *aquila_result_logprobs(const aquila_result *result,
                                               size_t *count);

/**
 * The most likely tokens at the place of each new token, as many for each as `n_logprobs` of the parameters asked
 * for, the likeliest first.
 *
 * Parameters: `count`, NULL or where the number of all of them is written.
 * Returns: an array; NULL where none were asked for, for NULL and for a freed result.
 * Ownership: the result's, valid until aquila_result_free.
 * Threads: any, at any time.
 */
AQUILA_API const aquila_logprob *aquila_result_top_logprobs(const aquila_result *result,
                                                                   size_t *count);

/**
 * Why the text ended.
 *
 * Returns: AQUILA_FINISH_...; AQUILA_FINISH_NONE for NULL and for a freed result.
 * Threads: any, at any time.
 */
AQUILA_API uint32_t aquila_result_finish(const aquila_result *result);

/**
 * The whole result as a JSON object: "text", "tokens", "logprobs", "top_logprobs" (for each token an array of
 * [id, log-probability]; empty where none were asked for), "finish" and "stats".
 *
 * Parameters: `size`, NULL or where its bytes without the NUL are written.
 * Returns: NUL-terminated UTF-8; NULL for NULL and for a freed result.
 * Ownership: the result's, valid until aquila_result_free.
 * Threads: any, at any time.
 */
AQUILA_API const char *aquila_result_json(const aquila_result *result,
                                          size_t *size);

/**
 * Times and counts of a result.
 *
 * Parameters: `stats`, filled.
 * Returns: AQUILA_OK, AQUILA_ERR_ARGUMENT or AQUILA_ERR_CLOSED.
 * Threads: any, at any time.
 */
AQUILA_API aquila_status aquila_result_stats(const aquila_result *result,
                                             struct aquila_stats *stats);

/**
 * Frees a result, and with it all that its functions gave.
 *
 * Parameters: `result`; NULL and a freed handle are fine: nothing happens.
 * Threads: any, at any time, but what the result gave must not be in use.
 */
AQUILA_API void aquila_result_free(struct aquila_result *result);

/**
 * Turns text into token ids.
 *
 * Parameters: `text` and `size`, UTF-8 and its bytes, or AQUILA_NTS for a NUL-terminated string;
 * `flags`, AQUILA_TOK_ADD_SPECIAL and AQUILA_TOK_PARSE_SPECIAL; `ids`, room for `capacity` ids; `count`,
 * NULL or where the number of ids is written, also with AQUILA_ERR_TOO_SMALL.
 * Returns: AQUILA_OK; AQUILA_ERR_TOO_SMALL if `capacity` is less than `count`, nothing but that is
 * written then. With `ids` NULL and `capacity` 0 it only counts and returns AQUILA_OK.
 * AQUILA_ERR_UNSUPPORTED for a model without tokenizer.
 * Threads: any, at any time.
 */
AQUILA_API aquila_status aquila_tokenize(struct aquila_engine *engine,
                                         const char *text,
                                         size_t size,
                                         uint32_t flags,
                                         int32_t *ids,
                                         size_t capacity,
                                         size_t *count,
                                         struct aquila_error *error);

/**
 * Turns token ids into text. Bytes that form no character become U+FFFD.
 *
 * Parameters: `ids` and `count`, the ids, each below the `vocab` of aquila_engine_info (one that the
 * tokenizer does not know has no text); `flags`, AQUILA_TOK_SHOW_SPECIAL or 0; `text`, room for
 * `capacity` bytes; `size`, NULL or where the bytes of the text without its NUL are written, also with
 * AQUILA_ERR_TOO_SMALL.
 * Returns: AQUILA_OK; AQUILA_ERR_TOO_SMALL if `capacity` is less than `size` + 1 (the NUL), nothing but
 * the size is written then. With `text` NULL and `capacity` 0 it only measures and returns AQUILA_OK.
 * Threads: any, at any time.
 */
AQUILA_API aquila_status aquila_detokenize(struct aquila_engine *engine,
                                           const int32_t *ids,
                                           size_t count,
                                           uint32_t flags,
                                           char *text,
                                           size_t capacity,
                                           size_t *size,
                                           struct aquila_error *error);

/**
 * Renders a chat to a prompt by the model's chat template, as transformers' apply_chat_template does. To
 * generate from messages, prefer AQUILA_GEN_MESSAGES: there, text of the messages never becomes a special
 * token.
 *
 * Parameters: `messages_json`, a chat: a JSON array of messages, or an object with options. A message is an
 * object with a "role" and, as the template wants them, "content" (a string, or an array of parts such as
 * {"type": "text", "text": "..."}), "tool_calls" and others. The object has the keys
 *   "messages"               the array; the only key that must be there
 *   "tools"                  an array of objects: functions that the model may call, as JSON schema
 *   "documents"              an array of objects to answer from
 *   "add_generation_prompt"  whether the assistant's turn is opened, instead of `add_prompt`
 *   "continue_final_message" true: the prompt ends where the last message's text ends, for the model to go
 *                            on with it, and no turn is opened
 *   "chat_template"          the name of one of the model's templates, where it has several; by itself it
 *                            takes "tool_use" where there are tools and such a template, else "default"
 *   "template_args"          an object of further variables for the template, such as enable_thinking
 *   "chat_template_kwargs"   another name for the same
 * Any other key is refused. `tools_json`, a JSON array, or NULL: the tools, where the object has none;
 * `add_prompt`, non-zero to open the assistant's turn; text is returned as by aquila_detokenize.
 * Returns: as aquila_detokenize; AQUILA_ERR_ARGUMENT for JSON that is no such chat, with the path of what is
 * wrong, and for messages that the template refuses, with its words; AQUILA_ERR_FORMAT for a template that
 * fails or asks for too much memory or time; AQUILA_ERR_UNSUPPORTED for a model without chat template, and
 * for tools or documents where a built-in template has none.
 * Threads: any, at any time.
 */
AQUILA_API aquila_status aquila_apply_template(struct aquila_engine *engine,
                                               const char *messages_json,
                                               const char *tools_json,
                                               uint32_t add_prompt,
                                               char *text,
                                               size_t capacity,
                                               size_t *size,
                                               struct aquila_error *error);

/**
 * Says how likely each of some continuations of a prompt is: the sum of the log-probabilities of the tokens that prompt and
 * continuation together have beyond the prompt's own. The prompt is computed once for all of them.
 *
 * Parameters: `prompt`, NUL-terminated UTF-8, not empty; `choices`, `count` such strings, none empty; `logprobs`, room for
 * `count` numbers, filled.
 * Returns: AQUILA_OK; AQUILA_ERR_CONTEXT_FULL, AQUILA_ERR_OVERLOADED, AQUILA_ERR_ARGUMENT, AQUILA_ERR_UNSUPPORTED (a model
 * without tokenizer, a choice that is longer than what the device scores), AQUILA_ERR_NO_MEMORY, AQUILA_ERR_CLOSED,
 * AQUILA_ERR_FORKED, AQUILA_ERR_STATE as aquila_generate. Nothing is filled on failure.
 * Threads: any, at any time, many at once on one engine. It blocks until all are done.
 */
AQUILA_API aquila_status aquila_score(struct aquila_engine *engine,
                                      const char *prompt,
                                      const char *const *choices,
                                      size_t count,
                                      double *logprobs,
                                      struct aquila_error *error);

/**
 * Embeds texts: the mean of a text's hidden states after the final norm, of length 1. The closer two texts, the larger the sum
 * of products of their numbers; 1 for the same.
 *
 * Parameters: `texts`, `count` NUL-terminated UTF-8 strings, none empty; `vectors`, room for `capacity` numbers, where those
 * of one text follow those of the one before; `width`, NULL or where the numbers of one vector are written (`hidden` of
 * aquila_engine_info), also with AQUILA_ERR_TOO_SMALL.
 * Returns: as aquila_score; AQUILA_ERR_TOO_SMALL if `capacity` is less than `count` times `width`, nothing but that is
 * written and nothing computed then. With `vectors` NULL and `capacity` 0 it only says the width and returns AQUILA_OK.
 * Threads: any, at any time, many at once on one engine. It blocks until all are done.
 */
AQUILA_API aquila_status aquila_embed(struct aquila_engine *engine,
                                      const char *const *texts,
                                      size_t count,
                                      float *vectors,
                                      size_t capacity,
                                      size_t *width,
                                      struct aquila_error *error);

#ifdef __cplusplus
}
#endif

#endif /* AQUILA_H */
