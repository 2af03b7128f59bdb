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
#include "tfmix/stream.h"
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

constexpr int32_t kRun = kGroup;  // channels computed together

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

// sums[i] += what lies in the window of channel begin + i, each element less the zero point.
template <int kInputBits>
void AddWindow(const tfmix_average_pool_params& p, const uint8_t* input, const WindowSpan& rows,
               const WindowSpan& columns, int32_t begin, int32_t count, int32_t* sums) {
  const ChannelGroup group = {begin, count, p.input_channels};
  GroupSums found;
  ForEachElement(rows, columns, [&](int32_t row, int32_t column) {
    found.Add(LoadGroup<kInputBits>(group, input, InputIndex(p, row, column)));
  });
  found.Flush();
  const int32_t zero = rows.Count() * columns.Count() * p.input_zero_point;
  for (int32_t k = 0; k < count; ++k) sums[k] += found[k] - zero;
}

// Output channels begin + [0, count) of the pixel whose first channel is element `index`.
template <int kOutputBits>
void StoreMeans(const tfmix_average_pool_params& p, int32_t multiplier, const int32_t* sums,
                int32_t begin, int32_t count, int32_t index, uint8_t* output) {
  const ChannelGroup group = {begin, count, p.output_channels};
  uint32_t means = 0;
  for (int32_t k = 0; k < count; ++k) {
    means |= Usat<kOutputBits>(
                 Smmlar(WrappingShiftLeft(sums[k], p.left_shift), multiplier, p.output_zero_point))
             << 8 * k;
  }
  StoreGroup<kOutputBits>(group, means, index, output);
}

#else

constexpr int32_t kRun = 32;  // channels computed together

// sums[i] += what lies in the window of channel begin + i, each element less the zero point.
template <int kInputBits>
void AddWindow(const tfmix_average_pool_params& p, const uint8_t* input, const WindowSpan& rows,
               const WindowSpan& columns, int32_t begin, int32_t count, int32_t* sums) {
  int16_t x[kRun];
  ForEachElement(rows, columns, [&](int32_t row, int32_t column) {
    Unpack<kInputBits>(input, InputIndex(p, row, column) + begin, count, p.input_zero_point, x);
    for (int32_t c = 0; c < count; ++c) sums[c] += x[c];
  });
}

// Output channels begin + [0, count) of the pixel whose first channel is element `index`.
template <int kOutputBits>
void StoreMeans(const tfmix_average_pool_params& p, int32_t multiplier, const int32_t* sums,
                int32_t begin, int32_t count, int32_t index, uint8_t* output) {
  uint8_t means[kRun];
  for (int32_t c = 0; c < count; ++c) {
    means[c] = Clamp<kOutputBits>(p.output_zero_point +
                                  Requantize(WrappingShiftLeft(sums[c], p.left_shift), multiplier));
  }
  Pack<kOutputBits>(means, index + begin, count, output);
}

#endif  // TFMIX_DSP

template <int kInputBits, int kOutputBits>
void AveragePool(const tfmix_average_pool_params& p, const uint8_t* input, uint8_t* output) {
  ClearUnusedBits<kOutputBits>(p.output_height * p.output_width * p.output_channels, output);
  ForEachOutputPixel(p, [&](const WindowSpan& rows, const WindowSpan& columns, int32_t index) {
    const int32_t multiplier = MultiplierOfMean(p.multiplier, rows.Count() * columns.Count());
    for (int32_t begin = 0; begin < p.output_channels; begin += kRun) {
      const int32_t count = std::min(kRun, p.output_channels - begin);
      int32_t sums[kRun] = {};
      AddWindow<kInputBits>(p, input, rows, columns, begin, count, sums);
      StoreMeans<kOutputBits>(p, multiplier, sums, begin, count, index, output);
    }
  });
}

// Row number `row` of the image, which is one window.
template <int kInputBits, int kOutputBits>
void AveragePoolRow(const tfmix_average_pool_params& p, int32_t row, const uint8_t* input,
                    uint8_t* output, int32_t* sums) {
  const bool last = row + 1 == p.input_height;
  const int32_t multiplier =
      last ? MultiplierOfMean(p.multiplier, p.input_height * p.input_width) : 0;
  if (row == 0) std::fill_n(sums, p.input_channels, 0);
  if (last) ClearUnusedBits<kOutputBits>(p.output_channels, output);
  for (int32_t begin = 0; begin < p.input_channels; begin += kRun, sums += kRun) {
    const int32_t count = std::min(kRun, p.input_channels - begin);
    AddWindow<kInputBits>(p, input, {0, 0, 1}, {0, 0, p.input_width}, begin, count, sums);
    if (last) StoreMeans<kOutputBits>(p, multiplier, sums, begin, count, 0, output);
  }
}

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

#define TFMIX_DEFINE_(a_, o_)                                                                     \
  void tfmix_average_pool_a##a_##o##o_(const tfmix_average_pool_params* params,                   \
                                       const uint8_t* input, uint8_t* output) {                   \
    tfmix::AveragePool<a_, o_>(*params, input, output);                                           \
  }                                                                                               \
  void tfmix_average_pool_rows_a##a_##o##o_(const tfmix_average_pool_params* params, int32_t row, \
                                            const uint8_t* input, uint8_t* output,                \
                                            int32_t* sums) {                                      \
    tfmix::AveragePoolRow<a_, o_>(*params, row, input, output, sums);                             \
  }
TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_DEFINE_)
