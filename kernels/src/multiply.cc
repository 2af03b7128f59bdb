// multiply: y = clamp(zero_point_y + requantize((a - zero_point_a) * (b - zero_point_b)
// << left_shift)). The elements of b are taken over and over until those of a are at their end: so
// b is a factor for each channel, or one for each element.
#include <algorithm>
#include <cstdint>

#include "channel_group.h"
#include "checks.h"
#include "elements_dsp.h"
#include "packing.h"
#include "requantize.h"
#include "tfmix/kernels.h"

namespace tfmix {
namespace {

// Of any shape. Beside the path below it serves channels that do not come in fours.
template <int kInputBitsA, int kInputBitsB, int kOutputBits>
TFMIX_FOR_SIZE void MultiplyRuns(const tfmix_multiply_params& p, const uint8_t* input_a,
                                 const uint8_t* input_b, uint8_t* output) {
  constexpr int32_t kRun = 64;  // elements taken at a time
  ClearUnusedBits<kOutputBits>(p.elements, output);
  int16_t a[kRun];
  int16_t b[kRun];
  uint8_t y[kRun];
  for (int32_t round = 0; round < p.elements; round += p.second_elements) {
    for (int32_t begin = 0; begin < p.second_elements; begin += kRun) {
      const int32_t count = std::min(kRun, p.second_elements - begin);
      Unpack<kInputBitsA>(input_a, round + begin, count, p.zero_point_a, a);
      Unpack<kInputBitsB>(input_b, begin, count, p.zero_point_b, b);
      for (int32_t i = 0; i < count; ++i) {
        const int32_t product = WrappingShiftLeft(a[i] * b[i], p.left_shift);
        y[i] = Clamp<kOutputBits>(p.output_zero_point + Requantize(product, p.multiplier));
      }
      Pack<kOutputBits>(y, round + begin, count, output);
    }
  }
}

#if TFMIX_DSP

// Whether four elements can be computed in half words: a product of differences, shifted left, is
// at most 255 * 255, so that half of it and a zero point, the largest value to be clamped, is below
// 2^15. Of 8 by 8 bits that is so where an output is less than half a product of two inputs.
template <int kInputBitsA, int kInputBitsB>
bool FitsHalfWords(const tfmix_multiply_params& p) {
  return kMaxLevel<kInputBitsA> * kMaxLevel<kInputBitsB> <= 255 * 255 >> p.left_shift;
}

// Four neighbours of b at a time, and all fours of a that they are multiplied by.
template <int kInputBitsA, int kInputBitsB, int kOutputBits>
__attribute__((noinline)) void MultiplyFours(const tfmix_multiply_params& params, const uint8_t* a,
                                             const uint8_t* b, uint8_t* output) {
  const tfmix_multiply_params p = params;  // which the bytes that are written cannot change
  const int32_t rounds = p.elements / p.second_elements;
  const int32_t stride_a = p.second_elements / kPerByte<kInputBitsA>;
  const int32_t stride_y = p.second_elements / kPerByte<kOutputBits>;
  const Int16Pair zero_points =
      LowHalves(static_cast<uint32_t>(p.zero_point_a), static_cast<uint32_t>(p.zero_point_a));
  const auto factor = [=](int32_t q) {
    return static_cast<uint32_t>(WrappingShiftLeft(q - p.zero_point_b, p.left_shift));
  };
  const auto value = [=](int32_t product) {
    return static_cast<uint32_t>(Smmlar(product, p.multiplier, p.output_zero_point));
  };
  for (int32_t fours = p.second_elements / kFour; fours != 0; --fours) {
    const FourElements q = LoadFour<kInputBitsB>(b);
    const Int16Pair even = LowHalves(factor(q.x0), factor(q.x2));
    const Int16Pair odd = LowHalves(factor(q.x1), factor(q.x3));
    const uint8_t* x = a;
    uint8_t* y = output;
#pragma GCC unroll 2
    for (int32_t round = rounds; round != 0; --round) {
      const uint32_t bytes = SpreadFour<kInputBitsA>(LoadBytes<kInputBitsA>(x));
      const Int16Pair x02 = Ssub16(Uxtb16(bytes), zero_points);
      const Int16Pair x13 = Ssub16(Uxtb16Ror8(bytes), zero_points);
      const uint32_t y02 =
          Usat16<kOutputBits>(LowHalves(value(Smulbb(x02, even)), value(Smultt(x02, even))));
      const uint32_t y13 =
          Usat16<kOutputBits>(LowHalves(value(Smulbb(x13, odd)), value(Smultt(x13, odd))));
      StoreBytes<kOutputBits>(y02 | y13 << 8, y);
      x += stride_a;
      y += stride_y;
    }
    a += kFourBytes<kInputBitsA>;
    b += kFourBytes<kInputBitsB>;
    output += kFourBytes<kOutputBits>;
  }
}

#endif  // TFMIX_DSP

template <int kInputBitsA, int kInputBitsB, int kOutputBits>
void Multiply(const tfmix_multiply_params& p, const uint8_t* a, const uint8_t* b, uint8_t* output) {
#if TFMIX_DSP
  if (p.second_elements % kFour == 0 && FitsHalfWords<kInputBitsA, kInputBitsB>(p)) {
    MultiplyFours<kInputBitsA, kInputBitsB, kOutputBits>(p, a, b, output);
    return;
  }
#endif
  MultiplyRuns<kInputBitsA, kInputBitsB, kOutputBits>(p, a, b, output);
}

// Every product of differences, shifted left, fits int32. The zero points have been checked.
tfmix_status CheckProducts(const tfmix_multiply_params& p, int32_t max_a, int32_t max_b) {
  TFMIX_RETURN_IF_BAD(CheckLeftShift(p.left_shift));
  const int32_t largest = std::max(p.zero_point_a, max_a - p.zero_point_a) *
                          std::max(p.zero_point_b, max_b - p.zero_point_b);
  return largest <= INT32_MAX >> p.left_shift ? TFMIX_OK : TFMIX_TOO_LARGE;
}

}  // namespace
}  // namespace tfmix

