// conv2d, DSP path: see conv2d_dsp.h.
#include "conv2d_dsp.h"

#if TFMIX_CHANNEL_LOOPS

#include <algorithm>
#include <cstdint>

#include "window.h"

namespace tfmix::conv2d {

template <int kInputBits, Lanes kLanes>
void GatherColumns(const tfmix_conv_params& p, const uint8_t* input, int32_t count,
                   Position* position, uint32_t* columns, int32_t* minus_sums) {
  using Writer = ColumnWriter<kPixels, kLanes>;

  // A window of one pixel, and the next one beside it.
  if (p.kernel_height * p.kernel_width * p.stride_height * p.stride_width == 1) {
    int32_t index = position->pixel * p.input_channels;
    for (int32_t i = 0; i < count; ++i, index += p.input_channels) {
      Writer writer(columns + i);
      writer.template Fill<kInputBits>(input, index, p.input_channels);
      minus_sums[i] = -writer.Finish();
    }
    position->pixel += count;
    return;
  }

  const int32_t row_size = p.kernel_width * p.input_channels;
  const int32_t row_step = p.input_width * p.input_channels;
  for (int32_t i = 0; i < count; ++i) {
    Writer writer(columns + i);
    const WindowSpan window_rows = RowsOf(p, position->row);
    const WindowSpan window_columns = ColumnsOf(p, position->column);
    const int32_t before = (window_columns.begin - window_columns.origin) * p.input_channels;
    const int32_t inside = window_columns.Count() * p.input_channels;
    int32_t index = InputIndex(p, window_rows.origin, window_columns.begin);
    for (int32_t row = 0; row < p.kernel_height; ++row, index += row_step) {
      const bool in_image = window_rows.Contains(window_rows.origin + row);
      writer.AppendConstant(p.input_zero_point, in_image ? before : row_size);
      if (!in_image) continue;
      writer.template Append<kInputBits>(input, index, inside);
      writer.AppendConstant(p.input_zero_point, row_size - before - inside);
    }
    minus_sums[i] = -writer.Finish();
    if (++position->column == p.output_width) position->column = 0, ++position->row;
  }
}

#define TFMIX_DEFINE_GATHER_(bits_, lanes_)                                                     \
  template void GatherColumns<bits_, lanes_>(const tfmix_conv_params&, const uint8_t*, int32_t, \
                                             Position*, uint32_t*, int32_t*);
TFMIX_DEFINE_GATHER_(8, Lanes::kOneValue)
TFMIX_DEFINE_GATHER_(4, Lanes::kOneValue)
TFMIX_DEFINE_GATHER_(2, Lanes::kOneValue)
TFMIX_DEFINE_GATHER_(2, Lanes::kTwoValues)
#undef TFMIX_DEFINE_GATHER_

[[gnu::cold]] void Run(const tfmix_conv_params& p, const uint8_t* input, const uint8_t* constants,
                       uint8_t* output, void* scratch, const ChannelLoopVariant& variant,
                       Gather gather) {
  const int32_t block_channels = TileShapeOf(variant.input_bits, variant.weight_bits).channels;
  const int32_t block_pixels = 8 / block_channels;
  const int32_t channels = p.output_channels;
  const int32_t pixels = p.output_height * p.output_width;
  auto* const columns = static_cast<uint32_t*>(scratch);
  LoopLayer layer(p, variant, constants, channels,
                  p.kernel_height * p.kernel_width * p.input_channels, block_channels, columns,
                  kPixels);
  layer.loop.distance = channels * variant.output_bits / 8;
  const bool whole_bytes = channels * variant.output_bits % 8 == 0;
  // The unused bits behind the last pixel stay as they are from here on.
  if (!whole_bytes) output[(pixels * channels - 1) / (8 / variant.output_bits)] = 0;

  Position position = {0, 0, 0};
  for (int32_t pixel = 0; pixel < pixels;) {
    int32_t count = std::min(kPixels, pixels - pixel);
    gather(p, input, count, &position, columns, layer.loop.minus_sums);
    layer.loop.columns = columns;
    layer.loop.end = layer.loop.last_end;
    while (count > 0) {
      const int32_t used = std::min(block_pixels, count);
      const int32_t index = pixel * channels;
      int32_t channel = 0;
      if (used == block_pixels && whole_bytes) channel = layer.ComputeBlocks(index, output);
      for (; channel < channels; channel += block_channels) {
        layer.ComputeStaged(channel, used, index, output);
      }
      layer.loop.columns += block_pixels;
      layer.loop.end += block_pixels;
      layer.loop.minus_sums[0] = layer.loop.minus_sums[2];
      layer.loop.minus_sums[1] = layer.loop.minus_sums[3];
      pixel += used;
      count -= used;
    }
  }
}

}  // namespace tfmix::conv2d

#endif  // TFMIX_CHANNEL_LOOPS
