// 3×3 convolutions in Winograd's domain: tiles are transformed, at each frequency multiplied as matrices over the
// channels, and transformed back, a block of tiles at a time, which stays in the cache. Layouts:
//   packed weights  [panel][products][c][panel's channels]
//   V               [products][tiles][c]          transformed input of one block of tiles
//   M               [products][tiles][block's output channels]
#pragma once
#include "gemm.h"
#include "adjoints.h"

namespace {

template <class Scheme>
struct Tiles {
  Index high, wide, count;
  explicit Tiles(const wrn_op& op)
      : high(divide_up(op.ho + op.out_top, Scheme::kTile)),
        wide(divide_up(op.wo + op.out_left, Scheme::kTile)),
        count(op.n * high * wide) {}
};

// Where a tile lies, one after the other.
struct Place {
  Index n, y, x, high, wide;
  template <class Scheme>
  Place(const Tiles<Scheme>& tiles, Index t)
      : n(t / (tiles.high * tiles.wide)), y(t / tiles.wide % tiles.high), x(t % tiles.wide), high(tiles.high), wide(tiles.wide) {}
  void next() {
    if (++x < wide) return;
    x = 0;
    if (++y < high) return;
    y = 0;
    n++;
  }
};

template <class Scheme, int kAct, bool kInside>
WRN_INLINE void transform_tile(const wrn_op& op, Pixels<kAct, kInside> pixels, Index cp, float* v, Index stride) {
  for (Index c = 0; c < cp; c += kLanes, pixels.p += kLanes) {
    if (kAct != WRN_NONE) pixels.scale = load(op.scale + c), pixels.shift = load(op.shift + c);
    Scheme::input(pixels, v + c, stride);
  }
}

// Tiles [first, last) → v, whose first tile is `first`.
template <class Scheme, int kAct>
void transform_input(const wrn_op& op, float* v, Index stride, Index first, Index last) {
  constexpr Index kPatch = Scheme::kPatch;
  const Index cp = padded(op.c), row = op.w * cp, step = Scheme::kStep;
  const vec slope = splat(op.alpha);
  Place place(Tiles<Scheme>(op), first);
  for (Index t = first; t < last; t++, v += cp, place.next()) {
    const Index y0 = place.y * step - op.pad_top, x0 = place.x * step - op.pad_left;
    const int top = static_cast<int>(std::max<Index>(-y0, 0)), bottom = static_cast<int>(std::min(kPatch, op.h - y0));
    const int left = static_cast<int>(std::max<Index>(-x0, 0)), right = static_cast<int>(std::min(kPatch, op.w - x0));
    const float* x = op.x + ((place.n * op.h + y0) * op.w + x0) * cp;
    if (top == 0 && left == 0 && bottom == kPatch && right == kPatch)
      transform_tile<Scheme>(op, Pixels<kAct, true>{x, row, cp, step * cp, 0, 0, 0, 0, vec{}, vec{}, slope}, cp, v, stride);
    else
      transform_tile<Scheme>(op, Pixels<kAct, false>{x, row, cp, step * cp, top, bottom, left, right, vec{}, vec{}, slope}, cp, v, stride);
  }
}

template <class Scheme>
void transform_input(const wrn_op& op, float* v, Index stride, Index first, Index last) {
  with_activation_on_load(op, [&](auto act) { transform_input<Scheme, act>(op, v, stride, first, last); });
}

// M of tiles [first, last) and output channels [from, to) → y, with what follows the convolution; `sums`: this thread's.
template <class Scheme, int kEnd>
void transform_output(const wrn_op& op, const float* m, Index stride, Index width, Index first, Index last, Index from, Index to, double* sums) {
  constexpr Index kTile = Scheme::kTile;
  const Index kp = padded(op.k), row = op.wo * kp;
  const vec slope = splat(op.alpha);
  Place place(Tiles<Scheme>(op), first);
  for (Index t = first; t < last; t++, m += width, place.next()) {
    const Index y0 = place.y * kTile - op.out_top, x0 = place.x * kTile - op.out_left;
    const Index top = std::max<Index>(-y0, 0), bottom = std::min(kTile, op.ho - y0);
    const Index left = std::max<Index>(-x0, 0), right = std::min(kTile, op.wo - x0);
    const bool whole = top == 0 && left == 0 && bottom == kTile && right == kTile;
    const Index offset = ((place.n * op.ho + y0) * op.wo + x0) * kp;
    for (Index k = from; k < to; k += kLanes) {
      const vec bias = kEnd != WRN_SLOPED && op.bias ? load(op.bias + k) : vec{};
      vec scale = {}, shift = {}, mean = {}, sum1 = {}, sum2 = {};
      if (kEnd == WRN_SLOPED) {
        scale = load(norm_row(op, WRN_SCALE, op.k) + k);
        shift = load(norm_row(op, WRN_SHIFT, op.k) + k);
        mean = load(norm_row(op, WRN_MEAN, op.k) + k);
      }
      vec out[kTile][kTile];
      Scheme::output(m + k - from, stride, out);
      float* y = op.y + offset + k;
      const float* res = op.res ? op.res + offset + k : nullptr;
      const float* z = kEnd == WRN_SLOPED ? op.z + offset + k : nullptr;
      if (kEnd == WRN_SUMMED) {
        const vec first = out[top][left] + bias;
        mean = reference(sums, op.k, k, res ? first + load(res + top * row + left * kp) : first);
      }
      const float* next = (z ? z : res ? res : y) + kTile * kp;
      if (kTile == 4) {
#pragma GCC unroll 4
        for (Index i = 0; i < kTile; i++)
#pragma GCC unroll 4
          for (Index j = 0; j < kTile; j++) __builtin_prefetch(next + i * row + j * kp, 1);
      }
      const auto finish = [&](Index i, Index j) {
        const Index at = i * row + j * kp;
        vec v = out[i][j] + bias;
        if (kEnd == WRN_PLAIN) {
          // What overflowed in the transforms may be -∞ where the convolution is not, and a ReLU would make a plausible 0 of
          // it: NaN instead, which nothing hides, so that the caller sees it in the logits and takes the direct way.
          v = finished(v + v * 0.f, op.act_out, slope);
        }
        if (kEnd == WRN_SUMMED && op.drop > 0) v *= kept(op, op.image * op.ho * row + offset + k + at);
        if (res) v += load(res + at);
        if (kEnd == WRN_SLOPED) {
          const vec read = load(z + at);
          v = choose(read * scale + shift > 0.f, v, slope * v);
          sum1 += v, sum2 += v * (read - mean);
        }
        if (kEnd == WRN_SUMMED) sum1 += v - mean, sum2 += (v - mean) * (v - mean);
        store(y + at, v);
      };
      if (whole) {
#pragma GCC unroll 4
        for (Index i = 0; i < kTile; i++)
#pragma GCC unroll 4
          for (Index j = 0; j < kTile; j++) finish(i, j);
      } else {
        for (Index i = top; i < bottom; i++)
          for (Index j = left; j < right; j++) finish(i, j);
      }
      if (kEnd == WRN_SLOPED) add_to(sums + k, sum1), add_to(sums + kp + k, sum2);
      if (kEnd == WRN_SUMMED) add_moments(sums, op.k, k, sum1, sum2, (bottom - top) * (right - left));
    }
  }
}

template <class Scheme>
void transform_output(const wrn_op& op, const float* m, Index stride, Index width, Index first, Index last, Index from, Index to, double* sums) {
  const auto f = op.end == WRN_PLAIN ? transform_output<Scheme, WRN_PLAIN> : op.end == WRN_SUMMED ? transform_output<Scheme, WRN_SUMMED> : transform_output<Scheme, WRN_SLOPED>;
  f(op, m, stride, width, first, last, from, to, sums);
}

// Floats from one frequency of a panel's filters to the next: a line more, for the reason of frequency_stride.
WRN_INLINE Index filter_stride(Index floats) { return floats + 16; }
template <class Scheme>
WRN_INLINE Index panel_floats(const wrn_op& op) {
  return op.raw_filters ? Scheme::kTaps * op.c * kPanel : Scheme::kProducts * filter_stride(op.c * kPanel);
}

constexpr Index kChunk = 64;  // input channels whose filters are transformed at a time, with raw filters

template <class Scheme>
struct Sizes {  // of the work memory, in floats
  Index tiles, panels, v_stride, m_stride, filters;
  explicit Sizes(const wrn_op& op)
      : tiles(std::min(op.block_tiles, Tiles<Scheme>(op).count)),
        panels(std::min(op.block_panels, num_panels(op.k))),
        v_stride(frequency_stride(tiles * padded(op.c))),
        m_stride(frequency_stride(tiles * panels * kPanel)),
        filters(op.raw_filters ? Scheme::kProducts * (kChunk * kPanel + 16) : 0) {}
  Index shared() const { return Scheme::kProducts * v_stride; }
  Index own() const { return Scheme::kProducts * m_stride + filters; }
};

template <class Scheme, int kVecs>
void multiply_raw(const wrn_op& op, const Sizes<Scheme>& sizes, Index count, const float* v, const float* raw, float* m, Index width, float* u) {
  constexpr Index stride = kChunk * kVecs * kLanes + 16;
  const Index cp = padded(op.c), c = op.c;
  for (Index from = 0; from < c; from += kChunk) {
    const Index depth = std::min(kChunk, c - from);
    for (Index i = 0; i < depth; i++)
      for (int v = 0; v < kVecs; v++)
        Scheme::filter(raw + ((from + i) * 9 * kVecs + v) * kLanes, kVecs * kLanes, u + (i * kVecs + v) * kLanes, stride);
    // Meanwhile the next filters come from memory, a part with each product.
    const float* next = raw + (from + depth) * 9 * kVecs * kLanes;
    const Index lines = divide_up(kChunk * 9 * kVecs * kLanes, 16 * Scheme::kProducts);
    for (int f = 0; f < Scheme::kProducts; f++) {
      for (Index i = 0; i < lines; i++) __builtin_prefetch(next + (f * lines + i) * 16, 0, 2);
      multiply_panel<kVecs>(kCached, count, depth, v + f * sizes.v_stride + from, cp, u + f * stride, m + f * sizes.m_stride, width, from > 0);
    }
  }
}

// Few tiles, as of one small image, are bound by the filters: here they are transformed in registers, a row of six
// frequencies at a time, and multiplied at once, in chunks of channels that stay in the first cache.
constexpr Index kFew = kLanes == 16 ? 4 : 0;  // 6·4 sums need the 32 registers of AVX-512
constexpr Index kFewChunk = 32;

template <int kRow, int kTiles>
void few_row(Index depth, const float* v, Index v_stride, Index cp, const float* raw, Index step, float* m, Index m_stride, Index width, bool add) {
  vec sums[6][kTiles];
#pragma GCC unroll 6
  for (int f = 0; f < 6; f++)
#pragma GCC unroll 4
    for (int t = 0; t < kTiles; t++) sums[f][t] = add ? load(m + (kRow * 6 + f) * m_stride + t * width) : vec{};
  const float* base[6];
#pragma GCC unroll 6
  for (int f = 0; f < 6; f++) base[f] = v + (kRow * 6 + f) * v_stride;
  const Index cp3 = 3 * cp;
  for (Index c = 0; c < depth; c++, raw = opaque(raw + 9 * step)) {
    vec w[3], u[6];
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) w[j] = Taps3<4>::filter_row<kRow>(load(raw + j * step), load(raw + (3 + j) * step), load(raw + (6 + j) * step));
    // The next chunk comes from memory, a third of the taps in each pass that is not the last of two.
    __builtin_prefetch(raw + (kFewChunk * 9 + kRow) * step, 0, 2);
    if (kRow < 3) __builtin_prefetch(raw + (kFewChunk * 9 + 6 + kRow) * step, 0, 2);
    Taps3<4>::filter(w, u);
#pragma GCC unroll 6
    for (int f = 0; f < 6; f++)
#pragma GCC unroll 4
      for (int t = 0; t < kTiles; t++) sums[f][t] += splat(base[f][(t == 3 ? cp3 : t * cp) + c]) * u[f];
  }
#pragma GCC unroll 6
  for (int f = 0; f < 6; f++)
#pragma GCC unroll 4
    for (int t = 0; t < kTiles; t++) store(m + (kRow * 6 + f) * m_stride + t * width, sums[f][t]);
}

