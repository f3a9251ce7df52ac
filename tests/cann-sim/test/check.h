// A few lines of a test harness. Each test runs in a process of its own, so that it has a machine of its own.
#pragma once
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

struct Test {
    const char *name;
    void (*run)();
};

inline std::vector<Test> &tests() {
    static std::vector<Test> all;
    return all;
}

inline int &failures() {
    static int count = 0;
    return count;
}

struct Register {
    Register(const char *name, void (*run)()) { tests().push_back({name, run}); }
};

#define TEST(name)                                      \
    static void name();                                 \
    static const Register register_##name(#name, name); \
    static void name()

template <class A, class B>
void expectEqual(const A &found, const B &expected, const char *text, const char *file, int line) {
    if (found == A(expected)) return;
    failures()++;
    std::printf("%s:%d: %s: found %g, expected %g\n", file, line, text, double(found), double(expected));
}

#define EQ(found, expected) expectEqual((found), (expected), #found, __FILE__, __LINE__)
#define CHECK(condition) expectEqual(bool(condition), true, #condition, __FILE__, __LINE__)

// The status of a child that runs `run`: its signal as a negative number, or its exit code.
template <class Run>
int inChild(Run run) {
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        run();
        std::fflush(stdout);
        _exit(failures() ? 1 : 0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

// Work of a stream that waits until it is let through: what is put behind it has not run yet.
class Gate {
  public:
    static void wait(void *gate) {
        while (!static_cast<Gate *>(gate)->open_) usleep(500);
    }
    void open() { open_ = true; }

  private:
    std::atomic<bool> open_{false};
};

int main(int count, char **names) {
    int failed = 0, run = 0;
    for (const Test &test : tests()) {
        if (count > 1 && std::strcmp(names[1], test.name) != 0) continue;
        run++;
        const int status = inChild(test.run);
        if (status != 0) std::printf("FAILED %s (%d)\n", test.name, status), failed++;
    }
    std::printf("%d of %d passed\n", run - failed, run);
    return failed || !run ? 1 : 0;
}
