// depthwise_conv2d, DSP path: the steps that depend on a bit-width, each on one alone.
//
//     ExpandRow      input bits    packed image row  -> pairs of int16, channel by channel
//     ExpandWeights  weight bits   packed weights    -> pairs of int16, zero point subtracted
//     StoreRow       output bits   bytes             -> packed output row
//     StorePixel     output bits   packed elements   -> packed output, where it is no whole bytes
//
// They work on groups of four channels. Where the four of a pixel fill whole bytes they are one
// load or store; what an odd number of channels leaves is put together bit by bit.
#ifndef TFMIX_SRC_DEPTHWISE_STEPS_H_
#define TFMIX_SRC_DEPTHWISE_STEPS_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

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

// Four packed elements, all `value`.
template <int kBits>
inline uint32_t FourTimes(int32_t value) {
  return static_cast<uint32_t>(value) * (kBits == 8 ? 0x01010101u : kBits == 4 ? 0x1111u : 0x55u);
}

// The image columns that a piece of the output needs, and their places in the ring. Place 2 * i and
// 2 * i + 1 of channel k are the halves of the pair at i * pair_step + k * channel_step.
struct ImagePiece {
  const uint8_t* image;
  ChannelGroup group;
  int32_t multiplicity;   // output channels that read an input channel
  int32_t first_channel;  // of the output
  bool whole_bytes;       // the group's channels are, in every pixel, and each is read once
  int32_t row_step, column_step;
  int32_t first_element;  // of row 0
  int32_t place;          // of the first column; before it lies padding
  int32_t count;          // of columns
  int32_t pair_step, channel_step;
  int32_t zero_point;
};

// Packed channels of the input -> of each output channel the one that it reads.
template <int kBits>
TFMIX_FOR_SIZE uint32_t LoadChannels(const ImagePiece& piece, int32_t index) {
  uint32_t packed = LoadBits<kBits>(piece.image, index, piece.group.count);
  uint32_t result = 0;
  int32_t next = piece.first_channel % piece.multiplicity;
  for (int32_t k = 0; k < kGroup; ++k) {
    result |= (packed & kMaxLevel<kBits>) << k * kBits;
    if (++next == piece.multiplicity) next = 0, packed >>= kBits;
  }
  return result;
}

// A pair of each channel, `step` words apart.
inline void WritePairs(const FourPairs& pairs, int32_t step, Int16Pair* out) {
  out[0] = pairs.k0;
  out[step] = pairs.k1;
  out[2 * step] = pairs.k2;
  out[3 * step] = pairs.k3;
}

// ExpandRow, element by element.
template <int kBits>
TFMIX_FOR_SIZE void ExpandRowSlowly(const ImagePiece& piece, int32_t index, uint32_t padding,
                                    Int16Pair* out) {
  uint32_t first = padding;
  bool second = (piece.place & 1) != 0;
  for (int32_t left = piece.count; left != 0; --left, index += piece.column_step) {
    const uint32_t channels = LoadChannels<kBits>(piece, index);
    const bool last = left == 1 && !second;
    if (second || last) {
      WritePairs(last ? PairUp<kBits>(channels, padding) : PairUp<kBits>(first, channels),
                 piece.channel_step, out);
      out += piece.pair_step;
    }
    first = channels;
    second = !second;
  }
}

// The columns of image row `row` into their places. Pairs of padding are already there.
template <int kBits>
void ExpandRow(const ImagePiece& piece, int32_t row, Int16Pair* ring) {
  const int32_t pair_step = piece.pair_step, channel_step = piece.channel_step;
  const int32_t index = row * piece.row_step + piece.first_element;
  const uint32_t padding = FourTimes<kBits>(piece.zero_point);
  Int16Pair* out = ring + (piece.place >> 1) * pair_step;
  if (!piece.whole_bytes) return ExpandRowSlowly<kBits>(piece, index, padding, out);

  const uint8_t* in = piece.image + index / kPerByte<kBits>;
  const int32_t pixel = piece.column_step / kPerByte<kBits>;  // in bytes
  int32_t count = piece.count;
  if ((piece.place & 1) != 0) {
    WritePairs(PairUp<kBits>(padding, LoadBytes<kBits>(in)), channel_step, out);
    in += pixel, out += pair_step, --count;
  }
  const auto write_pairs = [&](int32_t step) {
    for (; count >= 2; count -= 2, in += 2 * pixel, out += pair_step) {
      WritePairs(PairUp<kBits>(LoadBytes<kBits>(in), LoadBytes<kBits>(in + pixel)), step, out);
    }
  };
  // A step that the compiler knows takes fewer instructions.
  if (channel_step == 1) {
    write_pairs(1);
  } else {
    write_pairs(channel_step);
  }
  if (count != 0) WritePairs(PairUp<kBits>(LoadBytes<kBits>(in), padding), channel_step, out);
}

// ---- Weights ------------------------------------------------------------------------------------

struct PackedWeights {
  const uint8_t* values;
  const uint8_t* zero_points;
  bool per_channel;
  int32_t left_shift;  // applied to the weights, so that it need not be to the sums
};

// A tap of four channels: channels 0 and 2, channels 1 and 3.
struct FourTaps {
  Int16Pair even, odd;

  FourTaps operator<<(uint32_t by) const { return {even << by, odd << by}; }
};

// Four packed elements.
template <int kBits>
inline FourTaps SpreadTaps(uint32_t packed) {
  if constexpr (kBits == 8) return {Uxtb16(packed), Uxtb16Ror8(packed)};
  packed = LowHalves(packed, packed >> 2 * kBits);
  const uint32_t mask = InRegister(kMaxLevel<kBits> * 0x10001u);
  return {packed & mask, packed >> kBits & mask};
}

