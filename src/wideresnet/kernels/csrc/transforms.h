// Winograd's transforms: of input tiles, of filters, and back (Winograd 1980; Lavin & Gray 2016).
//
// A scheme computes kTile×kTile outputs from kPatch×kPatch inputs by kProducts multiplications per pair of channels:
//   Stride1<4>  F(4×4, 3×3)            36 where a direct convolution has 144
//   Stride1<2>  F(2×2, 3×3)            16 where it has 36, and ten times as exact
//   Stride2     3×3 with stride 2      81 where it has 144: even and odd rows apart are 2 taps and 1
#pragma once
#include "layers.h"

namespace {

// The one-dimensional transforms, kept in the form with the fewest operations.
template <int M> struct Taps3;
template <> struct Taps3<4> {  // points 0, ±1, ±2, ∞
  WRN_INLINE void input(const vec* d, vec* t) {  // 6 → 6
    const vec p = d[4] - 4.f * d[2], q = d[3] - 4.f * d[1], r = d[4] - d[2], s = d[3] - d[1];
    t[0] = 4.f * d[0] + (d[4] - 5.f * d[2]);
    t[1] = p + q;
    t[2] = p - q;
    t[3] = r + 2.f * s;
    t[4] = r - 2.f * s;
    t[5] = 4.f * d[1] + (d[5] - 5.f * d[3]);
  }
  WRN_INLINE void output(const vec* m, vec* y) {  // 6 → 4
    const vec a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
    y[0] = m[0] + a + c;
    y[1] = b + 2.f * d;
    y[2] = a + 4.f * c;
    y[3] = b + 8.f * d + m[5];
  }
  WRN_INLINE void filter(const vec* w, vec* u) {  // 3 → 6
    const vec e = w[0] + w[2], f = w[0] * (1 / 24.f) + w[2] * (1 / 6.f), o = w[1] * (1 / 12.f);
    u[0] = w[0] * .25f;
    u[1] = (e + w[1]) * (-1 / 6.f);
    u[2] = (e - w[1]) * (-1 / 6.f);
    u[3] = f + o;
    u[4] = f - o;
    u[5] = w[2];
  }
  template <int kRow>
  WRN_INLINE vec filter_row(vec w0, vec w1, vec w2) {  // u[kRow] alone
    switch (kRow) {
      case 0: return w0 * .25f;
      case 1: return (w0 + w2 + w1) * (-1 / 6.f);
      case 2: return (w0 + w2 - w1) * (-1 / 6.f);
      case 3: return w0 * (1 / 24.f) + w2 * (1 / 6.f) + w1 * (1 / 12.f);
      case 4: return w0 * (1 / 24.f) + w2 * (1 / 6.f) - w1 * (1 / 12.f);
      default: return w2;
    }
  }
};
template <> struct Taps3<2> {  // points 0, ±1, ∞
  WRN_INLINE void input(const vec* d, vec* t) {
    t[0] = d[0] - d[2];
    t[1] = d[1] + d[2];
    t[2] = d[2] - d[1];
    t[3] = d[1] - d[3];
  }
  WRN_INLINE void output(const vec* m, vec* y) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - m[3];
  }
  WRN_INLINE void filter(const vec* w, vec* u) {
    const vec e = w[0] + w[2];
    u[0] = w[0];
    u[1] = (e + w[1]) * .5f;
    u[2] = (e - w[1]) * .5f;
    u[3] = w[2];
  }
};
struct Taps2 {  // F(4, 2): points 0, ±1, 2, ∞
  WRN_INLINE void input(const vec* d, vec* t) {  // 5 → 5
    const vec a = d[3] - d[1];
    t[0] = 2.f * (d[0] - d[2]) + a;
    t[1] = d[3] - d[2] - 2.f * d[1];
    t[2] = d[3] - 3.f * d[2] + 2.f * d[1];
    t[3] = a;
    t[4] = d[4] - d[2] - 2.f * a;
  }
  WRN_INLINE void output(const vec* m, vec* y) {  // 5 → 4
    const vec a = m[1] + m[2], b = m[1] - m[2];
    y[0] = m[0] + a + m[3];
    y[1] = b + 2.f * m[3];
    y[2] = a + 4.f * m[3];
    y[3] = b + 8.f * m[3] + m[4];
  }
  WRN_INLINE void filter(vec w0, vec w1, vec* u) {  // 2 → 5
    u[0] = w0 * .5f;
    u[1] = (w0 + w1) * -.5f;
    u[2] = (w1 - w0) * (1 / 6.f);
    u[3] = w0 * (1 / 6.f) + w1 * (1 / 3.f);
    u[4] = w1;
  }
};

