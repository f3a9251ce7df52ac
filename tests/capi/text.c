/* Tokenizer and chat template, by the two-call protocol. */
#include "check.h"

static const char *messages = "[{\"role\":\"user\",\"content\":\"hello\"}]";

static void round_trip(aquila_engine *engine, const char *text) {
    aquila_error error;
    int32_t ids[64];
    char back[256];
    size_t n = 99, again, size;

    EXPECT(aquila_tokenize(engine, text, AQUILA_NTS, 0, NULL, 0, &n, &error), AQUILA_OK);
    CHECK(n <= 64);
    if (n > 0) {
        memset(ids, 0x55, sizeof ids);
        EXPECT(aquila_tokenize(engine, text, strlen(text), 0, ids, n - 1, &again, &error), AQUILA_ERR_TOO_SMALL);
        CHECK(again == n && ids[0] == 0x55555555);
    }
    EXPECT(aquila_tokenize(engine, text, strlen(text), 0, ids, 64, &again, &error), AQUILA_OK);
    CHECK(again == n);
    EXPECT(aquila_detokenize(engine, ids, n, 0, NULL, 0, &size, &error), AQUILA_OK);
    CHECK(size == strlen(text));
    back[0] = '?';
    EXPECT(aquila_detokenize(engine, ids, n, 0, back, size, &size, &error), AQUILA_ERR_TOO_SMALL);
    CHECK(back[0] == '?');
    EXPECT(aquila_detokenize(engine, ids, n, 0, back, size + 1, NULL, &error), AQUILA_OK);
    CHECK(strcmp(back, text) == 0);
}

