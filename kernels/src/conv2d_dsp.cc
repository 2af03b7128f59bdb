// conv2d, DSP path: see conv2d_dsp.h.
#include "conv2d_dsp.h"

#if TFMIX_CHANNEL_LOOPS

#include <algorithm>
#include <cstdint>

#include "window.h"

namespace tfmix::conv2d {

// Windows of any shape.
template <int kInputBits, Lanes kLanes>
[[gnu::noinline]] void GatherWindows(const tfmix_conv_params& p, const uint8_t* input,
                                     int32_t count, Position* position, uint32_t* columns,
                                     int32_t* minus_sums) {
  const int32_t row_size = p.kernel_width * p.input_channels;
  const int32_t row_step = p.input_width * p.input_channels;
  for (; count > 0; --count) {
    ColumnWriter<kPixels, kLanes> writer(columns++);
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
    *minus_sums++ = -writer.Finish();
    if (++position->column == p.output_width) position->column = 0, ++position->row;
  }
}

template <int kInputBits, Lanes kLanes>
void GatherColumns(const tfmix_conv_params& p, const uint8_t* input, int32_t count,
                   Position* position, uint32_t* columns, int32_t* minus_sums) {
  const int32_t channels = p.input_channels;
  if (p.kernel_height * p.kernel_width * p.stride_height * p.stride_width != 1 ||
      p.output_width != p.input_width || channels * kInputBits % 8 != 0) {
    return GatherWindows<kInputBits, kLanes>(p, input, count, position, columns, minus_sums);
  }
  // Windows of one pixel, one behind the other, that begin with a byte.
  const int32_t step = channels * kInputBits / 8;
  input += position->pixel * step;
  position->pixel += count;
  for (; count > 0; --count, input += step) {
    ColumnWriter<kPixels, kLanes> writer(columns++);
    writer.template Fill<kInputBits>(input, channels);
    *minus_sums++ = -writer.Finish();
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
  const int32_t per_byte = 8 / variant.output_bits;
  const int32_t pixel_bits = channels * variant.output_bits;
  const bool whole_bytes = pixel_bits % 8 == 0;
  layer.loop.distance = pixel_bits / 8;
  // The unused bits behind the last pixel stay as they are from here on.
  if (!whole_bytes) output[(pixels * channels - 1) / per_byte] = 0;

  Position position = {0, 0, 0};
  for (int32_t pixel = 0; pixel < pixels; pixel += kPixels) {
    const int32_t count = std::min(kPixels, pixels - pixel);
    gather(p, input, count, &position, columns, layer.loop.minus_sums);
    int32_t computed = 0;
    if (count == kPixels && whole_bytes) {
      layer.loop.second_pair = block_pixels != kPixels;
      layer.ComputeBlocks(output + pixel * channels / per_byte);
      layer.loop.second_pair = 0;
      computed = layer.whole_channels();
      if (computed == channels) continue;
    }
    for (int32_t i = 0; i < count; i += block_pixels) {
      for (int32_t channel = computed; channel < channels; channel += block_channels) {
        layer.ComputeStaged(channel, std::min(block_pixels, count - i), (pixel + i) * channels,
                            output);
      }
      // The second half of the columns.
      layer.loop.columns += block_pixels;
      layer.loop.end += block_pixels;
      std::copy_n(layer.loop.minus_sums + 2, 2, layer.loop.minus_sums);
    }
    layer.loop.columns = columns;
    layer.loop.end = layer.loop.last_end;
  }
}

}  // namespace tfmix::conv2d

#endif  // TFMIX_CHANNEL_LOOPS
