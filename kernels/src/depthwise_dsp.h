// depthwise_conv2d, DSP path: the steps put together.
#ifndef TFMIX_SRC_DEPTHWISE_DSP_H_
#define TFMIX_SRC_DEPTHWISE_DSP_H_

#include <cstdint>

#include "depthwise_rows.h"
#include "depthwise_steps.h"
#include "tfmix/kernels.h"

#if TFMIX_DSP

namespace tfmix {

// What distinguishes the variants. They share all other code.
struct DepthwiseVariant {
  decltype(&ExpandRow<8>) expand_row;
  decltype(&ExpandWeights<8>) expand_weights;
  decltype(&DotWide<8>) dot_wide;
  decltype(&DotPixels<8>) dot_pixels_3x3;
  decltype(&DotPixels<8>) dot_pixels;
  decltype(&StoreRow<8>) store_row;
  decltype(&StorePixel<8>) store_pixel;
  int32_t input_bits;
  int32_t weight_bits;
  int32_t output_bits;
  bool per_channel;
};

template <int kInputBits, int kWeightBits, int kOutputBits, bool kPerChannel>
constexpr DepthwiseVariant kDepthwiseVariant = {ExpandRow<kInputBits>,
                                                ExpandWeights<kWeightBits>,
                                                DotWide<kOutputBits>,
                                                DotPixels3x3<kOutputBits>,
                                                DotPixels<kOutputBits>,
                                                StoreRow<kOutputBits>,
                                                StorePixel<kOutputBits>,
                                                kInputBits,
                                                kWeightBits,
                                                kOutputBits,
                                                kPerChannel};

void DepthwiseConv2d(const DepthwiseVariant& variant, const tfmix_conv_params& params,
                     const uint8_t* input, const uint8_t* constants, uint8_t* output,
                     uint32_t* scratch);

}  // namespace tfmix

#endif  // TFMIX_DSP

#endif  // TFMIX_SRC_DEPTHWISE_DSP_H_
