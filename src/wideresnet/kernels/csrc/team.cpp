// The pool behind run_together: our own and not OpenMP's, so that a forked child works (libgomp's hangs), ThreadSanitizer
// sees every wait, and nothing has to be linked that torch has its own copy of.
#include "team.h"

#include <sched.h>
#include <stdint.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace wrn {
namespace {

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins for as long as a layer takes, then lets others have the processor: with more threads than processors a
// spinning waiter would keep the one it waits for from running.
template <class Ready>
void wait_for(Ready ready) {
  for (int spins = 0; !ready();) {
    if (spins < 20000) pause_briefly(), spins++; else sched_yield();
  }
}

constexpr auto kAwake = std::chrono::microseconds(200);  // a waiting worker spins so long before it sleeps

class Pool {
 public:
  const pid_t owner = getpid();

  void run(int threads, const std::function<void(const Member&)>& work) {
    std::lock_guard<std::mutex> turn(turn_);
    threads = grow(threads - 1) + 1;
    Barrier barrier(threads);
    work_ = &work;
    barrier_ = &barrier;
    left_.store(threads - 1, std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(sleep_);
      const uint64_t call = job_.load(std::memory_order_relaxed) >> 32;
      job_.store((call + 1) << 32 | static_cast<uint32_t>(threads), std::memory_order_release);
    }
    wake_.notify_all();
    work(Member{0, threads, &barrier});
    wait_for([&] { return left_.load(std::memory_order_acquire) == 0; });
  }

 private:
  // How many workers there are, at most so many: where the system starts no more, fewer compute, to the same bits.
  int grow(int workers) {
    try {
      for (; workers_ < workers; workers_++) {
        std::thread(&Pool::serve, this, workers_ + 1, job_.load(std::memory_order_relaxed)).detach();
      }
    } catch (const std::system_error&) {
    }
    return std::min(workers, workers_);
  }

  // Workers beyond a call's threads touch nothing but job_, and nobody waits for them: they may miss calls, and sleep.
  void serve(int id, uint64_t seen) {
    for (bool busy = true;;) {
      const auto until = std::chrono::steady_clock::now() + (busy ? kAwake : kAwake.zero());
      while (job_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < until) {
        for (int i = 0; i < 64; i++) pause_briefly();
      }
      if (job_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(sleep_);
        wake_.wait(lock, [&] { return job_.load(std::memory_order_acquire) != seen; });
      }
      seen = job_.load(std::memory_order_acquire);
      const int size = static_cast<int>(seen & 0xffffffff);
      busy = id < size;
      if (!busy) continue;
      (*work_)(Member{id, size, barrier_});
      left_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  std::mutex turn_, sleep_;
  std::condition_variable wake_;
  std::atomic<uint64_t> job_{0};  // number of the call, in the upper half, and its threads, in the lower
  std::atomic<int> left_{0};
  const std::function<void(const Member&)>* work_ = nullptr;
  Barrier* barrier_ = nullptr;
  int workers_ = 0;
};

}  // namespace

void Barrier::wait() {
  const int round = round_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    return;
  }
  wait_for([&] { return round_.load(std::memory_order_acquire) != round; });
}

void run_together(int threads, const std::function<void(const Member&)>& work) {
  if (threads <= 1) {
    Barrier alone(1);
    work(Member{0, 1, &alone});
    return;
  }
  // A forked child has none of its parent's threads: it makes its own. The pool is never freed, since its workers are
  // still in it when the process ends. No lock here: a child forked while another thread held it would wait for ever.
  static std::atomic<Pool*> pool{nullptr};
  Pool* mine = pool.load(std::memory_order_acquire);
  if (mine == nullptr || mine->owner != getpid()) {
    Pool* made = new Pool;
    if (pool.compare_exchange_strong(mine, made, std::memory_order_acq_rel)) mine = made;
    else delete made;  // another thread was faster; this one has no workers yet
  }
  mine->run(threads, work);
}

}  // namespace wrn
