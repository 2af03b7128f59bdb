// What surrounds the loops over output channels. It runs once for a few pixels, so it is marked
// cold for the compiler to make it small rather than fast.
#include "channel_loop.h"

#if TFMIX_CHANNEL_LOOPS

#include <algorithm>
#include <cstdint>

#include "checks.h"

namespace tfmix {
namespace {

// As in the loops, which have it in bytes.
constexpr int32_t kSegmentTiles = 56;
constexpr int32_t kWordsPerTile = 2;

uint32_t LoadElement(int32_t bits, int32_t index, const uint8_t* data) {
  return data[index * bits / 8] >> index * bits % 8 & static_cast<uint32_t>(MaxLevel(bits));
}

void StoreElement(int32_t bits, int32_t index, uint32_t value, uint8_t* data) {
  const int32_t per_byte = 8 / bits;
  const int32_t shift = index % per_byte * bits;
  uint8_t& byte = data[index / per_byte];
  byte = static_cast<uint8_t>((byte & ~(MaxLevel(bits) << shift)) | value << shift);
}

}  // namespace

[[gnu::cold]] void LoopLayer::SetUp(const uint8_t* constants, int32_t multiplier_count,
                                    int32_t depth, const uint32_t* columns, int32_t stride) {
  const TileShape tile = TileShapeOf(variant_.input_bits, variant_.weight_bits);
  const int32_t tiles = tile.TilesOf(depth);
  group_channels_ = tile.channels;
  group_bytes_ = tiles * tile.channels * tile.depth * variant_.weight_bits / 8;

  loop.tiles = tiles;
  loop.entry = 0;
  loop.second_pair = 0;
  loop.columns = columns;
  loop.last_end = columns + tiles * kWordsPerTile * stride;
  loop.first_end = columns + ((tiles - 1) % kSegmentTiles + 1) * kWordsPerTile * stride;
  loop.end = loop.last_end;
  loop.bias = reinterpret_cast<const int32_t*>(constants);
  loop.multiplier = loop.bias + channels_;
  loop.weights = reinterpret_cast<const uint8_t*>(loop.multiplier + multiplier_count);
  loop.weights_end = loop.weights + whole_channels() / tile.channels * group_bytes_;
  loop.zero_point = loop.weights + tile.GroupsOf(channels_) * group_bytes_;
  loop.multiplier_step = 2 * sizeof(int32_t);
  loop.zero_point_step = 2;
  if (multiplier_count == 1) {
    for (int32_t& multiplier : multipliers_) multiplier = *loop.multiplier;
    loop.multiplier = multipliers_;
    loop.multiplier_step = 0;
  }
  if (!variant_.per_channel) {
    for (uint8_t& zero_point : zero_points_) zero_point = *loop.zero_point;
    loop.zero_point = zero_points_;
    loop.zero_point_step = 0;
  }
}

[[gnu::cold]] void LoopLayer::ComputeStaged(int32_t channel, int32_t pixels, int32_t index,
                                            uint8_t* output) {
  const int32_t channels = std::min(block_channels_, channels_ - channel);
  // The constants of as many channels as the loop computes; some layers have fewer.
  int32_t bias[kMostChannels], multipliers[kMostChannels];
  uint8_t zero_points[kMostChannels];
  for (int32_t c = 0; c < kMostChannels; ++c) {
    const int32_t from = channel + std::min(c, channels - 1);
    bias[c] = loop.bias[from];
    multipliers[c] = loop.multiplier[loop.multiplier_step == 0 ? 0 : from];
    zero_points[c] = loop.zero_point[loop.zero_point_step == 0 ? 0 : from];
  }
  ChannelLoop block = loop;
  block.bias = bias;
  block.multiplier = multipliers;
  block.zero_point = zero_points;
  block.weights += channel / group_channels_ * group_bytes_;
  block.weights_end = block.weights + ((channels - 1) / group_channels_ + 1) * group_bytes_;
  uint8_t staged[kPixels][kMostChannels];
  block.output = staged[0];
  if (block_channels_ == group_channels_) {
    block.distance = kMostChannels;  // conv2d
  } else {
    block.distance = channels > group_channels_ ? group_bytes_ : 0;
  }
  variant_.run(&block);

  const int32_t bits = variant_.output_bits;
  for (int32_t i = 0; i < pixels; ++i) {
    for (int32_t c = 0; c < channels; ++c) {
      StoreElement(bits, index + i * channels_ + channel + c, LoadElement(bits, c, staged[i]),
                   output);
    }
  }
}

}  // namespace tfmix

#endif  // TFMIX_CHANNEL_LOOPS
