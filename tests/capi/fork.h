/* fork() for tests whose process has threads. */
#ifndef FORK_H
#define FORK_H

#include "check.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

/* Whether all threads of this process but the calling one sleep. */
static int all_sleep(void) {
    char path[300], name[64], state;
    struct dirent *entry;
    int awake = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    while (tasks != NULL && (entry = readdir(tasks)) != NULL) {
        FILE *file;
        if (entry->d_name[0] == '.') continue;
        sprintf(path, "/proc/self/task/%s/stat", entry->d_name);
        if ((file = fopen(path, "r")) == NULL) continue;
        if (fscanf(file, "%*d (%63[^)]) %c", name, &state) == 2) awake += state != 'S';
        fclose(file);
    }
    if (tasks != NULL) closedir(tasks);
    return awake == 1;
}

/* fork(). The allocator of older AddressSanitizers takes no care of it: where a thread that is just being born holds
   its lock, the child waits for that lock for ever. */
static pid_t fork_with_idle_threads(void) {
    while (!all_sleep()) usleep(1000);
    fflush(NULL);
    return fork();
}

#endif
