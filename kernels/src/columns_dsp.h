// From packed activations to columns of words that a multiply can eat. The values of a column add
// up on the way, for the zero point of the weights.
#ifndef TFMIX_SRC_COLUMNS_DSP_H_
#define TFMIX_SRC_COLUMNS_DSP_H_

#include <algorithm>
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

// What a word of a column holds in each of its halves.
enum class Lanes {
  kOneValue,   // values k and k + 2 for words k = 0, 1, 4, 5, 8 and so on
  kTwoValues,  // of two bits: k at bit 0, k + 1 at bit 12; k + 2 at bit 16, k + 3 at bit 28
};

constexpr Lanes LanesOf(int32_t input_bits, int32_t weight_bits) {
  return input_bits == 2 && weight_bits == 2 ? Lanes::kTwoValues : Lanes::kOneValue;
}

// `value` >> `by` and `value` << `by` for shifts up to 32.
#if defined(TFMIX_EMULATE_DSP)
inline uint32_t ShiftRight(uint32_t value, uint32_t by) { return by == 32 ? 0 : value >> by; }
inline uint32_t ShiftLeft(uint32_t value, uint32_t by) { return by == 32 ? 0 : value << by; }
#else
inline uint32_t ShiftRight(uint32_t value, uint32_t by) {
  __asm__("lsr %0, %0, %1" : "+r"(value) : "r"(by));  // where C++ allows 31 only
  return value;
}
inline uint32_t ShiftLeft(uint32_t value, uint32_t by) {
  __asm__("lsl %0, %0, %1" : "+r"(value) : "r"(by));
  return value;
}
#endif

// Where 32 bits of a window come from: the end of one of its rows and the beginning of the next, or
// two parts of one row. The first part is word a << a_left >> a_right, the second b >> b_right <<
// b_left.
struct WindowWord {
  uint32_t a, a_left, a_right;  // a, b: bytes from the one in which the window begins
  uint32_t b, b_right, b_left;
};

// The first `bytes` of a word, 1 to 3, with zeros behind them.
[[gnu::cold, gnu::noinline]] inline uint32_t LoadPartialWord(const uint8_t* data, uint32_t bytes) {
  uint32_t word = 0;
  for (uint32_t i = 0; i < bytes; ++i) word |= static_cast<uint32_t>(data[i]) << 8 * i;
  return word;
}

// Fills a column whose words are kStride apart, either from one run of packed values of kBits or
// from several, which need not begin or end with a byte. Works on packed words, that is on 4, 8 or
// 16 values at a time; between runs it keeps what makes no whole word.
template <int kStride, int kBits, Lanes kLanes>
class ColumnWriter {
 public:
  explicit ColumnWriter(uint32_t* column) : column_(column) {}

  // All there is: `count` values from the beginning of `data`.
  void Fill(const uint8_t* data, int32_t count) {
    const uint32_t bits = static_cast<uint32_t>(count) * kBits;
    const uint8_t* const end = data + bits / 32 * 4;
#pragma GCC unroll 2
    for (; data != end; data += 4) Write(LoadWord(data));
    pending_bits_ = bits % 32;
    if (pending_bits_ == 0) return;
    pending_ = LoadPartialWord(data, (pending_bits_ + 7) / 8);
    pending_ &= (1u << pending_bits_) - 1;
  }

  // The next `count` values, which begin with element `first` of `tensor`.
  void Append(const uint8_t* tensor, int32_t first, int32_t count) {
    const uint8_t* data = tensor + first / kPerByte<kBits>;
    uint32_t shift = static_cast<uint32_t>(BitOffset<kBits>(first));
    uint32_t bits = static_cast<uint32_t>(count) * kBits;
    if (shift == 0 && pending_bits_ == 0) {
      for (; bits >= 32; bits -= 32, data += 4) Write(LoadWord(data));
    }
    while (bits != 0) {
      // What a word has of it.
      const uint32_t taken = std::min(bits, 32 - shift);
      const uint32_t bytes = (shift + taken + 7) / 8;
      const uint32_t word = bytes == 4 ? LoadWord(data) : LoadPartialWord(data, bytes);
      Merge(ShiftRight(word << (32 - shift - taken), 32 - taken), taken);
      bits -= taken, data += 4, shift = 0;
    }
  }

  // `count` times the same value.
  void AppendConstant(int32_t value, int32_t count) {
    const uint32_t word = static_cast<uint32_t>(value) * (UINT32_MAX / kMaxLevel<kBits>);
    for (uint32_t bits = static_cast<uint32_t>(count) * kBits, taken; bits != 0; bits -= taken) {
      taken = std::min(bits, uint32_t{32});
      Merge(ShiftRight(word, 32 - taken), taken);
    }
  }

