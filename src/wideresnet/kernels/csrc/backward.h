// Gradients: of BN and activation, element by element, and of the weights, as products over tiles.
#pragma once
#include "ends.h"
#include "winograd.h"

namespace {

// act'(x); of the PSSiLU also the derivatives by its α and β.
template <int kAct>
WRN_INLINE vec derivative(vec x, const wrn_op& op, vec& by_alpha, vec& by_beta) {
  switch (kAct) {
    case WRN_RELU: return choose(x > 0.f, splat(1.f), vec{});
    case WRN_LEAKY: return choose(x > 0.f, splat(1.f), splat(op.alpha));
    case WRN_SILU: {
      const vec s = 1.f / (1.f + exponential(-x));
      return s * (1.f + x * (1.f - s));
    }
    case WRN_GELU: {  // Φ(x) + x·φ(x)
      const vec phi = exponential(-.5f * x * x) * 0.39894228040143268f;
      return 0.5f * (1.f + error_function(x * 0.70710678118654752f)) + x * phi;
    }
    case WRN_ELU: return choose(x > 0.f, splat(1.f), exponential(x));
    case WRN_SOFTPLUS: return choose(x > 20.f, splat(1.f), 1.f / (1.f + exponential(-x)));
    case WRN_PSSILU: {
      const vec s = 1.f / (1.f + exponential(-op.alpha * x)), slope = s * (1.f - s);
      const float rest = 1.f / (1.f - op.beta);
      by_alpha = x * x * slope * rest;
      by_beta = x * (s - 1.f) * (rest * rest);
      return (s - op.beta + op.alpha * x * slope) * rest;
    }
    default: return splat(1.f);
  }
}

// y = x · act_in'(z · scale + shift), and dropout's factor; sums of y and y · (z − mean), and for what the activation learns.
template <int kAct>
void slope(const wrn_op& op, const Work& work) {
  const Index cp = padded(op.c);
  const Share part(op.n * op.h, work.member);
  double* sums = own_sums(op, work, op.c);
  for (Index row = part.first; row < part.last; row++)
    for (Index c = 0; c < cp; c += kLanes) {
      const vec scale = load(norm_row(op, WRN_SCALE, op.c) + c), shift = load(norm_row(op, WRN_SHIFT, op.c) + c);
      const vec mean = load(norm_row(op, WRN_MEAN, op.c) + c);
      vec sum[WRN_SUM_ROWS] = {}, x = {};
      if (op.pooled) {
        const Index n = row / op.h;
        for (Index lane = 0; lane < std::min(kLanes, op.c - c); lane++) x[lane] = op.x[n * op.c + c + lane];
        x /= static_cast<float>(op.h * op.w);
      }
      for (Index i = row * op.w; i < (row + 1) * op.w; i++) {
        if (!op.pooled) x = load(op.x + i * cp + c);
        const vec z = load(op.z + i * cp + c);
        vec by_alpha = {}, by_beta = {}, y = x;
        if (op.drop > 0) y *= kept(op, (op.image * op.h * op.w + i) * cp + c);
        const vec of_act = derivative<kAct>(z * scale + shift, op, by_alpha, by_beta);
        if (kAct == WRN_PSSILU) sum[2] += y * by_alpha, sum[3] += y * by_beta;
        y *= of_act;
        sum[0] += y, sum[1] += y * (z - mean);
        store(op.y + i * cp + c, y);
      }
      for (int i = 0; i < (kAct == WRN_PSSILU ? WRN_SUM_ROWS : 2); i++) add_to(sums + i * cp + c, sum[i]);
    }
}

// Σ over threads of row `row` of the sums, which it makes zero.
WRN_INLINE double taken(const wrn_op& op, const Work& work, int row, Index k) {
  double total = 0;
  for (int id = 0; id < work.member.size; id++) {
    double& sum = op.sums[(id * WRN_SUM_ROWS + row) * padded(op.k) + k];
    total += sum;
    sum = 0;
  }
  return total;
}

// Mean and sum of squares about it of so many values.
struct Moments {
  double count, mean, squares;
};

// Of channel k, from all threads' sums, which become zero; parts put together as Chan, Golub & LeVeque 1979 have it.
WRN_INLINE Moments taken_moments(const wrn_op& op, const Work& work, Index k) {
  const Index row = padded(op.k);
  Moments all = {0, 0, 0};
  for (int id = 0; id < work.member.size; id++) {
    double* sums = op.sums + id * WRN_SUM_ROWS * row + k;
    const double count = sums[3 * row], off = count > 0 ? sums[0] / count : 0;
    const double mean = sums[2 * row] + off, apart = mean - all.mean, total = all.count + count;
    if (count > 0) {
      all.squares += sums[row] - off * sums[0] + apart * apart * all.count * count / total;
      all.mean += apart * count / total;
      all.count = total;
    }
    for (int i = 0; i < WRN_SUM_ROWS; i++) sums[i * row] = 0;
  }
  return all;
}

// BN's scale and shift, of the batch's n·ho·wo values a channel; in eval mode of x and res, running mean and variance.
// weight, bias: γ and β.
void norm(const wrn_op& op, const Work& work) {
  const Share part(op.k, work.member);
  const double count = static_cast<double>(op.n) * op.ho * op.wo;
  for (Index k = part.first; k < part.last; k++) {
    const Moments batch = taken_moments(op, work, k);
    const double mean_here = batch.mean, var_here = batch.squares < 0 ? 0 : batch.squares / count;  // NaN stays
    const double mean = op.running ? op.x[k] : mean_here, var = op.running ? op.res[k] : var_here;
    const double rstd = 1 / std::sqrt(var + op.eps), scale = op.weight[k] * rstd;
    norm_row(op, WRN_SCALE, op.k)[k] = static_cast<float>(scale);
    norm_row(op, WRN_SHIFT, op.k)[k] = static_cast<float>(op.bias[k] - mean * scale);
    norm_row(op, WRN_MEAN, op.k)[k] = static_cast<float>(mean);
    norm_row(op, WRN_RSTD, op.k)[k] = static_cast<float>(rstd);
    if (op.y) {
      op.y[k] = static_cast<float>(mean_here);
      op.y[op.k + k] = static_cast<float>(var_here * count / (count - 1));
    }
  }
}

// Gradients of γ and β, and what the gradient of BN's input is made of: with g that of its output, x̂ the normalised input,
//   γ·rstd · (g − mean(g) − x̂ · mean(g·x̂)); in eval mode γ·rstd · g.
void norm_grad(const wrn_op& op, const Work& work) {
  const Share part(op.k, work.member);
  const double count = static_cast<double>(op.n) * op.ho * op.wo;
  for (Index k = part.first; k < part.last; k++) {
    const double rstd = norm_row(op, WRN_RSTD, op.k)[k], sum = taken(op, work, 0, k);
    const double of_scale = taken(op, work, 1, k) * rstd, p = norm_row(op, WRN_SCALE, op.k)[k];
    norm_row(op, WRN_P, op.k)[k] = static_cast<float>(p);
    norm_row(op, WRN_Q, op.k)[k] = op.running ? 0.f : static_cast<float>(-p * rstd * of_scale / count);
    norm_row(op, WRN_R, op.k)[k] = op.running ? 0.f : static_cast<float>(-p * sum / count);
    op.y[k] = static_cast<float>(of_scale);
    op.y2[k] = static_cast<float>(sum);
  }
}

// y = p·x + q·(z − mean) + r, times dropout's factor, + res.
void unnorm(const wrn_op& op, const Work& work) {
  const Index cp = padded(op.c);
  const Share part(op.n * op.h, work.member);
  for (Index row = part.first; row < part.last; row++)
    for (Index c = 0; c < cp; c += kLanes) {
      const vec p = load(norm_row(op, WRN_P, op.c) + c), q = load(norm_row(op, WRN_Q, op.c) + c);
      const vec r = load(norm_row(op, WRN_R, op.c) + c), mean = load(norm_row(op, WRN_MEAN, op.c) + c);
      for (Index i = row * op.w; i < (row + 1) * op.w; i++) {
        const Index at = i * cp + c;
        vec y = p * load(op.x + at) + (q * (load(op.z + at) - mean) + r);
        if (op.drop > 0) y *= kept(op, op.image * op.h * op.w * cp + at);
        if (op.res) y += load(op.res + at);
        store(op.y + at, y);
      }
    }
}

// Σ over a map's pixels, for the gradient of a convolution's bias.
void channel_sums(const wrn_op& op, const Work& work) {
  const Index cp = padded(op.c);
  const Share part(op.n * op.h, work.member);
  double* sums = own_sums(op, work, op.c);
  for (Index row = part.first; row < part.last; row++)
    for (Index c = 0; c < cp; c += kLanes) {
      vec sum = {};
      for (Index i = row * op.w; i < (row + 1) * op.w; i++) sum += load(op.x + i * cp + c);
      add_to(sums + c, sum);
    }
}

void pool_pad_grad(const wrn_op& op, const Work& work) {
  const Index cp = padded(op.c), kp = padded(op.k);
  const Share part(op.n * op.h, work.member);
  for (Index row = part.first; row < part.last; row++) {
    const Index n = row / op.h, y = row % op.h, oy = y / op.stride;
    const Index high = std::min((oy + 1) * op.stride, op.h) - oy * op.stride;
    for (Index x = 0; x < op.w; x++) {
      const Index ox = x / op.stride, wide = std::min((ox + 1) * op.stride, op.w) - ox * op.stride;
      const float* from = op.x + ((n * op.ho + oy) * op.wo + ox) * kp;
      for (Index c = 0; c < cp; c += kLanes) {
        vec v = load(from + c) / static_cast<float>(high * wide);
        for (Index lane = op.c - c; lane < kLanes; lane++) v[lane] = 0;
        store(op.y + (row * op.w + x) * cp + c, v);
      }
    }
  }
}

// The stem's weight: of each row of pixels nine sums a channel, in registers. sums [threads][c·9][padded k].
void stem_grad(const wrn_op& op, const Work& work) {
  const Index kp = padded(op.k), across = op.w + 2, plane = (op.h + 2) * across;
  const Share part(op.n * op.h, work.member);
  float* image = work.mine;
  double* sums = op.sums + work.member.id * op.c * 9 * kp;
  Index copied = -1;
  for (Index row = part.first; row < part.last; row++) {
    const Index n = row / op.h, y = row % op.h;
    if (copied != n) copy_with_border(op, n, image), copied = n;
    for (Index k = 0; k < kp; k += kLanes)
      for (Index c = 0; c < op.c; c++) {
        vec sum[9] = {};
        const float *from = image + c * plane + y * across, *grad = op.res + row * op.w * kp + k;
        for (Index x = 0; x < op.w; x++) {
          const vec g = load(grad + x * kp);
#pragma GCC unroll 9
          for (int t = 0; t < 9; t++) sum[t] += splat(from[t / 3 * across + x + t % 3]) * g;
        }
        for (int t = 0; t < 9; t++) add_to(sums + (c * 9 + t) * kp + k, sum[t]);
      }
  }
  work.member.wait();
  const Share filters(op.k, work.member);
  for (Index k = filters.first; k < filters.last; k++)
    for (Index i = 0; i < op.c * 9; i++) {
      double total = 0;
      for (int id = 0; id < work.member.size; id++) {
        double& sum = op.sums[(id * op.c * 9 + i) * kp + k];
        total += sum;
        sum = 0;
      }
      op.y[k * op.c * 9 + i] = static_cast<float>(total);
    }
}

// The weight's gradient in Winograd's domain: at each frequency Vᵀ D, V the transformed input and D the gradients of the
// outputs, transformed, summed over all tiles. Layouts: V [products][tiles][c], D [products][panel][tiles][panel's
// channels], and the sums, op.y, [products][panel][c][panel's channels], of each thread unless they share one.
template <class Scheme>
struct WeightGrad {
  static constexpr Index P = Scheme::kProducts;
  Index tiles, v_stride, d_stride;
  explicit WeightGrad(const wrn_op& op)
      : tiles(std::min(op.block_tiles, Tiles<Scheme>(op).count)),
        v_stride(frequency_stride(tiles * padded(op.c))),
        d_stride(frequency_stride(tiles * padded(op.k))) {}

