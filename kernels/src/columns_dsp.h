// From packed activations to columns of words that a multiply can eat: see dot_dsp.h for their
// order. The values of a column add up on the way, for the zero point of the weights.
#ifndef TFMIX_SRC_COLUMNS_DSP_H_
#define TFMIX_SRC_COLUMNS_DSP_H_

#include <cstdint>
#include <cstring>

#include "dsp.h"
#include "packing.h"

namespace tfmix {

// Output pixels of conv2d that are computed together. Their columns are interleaved: a word of each
// in turn.
constexpr int32_t kPixels = 4;

}  // namespace tfmix

#if TFMIX_DSP

namespace tfmix {

inline uint32_t LoadHalfWord(const uint8_t* data) {
  uint16_t half;
  std::memcpy(&half, data, sizeof(half));
  return half;
}

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
    // The last byte that it has a part in once more, or the one behind the others.
    uint32_t packed = static_cast<uint32_t>(data[(4 * kBits - 1 + shift) / 8]) << 4 * kBits;
    packed |= kBits == 4 ? LoadHalfWord(data) : data[0];
    packed >>= shift;
    return SpreadQuad<kBits>(kBits == 4 ? packed & 0xFFFF : packed);
  }
}

// The same where `shift` is 0.
template <int kBits>
inline uint32_t LoadAlignedQuad(const uint8_t* data) {
  if constexpr (kBits == 8) return LoadWord(data);
  return SpreadQuad<kBits>(kBits == 4 ? LoadHalfWord(data) : data[0]);
}

// What a word of a column holds in each of its halves.
enum class Lanes {
  kOneValue,   // values k and k + 2 for words k = 0, 1, 4, 5, 8 and so on
  kTwoValues,  // of two bits: k at bit 0, k + 1 at bit 12; k + 2 at bit 16, k + 3 at bit 28
};

constexpr Lanes LanesOf(int32_t input_bits, int32_t weight_bits) {
  return input_bits == 2 && weight_bits == 2 ? Lanes::kTwoValues : Lanes::kOneValue;
}

// `value` >> `by` for shifts up to 32.
inline uint32_t ShiftRight(uint32_t value, int32_t by) {
#if defined(TFMIX_EMULATE_DSP)
  return by == 32 ? 0 : value >> by;
#else
  __asm__("lsr %0, %0, %1" : "+r"(value) : "r"(by));  // where C++ allows 31 only
  return value;
#endif
}

// `count` values, 1 to 3, from bit `shift` of data[0] as a quad with zeros behind them.
template <int kBits>
[[gnu::noinline]] uint32_t LoadPartialQuad(const uint8_t* data, int32_t shift, int32_t count) {
  uint32_t quad = 0;
  for (int32_t i = 0; i < count; ++i) {
    const int32_t bit = shift + i * kBits;
    quad |= (data[bit / 8] >> bit % 8 & kMaxLevel<kBits>) << 8 * i;
  }
  return quad;
}

// Fills a column whose words are kStride apart, either from one run of values or from several,
// which need not begin with a quad.
template <int kStride, Lanes kLanes>
class ColumnWriter {
 public:
  explicit ColumnWriter(uint32_t* column) : column_(column) {}

  // All there is: `count` values from the beginning of `data`.
  template <int kBits>
  void Fill(const uint8_t* data, int32_t count) {
    const uint8_t* const end = data + count / 4 * (kBits / 2);
#pragma GCC unroll 2
    while (data != end) {
      Write(LoadAlignedQuad<kBits>(data));
      data += kBits / 2;
    }
    if (count % 4 != 0) Write(LoadPartialQuad<kBits>(data, 0, count % 4));
  }

  // The next `count` values, which begin with element `first` of `data`.
  template <int kBits>
  void Append(const uint8_t* data, int32_t first, int32_t count) {
    const int32_t shift = BitOffset<kBits>(first);
    data += first / kPerByte<kBits>;
    const uint8_t* const end = data + count / 4 * (kBits / 2);
    if (shift == 0) {
      for (; data != end; data += kBits / 2) MergeQuad(LoadAlignedQuad<kBits>(data));
    } else {
      for (; data != end; data += kBits / 2) MergeQuad(LoadQuad<kBits>(data, shift));
    }
    count %= 4;
    if (count != 0) Merge(LoadPartialQuad<kBits>(data, shift, count), 8 * count);
  }

  // `count` times the same value.
  void AppendConstant(int32_t value, int32_t count) {
    if (count != 0) *this = WithConstant(*this, value, count);
  }

  // Writes what is left, padded with zeros to a whole tile. Returns the sum of the values.
  int32_t Finish() {
    if (pending_bits_ != 0) Write(pending_);
    // A tile of two-bit weights meets eight values, so there may be four zeros more.
    if (kLanes == Lanes::kTwoValues) column_[0] = 0;
    return static_cast<int32_t>(sum_);
  }

 private:
  // Not inlined, and by value so that a writer stays in registers elsewhere.
  [[gnu::noinline]] static ColumnWriter WithConstant(ColumnWriter writer, int32_t value,
                                                     int32_t count) {
    for (; count > 0; --count) writer.Merge(static_cast<uint32_t>(value), 8);
    return writer;
  }

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

  void MergeQuad(uint32_t quad) {
    Write(pending_ | quad << pending_bits_);
    pending_ = ShiftRight(quad, 32 - pending_bits_);
  }

  // Up to three values, in `bits` bits, follow those that are pending.
  void Merge(uint32_t quad, int32_t bits) {
    pending_ |= quad << pending_bits_;
    pending_bits_ += bits;
    if (pending_bits_ < 32) return;
    Write(pending_);
    pending_bits_ -= 32;
    pending_ = ShiftRight(quad, bits - pending_bits_);
  }

  uint32_t* column_;
  uint32_t sum_ = 0;
  uint32_t pending_ = 0;
  int32_t pending_bits_ = 0;
};

}  // namespace tfmix

#endif  // TFMIX_DSP

#endif  // TFMIX_SRC_COLUMNS_DSP_H_
