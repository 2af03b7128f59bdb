// concatenate: the channels of several inputs side by side, each rescaled to the output's scale.
#include <cstdint>

#include "checks.h"
#include "packing.h"
#include "rescale.h"
#include "tfmix/kernels.h"

namespace tfmix {
namespace {

// One input, whose pixels go to the output's from channel `first_channel` on.
template <int kInputBits, int kOutputBits>
void CopyChannels(const tfmix_concatenate_params& p, const tfmix_concatenate_input& d,
                  const uint8_t* input, int32_t first_channel, uint8_t* output) {
  const Rescale rescale = {d.zero_point, d.multiplier, d.left_shift, p.output_zero_point};
  for (int32_t pixel = 0; pixel < p.pixels; ++pixel) {
    RescaleRun<kInputBits, kOutputBits>(rescale, input, pixel * d.channels, output,
                                        pixel * p.output_channels + first_channel, d.channels);
  }
}

template <int kOutputBits>
void Concatenate(const tfmix_concatenate_params& p, const tfmix_concatenate_input* descriptions,
                 const uint8_t* const* inputs, uint8_t* output) {
  ClearUnusedBits<kOutputBits>(p.pixels * p.output_channels, output);
  int32_t first_channel = 0;
  for (int32_t k = 0; k < p.input_count; ++k) {
    const tfmix_concatenate_input& d = descriptions[k];
    const auto copy = d.bits == 2   ? CopyChannels<2, kOutputBits>
                      : d.bits == 4 ? CopyChannels<4, kOutputBits>
                                    : CopyChannels<8, kOutputBits>;
    copy(p, d, inputs[k], first_channel, output);
    first_channel += d.channels;
  }
}

}  // namespace
}  // namespace tfmix

tfmix_status tfmix_concatenate_prepare(const tfmix_concatenate_params* params,
                                       const tfmix_concatenate_input* descriptions,
                                       int32_t description_count, const tfmix_variant* variant,
                                       int32_t* input_sizes, tfmix_sizes* sizes) {
  using namespace tfmix;
  const tfmix_concatenate_params& p = *params;
  TFMIX_RETURN_IF_BAD(CheckBits(variant->output_bits));
  if (p.input_count < 1 || p.input_count != description_count) return TFMIX_BAD_SHAPE;
  int32_t output_elements;
  TFMIX_RETURN_IF_BAD(CheckProduct({p.pixels, p.output_channels}, &output_elements));
  TFMIX_RETURN_IF_BAD(CheckZeroPoint(p.output_zero_point, variant->output_bits));
  int32_t channels_left = p.output_channels;
  int32_t input_bytes = 0;  // at most one byte for each element of the output
  for (int32_t k = 0; k < p.input_count; ++k) {
    const tfmix_concatenate_input& d = descriptions[k];
    if (d.channels < 1 || d.channels > channels_left) return TFMIX_BAD_SHAPE;
    channels_left -= d.channels;
    TFMIX_RETURN_IF_BAD(CheckBits(d.bits));
    TFMIX_RETURN_IF_BAD(CheckShiftedSum(1, d.bits, d.zero_point, d.left_shift));
    input_sizes[k] = PackedSize(p.pixels * d.channels, d.bits);
    input_bytes += input_sizes[k];
  }
  if (channels_left != 0) return TFMIX_BAD_SHAPE;
  *sizes = {input_bytes, 0, 0, PackedSize(output_elements, variant->output_bits), 0};
  return TFMIX_OK;
}

#define TFMIX_DEFINE_(o_)                                                       \
  void tfmix_concatenate_o##o_(const tfmix_concatenate_params* params,          \
                               const tfmix_concatenate_input* descriptions,     \
                               const uint8_t* const* inputs, uint8_t* output) { \
    tfmix::Concatenate<o_>(*params, descriptions, inputs, output);              \
  }
TFMIX_CONCATENATE_VARIANTS(TFMIX_DEFINE_)
