// What one operation needs besides its row of wrn_op: its threads and their memory.
#pragma once
#include <type_traits>

#include "simd.h"
#include "team.h"
#include "wrn.h"

namespace {

constexpr Index kPanel = 2 * kLanes;  // output channels that one microkernel computes: two vectors
WRN_INLINE Index padded(Index channels) { return round_up(channels, kLanes); }
WRN_INLINE Index num_panels(Index k) { return divide_up(padded(k), kPanel); }

// Consecutive frequencies of one tile lie this far apart: 64 bytes more than whole pages, or all of them would fall
// into the same few lines of the first cache.
WRN_INLINE Index frequency_stride(Index floats) { return round_up(floats, 1024) + 16; }

struct Work {
  wrn::Member member;
  float* shared;   // of all threads together
  float* mine;     // of this one
};

// The part [first, last) of `count` pieces that thread `id` of `size` takes.
struct Share {
  Index first, last;
  Share(Index count, const wrn::Member& m) : first(count * m.id / m.size), last(count * (m.id + 1) / m.size) {}
};

// act(x · scale + shift) on load, for the activations cheap enough to be computed 2.25 times.
template <int kAct>
WRN_INLINE vec activated(vec x, vec scale, vec shift, vec slope) {
  if (kAct == WRN_NONE) return x;
  x = x * scale + shift;
  if (kAct == WRN_RELU) return larger(vec{}, x);
  return larger(vec{}, x) + slope * smaller(vec{}, x);
}

// `call` with act_in as a constant, of those that a convolution applies as it loads.
template <class Call>
WRN_INLINE void with_activation_on_load(const wrn_op& op, const Call& call) {
  if (op.scale == nullptr) call(std::integral_constant<int, WRN_NONE>());
  else if (op.act_in == WRN_RELU) call(std::integral_constant<int, WRN_RELU>());
  else call(std::integral_constant<int, WRN_LEAKY>());
}

// act(v), of what a convolution has computed.
WRN_INLINE vec finished(vec v, int act, vec slope) {
  if (act == WRN_RELU) return larger(vec{}, v);
  if (act == WRN_LEAKY) return larger(vec{}, v) + slope * smaller(vec{}, v);
  return v;
}

// Row `row` of a BN's, channels from k.
WRN_INLINE float* norm_row(const wrn_op& op, int row, Index channels) { return op.norm + row * padded(channels); }

// This thread's sums of `channels`.
WRN_INLINE double* own_sums(const wrn_op& op, const Work& work, Index channels) {
  return op.sums ? op.sums + work.member.id * WRN_SUM_ROWS * padded(channels) : nullptr;
}

// The sums of a map's values are taken about one of them, the first that the thread meets in each channel: of squares of the
// values themselves float32 would leave no variance where the mean is large. Rows of the sums: Σ(v − r), Σ(v − r)², r, count.
WRN_INLINE vec reference(double* sums, Index channels, Index k, vec first) {
  double* about = sums + 2 * padded(channels) + k;
  if (about[padded(channels)] == 0) {
    memset(about, 0, kLanes * sizeof(double));
    add_to(about, first);
  }
  return __builtin_convertvector(*reinterpret_cast<const loose_dvec*>(about), vec);
}
WRN_INLINE void add_moments(double* sums, Index channels, Index k, vec sum, vec squares, Index count) {
  const Index row = padded(channels);
  add_to(sums + k, sum), add_to(sums + row + k, squares), add_to(sums + 3 * row + k, splat(static_cast<float>(count)));
}

// 1 / (1 - p) where dropout keeps an element and 0 where not: a function of the seed and the element's index alone, so
// that the backward pass makes it again. Two rounds of a mixing function (Wellons 2018, lowbias32), keyed between them.
WRN_INLINE uvec mixed(uvec x) {
  x ^= x >> 16, x *= 0x7feb352du;
  x ^= x >> 15, x *= 0x846ca68bu;
  return x ^ x >> 16;
}
WRN_INLINE vec kept(const wrn_op& op, Index index) {
  uvec x;
  for (Index i = 0; i < kLanes; i++) x[i] = static_cast<uint32_t>(i);
  x += static_cast<uint32_t>(index);
  x = mixed(x ^ static_cast<uint32_t>(op.seed));
  x = mixed(x + (static_cast<uint32_t>(op.seed >> 32) ^ static_cast<uint32_t>(index >> 32)));
  const vec uniform = __builtin_convertvector(reinterpret_cast<ivec>(x >> 8), vec) * 0x1p-24f;
  return choose(uniform >= op.drop, splat(1.f / (1.f - op.drop)), vec{});
}

}  // namespace
