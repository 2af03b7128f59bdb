// fully_connected:
//
//     acc = sum x * (w - zero_point_w)
//     y = clamp(zero_point_y + requantize((acc << left_shift) + bias))
#include <cstdint>

#include "checks.h"
#include "fully_connected_dsp.h"
#include "layer.h"
#include "packing.h"
#include "tfmix/kernels.h"
#include "tiled_layer_portable.h"
#include "weight_tiles.h"

#if !TFMIX_CHANNEL_LOOPS

namespace tfmix {
namespace {

template <int kInputBits, int kWeightBits, int kOutputBits, ZeroPoints kZeroPoints>
void FullyConnected(const tfmix_fully_connected_params& p, const uint8_t* input,
                    const uint8_t* constants, uint8_t* output, int16_t* column) {
  constexpr TileShape kTile = TileShapeOf(kInputBits, kWeightBits);
  const Layer<kWeightBits, kOutputBits, kZeroPoints> layer(
      p, constants, p.output_features, kTile.StoredWeights(p.output_features, p.input_features));
  ClearUnusedBits<kOutputBits>(p.output_features, output);
  Unpack<kInputBits>(input, 0, p.input_features, 0, column);
  ComputeColumns<1, kInputBits>(layer, p.output_features, column, p.input_features, 0, output);
}

}  // namespace
}  // namespace tfmix

#endif  // !TFMIX_CHANNEL_LOOPS

tfmix_status tfmix_fully_connected_prepare(const tfmix_fully_connected_params* params,
                                           const tfmix_variant* variant, tfmix_sizes* sizes) {
  using namespace tfmix;
  const tfmix_fully_connected_params& p = *params;
  TFMIX_RETURN_IF_BAD(CheckWeightedVariant(*variant));
  int32_t constants, scratch;
  TFMIX_RETURN_IF_BAD(
      CheckTiledLayer(p, *variant, p.output_features, p.input_features, &constants));
  TFMIX_RETURN_IF_BAD(CheckProduct({PaddedDepth(p.input_features), sizeof(int16_t)}, &scratch));
  *sizes = {PackedSize(p.input_features, variant->input_bits), 0, constants,
            PackedSize(p.output_features, variant->output_bits), scratch};
  return TFMIX_OK;
}

#if TFMIX_CHANNEL_LOOPS
#define TFMIX_RUN_(a_, w_, o_, z_)                                                          \
  tfmix::fully_connected::Run(                                                              \
      *params, input, constants, output, scratch,                                           \
      tfmix::fully_connected::kLoopVariant<a_, w_, o_,                                      \
                                           tfmix::ZeroPoints::z_ == tfmix::ZeroPoints::pc>, \
      tfmix::fully_connected::ExpandColumn<a_, tfmix::LanesOf(a_, w_)>)
#else
#define TFMIX_RUN_(a_, w_, o_, z_)                                                            \
  tfmix::FullyConnected<a_, w_, o_, tfmix::ZeroPoints::z_>(*params, input, constants, output, \
                                                           static_cast<int16_t*>(scratch))
#endif

#define TFMIX_DEFINE_(a_, w_, o_, z_)                                                             \
  void tfmix_fully_connected_a##a_##w##w_##o##o_##_##z_(                                          \
      const tfmix_fully_connected_params* params, const uint8_t* input, const uint8_t* constants, \
      uint8_t* output, void* scratch) {                                                           \
    TFMIX_RUN_(a_, w_, o_, z_);                                                                   \
  }
TFMIX_FULLY_CONNECTED_VARIANTS(TFMIX_DEFINE_)
