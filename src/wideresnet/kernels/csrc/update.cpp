// SGD with momentum and weight decay, and the running average of the weights, in one pass over memory.
//
// Compiled once, for every processor, whose smallest vectors suffice: all of it waits for memory. AVX-512 was tried, and
// saves 0.03 ms a step on a WRN-16-2 and nothing on a WRN-28-10.
#include <algorithm>

#include "team.h"
#include "wrn.h"

namespace {

// Numbers [first, last) of one row.
template <bool kNesterov>
void descend(const wrn_row& row, int64_t first, int64_t last) {
  float* __restrict weight = row.weight;
  float* __restrict memory = row.momentum;
  const float* __restrict gradient = row.gradient;
  const float lr = row.lr, decay = row.weight_decay, share = row.momentum_share;
  for (int64_t i = first; i < last; i++) {
    const float slope = gradient[i] + decay * weight[i];
    const float speed = share * memory[i] + slope;
    memory[i] = speed;
    weight[i] -= lr * (kNesterov ? slope + share * speed : speed);
  }
}

// average + share · (weight - average), from the nearer end, as torch.lerp has it.
void follow(const wrn_row& row, float share, int64_t first, int64_t last) {
  const float* __restrict weight = row.weight;
  float* __restrict average = row.average;
  if (share < 0.5f) {
    for (int64_t i = first; i < last; i++) average[i] += share * (weight[i] - average[i]);
  } else {
    for (int64_t i = first; i < last; i++) average[i] = weight[i] - (weight[i] - average[i]) * (1 - share);
  }
}

constexpr int64_t kBlock = 2048;  // numbers that are updated and then averaged: they stay in the first cache

}  // namespace

extern "C" void wrn_sgd(const wrn_row* rows, int64_t num_rows, float share, int threads) {
  int64_t total = 0;
  for (int64_t r = 0; r < num_rows; r++) total += rows[r].count;
  wrn::run_together(threads, [&](const wrn::Member& member) {
    // Each thread has its part of all numbers, wherever the tensors begin and end.
    const int64_t from = total * member.id / member.size, to = total * (member.id + 1) / member.size;
    int64_t begin = 0;
    for (int64_t r = 0; r < num_rows; begin += rows[r++].count) {
      const wrn_row& row = rows[r];
      const int64_t end = std::min(to - begin, row.count);
      for (int64_t first = std::max<int64_t>(from - begin, 0); first < end; first += kBlock) {
        const int64_t last = std::min(first + kBlock, end);
        if (row.gradient) (row.nesterov ? descend<true> : descend<false>)(row, first, last);
        if (row.average) follow(row, share, first, last);
      }
    }
  });
}
