// From packed activations to columns of words that a multiply can eat: see dot_dsp.h for their
// order. The values of a column add up on the way, for the zero point of the weights.
#ifndef TFMIX_SRC_COLUMNS_DSP_H_
#define TFMIX_SRC_COLUMNS_DSP_H_

#include <cstdint>

#include "dsp.h"
#include "packing.h"

namespace tfmix {

// Output pixels of conv2d that are computed together. Their columns are interleaved: a word of each
// in turn.
constexpr int32_t kPixels = 4;

}  // namespace tfmix

#if TFMIX_DSP

namespace tfmix {

// A quad: four successive values as the bytes of a word, the first in the lowest.

template <int kBits>
inline uint32_t SpreadQuad(uint32_t packed) {
  if constexpr (kBits == 4) packed = (packed | packed << 8) & 0x00FF00FF;
  if constexpr (kBits == 2) packed = (packed | packed << 12) & 0x000F000F;
  if constexpr (kBits != 8)
    packed = (packed | packed << (8 - kBits)) & 0x01010101 * kMaxLevel<kBits>;
  return packed;
}

// The quad that begins at bit `shift` of data[0]. Reads no byte that the quad has no part in.
template <int kBits>
inline uint32_t LoadQuad(const uint8_t* data, [[maybe_unused]] int32_t shift) {
  if constexpr (kBits == 8) {
    return LoadWord(data);
  } else {
    uint32_t packed = data[0];
    if (kBits == 4) packed |= static_cast<uint32_t>(data[1]) << 8;
    if (shift != 0) {
      packed = (packed | static_cast<uint32_t>(data[kBits / 2]) << 4 * kBits) >> shift;
      if (kBits == 4) packed &= 0xFFFF;
    }
    return SpreadQuad<kBits>(packed);
  }
}

// What a word of a column holds in each of its halves.
enum class Lanes {
  kOneValue,   // values k and k + 2 for words k = 0, 1, 4, 5, 8 and so on
  kTwoValues,  // of two bits: k at bit 0, k + 1 at bit 12; k + 2 at bit 16, k + 3 at bit 28
};

constexpr Lanes LanesOf(int32_t input_bits, int32_t weight_bits) {
  return input_bits == 2 && weight_bits == 2 ? Lanes::kTwoValues : Lanes::kOneValue;
}

// Fills a column whose words are kStride apart with runs of values.
template <int kStride, Lanes kLanes>
class ColumnWriter {
 public:
  explicit ColumnWriter(uint32_t* column) : column_(column) {}

  // `count` values from element `first` of `data`.
  template <int kBits>
  void Append(const uint8_t* data, int32_t first, int32_t count) {
    data += first / kPerByte<kBits>;
    const int32_t shift = BitOffset<kBits>(first);
    if (pending_bits_ == 0) {
      for (; count >= 4; count -= 4, data += kBits / 2) Write(LoadQuad<kBits>(data, shift));
    } else {
      for (; count >= 4; count -= 4, data += kBits / 2) Merge(LoadQuad<kBits>(data, shift), 32);
    }
    if (count > 0) {
      uint32_t quad = 0;
      for (int32_t i = 0; i < count; ++i) {
        const int32_t bit = shift + i * kBits;
        quad |= (data[bit / 8] >> bit % 8 & kMaxLevel<kBits>) << 8 * i;
      }
      Merge(quad, 8 * count);
    }
  }

  // `count` times the same value.
  void AppendConstant(int32_t value, int32_t count) {
    const uint32_t quad = static_cast<uint32_t>(value) * 0x01010101;
    for (; count >= 4; count -= 4) Merge(quad, 32);
    if (count > 0) Merge(quad & ((1u << 8 * count) - 1), 8 * count);
  }

  // Writes what is left, padded with zeros to a whole tile. Returns the sum of the values.
  int32_t Finish() {
    if (pending_bits_ != 0) Write(pending_);
    // A tile of two-bit weights meets eight values, so there may be four zeros more.
    if (kLanes == Lanes::kTwoValues) column_[0] = 0;
    return static_cast<int32_t>(sum_);
  }

 private:
  void Write(uint32_t quad) {
    sum_ = AddBytes(quad, sum_);
    if constexpr (kLanes == Lanes::kTwoValues) {
      column_[0] = (quad | quad << 4) & 0x30033003;
      column_ += kStride;
    } else {
      column_[0] = Uxtb16(quad);
      column_[kStride] = Uxtb16Ror8(quad);
      column_ += 2 * kStride;
    }
  }

  // The lowest `bits` of `quad`, which are its only ones, follow the values that are pending.
  void Merge(uint32_t quad, int32_t bits) {
    pending_ |= quad << pending_bits_;
    pending_bits_ += bits;
    if (pending_bits_ < 32) return;
    Write(pending_);
    pending_bits_ -= 32;
    pending_ = pending_bits_ == 0 ? 0 : quad >> (bits - pending_bits_);
  }

  uint32_t* column_;
  uint32_t sum_ = 0;
  uint32_t pending_ = 0;
  int32_t pending_bits_ = 0;
};

}  // namespace tfmix

#endif  // TFMIX_DSP

#endif  // TFMIX_SRC_COLUMNS_DSP_H_
