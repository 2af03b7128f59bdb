// lookup: y = table[q], for each element. The table has an entry for each value of the input: any
// function of one number, in the scales of input and output.
#include <algorithm>
#include <cstdint>

#include "checks.h"
#include "packing.h"
#include "tfmix/kernels.h"

namespace tfmix {
namespace {

template <int kInputBits, int kOutputBits>
void Lookup(const tfmix_lookup_params& p, const uint8_t* input, const uint8_t* table,
            uint8_t* output) {
  constexpr int32_t kRun = 64;  // elements taken at a time
  ClearUnusedBits<kOutputBits>(p.elements, output);
  int16_t x[kRun];
  uint8_t y[kRun];
  for (int32_t begin = 0; begin < p.elements; begin += kRun) {
    const int32_t count = std::min(kRun, p.elements - begin);
    Unpack<kInputBits>(input, begin, count, 0, x);
    // A damaged table must not spoil the neighbours of an element.
    for (int32_t i = 0; i < count; ++i) y[i] = table[x[i]] & kMaxLevel<kOutputBits>;
    Pack<kOutputBits>(y, begin, count, output);
  }
}

}  // namespace
}  // namespace tfmix

tfmix_status tfmix_lookup_prepare(const tfmix_lookup_params* params, const tfmix_variant* variant,
                                  tfmix_sizes* sizes) {
  using namespace tfmix;
  const tfmix_lookup_params& p = *params;
  TFMIX_RETURN_IF_BAD(CheckBits(variant->input_bits));
  TFMIX_RETURN_IF_BAD(CheckBits(variant->output_bits));
  int32_t elements;
  TFMIX_RETURN_IF_BAD(CheckProduct({p.elements}, &elements));
  TFMIX_RETURN_IF_BAD(CheckZeroPoint(p.output_zero_point, variant->output_bits));
  *sizes = {PackedSize(elements, variant->input_bits), 0, MaxLevel(variant->input_bits) + 1,
            PackedSize(elements, variant->output_bits), 0};
  return TFMIX_OK;
}

#define TFMIX_DEFINE_(a_, o_)                                                             \
  void tfmix_lookup_a##a_##o##o_(const tfmix_lookup_params* params, const uint8_t* input, \
                                 const uint8_t* table, uint8_t* output) {                 \
    tfmix::Lookup<a_, o_>(*params, input, table, output);                                 \
  }
TFMIX_LOOKUP_VARIANTS(TFMIX_DEFINE_)