template <int kTiles>
void few(Index c, Index vecs, const float* v, Index v_stride, Index cp, const float* raw, float* m, Index m_stride, Index width) {
  const Index step = vecs * kLanes;
  for (Index from = 0; from < c; from += kFewChunk) {
    const Index depth = std::min(kFewChunk, c - from);
    for (Index i = 0; i < vecs; i++) {
      const float *a = v + from, *g = raw + from * 9 * step + i * kLanes;
      float* to = m + i * kLanes;
      few_row<0, kTiles>(depth, a, v_stride, cp, g, step, to, m_stride, width, from > 0);
      few_row<1, kTiles>(depth, a, v_stride, cp, g, step, to, m_stride, width, from > 0);
      few_row<2, kTiles>(depth, a, v_stride, cp, g, step, to, m_stride, width, from > 0);
      few_row<3, kTiles>(depth, a, v_stride, cp, g, step, to, m_stride, width, from > 0);
      few_row<4, kTiles>(depth, a, v_stride, cp, g, step, to, m_stride, width, from > 0);
      few_row<5, kTiles>(depth, a, v_stride, cp, g, step, to, m_stride, width, from > 0);
    }
  }
}

WRN_INLINE void multiply_few(Index count, Index c, Index vecs, const float* v, Index v_stride, Index cp, const float* raw, float* m, Index m_stride, Index width) {
  switch (count) {
    case 1: return few<1>(c, vecs, v, v_stride, cp, raw, m, m_stride, width);
    case 2: return few<2>(c, vecs, v, v_stride, cp, raw, m, m_stride, width);
    case 3: return few<3>(c, vecs, v, v_stride, cp, raw, m, m_stride, width);
    default: return few<4>(c, vecs, v, v_stride, cp, raw, m, m_stride, width);
  }
}

