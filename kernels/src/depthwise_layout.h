// depthwise_conv2d: how a layer is cut into pieces, and what it takes to hold one in scratch.
//
// Four channels and up to 64 output columns are computed together, an output row at a time. Scratch
// holds the rows of the window that slides down the image, and so does not grow with the image:
//
//     ring      the input rows under the window, as pairs of int16, of four channels
//     weights   of four channels, as pairs of int16
//     stage     wide rows only: one output row of four channels, a byte each, not yet packed
//
// Both paths ask for the same scratch; tfmix/ir/schedule.py has the formula in Python.
#ifndef TFMIX_SRC_DEPTHWISE_LAYOUT_H_
#define TFMIX_SRC_DEPTHWISE_LAYOUT_H_

#include <algorithm>
#include <cstdint>
#include <utility>

#include "channel_group.h"
#include "checks.h"
#include "tfmix/kernels.h"

namespace tfmix {

constexpr int32_t kBlock = 4;         // output columns of wide rows that are computed together
constexpr int32_t kMostColumns = 64;  // output columns computed from one filling of the ring
constexpr int32_t kWideColumns = 12;  // from so many on a row is wide
constexpr int32_t kPairBytes = 4;     // two int16

inline int32_t BlocksOf(int32_t columns) { return (columns + kBlock - 1) / kBlock; }

// One axis of a layer. Steps are elements from one position to the next.
struct DepthwiseAxis {
  int32_t input;
  int32_t output;
  int32_t kernel;
  int32_t stride;
  int32_t pad;
  int32_t input_step;
  int32_t output_step;
  int32_t weight_step;
};

// Rows and columns as the kernel sees them: the image lies on its side where that makes fewer,
// longer rows of outputs, or else of the window.
struct DepthwiseAxes {
  DepthwiseAxis rows;
  DepthwiseAxis columns;

  explicit DepthwiseAxes(const tfmix_conv_params& p)
      : rows{p.input_height,
             p.output_height,
             p.kernel_height,
             p.stride_height,
             p.pad_top,
             p.input_width * p.input_channels,
             p.output_width * p.output_channels,
             p.kernel_width * p.output_channels},
        columns{p.input_width, p.output_width,   p.kernel_width,    p.stride_width,
                p.pad_left,    p.input_channels, p.output_channels, p.output_channels} {
    if (columns.output < rows.output ||
        (columns.output == rows.output && columns.kernel < rows.kernel)) {
      std::swap(rows, columns);
    }
    if (columns.output == 1) columns.stride = 1;  // there is no next window to stride to
  }

  // Whether rows are long enough for loops that keep the weights in registers: 3x3 windows only.
  bool Wide() const {
    return rows.kernel == 3 && columns.kernel == 3 && columns.stride == 1 &&
           columns.output >= kWideColumns;
  }
  // Output columns of the widest piece, in wide rows whole blocks.
  int32_t MostColumns() const {
    const int32_t most = std::min(columns.output, kMostColumns);
    return Wide() ? kBlock * BlocksOf(most) : most;
  }
  // Pairs of input columns under the windows of so many output columns.
  int64_t PairsOfColumns(int32_t count) const {
    return (int64_t{count - 1} * columns.stride + columns.kernel + 1) / 2;
  }

  // A window begins in the low or the high half of a pair. Pairs of columns under one of its rows:
  int32_t PairsFromLow() const { return (columns.kernel + 1) / 2; }
  int32_t PairsFromHigh() const { return columns.kernel / 2 + 1; }
  // Whether any begins in a high half: the first one does not.
  bool AnyFromHigh() const { return columns.output > 1 && columns.stride % 2 != 0; }
  int32_t PairsOfWeights() const { return PairsFromLow() + (AnyFromHigh() ? PairsFromHigh() : 0); }
  // How often the weights follow each other, see depthwise_dsp.cc. The loops for 3x3 windows expect
  // room for two copies, even if there is one row of outputs and nothing rotates.
  int32_t CopiesOfWeights() const {
    const bool rotate = rows.output > 1 && rows.kernel > 1;
    return rotate || (rows.kernel == 3 && columns.kernel == 3) ? 2 : 1;
  }
};

// Bytes of scratch, for parameters that have been checked.
inline tfmix_status CheckDepthwiseScratch(const tfmix_conv_params& params, int32_t* bytes) {
  const DepthwiseAxes axes(params);
  const int64_t pairs = axes.PairsOfColumns(axes.MostColumns());
  TFMIX_RETURN_IF_BAD(CheckFitsInt32(pairs));
  int32_t ring, weights;
  TFMIX_RETURN_IF_BAD(
      CheckProduct({kGroup * kPairBytes, axes.rows.kernel, static_cast<int32_t>(pairs)}, &ring));
  TFMIX_RETURN_IF_BAD(CheckProduct(
      {kGroup * kPairBytes, axes.CopiesOfWeights(), axes.rows.kernel, axes.PairsOfWeights()},
      &weights));
  const int64_t stage = axes.Wide() ? kGroup * axes.MostColumns() : 0;
  const int64_t total = int64_t{ring} + weights + stage;
  TFMIX_RETURN_IF_BAD(CheckFitsInt32(total));
  *bytes = static_cast<int32_t>(total);
  return TFMIX_OK;
}

}  // namespace tfmix

#endif  // TFMIX_SRC_DEPTHWISE_LAYOUT_H_
