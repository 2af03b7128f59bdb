// conv2d, DSP path: what a variant is made of.
//
// Four output pixels at a time: their windows become four columns in scratch, then a loop over the
// output channels multiplies them with the weights. Input bits matter to the gathering, weight and
// output bits to the loop, and nothing else knows of them, so that variants share their code.
#ifndef TFMIX_SRC_CONV2D_DSP_H_
#define TFMIX_SRC_CONV2D_DSP_H_

#include <cstdint>

#include "channel_loop.h"
#include "columns_dsp.h"
#include "tfmix/kernels.h"

#if TFMIX_CHANNEL_LOOPS

namespace tfmix::conv2d {

// The next pixel of the output, and what has been found out on the way to it.
struct Position {
  static constexpr uint32_t kMostWords = 10;

  int32_t pixel;
  int32_t row;
  int32_t column;
  void Set(int32_t to, int32_t output_width) {
    pixel = to;
    row = to / output_width;
    column = to % output_width;
  }

  // Of small windows, by the bit with which a window begins: where its words are. 0 if it is too
  // large, or has not been looked at.
  int32_t words;
  WindowWord window[kMostWords];
};

// Expands the windows of `count` pixels from *position, which moves on, to columns kPixels words
// apart. Returns the sum of each column.
template <int kInputBits, Lanes kLanes>
void GatherColumns(const tfmix_conv_params& p, const uint8_t* input, int32_t count,
                   Position* position, uint32_t* columns, int32_t* minus_sums);

using Gather = decltype(&GatherColumns<8, Lanes::kOneValue>);

TFMIX_DEFINE_LOOP_VARIANTS_(conv2d)

void Run(const tfmix_conv_params& p, const uint8_t* input, const uint8_t* constants,
         uint8_t* output, void* scratch, const ChannelLoopVariant& variant, Gather gather);

}  // namespace tfmix::conv2d

#endif  // TFMIX_CHANNEL_LOOPS

#endif  // TFMIX_SRC_CONV2D_DSP_H_
