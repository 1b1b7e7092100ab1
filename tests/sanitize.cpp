// The kernels' C interface over many shapes, for a build with a sanitizer (`make sanitize`): buffers of exactly the size
// that the interface asks for, work memory and results that begin as NaN, every instruction set that this processor has,
// several numbers of threads, several callers at once, and a forked child. Whether the numbers are right,
// test_kernels.py asks; here the same operation must give the same bits each time.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "wrn.h"

namespace {

struct Free {
  void operator()(float* p) const { free(p); }
};
using Buffer = std::unique_ptr<float[], Free>;

[[noreturn]] void fail(const char* what, const wrn_op& op) {
  fprintf(stderr, "%s: kind %d, tile %d, %ld x %ld x %ld x %ld -> %ld\n", what, op.kind, op.tile, long(op.n), long(op.h),
          long(op.w), long(op.c), long(op.k));
  _exit(1);
}

Buffer filled(int64_t floats, float value) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, floats > 0 ? floats * sizeof(float) : 1)) abort();
  float* begin = static_cast<float*>(memory);
  for (int64_t i = 0; i < floats; i++) begin[i] = value;
  return Buffer(begin);
}

// Small whole numbers in the first `used` of each `padded` channels, zeros in the rest.
Buffer numbers(int64_t rows, int64_t used, int64_t padded, unsigned seed) {
  Buffer made = filled(rows * padded, 0);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t c = 0; c < used; c++) {
      seed = seed * 1664525u + 1013904223u;
      made[i * padded + c] = float(int(seed >> 28) - 8) / 8;
    }
  return made;
}

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// One operation, and all that it points to.
struct Case {
  wrn_op op;
  int isa;
  int64_t floats;
  Buffer x, scale, shift, weight, bias, res;

  Case(int isa_, wrn_op op_, bool with_scale, bool with_res) : op(op_), isa(isa_) {
    const int64_t lanes = wrn_lanes(isa), cp = round_up(op.c, lanes), kp = round_up(op.k, lanes);
    const bool stem = op.kind == WRN_STEM, head = op.kind == WRN_HEAD;
    op.alpha = 0.1f;
    if (op.group == 0) op.group = op.n;
    op.x_step = op.h * op.w * (stem ? op.c : cp);
    op.y_step = op.res_step = head ? op.k : op.ho * op.wo * kp;
    floats = op.n * op.y_step;
    x = stem ? numbers(op.n * op.c, op.h * op.w, op.h * op.w, 1) : numbers(op.n * op.h * op.w, op.c, cp, 1);
    op.x = x.get();
    if (with_scale) {
      scale = numbers(1, op.c, cp, 2), shift = numbers(1, op.c, cp, 3);
      op.scale = scale.get(), op.shift = shift.get();
    }
    if (op.kind != WRN_ACTIVATE && op.kind != WRN_POOL_PAD) {
      const Buffer plain = numbers(op.k, op.c * op.size * op.size, op.c * op.size * op.size, 4);
      const Buffer out_scale = numbers(1, op.k, op.k, 5);
      weight = filled(wrn_packed_floats(isa, &op), NAN);
      wrn_pack(isa, &op, plain.get(), head ? nullptr : out_scale.get(), weight.get(), 2);
      bias = head ? numbers(1, op.k, op.k, 6) : numbers(1, op.k, kp, 6);
      op.weight = weight.get(), op.bias = bias.get();
    }
    if (with_res) {
      res = numbers(op.n * op.ho * op.wo, op.k, kp, 7);
      op.res = res.get();
    }
  }

  Buffer computed(int threads, bool in_place = false) const {
    wrn_op one = op;
    Buffer y = filled(floats, NAN), work = filled(wrn_work_floats(isa, &one, 1, threads), NAN);
    if (in_place) memcpy(y.get(), op.res, floats * sizeof(float)), one.res = y.get();
    one.y = y.get();
    wrn_run(isa, &one, 1, threads, work.get());
    for (int64_t i = 0; i < floats; i++)
      if (!std::isfinite(y[i])) fail("not finite", op);
    return y;
  }

  void check(int threads) const {
    const Buffer expected = computed(1);
    const auto same = [&](const Buffer& found) { return memcmp(expected.get(), found.get(), floats * sizeof(float)) == 0; };
    if (!same(computed(threads))) fail("threads change the result", op);
    if (op.res && !same(computed(2, true))) fail("a sum in place is another", op);
  }
};

