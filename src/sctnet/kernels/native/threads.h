// A small pool of threads that share a caller's work.

#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace sctnet {

// Tells the processor that a thread waits in a loop.
inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb");
#endif
}

// Threads that wait until something holds: they spin for a while, let others run, and then sleep.
class Signal {
public:
    // Returns when `holds`, which others make true before they call `notify`.
    template <class Condition>
    void wait(Condition holds) {
        if (spin(holds)) return;
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleepers_;
        changed_.wait(lock, holds);
        --sleepers_;
    }

    void notify() {
        if (sleepers_.load() == 0) return;
        std::lock_guard<std::mutex> lock(mutex_);
        changed_.notify_all();
    }

private:
    template <class Condition>
    static bool spin(Condition holds);

    std::mutex mutex_;
    std::condition_variable changed_;
    std::atomic<int> sleepers_{0};
};

void let_others_run();

// A piece of a step takes less than a millisecond where nothing else runs.
template <class Condition>
bool Signal::spin(Condition holds) {
    using Clock = std::chrono::steady_clock;
    Clock::time_point begin{};
    for (int turn = 0;; ++turn) {
        for (int k = 0; k < 64; ++k) {
            if (holds()) return true;
            pause();
        }
        Clock::time_point now = Clock::now();
        if (turn == 0) begin = now;
        if (now - begin > std::chrono::milliseconds(2)) return false;
        if (now - begin > std::chrono::microseconds(50)) let_others_run();
    }
}

using Work = void (*)(void* context, int64_t number);

// Calls work(context, number) here, with number 0, and in up to threads - 1 others, which have the
// numbers behind it; returns when all have returned. Others may come late, or not at all: what is to
// be done must not wait for them. May be called by several threads at a time, and after a fork.
void share(Work work, void* context, int64_t threads);

}  // namespace sctnet
