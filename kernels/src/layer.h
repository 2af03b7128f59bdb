// A layer with weights: its constants block, and the way from a sum of products to an output value.
#ifndef TFMIX_SRC_LAYER_H_
#define TFMIX_SRC_LAYER_H_

#include <cstdint>
#include <cstring>

#include "packing.h"
#include "requantize.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tfmix files and kernels are little-endian"
#endif

namespace tfmix {

// Whether there is one weight zero point per output channel or one per layer.
enum class ZeroPoints { pc, pl };

// The constants block, oc = output channels:
//
//     int32 bias[oc] | int32 multiplier[1 or oc] | packed weights | uint8 zero_point[1 or oc]
//
// It may lie at any address.
template <int kWeightBits, int kOutputBits, ZeroPoints kZeroPoints>
class Layer {
 public:
  // `Params`: any parameter struct of a kernel with weights.
  template <typename Params>
  Layer(const Params& p, const uint8_t* block, int32_t channels, int32_t weight_count)
      : bias_(block),
        multiplier_(bias_ + 4 * channels),
        weights_(multiplier_ + 4 * p.multiplier_count),
        zero_points_(weights_ + PackedSize<kWeightBits>(weight_count)),
        one_multiplier_(p.multiplier_count == 1),
        left_shift_(p.left_shift),
        output_zero_point_(p.output_zero_point) {}

  // Never above the range of the weights, even in a damaged file: the bound on sums needs that.
  int32_t zero_point(int32_t channel) const {
    return zero_points_[kZeroPoints == ZeroPoints::pc ? channel : 0] & kMaxLevel<kWeightBits>;
  }

  const uint8_t* weights() const { return weights_; }

  // out[i] = weight first + i, minus `offset`.
  void UnpackWeights(int32_t first, int32_t count, int32_t offset, int16_t* out) const {
    Unpack<kWeightBits>(weights_, first, count, offset, out);
  }

  // The output value of `channel`, whose products x * (w - zero_point) add up to `sum`.
  uint8_t Output(int32_t channel, int32_t sum) const {
    // The bias has left_shift fractional bits: it joins the sum after the shift.
    const int32_t value =
        WrappingAdd(WrappingShiftLeft(sum, left_shift_), LoadInt32(bias_, channel));
    const int32_t multiplier = LoadInt32(multiplier_, one_multiplier_ ? 0 : channel);
    return Clamp<kOutputBits>(output_zero_point_ + Requantize(value, multiplier));
  }

 private:
  static int32_t LoadInt32(const uint8_t* array, int32_t index) {
    int32_t value;
    std::memcpy(&value, array + 4 * index, sizeof(value));
    return value;
  }

  const uint8_t* bias_;
  const uint8_t* multiplier_;
  const uint8_t* weights_;
  const uint8_t* zero_points_;
  bool one_multiplier_;
  int32_t left_shift_;
  int32_t output_zero_point_;
};

}  // namespace tfmix

#endif  // TFMIX_SRC_LAYER_H_
