/* badfile STATUS WORD PATH ...: each PATH must be refused with STATUS (a name) and a message with WORD. */
#include "check.h"

int main(int argc, char **argv) {
    int i;
    for (i = 1; i + 2 < argc; i += 3) {
        aquila_engine *engine = (aquila_engine *)&engine;
        aquila_error error;
        aquila_status status = aquila_load(argv[i + 2], NULL, &engine, &error);
        printf("%s %s\n", aquila_status_name(status), error.message);
        if (strcmp(aquila_status_name(status), argv[i]) != 0 || strstr(error.message, argv[i + 1]) == NULL) {
            fprintf(stderr, "%s: expected %s and \"%s\", found %s: %s\n", argv[i + 2], argv[i], argv[i + 1],
                    aquila_status_name(status), error.message);
            failures++;
        }
        CHECK(engine == NULL || status == AQUILA_OK);
        aquila_free(engine);
    }
    return failures != 0;
}