  // All there is: `count` values of a window that begins in data[0].
  void FillFrom(const uint8_t* data, const WindowWord* word, int32_t count) {
    uint32_t bits = static_cast<uint32_t>(count) * kBits;
    for (;; ++word, bits -= 32) {
      pending_ = ShiftRight(ShiftLeft(LoadWord(data + word->a), word->a_left), word->a_right) |
                 ShiftLeft(ShiftRight(LoadWord(data + word->b), word->b_right), word->b_left);
      if (bits < 32) break;
      Write(pending_);
      if (bits == 32) return;
    }
    pending_bits_ = bits;
    pending_ &= (1u << bits) - 1;
  }

  // Writes what is left, padded with zeros to a whole tile. Returns the sum of the values.
  int32_t Finish() {
    if (pending_bits_ != 0) {
      WriteQuad(pending_);
      if constexpr (kBits != 8) {
        for (; pending_bits_ > 4 * kBits; pending_bits_ -= 4 * kBits) {
          WriteQuad(pending_ >>= 4 * kBits);
        }
      }
    }
    // A tile of two-bit weights meets eight values, so there may be four zeros more.
    if (kLanes == Lanes::kTwoValues) column_[0] = 0;
    return static_cast<int32_t>(sum_);
  }

 private:
  // The words of a quad, four successive values: {even.low, even.high} is the first and the third.
  void WritePair(uint32_t even, uint32_t odd) {
    if constexpr (kLanes == Lanes::kTwoValues) {
      column_[0] = even | odd << 12;
      column_ += kStride;
    } else {
      column_[0] = even;
      column_[kStride] = odd;
      column_ += 2 * kStride;
    }
  }

  // The quad in the low bits.
  void WriteQuad(uint32_t packed) {
    if constexpr (kBits == 8) return Write(packed);
    // The second half of the quad moves to the upper half of the word.
    packed = LowHalves(packed, packed >> 2 * kBits);
    const uint32_t mask = InRegister(kMaxLevel<kBits> * 0x10001u);
    const uint32_t even = packed & mask, odd = packed >> kBits & mask;
    sum_ = AddBytes(even | odd << 8, sum_);
    WritePair(even, odd);
  }

  // A whole word.
  void Write(uint32_t packed) {
    if constexpr (kBits == 8) {
      sum_ = AddBytes(packed, sum_);
      WritePair(Uxtb16(packed), Uxtb16Ror8(packed));
    } else if constexpr (kBits == 4) {
      const uint32_t mask = InRegister(0x000F000F), bytes = InRegister(0x0F0F0F0F);
      sum_ = AddBytes(packed & bytes, sum_);
      sum_ = AddBytes(packed >> 4 & bytes, sum_);
      const uint32_t shifted = packed >> 8;
      const uint32_t first = LowHalves(packed, shifted);
      WritePair(first & mask, first >> 4 & mask);
      const uint32_t second = HighHalves(packed, shifted);
      WritePair(second & mask, second >> 4 & mask);
    } else {
      // The first, second, third and fourth values of four quads, as bytes.
      const uint32_t mask = InRegister(0x03030303);
      const uint32_t first = packed & mask, second = packed >> 2 & mask;
      const uint32_t third = packed >> 4 & mask, fourth = packed >> 6 & mask;
      sum_ = AddBytes(first + second + third + fourth, sum_);
      const uint32_t even01 = LowHalves(first, third), odd01 = LowHalves(second, fourth);
      WritePair(Uxtb16(even01), Uxtb16(odd01));
      WritePair(Uxtb16Ror8(even01), Uxtb16Ror8(odd01));
      const uint32_t even23 = HighHalves(first, third), odd23 = HighHalves(second, fourth);
      WritePair(Uxtb16(even23), Uxtb16(odd23));
      WritePair(Uxtb16Ror8(even23), Uxtb16Ror8(odd23));
    }
  }

  // Up to 32 bits follow those that are pending.
  void Merge(uint32_t packed, uint32_t bits) {
    pending_ |= packed << pending_bits_;
    pending_bits_ += bits;
    if (pending_bits_ < 32) return;
    Write(pending_);
    pending_bits_ -= 32;
    pending_ = ShiftRight(packed, bits - pending_bits_);
  }

  uint32_t* column_;
  uint32_t sum_ = 0;
  uint32_t pending_ = 0;
  uint32_t pending_bits_ = 0;
};

}  // namespace tfmix

#endif  // TFMIX_DSP

#endif  // TFMIX_SRC_COLUMNS_DSP_H_