// One block of tiles through panels [first_panel, last_panel).
template <class Scheme>
void multiply_and_finish(const wrn_op& op, const Sizes<Scheme>& sizes, const float* v, float* m, Index first, Index last,
                         Index first_panel, Index last_panel, double* sums) {
  constexpr Index P = Scheme::kProducts;
  const Index cp = padded(op.c), c = op.c, kp = padded(op.k), count = last - first;
  const Way way = c * kp >= 200 * 200 ? kStreamed : kCached;  // 6 MB of filters: they come from the third cache, or from memory
  for (Index from = first_panel; from < last_panel; from += sizes.panels) {
    const Index to = std::min(from + sizes.panels, last_panel), width = std::min(to * kPanel, kp) - from * kPanel;
    if (Scheme::kTaps == 9 && op.raw_filters) {
      for (Index p = from; p < to; p++) {
        const float* raw = op.weight + p * panel_floats<Scheme>(op);
        float *u = m + P * sizes.m_stride, *out = m + (p - from) * kPanel;
        const Index vecs = kp - p * kPanel >= kPanel ? 2 : 1;
        if (std::is_same_v<Scheme, Stride1<4>> && count <= kFew) {
          multiply_few(count, c, vecs, v, sizes.v_stride, cp, raw, out, sizes.m_stride, width);
        } else if (vecs == 2) multiply_raw<Scheme, 2>(op, sizes, count, v, raw, out, width, u);
        else multiply_raw<Scheme, 1>(op, sizes, count, v, raw, out, width, u);
      }
    } else {
      for (Index f = 0; f < P; f++)
        for (Index p = from; p < to; p++) {
          const Index vecs = kp - p * kPanel >= kPanel ? 2 : 1;
          const float* u = op.weight + p * panel_floats<Scheme>(op) + f * filter_stride(c * vecs * kLanes);
          float* out = m + f * sizes.m_stride + (p - from) * kPanel;
          if (vecs == 2) multiply_panel<2>(way, count, c, v + f * sizes.v_stride, cp, u, out, width, false);
          else multiply_panel<1>(way, count, c, v + f * sizes.v_stride, cp, u, out, width, false);
        }
    }
    transform_output<Scheme>(op, m, sizes.m_stride, width, first, last, from * kPanel, from * kPanel + width, sums);
  }
}