  // Floats from one frequency's sums to the next, and of all.
  static Index sums_stride(const wrn_op& op) { return filter_stride(op.c * padded(op.k)); }
  static Index sums(const wrn_op& op) { return P * sums_stride(op); }

  static void memory(const wrn_op& op, Index& shared, Index& own) {
    const WeightGrad sizes(op);
    (op.share ? shared : own) = P * (sizes.v_stride + sizes.d_stride);
  }

  void transform_gradient(const wrn_op& op, float* d, Index first, Index from, Index to) const {
    constexpr Index kTile = Scheme::kTile;
    const Index kp = padded(op.k), row = op.wo * kp;
    Place place(Tiles<Scheme>(op), from);
    for (Index t = from; t < to; t++, place.next()) {
      const Index y0 = place.y * kTile, x0 = place.x * kTile;
      const Index rows = std::min(kTile, op.ho - y0), columns = std::min(kTile, op.wo - x0);
      const float* grad = op.res + ((place.n * op.ho + y0) * op.wo + x0) * kp;
      for (Index k = 0; k < kp; k += kLanes) {
        vec y[kTile][kTile];
        if (rows == kTile && columns == kTile) {
#pragma GCC unroll 4
          for (Index i = 0; i < kTile; i++)
#pragma GCC unroll 4
            for (Index j = 0; j < kTile; j++) {
              y[i][j] = load(grad + i * row + j * kp + k);
              __builtin_prefetch(grad + i * row + (j + kTile) * kp + k);
            }
        } else {
          for (Index i = 0; i < kTile; i++)
            for (Index j = 0; j < kTile; j++) y[i][j] = i < rows && j < columns ? load(grad + i * row + j * kp + k) : vec{};
        }
        const Index panel = k / kPanel, width = std::min(kPanel, kp - panel * kPanel);
        Adjoint<Scheme>::output(y, d + panel * kPanel * tiles + (t - first) * width + k % kPanel, d_stride);
      }
    }
  }