wrn_op convolution(int kind, int64_t n, int64_t h, int64_t w, int64_t c, int64_t k, int64_t size, int64_t stride) {
  wrn_op op = {};
  op.kind = kind, op.n = n, op.h = h, op.w = w, op.c = c, op.k = k, op.size = size, op.stride = stride;
  op.ho = (h + stride - 1) / stride, op.wo = (w + stride - 1) / stride;
  op.pad_top = op.pad_left = size / 2;
  op.tile = 4, op.block_tiles = 28, op.block_panels = 1, op.split = 1;
  return op;
}

template <class Use>
void for_each_case(int isa, const Use& use) {
  const int64_t sides[][2] = {{1, 1}, {1, 13}, {9, 1}, {4, 4}, {7, 10}};
  const int64_t channels[][2] = {{1, 1}, {5, 7}, {16, 40}, {67, 33}};
  int turn = 0;
  for (auto& side : sides)
    for (auto& of : channels)
      for (int64_t n : {1, 3}) {
        if (n == 3 && side[0] * side[1] > 16) continue;
        const auto plan = [&](int kind, int64_t size, int64_t stride) {
          wrn_op op = convolution(kind, n, side[0], side[1], of[0], of[1], size, stride);
          turn++;
          op.act_in = turn % 3, op.act_out = turn / 3 % 3, op.group = n == 3 && turn % 2 ? 2 : 0;
          return op;
        };
        const auto go = [&](const wrn_op& op) { use(Case(isa, op, op.act_in != WRN_NONE, turn % 2)); };
        for (int stride : {1, 2})
          for (int tile : {4, 2})
            for (int how = 0; how < 4; how++) {
              wrn_op op = plan(WRN_WINOGRAD, 3, stride);
              if (stride == 2 && tile == 2) op.pad_top = op.pad_left = 0;  // as TensorFlow pads even sides
              op.tile = tile, op.share = how & 1, op.raw_filters = how >> 1;
              op.block_tiles = turn % 2 ? 3 : 64, op.block_panels = turn % 5 ? 1 : 99;
              go(op);
            }
        for (int64_t size : {1, 3})
          for (int64_t stride : {1, 2}) {
            wrn_op op = plan(WRN_DIRECT, size, stride);
            op.split = 1 + turn % 4;
            go(op);
          }
        wrn_op stem = plan(WRN_STEM, 3, 1);
        stem.act_in = WRN_NONE;
        use(Case(isa, stem, false, false));
        for (int act = side[0] == 4 ? WRN_NONE : WRN_PSSILU; act <= WRN_PSSILU; act++) {
          wrn_op op = plan(WRN_ACTIVATE, 1, 1);
          op.k = op.c, op.act_in = act, op.act_out = WRN_NONE;
          use(Case(isa, op, act % 2, false));
          op = plan(WRN_HEAD, 1, 1);
          op.ho = op.wo = 1, op.act_in = act, op.act_out = WRN_NONE, op.cosine = turn % 2;
          use(Case(isa, op, true, false));
        }
        wrn_op pool = plan(WRN_POOL_PAD, 2, 2);
        if (pool.c <= pool.k) pool.act_in = pool.act_out = WRN_NONE, use(Case(isa, pool, false, false));
      }
}

// One operation of training: what it writes, of exactly the size that it may, must be finite and the same bits each time.
struct Trained {
  wrn_op op;
  int isa;
  int64_t floats, sums;      // of y, for each thread if `own`; of one thread's sums, in doubles
  bool own = false, moving;  // whether y itself depends on the number of threads
  double begin = 0;          // of the sums
  std::vector<Buffer> kept = {};

  const float* keep(Buffer made) {
    kept.push_back(std::move(made));
    return kept.back().get();
  }

  std::vector<float> computed(int threads) const {
    wrn_op one = op;
    const int64_t many = floats * (own ? threads : 1), doubles = op.sums ? sums * threads : 0;
    Buffer y = filled(many, NAN), summed = filled(2 * doubles, 0);
    double* of = reinterpret_cast<double*>(summed.get());
    for (int64_t i = 0; i < doubles; i++) of[i] = begin;
    one.y = y.get(), one.sums = op.sums ? of : nullptr;
    if (op.kind == WRN_NORM_GRAD) one.y2 = one.y + op.k;
    if (op.kind == WRN_NORM || op.kind == WRN_NORM_GRAD) one.running = op.x != nullptr;
    Buffer work = filled(wrn_work_floats(isa, &one, 1, threads), NAN);
    std::vector<float> norm(op.norm, op.norm ? op.norm + WRN_NORM_ROWS * round_up(op.k, wrn_lanes(isa)) : op.norm);
    wrn_run(isa, &one, 1, threads, work.get());
    std::vector<float> found(y.get(), y.get() + many);
    for (int64_t i = 0; i < doubles; i++) found.push_back(static_cast<float>(of[i]));
    // A line between two frequencies is never written, nor read: what is computed from it elsewhere here is finite.
    const int64_t products = op.size == 1 ? 1 : op.stride == 2 ? 81 : 36, copies = own ? threads : 1;
    int64_t gaps = op.kind == WRN_WEIGHT_GRAD ? 16 * products * copies : op.kind == WRN_PACK ? many : 0;
    for (float& each : found)
      if (std::isnan(each) && gaps > 0) gaps--, each = 0;
      else if (!std::isfinite(each)) fail("not finite", op);
    if (op.kind == WRN_NORM || op.kind == WRN_NORM_GRAD) memcpy(op.norm, norm.data(), norm.size() * sizeof(float));
    return found;
  }

