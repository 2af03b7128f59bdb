// depthwise_conv2d in plain C++.
//
// Channels lie next to each other in input, weights and output, so a run of them is computed
// together: for each element of the window, all its sums take one product.
#ifndef TFMIX_SRC_DEPTHWISE_PORTABLE_H_
#define TFMIX_SRC_DEPTHWISE_PORTABLE_H_

#include <algorithm>
#include <cstdint>

#include "layer.h"
#include "packing.h"
#include "tfmix/kernels.h"
#include "window.h"

namespace tfmix {

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

}  // namespace tfmix

#endif  // TFMIX_SRC_DEPTHWISE_PORTABLE_H_