  // Piece = frequency · panels + panel.
  void multiply(const wrn_op& op, Index count, const float* v, const float* d, float* sum, Index first, Index last, bool add) const {
    const Index panels = num_panels(op.k), kp = padded(op.k), cp = padded(op.c);
    for (Index piece = first; piece < last; piece++) {
      const Index f = piece / panels, p = piece % panels;
      float* to = sum + f * sums_stride(op) + p * kPanel * op.c;
      const float *a = v + f * v_stride, *b = d + f * d_stride + p * kPanel * tiles;
      if (kp - p * kPanel >= kPanel) multiply_panel<2>(kAcross, op.c, count, a, cp, b, to, 2 * kLanes, add);
      else multiply_panel<1>(kAcross, op.c, count, a, cp, b, to, kLanes, add);
    }
  }

  static void run(const wrn_op& op, const Work& work) {
    const WeightGrad sizes(op);
    const Index all = Tiles<Scheme>(op).count, cp = padded(op.c), pieces = P * num_panels(op.k);
    if (op.share) {
      float *v = work.shared, *d = v + P * sizes.v_stride;
      for (Index first = 0; first < all; first += sizes.tiles) {
        const Index last = std::min(first + sizes.tiles, all);
        if (first > 0) work.member.wait();  // the block before is still being read
        const Share part(last - first, work.member), mine(pieces, work.member);
        transform_input<Scheme>(op, v + part.first * cp, sizes.v_stride, first + part.first, first + part.last);
        sizes.transform_gradient(op, d, first, first + part.first, first + part.last);
        work.member.wait();
        sizes.multiply(op, last - first, v, d, op.y, mine.first, mine.last, op.image > 0 || first > 0);
      }
    } else {
      float *v = work.mine, *d = v + P * sizes.v_stride, *sum = op.y + work.member.id * sums(op);
      const Share part(all, work.member);
      const Index count = part.last - part.first, blocks = divide_up(count, sizes.tiles);
      if (op.image == 0 && blocks == 0) memset(sum, 0, sums(op) * sizeof(float));
      for (Index b = 0; b < blocks; b++) {
        const Index first = part.first + count * b / blocks, last = part.first + count * (b + 1) / blocks;
        transform_input<Scheme>(op, v, sizes.v_stride, first, last);
        sizes.transform_gradient(op, d, first, first, last);
        sizes.multiply(op, last - first, v, d, sum, 0, pieces, op.image > 0 || b > 0);
      }
    }
  }

