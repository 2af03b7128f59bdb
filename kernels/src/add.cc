// add: y = clamp(zero_point_y + ((a * m_a + b * m_b + offset) >> shift)).
#include <algorithm>
#include <cstdint>

#include "checks.h"
#include "elements_dsp.h"
#include "packing.h"
#include "requantize.h"
#include "tfmix/kernels.h"

namespace tfmix {
namespace {

#if TFMIX_DSP

// `count` times eight elements. The shift to the right is a product with 2^(32 - shift) of which
// the high half counts; so the zero point is added for nothing.
template <int kInputBitsA, int kInputBitsB, int kOutputBits>
__attribute__((noinline)) void AddEights(const tfmix_add_params& params, const uint8_t* input_a,
                                         const uint8_t* input_b, int32_t count, uint8_t* output) {
  const auto multiplier_a = static_cast<uint32_t>(params.multiplier_a);
  const auto multiplier_b = static_cast<uint32_t>(params.multiplier_b);
  const auto offset = static_cast<uint32_t>(params.offset);
  // Negative, because 2^31 does not fit.
  const auto minus_power = static_cast<int32_t>(-(int64_t{1} << (32 - params.shift)));
  const int32_t zero_point = params.output_zero_point;
  const auto add = [=](int32_t a, int32_t b) {
    // In a register between the two, or the compiler makes three instructions of them.
    uint32_t sum = InRegister(static_cast<uint32_t>(b) * multiplier_b + offset);
    sum += static_cast<uint32_t>(a) * multiplier_a;
    return Smmls(static_cast<int32_t>(sum), minus_power, zero_point);
  };
  const auto add_four = [=](const uint8_t* in_a, const uint8_t* in_b, uint8_t* out) {
    const FourElements a = LoadFour<kInputBitsA>(in_a);
    const FourElements b = LoadFour<kInputBitsB>(in_b);
    StoreFour<kOutputBits>({add(a.x0, b.x0), add(a.x1, b.x1), add(a.x2, b.x2), add(a.x3, b.x3)},
                           out);
  };
  for (; count != 0; --count) {
    add_four(input_a, input_b, output);
    add_four(input_a + kFourBytes<kInputBitsA>, input_b + kFourBytes<kInputBitsB>,
             output + kFourBytes<kOutputBits>);
    input_a += 2 * kFourBytes<kInputBitsA>;
    input_b += 2 * kFourBytes<kInputBitsB>;
    output += 2 * kFourBytes<kOutputBits>;
  }
}

template <int kInputBitsA, int kInputBitsB, int kOutputBits>
void Add(const tfmix_add_params& p, const uint8_t* a, const uint8_t* b, uint8_t* output) {
  const int32_t eights = p.elements / kEight, rest = p.elements & (kEight - 1);
  AddEights<kInputBitsA, kInputBitsB, kOutputBits>(p, a, b, eights, output);
  if (rest == 0) return;
  // The last elements with others beside them that are thrown away.
  uint8_t last_a[kEight] = {}, last_b[kEight] = {}, last[kEight];
  std::copy_n(a + eights * kInputBitsA, PackedSize<kInputBitsA>(rest), last_a);
  std::copy_n(b + eights * kInputBitsB, PackedSize<kInputBitsB>(rest), last_b);
  AddEights<kInputBitsA, kInputBitsB, kOutputBits>(p, last_a, last_b, 1, last);
  ClearBehind<kOutputBits>(rest, last);
  std::copy_n(last, PackedSize<kOutputBits>(rest), output + eights * kOutputBits);
}

#else

constexpr int32_t kRun = 64;  // elements taken at a time

template <int kInputBitsA, int kInputBitsB, int kOutputBits>
void Add(const tfmix_add_params& p, const uint8_t* input_a, const uint8_t* input_b,
         uint8_t* output) {
  ClearUnusedBits<kOutputBits>(p.elements, output);
  int16_t a[kRun];
  int16_t b[kRun];
  uint8_t y[kRun];
  for (int32_t begin = 0; begin < p.elements; begin += kRun) {
    const int32_t count = std::min(kRun, p.elements - begin);
    Unpack<kInputBitsA>(input_a, begin, count, 0, a);
    Unpack<kInputBitsB>(input_b, begin, count, 0, b);
    for (int32_t i = 0; i < count; ++i) {
      const int32_t sum = a[i] * p.multiplier_a + b[i] * p.multiplier_b + p.offset;
      y[i] = Clamp<kOutputBits>(p.output_zero_point + (sum >> p.shift));
    }
    Pack<kOutputBits>(y, begin, count, output);
  }
}

#endif  // TFMIX_DSP

// Every partial sum of a * m_a + b * m_b + offset, in this order, fits int32.
tfmix_status CheckSums(const tfmix_add_params& p, int32_t max_a, int32_t max_b) {
  int64_t lowest = 0, highest = 0;
  const int64_t products[] = {int64_t{max_a} * p.multiplier_a, int64_t{max_b} * p.multiplier_b};
  for (const int64_t product : products) {
    TFMIX_RETURN_IF_BAD(CheckFitsInt32(product));
    lowest += std::min(product, int64_t{0});
    highest += std::max(product, int64_t{0});
    TFMIX_RETURN_IF_BAD(CheckFitsInt32(lowest));
    TFMIX_RETURN_IF_BAD(CheckFitsInt32(highest));
  }
  TFMIX_RETURN_IF_BAD(CheckFitsInt32(lowest + p.offset));
  return CheckFitsInt32(highest + p.offset);
}

}  // namespace
}  // namespace tfmix

tfmix_status tfmix_add_prepare(const tfmix_add_params* params, const tfmix_variant* variant,
                               tfmix_sizes* sizes) {
  using namespace tfmix;
  const tfmix_add_params& p = *params;
  TFMIX_RETURN_IF_BAD(CheckBits(variant->input_bits));
  TFMIX_RETURN_IF_BAD(CheckBits(variant->second_input_bits));
  TFMIX_RETURN_IF_BAD(CheckBits(variant->output_bits));
  int32_t elements;
  TFMIX_RETURN_IF_BAD(CheckProduct({p.elements}, &elements));
  TFMIX_RETURN_IF_BAD(CheckZeroPoint(p.output_zero_point, variant->output_bits));
  if (p.shift < 1 || p.shift > 31) return TFMIX_BAD_RESCALE;
  TFMIX_RETURN_IF_BAD(
      CheckSums(p, MaxLevel(variant->input_bits), MaxLevel(variant->second_input_bits)));
  *sizes = {PackedSize(elements, variant->input_bits),
            PackedSize(elements, variant->second_input_bits), 0,
            PackedSize(elements, variant->output_bits), 0};
  return TFMIX_OK;
}

#define TFMIX_DEFINE_(a_, b_, o_)                                                      \
  void tfmix_add_a##a_##b##b_##o##o_(const tfmix_add_params* params, const uint8_t* a, \
                                     const uint8_t* b, uint8_t* output) {              \
    tfmix::Add<a_, b_, o_>(*params, a, b, output);                                     \
  }
TFMIX_ADD_VARIANTS(TFMIX_DEFINE_)
