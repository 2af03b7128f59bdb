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

#include "channel_group.h"
#include "depthwise_layout.h"
#include "dsp.h"
#include "packing.h"

#if TFMIX_DSP

namespace tfmix {

// A pair for each channel of a group.
struct FourPairs {
  Int16Pair k0, k1, k2, k3;
};

// Four packed elements `a` and four packed elements `b` -> {a[k], b[k]}.
template <int kBits>
inline FourPairs PairUp(uint32_t a, uint32_t b) {
  const uint32_t low = LowHalves(a, b);
  if constexpr (kBits == 8) {
    const uint32_t high = HighHalves(a, b);
    return {Uxtb16(low), Uxtb16Ror8(low), Uxtb16(high), Uxtb16Ror8(high)};
  }
  const uint32_t mask = InRegister(kMaxLevel<kBits> * 0x10001u);
  return {low & mask, low >> kBits & mask, low >> 2 * kBits & mask, low >> 3 * kBits & mask};
}

// ---- Input --------------------------------------------------------------------------------------

// The image columns that a piece of the output needs, and their places in the ring. Place 2 * i and
// 2 * i + 1 of channel k are the halves of the pair at i * pair_step + k * channel_step.
struct ImagePiece {
  const uint8_t* image;
  ChannelGroup group;
  int32_t row_step, column_step;
  int32_t first;  // column
  int32_t place;  // of the first column; before it lies padding
  int32_t count;  // of columns
  int32_t pair_step, channel_step;
};

// The columns of image row `row` into their places. The padding is already there.
template <int kBits>
void ExpandRow(const ImagePiece& piece, int32_t row, Int16Pair* ring) {
  const int32_t pair_step = piece.pair_step, channel_step = piece.channel_step;
  const int32_t step = piece.column_step;
  int32_t index = row * piece.row_step + piece.first * step + piece.group.first;
  int32_t count = piece.count;
  Int16Pair* out = ring + (piece.place >> 1) * pair_step;
  // One half of the pairs at `out`.
  const int32_t last_channel = 3 * channel_step;
  // One half of the pairs at `out`.
  const auto write_half = [&](int32_t half, uint32_t packed) {
    const FourPairs values = PairUp<kBits>(packed, 0);
    const auto write = [&](Int16Pair* pair, Int16Pair value) {
      std::memcpy(reinterpret_cast<int16_t*>(pair) + half, &value, sizeof(int16_t));
    };
    write(out, values.k0);
    write(out + channel_step, values.k1);
    write(out + 2 * channel_step, values.k2);
    write(out + last_channel, values.k3);
  };

  if (!FillsBytes<kBits>(piece.group)) {
    for (int32_t half = piece.place & 1; count != 0; --count, index += step, half ^= 1) {
      write_half(half, LoadBits<kBits>(piece.image, index, piece.group.count));
      out += half * pair_step;
    }
    return;
  }

  const uint8_t* in = piece.image + index / kPerByte<kBits>;
  const int32_t pixel = step / kPerByte<kBits>;  // in bytes
  if ((piece.place & 1) != 0) {
    write_half(1, LoadBytes<kBits>(in));
    in += pixel, out += pair_step, --count;
  }
  for (int32_t i = count >> 1; i > 0; --i, in += 2 * pixel, out += pair_step) {
    const FourPairs pairs = PairUp<kBits>(LoadBytes<kBits>(in), LoadBytes<kBits>(in + pixel));
    out[0] = pairs.k0;
    out[channel_step] = pairs.k1;
    out[2 * channel_step] = pairs.k2;
    out[last_channel] = pairs.k3;
  }
  if ((count & 1) != 0) write_half(0, LoadBytes<kBits>(in));
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
  const auto zero_point = [&](int32_t k) {
    const int32_t value = w.zero_points[w.per_channel && k < group.count ? group.first + k : 0];
    return static_cast<uint32_t>(value & kMaxLevel<kBits>) * 0x10001u << w.left_shift;
  };
  const FourPairs zero_points = {zero_point(0), zero_point(1), zero_point(2), zero_point(3)};
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
      const FourPairs pairs = PairUp<kBits>(first, second);
      Int16Pair* out = table;
      const auto write = [&](Int16Pair pair, Int16Pair zero_point) {
        out[0] = out[copy] = Ssub16(pair << w.left_shift, zero_point) & mask;
        out += channel_step;
      };
      write(pairs.k0, zero_points.k0);
      write(pairs.k1, zero_points.k1);
      write(pairs.k2, zero_points.k2);
      write(pairs.k3, zero_points.k3);
    }
  }
}

// ---- Output -------------------------------------------------------------------------------------

// Pixels of four bytes each, of which the first group.count count, go to element `index` of the
// output and, `step` elements apart, behind it.
template <int kBits>
void StoreRow(const ChannelGroup& group, const uint8_t* stage, int32_t count, int32_t index,
              int32_t step, uint8_t* output) {
  if (!FillsBytes<kBits>(group)) {
    for (; count != 0; --count, index += step, stage += kGroup) {
      StoreBits<kBits>(LoadWord(stage), index, group.count, output);
    }
    return;
  }
  step /= kPerByte<kBits>;
  uint8_t* out = output + index / kPerByte<kBits>;
  for (; count != 0; --count, out += step, stage += kGroup) {
    StoreBytes<kBits>(LoadWord(stage), out);
  }
}

}  // namespace tfmix

#endif  // TFMIX_DSP

#endif  // TFMIX_SRC_DEPTHWISE_STEPS_H_
