// Threads that run one function together, and their barrier.
#pragma once
#include <atomic>
#include <functional>

namespace wrn {

// One call's threads: `id` of `size`, and where they wait for each other.
class Barrier {
 public:
  explicit Barrier(int size) : size_(size) {}
  void wait();

 private:
  const int size_;
  std::atomic<int> arrived_{0}, round_{0};
};

struct Member {
  int id, size;
  Barrier* barrier;
  void wait() const { if (size > 1) barrier->wait(); }
};

// Calls `work` on so many threads, or as many as can be started, this one as the first; returns when all are done.
void run_together(int threads, const std::function<void(const Member&)>& work);

}  // namespace wrn
