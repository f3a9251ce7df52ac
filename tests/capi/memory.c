/* 50 loads, generations and frees leave the process as large as it was. */
#include "check.h"

#include <unistd.h>

static long resident_kib(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL) return 0;
    if (fscanf(file, "%*s %ld", &pages) != 1) pages = 0;
    fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Lines of a file of /proc. */
static int entries(const char *path) {
    int c, lines = 0;
    FILE *file = fopen(path, "r");
    if (file == NULL) return -1;
    while ((c = getc(file)) != EOF) lines += c == '\n';
    fclose(file);
    return lines;
}

int main(int argc, char **argv) {
    long settled = 0, now;
    int cycle, mappings = 0;

    if (argc != 2) return 2;
    for (cycle = 0; cycle < 50; cycle++) {
        aquila_engine *engine = load(argv[1]);
        aquila_gen_params params = short_params(8);
        aquila_result *result;
        aquila_error error;
        EXPECT(aquila_generate(engine, "hello", &params, &result, &error), AQUILA_OK);
        CHECK(aquila_result_json(result, NULL) != NULL);
        aquila_result_free(result);
        aquila_free(engine);
        if (cycle == 9) settled = resident_kib(), mappings = entries("/proc/self/maps");
    }
    now = resident_kib();
    mappings = entries("/proc/self/maps") - mappings;
    printf("%ld KiB after 10 cycles, %ld KiB and %d mappings more after 50\n", settled, now - settled, mappings);
#ifndef __SANITIZE_ADDRESS__ /* which keeps freed memory */
    CHECK(now - settled < 1024 && mappings <= 4);
#endif
    return failures != 0;
}
