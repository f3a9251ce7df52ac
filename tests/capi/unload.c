/* A host that opens the library at run time and closes it again, 50 times; in the end with an engine alive. */
#include "check.h"

#include <dlfcn.h>

static void *symbol(void *library, const char *name) {
    void *address = dlsym(library, name);
    CHECK(address != NULL);
    return address;
}

int main(int argc, char **argv) {
    int round;
    if (argc != 2) return 2;
    for (round = 0; round < 50 && !failures; round++) {
        void *library = dlopen("libaquila.so.1", RTLD_NOW | RTLD_LOCAL);
        aquila_status (*load_engine)(const char *, const aquila_load_options *, aquila_engine **, aquila_error *);
        aquila_status (*generate)(aquila_engine *, const char *, const aquila_gen_params *, aquila_result **, aquila_error *);
        void (*free_engine)(aquila_engine *);
        void (*free_result)(aquila_result *);
        aquila_engine *engine;
        aquila_result *result;
        CHECK(library != NULL);
        if (library == NULL) break;
        *(void **)&load_engine = symbol(library, "aquila_load");
        *(void **)&generate = symbol(library, "aquila_generate");
        *(void **)&free_engine = symbol(library, "aquila_free");
        *(void **)&free_result = symbol(library, "aquila_result_free");
        CHECK(load_engine(argv[1], NULL, &engine, NULL) == AQUILA_OK);
        CHECK(generate(engine, "hello", NULL, &result, NULL) == AQUILA_OK);
        free_result(result);
        if (round < 49) free_engine(engine);
        CHECK(dlclose(library) == 0);
    }
    usleep(20000); /* the engine's threads still run the library's code */
    return failures != 0;
}
