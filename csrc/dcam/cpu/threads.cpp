#include "dcam/cpu/threads.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace dcam {

namespace {

void pause() {
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

// One call's work. A helper that comes late finds no part left and has touched nothing but the job itself, which it
// owns a share of.
class Job {
  public:
    Job(const Division& division, void (*body)(const void*, int64_t, int64_t), const void* context)
        : division_(division),
          parts_((division.count + division.part - 1) / division.part),
          unfinished_(parts_),
          body_(body),
          context_(context) {}

    int64_t parts() const { return parts_; }

    // Takes parts until none is left.
    void work() {
        for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < parts_;) {
            if (!failed_.load(std::memory_order_relaxed)) run(i * division_.part);
            if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
                const std::lock_guard lock(mutex_);
                finished_.notify_one();
            }
        }
    }

    // Until the parts that others took are finished.
    void wait() {
        const auto finished = [this] { return unfinished_.load(std::memory_order_acquire) == 0; };
        constexpr int kLooks = 200;  // some microseconds: less than falling asleep and being woken
        for (int i = 0; i < kLooks && !finished(); ++i) pause();
        if (!finished()) {
            std::unique_lock lock(mutex_);
            finished_.wait(lock, finished);
        }
        if (error_) std::rethrow_exception(error_);
    }

  private:
    void run(int64_t begin) {
        try {
            body_(context_, begin, std::min(begin + division_.part, division_.count));
        } catch (...) {
            const std::lock_guard lock(mutex_);
            if (!error_) error_ = std::current_exception();
            failed_.store(true, std::memory_order_relaxed);
        }
    }

    const Division division_;
    const int64_t parts_;
    std::atomic<int64_t> next_{0}, unfinished_;
    std::atomic<bool> failed_{false};
    void (*const body_)(const void*, int64_t, int64_t);
    const void* const context_;
    std::mutex mutex_;
    std::condition_variable finished_;
    std::exception_ptr error_;
};

// The helpers of the process, asleep until a job wants them.
class Pool {
  public:
    // Offers the job to `helpers` threads, fewer where callers and helpers would be more than `limit`.
    void offer(const std::shared_ptr<Job>& job, int64_t helpers, int64_t limit) {
        const std::lock_guard lock(mutex_);
        ++callers_;
        const int64_t free = limit - callers_ - busy_ - static_cast<int64_t>(offers_.size());
        for (int64_t i = 0; i < std::min(helpers, free); ++i) {
            if (sleeping_ <= static_cast<int64_t>(offers_.size()) && !start()) break;
            offers_.push_back(job);
            open_.store(offers_.size(), std::memory_order_release);
            wanted_.notify_one();
        }
    }

    // The caller has finished its work: helpers that have not begun are not needed.
    void withdraw(const std::shared_ptr<Job>& job) {
        const std::lock_guard lock(mutex_);
        --callers_;
        offers_.erase(std::remove(offers_.begin(), offers_.end(), job), offers_.end());
        open_.store(offers_.size(), std::memory_order_release);
    }

  private:
    // Starts another helper, which counts as asleep. False: the system provides no more threads.
    bool start() {
        try {
            offers_.reserve(offers_.size() + sleeping_ + 1);  // an offer to one that sleeps must not fail
            std::thread([this] { help(); }).detach();
        } catch (const std::exception&) {
            return false;
        }
        ++sleeping_;
        return true;
    }

    void help() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, nullptr);  // they are for the program's own threads
        std::unique_lock lock(mutex_);
        for (;;) {
            wanted_.wait(lock, [this] { return !offers_.empty(); });
            std::shared_ptr<Job> job = std::move(offers_.back());
            offers_.pop_back();
            open_.store(offers_.size(), std::memory_order_release);
            --sleeping_;
            ++busy_;
            lock.unlock();
            job->work();
            job.reset();
            lock.lock();
            --busy_;
            ++sleeping_;
            lock.unlock();
            linger();
            lock.lock();
        }
    }

    // An op of several steps makes its next offer within some microseconds: sooner than a helper falls asleep and
    // wakes.
    void linger() const {
        constexpr int kLooks = 1000;
        for (int i = 0; i < kLooks && open_.load(std::memory_order_acquire) == 0; ++i) pause();
    }

    std::mutex mutex_;
    std::condition_variable wanted_;
    std::vector<std::shared_ptr<Job>> offers_;
    std::atomic<size_t> open_{0};  // how many offers there are, to be looked at without the lock
    int64_t sleeping_ = 0, busy_ = 0, callers_ = 0;
};

std::atomic<int> limit{1};
std::atomic<Pool*> current{nullptr};

// Never destroyed: helpers sleep in it until the process ends. A forked child has none of them, and locks that
// they held stay locked there: it starts another pool.
Pool& pool() {
    static const int registered = pthread_atfork(nullptr, nullptr, [] { current.store(nullptr); });
    static_cast<void>(registered);
    Pool* found = current.load(std::memory_order_acquire);
    if (found == nullptr) {
        auto made = std::make_unique<Pool>();
        if (current.compare_exchange_strong(found, made.get(), std::memory_order_acq_rel)) return *made.release();
    }
    return *found;
}

}  // namespace

int num_threads() { return limit.load(std::memory_order_relaxed); }

void set_num_threads(int count) { limit.store(count, std::memory_order_relaxed); }

void run_parts(const Division& division, void (*body)(const void*, int64_t, int64_t), const void* context) {
    const int threads = num_threads();
    if (threads < 2) {
        body(context, 0, division.count);
        return;
    }
    const auto job = std::make_shared<Job>(division, body, context);
    Pool& helpers = pool();
    helpers.offer(job, std::min(division.helpers, job->parts() - 1), threads);
    job->work();
    helpers.withdraw(job);
    job->wait();
}

}  // namespace dcam
