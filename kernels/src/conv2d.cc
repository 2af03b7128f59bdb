// conv2d:
//
//     acc = sum x * (w - zero_point_w)
//     y = clamp(zero_point_y + requantize((acc << left_shift) + bias))
//
// Four output pixels at a time: their windows are unpacked into four columns of int16 in scratch,
// so that each unpacked weight serves four dot products and the input's bits matter nowhere else.
#include <algorithm>
#include <cstdint>

#include "checks.h"
#include "conv2d_dsp.h"
#include "layer.h"
#include "packing.h"
#include "tfmix/kernels.h"
#include "tiled_layer_portable.h"
#include "weight_tiles.h"
#include "window.h"

#if !TFMIX_CHANNEL_LOOPS

namespace tfmix {
namespace {

// One output pixel's window as int16, [kernel row][kernel column][input channel]; what lies outside
// the image is the input's zero point.
template <int kInputBits>
void GatherColumn(const tfmix_conv_params& p, const uint8_t* input, int32_t output_row,
                  int32_t output_column, int16_t* column) {
  const WindowSpan rows = RowsOf(p, output_row);
  const WindowSpan columns = ColumnsOf(p, output_column);
  const int32_t channels = p.input_channels;
  const int32_t row_size = p.kernel_width * channels;
  const int32_t before = (columns.begin - columns.origin) * channels;
  const int32_t inside = columns.Count() * channels;
  const auto zero_point = static_cast<int16_t>(p.input_zero_point);
  for (int32_t i = 0; i < p.kernel_height; ++i, column += row_size) {
    const int32_t row = rows.origin + i;
    if (!rows.Contains(row)) {
      std::fill_n(column, row_size, zero_point);
      continue;
    }
    std::fill_n(column, before, zero_point);
    Unpack<kInputBits>(input, InputIndex(p, row, columns.begin), inside, 0, column + before);
    std::fill_n(column + before + inside, row_size - before - inside, zero_point);
  }
}

template <int kInputBits, int kWeightBits, int kOutputBits, ZeroPoints kZeroPoints>
void Conv2d(const tfmix_conv_params& p, const uint8_t* input, const uint8_t* constants,
            uint8_t* output, int16_t* columns) {
  const int32_t depth = p.kernel_height * p.kernel_width * p.input_channels;
  const int32_t pixels = p.output_height * p.output_width;
  constexpr TileShape kTile = TileShapeOf(kInputBits, kWeightBits);
  const Layer<kWeightBits, kOutputBits, kZeroPoints> layer(
      p, constants, p.output_channels, kTile.StoredWeights(p.output_channels, depth));
  ClearUnusedBits<kOutputBits>(pixels * p.output_channels, output);

  int32_t row = 0, column = 0;
  const auto gather_next = [&](int16_t* out) {
    GatherColumn<kInputBits>(p, input, row, column, out);
    if (++column == p.output_width) column = 0, ++row;
  };
  int32_t pixel = 0;
  for (; pixel + kPixels <= pixels; pixel += kPixels) {
    for (int32_t i = 0; i < kPixels; ++i) gather_next(columns + i * depth);
    ComputeColumns<kPixels, kInputBits>(layer, p.output_channels, columns, depth,
                                        pixel * p.output_channels, output);
  }
  for (; pixel < pixels; ++pixel) {
    gather_next(columns);
    ComputeColumns<1, kInputBits>(layer, p.output_channels, columns, depth,
                                  pixel * p.output_channels, output);
  }
}

}  // namespace
}  // namespace tfmix

#endif  // !TFMIX_CHANNEL_LOOPS

tfmix_status tfmix_conv2d_prepare(const tfmix_conv_params* params, const tfmix_variant* variant,
                                  tfmix_sizes* sizes) {
  using namespace tfmix;
  const tfmix_conv_params& p = *params;
  TFMIX_RETURN_IF_BAD(CheckWeightedVariant(*variant));
  int32_t input, output, depth, constants, scratch;
  TFMIX_RETURN_IF_BAD(CheckWindow(p, &input, &output));
  TFMIX_RETURN_IF_BAD(CheckZeroPoint(p.input_zero_point, variant->input_bits));
  TFMIX_RETURN_IF_BAD(CheckProduct({p.kernel_height, p.kernel_width, p.input_channels}, &depth));
  TFMIX_RETURN_IF_BAD(CheckProduct({PaddedDepth(depth), kPixels, sizeof(int16_t)}, &scratch));
  TFMIX_RETURN_IF_BAD(CheckTiledLayer(p, *variant, p.output_channels, depth, &constants));
  *sizes = {PackedSize(input, variant->input_bits), 0, constants,
            PackedSize(output, variant->output_bits), scratch};
  return TFMIX_OK;
}

#if TFMIX_CHANNEL_LOOPS
#define TFMIX_RUN_(a_, w_, o_, z_)                                                             \
  tfmix::conv2d::Run(                                                                          \
      *params, input, constants, output, scratch,                                              \
      tfmix::conv2d::kLoopVariant<a_, w_, o_, tfmix::ZeroPoints::z_ == tfmix::ZeroPoints::pc>, \
      tfmix::conv2d::GatherColumns<a_, tfmix::LanesOf(a_, w_)>)
#else
#define TFMIX_RUN_(a_, w_, o_, z_)                                                    \
  tfmix::Conv2d<a_, w_, o_, tfmix::ZeroPoints::z_>(*params, input, constants, output, \
                                                   static_cast<int16_t*>(scratch))
#endif

#define TFMIX_DEFINE_(a_, w_, o_, z_)                                                          \
  void tfmix_conv2d_a##a_##w##w_##o##o_##_##z_(const tfmix_conv_params* params,                \
                                               const uint8_t* input, const uint8_t* constants, \
                                               uint8_t* output, void* scratch) {               \
    TFMIX_RUN_(a_, w_, o_, z_);                                                                \
  }
TFMIX_CONV2D_VARIANTS(TFMIX_DEFINE_)
