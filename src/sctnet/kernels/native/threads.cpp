#include "threads.h"

#include <memory>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sched.h>
#endif

namespace sctnet {

void let_others_run() { std::this_thread::yield(); }

namespace {

// How long a thread without work looks for some before it sleeps: between the network and the label
// map of a picture lies less.
constexpr std::chrono::microseconds LOOKS_FOR{200};

struct Job {
    Work work;
    void* context;
    int64_t threads;
    int64_t next = 1;               // number of the thread that comes next
    std::atomic<int64_t> inside{0};  // threads that work on it, beside the caller
};

// Threads are started when they are first asked for, and live as long as the process.
class Pool {
public:
    void share(Work work, void* context, int64_t threads) {
        Job job{work, context, threads};
        {
            std::lock_guard<std::mutex> lock(mutex_);
            start(threads - 1);
            jobs_.push_back(&job);
            posted_.fetch_add(1);
            if (asleep_ > 0) {
                leave_this_core();
                wake_.notify_all();
            }
        }
        work(context, 0);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            for (size_t k = 0; k < jobs_.size(); ++k)
                if (jobs_[k] == &job) jobs_.erase(jobs_.begin() + int64_t(k--));
        }
        // Nobody enters any more. A helper that leaves touches the job a last time when it counts
        // itself out.
        left_.wait([&] { return job.inside.load() == 0; });
    }

private:
    struct Helper {
        std::thread::native_handle_type handle;
        bool asleep = false;
#if defined(__linux__)
        cpu_set_t cores;
        bool placed = false;
#endif
    };

    void start(int64_t number) {
        while (int64_t(helpers_.size()) < number) {
            auto helper = std::make_unique<Helper>();
            Helper* own = helper.get();
            try {
                helpers_.reserve(helpers_.size() + 1);
                std::thread thread([this, own] { help(*own); });
                own->handle = thread.native_handle();
                thread.detach();
            } catch (...) {
                return;  // no further thread can be had: those there are do the work
            }
            helpers_.push_back(std::move(helper));
        }
    }

    // Returns a job that takes one more thread, or null.
    Job* open_job() {
        for (Job* job : jobs_)
            if (job->next < job->threads) return job;
        return nullptr;
    }

    void help(Helper& own) {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            if (Job* job = open_job()) {
                int64_t number = job->next++;
                job->inside.fetch_add(1);
                lock.unlock();
                job->work(job->context, number);
                job->inside.fetch_sub(1);
                left_.notify();
                lock.lock();
                continue;
            }
            int64_t seen = posted_.load();
            lock.unlock();
            auto begin = std::chrono::steady_clock::now();
            bool more = false;
            while (!more && std::chrono::steady_clock::now() - begin < LOOKS_FOR) {
                for (int k = 0; k < 32 && !more; ++k) {
                    more = posted_.load(std::memory_order_acquire) != seen;
                    pause();
                }
            }
            lock.lock();
            if (posted_.load() != seen) continue;
            own.asleep = true, ++asleep_;
            wake_.wait(lock, [&] { return open_job() != nullptr; });
            own.asleep = false, --asleep_;
        }
    }

    // Lets sleeping helpers wake on other cores than this. Linux wakes them here where another
    // engine's threads still spin on the others, waiting for their next picture: two would then share
    // one core (measured: no faster than one thread alone).
    void leave_this_core() {
#if defined(__linux__)
        cpu_set_t cores;
        int here = sched_getcpu();
        if (here < 0 || pthread_getaffinity_np(pthread_self(), sizeof cores, &cores) != 0) return;
        if (CPU_COUNT(&cores) > 1) CPU_CLR(here, &cores);
        for (auto& helper : helpers_) {
            if (!helper->asleep || (helper->placed && CPU_EQUAL(&helper->cores, &cores))) continue;
            pthread_setaffinity_np(helper->handle, sizeof cores, &cores);
            helper->cores = cores, helper->placed = true;
        }
#endif
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<int64_t> posted_{0};
    std::vector<Job*> jobs_;
    std::vector<std::unique_ptr<Helper>> helpers_;
    int64_t asleep_ = 0;
    Signal left_;
};

// Never destroyed: its threads may sleep in it until the process ends.
std::atomic<Pool*> the_pool{nullptr};

void forget_pool() { the_pool.store(nullptr); }  // a fork has none of its threads

Pool& pool() {
    Pool* found = the_pool.load();
    if (found) return *found;
    auto* made = new Pool;
    if (the_pool.compare_exchange_strong(found, made)) return *made;
    delete made;
    return *found;
}

}  // namespace

void share(Work work, void* context, int64_t threads) {
#if defined(__unix__) || defined(__APPLE__)
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
    (void)registered;
#endif
    if (threads <= 1) return work(context, 0);
    pool().share(work, context, threads);
}

}  // namespace sctnet