  // x, the sums → y, the gradient [k][c][taps].
  static void finish(const wrn_op& op, const Work& work) {
    constexpr Index kTaps = Scheme::kTaps, kRun = 16;
    const Index kp = padded(op.k), all = op.share ? 1 : work.member.size, runs = divide_up(op.c, kRun);
    const Share part(num_panels(op.k) * runs, work.member);
    float g[kLanes][kRun * kTaps], sum[P * kLanes];
    for (Index piece = part.first; piece < part.last; piece++) {
      const Index p = piece / runs, from = piece % runs * kRun, run = std::min(kRun, op.c - from);
      const Index width = std::min(kPanel, kp - p * kPanel);
      for (Index k = 0; k < width; k += kLanes) {
        for (Index c = 0; c < run; c++) {
          const float* u = op.x + p * kPanel * op.c + (from + c) * width + k;
          for (Index f = 0; f < P; f++) __builtin_prefetch(u + 4 * width + f * sums_stride(op));
          Index stride = sums_stride(op);
          if (all > 1) {
            for (Index f = 0; f < P; f++) {
              vec total = load(u + f * stride);
              for (Index id = 1; id < all; id++) total += load(u + id * sums(op) + f * stride);
              store(sum + f * kLanes, total);
            }
            u = sum, stride = kLanes;
          }
          vec w[kTaps];
          Adjoint<Scheme>::filter(u, stride, w);
          for (Index lane = 0; lane < kLanes; lane++)
            for (Index t = 0; t < kTaps; t++) g[lane][c * kTaps + t] = w[t][lane];
        }
        for (Index lane = 0; lane < kLanes && p * kPanel + k + lane < op.k; lane++)
          memcpy(op.y + ((p * kPanel + k + lane) * op.c + from) * kTaps, g[lane], run * kTaps * sizeof(float));
      }
    }
  }
};

// `call` with the weight's gradient of `op`'s scheme.
template <class Call>
WRN_INLINE auto with_weight_grad(const wrn_op& op, const Call& call) {
  if (op.size == 1) {
    if (op.stride == 1) return call(static_cast<WeightGrad<Point<1>>*>(nullptr));
    return call(static_cast<WeightGrad<Point<2>>*>(nullptr));
  }
  if (op.stride == 2) return call(static_cast<WeightGrad<Stride2>*>(nullptr));
  return call(static_cast<WeightGrad<Stride1<4>>*>(nullptr));
}

}  // namespace
