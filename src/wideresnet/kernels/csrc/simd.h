// One vector of WRN_LANES float32, by the compiler's vector extension: the same source for every instruction set.
// Included once for each (isa.cpp), with WRN_LANES set and the compiler told which instructions it may use.
#pragma once
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <cmath>

#define WRN_INLINE static inline __attribute__((always_inline))

namespace {

typedef float vec __attribute__((vector_size(WRN_LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(WRN_LANES * 4)));
typedef uint32_t uvec __attribute__((vector_size(WRN_LANES * 4)));
typedef double dvec __attribute__((vector_size(WRN_LANES * 8)));
typedef double loose_dvec __attribute__((vector_size(WRN_LANES * 8), aligned(8), may_alias));
typedef float loose_vec __attribute__((vector_size(WRN_LANES * 4), aligned(4), may_alias));
using Index = int64_t;
constexpr Index kLanes = WRN_LANES;

WRN_INLINE vec load(const float* p) { return *reinterpret_cast<const loose_vec*>(p); }
WRN_INLINE void store(float* p, vec v) { *reinterpret_cast<loose_vec*>(p) = v; }
WRN_INLINE vec splat(float f) { return f - vec{}; }
WRN_INLINE vec bits(ivec v) { return reinterpret_cast<vec>(v); }
WRN_INLINE ivec bits(vec v) { return reinterpret_cast<ivec>(v); }
// Of two, and of a NaN in `b` the NaN: as the processor's own instruction has it, and as torch's ReLU does.
WRN_INLINE vec larger(vec a, vec b) { return a > b ? a : b; }
WRN_INLINE vec smaller(vec a, vec b) { return a < b ? a : b; }
WRN_INLINE vec choose(ivec yes, vec a, vec b) { return bits((yes & bits(a)) | (~yes & bits(b))); }

// Sums of many: float32 for the few values of a tile or a row, float64 for the rest.
WRN_INLINE void add_to(double* p, vec v) { *reinterpret_cast<loose_dvec*>(p) += __builtin_convertvector(v, dvec); }

WRN_INLINE Index round_up(Index n, Index to) { return (n + to - 1) / to * to; }
WRN_INLINE Index divide_up(Index n, Index by) { return (n + by - 1) / by; }

// exp(x), to 2 units in the last place (Cephes: x = n·ln 2 + r, a polynomial for r); 0 below -87.3, inf above 88.7.
WRN_INLINE vec exponential(vec x) {
  const vec bounded = smaller(splat(88.8f), larger(splat(-87.4f), x));
  vec n = bounded * 1.44269504088896341f;
  n = (n + 12582912.f) - 12582912.f;  // to the nearest whole number
  vec r = bounded - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  // 2^n in two factors, for n reaches 128, whose power alone is no float
  const ivec whole = __builtin_convertvector(n, ivec), half = whole >> 1;
  const vec y = p * bits((half + 127) << 23) * bits((whole - half + 127) << 23);
  return choose(x == x, choose(x < -87.33f, vec{}, y), x);
}

// log(1 + x) for x from 0, relative error below 3e-7 (Cephes logf on 1 + x, corrected for what 1 + x lost).
WRN_INLINE vec log_one_plus(vec x) {
  const vec u = x + 1.f;
  const ivec raw = bits(u) - 0x3f3504f3;  // so that the mantissa lies in [√½, √2)
  const vec e = __builtin_convertvector(raw >> 23, vec);
  const vec m = bits((raw & 0x007fffff) + 0x3f3504f3) - 1.f;
  vec p = splat(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  vec y = p * m * (m * m) + e * -2.12194440e-4f;
  y = y - 0.5f * (m * m) + m + e * 0.693359375f;
  return y + (x - (u - 1.f)) / u;
}

// erf(x), to 2e-7 (a rational function of x² on [-4, 4], Eigen's and XLA's; ±1 beyond).
WRN_INLINE vec error_function(vec x) {
  const vec b = smaller(splat(4.f), larger(splat(-4.f), x)), s = b * b;
  vec p = splat(-2.72614225801306e-10f);
  p = p * s + 2.77068142495902e-08f;
  p = p * s - 2.10102402082508e-06f;
  p = p * s - 5.69250639462346e-05f;
  p = p * s - 7.34990630326855e-04f;
  p = p * s - 2.95459980854025e-03f;
  p = p * s - 1.60960333262415e-02f;
  vec q = splat(-1.45660718464996e-05f);
  q = q * s - 2.13374055278905e-04f;
  q = q * s - 1.68282697438203e-03f;
  q = q * s - 7.37332916720468e-03f;
  q = q * s - 1.42647390514189e-02f;
  return choose(x == x, b * p / q, x);
}

}  // namespace
