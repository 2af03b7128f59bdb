// fully_connected, DSP path: see fully_connected_dsp.h.
#include "fully_connected_dsp.h"

#if TFMIX_CHANNEL_LOOPS

#include <cstdint>

namespace tfmix::fully_connected {

template <int kInputBits, Lanes kLanes>
int32_t ExpandColumn(const uint8_t* input, int32_t count, uint32_t* column) {
  ColumnWriter<1, kInputBits, kLanes> writer(column);
  writer.Fill(input, count);
  return writer.Finish();
}

template int32_t ExpandColumn<8, Lanes::kOneValue>(const uint8_t*, int32_t, uint32_t*);
template int32_t ExpandColumn<4, Lanes::kOneValue>(const uint8_t*, int32_t, uint32_t*);
template int32_t ExpandColumn<2, Lanes::kOneValue>(const uint8_t*, int32_t, uint32_t*);
template int32_t ExpandColumn<2, Lanes::kTwoValues>(const uint8_t*, int32_t, uint32_t*);

[[gnu::cold]] void Run(const tfmix_fully_connected_params& p, const uint8_t* input,
                       const uint8_t* constants, uint8_t* output, void* scratch,
                       const ChannelLoopVariant& variant, Expand expand) {
  auto* const column = static_cast<uint32_t*>(scratch);
  LoopLayer layer(p, variant, constants, p.output_features, p.input_features,
                  LoopLayer::kMostChannels, column, 1);
  layer.loop.minus_sums[0] = -expand(input, p.input_features, column);
  layer.loop.distance = layer.group_bytes();
  layer.ComputeBlocks(output);
  if (layer.whole_channels() == p.output_features) return;
  output[(p.output_features - 1) / (8 / variant.output_bits)] = 0;  // unused bits included
  layer.ComputeStaged(layer.whole_channels(), 1, 0, output);
}

}  // namespace tfmix::fully_connected

#endif  // TFMIX_CHANNEL_LOOPS
