// Everything that computes, compiled once for each instruction set: WRN_ISA is its name, WRN_LANES its width.
#include <array>
#include <type_traits>
#include <utility>

#include "direct.h"
#include "ends.h"
#include "isa.h"
#include "winograd.h"

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
    case WRN_HEAD: of_each = padded(op.c); break;
  }
  shared = of_all;
  own = of_each;
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
  }
}

int64_t packed_floats(const wrn_op& op) {
  switch (op.kind) {
    case WRN_STEM: return padded(op.k) * op.c * 9;
    case WRN_WINOGRAD: return with_scheme(op, [&](auto scheme) { return scheme.packed_floats(op); });
    case WRN_DIRECT: return padded(op.k) * op.c * op.size * op.size;
    case WRN_HEAD: return op.k * padded(op.c);
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

}  // namespace

namespace wrn {
#define WRN_STRING_(name) #name
#define WRN_STRING(name) WRN_STRING_(name)
extern const Isa WRN_ISA;
const Isa WRN_ISA = {WRN_STRING(WRN_ISA), WRN_LANES, memory, run, packed_floats, pack};
}  // namespace wrn
