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
  decltype(&DotAny<8>) dot_3x3_stride_1;
  decltype(&DotAny<8>) dot_3x3_stride_2;
  decltype(&DotAny<8>) dot_any;
  decltype(&StoreRow<8>) store_row;
  int32_t weight_bits;
  bool per_channel;
};

template <int kInputBits, int kWeightBits, int kOutputBits, bool kPerChannel>
constexpr DepthwiseVariant kDepthwiseVariant = {ExpandRow<kInputBits>,
                                                ExpandWeights<kWeightBits>,
                                                Dot3x3<1, kOutputBits>,
                                                Dot3x3<2, kOutputBits>,
                                                DotAny<kOutputBits>,
                                                StoreRow<kOutputBits>,
                                                kWeightBits,
                                                kPerChannel};

void DepthwiseConv2d(const DepthwiseVariant& variant, const tfmix_conv_params& params,
                     const uint8_t* input, const uint8_t* constants, uint8_t* output,
                     uint32_t* scratch);

}  // namespace tfmix

#endif  // TFMIX_DSP

#endif  // TFMIX_SRC_DEPTHWISE_DSP_H_
