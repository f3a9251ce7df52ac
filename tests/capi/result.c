/* Results: what they give, after their engine is gone, and after they are. */
#include "check.h"

int main(int argc, char **argv) {
    aquila_gen_params params = short_params(5);
    aquila_engine *engine;
    aquila_result *result;
    aquila_stats stats;
    aquila_error error;
    struct {
        aquila_stats known;
        uint64_t tail;
    } future;
    size_t size, n, n_logprobs;

    if (argc != 2) return 2;
    engine = load(argv[1]);
    EXPECT(aquila_generate(engine, "hello world", &params, &result, &error), AQUILA_OK);
    EXPECT(aquila_tokenize((aquila_engine *)result, "x", 1, 0, NULL, 0, &n, &error), AQUILA_ERR_ARGUMENT);
    CHECK(strstr(error.message, "another kind") != NULL);
    aquila_free(engine);

    CHECK(strlen(aquila_result_text(result, &size)) == size);
    CHECK(aquila_result_text(result, NULL) == aquila_result_text(result, &size));
    CHECK(aquila_result_tokens(result, &n) != NULL && n == 5);
    CHECK(aquila_result_logprobs(result, &n_logprobs)[4] <= 0 && n_logprobs == 5);
    CHECK(aquila_result_finish(result) == AQUILA_FINISH_LENGTH);
    CHECK(strstr(aquila_result_json(result, &size), "\"finish\":\"length\"") != NULL);
    CHECK(strlen(aquila_result_json(result, NULL)) == size);

    stats.struct_size = sizeof stats;
    CHECK(aquila_result_stats(result, &stats) == AQUILA_OK);
    CHECK(stats.prompt_tokens > 0 && stats.output_tokens == 5 && stats.total_ms >= stats.first_token_ms);
    CHECK(stats.proposed_tokens == 0 && stats.accepted_tokens == 0);
    memset(&future, 0xAA, sizeof future);
    future.known.struct_size = sizeof future;
    CHECK(aquila_result_stats(result, &future.known) == AQUILA_OK);
    CHECK(future.known.struct_size == sizeof future && future.tail == 0);
    CHECK(aquila_result_stats(result, NULL) == AQUILA_ERR_ARGUMENT);

    aquila_result_free(result);
    aquila_result_free(result);
    aquila_result_free(NULL);
    aquila_result_free((aquila_result *)&stats);
    size = n = 1;
    CHECK(aquila_result_text(result, &size) == NULL && size == 0);
    CHECK(aquila_result_tokens(result, &n) == NULL && n == 0);
    CHECK(aquila_result_logprobs(NULL, NULL) == NULL && aquila_result_json(result, NULL) == NULL);
    CHECK(aquila_result_finish(result) == AQUILA_FINISH_NONE);
    CHECK(aquila_result_stats(result, &stats) == AQUILA_ERR_CLOSED);
    CHECK(aquila_result_stats(NULL, &stats) == AQUILA_ERR_ARGUMENT);
    return failures != 0;
}
