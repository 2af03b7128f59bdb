// depthwise_conv2d:
//
//     acc = sum x * (w - zero_point_w)
//     y = clamp(zero_point_y + requantize((acc << left_shift) + bias))
#include <cstdint>

#include "checks.h"
#include "depthwise_dsp.h"
#include "depthwise_layout.h"
#include "depthwise_portable.h"
#include "layer.h"
#include "packing.h"
#include "tfmix/kernels.h"

namespace tfmix {
namespace {

#if TFMIX_DSP

template <int kInputBits, int kWeightBits, int kOutputBits, ZeroPoints kZeroPoints>
inline void RunVariant(const tfmix_conv_params& p, const uint8_t* input, const uint8_t* constants,
                       uint8_t* output, void* scratch) {
  ClearUnusedBits<kOutputBits>(p.output_height * p.output_width * p.output_channels, output);
  DepthwiseConv2d(
      kDepthwiseVariant<kInputBits, kWeightBits, kOutputBits, kZeroPoints == ZeroPoints::pc>, p,
      input, constants, output, static_cast<uint32_t*>(scratch));
}

#else

template <int kInputBits, int kWeightBits, int kOutputBits, ZeroPoints kZeroPoints>
inline void RunVariant(const tfmix_conv_params& p, const uint8_t* input, const uint8_t* constants,
                       uint8_t* output, void*) {
  DepthwiseConv2d<kInputBits, kWeightBits, kOutputBits, kZeroPoints>(p, input, constants, output);
}

#endif  // TFMIX_DSP

}  // namespace
}  // namespace tfmix

tfmix_status tfmix_depthwise_conv2d_prepare(const tfmix_conv_params* params,
                                            const tfmix_variant* variant, tfmix_sizes* sizes) {
  using namespace tfmix;
  const tfmix_conv_params& p = *params;
  TFMIX_RETURN_IF_BAD(CheckWeightedVariant(*variant));
  int32_t input, output, depth, constants, scratch;
  TFMIX_RETURN_IF_BAD(CheckWindow(p, &input, &output));
  if (p.output_channels % p.input_channels != 0) return TFMIX_BAD_SHAPE;
  TFMIX_RETURN_IF_BAD(CheckZeroPoint(p.input_zero_point, variant->input_bits));
  TFMIX_RETURN_IF_BAD(CheckProduct({p.kernel_height, p.kernel_width}, &depth));
  int32_t weights;
  TFMIX_RETURN_IF_BAD(CheckProduct({depth, p.output_channels}, &weights));
  TFMIX_RETURN_IF_BAD(CheckLayer(p, *variant, p.output_channels, depth, weights, &constants));
  TFMIX_RETURN_IF_BAD(CheckDepthwiseScratch(p, &scratch));
  *sizes = {PackedSize(input, variant->input_bits), 0, constants,
            PackedSize(output, variant->output_bits), scratch};
  return TFMIX_OK;
}

#define TFMIX_DEFINE_(a_, w_, o_, z_)                                                       \
  void tfmix_depthwise_conv2d_a##a_##w##w_##o##o_##_##z_(                                   \
      const tfmix_conv_params* params, const uint8_t* input, const uint8_t* constants,      \
      uint8_t* output, void* scratch) {                                                     \
    tfmix::RunVariant<a_, w_, o_, tfmix::ZeroPoints::z_>(*params, input, constants, output, \
                                                         scratch);                          \
  }
TFMIX_DEPTHWISE_CONV2D_VARIANTS(TFMIX_DEFINE_)
