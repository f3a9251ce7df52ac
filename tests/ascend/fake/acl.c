/* A few functions of libascendcl.so, for tests of the opening and of who gives back what: no device, no rules. The other
 * functions are generated beside these and answer 0. What it is, the compiler is told: FAKE_INIT, FAKE_SOC, FAKE_DEVICES. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void trace(const char *what)
{
    const char *file = getenv("FAKE_TRACE");
    FILE *out = file ? fopen(file, "a") : NULL;
    if (!out) return;
    fprintf(out, "%s\n", what);
    fclose(out);
}

__attribute__((constructor)) static void loaded(void) { trace("loaded"); }

static int words; /* whether the last call failed */

int aclInit(const char *config)
{
    (void)config;
    trace("init");
    return FAKE_INIT;
}

const char *aclrtGetSocName(void) { return FAKE_SOC; }

const char *aclGetRecentErrMsg(void)
{
    const char *said = words ? "EE9999: the fake driver refuses" : NULL;
    words = 0;
    return said;
}

int aclrtGetDeviceCount(unsigned *count)
{
    *count = FAKE_DEVICES;
    return 0;
}

int aclrtSetDevice(int id) { return id < FAKE_DEVICES ? 0 : 107001; }

int aclrtResetDevice(int id)
{
    (void)id;
    trace("reset device");
    return 0;
}

int aclrtCreateContext(void **context, int id)
{
    (void)id;
    *context = malloc(1);
    return 0;
}

int aclrtDestroyContext(void *context)
{
    trace("destroy context");
    free(context);
    return 0;
}

int aclrtCreateStreamWithConfig(void **stream, unsigned priority, unsigned flags)
{
    (void)priority;
    (void)flags;
    *stream = malloc(1);
    return 0;
}

int aclrtDestroyStream(void *stream)
{
    trace("destroy stream");
    free(stream);
    return 0;
}

int aclrtMalloc(void **pointer, size_t bytes, int policy)
{
    (void)policy;
    words = bytes > 1 << 20;
    *pointer = words ? NULL : malloc(bytes);
    return words ? 207001 : 0;
}

int aclrtFree(void *pointer)
{
    trace("free");
    free(pointer);
    return 0;
}

int aclrtMallocHost(void **pointer, size_t bytes)
{
    *pointer = malloc(bytes);
    return 0;
}

int aclrtFreeHost(void *pointer)
{
    free(pointer);
    return 0;
}

int aclrtMemcpy(void *to, size_t room, const void *from, size_t bytes, int kind)
{
    (void)kind;
    if (bytes > room) return 107000;
    memcpy(to, from, bytes);
    return 0;
}

/* As a 310P: there is no HBM. */
int aclrtGetMemInfo(int kind, size_t *free_bytes, size_t *total)
{
    *free_bytes = kind == 0 ? (size_t)20 << 30 : 0;
    *total = kind == 0 ? (size_t)24 << 30 : 0;
    return 0;
}
