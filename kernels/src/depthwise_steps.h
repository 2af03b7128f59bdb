// depthwise_conv2d, DSP path: the steps that depend on a bit-width, each on one alone.
//
//     ExpandRow      input bits    packed image row  -> pairs of int16, channel by channel
//     ExpandWeights  weight bits   packed weights    -> pairs of int16, zero point subtracted
//     StoreRow       output bits   bytes             -> packed output row
//
// They work on groups of four channels. Where the four of a pixel fill whole bytes they are one
// load or store; what an odd number of channels leaves is put together bit by bit.
#ifndef TFMIX_SRC_DEPTHWISE_STEPS_H_
#define TFMIX_SRC_DEPTHWISE_STEPS_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "depthwise_layout.h"
#include "dsp.h"
#include "packing.h"

#if TFMIX_DSP

namespace tfmix {

// Consecutive channels, first + [0, count), of a tensor whose pixels have `channels`.
struct ChannelGroup {
  int32_t first;
  int32_t count;  // 1 to kGroup
  int32_t channels;
};

// Whether a group's elements of every pixel are whole bytes.
template <int kBits>
inline bool FillsBytes(const ChannelGroup& g) {
  return g.count == kGroup && BitOffset<kBits>(g.first | g.channels) == 0;
}

// Four packed elements in the low bits: 8, 16 or 32 of them.
template <int kBits>
inline uint32_t LoadBytes(const uint8_t* data) {
  uint32_t packed = 0;
  std::memcpy(&packed, data, kGroup * kBits / 8);
  return packed;
}

// Up to four elements from any bit on. Above them lies what shares their last byte.
template <int kBits>
inline uint32_t LoadBits(const uint8_t* data, int32_t first, int32_t count) {
  const int32_t offset = BitOffset<kBits>(first);
  data += first / kPerByte<kBits>;
  uint32_t packed = 0;
  for (int32_t bit = 0; bit < offset + count * kBits; bit += 8) {
    packed |= static_cast<uint32_t>(*data++) << bit;
  }
  return packed >> offset;
}

// Four packed elements `a` and four packed elements `b` -> pairs[k] = {a[k], b[k]}.
template <int kBits>
inline void PairUp(uint32_t a, uint32_t b, Int16Pair* pairs) {
  if constexpr (kBits == 8) {
    const uint32_t low = LowHalves(a, b);
    const uint32_t high = HighHalves(a, b);
    pairs[0] = Uxtb16(low);
    pairs[1] = Uxtb16Ror8(low);
    pairs[2] = Uxtb16(high);
    pairs[3] = Uxtb16Ror8(high);
  } else {
    const uint32_t mask = InRegister(kMaxLevel<kBits> * 0x10001u);
    const uint32_t both = LowHalves(a, b);
    pairs[0] = both & mask;
    pairs[1] = both >> kBits & mask;
    pairs[2] = both >> 2 * kBits & mask;
    pairs[3] = both >> 3 * kBits & mask;
  }
}

// ---- Input --------------------------------------------------------------------------------------

// The columns of an image that a piece of the output needs, and where they go in the ring.
struct ImagePiece {
  const uint8_t* image;
  ChannelGroup group;
  int32_t zero_point;
  int32_t rows, columns;  // size of the image
  int32_t row_step, column_step;
  int32_t first;                    // column, negative in the padding
  int32_t pairs;                    // of columns
  int32_t pair_step, channel_step;  // in the ring
};

// Pair i of channel k of a row goes to ring[i * pair_step + k * channel_step]. Outside the image
// there are zero points.
template <int kBits>
void ExpandRow(const ImagePiece& piece, int32_t row, Int16Pair* ring) {
  const uint32_t padding =
      static_cast<uint32_t>(piece.zero_point) * (UINT32_MAX / kMaxLevel<kBits>);
  const bool fills_bytes = FillsBytes<kBits>(piece.group);
  const bool is_inside = row >= 0 && row < piece.rows;
  const int32_t width = is_inside ? piece.columns : 0;
  const int32_t begin = is_inside ? row * piece.row_step + piece.group.first : 0;
  const int32_t step = piece.column_step;
  const auto load = [&](int32_t column) {
    if (column < 0 || column >= width) return padding;
    const int32_t index = begin + column * step;
    return fills_bytes ? LoadBytes<kBits>(piece.image + index / kPerByte<kBits>)
                       : LoadBits<kBits>(piece.image, index, piece.group.count);
  };
  const int32_t pair_step = piece.pair_step, channel_step = piece.channel_step;
  const int32_t last_channel = 3 * channel_step;
  const auto write = [&](uint32_t left, uint32_t right) {
    Int16Pair pairs[kGroup];
    PairUp<kBits>(left, right, pairs);
    ring[0] = pairs[0];
    ring[channel_step] = pairs[1];
    ring[2 * channel_step] = pairs[2];
    ring[last_channel] = pairs[3];
    ring += pair_step;
  };

  int32_t column = piece.first;
  for (int32_t left = piece.pairs; left > 0;) {
    const int32_t inside = std::min(left, (width - column) >> 1);
    if (fills_bytes && column >= 0 && inside > 0) {
      const int32_t pixel = step / kPerByte<kBits>;  // in bytes
      const uint8_t* in = piece.image + (begin + column * step) / kPerByte<kBits>;
#pragma GCC unroll 2
      for (int32_t i = inside; i != 0; --i, in += 2 * pixel) {
        write(LoadBytes<kBits>(in), LoadBytes<kBits>(in + pixel));
      }
      column += 2 * inside;
      left -= inside;
    } else {
      write(load(column), load(column + 1));
      column += 2;
      --left;
    }
  }
}

// ---- Weights ------------------------------------------------------------------------------------

struct PackedWeights {
  const uint8_t* values;
  const uint8_t* zero_points;
  bool per_channel;
  int32_t left_shift;  // applied to the weights, so that it need not be to the sums
};

// How the taps of a window row make pairs: the i-th begins at tap Begin(i).
struct TapPairs {
  int32_t count;
  int32_t odd_step;  // from an even pair to the odd one beside it

