// The threads that CPU work is divided among. Not OpenMP: its barriers wait whole time slices for a thread that the
// system has descheduled. Here the calling thread takes part, takes parts that no other thread has begun, and so waits
// for at most the one small part that each other thread is in.
#pragma once

#include <algorithm>
#include <cstdint>

namespace dcam {

// How many threads one call may use, the calling one included; 1 until it is set.
int num_threads();
void set_num_threads(int count);

// The parts of 0..count that threads claim one after another, and how many threads besides the caller may help.
struct Division {
    int64_t count;
    int64_t part;  // items of a part; the last one may have fewer
    int64_t helpers;
};

// Runs `body(context, begin, end)` for every part, each once, on the calling thread and its helpers. Returns when all
// are finished; rethrows the first exception. Any number of threads may call it at once.
void run_parts(const Division& division, void (*body)(const void* context, int64_t begin, int64_t end),
               const void* context);

// `body(begin, end)` over 0..count; `cost` is of one item, in nanoseconds, roughly.
template <class Body>
void divide(int64_t count, double cost, const Body& body) {
    constexpr double kHelper = 100'000;  // work that pays for waking a thread, which takes up to 50 microseconds
    constexpr double kPart = 20'000;     // the longest that the caller waits for a helper that runs, roughly
    const auto helpers = static_cast<int64_t>(static_cast<double>(count) * cost / kHelper) - 1;
    if (helpers < 1 || count < 2) {
        if (count > 0) body(int64_t{0}, count);
        return;
    }
    const auto part = std::max<int64_t>(1, static_cast<int64_t>(kPart / cost));
    run_parts(
        {count, part, helpers},
        [](const void* context, int64_t begin, int64_t end) { (*static_cast<const Body*>(context))(begin, end); },
        &body);
}

}  // namespace dcam
