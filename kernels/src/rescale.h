// Elements of one tensor in the scale of another: requantize and concatenate.
#ifndef TFMIX_SRC_RESCALE_H_
#define TFMIX_SRC_RESCALE_H_

#include <algorithm>
#include <cstdint>

#include "elements_dsp.h"
#include "packing.h"
#include "requantize.h"

namespace tfmix {

// How the elements of an input become those of the output.
struct Rescale {
  int32_t input_zero_point;
  int32_t multiplier;
  int32_t left_shift;
  int32_t output_zero_point;
};

#if TFMIX_DSP

// `count` times four elements.
template <int kInputBits, int kOutputBits>
__attribute__((noinline)) void RescaleFours(const Rescale& rescale, const uint8_t* input,
                                            int32_t count, uint8_t* output) {
  const Rescale r = rescale;  // which the bytes that are written cannot change
  const auto value = [=](int32_t x) {
    return Smmlar(WrappingShiftLeft(x - r.input_zero_point, r.left_shift), r.multiplier,
                  r.output_zero_point);
  };
#pragma GCC unroll 2
  for (; count != 0; --count) {
    const FourElements x = LoadFour<kInputBits>(input);
    StoreFour<kOutputBits>({value(x.x0), value(x.x1), value(x.x2), value(x.x3)}, output);
    input += kFourBytes<kInputBits>;
    output += kFourBytes<kOutputBits>;
  }
}

#endif  // TFMIX_DSP

// Output elements output_first + i = the rescaled input elements input_first + i, for i in
// [0, count).
template <int kInputBits, int kOutputBits>
void RescaleRun(const Rescale& r, const uint8_t* input, int32_t input_first, uint8_t* output,
                int32_t output_first, int32_t count) {
  constexpr int32_t kRun = 64;  // elements taken at a time
  int16_t x[kRun];
  uint8_t y[kRun];
  int32_t begin = 0;
#if TFMIX_DSP
  if (BitOffset<kInputBits>(input_first) == 0 && BitOffset<kOutputBits>(output_first) == 0) {
    RescaleFours<kInputBits, kOutputBits>(r, input + input_first / kPerByte<kInputBits>,
                                          count / kFour,
                                          output + output_first / kPerByte<kOutputBits>);
    begin = count / kFour * kFour;
  }
#endif
  for (; begin < count; begin += kRun) {
    const int32_t n = std::min(kRun, count - begin);
    Unpack<kInputBits>(input, input_first + begin, n, r.input_zero_point, x);
    for (int32_t i = 0; i < n; ++i) {
      y[i] = Clamp<kOutputBits>(r.output_zero_point +
                                Requantize(WrappingShiftLeft(x[i], r.left_shift), r.multiplier));
    }
    Pack<kOutputBits>(y, output_first + begin, n, output);
  }
}

}  // namespace tfmix

#endif  // TFMIX_SRC_RESCALE_H_