static void refusals(aquila_engine *engine) {
    aquila_error error;
    aquila_engine_info info;
    int32_t ids[4] = {1, -5, 1 << 28, 0};
    char room[16];
    size_t size;

    EXPECT(aquila_tokenize(engine, NULL, AQUILA_NTS, 0, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_tokenize(engine, NULL, 3, 0, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_tokenize(engine, "\xE6\xA8", 2, 0, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_tokenize(engine, "x", 1, 64, NULL, 0, &size, &error), AQUILA_ERR_UNSUPPORTED);
    EXPECT(aquila_tokenize(engine, "x", 1, 0, NULL, 4, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_tokenize(engine, "x", 1, 0, ODD(int32_t, ids), 1, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_tokenize(NULL, "x", 1, 0, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_detokenize(engine, ids, 2, 0, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
    CHECK(strstr(error.message, "ids[1]: id -5") != NULL);
    EXPECT(aquila_detokenize(engine, ids + 2, 1, 0, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
    info.struct_size = sizeof info;
    CHECK(aquila_get_info(engine, &info) == AQUILA_OK);
    ids[0] = (int32_t)info.vocab - 1; /* the model may choose it, and the tokenizer does not know it */
    EXPECT(aquila_detokenize(engine, ids, 1, 0, room, sizeof room, &size, &error), AQUILA_OK);
    CHECK(size == 0 && room[0] == '\0');
    ids[0]++;
    EXPECT(aquila_detokenize(engine, ids, 1, 0, room, sizeof room, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_detokenize(engine, NULL, 2, 0, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_detokenize(engine, NULL, 0, 0, room, sizeof room, &size, &error), AQUILA_OK);
    CHECK(size == 0 && room[0] == '\0');
    EXPECT(aquila_apply_template(engine, NULL, NULL, 1, NULL, 0, &size, &error), AQUILA_ERR_ARGUMENT);
}

/* A chat gives a prompt, and generation from messages takes the same JSON. */
static void chat(aquila_engine *engine) {
    aquila_gen_params params = short_params(3);
    aquila_result *result;
    aquila_error error;
    char prompt[1024];
    size_t size;

    EXPECT(aquila_apply_template(engine, messages, NULL, 1, NULL, 0, &size, &error), AQUILA_OK);
    EXPECT(aquila_apply_template(engine, messages, NULL, 1, prompt, sizeof prompt, &size, &error), AQUILA_OK);
    CHECK(strstr(prompt, "hello") != NULL && strlen(prompt) == size);
    EXPECT(aquila_apply_template(engine, "{", NULL, 1, prompt, sizeof prompt, &size, &error), AQUILA_ERR_ARGUMENT);
    params.flags |= AQUILA_GEN_MESSAGES;
    EXPECT(aquila_generate(engine, messages, &params, &result, &error), AQUILA_OK);
    aquila_result_free(result);
}


/* What each line of the comment of aquila_apply_template promises. */
static void template_contract(aquila_engine *engine) {
    aquila_error error;
    char prompt[512];
    size_t size = 7, again = 7;
    const char *opened = "<|startofpiece|>hello<|endofpiece|>", *closed = "<|startofpiece|>hello";

    /* Two calls: the size, then the text; a NUL needs its place, and nothing is written without it. */
    EXPECT(aquila_apply_template(engine, messages, NULL, 0, NULL, 0, &size, &error), AQUILA_OK);
    CHECK(size == strlen(closed));
    memset(prompt, '?', sizeof prompt);
    EXPECT(aquila_apply_template(engine, messages, NULL, 0, prompt, size, &again, &error), AQUILA_ERR_TOO_SMALL);
    CHECK(again == size && prompt[0] == '?');
    EXPECT(aquila_apply_template(engine, messages, NULL, 0, prompt, size + 1, NULL, &error), AQUILA_OK);
    CHECK(strcmp(prompt, closed) == 0 && prompt[size + 1] == '?');
    /* add_prompt is any non-zero; an object decides itself. */
    EXPECT(aquila_apply_template(engine, messages, NULL, 42, prompt, sizeof prompt, NULL, &error), AQUILA_OK);
    CHECK(strcmp(prompt, opened) == 0);
    EXPECT(aquila_apply_template(engine,
                                 "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],"
                                 "\"add_generation_prompt\":false}",
                                 NULL, 1, prompt, sizeof prompt, NULL, &error),
           AQUILA_OK);
    CHECK(strcmp(prompt, closed) == 0);
    EXPECT(aquila_apply_template(engine,
                                 "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"},"
                                 "{\"role\":\"assistant\",\"content\":\"I \"}],\"continue_final_message\":true}",
                                 NULL, 1, prompt, sizeof prompt, NULL, &error),
           AQUILA_OK);
    CHECK(strcmp(prompt, "<|startofpiece|>hello<|endofpiece|>I ") == 0);
    /* NULLs, and pointers that fit no other argument. The error itself may be NULL. */
    CHECK(aquila_apply_template(NULL, messages, NULL, 1, prompt, sizeof prompt, &size, NULL) == AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_apply_template(engine, NULL, NULL, 1, prompt, sizeof prompt, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_apply_template(engine, messages, NULL, 1, NULL, 9, &size, &error), AQUILA_ERR_ARGUMENT);
    EXPECT(aquila_apply_template(engine, messages, NULL, 1, NULL, 0, ODD(size_t, prompt), &error), AQUILA_ERR_ARGUMENT);
    /* A built-in template knows neither tools nor documents. */
    EXPECT(aquila_apply_template(engine, messages, "[]", 1, NULL, 0, &size, &error), AQUILA_ERR_UNSUPPORTED);
    EXPECT(aquila_apply_template(engine, "{\"messages\":[],\"documents\":[]}", NULL, 1, NULL, 0, &size, &error),
           AQUILA_ERR_UNSUPPORTED);
}

/* What is no chat is refused, with the path of what is wrong. */
static void bad_chats(aquila_engine *engine) {
    static const struct {
        const char *chat, *tools, *part;
    } bad[] = {
        {"", NULL, "messages: "},
        {"[", NULL, "messages: "},
        {"7", NULL, "expected an array of messages, found a number"},
        {"[{\"role\":\"user\",\"content\":\"\xE4\xB8\"}]", NULL, "UTF-8"},
        {"[{\"role\":\"user\",\"content\":\"\\ud83e\"}]", NULL, "messages: "},
        {"[{}]", NULL, "messages[0]: expected an object with a role"},
        {"[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":7}]", NULL,
         "messages[1].content: expected a string or an array of parts, found a number"},
        {"{\"messages\":[],\"tool\":[]}", NULL, "nearest known one is \"tools\""},
        {"{\"messages\":[],\"template_args\":7}", NULL, "template_args: expected an object, found a number"},
        {"[]", "{}", "tools: expected an array of objects, found an object"},
        {"[]", "[", "tools: "},
        {"[]", "\xFF", "UTF-8"},
        {"{\"messages\":[],\"tools\":[]}", "[]", "tools: given twice"},
    };
    aquila_error error;
    size_t size, i;

    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        EXPECT(aquila_apply_template(engine, bad[i].chat, bad[i].tools, 1, NULL, 0, &size, &error),
               AQUILA_ERR_ARGUMENT);
        if (strstr(error.message, bad[i].part) == NULL) {
            fprintf(stderr, "%s: %s\n", bad[i].chat, error.message);
            failures++;
        }
    }
}

/* A template with tools, and one that refuses and fails. */
static const char *jinja = "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}"
                           "{% for m in messages %}{% if m.role == 'system' %}"
                           "{{ raise_exception('no system here') }}{% endif %}{{ m.content }};"
                           "{% for c in m.tool_calls or [] %}{{ c.function.name }}"
                           "({{ c.function.arguments | tojson }});{% endfor %}{% endfor %}"
                           "{% if boom %}{{ nothing() }}{% endif %}{{ mood }}{% if add_generation_prompt %}>{% endif %}";

static void tools(const char *model, aquila_load_options *options) {
    static const char *chat =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"Paris?\"},{\"role\":\"assistant\",\"content\":\"\","
        "\"tool_calls\":[{\"function\":{\"name\":\"weather\",\"arguments\":{\"city\":\"Paris\"}}}]},"
        "{\"role\":\"tool\",\"content\":\"sun\"}],\"tools\":[{\"function\":{\"name\":\"weather\"}}],"
        "\"template_args\":{\"mood\":\"calm\"}}";
    aquila_gen_params params = short_params(2);
    aquila_engine *engine;
    aquila_result *result;
    aquila_request *request;
    aquila_error error;
    aquila_job job;
    char prompt[256];

    options->chat_template = jinja;
    EXPECT(aquila_load(model, options, &engine, &error), AQUILA_OK);
    EXPECT(aquila_apply_template(engine, chat, NULL, 1, prompt, sizeof prompt, NULL, &error), AQUILA_OK);
    CHECK(strcmp(prompt, "[weather]Paris?;;weather({\"city\": \"Paris\"});sun;calm>") == 0);
    EXPECT(aquila_apply_template(engine, messages, "[{\"function\":{\"name\":\"f\"}}]", 0, prompt, sizeof prompt, NULL,
                                 &error),
           AQUILA_OK);
    CHECK(strcmp(prompt, "[f]hello;") == 0);
    EXPECT(aquila_apply_template(engine, "[{\"role\":\"system\",\"content\":\"x\"}]", NULL, 1, NULL, 0, NULL, &error),
           AQUILA_ERR_ARGUMENT);
    CHECK(strstr(error.message, "no system here") != NULL);
    EXPECT(aquila_apply_template(engine, "{\"messages\":[],\"template_args\":{\"boom\":true}}", NULL, 1, NULL, 0, NULL,
                                 &error),
           AQUILA_ERR_FORMAT);
    CHECK(strstr(error.message, "chat template line 1") != NULL);

    /* Generation takes the same object, by either door. */
    params.flags |= AQUILA_GEN_MESSAGES | AQUILA_GEN_ECHO;
    EXPECT(aquila_generate(engine, chat, &params, &result, &error), AQUILA_OK);
    CHECK(strncmp(aquila_result_text(result, NULL), "[weather]Paris?;", 16) == 0);
    aquila_result_free(result);
    params.flags &= ~(uint32_t)AQUILA_GEN_MESSAGES;
    memset(&job, 0, sizeof job);
    job.struct_size = sizeof job;
    job.input_kind = AQUILA_INPUT_MESSAGES;
    job.input = chat;
    job.input_size = AQUILA_NTS;
    job.params = &params;
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_OK);
    aquila_request_free(request);
    job.input = "{\"messages\":[],\"docs\":[]}";
    EXPECT(aquila_submit(engine, &job, &request, &error), AQUILA_ERR_ARGUMENT);
    CHECK(strstr(error.message, "\"documents\"") != NULL);
    aquila_free(engine);

    options->chat_template = "chatml";
    EXPECT(aquila_load(model, options, &engine, &error), AQUILA_ERR_ARGUMENT);
    CHECK(strstr(error.message, "aquila-legacy") != NULL);
}

/* A model whose files name no template, and which is none of the family that has one built in. */
static void without_template(const char *model) {
    aquila_engine *engine;
    aquila_error error;

    EXPECT(aquila_load(model, NULL, &engine, &error), AQUILA_OK);
    EXPECT(aquila_apply_template(engine, messages, NULL, 1, NULL, 0, NULL, &error), AQUILA_ERR_UNSUPPORTED);
    aquila_free(engine);
}

int main(int argc, char **argv) {
    aquila_load_options options;
    aquila_engine *engine;
    aquila_error error;

    if (argc != 3) return 2;
    aquila_load_options_init(&options, sizeof options);
    options.chat_template = "aquila-v1";
    EXPECT(aquila_load(argv[1], &options, &engine, &error), AQUILA_OK);
    round_trip(engine, "hello world");
    round_trip(engine, "\xE4\xBD\xA0\xE5\xA5\xBD, \xE4\xB8\x96\xE7\x95\x8C! \xF0\x9F\xA6\x85");
    round_trip(engine, "");
    refusals(engine);
    chat(engine);
    template_contract(engine);
    bad_chats(engine);
    aquila_free(engine);
    tools(argv[1], &options);
    without_template(argv[2]);
    return failures != 0;
}
