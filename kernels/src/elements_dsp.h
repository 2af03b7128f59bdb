// Four neighbouring elements at a time, for the operations that look at one element after the
// other. Elements 4 * i to 4 * i + 3 are whole bytes whatever their bits.
#ifndef TFMIX_SRC_ELEMENTS_DSP_H_
#define TFMIX_SRC_ELEMENTS_DSP_H_

#include <cstdint>
#include <cstring>

#include "dsp.h"
#include "packing.h"

#if TFMIX_DSP

namespace tfmix {

constexpr int32_t kFour = 4;
constexpr int32_t kEight = 8;  // of b bits they take b bytes

// Bytes of four elements.
template <int kBits>
constexpr int32_t kFourBytes = kFour * kBits / 8;

struct FourElements {
  int32_t x0, x1, x2, x3;
};

template <int kBits>
inline FourElements LoadFour(const uint8_t* data) {
  if constexpr (kBits == 8) return {data[0], data[1], data[2], data[3]};
  constexpr int32_t kMask = kMaxLevel<kBits>;
  uint32_t packed = 0;
  std::memcpy(&packed, data, kFourBytes<kBits>);
  const auto element = [=](int k) { return static_cast<int32_t>(packed >> k * kBits) & kMask; };
  return {element(0), element(1), element(2), element(3)};
}

// Clamps and packs.
template <int kBits>
inline void StoreFour(const FourElements& y, uint8_t* data) {
  const uint32_t y0 = Usat<kBits>(y.x0), y1 = Usat<kBits>(y.x1);
  const uint32_t y2 = Usat<kBits>(y.x2), y3 = Usat<kBits>(y.x3);
  // In this order, or the compiler shifts first and then combines.
  const uint32_t packed = InRegister(y0 | y1 << kBits) | InRegister(y2 | y3 << kBits) << 2 * kBits;
  std::memcpy(data, &packed, kFourBytes<kBits>);
}

// Zeroes the bits of the last byte of `count` elements that belong to none of them.
template <int kBits>
inline void ClearBehind(int32_t count, uint8_t* data) {
  const int32_t used = BitOffset<kBits>(count);
  uint8_t& last = data[PackedSize<kBits>(count) - 1];
  if (used != 0) last = static_cast<uint8_t>(last & ((1 << used) - 1));
}

}  // namespace tfmix

#endif  // TFMIX_DSP

#endif  // TFMIX_SRC_ELEMENTS_DSP_H_
