// The order of the weights of conv2d and fully_connected: tiles of a few output channels by a few
// products, so that one word feeds the dot products of several channels.
//
// The tiles of a group of channels follow each other from the first product to the last, then come
// those of the next group. Channels and products are padded to whole tiles. docs/format.md draws
// the tiles; tfmix/integer/weight_order.py is the same in Python.
#ifndef TFMIX_SRC_WEIGHT_TILES_H_
#define TFMIX_SRC_WEIGHT_TILES_H_

#include <cstdint>

#include "packing.h"

namespace tfmix {

// The shape of a tile: its channels and its depth, the products of a channel.
struct TileShape {
  int32_t channels;
  int32_t depth;

  constexpr int32_t GroupsOf(int32_t all_channels) const {
    return (all_channels - 1) / channels + 1;
  }
  constexpr int32_t TilesOf(int32_t all_products) const { return (all_products - 1) / depth + 1; }
  // Weights of a layer, padding included.
  constexpr int32_t StoredWeights(int32_t all_channels, int32_t all_products) const {
    return GroupsOf(all_channels) * TilesOf(all_products) * channels * depth;
  }
};

constexpr TileShape TileShapeOf(int32_t input_bits, int32_t weight_bits) {
  if (weight_bits != 2) return {2, 4};
  return input_bits == 2 ? TileShape{2, 8} : TileShape{4, 4};
}

template <int kInputBits, int kWeightBits>
struct WeightTile {
  static constexpr TileShape kShape = TileShapeOf(kInputBits, kWeightBits);
  static constexpr int32_t kElements = kShape.channels * kShape.depth;
  static constexpr int32_t kBytes = kElements * kWeightBits / 8;

  // Which element of the tile is weight `k` of channel `c`.
  static constexpr int32_t Position(int32_t c, int32_t k) {
    // Two words, first the even products, then the odd ones.
    if (kWeightBits == 8) return 4 * (k % 2) + 2 * (k / 2) + c;
    // Byte k holds product k of all channels.
    if (kWeightBits == 4 || kInputBits != 2) return kShape.channels * k + c;
    // Rotated right by 2 * c + 8 * (k / 4), the word has product k % 4 at bit 12, 0, 28 or 16.
    constexpr int32_t kBit[] = {12, 0, 28, 16};
    return (kBit[k % 4] + 2 * c + 8 * (k / 4)) % 32 / 2;
  }
};

// out[c * depth + k] = weight k of channel c of a group, minus zero_points[c], for the products of
// `tiles` tiles, where depth = tiles * kShape.depth.
template <int kInputBits, int kWeightBits>
inline void UnpackTiles(const uint8_t* data, int32_t tiles, const int16_t* zero_points,
                        int16_t* out) {
  using Tile = WeightTile<kInputBits, kWeightBits>;
  constexpr TileShape kShape = Tile::kShape;
  for (int32_t tile = 0; tile < tiles; ++tile, data += Tile::kBytes) {
    for (int32_t c = 0; c < kShape.channels; ++c) {
      int16_t* row = out + (c * tiles + tile) * kShape.depth;
      for (int32_t k = 0; k < kShape.depth; ++k) {
        const int32_t element = Tile::Position(c, k);
        const int32_t byte = data[element / kPerByte<kWeightBits>];
        const int32_t value = byte >> BitOffset<kWeightBits>(element) & kMaxLevel<kWeightBits>;
        row[k] = static_cast<int16_t>(value - zero_points[c]);
      }
    }
  }
}

}  // namespace tfmix

#endif  // TFMIX_SRC_WEIGHT_TILES_H_
