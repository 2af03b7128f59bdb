// Elements of one tensor in the scale of another: requantize and concatenate.
#ifndef TFMIX_SRC_RESCALE_H_
#define TFMIX_SRC_RESCALE_H_

#include <algorithm>
#include <cstdint>

#include "packing.h"
#include "requantize.h"

namespace tfmix {

// How the elements of an input become those of the output.
struct Rescale {
  int32_t input_bits;
  int32_t input_zero_point;
  int32_t multiplier;
  int32_t left_shift;
  int32_t output_zero_point;
};

// Output elements output_first + i = the rescaled input elements input_first + i, for i in
// [0, count).
template <int kOutputBits>
inline void RescaleRun(const Rescale& r, const uint8_t* input, int32_t input_first, uint8_t* output,
                       int32_t output_first, int32_t count) {
  constexpr int32_t kRun = 64;  // elements taken at a time
  int16_t x[kRun];
  uint8_t y[kRun];
  for (int32_t begin = 0; begin < count; begin += kRun) {
    const int32_t n = std::min(kRun, count - begin);
    Unpack(r.input_bits, input, input_first + begin, n, r.input_zero_point, x);
    for (int32_t i = 0; i < n; ++i) {
      y[i] = Clamp<kOutputBits>(r.output_zero_point +
                                Requantize(WrappingShiftLeft(x[i], r.left_shift), r.multiplier));
    }
    Pack<kOutputBits>(y, output_first + begin, n, output);
  }
}

}  // namespace tfmix

#endif  // TFMIX_SRC_RESCALE_H_
