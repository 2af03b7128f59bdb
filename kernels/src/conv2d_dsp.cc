// conv2d, DSP path: see conv2d_dsp.h.
#include "conv2d_dsp.h"

#if TFMIX_CHANNEL_LOOPS

#include <algorithm>
#include <cstdint>

#include "window.h"

namespace tfmix::conv2d {

// Finds position->window. A window must have two rows or more, and rows of the image a word or
// more: then a word that is loaded for its first row may end behind it, and one that is loaded for
// others begin before them.
[[gnu::cold, gnu::noinline]] void FindWords(const tfmix_conv_params& p, int32_t input_bits,
                                            Position* position) {
  const auto bits = static_cast<uint32_t>(input_bits);
  const auto rows = static_cast<uint32_t>(p.kernel_height);
  const uint32_t row_bits = static_cast<uint32_t>(p.kernel_width * p.input_channels) * bits;
  const uint32_t row_step = static_cast<uint32_t>(p.input_width * p.input_channels) * bits;
  const uint32_t words = (rows * row_bits + 31) / 32;
  if (rows == 1 || row_step < 32 || words * 8 > Position::kMostWords * bits) return;
  WindowWord* word = position->window;
  for (uint32_t phase = 0; phase < 8; phase += bits) {
    uint32_t to = 0;  // bit of the word
    uint32_t parts = 0;
    for (uint32_t row = 0, begin = phase; row < rows; ++row, begin += row_step) {
      uint32_t from = begin;
      for (uint32_t left = row_bits; left != 0;) {
        const uint32_t count = std::min({left, 32 - to, 32 - from % 8});
        const uint32_t back = row == 0 ? 0 : (32 - from % 8 - count) / 8;  // bytes
        const uint32_t byte = from / 8 - back, bit = from % 8 + 8 * back;
        if (to == 0) {
          *word = {byte, 32 - bit - count, 32 - count, byte, 0, 32};
          parts = 1;
        } else {
          if (++parts > 2) return;
          word->b = byte, word->b_right = bit, word->b_left = to;
        }
        from += count, left -= count, to += count;
        if (to == 32) to = 0, ++word;
      }
    }
    if (to != 0) ++word;
  }
  position->words = static_cast<int32_t>(words);
}

// Windows of any shape.
template <int kInputBits, Lanes kLanes>
[[gnu::cold, gnu::noinline]] int32_t GatherWindow(const tfmix_conv_params& p, const uint8_t* input,
                                                  const WindowSpan& rows, const WindowSpan& columns,
                                                  uint32_t* column) {
  const int32_t row_size = p.kernel_width * p.input_channels;
  const int32_t before = (columns.begin - columns.origin) * p.input_channels;
  const int32_t inside = columns.Count() * p.input_channels;
  ColumnWriter<kPixels, kInputBits, kLanes> writer(column);
  int32_t index = InputIndex(p, rows.begin, columns.begin);
  int32_t padding = (rows.begin - rows.origin) * row_size;
  for (int32_t row = rows.begin; row < rows.end; ++row) {
    // With what is behind the row before this one.
    writer.AppendConstant(p.input_zero_point, padding + before);
    writer.Append(input, index, inside);
    index += p.input_width * p.input_channels;
    padding = row_size - before - inside;
  }
  padding += (rows.origin + p.kernel_height - rows.end) * row_size;
  writer.AppendConstant(p.input_zero_point, padding);
  return writer.Finish();
}

template <int kInputBits, Lanes kLanes>
[[gnu::cold, gnu::noinline]] void GatherWindows(const tfmix_conv_params& p, const uint8_t* input,
                                                int32_t count, Position* position,
                                                uint32_t* columns, int32_t* minus_sums) {
  if (position->row + position->column == 0) FindWords(p, kInputBits, position);
  const int32_t size = p.kernel_height * p.kernel_width * p.input_channels;
  for (; count > 0; --count) {
    const WindowSpan rows = RowsOf(p, position->row);
    const WindowSpan window_columns = ColumnsOf(p, position->column);
    if (position->words != 0 && rows.Count() == p.kernel_height &&
        window_columns.Count() == p.kernel_width) {
      const int32_t first = InputIndex(p, rows.begin, window_columns.begin);
      const int32_t phase = first % kPerByte<kInputBits>;
      ColumnWriter<kPixels, kInputBits, kLanes> writer(columns);
      writer.FillFrom(input + first / kPerByte<kInputBits>,
                      position->window + phase * position->words, size);
      *minus_sums++ = -writer.Finish();
    } else {
      *minus_sums++ = -GatherWindow<kInputBits, kLanes>(p, input, rows, window_columns, columns);
    }
    ++columns;
    if (++position->column == p.output_width) position->column = 0, ++position->row;
  }
}

template <int kInputBits, Lanes kLanes>
[[gnu::cold]] void GatherColumns(const tfmix_conv_params& p, const uint8_t* input, int32_t count,
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
    ColumnWriter<kPixels, kInputBits, kLanes> writer(columns++);
    writer.Fill(input, channels);
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

  Position position;
  position.pixel = position.row = position.column = position.words = 0;
  for (int32_t pixel = 0, count; pixel < pixels; pixel += count) {
    count = std::min(kPixels, pixels - pixel);
    if (count < kPixels && whole_bytes) {
      if (pixels < kPixels) {
        // One pixel in all columns, whose outputs all go to the same place.
        count = 1;
        layer.loop.distance = 0;
      } else {
        // Some pixels once more.
        pixel = pixels - kPixels;
        count = kPixels;
        position.Set(pixel, p.output_width);
      }
    }
    gather(p, input, count, &position, columns, layer.loop.minus_sums);
    int32_t computed = 0;
    if (whole_bytes) {
      for (int32_t i = count; i < kPixels; ++i) {
        position.Set(pixel, p.output_width);
        gather(p, input, 1, &position, columns + i, layer.loop.minus_sums + i);
      }
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
