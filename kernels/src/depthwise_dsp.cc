// depthwise_conv2d, DSP path.
//
// For each group of four output channels a window slides down the image. Its rows lie in a ring:
// each input row is expanded once, into the place of the row that left the window before. So the
// rows' order in the ring rotates, and the weights have to rotate with them: they lie in scratch
// twice, and every rotation is a range of consecutive rows.
//
//     window is rows 1, 2, 3 of the image
//     ring      row 3 | row 1 | row 2
//     weights   w0 | w1 [ w2 | w0 | w1 ] w2
#include "depthwise_dsp.h"

#if TFMIX_DSP

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "checks.h"
#include "depthwise_layout.h"

namespace tfmix {
namespace {

int32_t LoadInt32(const uint8_t* array, int32_t index) {
  int32_t value;
  std::memcpy(&value, array + 4 * index, sizeof(value));
  return value;
}

class Depthwise {
 public:
  Depthwise(const DepthwiseVariant& variant, const tfmix_conv_params& p, const uint8_t* input,
            const uint8_t* constants, uint8_t* output, uint32_t* scratch)
      : variant_(variant), p_(p), axes_(p), output_(output) {
    const DepthwiseAxis& rows = axes_.rows;
    const DepthwiseAxis& columns = axes_.columns;

    bias_ = constants;
    multiplier_ = bias_ + 4 * p.output_channels;
    weights_.values = multiplier_ + 4 * p.multiplier_count;
    weights_.zero_points =
        weights_.values +
        PackedSize(rows.kernel * columns.kernel * p.output_channels, variant.weight_bits);
    weights_.per_channel = variant.per_channel;
    // |weight - zero point| < 2^bits: so far can it be shifted within int16.
    weights_.left_shift = std::min(p.left_shift, 15 - variant.weight_bits);

    const int32_t ring_pairs = rows.kernel * Pairs(axes_.MostColumns());
    row_.zero_point = p.output_zero_point;
    row_.weight_step = kCopiesOfWeights * rows.kernel * kParities * axes_.PairsOfWindow();
    row_.rows = rows.kernel;
    row_.pairs = axes_.PairsOfWindow();
    row_.stride = columns.stride;
    row_.left_shift = p.left_shift - weights_.left_shift;
    if (rows.kernel == 3 && columns.kernel == 3 && columns.stride <= 2 && row_.left_shift == 0) {
      dot_ = columns.stride == 1 ? variant.dot_3x3_stride_1 : variant.dot_3x3_stride_2;
      taps_ = {2, 1};
    } else {
      dot_ = variant.dot_any;
      taps_ = {kParities * row_.pairs, columns.stride % 2 == 0 ? 0 : -1};
    }

    ring_ = scratch;
    table_ = ring_ + kGroup * ring_pairs;
    stage_ = reinterpret_cast<uint8_t*>(table_ + kGroup * row_.weight_step);

    piece_.image = input;
    piece_.row_step = rows.input_step;
    piece_.column_step = columns.input_step;
    piece_.pair_step = rows.kernel;
    piece_.channel_step = ring_pairs;
  }

  void Run() {
    const int32_t columns = axes_.columns.output;
    for (int32_t first = 0; first < p_.output_channels; first += kGroup) {
      SetGroup(first, std::min(kGroup, p_.output_channels - first));
      for (int32_t begin = 0; begin < columns; begin += kMostColumns) {
        RunPiece(begin, std::min(kMostColumns, columns - begin));
      }
    }
  }

 private:
  int32_t Pairs(int32_t columns) const {
    return static_cast<int32_t>(axes_.PairsOfColumns(columns));
  }

  // Output channels first + [0, count).
  void SetGroup(int32_t first, int32_t count) {
    group_ = {first, count, p_.output_channels};
    variant_.expand_weights(axes_, group_, weights_, taps_, row_.weight_step, table_);

    const int32_t depth_multiplier = p_.output_channels / p_.input_channels;
    const int32_t first_input = first / depth_multiplier;
    int32_t input = 0;
    for (int32_t k = 0; k < count; ++k) {
      input = (first + k) / depth_multiplier - first_input;
      channels_[k] = {ring_ + input * piece_.channel_step, LoadInt32(bias_, first + k),
                      LoadInt32(multiplier_, p_.multiplier_count == 1 ? 0 : first + k)};
    }
    piece_.group = {first_input, input + 1, p_.input_channels};
    row_.channel = channels_;
    row_.last_channel = channels_ + count;
  }

  // Output columns begin + [0, count) of all rows.
  void RunPiece(int32_t begin, int32_t count) {
    const DepthwiseAxis& rows = axes_.rows;
    const DepthwiseAxis& columns = axes_.columns;
    const int32_t whole_blocks = kBlock * BlocksOf(count);
    row_.out = stage_;
    row_.end = stage_ + kGroup * whole_blocks;
    row_.back = kGroup * whole_blocks - 1;

    const int32_t origin = begin * columns.stride - columns.pad;
    const int32_t pairs = Pairs(whole_blocks);
    piece_.first = std::max(origin, int32_t{0});
    piece_.place = piece_.first - origin;
    piece_.count = std::min(2 * pairs - piece_.place, columns.input - piece_.first);
    // The padding on all sides but the bottom. Rows of the image leave it as it is.
    std::fill_n(ring_, kGroup * piece_.channel_step, ZeroPoints());

    int32_t index = begin * columns.output_step + group_.first;
    int32_t window = -rows.pad;
    int32_t next = window;  // input row to be expanded
    int32_t place = 0;      // where in the ring
    for (int32_t y = 0; y < rows.output; ++y, window += rows.stride, index += rows.output_step) {
      for (next = std::max(next, window); next < window + rows.kernel; ++next) {
        if (next >= rows.input) {
          FillRow(ring_ + place, pairs);
        } else if (next >= 0) {
          variant_.expand_row(piece_, next, ring_ + place);
        }
        if (++place == rows.kernel) place = 0;
      }
      // The oldest row is the window's first, and lies where the next one will go.
      row_.weights = table_ + (place == 0 ? 0 : rows.kernel - place) * taps_.count;
      dot_(row_);
      variant_.store_row(group_, stage_, count, index, columns.output_step, output_);
    }
  }

  Int16Pair ZeroPoints() const { return static_cast<uint32_t>(p_.input_zero_point) * 0x10001u; }

  // A row of padding.
  void FillRow(Int16Pair* ring, int32_t pairs) const {
    for (int32_t channel = 0; channel < kGroup; ++channel, ring += piece_.channel_step) {
      for (int32_t i = 0; i < pairs; ++i) ring[i * piece_.pair_step] = ZeroPoints();
    }
  }

  const DepthwiseVariant& variant_;
  const tfmix_conv_params& p_;
  const DepthwiseAxes axes_;
  const uint8_t* bias_;
  const uint8_t* multiplier_;
  PackedWeights weights_;
  uint8_t* output_;

  // In scratch.
  Int16Pair* ring_;
  Int16Pair* table_;
  uint8_t* stage_;

  decltype(DepthwiseVariant::dot_any) dot_;
  TapPairs taps_;
  ChannelGroup group_;
  OutputChannel channels_[kGroup];
  ImagePiece piece_;
  GroupRow row_;
};

}  // namespace

TFMIX_FOR_SIZE void DepthwiseConv2d(const DepthwiseVariant& variant,
                                    const tfmix_conv_params& params, const uint8_t* input,
                                    const uint8_t* constants, uint8_t* output, uint32_t* scratch) {
  Depthwise(variant, params, input, constants, output, scratch).Run();
}

}  // namespace tfmix

#endif  // TFMIX_DSP
