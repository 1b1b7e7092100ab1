// One instruction set's functions, as run.cpp calls them.
#pragma once
#include "team.h"
#include "wrn.h"

namespace wrn {

struct Isa {
  const char* name;
  int lanes;
  void (*memory)(const wrn_op& op, int64_t& shared, int64_t& own);  // floats of work memory
  void (*run)(const wrn_op& op, const Member& member, float* shared, float* mine);
  int64_t (*packed_floats)(const wrn_op& op);
  void (*pack)(const wrn_op& op, const float* weight, const float* out_scale, float* packed, const Member& member);
};

}  // namespace wrn
