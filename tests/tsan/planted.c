/* A race that run.sh must see, in the library's Rust code: a host lets two calls fill the same struct at once. They take no
   handle, so nothing orders them, however they come to lie. */
#include "check.h"

#include <pthread.h>

static aquila_gen_params params;

static void *fill(void *unused) {
    aquila_gen_params_init(&params, sizeof params);
    return unused;
}

int main(void) {
    pthread_t threads[2];
    int i;
    for (i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, fill, NULL) == 0);
    for (i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    return failures != 0;
}
