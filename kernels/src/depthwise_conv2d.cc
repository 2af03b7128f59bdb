// depthwise_conv2d:
//
//     acc = sum x * (w - zero_point_w)
//     y = clamp(zero_point_y + requantize((acc << left_shift) + bias))
//
// Channels lie next to each other in input, weights and output, so a run of them is computed
// together: for each element of the window, all its sums take one product.
#include <algorithm>
#include <cstdint>

#include "checks.h"
#include "layer.h"
#include "packing.h"
#include "tfmix/kernels.h"
#include "window.h"

namespace tfmix {
namespace {

constexpr int32_t kChannelRun = 32;  // output channels computed together

// x[i] = the input that output channel begin + i reads from the pixel whose first channel is
// element `pixel`.
template <int kInputBits>
void GatherChannels(const uint8_t* input, int32_t pixel, int32_t begin, int32_t count,
                    int32_t depth_multiplier, int16_t* x) {
  if (depth_multiplier == 1) {
    Unpack<kInputBits>(input, pixel + begin, count, 0, x);
    return;
  }
  for (int32_t i = 0; i < count; ++i) {
    Unpack<kInputBits>(input, pixel + (begin + i) / depth_multiplier, 1, 0, x + i);
  }
}

template <int kInputBits, int kWeightBits, int kOutputBits, ZeroPoints kZeroPoints>
void DepthwiseConv2d(const tfmix_conv_params& p, const uint8_t* input, const uint8_t* constants,
                     uint8_t* output) {
  const int32_t depth_multiplier = p.output_channels / p.input_channels;
  const Layer<kWeightBits, kOutputBits, kZeroPoints> layer(
      p, constants, p.output_channels, p.kernel_height * p.kernel_width * p.output_channels);
  ClearUnusedBits<kOutputBits>(p.output_height * p.output_width * p.output_channels, output);

  int16_t x[kChannelRun];
  int16_t weights[kChannelRun];
  int16_t zero_points[kChannelRun];
  int32_t sums[kChannelRun];
  uint8_t staged[kChannelRun];
  for (int32_t begin = 0; begin < p.output_channels; begin += kChannelRun) {
    const int32_t count = std::min(kChannelRun, p.output_channels - begin);
    for (int32_t c = 0; c < count; ++c) {
      zero_points[c] = static_cast<int16_t>(layer.zero_point(begin + c));
    }
    ForEachOutputPixel(p, [&](const WindowSpan& rows, const WindowSpan& columns, int32_t index) {
      std::fill_n(sums, count, 0);
      for (int32_t i = 0; i < p.kernel_height; ++i) {
        for (int32_t j = 0; j < p.kernel_width; ++j) {
          const int32_t row = rows.origin + i, column = columns.origin + j;
          if (rows.Contains(row) && columns.Contains(column)) {
            GatherChannels<kInputBits>(input, InputIndex(p, row, column), begin, count,
                                       depth_multiplier, x);
          } else {
            std::fill_n(x, count, static_cast<int16_t>(p.input_zero_point));
          }
          const int32_t first_weight = (i * p.kernel_width + j) * p.output_channels + begin;
          layer.UnpackWeights(first_weight, count, 0, weights);
          for (int32_t c = 0; c < count; ++c) sums[c] += x[c] * (weights[c] - zero_points[c]);
        }
      }
      for (int32_t c = 0; c < count; ++c) staged[c] = layer.Output(begin + c, sums[c]);
      Pack<kOutputBits>(staged, index + begin, count, output);
    });
  }
}

}  // namespace
}  // namespace tfmix

tfmix_status tfmix_depthwise_conv2d_prepare(const tfmix_conv_params* params,
                                            const tfmix_variant* variant, tfmix_sizes* sizes) {
  using namespace tfmix;
  const tfmix_conv_params& p = *params;
  TFMIX_RETURN_IF_BAD(CheckWeightedVariant(*variant));
  int32_t input, output, depth, constants;
  TFMIX_RETURN_IF_BAD(CheckWindow(p, &input, &output));
  if (p.output_channels % p.input_channels != 0) return TFMIX_BAD_SHAPE;
  TFMIX_RETURN_IF_BAD(CheckZeroPoint(p.input_zero_point, variant->input_bits));
  TFMIX_RETURN_IF_BAD(CheckProduct({p.kernel_height, p.kernel_width}, &depth));
  int32_t weights;
  TFMIX_RETURN_IF_BAD(CheckProduct({depth, p.output_channels}, &weights));
  TFMIX_RETURN_IF_BAD(CheckLayer(p, *variant, p.output_channels, depth, weights, &constants));
  *sizes = {PackedSize(input, variant->input_bits), 0, constants,
            PackedSize(output, variant->output_bits), 0};
  return TFMIX_OK;
}

#define TFMIX_DEFINE_(a_, w_, o_, z_)                                                             \
  void tfmix_depthwise_conv2d_a##a_##w##w_##o##o_##_##z_(                                         \
      const tfmix_conv_params* params, const uint8_t* input, const uint8_t* constants,            \
      uint8_t* output, void*) {                                                                   \
    tfmix::DepthwiseConv2d<a_, w_, o_, tfmix::ZeroPoints::z_>(*params, input, constants, output); \
  }
TFMIX_DEPTHWISE_CONV2D_VARIANTS(TFMIX_DEFINE_)
