// requantize: y = clamp(zero_point_y + requantize((q - zero_point_x) << left_shift)) of each
// element.
#include <cstdint>

#include "checks.h"
#include "packing.h"
#include "rescale.h"
#include "tfmix/kernels.h"

namespace tfmix {
namespace {

template <int kInputBits, int kOutputBits>
void RequantizeTensor(const tfmix_requantize_params& p, const uint8_t* input, uint8_t* output) {
  ClearUnusedBits<kOutputBits>(p.elements, output);
  const Rescale rescale = {p.input_zero_point, p.multiplier, p.left_shift, p.output_zero_point};
  RescaleRun<kInputBits, kOutputBits>(rescale, input, 0, output, 0, p.elements);
}

}  // namespace
}  // namespace tfmix

tfmix_status tfmix_requantize_prepare(const tfmix_requantize_params* params,
                                      const tfmix_variant* variant, tfmix_sizes* sizes) {
  using namespace tfmix;
  const tfmix_requantize_params& p = *params;
  TFMIX_RETURN_IF_BAD(CheckBits(variant->input_bits));
  TFMIX_RETURN_IF_BAD(CheckBits(variant->output_bits));
  int32_t elements;
  TFMIX_RETURN_IF_BAD(CheckProduct({p.elements}, &elements));
  TFMIX_RETURN_IF_BAD(CheckZeroPoint(p.output_zero_point, variant->output_bits));
  TFMIX_RETURN_IF_BAD(CheckShiftedSum(1, variant->input_bits, p.input_zero_point, p.left_shift));
  *sizes = {PackedSize(elements, variant->input_bits), 0, 0,
            PackedSize(elements, variant->output_bits), 0};
  return TFMIX_OK;
}

#define TFMIX_DEFINE_(a_, o_)                                                                     \
  void tfmix_requantize_a##a_##o##o_(const tfmix_requantize_params* params, const uint8_t* input, \
                                     uint8_t* output) {                                           \
    tfmix::RequantizeTensor<a_, o_>(*params, input, output);                                      \
  }
TFMIX_REQUANTIZE_VARIANTS(TFMIX_DEFINE_)
