// The C interface of the kernels: a network is an array of operations on NHWC float32 buffers, run by one call.
//
// Nothing here knows torch or Python: pointers and sizes only. All buffers are aligned to 64 bytes and have their
// channels padded with zeros to a multiple of wrn_lanes(), so that no inner loop has a remainder; the input of
// WRN_STEM and the logits of WRN_HEAD alone are dense, in torch's layout.
#pragma once
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(default)  // all else in the library is hidden
#ifdef __cplusplus
extern "C" {
#endif

enum { WRN_ABI = 3 };  // raised whenever wrn_op or a meaning changes: the Python side refuses another

enum wrn_kind {
  WRN_STEM = 0,      // NCHW input → NHWC: 3×3 convolution of few channels
  WRN_WINOGRAD = 1,  // 3×3 with stride 1, F(tile×tile, 3×3), or with stride 2
  WRN_DIRECT = 2,    // 1×1, and 3×3 without transforms: few tiles at a stride, or the safe path
  WRN_ACTIVATE = 3,  // y = act_in(x · scale + shift), elementwise
  WRN_POOL_PAD = 4,  // average over stride×stride, further channels zero: the shortcut without parameters
  WRN_HEAD = 5,      // logits = fc(mean(act_in(x · scale + shift)))
  // What training needs besides; WRN_NORM, WRN_NORM_GRAD and WRN_STEM_GRAD with all images as one group. z is the map that a BN read, norm that BN's rows (enum wrn_norm), sums its sums.
  WRN_PACK = 6,           // weight, as torch has it → y, packed for the convolution whose fields these are, of kind `of`
  WRN_NORM = 7,           // sums → norm; y [2][k]: the batch's mean and unbiased variance
  WRN_POOL = 8,           // y [n][c], dense: the mean of act_in(x · scale + shift)
  WRN_SLOPE = 9,          // y = x · act_in'(z · scale + shift), summed; x is a map or, `pooled`, [n][c] dense, of a mean
  WRN_NORM_GRAD = 10,     // sums → norm's factors of WRN_UNNORM; y and y2: gradients of γ and β
  WRN_UNNORM = 11,        // y = p·x + q·(z − mean) + r + res
  WRN_WEIGHT_GRAD = 12,   // y += products of x, activated, and res, the gradient of the output, in Winograd's domain
  WRN_WEIGHT_SUM = 13,    // x, such products → y, the gradient of the weight as torch has it
  WRN_STEM_GRAD = 14,     // x, NCHW, and res, the gradient of the output → y, the gradient of the weight, through sums
  WRN_POOL_PAD_GRAD = 15, // y [n][h][w][c] = x [n][ho][wo][k], each spread over what it is the average of
  WRN_SUM = 16,           // x, summed over its pixels: the gradient of a bias
};

enum wrn_norm { WRN_SCALE = 0, WRN_SHIFT = 1, WRN_MEAN = 2, WRN_RSTD = 3, WRN_P = 4, WRN_Q = 5, WRN_R = 6, WRN_NORM_ROWS = 7 };
enum { WRN_SUM_ROWS = 4 };  // of sums: double [threads][WRN_SUM_ROWS][padded channels]; zero before, and made zero by who reads them

// What follows a convolution's sum.
enum wrn_end {
  WRN_PLAIN = 0,   // bias, act_out, res
  WRN_SUMMED = 1,  // bias, dropout, res; the sums of y and y² → sums (layers.h: reference)
  WRN_SLOPED = 2,  // (conv + res) · act_in'(z · norm's scale + shift) = y; Σy and Σy·(z − mean) → sums
};

enum wrn_act { WRN_NONE = 0, WRN_RELU = 1, WRN_LEAKY = 2, WRN_SILU = 3, WRN_GELU = 4, WRN_ELU = 5, WRN_SOFTPLUS = 6, WRN_PSSILU = 7 };

// y = act_out(conv(act_in(x · scale + shift)) + bias) + res. Pointers that do not apply are null; with scale null,
// act_in is WRN_NONE. act_in and act_out of convolutions are WRN_NONE, WRN_RELU or WRN_LEAKY.
typedef struct wrn_op {
  int32_t kind, act_in, act_out;
  int32_t tile;            // WINOGRAD: 4 or 2
  int32_t share;           // WINOGRAD: 1: all threads share a block of tiles and divide output channels; 0: each has its own tiles
  int32_t raw_filters;     // WINOGRAD: weights are the nine taps, transformed at run time; for weights read once
  int32_t cosine;          // HEAD: the mean is divided by its length
  float alpha, beta;       // LEAKY: slope; PSSILU: α, β
  int64_t n, h, w, c;      // input: images, height, width, channels as they are (padding is computed here)
  int64_t ho, wo, k;       // output; HEAD: k classes
  int64_t size, stride, pad_top, pad_left;  // of the kernel
  int64_t block_tiles, block_panels;        // WINOGRAD: tiles and panels of output channels at a time
  int64_t split;           // DIRECT: parts that the output channels are divided into, as pieces of work
  // Consecutive operations of one segment are run together on `group` images at a time, so that what they hand each
  // other stays in the cache. Floats from one image to the next of buffers that hold the whole batch, 0 of those that
  // hold one group.
  int64_t segment, group, x_step, res_step, y_step;
  const float *x, *scale, *shift, *weight, *bias, *res;
  float* y;
  // Training
  int32_t of, end;         // enum wrn_kind, wrn_end
  int32_t transposed;      // the gradient of the input, by weights that are turned round
  int32_t pooled, running; // of x; BN in eval mode
  float drop, eps;         // probability of dropout's zeros, 0 for none; of WRN_NORM
  int64_t seed, image;     // of dropout; the group's first image, set by wrn_run
  int64_t out_top, out_left, z_step;  // outputs of the first tile that lie outside
  const float* z;
  float *norm, *y2;
  double* sums;
} wrn_op;

int wrn_abi(void);
const char* wrn_build(void);         // digest of the sources and version of the compiler: equal builds give equal bits
int wrn_num_isas(void);               // instruction sets compiled into this library, best first
const char* wrn_isa_name(int isa);    // "avx512", "avx2", "neon", "scalar"
int wrn_isa_runs(int isa);            // 1 where this processor has it
int wrn_lanes(int isa);               // float32 in one vector

void* wrn_alloc(size_t bytes);        // aligned, zeroed; null if there is no memory
void wrn_free(void* memory, size_t bytes);

// Floats that packed weights take; and packing. weight [k][c][size][size] as torch has it; out_scale [k] or null
// multiplies each filter (a folded BN). in_scale is not folded: padding must stay zero.
int64_t wrn_packed_floats(int isa, const wrn_op* op);
void wrn_pack(int isa, const wrn_op* op, const float* weight, const float* out_scale, float* packed, int threads);

int64_t wrn_work_floats(int isa, const wrn_op* ops, int64_t num_ops, int threads);
// Runs all operations in order with so many threads, the caller's among them. Safe from several threads at once, each with
// work memory and outputs of its own, and after fork. Returns how many threads there were: fewer where the system starts no more.
int wrn_run(int isa, const wrn_op* ops, int64_t num_ops, int threads, float* work);

// One parameter, `count` floats each. gradient null: the weight stays; average null: it has none.
typedef struct wrn_row {
  float* weight;
  const float* gradient;
  float *momentum, *average;
  int64_t count;
  float lr, weight_decay, momentum_share;
  int32_t nesterov;
} wrn_row;

// g = gradient + weight_decay · weight; m = momentum_share · m + g; weight -= lr · m, or with Nesterov
// lr · (g + momentum_share · m); then average += share · (weight - average). One pass over memory.
void wrn_sgd(const wrn_row* rows, int64_t num_rows, float share, int threads);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
