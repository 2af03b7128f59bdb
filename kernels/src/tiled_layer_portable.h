// conv2d and fully_connected in plain C++: columns of int16 times tiles of weights.
#ifndef TFMIX_SRC_TILED_LAYER_PORTABLE_H_
#define TFMIX_SRC_TILED_LAYER_PORTABLE_H_

#include <algorithm>
#include <cstdint>

#include "layer.h"
#include "packing.h"
#include "weight_tiles.h"

namespace tfmix {

constexpr int32_t kWeightRun = 128;  // weights unpacked at a time, those of a group together
constexpr int32_t kChannelRun = 32;  // output channels staged before they are packed

// sums[i] += columns[i] . weights over a run of `count` products; columns are `depth` apart.
template <int kColumns>
inline void Accumulate(const int16_t* columns, int32_t depth, const int16_t* weights, int32_t count,
                       int32_t* sums) {
  if constexpr (kColumns == 1) {
    int32_t sum = 0;
    for (int32_t k = 0; k < count; ++k) sum += columns[k] * weights[k];
    sums[0] += sum;
  } else {
    const int16_t* x0 = columns;
    const int16_t* x1 = x0 + depth;
    const int16_t* x2 = x1 + depth;
    const int16_t* x3 = x2 + depth;
    int32_t sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
    for (int32_t k = 0; k < count; ++k) {
      sum0 += x0[k] * weights[k];
      sum1 += x1[k] * weights[k];
      sum2 += x2[k] * weights[k];
      sum3 += x3[k] * weights[k];
    }
    sums[0] += sum0;
    sums[1] += sum1;
    sums[2] += sum2;
    sums[3] += sum3;
  }
}

// All `channels` outputs of kColumns columns of `depth` values each; the outputs of the first begin
// at element `output_index`, those of the next follow.
template <int kColumns, int kInputBits, int kWeightBits, int kOutputBits, ZeroPoints kZeroPoints>
void ComputeColumns(const Layer<kWeightBits, kOutputBits, kZeroPoints>& layer, int32_t channels,
                    const int16_t* columns, int32_t depth, int32_t output_index, uint8_t* output) {
  using Tile = WeightTile<kInputBits, kWeightBits>;
  constexpr int32_t kGroup = Tile::kShape.channels;
  constexpr int32_t kTileRun = kWeightRun / Tile::kElements;
  constexpr int32_t kRun = kTileRun * Tile::kShape.depth;

  uint8_t staged[kColumns][kChannelRun];
  int16_t weights[kWeightRun];
  const int32_t group_bytes = Tile::kShape.TilesOf(depth) * Tile::kBytes;
  const uint8_t* group = layer.weights();
  for (int32_t channel = 0; channel < channels; channel += kGroup, group += group_bytes) {
    const int32_t in_group = std::min(kGroup, channels - channel);
    int16_t zero_points[kGroup] = {};
    for (int32_t c = 0; c < in_group; ++c) {
      zero_points[c] = static_cast<int16_t>(layer.zero_point(channel + c));
    }
    int32_t sums[kGroup][kColumns] = {};
    const uint8_t* tiles = group;
    for (int32_t k = 0; k < depth; k += kRun, tiles += kTileRun * Tile::kBytes) {
      const int32_t count = std::min(kRun, depth - k);
      const int32_t tile_count = Tile::kShape.TilesOf(count);
      UnpackTiles<kInputBits, kWeightBits>(tiles, tile_count, zero_points, weights);
      for (int32_t c = 0; c < in_group; ++c) {
        Accumulate<kColumns>(columns + k, depth, weights + c * tile_count * Tile::kShape.depth,
                             count, sums[c]);
      }
    }

    // kChannelRun is a multiple of kGroup, so a group is never torn.
    const int32_t first = channel % kChannelRun;
    for (int32_t c = 0; c < in_group; ++c) {
      for (int32_t i = 0; i < kColumns; ++i) {
        staged[i][first + c] = layer.Output(channel + c, sums[c][i]);
      }
    }
    const int32_t count = first + in_group;
    if (count == kChannelRun || channel + in_group == channels) {
      for (int32_t i = 0; i < kColumns; ++i) {
        Pack<kOutputBits>(staged[i], output_index + i * channels + channel - first, count, output);
      }
    }
  }
}

}  // namespace tfmix

#endif  // TFMIX_SRC_TILED_LAYER_PORTABLE_H_