  void check(int threads) const {
    const std::vector<float> expected = computed(threads), again = computed(threads), alone = computed(1);
    if (memcmp(expected.data(), again.data(), expected.size() * sizeof(float))) fail("not the same again", op);
    if (!moving && memcmp(expected.data(), alone.data(), floats * sizeof(float))) fail("threads change the result", op);
  }
};

// The operations of training on maps [n, h, w, c] and, from convolutions, [n, ho, wo, k].
template <class Use>
void for_each_trained(int isa, const Use& use) {
  const int64_t sides[][2] = {{1, 1}, {1, 13}, {6, 4}, {7, 10}}, channels[][2] = {{1, 1}, {5, 7}, {16, 40}, {40, 33}};
  double sums_are_asked_for;  // any address: each run has its own
  const int64_t lanes = wrn_lanes(isa);
  int turn = 0;
  for (auto& side : sides)
    for (auto& of : channels)
      for (int64_t n : {1, 3}) {
        const int64_t c = of[0], k = of[1], cp = round_up(c, lanes), kp = round_up(k, lanes);
        const auto begun = [&](int kind, int64_t size, int64_t stride) {
          wrn_op op = convolution(kind, n, side[0], side[1], c, k, size, stride);
          turn++;
          op.alpha = 0.1f, op.beta = 0.1f, op.eps = 1e-3f, op.seed = turn * 1234567890123 % (int64_t(1) << 62);
          op.group = turn % 2 ? n : (n + 1) / 2, op.drop = turn % 3 ? 0 : 0.4f;
          op.block_tiles = turn % 2 ? 3 : 64, op.block_panels = turn % 5 ? 1 : 99, op.share = turn / 2 % 2;
          op.x_step = op.h * op.w * cp, op.y_step = op.res_step = op.z_step = op.ho * op.wo * kp;
          return op;
        };
        const auto map = [&](int64_t h, int64_t w, int64_t used, unsigned seed) {
          return numbers(n * h * w, used, round_up(used, lanes), seed);
        };

        // Convolutions, turned round or not, and what follows them.
        for (int64_t size : {1, 3})
          for (int64_t stride : {1, 2})
            for (int end : {WRN_PLAIN, WRN_SUMMED, WRN_SLOPED})
              for (int how = 0; how < 3; how++) {  // as it is; turned round; turned round, without padding in front
                if (how == 2 && (size == 1 || stride == 1 || side[0] % 2 || side[1] % 2)) continue;
                Trained made{begun(WRN_WINOGRAD, size, stride), isa, 0, WRN_SUM_ROWS * kp, false, false};
                wrn_op& op = made.op;
                if (how > 0) {
                  std::swap(op.h, op.ho), std::swap(op.w, op.wo);
                  op.x_step = op.h * op.w * cp, op.y_step = op.res_step = op.z_step = op.ho * op.wo * kp;
                  op.transposed = 1;
                  if (stride == 2 && size == 3) op.pad_top = op.pad_left = how == 2 ? 4 : 0, op.out_top = op.out_left = how == 2 ? 7 : 0;
                }
                made.floats = op.n * op.y_step, op.end = end;
                op.x = made.keep(map(op.h, op.w, c, 1));
                if (how == 0 && turn % 2) op.act_in = WRN_RELU, op.scale = made.keep(numbers(1, c, cp, 2)), op.shift = made.keep(numbers(1, c, cp, 3));
                if (turn % 2) op.res = made.keep(map(op.ho, op.wo, k, 4));
                if (end != WRN_PLAIN) op.sums = &sums_are_asked_for;
                if (end == WRN_SLOPED) op.z = made.keep(map(op.ho, op.wo, k, 5)), op.norm = const_cast<float*>(made.keep(numbers(WRN_NORM_ROWS, k, kp, 6)));
                else op.bias = made.keep(numbers(1, k, kp, 7));
                if (size == 1) op.block_tiles = 64;
                Buffer packed = filled(wrn_packed_floats(isa, &op), NAN), plain = numbers(1, k * c * size * size, k * c * size * size, 8);
                wrn_op pack = op;
                pack.kind = WRN_PACK, pack.of = WRN_WINOGRAD, pack.group = pack.n, pack.x_step = pack.y_step = pack.res_step = pack.z_step = 0;
                pack.x = pack.res = pack.z = nullptr, pack.weight = plain.get(), pack.y = packed.get();
                Buffer work = filled(wrn_work_floats(isa, &pack, 1, 2), NAN);
                wrn_run(isa, &pack, 1, 2, work.get());
                op.weight = made.keep(std::move(packed));
                use(made);
              }

        // The weights' gradients: of each thread or of all, and their sum.
        for (int64_t size : {1, 3})
          for (int64_t stride : {1, 2})
            for (int share : {0, 1}) {
              Trained made{begun(WRN_WEIGHT_GRAD, size, stride), isa, 0, 0, share == 0, true};
              wrn_op& op = made.op;
              op.share = share, op.y_step = 0, op.drop = 0;
              if (turn % 2) op.pad_top = op.pad_left = 0;
              op.x = made.keep(map(op.h, op.w, c, 1)), op.res = made.keep(map(op.ho, op.wo, k, 2));
              if (turn % 2) op.act_in = WRN_LEAKY, op.scale = made.keep(numbers(1, c, cp, 2)), op.shift = made.keep(numbers(1, c, cp, 3));
              made.floats = wrn_packed_floats(isa, &op);
              use(made);
              Trained sum{begun(WRN_WEIGHT_SUM, size, stride), isa, k * c * size * size, 0, false, true};
              sum.op.share = share, sum.op.group = n, sum.op.x_step = sum.op.y_step = 0;
              sum.op.x = sum.keep(numbers(share ? 1 : 8, made.floats, made.floats, 9));  // of as many threads as there may be
              use(sum);
            }

        // What goes over maps [n, h, w, c].
        const auto over = [&](int kind, bool summed, int64_t floats) {
          Trained made{begun(kind, 1, 1), isa, floats, WRN_SUM_ROWS * cp, false, false};
          made.op.k = c, made.op.y_step = made.op.res_step = made.op.z_step = made.op.x_step;
          made.op.x = made.keep(map(side[0], side[1], c, 1));
          made.op.norm = const_cast<float*>(made.keep(numbers(WRN_NORM_ROWS, c, cp, 2)));
          if (summed) made.op.sums = &sums_are_asked_for;
          return made;
        };
        const int64_t all = n * side[0] * side[1] * cp;
        for (int act = WRN_NONE; act <= WRN_PSSILU; act++) {
          Trained activate = over(WRN_ACTIVATE, act % 2, all);
          activate.op.act_in = act;
          if (act) activate.op.scale = activate.keep(numbers(1, c, cp, 3)), activate.op.shift = activate.keep(numbers(1, c, cp, 4));
          use(activate);
          Trained pool = over(WRN_POOL, false, n * c);
          pool.op.act_in = act, pool.op.y_step = c, pool.op.norm = nullptr;
          if (act) pool.op.scale = pool.keep(numbers(1, c, cp, 3)), pool.op.shift = pool.keep(numbers(1, c, cp, 4));
          use(pool);
          for (int pooled : {0, 1}) {
            Trained slope = over(WRN_SLOPE, true, all);
            slope.op.act_in = act, slope.op.pooled = pooled;
            if (pooled) slope.op.x = slope.keep(numbers(n, c, c, 5)), slope.op.x_step = c;
            slope.op.z = slope.keep(map(side[0], side[1], c, 6));
            use(slope);
          }
        }
        for (int with_res : {0, 1}) {
          Trained unnorm = over(WRN_UNNORM, false, all);
          unnorm.op.z = unnorm.keep(map(side[0], side[1], c, 6));
          if (with_res) unnorm.op.res = unnorm.keep(map(side[0], side[1], c, 7));
          use(unnorm);
          // BN itself, of the batch and with its running statistics
          if (n * side[0] * side[1] == 1) continue;
          for (int kind : {WRN_NORM, WRN_NORM_GRAD}) {
            Trained norm = over(kind, true, 2 * c);
            norm.begin = 1, norm.moving = true, norm.op.group = n;  // more threads have more sums
            norm.op.weight = norm.keep(numbers(1, c, c, 8)), norm.op.bias = norm.keep(numbers(1, c, c, 9));
            norm.op.x = nullptr;
            if (with_res) norm.op.x = norm.keep(filled(c, 1)), norm.op.res = norm.keep(filled(c, 2));
            norm.op.x_step = norm.op.y_step = norm.op.res_step = norm.op.z_step = 0;
            use(norm);
          }
        }
        Trained sum = over(WRN_SUM, true, 0);
        sum.op.y_step = 0;
        use(sum);
        if (c <= k) {
          Trained pad{begun(WRN_POOL_PAD_GRAD, 2, 2), isa, all, 0, false, false};
          pad.op.x = pad.keep(map(pad.op.ho, pad.op.wo, k, 1));
          pad.op.x_step = pad.op.ho * pad.op.wo * kp, pad.op.y_step = pad.op.h * pad.op.w * cp;
          use(pad);
        }
        Trained stem{begun(WRN_STEM_GRAD, 3, 1), isa, k * c * 9, c * 9 * kp, false, true};
        stem.op.x = stem.keep(numbers(n * c, side[0] * side[1], side[0] * side[1], 1)), stem.op.res = stem.keep(map(side[0], side[1], k, 2));
        stem.op.group = n, stem.op.x_step = stem.op.y_step = 0, stem.op.sums = &sums_are_asked_for;
        use(stem);
      }
}

