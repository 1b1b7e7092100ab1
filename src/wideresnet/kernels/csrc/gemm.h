// Matrix products: rows of A, each element sent to all lanes, times packed panels of B, held in registers.
#pragma once
#include "layers.h"

namespace {

#if WRN_LANES == 16
constexpr int kMaxRows = 14;  // 28 sums, 2 vectors of B, 1 of A: 31 of 32 registers
#elif WRN_LANES == 8
constexpr int kMaxRows = 6;   // 12 sums, of 16 registers
#elif defined(__aarch64__)
constexpr int kMaxRows = 12;  // 24 sums, of 32 registers
#else
constexpr int kMaxRows = 4;
#endif

// Panels that come from the third cache or from memory are fetched into the second so many floats ahead (64 KB: memory's latency at full speed).
constexpr Index kAhead = 16384;

// sums[i][v] += Σ_k a[i·stride + k] · b[(k·kVecs + v)·lanes …] for i < kRows, in the order of k: the same sum whatever
// kRows is, so that a picture's result depends on no other picture.
template <int kRows, int kVecs, bool kStream = false>
WRN_INLINE void multiply(Index depth, const float* a, Index stride, const float* b, vec (&sums)[kRows][kVecs]) {
  // Four rows share a base: with 1, 2 and 3 strides as index they need few registers for addresses.
  const Index stride3 = 3 * stride;
  constexpr int kBases = (kRows + 3) / 4;
  const float* base[kBases];
#pragma GCC unroll 4
  for (int i = 0; i < kBases; i++) base[i] = a + 4 * i * stride;
#pragma GCC unroll 4
  for (Index k = 0; k < depth; k++) {
    vec right[kVecs];
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; v++) {
      right[v] = load(b + (k * kVecs + v) * kLanes);
      if (kStream) __builtin_prefetch(b + (k * kVecs + v) * kLanes + kAhead, 0, 2);
    }
#pragma GCC unroll 14
    for (int i = 0; i < kRows; i++) {
      const float* row = base[i / 4] + (i % 4 == 3 ? stride3 : (i % 4) * stride);
      const vec left = splat(row[k]);
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; v++) sums[i][v] += left * right[v];
    }
  }
}

// The same with a's rows across: sums[i][v] += Σ_t a[t·step + i] · b[…], for sums over tiles.
template <int kRows, int kVecs>
WRN_INLINE void multiply_across(Index depth, const float* a, Index step, const float* b, vec (&sums)[kRows][kVecs]) {
#pragma GCC unroll 2
  for (Index t = 0; t < depth; t++, a += step) {
    vec right[kVecs];
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; v++) right[v] = load(b + (t * kVecs + v) * kLanes);
#pragma GCC unroll 14
    for (int i = 0; i < kRows; i++) {
      const vec left = splat(a[i]);
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; v++) sums[i][v] += left * right[v];
    }
  }
}

enum Way { kCached, kStreamed, kAcross };  // b in the caches; from beyond; a's rows across

template <int kRows, int kVecs, Way kWay>
void block(Index depth, const float* a, Index stride, const float* b, float* m, Index m_stride, bool add) {
  vec sums[kRows][kVecs];
#pragma GCC unroll 14
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; v++) sums[i][v] = add ? load(m + i * m_stride + v * kLanes) : vec{};
  if constexpr (kWay == kAcross) multiply_across<kRows, kVecs>(depth, a, stride, b, sums);
  else multiply<kRows, kVecs, kWay == kStreamed>(depth, a, stride, b, sums);
#pragma GCC unroll 14
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
    for (int v = 0; v < kVecs; v++) store(m + i * m_stride + v * kLanes, sums[i][v]);
}

using Block = void (*)(Index, const float*, Index, const float*, float*, Index, bool);
template <int kVecs, Way kWay, int... kRows>
constexpr auto blocks_of(std::integer_sequence<int, kRows...>) {
  return std::array<Block, sizeof...(kRows)>{block<kRows + 1, kVecs, kWay>...};
}
template <int kVecs, Way kWay>
constexpr auto kBlocks = blocks_of<kVecs, kWay>(std::make_integer_sequence<int, kMaxRows>{});

// m[rows][kVecs·lanes] (+)= a[rows][depth] · b, or a[depth][rows]ᵀ · b, the rows in blocks as equal as they can be; `stride`:
// from one row of a, or with it across from one step of the depth, to the next.
template <int kVecs>
WRN_INLINE void multiply_panel(Way way, Index rows, Index depth, const float* a, Index stride, const float* b, float* m,
                               Index m_stride, bool add) {
  const auto& blocks = way == kAcross ? kBlocks<kVecs, kAcross> : way == kStreamed ? kBlocks<kVecs, kStreamed> : kBlocks<kVecs, kCached>;
  const Index num = divide_up(rows, kMaxRows), row = way == kAcross ? 1 : stride;
  for (Index i = 0; i < num; i++) {
    const Index first = rows * i / num, count = rows * (i + 1) / num - first;
    blocks[count - 1](depth, a + first * row, stride, b, m + first * m_stride, m_stride, add);
  }
}

}  // namespace
