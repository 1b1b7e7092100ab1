// Everything that computes, compiled once for each instruction set: WRN_ISA is its name, WRN_LANES its width.
#include <array>
#include <type_traits>
#include <utility>

#include "backward.h"
#include "direct.h"
#include "isa.h"

namespace {

// `call` with act_in as a constant.
template <class Call>
void with_activation(int act, const Call& call) {
  switch (act) {
    case WRN_NONE: return call(std::integral_constant<int, WRN_NONE>());
    case WRN_RELU: return call(std::integral_constant<int, WRN_RELU>());
    case WRN_LEAKY: return call(std::integral_constant<int, WRN_LEAKY>());
    case WRN_SILU: return call(std::integral_constant<int, WRN_SILU>());
    case WRN_GELU: return call(std::integral_constant<int, WRN_GELU>());
    case WRN_ELU: return call(std::integral_constant<int, WRN_ELU>());
    case WRN_SOFTPLUS: return call(std::integral_constant<int, WRN_SOFTPLUS>());
    case WRN_PSSILU: return call(std::integral_constant<int, WRN_PSSILU>());
  }
}

void memory(const wrn_op& op, int64_t& shared, int64_t& own) {
  Index of_all = 0, of_each = 0;
  switch (op.kind) {
    case WRN_STEM: of_each = stem_memory(op); break;
    case WRN_WINOGRAD: with_scheme(op, [&](auto scheme) { scheme.memory(op, of_all, of_each); }); break;
    case WRN_DIRECT: of_each = direct_memory(op); break;
    case WRN_HEAD:
    case WRN_POOL: of_each = padded(op.c); break;
    case WRN_STEM_GRAD: of_each = stem_memory(op); break;
    case WRN_WEIGHT_GRAD: with_weight_grad(op, [&](auto* grad) { grad->memory(op, of_all, of_each); }); break;
  }
  shared = of_all;
  own = of_each;
}

int64_t packed_floats(const wrn_op& op) {
  switch (op.kind) {
    case WRN_STEM: return padded(op.k) * op.c * 9;
    case WRN_WINOGRAD: return with_scheme(op, [&](auto scheme) { return scheme.packed_floats(op); });
    case WRN_DIRECT: return padded(op.k) * op.c * op.size * op.size;
    case WRN_HEAD: return op.k * padded(op.c);
    case WRN_WEIGHT_GRAD: return with_weight_grad(op, [&](auto* grad) { return grad->sums(op); });
  }
  return 0;
}

void pack(const wrn_op& op, const float* weight, const float* out_scale, float* packed, const wrn::Member& member) {
  if (op.kind == WRN_WINOGRAD) return with_scheme(op, [&](auto scheme) { scheme.pack(op, weight, out_scale, packed, member); });
  if (member.id > 0) return;  // the others are small
  switch (op.kind) {
    case WRN_STEM: return pack_stem(op, weight, out_scale, packed);
    case WRN_DIRECT: return pack_direct(op, weight, out_scale, packed);
    case WRN_HEAD: return pack_head(op, weight, packed);
  }
}

void pack_anew(const wrn_op& op, const wrn::Member& member) {
  wrn_op of = op;
  of.kind = op.of;
  pack(of, op.weight, nullptr, op.y, member);
}

void run(const wrn_op& op, const wrn::Member& member, float* shared, float* mine) {
  const Work work{member, shared, mine};
  switch (op.kind) {
    case WRN_STEM: return stem(op, work);
    case WRN_WINOGRAD: return with_scheme(op, [&](auto scheme) { scheme.run(op, work); });
    case WRN_DIRECT: return direct(op, work);
    case WRN_ACTIVATE: return with_activation(op.act_in, [&](auto act) { activate<act>(op, work); });
    case WRN_POOL_PAD: return pool_pad(op, work);
    case WRN_HEAD: return with_activation(op.act_in, [&](auto act) { head<act>(op, work); });
    case WRN_PACK: return pack_anew(op, member);
    case WRN_NORM: return norm(op, work);
    case WRN_POOL: return with_activation(op.act_in, [&](auto act) { pool<act>(op, work); });
    case WRN_SLOPE: return with_activation(op.act_in, [&](auto act) { slope<act>(op, work); });
    case WRN_NORM_GRAD: return norm_grad(op, work);
    case WRN_UNNORM: return unnorm(op, work);
    case WRN_WEIGHT_GRAD: return with_weight_grad(op, [&](auto* grad) { grad->run(op, work); });
    case WRN_WEIGHT_SUM: return with_weight_grad(op, [&](auto* grad) { grad->finish(op, work); });
    case WRN_STEM_GRAD: return stem_grad(op, work);
    case WRN_POOL_PAD_GRAD: return pool_pad_grad(op, work);
    case WRN_SUM: return channel_sums(op, work);
  }
}

}  // namespace

namespace wrn {
#define WRN_STRING_(name) #name
#define WRN_STRING(name) WRN_STRING_(name)
extern const Isa WRN_ISA;
const Isa WRN_ISA = {WRN_STRING(WRN_ISA), WRN_LANES, memory, run, packed_floats, pack};
}  // namespace wrn