std::vector<Case> some_of(int isa) {
  std::vector<Case> kept;
  int seen = 0;
  for_each_case(isa, [&](Case&& found) {
    if (seen++ % 97 == 0) kept.push_back(std::move(found));
  });
  return kept;
}

// Several callers at once, each with its own number of threads; then a child that has none of its parent's threads. Not
// both together, which test_kernels.py does: a child would wait for the sanitizer's own lock on memory.
void check_callers(int isa) {
  const std::vector<Case> cases = some_of(isa);
  std::vector<std::thread> callers;
  for (int threads : {1, 2, 3, 5})
    callers.emplace_back([&, threads] {
      for (const Case& each : cases) each.check(threads);
    });
  for (std::thread& each : callers) each.join();
#if !defined(__SANITIZE_THREAD__)  // it allows a child of several threads no threads of its own
  const pid_t child = fork();
  if (child == 0) {
    for (const Case& each : cases) each.check(2);
    _exit(0);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0) fail("a forked child failed", cases[0].op);
#endif
  for (const Case& each : cases) each.check(2);
}

// One pass over rows of odd lengths, some without a gradient or an average: the same bits for any number of threads.
void check_sgd() {
  const int64_t counts[] = {1, 0, 17, 5000, 2048, 3};
  std::vector<float> expected;
  for (int threads : {1, 2, 3, 7}) {
    std::vector<Buffer> memory;
    std::vector<wrn_row> rows;
    for (int64_t count : counts)
      for (int kind = 0; kind < 4; kind++) {
        wrn_row row = {};
        for (int i = 0; i < 4; i++) memory.push_back(numbers(1, count, count, unsigned(kind + i)));
        const size_t at = memory.size() - 4;
        row.weight = memory[at].get(), row.momentum = memory[at + 1].get(), row.count = count;
        row.gradient = kind == 1 ? nullptr : memory[at + 2].get();
        row.average = kind == 2 ? nullptr : memory[at + 3].get();
        row.lr = 0.1f, row.weight_decay = 0.01f, row.momentum_share = 0.9f, row.nesterov = kind == 3;
        rows.push_back(row);
      }
    for (float share : {0.1f, 0.8f}) wrn_sgd(rows.data(), int64_t(rows.size()), share, threads);
    std::vector<float> found;
    for (size_t r = 0; r < rows.size(); r++)
      for (int i : {0, 1, 3}) found.insert(found.end(), memory[4 * r + i].get(), memory[4 * r + i].get() + rows[r].count);
    if (expected.empty()) expected = found;
    if (memcmp(expected.data(), found.data(), found.size() * sizeof(float)) != 0) fail("update: other bits", wrn_op{});
  }
}

}  // namespace

int main() {
  check_sgd();
  for (int isa = 0; isa < wrn_num_isas(); isa++) {
    if (!wrn_isa_runs(isa)) continue;
    int count = 0;
    for_each_case(isa, [&](const Case& each) { each.check(2 + count % 3), count++; });
    for_each_trained(isa, [&](const Trained& each) { each.check(2 + count % 3), count++; });
    check_callers(isa);
    printf("%s: %d operations\n", wrn_isa_name(isa), count);
    fflush(stdout);
  }
}