// ExpandWeights of windows with three columns, of which any begin in the high half of a pair, where
// the four channels fill whole bytes. A layer that runs row by row does this for each row of it.
// Steps: in bytes of the weights, and in words of the table.
template <int kBits>
__attribute__((noinline)) void ExpandThreeColumns(const uint8_t* values, int32_t rows,
                                                  int32_t row_step, int32_t column_step,
                                                  const FourTaps& zero_points, uint32_t left_shift,
                                                  Int16Pair* table, int32_t pair_step) {
  const Int16Pair even = zero_points.even, odd = zero_points.odd;
  const auto load = [=](const uint8_t* data) {
    const FourTaps taps = SpreadTaps<kBits>(LoadBytes<kBits>(data)) << left_shift;
    return FourTaps{Ssub16(taps.even, even), Ssub16(taps.odd, odd)};
  };
  const auto write = [](const FourTaps& first, const FourTaps& second, Int16Pair* out) {
    out[0] = LowHalves(first.even, second.even);
    out[1] = LowHalves(first.odd, second.odd);
    out[2] = HighHalves(first.even, second.even);
    out[3] = HighHalves(first.odd, second.odd);
  };
  for (; rows != 0; --rows, values += row_step, table += kGroup) {
    const FourTaps w0 = load(values);
    const FourTaps w1 = load(values + column_step);
    write(w0, w1, table);
    write({0, 0}, w0, table + 2 * pair_step);
    const FourTaps w2 = load(values + 2 * column_step);
    write(w2, {0, 0}, table + pair_step);
    write(w1, w2, table + 3 * pair_step);
  }
}

// The weights of four channels, [pair][row, with room for as many if they have to rotate][channel]:
// first the pairs of taps of a window that begins in the low half of a pair, then those of one that
// begins in the high half. Taps outside the window have the zero point's weight, which is 0.
template <int kBits>
void ExpandWeights(const DepthwiseAxes& axes, const ChannelGroup& group, const PackedWeights& w,
                   Int16Pair* table) {
  uint32_t padding = 0;
  if (!w.per_channel) {
    padding = FourTimes<kBits>(w.zero_points[0] & kMaxLevel<kBits>);
  } else if (kBits == 8 && group.count == kGroup) {
    padding = LoadWord(w.zero_points + group.first);
  } else {
    for (int32_t k = 0; k < group.count; ++k) {
      const int32_t value = w.zero_points[group.first + k] & kMaxLevel<kBits>;
      padding |= static_cast<uint32_t>(value) << k * kBits;
    }
  }
  const uint32_t left_shift = static_cast<uint32_t>(w.left_shift);
  const FourTaps zero_points = SpreadTaps<kBits>(padding) << left_shift;
  const uint8_t* const values = w.values;
  const bool fills_bytes = FillsBytes<kBits>(group);
  const bool any_from_high = axes.AnyFromHigh();
  const int32_t rows = axes.rows.kernel, row_step = axes.rows.weight_step;
  const int32_t columns = axes.columns.kernel, column_step = axes.columns.weight_step;
  const int32_t pair_step = axes.CopiesOfWeights() * kGroup * rows;
  if (fills_bytes && any_from_high && columns == 3) {
    constexpr int32_t kPer = kPerByte<kBits>;
    return ExpandThreeColumns<kBits>(values + group.first / kPer, rows, row_step / kPer,
                                     column_step / kPer, zero_points, left_shift, table, pair_step);
  }
  int32_t index;
  const auto load_next = [&]() {
    const uint32_t packed = fills_bytes ? LoadBytes<kBits>(values + index / kPerByte<kBits>)
                                        : LoadBits<kBits>(values, index, group.count);
    index += column_step;
    const FourTaps taps = SpreadTaps<kBits>(packed) << left_shift;
    return FourTaps{Ssub16(taps.even, zero_points.even), Ssub16(taps.odd, zero_points.odd)};
  };
  // Pairs are made in the order of their first taps: high and low in turn, or low ones only.
  Int16Pair* low_table = table;
  Int16Pair* high_table = table + axes.PairsFromLow() * pair_step;
  int32_t row_index = group.first;
  for (int32_t row = 0; row < rows; ++row, row_index += row_step) {
    Int16Pair* out = low_table;
    const auto write = [&](const FourTaps& first, const FourTaps& second) {
      const FourPairs weights = {
          LowHalves(first.even, second.even), LowHalves(first.odd, second.odd),
          HighHalves(first.even, second.even), HighHalves(first.odd, second.odd)};
      WritePairs(weights, 1, out);
      out += pair_step;
    };
    index = row_index;
    FourTaps first = {0, 0};
    int32_t left = columns;
    if (any_from_high) {
      Int16Pair* next_out = out;
      out = high_table;
      for (; left != 0; --left) {
        const FourTaps second = load_next();
        write(first, second);
        first = second;
        std::swap(out, next_out);
      }
    } else {
      for (; left != 0; left -= 2) {
        first = load_next();
        if (left == 1) break;
        write(first, load_next());
      }
    }
    if (any_from_high || left != 0) write(first, {0, 0});
    low_table += kGroup;
    high_table += kGroup;
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

// The four elements of a pixel, of which the first group.count count, go to element `index` and
// following.
template <int kBits>
TFMIX_FOR_SIZE void StorePixel(const ChannelGroup& group, uint32_t packed, int32_t index,
                               uint8_t* output) {
  StoreBits<kBits>(SpreadFour<kBits>(packed), index, group.count, output);
}

}  // namespace tfmix

#endif  // TFMIX_DSP

#endif  // TFMIX_SRC_DEPTHWISE_STEPS_H_
