// What the gradients need besides transforms.h: schemes of the input's gradient where a convolution has a stride or
// one tap, and each scheme's transposed transforms, for the weight's. A convolution is y = Aᵀ[(G w) ⊙ (Bᵀ d)], so
//   gradient of w = Gᵀ[(A ȳ) ⊙ (Bᵀ d)], summed over tiles, and that of d a convolution with w turned round.
#pragma once
#include "transforms.h"

namespace {

// The gradient of the input of a 3×3 convolution with stride 2. With z the padded input and x = z[1…], two pixels of a
// side come of each output: z[2i+1] = w1·ȳ[i], and z[2i+2] = w2·ȳ[i] + w0·ȳ[i+1], two taps. So 8×8 pixels are made of
// 5×5 outputs: along each side 5 frequencies of F(4, 2) and 4 outputs as they are. Filters are turned round already,
// and transformed as Stride2's.
struct Up2 {
  static constexpr Index kTile = 8, kStep = 4, kPatch = 5, kProducts = 81, kTaps = 9;

  template <class Pixels>
  WRN_INLINE void input(const Pixels& pixels, float* v, Index stride) {
    vec columns[9][5];  // [frequency along y][column]
#pragma GCC unroll 5
    for (int j = 0; j < 5; j++) {
      vec d[5], out[5];
      Pixels::template load_column<5, true>(pixels, j, 0, 1, d);
      Taps2::input(d, out);
#pragma GCC unroll 5
      for (int i = 0; i < 5; i++) columns[i][j] = out[i];
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) columns[5 + i][j] = d[i];
    }
#pragma GCC unroll 9
    for (int i = 0; i < 9; i++) {
      vec out[9];
      Taps2::input(columns[i], out);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) out[5 + j] = columns[i][j];
      float* to = opaque(v + i * stride);
#pragma GCC unroll 9
      for (int j = 0; j < 9; j++, to = opaque(to + 9 * stride)) store(to, out[j]);
    }
  }

  WRN_INLINE void output(const float* m, Index stride, vec (&y)[8][8]) {
    vec half[9][8];  // [frequency along x][row]
    for (int j = 0; j < 9; j++) {
      vec d[5], out[4];
#pragma GCC unroll 5
      for (int i = 0; i < 5; i++, m = opaque(m + stride)) d[i] = load(m);
      Taps2::output(d, out);
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++, m = opaque(m + stride)) half[j][2 * i] = load(m), half[j][2 * i + 1] = out[i];
    }
    for (int i = 0; i < 8; i++) {
      const vec d[5] = {half[0][i], half[1][i], half[2][i], half[3][i], half[4][i]};
      vec out[4];
      Taps2::output(d, out);
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) y[i][2 * j] = half[5 + j][i], y[i][2 * j + 1] = out[j];
    }
  }

  WRN_INLINE void filter(const float* g, Index step, float* u, Index stride) { Stride2::filter(g, step, u, stride); }
};

// A 1×1 convolution that reads every S-th pixel: one product of matrices.
template <int S>
struct Point {
  static constexpr Index kTile = 1, kStep = S, kPatch = 1, kProducts = 1, kTaps = 1;

  template <class Pixels>
  WRN_INLINE void input(const Pixels& pixels, float* v, Index) {
    vec d[1];
    Pixels::template load_column<1, false>(pixels, 0, 0, 1, d);
    store(v, d[0]);
  }
  WRN_INLINE void output(const float* m, Index, vec (&y)[1][1]) { y[0][0] = load(m); }
  WRN_INLINE void filter(const float* g, Index, float* u, Index) { store(u, load(g)); }
};

// Its input's gradient with stride 2: a quarter of the pixels, the others zero.
struct PointUp {
  static constexpr Index kTile = 2, kStep = 1, kPatch = 1, kProducts = 1, kTaps = 1;

  template <class Pixels>
  WRN_INLINE void input(const Pixels& pixels, float* v, Index stride) { Point<1>::input(pixels, v, stride); }
  WRN_INLINE void output(const float* m, Index, vec (&y)[2][2]) {
    y[0][0] = load(m);
    y[0][1] = y[1][0] = y[1][1] = vec{};
  }
  WRN_INLINE void filter(const float* g, Index, float* u, Index) { store(u, load(g)); }
};