  int32_t Begin(int32_t i) const { return (i & ~1) + ((i & 1) != 0 ? odd_step : 0); }
};

// The pairs of all window rows of four channels, twice over; channel k from
// table[k * channel_step] on. Taps outside the window are zero.
template <int kBits>
void ExpandWeights(const DepthwiseAxes& axes, const ChannelGroup& group, const PackedWeights& w,
                   const TapPairs& taps, int32_t channel_step, Int16Pair* table) {
  const bool fills_bytes = FillsBytes<kBits>(group);
  Int16Pair zero_points[kGroup] = {};
  for (int32_t k = 0; k < group.count; ++k) {
    const int32_t zero_point = w.zero_points[w.per_channel ? group.first + k : 0];
    zero_points[k] = static_cast<uint32_t>(zero_point & kMaxLevel<kBits>) * 0x10001u
                     << w.left_shift;
  }
  const int32_t width = axes.columns.kernel;
  const int32_t copy = axes.rows.kernel * taps.count;
  for (int32_t row = 0; row < axes.rows.kernel; ++row) {
    const int32_t begin = row * axes.rows.weight_step + group.first;
    const auto load = [&](int32_t tap) {
      const int32_t index = begin + tap * axes.columns.weight_step;
      return fills_bytes ? LoadBytes<kBits>(w.values + index / kPerByte<kBits>)
                         : LoadBits<kBits>(w.values, index, group.count);
    };
    for (int32_t i = 0; i < taps.count; ++i, ++table) {
      const int32_t tap = taps.Begin(i);
      uint32_t mask = 0, first = 0, second = 0;
      if (tap >= 0 && tap < width) mask |= 0xFFFF, first = load(tap);
      if (tap + 1 < width) mask |= 0xFFFF0000, second = load(tap + 1);
      Int16Pair pairs[kGroup];
      PairUp<kBits>(first, second, pairs);
      Int16Pair* out = table;
      for (int32_t k = 0; k < kGroup; ++k, out += channel_step) {
        out[0] = out[copy] = Ssub16(pairs[k] << w.left_shift, zero_points[k]) & mask;
      }
    }
  }
}

// ---- Output -------------------------------------------------------------------------------------

// Four elements, a byte each -> packed in the low bits. Above them lies something.
template <int kBits>
inline uint32_t PackFour(uint32_t bytes) {
  if constexpr (kBits == 4) {
    bytes = Uxtb16(bytes | bytes >> 4);
    return bytes | bytes >> 8;
  }
  if constexpr (kBits == 2) {
    bytes |= bytes >> 6;
    return bytes | bytes >> 12;
  }
  return bytes;
}

// `count` pixels of four bytes each, of which the first group.count count. They go to element
// `index` of the output and, `step` elements apart, behind it.
template <int kBits>
void StoreRow(const ChannelGroup& group, const uint8_t* stage, int32_t count, int32_t index,
              int32_t step, uint8_t* output) {
  if (FillsBytes<kBits>(group)) {
    const int32_t pixel = step / kPerByte<kBits>;  // in bytes
    uint8_t* out = output + index / kPerByte<kBits>;
#pragma GCC unroll 4
    for (int32_t i = count; i != 0; --i, out += pixel, stage += kGroup) {
      const uint32_t packed = PackFour<kBits>(LoadWord(stage));
      std::memcpy(out, &packed, kGroup * kBits / 8);
    }
    return;
  }
  for (int32_t i = count; i != 0; --i, index += step, stage += kGroup) {
    for (int32_t k = 0; k < group.count; ++k) {
      uint8_t& byte = output[(index + k) / kPerByte<kBits>];
      const int32_t shift = BitOffset<kBits>(index + k);
      byte = static_cast<uint8_t>((byte & ~(kMaxLevel<kBits> << shift)) | (stage[k] << shift));
    }
  }
}

}  // namespace tfmix

#endif  // TFMIX_DSP

#endif  // TFMIX_SRC_DEPTHWISE_STEPS_H_
