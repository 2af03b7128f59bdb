// fully_connected:
//
//     acc = sum x * (w - zero_point_w)
//     y = clamp(zero_point_y + requantize((acc << left_shift) + bias))
#include <algorithm>
#include <cstdint>

#include "checks.h"
#include "layer.h"
#include "packing.h"
#include "tfmix/kernels.h"

namespace tfmix {
namespace {

constexpr int32_t kRun = 64;        // products taken at a time
constexpr int32_t kOutputRun = 32;  // outputs staged before they are packed

template <int kInputBits, int kWeightBits, int kOutputBits, ZeroPoints kZeroPoints>
void FullyConnected(const tfmix_fully_connected_params& p, const uint8_t* input,
                    const uint8_t* constants, uint8_t* output) {
  const Layer<kWeightBits, kOutputBits, kZeroPoints> layer(p, constants, p.output_features,
                                                           p.output_features * p.input_features);
  ClearUnusedBits<kOutputBits>(p.output_features, output);

  int16_t x[kRun];
  int16_t weights[kRun];
  int32_t sums[kOutputRun];
  uint8_t staged[kOutputRun];
  for (int32_t begin = 0; begin < p.output_features; begin += kOutputRun) {
    const int32_t outputs = std::min(kOutputRun, p.output_features - begin);
    std::fill_n(sums, outputs, 0);
    for (int32_t k = 0; k < p.input_features; k += kRun) {
      const int32_t count = std::min(kRun, p.input_features - k);
      Unpack<kInputBits>(input, k, count, 0, x);
      for (int32_t i = 0; i < outputs; ++i) {
        const int32_t channel = begin + i;
        layer.UnpackWeights(channel * p.input_features + k, count, layer.zero_point(channel),
                            weights);
        int32_t sum = 0;
        for (int32_t j = 0; j < count; ++j) sum += x[j] * weights[j];
        sums[i] += sum;
      }
    }
    for (int32_t i = 0; i < outputs; ++i) staged[i] = layer.Output(begin + i, sums[i]);
    Pack<kOutputBits>(staged, begin, outputs, output);
  }
}

}  // namespace
}  // namespace tfmix

tfmix_status tfmix_fully_connected_prepare(const tfmix_fully_connected_params* params,
                                           const tfmix_variant* variant, tfmix_sizes* sizes) {
  using namespace tfmix;
  const tfmix_fully_connected_params& p = *params;
  TFMIX_RETURN_IF_BAD(CheckWeightedVariant(*variant));
  int32_t constants;
  TFMIX_RETURN_IF_BAD(CheckLayer(p, *variant, p.output_features, p.input_features, &constants));
  *sizes = {PackedSize(p.input_features, variant->input_bits), 0, constants,
            PackedSize(p.output_features, variant->output_bits), 0};
  return TFMIX_OK;
}

#define TFMIX_DEFINE_(a_, w_, o_, z_)                                                             \
  void tfmix_fully_connected_a##a_##w##w_##o##o_##_##z_(                                          \
      const tfmix_fully_connected_params* params, const uint8_t* input, const uint8_t* constants, \
      uint8_t* output, void*) {                                                                   \
    tfmix::FullyConnected<a_, w_, o_, tfmix::ZeroPoints::z_>(*params, input, constants, output);  \
  }
TFMIX_FULLY_CONNECTED_VARIANTS(TFMIX_DEFINE_)