// The transposed transforms of one side. `output`: outputs → frequencies, `filter`: frequencies → taps.
template <int M> struct Taps3Adjoint;
template <> struct Taps3Adjoint<4> {
  WRN_INLINE void output(const vec* y, vec* m) {  // 4 → 6
    const vec a = y[0] + y[2], b = y[1] + y[3], c = y[0] + 4.f * y[2], d = 2.f * y[1] + 8.f * y[3];
    m[0] = y[0];
    m[1] = a + b;
    m[2] = a - b;
    m[3] = c + d;
    m[4] = c - d;
    m[5] = y[3];
  }
  WRN_INLINE void filter(const vec* u, vec* w) {  // 6 → 3
    const vec a = (u[1] + u[2]) * (1 / 6.f), b = u[3] + u[4];
    w[0] = u[0] * .25f - a + b * (1 / 24.f);
    w[1] = (u[2] - u[1]) * (1 / 6.f) + (u[3] - u[4]) * (1 / 12.f);
    w[2] = b * (1 / 6.f) - a + u[5];
  }
};
struct Taps2Adjoint {
  WRN_INLINE void output(const vec* y, vec* m) {  // 4 → 5
    const vec a = y[0] + y[2], b = y[1] + y[3];
    m[0] = y[0];
    m[1] = a + b;
    m[2] = a - b;
    m[3] = y[0] + 2.f * y[1] + 4.f * y[2] + 8.f * y[3];
    m[4] = y[3];
  }
  WRN_INLINE void filter(const vec* u, vec& w0, vec& w1) {  // 5 → 2
    w0 = .5f * (u[0] - u[1]) + (u[3] - u[2]) * (1 / 6.f);
    w1 = u[2] * (1 / 6.f) - .5f * u[1] + u[3] * (1 / 3.f) + u[4];
  }
};

// `output`: the outputs of one tile → their frequencies, at d + f·stride. `filter`: sums at u + f·stride → the nine taps.
template <class Scheme> struct Adjoint;

template <> struct Adjoint<Stride1<4>> {
  WRN_INLINE void output(const vec (&y)[4][4], float* d, Index stride) {
    vec rows[6][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      const vec column[4] = {y[0][j], y[1][j], y[2][j], y[3][j]};
      vec out[6];
      Taps3Adjoint<4>::output(column, out);
#pragma GCC unroll 6
      for (int i = 0; i < 6; i++) rows[i][j] = out[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) {
      vec out[6];
      Taps3Adjoint<4>::output(rows[i], out);
#pragma GCC unroll 6
      for (int j = 0; j < 6; j++, d = opaque(d + stride)) store(d, out[j]);
    }
  }
  WRN_INLINE void filter(const float* u, Index stride, vec (&w)[9]) {
    vec rows[6][3];
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) {
      vec d[6];
#pragma GCC unroll 6
      for (int j = 0; j < 6; j++, u = opaque(u + stride)) d[j] = load(u);
      Taps3Adjoint<4>::filter(d, rows[i]);
    }
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) {
      const vec d[6] = {rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j]};
      vec out[3];
      Taps3Adjoint<4>::filter(d, out);
#pragma GCC unroll 3
      for (int i = 0; i < 3; i++) w[3 * i + j] = out[i];
    }
  }
};

template <> struct Adjoint<Stride2> {
  WRN_INLINE void output(const vec (&y)[4][4], float* d, Index stride) {
    vec half[9][4];  // [frequency along x][row]
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      vec out[5];
      Taps2Adjoint::output(y[i], out);
#pragma GCC unroll 5
      for (int j = 0; j < 5; j++) half[j][i] = out[j];
#pragma GCC unroll 4
      for (int j = 0; j < 4; j++) half[5 + j][i] = y[i][j];
    }
#pragma GCC unroll 9
    for (int j = 0; j < 9; j++) {
      vec out[5];
      Taps2Adjoint::output(half[j], out);
#pragma GCC unroll 5
      for (int i = 0; i < 5; i++, d = opaque(d + stride)) store(d, out[i]);
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++, d = opaque(d + stride)) store(d, half[j][i]);
    }
  }
  WRN_INLINE void filter(const float* u, Index stride, vec (&w)[9]) {
    vec columns[3][9];  // [column of taps][frequency along y]
    for (int i = 0; i < 9; i++) {
      vec d[9];
      for (int j = 0; j < 9; j++) d[j] = load(u + (j * 9 + i) * stride);
      Taps2Adjoint::filter(d, columns[0][i], columns[2][i]);
      columns[1][i] = d[5] + d[6] + d[7] + d[8];
    }
    for (int j = 0; j < 3; j++) {
      Taps2Adjoint::filter(columns[j], w[j], w[6 + j]);
      w[3 + j] = columns[j][5] + columns[j][6] + columns[j][7] + columns[j][8];
    }
  }
};

template <int S> struct Adjoint<Point<S>> {
  WRN_INLINE void output(const vec (&y)[1][1], float* d, Index) { store(d, y[0][0]); }
  WRN_INLINE void filter(const float* u, Index, vec (&w)[1]) { w[0] = load(u); }
};

}  // namespace
