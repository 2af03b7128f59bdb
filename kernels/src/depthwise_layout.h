// depthwise_conv2d: how a layer is cut into pieces, and what it takes to hold one in scratch.
//
// Four channels and up to 64 output columns are computed together, an output row at a time. Scratch
// holds the rows of the window that slides down the image, and so does not grow with the image:
//
//     ring      the input rows under the window, as pairs of int16, for each of four channels
//     weights   of four channels, as pairs of int16
//     stage     one output row of four channels, a byte each, not yet packed
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

constexpr int32_t kBlock = 4;            // output columns computed together by the inner loops
constexpr int32_t kMostColumns = 64;     // output columns computed from one filling of the ring
constexpr int32_t kPairBytes = 4;        // two int16
constexpr int32_t kCopiesOfWeights = 2;  // one after the other, see depthwise_dsp.cc
constexpr int32_t kParities = 2;         // a window begins in the low or the high half of a pair

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

// Rows and columns as the kernel sees them: the image lies on its side where that makes fewer
// blocks. A narrow image does, above all one of width 1.
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
    if (columns.output * BlocksOf(rows.output) < rows.output * BlocksOf(columns.output)) {
      std::swap(rows, columns);
    }
    if (columns.output == 1) columns.stride = 1;  // there is no next window to stride to
  }

  // Output columns of the widest piece.
  int32_t MostColumns() const { return kBlock * BlocksOf(std::min(columns.output, kMostColumns)); }
  // Pairs of columns under one row of a window, wherever in a pair it begins.
  int32_t PairsOfWindow() const { return columns.kernel / 2 + 1; }

  // Pairs of input columns under the windows of so many output columns, whole blocks.
  int64_t PairsOfColumns(int32_t count) const {
    return int64_t{count - 1} * columns.stride / 2 + PairsOfWindow();
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
      {kGroup * kPairBytes * kCopiesOfWeights * kParities, axes.rows.kernel, axes.PairsOfWindow()},
      &weights));
  const int64_t total = int64_t{ring} + weights + kGroup * axes.MostColumns();
  TFMIX_RETURN_IF_BAD(CheckFitsInt32(total));
  *bytes = static_cast<int32_t>(total);
  return TFMIX_OK;
}

}  // namespace tfmix

#endif  // TFMIX_SRC_DEPTHWISE_LAYOUT_H_