tfmix_status tfmix_multiply_prepare(const tfmix_multiply_params* params,
                                    const tfmix_variant* variant, tfmix_sizes* sizes) {
  using namespace tfmix;
  const tfmix_multiply_params& p = *params;
  TFMIX_RETURN_IF_BAD(CheckBits(variant->input_bits));
  TFMIX_RETURN_IF_BAD(CheckBits(variant->second_input_bits));
  TFMIX_RETURN_IF_BAD(CheckBits(variant->output_bits));
  int32_t elements, second_elements;
  TFMIX_RETURN_IF_BAD(CheckProduct({p.elements}, &elements));
  TFMIX_RETURN_IF_BAD(CheckProduct({p.second_elements}, &second_elements));
  if (elements % second_elements != 0) return TFMIX_BAD_SHAPE;
  TFMIX_RETURN_IF_BAD(CheckZeroPoint(p.zero_point_a, variant->input_bits));
  TFMIX_RETURN_IF_BAD(CheckZeroPoint(p.zero_point_b, variant->second_input_bits));
  TFMIX_RETURN_IF_BAD(CheckZeroPoint(p.output_zero_point, variant->output_bits));
  if (p.multiplier < 1) return TFMIX_BAD_RESCALE;
  TFMIX_RETURN_IF_BAD(
      CheckProducts(p, MaxLevel(variant->input_bits), MaxLevel(variant->second_input_bits)));
  *sizes = {PackedSize(elements, variant->input_bits),
            PackedSize(second_elements, variant->second_input_bits), 0,
            PackedSize(elements, variant->output_bits), 0};
  return TFMIX_OK;
}

#define TFMIX_DEFINE_(a_, b_, o_)                                                                \
  void tfmix_multiply_a##a_##b##b_##o##o_(const tfmix_multiply_params* params, const uint8_t* a, \
                                          const uint8_t* b, uint8_t* output) {                   \
    tfmix::Multiply<a_, b_, o_>(*params, a, b, output);                                          \
  }
TFMIX_MULTIPLY_VARIANTS(TFMIX_DEFINE_)
