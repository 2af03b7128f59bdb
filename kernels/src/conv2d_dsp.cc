// conv2d, DSP path: see conv2d_dsp.h.
#include "conv2d_dsp.h"

#if TFMIX_CONV2D_DSP

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "packing.h"
#include "window.h"

namespace tfmix {

// ---- Columns ------------------------------------------------------------------------------------

template <int kInputBits, Lanes kLanes>
[[gnu::noinline]] void GatherColumns(const tfmix_conv_params& p, const uint8_t* input,
                                     int32_t count, Position* position, uint32_t* columns,
                                     int32_t* minus_sums) {
  const int32_t row_size = p.kernel_width * p.input_channels;
  for (int32_t i = 0; i < count; ++i) {
    ColumnWriter<kPixels, kLanes> writer(columns + i);
    const WindowSpan window_rows = RowsOf(p, position->row);
    const WindowSpan window_columns = ColumnsOf(p, position->column);
    const int32_t before = (window_columns.begin - window_columns.origin) * p.input_channels;
    const int32_t inside = window_columns.Count() * p.input_channels;
    int32_t index = InputIndex(p, window_rows.origin, window_columns.begin);
    for (int32_t row = 0; row < p.kernel_height; ++row) {
      if (window_rows.Contains(window_rows.origin + row)) {
        writer.AppendConstant(p.input_zero_point, before);
        writer.template Append<kInputBits>(input, index, inside);
        writer.AppendConstant(p.input_zero_point, row_size - before - inside);
      } else {
        writer.AppendConstant(p.input_zero_point, row_size);
      }
      index += p.input_width * p.input_channels;
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

// ---- Channels -----------------------------------------------------------------------------------

namespace {

// A segment of the columns of two-bit inputs, in tiles; conv2d_loops.S has it in bytes.
constexpr int32_t kSegmentTiles = 56;
constexpr int32_t kWordsPerTile = 2 * kPixels;
constexpr int32_t kMostChannels = 4;  // of a block

// What all pixels have in common. The loops take blocks of kTile.channels channels by
// 8 / kTile.channels pixels.
struct Layer {
  ChannelLoop loop;
  TileShape tile;
  int32_t channels;
  int32_t group_bytes;  // of the weights of a block's channels
  // Of the whole layer, where there is one for all channels.
  int32_t multipliers[kMostChannels];
  uint8_t zero_points[kMostChannels];
};

Layer MakeLayer(const tfmix_conv_params& p, const uint8_t* constants, const uint32_t* columns,
                const Conv2dVariant& v) {
  Layer layer;
  layer.tile = TileShapeOf(v.input_bits, v.weight_bits);
  layer.channels = p.output_channels;
  const int32_t tiles = layer.tile.TilesOf(p.kernel_height * p.kernel_width * p.input_channels);
  layer.group_bytes = tiles * layer.tile.channels * layer.tile.depth * v.weight_bits / 8;

  ChannelLoop& loop = layer.loop;
  loop.columns = columns;
  loop.tiles = tiles;
  loop.last_end = columns + tiles * kWordsPerTile;
  loop.first_end = columns + ((tiles - 1) % kSegmentTiles + 1) * kWordsPerTile;
  loop.end = loop.last_end;
  loop.bias = reinterpret_cast<const int32_t*>(constants);
  loop.multiplier = loop.bias + p.output_channels;
  loop.weights = reinterpret_cast<const uint8_t*>(loop.multiplier + p.multiplier_count);
  loop.zero_point = loop.weights + layer.tile.GroupsOf(p.output_channels) * layer.group_bytes;
  loop.multiplier_step = 8;
  loop.zero_point_step = 2;
  if (p.multiplier_count == 1) {
    std::fill_n(layer.multipliers, kMostChannels, loop.multiplier[0]);
    loop.multiplier = layer.multipliers;
    loop.multiplier_step = 0;
  }
  if (!v.per_channel) {
    std::fill_n(layer.zero_points, kMostChannels, loop.zero_point[0]);
    loop.zero_point = layer.zero_points;
    loop.zero_point_step = 0;
  }
  loop.shift_factor = p.left_shift == 0 ? 0 : static_cast<int32_t>(1u << p.left_shift);
  loop.output_zero_point = p.output_zero_point;
  loop.pixel_bytes = p.output_channels * v.output_bits / 8;
  return layer;
}

// Element `index` of `data` = `value`, where bits are known at run time only.
void StoreElement(int32_t bits, int32_t index, uint32_t value, uint8_t* data) {
  const int32_t bit = index * bits % 8;
  uint8_t& byte = data[index / (8 / bits)];
  byte = static_cast<uint8_t>((byte & ~(((1u << bits) - 1) << bit)) | value << bit);
}

// One group of channels for `pixels` of a block's pixels, where the loop cannot store by itself:
// there are fewer pixels or channels than in a block, or pixels do not begin with a byte.
[[gnu::noinline]] void ComputeStaged(const Layer& layer, ChannelLoop loop, int32_t channel,
                                     int32_t pixels, int32_t bits, int32_t output_index,
                                     uint8_t* output, decltype(Conv2dVariant::loop) run) {
  const int32_t channels = std::min(layer.tile.channels, layer.channels - channel);
  int32_t bias[kMostChannels], multipliers[kMostChannels];
  uint8_t zero_points[kMostChannels];
  for (int32_t c = 0; c < kMostChannels; ++c) {
    const int32_t from = channel + std::min(c, channels - 1);
    bias[c] = loop.bias[from];
    multipliers[c] = loop.multiplier[loop.multiplier_step == 0 ? 0 : from];
    zero_points[c] = loop.zero_point[loop.zero_point_step == 0 ? 0 : from];
  }
  loop.bias = bias;
  loop.multiplier = multipliers;
  loop.zero_point = zero_points;
  loop.weights += channel / layer.tile.channels * layer.group_bytes;
  loop.weights_end = loop.weights + layer.group_bytes;
  uint8_t staged[kPixels][kMostChannels];
  loop.output = staged[0];
  loop.pixel_bytes = kMostChannels;
  run(&loop);
  for (int32_t i = 0; i < pixels; ++i) {
    for (int32_t c = 0; c < channels; ++c) {
      const uint32_t value = staged[i][c * bits / 8] >> c * bits % 8 & ((1u << bits) - 1);
      StoreElement(bits, output_index + i * layer.channels + channel + c, value, output);
    }
  }
}

// All channels of `pixels` of a block's pixels.
void ComputeBlocks(const Layer& layer, const ChannelLoop& columns, int32_t pixels, int32_t bits,
                   int32_t output_index, uint8_t* output, decltype(Conv2dVariant::loop) run) {
  int32_t channel = 0;
  if (pixels * layer.tile.channels >= 8 && layer.channels * bits % 8 == 0) {
    channel = layer.channels / layer.tile.channels * layer.tile.channels;
  }
  if (channel > 0) {
    ChannelLoop loop = columns;
    loop.weights_end = loop.weights + channel / layer.tile.channels * layer.group_bytes;
    loop.output = output + output_index / (8 / bits);
    run(&loop);
  }
  for (; channel < layer.channels; channel += layer.tile.channels) {
    ComputeStaged(layer, columns, channel, pixels, bits, output_index, output, run);
  }
}

}  // namespace

void Conv2d(const tfmix_conv_params& p, const uint8_t* input, const uint8_t* constants,
            uint8_t* output, uint32_t* columns, const Conv2dVariant& v) {
  Layer layer = MakeLayer(p, constants, columns, v);
  const int32_t pixels = p.output_height * p.output_width;
  const int32_t output_bits = pixels * p.output_channels % 8 * v.output_bits;
  if (output_bits % 8 != 0) output[pixels * p.output_channels / (8 / v.output_bits)] = 0;

  const int32_t block_pixels = 8 / layer.tile.channels;
  Position position = {0, 0};
  for (int32_t pixel = 0; pixel < pixels; pixel += kPixels) {
    const int32_t count = std::min(kPixels, pixels - pixel);
    int32_t minus_sums[kPixels];
    v.gather(p, input, count, &position, columns, minus_sums);
    for (int32_t i = 0; i < count; i += block_pixels) {
      ChannelLoop& loop = layer.loop;
      loop.columns = columns + i;
      loop.end = loop.last_end + i;
      std::copy_n(minus_sums + i, block_pixels, loop.minus_sums);
      ComputeBlocks(layer, loop, std::min(block_pixels, count - i), v.output_bits,
                    (pixel + i) * layer.channels, output, v.loop);
    }
  }
}

}  // namespace tfmix

#endif  // TFMIX_CONV2D_DSP