// The compiler would keep the sums of a pointer and dozens of strides at once, and spill them all: told that it knows
// nothing of the pointer, it adds one stride at a time.
template <class T>
WRN_INLINE T* opaque(T* p) {
  asm("" : "+r"(p));
  return p;
}

// The patch of one tile, a vector of channels at a time: pixel(i, j) = p[i·row + j·column], activated as it is loaded.
// With kInside false, what is not in rows [top, bottom) and columns [left, right) lies outside the image and is zero:
// padding comes after the activation.
template <int kAct, bool kInside>
struct Pixels {
  const float* p;
  Index row, column, ahead;  // floats to the next row, pixel, tile
  int top, bottom, left, right;
  vec scale, shift, slope;

  // Column j, rows first, first + by, …: kCount of them. Those that the next tile reads are fetched into the first cache
  // meanwhile: no processor foresees six rows at once.
  template <int kCount, bool kFetch>
  WRN_INLINE void load_column(const Pixels& from, Index j, int first, int by, vec* d) {
    if (!kInside && (j < from.left || j >= from.right)) {
#pragma GCC unroll 9
      for (int i = 0; i < kCount; i++) d[i] = vec{};
      return;
    }
    const float* p = opaque(from.p + j * from.column + first * from.row);
#pragma GCC unroll 9
    for (int i = 0; i < kCount; i++) {
      const bool there = kInside || (first + i * by >= from.top && first + i * by < from.bottom);
      d[i] = there ? activated<kAct>(load(p), from.scale, from.shift, from.slope) : vec{};
      if (kFetch) __builtin_prefetch(p + from.ahead);
      p = opaque(p + by * from.row);
    }
  }
};

template <int M>
struct Stride1 {
  static constexpr Index kTile = M, kStep = M, kPatch = M + 2, kProducts = kPatch * kPatch, kTaps = 9;
  static constexpr int A = M + 2;

