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
    const int32_t left_shift = p.left_shift - weights_.left_shift;

    piece_.image = input;
    piece_.zero_point = p.input_zero_point;
    piece_.multiplicity = p.output_channels / p.input_channels;
    piece_.row_step = rows.input_step;
    piece_.column_step = columns.input_step;

    const int32_t copies = axes_.CopiesOfWeights();
    const int32_t ring_pairs = Pairs(axes_.MostColumns());
    ring_ = scratch;
    table_ = ring_ + kGroup * rows.kernel * ring_pairs;
    stage_ =
        reinterpret_cast<uint8_t*>(table_ + kGroup * copies * rows.kernel * axes_.PairsOfWeights());

    wide_ = axes_.Wide() && copies == 2 && left_shift == 0;
    if (wide_) {
      row_step_ = 1;
      piece_.pair_step = rows.kernel;
      piece_.channel_step = rows.kernel * ring_pairs;
      wide_row_.zero_point = p.output_zero_point;
      wide_row_.channel = channels_;
    } else {
      row_step_ = kGroup;
      piece_.pair_step = kGroup * rows.kernel;
      piece_.channel_step = 1;
    }
    weight_step_ = copies * kGroup * rows.kernel;
    const bool is_3x3 = rows.kernel == 3 && columns.kernel == 3 && copies == 2 && left_shift == 0;
    dot_pixels_ = is_3x3 ? variant.dot_pixels_3x3 : variant.dot_pixels;
    pixels_.zero_point = p.output_zero_point;
    pixels_.left_shift = left_shift;
    pixels_.phase = phases_;
    pixels_.ring = ring_;
    pixels_.out_step = columns.output_step / (8 / variant.output_bits);
    pixels_.run = kPairBytes * kGroup * rows.kernel;
    pixels_.skip = (copies - 1) * pixels_.run;
    for (int32_t high = 0; high < 2; ++high) {
      WindowPhase& phase = phases_[high];
      const int32_t pairs = high ? axes_.PairsFromHigh() : axes_.PairsFromLow();
      phase.next = &phases_[axes_.AnyFromHigh() ? 1 - high : high];
      phase.ring_step = ((columns.stride + high) / 2 - pairs) * kPairBytes * piece_.pair_step;
      // The rows of a pair follow each other or, if there is one copy of them, all pairs.
      runs_[high] = copies == 1 ? pairs * weight_step_ : kGroup * rows.kernel;
      sizes_[high] = (pairs - 1) * weight_step_ + kGroup * rows.kernel;
      phase.entry = EntryOf(kPairBytes * runs_[high]);
    }
  }

  void Run() {
    const int32_t columns = axes_.columns.output;
    for (int32_t first = 0; first < p_.output_channels; first += kGroup) {
      SetGroup(first, std::min(kGroup, p_.output_channels - first));
      for (int32_t begin = 0; begin < columns; begin += kMostColumns) {
        SetPiece(begin, std::min(kMostColumns, columns - begin));
        RunGroup();
      }
    }
  }

 private:
  int32_t Pairs(int32_t columns) const {
    return static_cast<int32_t>(axes_.PairsOfColumns(columns));
  }

  // Output columns begin + [0, count) of all rows, and of the group's channels.
  void SetPiece(int32_t begin, int32_t count) {
    const DepthwiseAxis& columns = axes_.columns;
    first_column_ = begin;
    columns_ = count;
    const int32_t whole_blocks = kBlock * BlocksOf(count);
    wide_row_.out = stage_;
    wide_row_.end = stage_ + kGroup * whole_blocks;
    wide_row_.back = kGroup * whole_blocks - 1;

    const int32_t origin = begin * columns.stride - columns.pad;
    pairs_ = Pairs(wide_ ? whole_blocks : count);
    first_input_column_ = std::max(origin, int32_t{0});
    piece_.place = first_input_column_ - origin;
    piece_.count = std::min(2 * pairs_ - piece_.place, columns.input - first_input_column_);
    piece_.first_element = first_input_column_ * piece_.column_step + piece_.group.first;
    // The padding to the left and to the right. Rows of the image leave it as it is.
    const int32_t left = piece_.place / 2;
    const int32_t right = (piece_.place + piece_.count + 1) / 2;
    for (int32_t row = 0; row < axes_.rows.kernel; ++row) {
      Int16Pair* const pairs = ring_ + row * row_step_;
      FillPairs(pairs, left);
      FillPairs(pairs + right * piece_.pair_step, pairs_ - right);
    }
  }

  // Output channels first + [0, count).
  void SetGroup(int32_t first, int32_t count) {
    group_ = {first, count, p_.output_channels};
    variant_.expand_weights(axes_, group_, weights_, table_);
    if (axes_.CopiesOfWeights() == 2 && axes_.rows.output > 1) RepeatRows();
    const bool one_multiplier = p_.multiplier_count == 1;
    for (int32_t k = 0; k < count; ++k) {
      pixels_.bias[k] = LoadInt32(bias_, first + k);
      pixels_.multiplier[k] = LoadInt32(multiplier_, one_multiplier ? 0 : first + k);
    }
    if (wide_) {
      for (int32_t k = 0; k < count; ++k) {
        channels_[k] = {ring_ + k * piece_.channel_step, pixels_.bias[k], pixels_.multiplier[k]};
      }
    }
    wide_row_.last_channel = channels_ + count;
    whole_bytes_ = count == kGroup && (first | p_.output_channels) * variant_.output_bits % 8 == 0;
    const int32_t first_input = first / piece_.multiplicity;
    const int32_t last_input = (first + count - 1) / piece_.multiplicity;
    piece_.group = {first_input, last_input + 1 - first_input, p_.input_channels};
    piece_.first_channel = first;
    piece_.whole_bytes = piece_.multiplicity == 1 && count == kGroup &&
                         (first | p_.input_channels) * variant_.input_bits % 8 == 0;
  }

  // Weights that have to rotate, for the second time.
  TFMIX_FOR_SIZE void RepeatRows() {
    const int32_t size = kGroup * axes_.rows.kernel;
    Int16Pair* from = table_;
    for (int32_t pair = axes_.PairsOfWeights(); pair != 0; --pair, from += size) {
      for (const Int16Pair* const end = from + size; from != end; from += kGroup) {
        WritePairs({from[0], from[1], from[2], from[3]}, 1, from + size);
      }
    }
  }

  // All rows of the piece, of the group's channels.
  void RunGroup() {
    const DepthwiseAxis& rows = axes_.rows;
    int32_t index = first_column_ * axes_.columns.output_step + group_.first;
    int32_t window = -rows.pad;
    int32_t next = window;  // input row to be expanded
    int32_t place = 0;      // where in the ring
    for (int32_t y = 0; y < rows.output; ++y, window += rows.stride, index += rows.output_step) {
      for (next = std::max(next, window); next < window + rows.kernel; ++next) {
        Int16Pair* const row = ring_ + place * row_step_;
        if (next < 0 || next >= rows.input) {
          FillPairs(row, pairs_);
        } else {
          variant_.expand_row(piece_, next, row);
        }
        if (++place == rows.kernel) place = 0;
      }
      // The oldest row is the window's first, and lies where the next one will go.
      const Int16Pair* weights = table_ + (place == 0 ? 0 : rows.kernel - place) * kGroup;
      if (wide_) {
        wide_row_.weights = weights;
        variant_.dot_wide(wide_row_);
        variant_.store_row(group_, stage_, columns_, index, axes_.columns.output_step, output_);
      } else {
        ComputePixels(weights, index);
      }
    }
  }

  // One row.
  void ComputePixels(const Int16Pair* weights, int32_t index) {
    for (int32_t high = 0; high < 2; ++high) {
      phases_[high].weights = weights;
      phases_[high].weights_end = weights + sizes_[high];
      phases_[high].run_end = weights + runs_[high];
      weights += axes_.PairsFromLow() * weight_step_;
    }
    if (whole_bytes_) {
      pixels_.out = output_ + index / (8 / variant_.output_bits);
      pixels_.end = pixels_.out + columns_ * pixels_.out_step;
      dot_pixels_(pixels_);
      return;
    }
    PixelRow pixel = pixels_;
    uint8_t packed[kGroup] = {};
    pixel.end = packed + kGroup;
    pixel.out_step = kGroup;
    for (int32_t left = columns_; left != 0; --left, index += axes_.columns.output_step) {
      pixel.out = packed;
      dot_pixels_(pixel);
      variant_.store_pixel(group_, LoadWord(packed), index, output_);
      const int32_t high = pixel.phase == &phases_[1] ? 1 : 0;
      pixel.ring += (axes_.columns.stride + high) / 2 * piece_.pair_step;
      pixel.phase = pixel.phase->next;
    }
  }

  Int16Pair ZeroPoints() const { return static_cast<uint32_t>(p_.input_zero_point) * 0x10001u; }

  // `count` pairs of padding.
  void FillPairs(Int16Pair* ring, int32_t count) const {
    const Int16Pair value = ZeroPoints();
    const FourPairs pairs = {value, value, value, value};
    for (; count > 0; --count, ring += piece_.pair_step) {
      WritePairs(pairs, piece_.channel_step, ring);
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

  bool wide_;
  int32_t row_step_;     // of the ring
  int32_t weight_step_;  // from a pair of taps to the next
  decltype(DepthwiseVariant::dot_pixels) dot_pixels_;

  // By whether windows begin in the high half of a pair. Runs and sizes in words.
  WindowPhase phases_[2];
  int32_t runs_[2];
  int32_t sizes_[2];

  // Of a piece.
  int32_t first_column_;
  int32_t columns_;
  int32_t pairs_;
  int32_t first_input_column_;
  ImagePiece piece_;
  WideRow wide_row_;

  // Of a group.
  bool whole_bytes_;  // of outputs
  ChannelGroup group_;
  OutputChannel channels_[kGroup];
  PixelRow pixels_ = {};
};

}  // namespace

void DepthwiseConv2d(const DepthwiseVariant& variant, const tfmix_conv_params& params,
                     const uint8_t* input, const uint8_t* constants, uint8_t* output,
                     uint32_t* scratch) {
  Depthwise(variant, params, input, constants, output, scratch).Run();
}

}  // namespace tfmix

#endif  // TFMIX_DSP
