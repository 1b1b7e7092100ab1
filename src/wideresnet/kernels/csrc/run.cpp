// The C interface: which instruction sets there are, memory, and the walk through a network's operations.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>

#include "isa.h"

namespace wrn {
#if defined(__x86_64__)
extern const Isa avx512, avx2;
#elif defined(__aarch64__)
extern const Isa neon;
#endif
extern const Isa scalar;
}  // namespace wrn

namespace {

const wrn::Isa* const kIsas[] = {
#if defined(__x86_64__)
    &wrn::avx512, &wrn::avx2,
#elif defined(__aarch64__)
    &wrn::neon,
#endif
    &wrn::scalar};

// Large pages for what fills half of one: a scale of 64 channels would take 2 MB of its own.
constexpr size_t kHuge = 2 << 20;
bool is_large(size_t bytes) { return bytes >= kHuge / 2; }
size_t in_huge_pages(size_t bytes) { return (bytes + kHuge - 1) / kHuge * kHuge; }

// Each thread's own memory begins on a page of its own.
int64_t in_pages(int64_t floats) { return (floats + 1023) / 1024 * 1024 + 1024; }

// `op` on one group of images, the first of which is `image`.
wrn_op part_of(const wrn_op& op, int64_t image) {
  wrn_op part = op;
  part.n = std::min(op.group, op.n - image);
  part.x += image * op.x_step;
  part.y += image * op.y_step;
  if (op.res) part.res += image * op.res_step;
  if (op.z) part.z += image * op.z_step;
  part.image = image;
  return part;
}

struct Memory {
  int64_t shared = 0, own = 0;
  Memory(const wrn::Isa& isa, const wrn_op* ops, int64_t num_ops) {
    for (int64_t i = 0; i < num_ops; i++) {
      int64_t of_all, of_each;
      isa.memory(part_of(ops[i], 0), of_all, of_each);
      shared = std::max(shared, in_pages(of_all));
      own = std::max(own, in_pages(of_each));
    }
  }
};

}  // namespace

extern "C" {

#ifndef WRN_SOURCES
#define WRN_SOURCES "unknown"
#endif
int wrn_abi(void) { return WRN_ABI; }
const char* wrn_build(void) { return WRN_SOURCES "-" __VERSION__; }
int wrn_num_isas(void) { return sizeof kIsas / sizeof *kIsas; }
const char* wrn_isa_name(int isa) { return kIsas[isa]->name; }
int wrn_lanes(int isa) { return kIsas[isa]->lanes; }

int wrn_isa_runs(int isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (kIsas[isa] == &wrn::avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw");
  if (kIsas[isa] == &wrn::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  (void)isa;
  return 1;
}

void* wrn_alloc(size_t bytes) {
  if (!is_large(bytes)) {
    void* memory = aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (memory) memset(memory, 0, bytes);
    return memory;
  }
  // Pages of its own, which the system zeroes when they are touched, and large ones: whoever fills them first, and that
  // is all threads, waits for them.
  const size_t size = in_huge_pages(bytes);
  void* mapped = mmap(nullptr, size + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* start = static_cast<char*>(mapped);
  const size_t before = (kHuge - reinterpret_cast<uintptr_t>(start) % kHuge) % kHuge;
  if (before > 0) munmap(start, before);
  if (before < kHuge) munmap(start + before + size, kHuge - before);
#if defined(MADV_HUGEPAGE)
  madvise(start + before, size, MADV_HUGEPAGE);  // only faster: what it answers does not matter
#endif
  return start + before;
}

void wrn_free(void* memory, size_t bytes) {
  if (is_large(bytes)) munmap(memory, in_huge_pages(bytes));
  else free(memory);
}

int64_t wrn_packed_floats(int isa, const wrn_op* op) { return kIsas[isa]->packed_floats(*op); }

void wrn_pack(int isa, const wrn_op* op, const float* weight, const float* out_scale, float* packed, int threads) {
  wrn::run_together(threads, [&](const wrn::Member& member) { kIsas[isa]->pack(*op, weight, out_scale, packed, member); });
}

int64_t wrn_work_floats(int isa, const wrn_op* ops, int64_t num_ops, int threads) {
  const Memory memory(*kIsas[isa], ops, num_ops);
  return memory.shared + threads * memory.own;
}

int wrn_run(int isa, const wrn_op* ops, int64_t num_ops, int threads, float* work) {
  const Memory memory(*kIsas[isa], ops, num_ops);
  int size = threads;
  wrn::run_together(threads, [&](const wrn::Member& member) {
    if (member.id == 0) size = member.size;
    float* mine = work + memory.shared + member.id * memory.own;
    for (int64_t first = 0, end; first < num_ops; first = end) {
      for (end = first + 1; end < num_ops && ops[end].segment == ops[first].segment;) end++;
      for (int64_t image = 0; image < ops[first].n; image += ops[first].group) {
        for (int64_t i = first; i < end; i++) {
          kIsas[isa]->run(part_of(ops[i], image), member, work, mine);
          member.wait();
        }
      }
    }
  });
  return size;
}

}  // extern "C"