// Panel p of weight [k][c][taps], times out_scale[k] → [products or taps][c][panel's channels]. Transposed: [c][k][taps],
// the taps in reverse.
template <class Scheme>
void pack_panel(const wrn_op& op, const float* weight, const float* out_scale, float* packed, Index p) {
  constexpr Index kTaps = Scheme::kTaps, kRun = 16;  // input channels at a time: what is read lies side by side
  const Index width = std::min(kPanel, padded(op.k) - p * kPanel), there = std::min(width, op.k - p * kPanel);
  float g[kRun][kTaps * kPanel];
  if (there < width) memset(g, 0, sizeof g);
  for (Index from = 0; from < op.c; from += kRun) {
    const Index run = std::min(kRun, op.c - from);
    // What is read next comes in pieces too short for the processor to foresee.
    if (op.transposed) {
      for (Index c = 0; c < run; c++) {
        const float* in = weight + ((from + c) * op.k + p * kPanel) * kTaps;
        for (Index i = 0; i < there * kTaps; i += 16) __builtin_prefetch(in + kRun * op.k * kTaps + i);
        for (Index k = 0; k < there; k++)
          for (Index t = 0; t < kTaps; t++) g[c][(kTaps - 1 - t) * width + k] = *in++;
      }
    } else {
      for (Index k = 0; k < there; k++) {
        const float* in = weight + ((p * kPanel + k) * op.c + from) * kTaps;
        for (Index i = 0; i < kRun * kTaps; i += 16) __builtin_prefetch(in + kRun * kTaps + i);
        const float scale = out_scale ? out_scale[p * kPanel + k] : 1.f;
        for (Index c = 0; c < run; c++)
          for (Index t = 0; t < kTaps; t++) g[c][t * width + k] = *in++ * scale;
      }
    }
    for (Index c = 0; c < run; c++) {
      float* to = packed + (from + c) * width;
      if (op.raw_filters) memcpy(packed + (from + c) * width * kTaps, g[c], kTaps * width * sizeof(float));
      else
        for (Index v = 0; v < width; v += kLanes) Scheme::filter(g[c] + v, width, to + v, filter_stride(op.c * width));
    }
  }
}

