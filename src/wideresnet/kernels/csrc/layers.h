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

}  // namespace
