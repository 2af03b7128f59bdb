// fully_connected, DSP path: the input becomes one column in scratch, then a loop over the outputs
// multiplies it with the weights, four outputs at a time.
#ifndef TFMIX_SRC_FULLY_CONNECTED_DSP_H_
#define TFMIX_SRC_FULLY_CONNECTED_DSP_H_

#include <cstdint>

#include "channel_loop.h"
#include "columns_dsp.h"
#include "tfmix/kernels.h"

#if TFMIX_CHANNEL_LOOPS

namespace tfmix::fully_connected {

// Expands `count` values to a column. Returns their sum.
template <int kInputBits, Lanes kLanes>
int32_t ExpandColumn(const uint8_t* input, int32_t count, uint32_t* column);

using Expand = decltype(&ExpandColumn<8, Lanes::kOneValue>);

TFMIX_DEFINE_LOOP_VARIANTS_(fully_connected)

void Run(const tfmix_fully_connected_params& p, const uint8_t* input, const uint8_t* constants,
         uint8_t* output, void* scratch, const ChannelLoopVariant& variant, Expand expand);

}  // namespace tfmix::fully_connected

#endif  // TFMIX_CHANNEL_LOOPS

#endif  // TFMIX_SRC_FULLY_CONNECTED_DSP_H_
