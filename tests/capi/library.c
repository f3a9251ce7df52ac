/* Version, build, names, log: all that needs no model. */
#include "check.h"

static int records;

static void count(aquila_log_level level, const char *target, const char *message, void *user) {
    CHECK(level >= AQUILA_LOG_ERROR && level <= AQUILA_LOG_DEBUG);
    CHECK(strncmp(target, "aquila", 6) == 0);
    CHECK(message != NULL && user == &records);
    records++;
}

int main(void) {
    aquila_engine *engine = (aquila_engine *)&records;
    aquila_error error;
    char expected[32];
    int status;

    CHECK(aquila_version() ==
          (uint32_t)(AQUILA_VERSION_MAJOR << 16 | AQUILA_VERSION_MINOR << 8 | AQUILA_VERSION_PATCH));
    sprintf(expected, "%d.%d.%d", AQUILA_VERSION_MAJOR, AQUILA_VERSION_MINOR, AQUILA_VERSION_PATCH);
    CHECK(strncmp(aquila_version_string(), expected, strlen(expected)) == 0);
    CHECK(strstr(aquila_build_info(), aquila_version_string()) != NULL);
    CHECK(aquila_build_info() == aquila_build_info());

    CHECK(strcmp(aquila_status_name(AQUILA_OK), "AQUILA_OK") == 0);
    CHECK(strcmp(aquila_status_name(AQUILA_ERR_FORKED), "AQUILA_ERR_FORKED") == 0);
    for (status = -19; status <= 0; status++)
        CHECK(strncmp(aquila_status_name(status), "AQUILA_", 7) == 0);
    CHECK(strcmp(aquila_status_name(12345), "unknown status") == 0);
    CHECK(sizeof(aquila_error) == 512 && sizeof error.message == AQUILA_MESSAGE_SIZE);

    /* Nothing is logged before it is asked for, nothing after it was taken back. */
    aquila_set_log(AQUILA_LOG_DEBUG, count, &records);
    EXPECT(aquila_load("/no/such/model", NULL, &engine, &error), AQUILA_ERR_NOT_FOUND);
    CHECK(engine == NULL);
    CHECK(strstr(error.message, "/no/such/model") != NULL);
    aquila_set_log(AQUILA_LOG_OFF, NULL, NULL);
    records = 0;
    EXPECT(aquila_load("/no/such/model", NULL, &engine, &error), AQUILA_ERR_NOT_FOUND);
    CHECK(records == 0);
    CHECK(aquila_load("/no/such/model", NULL, &engine, NULL) == AQUILA_ERR_NOT_FOUND);
    return failures != 0;
}
