// What the threads of the CPU ops promise, without Python: exit code 0 where it holds. Built with ThreadSanitizer where
// the compiler has it.
#include "dcam/cpu/threads.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

void require(bool truth, const char* what) {
    if (!truth) {
        std::fprintf(stderr, "wrong: %s\n", what);
        std::_Exit(1);
    }
}

constexpr double kWorth = 50'000;  // nanoseconds an item, as it says: enough for several threads

// Every item is run once.
void run_all(int64_t count) {
    std::vector<int> runs(count);
    dcam::divide(count, kWorth, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++runs[i];
    });
    for (int64_t i = 0; i < count; ++i) require(runs[i] == 1, "each item runs once");
}

void check_many_callers() {
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i)
        callers.emplace_back([] {
            for (int64_t count = 0; count < 300; ++count) run_all(count);
        });
    for (std::thread& caller : callers) caller.join();
}

void check_limit() {
    std::atomic<int> inside{0};
    std::atomic<bool> over{false};
    for (int round = 0; round < 100; ++round)
        dcam::divide(64, kWorth, [&](int64_t, int64_t) {
            if (inside.fetch_add(1) >= dcam::num_threads()) over = true;
            std::this_thread::yield();
            inside.fetch_sub(1);
        });
    require(!over, "one caller and its helpers are at most num_threads");
}

void check_exceptions() {
    for (int round = 0; round < 100; ++round) {
        bool caught = false;
        try {
            dcam::divide(64, kWorth, [&](int64_t begin, int64_t) {
                if (begin >= round % 64) throw std::runtime_error("body");
            });
        } catch (const std::runtime_error&) {
            caught = true;
        }
        require(caught, "an exception reaches the caller");
        run_all(64);
    }
}

void check_fork() {
    const pid_t child = fork();
    if (child == 0) {
        run_all(500);
        std::_Exit(0);
    }
    int status = 1;
    waitpid(child, &status, 0);
    require(status == 0, "a forked child divides work too");
}

}  // namespace

int main(int argc, char** argv) {
    dcam::set_num_threads(4);
    run_all(500);
    check_many_callers();
    check_limit();
    check_exceptions();
    dcam::set_num_threads(2);
    check_many_callers();
    dcam::set_num_threads(1);
    run_all(500);
    dcam::set_num_threads(4);
    if (argc > 1 && argv[1][0] == 'f') check_fork();
    return 0;
}
