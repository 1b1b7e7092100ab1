// Convolutions as what they say: for each tap of the kernel a matrix product over the channels. What has a stride, 1×1,
// and the safe path of those that Winograd's transforms would overflow.
#pragma once
#include "gemm.h"

namespace {

// So many rows of outputs at a time: what they read of one image, activated, with its border of zeros.
struct Band {
  Index w, rows, h;
  explicit Band(const wrn_op& op) : w((op.wo - 1) * op.stride + op.size) {
    constexpr Index kFloats = 1 << 18;  // 1 MB, of which the maps that we know stay below
    const Index fit = (kFloats / (w * padded(op.c)) - op.size) / op.stride + 1;
    rows = std::min(std::max<Index>(fit, 1), op.ho);
    h = (rows - 1) * op.stride + op.size;
  }
};

template <int kAct>
void copy_band(const wrn_op& op, const float* x, const Band& band, Index first, float* out) {
  const Index cp = padded(op.c);
  const vec slope = splat(op.alpha);
  for (Index y = first; y < first + band.h; y++)
    for (Index i = 0; i < band.w; i++, out += cp) {
      const Index from_y = y - op.pad_top, from_x = i - op.pad_left;
      if (from_y < 0 || from_y >= op.h || from_x < 0 || from_x >= op.w) {
        memset(out, 0, cp * sizeof(float));
        continue;
      }
      const float* in = x + (from_y * op.w + from_x) * cp;
      for (Index c = 0; c < cp; c += kLanes) {
        vec scale = {}, shift = {};
        if (kAct != WRN_NONE) scale = load(op.scale + c), shift = load(op.shift + c);
        store(out + c, activated<kAct>(load(in + c), scale, shift, slope));
      }
    }
}

WRN_INLINE bool reads_input(const wrn_op& op) { return op.size == 1 && op.scale == nullptr; }

template <int kRows, int kVecs>
void direct_block(const wrn_op& op, const float* a, Index across, Index stride, const float* b, Index out, Index k) {
  vec sums[kRows][kVecs] = {};
  const Index cp = padded(op.c), kp = padded(op.k);
  for (Index i = 0; i < op.size; i++)
    for (Index j = 0; j < op.size; j++, b += op.c * kVecs * kLanes)
      multiply<kRows, kVecs>(op.c, a + i * across + j * cp, stride, b, sums);
  const vec slope = splat(op.alpha);
#pragma GCC unroll 2
  for (int v = 0; v < kVecs; v++) {
    const vec bias = op.bias ? load(op.bias + k + v * kLanes) : vec{};
#pragma GCC unroll 14
    for (int i = 0; i < kRows; i++) {
      const Index p = (out + i) * kp + k + v * kLanes;
      vec y = finished(sums[i][v] + bias, op.act_out, slope);
      if (op.res) y += load(op.res + p);
      store(op.y + p, y);
    }
  }
}

using DirectBlock = void (*)(const wrn_op&, const float*, Index, Index, const float*, Index, Index);
template <int kVecs, int... kRows>
constexpr auto direct_blocks_of(std::integer_sequence<int, kRows...>) {
  return std::array<DirectBlock, sizeof...(kRows)>{direct_block<kRows + 1, kVecs>...};
}
template <int kVecs>
constexpr auto kDirectBlocks = direct_blocks_of<kVecs>(std::make_integer_sequence<int, kMaxRows>{});

void direct(const wrn_op& op, const Work& work) {
  const Index cp = padded(op.c), kp = padded(op.k), panels = num_panels(op.k), taps = op.size * op.size;
  const Index split = std::min(op.split, panels);
  const Band band(op);
  const bool raw = reads_input(op);
  const Index across = (raw ? op.w : band.w) * cp;   // floats from one row of the image to the next
  const bool flat = raw && op.stride == 1;           // 1×1 with stride 1: all rows of pixels are one
  const Index pixels = flat ? op.ho * op.wo : op.wo;
  const Share part(op.n * split, work.member);
  for (Index piece = part.first; piece < part.last; piece++) {
    const Index n = piece / split, s = piece % split;
    const float* image = op.x + n * op.h * op.w * cp;
    for (Index top = 0; top < op.ho; top += band.rows) {
      const Index rows = flat ? (top == 0) : std::min(band.rows, op.ho - top);
      const float* x = raw ? image + top * op.stride * across : work.mine;
      if (!raw) with_activation_on_load(op, [&](auto act) { copy_band<act>(op, image, band, top * op.stride, work.mine); });
      for (Index p = panels * s / split; p < panels * (s + 1) / split; p++) {
        const bool two = kp - p * kPanel >= kPanel;
        const float* b = op.weight + p * kPanel * op.c * taps;
        for (Index oy = 0; oy < rows; oy++) {
          const float* a = x + oy * op.stride * across;
          const Index num = divide_up(pixels, kMaxRows), out = (n * op.ho + top + oy) * op.wo;
          for (Index i = 0; i < num; i++) {
            const Index first = pixels * i / num, count = pixels * (i + 1) / num - first;
            const auto f = two ? kDirectBlocks<2>[count - 1] : kDirectBlocks<1>[count - 1];
            f(op, a + first * op.stride * cp, across, op.stride * cp, b, out + first, p * kPanel);
          }
        }
      }
    }
  }
}

Index direct_memory(const wrn_op& op) {
  const Band band(op);
  return reads_input(op) ? 0 : band.h * band.w * padded(op.c);
}

// weight [k][c][taps], times out_scale[k] → [panel][taps][c][panel's channels]
void pack_direct(const wrn_op& op, const float* weight, const float* out_scale, float* packed) {
  const Index kp = padded(op.k), taps = op.size * op.size;
  for (Index p = 0; p < num_panels(op.k); p++) {
    const Index width = std::min(kPanel, kp - p * kPanel);
    float* to = packed + p * kPanel * op.c * taps;
    for (Index t = 0; t < taps; t++)
      for (Index c = 0; c < op.c; c++)
        for (Index k = 0; k < width; k++, to++) {
          const Index out = p * kPanel + k;
          *to = out < op.k ? weight[(out * op.c + c) * taps + t] * (out_scale ? out_scale[out] : 1.f) : 0.f;
        }
  }
}

}  // namespace
