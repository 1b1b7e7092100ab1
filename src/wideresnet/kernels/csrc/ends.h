// Where a network begins and ends, and what stands between convolutions that does not fit into their loads and stores.
#pragma once
#include "gemm.h"

namespace {

// The 3×3 stem on torch's own layout [n][c][h][w]: one image with its border, then each tap sent to all lanes.
template <int kRows>
WRN_INLINE void stem_block(const wrn_op& op, const float* image, Index across, Index plane, const float* b, float* y, Index kp) {
  vec sums[kRows] = {};
  for (Index c = 0; c < op.c; c++)
    for (int i = 0; i < 3; i++)
      for (int j = 0; j < 3; j++, b += kp) {
        const vec right = load(b);
        const float* a = image + c * plane + i * across + j;
#pragma GCC unroll 8
        for (int r = 0; r < kRows; r++) sums[r] += splat(a[r]) * right;
      }
  for (int r = 0; r < kRows; r++) store(y + r * kp, sums[r]);
}

// Image n of x → [c][h + 2][w + 2], zeros around.
WRN_INLINE void copy_with_border(const wrn_op& op, Index n, float* image) {
  const Index across = op.w + 2, plane = (op.h + 2) * across;
  memset(image, 0, op.c * plane * sizeof(float));
  for (Index c = 0; c < op.c; c++)
    for (Index i = 0; i < op.h; i++)
      memcpy(image + c * plane + (i + 1) * across + 1, op.x + ((n * op.c + c) * op.h + i) * op.w, op.w * sizeof(float));
}

void stem(const wrn_op& op, const Work& work) {
  const Index kp = padded(op.k), across = op.w + 2, plane = (op.h + 2) * across;
  const vec slope = splat(op.alpha);
  const Share part(op.n * op.h, work.member);  // rows of pixels
  float* image = work.mine;
  double* sums = own_sums(op, work, op.k);
  Index copied = -1;
  for (Index piece = part.first; piece < part.last; piece++) {
    const Index n = piece / op.h, y = piece % op.h;
    if (copied != n) copy_with_border(op, n, image), copied = n;
    float* out = op.y + piece * op.w * kp;
    for (Index k = 0; k < kp; k += kLanes) {
      Index x = 0;
      for (; x + 8 <= op.w; x += 8) stem_block<8>(op, image + y * across + x, across, plane, op.weight + k, out + x * kp + k, kp);
      for (; x < op.w; x++) stem_block<1>(op, image + y * across + x, across, plane, op.weight + k, out + x * kp + k, kp);
      const vec bias = op.bias ? load(op.bias + k) : vec{};
      if (op.bias || op.act_out != WRN_NONE)
        for (x = 0; x < op.w; x++) store(out + x * kp + k, finished(load(out + x * kp + k) + bias, op.act_out, slope));
      if (sums) {
        const vec about = reference(sums, op.k, k, load(out + k));
        vec sum1 = {}, sum2 = {};
        for (x = 0; x < op.w; x++) {
          const vec v = load(out + x * kp + k) - about;
          sum1 += v, sum2 += v * v;
        }
        add_moments(sums, op.k, k, sum1, sum2, op.w);
      }
    }
  }
}

Index stem_memory(const wrn_op& op) { return op.c * (op.h + 2) * (op.w + 2) + 16; }

// weight [k][c][9], times out_scale[k] → [c][9][k]
void pack_stem(const wrn_op& op, const float* weight, const float* out_scale, float* packed) {
  const Index kp = padded(op.k);
  for (Index i = 0; i < op.c * 9; i++)
    for (Index k = 0; k < kp; k++) *packed++ = k < op.k ? weight[k * op.c * 9 + i] * (out_scale ? out_scale[k] : 1.f) : 0.f;
}

template <int kAct>
WRN_INLINE vec any_activation(vec x, const wrn_op& op) {
  switch (kAct) {
    case WRN_RELU: return larger(vec{}, x);
    case WRN_LEAKY: return larger(vec{}, x) + op.alpha * smaller(vec{}, x);
    case WRN_SILU: return x / (1.f + exponential(-x));
    case WRN_GELU: return 0.5f * x * (1.f + error_function(x * 0.70710678118654752f));
    case WRN_ELU: return choose(x > 0.f, x, exponential(x) - 1.f);
    case WRN_SOFTPLUS: return choose(x > 20.f, x, log_one_plus(exponential(smaller(splat(20.f), x))));
    case WRN_PSSILU: return x * (1.f / (1.f + exponential(-op.alpha * x)) - op.beta) / (1.f - op.beta);
    default: return x;
  }
}

// y = act_in(x · scale + shift), with dropout; and the sums of y where they are asked for.
template <int kAct>
void activate(const wrn_op& op, const Work& work) {
  const Index cp = padded(op.c), pixels = op.n * op.h;  // rows of pixels
  const Share part(pixels, work.member);
  double* sums = own_sums(op, work, op.c);
  for (Index row = part.first; row < part.last; row++)
    for (Index c = 0; c < cp; c += kLanes) {
      const vec scale = op.scale ? load(op.scale + c) : splat(1.f), shift = op.scale ? load(op.shift + c) : vec{};
      vec sum1 = {}, sum2 = {}, about = {};
      for (Index i = row * op.w; i < (row + 1) * op.w; i++) {
        vec x = load(op.x + i * cp + c);
        if (op.scale) x = x * scale + shift;
        x = any_activation<kAct>(x, op);
        for (Index lane = op.c - c; lane < kLanes; lane++) x[lane] = 0;  // softplus(0) is not 0
        if (op.drop > 0) x *= kept(op, (op.image * op.h * op.w + i) * cp + c);
        if (sums && i == row * op.w) about = reference(sums, op.c, c, x);
        if (sums) sum1 += x - about, sum2 += (x - about) * (x - about);
        store(op.y + i * cp + c, x);
      }
      if (sums) add_moments(sums, op.c, c, sum1, sum2, op.w);
    }
}

void pool_pad(const wrn_op& op, const Work& work) {
  const Index cp = padded(op.c), kp = padded(op.k);
  const Share part(op.n * op.ho, work.member);
  for (Index piece = part.first; piece < part.last; piece++) {
    const Index n = piece / op.ho, oy = piece % op.ho, y_end = std::min((oy + 1) * op.stride, op.h);
    for (Index ox = 0; ox < op.wo; ox++) {
      const Index x_end = std::min((ox + 1) * op.stride, op.w);
      float* out = op.y + (piece * op.wo + ox) * kp;
      for (Index k = 0; k < kp; k += kLanes) {
        vec sum = {};
        float count = 0;
        for (Index y = oy * op.stride; y < y_end && k < cp; y++)
          for (Index x = ox * op.stride; x < x_end; x++, count++) sum += load(op.x + ((n * op.h + y) * op.w + x) * cp + k);
        if (k < cp) sum /= count;
        // Where the input is infinite its padding is NaN (0 · ∞), and here alone it would be an output channel.
        for (Index lane = std::max<Index>(op.c - k, 0); lane < kLanes; lane++) sum[lane] = 0;
        store(out + k, sum);
      }
    }
  }
}

// The mean of act_in(x · scale + shift) over image n → mean; padding is 0.
template <int kAct>
WRN_INLINE void pool_image(const wrn_op& op, Index n, float* mean) {
  const Index cp = padded(op.c), pixels = op.h * op.w;
  const float* x = op.x + n * pixels * cp;
  for (Index c = 0; c < cp; c += kLanes) {
    vec sum = {};
    for (Index row = 0; row < pixels; row += op.w) {  // rows apart: one sum of all pixels of a large map is 10 times less exact
      vec of_row = {};
      for (Index i = row; i < row + op.w; i++) {
        vec v = load(x + i * cp + c);
        if (op.scale) v = v * load(op.scale + c) + load(op.shift + c);
        of_row += any_activation<kAct>(v, op);
      }
      sum += of_row;
    }
    sum /= static_cast<float>(pixels);
    for (Index lane = op.c - c; lane < kLanes; lane++) sum[lane] = 0;
    store(mean + c, sum);
  }
}

template <int kAct>
void pool(const wrn_op& op, const Work& work) {
  const Share part(op.n, work.member);
  for (Index n = part.first; n < part.last; n++) {
    pool_image<kAct>(op, n, work.mine);
    memcpy(op.y + n * op.c, work.mine, op.c * sizeof(float));
  }
}

template <int kAct>
void head(const wrn_op& op, const Work& work) {
  const Index cp = padded(op.c);
  const Share part(op.n, work.member);
  float* mean = work.mine;
  for (Index n = part.first; n < part.last; n++) {
    pool_image<kAct>(op, n, mean);
    float squares = 0;
    for (Index c = 0; c < cp; c++) squares += mean[c] * mean[c];
    const float length = op.cosine ? std::max(std::sqrt(squares), 1e-12f) : 1.f;
    for (Index k = 0; k < op.k; k++) {
      vec sum = {};
      for (Index c = 0; c < cp; c += kLanes) sum += load(mean + c) * load(op.weight + k * cp + c);
      float total = 0;
      for (Index lane = 0; lane < kLanes; lane++) total += sum[lane];
      op.y[n * op.k + k] = total / length + (op.bias ? op.bias[k] : 0.f);
    }
  }
}

// weight [k][c] → [k][padded c]
void pack_head(const wrn_op& op, const float* weight, float* packed) {
  const Index cp = padded(op.c);
  for (Index k = 0; k < op.k; k++)
    for (Index c = 0; c < cp; c++) *packed++ = c < op.c ? weight[k * op.c + c] : 0.f;
}

}  // namespace
