// conv2d, DSP path: what a variant is made of.
//
// Four output pixels at a time: their windows become four columns in scratch, then a loop over the
// output channels multiplies them with the weights. Input bits matter to the gathering, weight and
// output bits to the loop, and nothing else knows of them, so that variants share their code.
#ifndef TFMIX_SRC_CONV2D_DSP_H_
#define TFMIX_SRC_CONV2D_DSP_H_

#include <cstddef>
#include <cstdint>

#include "columns_dsp.h"
#include "dsp.h"
#include "tfmix/kernels.h"
#include "weight_tiles.h"

// conv2d_loops.S has no emulation: on a host there is the portable path only.
#if TFMIX_DSP && !defined(TFMIX_EMULATE_DSP)
#define TFMIX_CONV2D_DSP 1
#else
#define TFMIX_CONV2D_DSP 0
#endif

#if TFMIX_CONV2D_DSP

namespace tfmix {

// A pixel of the output.
struct Position {
  int32_t row;
  int32_t column;
};

// Expands the windows of `count` pixels from *position, which moves on, to columns kPixels words
// apart. Returns the sum of each column.
template <int kInputBits, Lanes kLanes>
void GatherColumns(const tfmix_conv_params& p, const uint8_t* input, int32_t count,
                   Position* position, uint32_t* columns, int32_t* minus_sums);

// What a loop over output channels reads. conv2d_loops.S knows the offsets.
struct ChannelLoop {
  const uint32_t* end;  // of the columns, or of the first segment of them
  const uint32_t* columns;
  const uint8_t* weights;
  const uint8_t* weights_end;
  const int32_t* bias;
  const int32_t* multiplier;  // of all channels of a block, as is zero_point
  const uint8_t* zero_point;
  int32_t multiplier_step;  // halves of what a block of four channels takes, in bytes
  int32_t zero_point_step;
  int32_t tiles;         // of weights that meet a column
  int32_t shift_factor;  // 2^left_shift, or 0 where left_shift is 0
  int32_t output_zero_point;
  uint8_t* output;
  int32_t pixel_bytes;  // from an output pixel to the next
  int32_t minus_sums[kPixels];
  const uint32_t* first_end;
  const uint32_t* last_end;
};
static_assert(offsetof(ChannelLoop, last_end) == 76 && sizeof(ChannelLoop) == 80);

extern "C" {
#define TFMIX_DECLARE_LOOPS_(weights_)                             \
  void tfmix_conv2d_loop_##weights_##_o8(const ChannelLoop* loop); \
  void tfmix_conv2d_loop_##weights_##_o4(const ChannelLoop* loop); \
  void tfmix_conv2d_loop_##weights_##_o2(const ChannelLoop* loop);
TFMIX_DECLARE_LOOPS_(w8)
TFMIX_DECLARE_LOOPS_(w4)
TFMIX_DECLARE_LOOPS_(w2)
TFMIX_DECLARE_LOOPS_(w2a2)
#undef TFMIX_DECLARE_LOOPS_
}

struct Conv2dVariant {
  decltype(&GatherColumns<8, Lanes::kOneValue>) gather;
  decltype(&tfmix_conv2d_loop_w8_o8) loop;
  int8_t input_bits;
  int8_t weight_bits;
  int8_t output_bits;
  bool per_channel;
};

// The loop of a variant.
template <int kInputBits, int kWeightBits, int kOutputBits>
constexpr auto LoopOf() {
#define TFMIX_LOOP_(weights_)                              \
  (kOutputBits == 8   ? &tfmix_conv2d_loop_##weights_##_o8 \
   : kOutputBits == 4 ? &tfmix_conv2d_loop_##weights_##_o4 \
                      : &tfmix_conv2d_loop_##weights_##_o2)
  if constexpr (kWeightBits == 8) return TFMIX_LOOP_(w8);
  if constexpr (kWeightBits == 4) return TFMIX_LOOP_(w4);
  if constexpr (kWeightBits == 2 && kInputBits != 2) return TFMIX_LOOP_(w2);
  if constexpr (kWeightBits == 2 && kInputBits == 2) return TFMIX_LOOP_(w2a2);
#undef TFMIX_LOOP_
}

template <int kInputBits, int kWeightBits, int kOutputBits, bool kPerChannel>
inline constexpr Conv2dVariant kConv2dVariant = {
    GatherColumns<kInputBits, LanesOf(kInputBits, kWeightBits)>,
    LoopOf<kInputBits, kWeightBits, kOutputBits>(),
    kInputBits,
    kWeightBits,
    kOutputBits,
    kPerChannel,
};

void Conv2d(const tfmix_conv_params& p, const uint8_t* input, const uint8_t* constants,
            uint8_t* output, uint32_t* columns, const Conv2dVariant& variant);

}  // namespace tfmix

#endif  // TFMIX_CONV2D_DSP

#endif  // TFMIX_SRC_CONV2D_DSP_H_
