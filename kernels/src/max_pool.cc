// max_pool: the largest of the elements in the image. Scale, zero point and bits stay as they are.
#include <algorithm>
#include <cstdint>

#include "channel_group.h"
#include "checks.h"
#include "packing.h"
#include "tfmix/kernels.h"
#include "window.h"

namespace tfmix {
namespace {

#if TFMIX_DSP

template <int kBits>
void MaxPool(const tfmix_max_pool_params& p, const uint8_t* input, uint8_t* output) {
  ClearUnusedBits<kBits>(p.output_height * p.output_width * p.output_channels, output);
  ForEachOutputPixel(p, [&](const WindowSpan& rows, const WindowSpan& columns, int32_t index) {
    for (int32_t begin = 0; begin < p.output_channels; begin += kGroup) {
      const ChannelGroup group = {begin, std::min(kGroup, p.output_channels - begin),
                                  p.output_channels};
      uint32_t largest = 0;
      ForEachElement(rows, columns, [&](int32_t row, int32_t column) {
        largest = Max8(largest, LoadGroup<kBits>(group, input, InputIndex(p, row, column)));
      });
      StoreGroup<kBits>(group, largest, index, output);
    }
  });
}

#else

constexpr int32_t kChannelRun = 32;  // channels computed together

template <int kBits>
void MaxPool(const tfmix_max_pool_params& p, const uint8_t* input, uint8_t* output) {
  ClearUnusedBits<kBits>(p.output_height * p.output_width * p.output_channels, output);
  int16_t x[kChannelRun];
  uint8_t largest[kChannelRun];
  ForEachOutputPixel(p, [&](const WindowSpan& rows, const WindowSpan& columns, int32_t index) {
    for (int32_t begin = 0; begin < p.output_channels; begin += kChannelRun) {
      const int32_t count = std::min(kChannelRun, p.output_channels - begin);
      std::fill_n(largest, count, uint8_t{0});
      ForEachElement(rows, columns, [&](int32_t row, int32_t column) {
        Unpack<kBits>(input, InputIndex(p, row, column) + begin, count, 0, x);
        for (int32_t c = 0; c < count; ++c) {
          largest[c] = std::max(largest[c], static_cast<uint8_t>(x[c]));
        }
      });
      Pack<kBits>(largest, index + begin, count, output);
    }
  });
}

#endif  // TFMIX_DSP

}  // namespace
}  // namespace tfmix

tfmix_status tfmix_max_pool_prepare(const tfmix_max_pool_params* params,
                                    const tfmix_variant* variant, tfmix_sizes* sizes) {
  using namespace tfmix;
  TFMIX_RETURN_IF_BAD(CheckBits(variant->input_bits));
  int32_t input, output;
  TFMIX_RETURN_IF_BAD(CheckWindow(*params, &input, &output));
  if (params->output_channels != params->input_channels) return TFMIX_BAD_SHAPE;
  *sizes = {PackedSize(input, variant->input_bits), 0, 0, PackedSize(output, variant->input_bits),
            0};
  return TFMIX_OK;
}

#define TFMIX_DEFINE_(a_)                                                              \
  void tfmix_max_pool_a##a_(const tfmix_max_pool_params* params, const uint8_t* input, \
                            uint8_t* output) {                                         \
    tfmix::MaxPool<a_>(*params, input, output);                                        \
  }
TFMIX_MAX_POOL_VARIANTS(TFMIX_DEFINE_)