  // One patch → v + f·stride, f = 0 … kProducts - 1
  template <class Pixels>
  WRN_INLINE void input(const Pixels& pixels, float* v, Index stride) {
    vec columns[A][A];
#pragma GCC unroll 6
    for (int j = 0; j < A; j++) {
      vec d[A], out[A];
      if (j < 2) Pixels::template load_column<A, false>(pixels, j, 0, 1, d);
      else Pixels::template load_column<A, true>(pixels, j, 0, 1, d);
      Taps3<M>::input(d, out);
#pragma GCC unroll 6
      for (int i = 0; i < A; i++) columns[i][j] = out[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < A; i++) {
      vec out[A];
      Taps3<M>::input(columns[i], out);
#pragma GCC unroll 6
      for (int j = 0; j < A; j++, v = opaque(v + stride)) store(v, out[j]);
    }
  }

  // m + f·stride → the outputs [row][column]
  WRN_INLINE void output(const float* m, Index stride, vec (&y)[M][M]) {
    vec half[A][M];
#pragma GCC unroll 6
    for (int i = 0; i < A; i++) {
      vec d[A];
#pragma GCC unroll 6
      for (int j = 0; j < A; j++, m = opaque(m + stride)) d[j] = load(m);
      Taps3<M>::output(d, half[i]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < M; j++) {
      vec d[A], out[M];
#pragma GCC unroll 6
      for (int i = 0; i < A; i++) d[i] = half[i][j];
      Taps3<M>::output(d, out);
#pragma GCC unroll 4
      for (int i = 0; i < M; i++) y[i][j] = out[i];
    }
  }

  // The nine taps g[9·step] of one vector of filters → u + f·stride
  WRN_INLINE void filter(const float* g, Index step, float* u, Index stride) {
    vec columns[3][A];
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) {
      const vec d[3] = {load(g + j * step), load(g + (3 + j) * step), load(g + (6 + j) * step)};
      Taps3<M>::filter(d, columns[j]);
    }
#pragma GCC unroll 6
    for (int i = 0; i < A; i++) {
      const vec d[3] = {columns[0][i], columns[1][i], columns[2][i]};
      vec out[A];
      Taps3<M>::filter(d, out);
#pragma GCC unroll 6
      for (int j = 0; j < A; j++, u = opaque(u + stride)) store(u, out[j]);
    }
  }
};

// With z the padded input, y[i] = w0·z[2i] + w1·z[2i+1] + w2·z[2i+2]: two taps on the even samples, one on the odd. So
// along each side 5 frequencies are F(4, 2)'s of the even samples and 4 are the odd samples as they are; those along x
// vary slowest.
struct Stride2 {
  static constexpr Index kTile = 4, kStep = 8, kPatch = 9, kProducts = 81, kTaps = 9;

  template <class Pixels>
  WRN_INLINE void input(const Pixels& pixels, float* v, Index stride) {
    vec even[9][5];  // [frequency along y][even column]
    float* odd = v + 45 * stride;
#pragma GCC unroll 9
    for (int j = 0; j < 9; j++) {
      vec d[5], out[9];
      Pixels::template load_column<5, true>(pixels, j, 0, 2, d);
      Taps2::input(d, out);
      Pixels::template load_column<4, true>(pixels, j, 1, 2, out + 5);
#pragma GCC unroll 9
      for (int i = 0; i < 9; i++) {
        if (j % 2 == 0) even[i][j / 2] = out[i];
        else store(odd, out[i]), odd = opaque(odd + stride);
      }
    }
#pragma GCC unroll 9
    for (int i = 0; i < 9; i++) {
      vec out[5];
      Taps2::input(even[i], out);
      float* to = opaque(v + i * stride);
#pragma GCC unroll 5
      for (int j = 0; j < 5; j++, to = opaque(to + 9 * stride)) store(to, out[j]);
    }
  }

  WRN_INLINE void output(const float* m, Index stride, vec (&y)[4][4]) {
    vec half[9][4];  // [frequency along x][row]
#pragma GCC unroll 9
    for (int j = 0; j < 9; j++) {
      vec d[5];
#pragma GCC unroll 5
      for (int i = 0; i < 5; i++, m = opaque(m + stride)) d[i] = load(m);
      Taps2::output(d, half[j]);
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++, m = opaque(m + stride)) half[j][i] += load(m);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const vec d[5] = {half[0][i], half[1][i], half[2][i], half[3][i], half[4][i]};
      Taps2::output(d, y[i]);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) y[i][j] += half[5 + j][i];
    }
  }

  WRN_INLINE void filter(const float* g, Index step, float* u, Index stride) {
    vec columns[3][9];  // of each column of taps its 9 frequencies along y; the four odd samples have the same tap
    for (int j = 0; j < 3; j++) {
      Taps2::filter(load(g + j * step), load(g + (6 + j) * step), columns[j]);
      for (int i = 5; i < 9; i++) columns[j][i] = load(g + (3 + j) * step);
    }
    for (int i = 0; i < 9; i++) {
      vec out[5];
      Taps2::filter(columns[0][i], columns[2][i], out);
      for (int j = 0; j < 9; j++) store(u + (j * 9 + i) * stride, j < 5 ? out[j] : columns[1][i]);
    }
  }
};

}  // namespace
