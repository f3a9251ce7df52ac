/* version.c: which library is this?
 *
 *   cc version.c $(pkg-config --cflags --libs aquila) -o version && ./version
 */
#include <aquila.h>
#include <stdio.h>

int main(void) {
    uint32_t header = AQUILA_VERSION_MAJOR << 16 | AQUILA_VERSION_MINOR << 8 | AQUILA_VERSION_PATCH;

    printf("libaquila %s\n", aquila_version_string());
    printf("%s\n", aquila_build_info());
    if (aquila_version() < header) {
        fprintf(stderr, "this program was compiled with a newer aquila.h\n");
        return 1;
    }
    return 0;
}
