// The one rounding rule, round half up, and the way from an accumulator to an output value.
#ifndef TFMIX_SRC_REQUANTIZE_H_
#define TFMIX_SRC_REQUANTIZE_H_

#include <cstdint>

#include "packing.h"

namespace tfmix {

// Additions and shifts of values that come from a file. Conversion has proven that they fit int32;
// where a damaged file breaks that promise they wrap round instead of being undefined.
inline int32_t WrappingAdd(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}

inline int32_t WrappingShiftLeft(int32_t value, int32_t shift) {
  return static_cast<int32_t>(static_cast<uint32_t>(value) << shift);
}

// round(value * multiplier / 2^32), ties upwards. `value` is an accumulator shifted left. The
// result lies in [-2^30, 2^30], so that a zero point can be added to it.
inline int32_t Requantize(int32_t value, int32_t multiplier) {
  constexpr int64_t kHalf = int64_t{1} << 31;
  return static_cast<int32_t>((int64_t{value} * multiplier + kHalf) >> 32);
}

// The nearest legal value of a kBits-wide tensor.
template <int kBits>
inline uint8_t Clamp(int32_t value) {
  if (value < 0) return 0;
  if (value > kMaxLevel<kBits>) return static_cast<uint8_t>(kMaxLevel<kBits>);
  return static_cast<uint8_t>(value);
}

}  // namespace tfmix

#endif  // TFMIX_SRC_REQUANTIZE_H_
