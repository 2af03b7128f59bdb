// average_pool: the mean of the elements in the image, rescaled to the output's scale.
//
// The division by the number of elements goes into the multiplier: m_n = (m + n / 2) / n.
#include <algorithm>
#include <cstdint>

#include "channel_group.h"
#include "checks.h"
#include "packing.h"
#include "requantize.h"
#include "tfmix/kernels.h"
#include "window.h"

namespace tfmix {
namespace {

// The average's multiplier of `count` elements. Neither operand is negative, so the sum fits
// uint32.
int32_t MultiplierOfMean(int32_t multiplier, int32_t count) {
  const uint32_t n = static_cast<uint32_t>(count);
  return static_cast<int32_t>((static_cast<uint32_t>(multiplier) + n / 2) / n);
}

#if TFMIX_DSP

// Sums of four channels over a window. They are taken two by two in 16 bits, which hold 257 bytes.
class GroupSums {
 public:
  void Add(uint32_t bytes) {
    if (room_ == 0) Flush();
    --room_;
    even_ = Uxtab16(even_, bytes);
    odd_ = Uxtab16Ror8(odd_, bytes);
  }
  void Flush() {
    sums_[0] += static_cast<int32_t>(even_ & 0xFFFF);
    sums_[1] += static_cast<int32_t>(odd_ & 0xFFFF);
    sums_[2] += static_cast<int32_t>(even_ >> 16);
    sums_[3] += static_cast<int32_t>(odd_ >> 16);
    even_ = odd_ = 0;
    room_ = kRoom;
  }
  int32_t operator[](int32_t k) const { return sums_[k]; }

 private:
  static constexpr int32_t kRoom = 257;
  uint32_t even_ = 0;
  uint32_t odd_ = 0;
  int32_t room_ = kRoom;
  int32_t sums_[kGroup] = {};
};

template <int kInputBits, int kOutputBits>
void AveragePool(const tfmix_average_pool_params& p, const uint8_t* input, uint8_t* output) {
  ClearUnusedBits<kOutputBits>(p.output_height * p.output_width * p.output_channels, output);
  ForEachOutputPixel(p, [&](const WindowSpan& rows, const WindowSpan& columns, int32_t index) {
    const int32_t count = rows.Count() * columns.Count();
    const int32_t multiplier = MultiplierOfMean(p.multiplier, count);
    const int32_t zero = count * p.input_zero_point;
    for (int32_t begin = 0; begin < p.output_channels; begin += kGroup) {
      const ChannelGroup group = {begin, std::min(kGroup, p.output_channels - begin),
                                  p.output_channels};
      GroupSums sums;
      ForEachElement(rows, columns, [&](int32_t row, int32_t column) {
        sums.Add(LoadGroup<kInputBits>(group, input, InputIndex(p, row, column)));
      });
      sums.Flush();
      const auto mean = [&](int32_t k) {
        return Usat<kOutputBits>(Smmlar(WrappingShiftLeft(sums[k] - zero, p.left_shift), multiplier,
                                        p.output_zero_point));
      };
      StoreGroup<kOutputBits>(group, mean(0) | mean(1) << 8 | mean(2) << 16 | mean(3) << 24, index,
                              output);
    }
  });
}

#else

constexpr int32_t kChannelRun = 32;  // channels computed together

template <int kInputBits, int kOutputBits>
void AveragePool(const tfmix_average_pool_params& p, const uint8_t* input, uint8_t* output) {
  ClearUnusedBits<kOutputBits>(p.output_height * p.output_width * p.output_channels, output);
  int16_t x[kChannelRun];
  int32_t sums[kChannelRun];
  uint8_t staged[kChannelRun];
  ForEachOutputPixel(p, [&](const WindowSpan& rows, const WindowSpan& columns, int32_t index) {
    const int32_t multiplier = MultiplierOfMean(p.multiplier, rows.Count() * columns.Count());
    for (int32_t begin = 0; begin < p.output_channels; begin += kChannelRun) {
      const int32_t count = std::min(kChannelRun, p.output_channels - begin);
      std::fill_n(sums, count, 0);
      ForEachElement(rows, columns, [&](int32_t row, int32_t column) {
        Unpack<kInputBits>(input, InputIndex(p, row, column) + begin, count, p.input_zero_point, x);
        for (int32_t c = 0; c < count; ++c) sums[c] += x[c];
      });
      for (int32_t c = 0; c < count; ++c) {
        staged[c] = Clamp<kOutputBits>(
            p.output_zero_point + Requantize(WrappingShiftLeft(sums[c], p.left_shift), multiplier));
      }
      Pack<kOutputBits>(staged, index + begin, count, output);
    }
  });
}

#endif  // TFMIX_DSP

}  // namespace
}  // namespace tfmix

tfmix_status tfmix_average_pool_prepare(const tfmix_average_pool_params* params,
                                        const tfmix_variant* variant, tfmix_sizes* sizes) {
  using namespace tfmix;
  const tfmix_average_pool_params& p = *params;
  TFMIX_RETURN_IF_BAD(CheckBits(variant->input_bits));
  TFMIX_RETURN_IF_BAD(CheckBits(variant->output_bits));
  int32_t input, output, most_elements;
  TFMIX_RETURN_IF_BAD(CheckWindow(p, &input, &output));
  if (p.output_channels != p.input_channels) return TFMIX_BAD_SHAPE;
  TFMIX_RETURN_IF_BAD(CheckZeroPoint(p.output_zero_point, variant->output_bits));
  if (p.multiplier < 1) return TFMIX_BAD_RESCALE;
  TFMIX_RETURN_IF_BAD(CheckProduct(
      {std::min(p.kernel_height, p.input_height), std::min(p.kernel_width, p.input_width)},
      &most_elements));
  TFMIX_RETURN_IF_BAD(
      CheckShiftedSum(most_elements, variant->input_bits, p.input_zero_point, p.left_shift));
  *sizes = {PackedSize(input, variant->input_bits), 0, 0, PackedSize(output, variant->output_bits),
            0};
  return TFMIX_OK;
}

#define TFMIX_DEFINE_(a_, o_)                                                   \
  void tfmix_average_pool_a##a_##o##o_(const tfmix_average_pool_params* params, \
                                       const uint8_t* input, uint8_t* output) { \
    tfmix::AveragePool<a_, o_>(*params, input, output);                         \
  }
TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_DEFINE_)