template <class Scheme>
struct Winograd {
  static void run(const wrn_op& op, const Work& work) {
    const Sizes<Scheme> sizes(op);
    double* sums = own_sums(op, work, op.k);
    const Index tiles = Tiles<Scheme>(op).count, panels = num_panels(op.k), cp = padded(op.c);
    if (op.share) {
      float *v = work.shared, *m = work.mine;
      for (Index first = 0; first < tiles; first += sizes.tiles) {
        const Index last = std::min(first + sizes.tiles, tiles);
        if (first > 0) work.member.wait();  // the block before is still being read
        const Share part(last - first, work.member), mine(panels, work.member);
        transform_input<Scheme>(op, v + part.first * cp, sizes.v_stride, first + part.first, first + part.last);
        work.member.wait();
        multiply_and_finish(op, sizes, v, m, first, last, mine.first, mine.last, sums);
      }
    } else {
      float *v = work.mine, *m = work.mine + sizes.shared();
      const Share part(tiles, work.member);
      const Index count = part.last - part.first, blocks = divide_up(count, sizes.tiles);
      for (Index b = 0; b < blocks; b++) {
        const Index first = part.first + count * b / blocks, last = part.first + count * (b + 1) / blocks;
        transform_input<Scheme>(op, v, sizes.v_stride, first, last);
        multiply_and_finish(op, sizes, v, m, first, last, 0, panels, sums);
      }
    }
  }

  static void memory(const wrn_op& op, Index& shared, Index& own) {
    const Sizes<Scheme> sizes(op);
    shared = op.share ? sizes.shared() : 0;
    own = op.share ? sizes.own() : sizes.shared() + sizes.own();
  }

  static Index packed_floats(const wrn_op& op) { return num_panels(op.k) * panel_floats<Scheme>(op); }

  static void pack(const wrn_op& op, const float* weight, const float* out_scale, float* packed, const wrn::Member& member) {
    const Share panels(num_panels(op.k), member);
    for (Index p = panels.first; p < panels.last; p++)
      pack_panel<Scheme>(op, weight, out_scale, packed + p * panel_floats<Scheme>(op), p);
  }
};

// `call` with the scheme of `op`.
template <class Call>
WRN_INLINE auto with_scheme(const wrn_op& op, const Call& call) {
  if (op.size == 1) {
    if (op.stride == 1) return call(Winograd<Point<1>>());
    return op.transposed ? call(Winograd<PointUp>()) : call(Winograd<Point<2>>());
  }
  if (op.stride == 2) return op.transposed ? call(Winograd<Up2>()) : call(Winograd<Stride2>());
  return op.tile == 4 ? call(Winograd<Stride1<4>>()) : call(Winograd<Stride1<2>>());
}

}  // namespace
