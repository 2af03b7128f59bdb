// What prepare functions check. Values come from files and may be anything: all products are taken
// in 64 bits and compared before they are used.
#ifndef TFMIX_SRC_CHECKS_H_
#define TFMIX_SRC_CHECKS_H_

#include <cstdint>
#include <initializer_list>

#include "tfmix/kernels.h"
#include "weight_tiles.h"

// Leaves a prepare function with what `check_` has found, unless that is TFMIX_OK.
#define TFMIX_RETURN_IF_BAD(check_)        \
  do {                                     \
    const tfmix_status status = (check_);  \
    if (status != TFMIX_OK) return status; \
  } while (false)

namespace tfmix {

// Prepare functions share what is not inlined; it runs once for a layer.

// Most elements of a tensor. Below 2^31 by more than the runs kernels work in, so that counting
// past the end of a tensor in runs stays within int32.
constexpr int64_t kMaxElements = int64_t{1} << 30;

// Product of sizes: each must be positive, and all together at most kMaxElements.
[[gnu::noinline]] inline tfmix_status CheckProduct(std::initializer_list<int32_t> sizes,
                                                   int32_t* product) {
  int64_t result = 1;
  for (const int32_t size : sizes) {
    if (size < 1) return TFMIX_BAD_SHAPE;
    if (result <= kMaxElements) result *= size;  // once too large it stays, and cannot overflow
  }
  if (result > kMaxElements) return TFMIX_TOO_LARGE;
  *product = static_cast<int32_t>(result);
  return TFMIX_OK;
}

inline tfmix_status CheckFitsInt32(int64_t value) {
  return value >= INT32_MIN && value <= INT32_MAX ? TFMIX_OK : TFMIX_TOO_LARGE;
}

inline tfmix_status CheckBits(int32_t bits) {
  return bits == 2 || bits == 4 || bits == 8 ? TFMIX_OK : TFMIX_BAD_BITS;
}

// All that distinguishes the variants of a kernel with weights.
inline tfmix_status CheckWeightedVariant(const tfmix_variant& v) {
  TFMIX_RETURN_IF_BAD(CheckBits(v.input_bits));
  TFMIX_RETURN_IF_BAD(CheckBits(v.weight_bits));
  TFMIX_RETURN_IF_BAD(CheckBits(v.output_bits));
  return v.per_channel == 0 || v.per_channel == 1 ? TFMIX_OK : TFMIX_BAD_BITS;
}

// The functions below take bits that have been checked.

inline int32_t MaxLevel(int32_t bits) { return (1 << bits) - 1; }

inline int32_t PackedSize(int32_t elements, int32_t bits) {
  return static_cast<int32_t>((int64_t{elements} * bits + 7) / 8);
}

inline tfmix_status CheckZeroPoint(int32_t zero_point, int32_t bits) {
  return zero_point >= 0 && zero_point <= MaxLevel(bits) ? TFMIX_OK : TFMIX_BAD_ZERO_POINT;
}

inline tfmix_status CheckLeftShift(int32_t left_shift) {
  return left_shift >= 0 && left_shift <= 31 ? TFMIX_OK : TFMIX_BAD_RESCALE;
}

// The sum of `count` differences element - zero_point, shifted left, must fit int32.
inline tfmix_status CheckShiftedSum(int32_t count, int32_t bits, int32_t zero_point,
                                    int32_t left_shift) {
  TFMIX_RETURN_IF_BAD(CheckZeroPoint(zero_point, bits));
  TFMIX_RETURN_IF_BAD(CheckLeftShift(left_shift));
  // The factors are below 2^31, 2^8 and 2^31; the middle product is looked at before the last.
  const int64_t highest = int64_t{count} * (MaxLevel(bits) - zero_point);
  const int64_t lowest = -int64_t{count} * zero_point;
  TFMIX_RETURN_IF_BAD(CheckFitsInt32(highest));
  TFMIX_RETURN_IF_BAD(CheckFitsInt32(lowest));
  const int64_t factor = int64_t{1} << left_shift;
  TFMIX_RETURN_IF_BAD(CheckFitsInt32(highest * factor));
  return CheckFitsInt32(lowest * factor);
}

// One axis of a sliding window: every window overlaps the image, and its end fits int32.
[[gnu::noinline]] inline tfmix_status CheckWindowAxis(int32_t input, int32_t output, int32_t kernel,
                                                      int32_t stride, int32_t pad) {
  if (input < 1 || output < 1 || kernel < 1 || stride < 1) return TFMIX_BAD_SHAPE;
  if (pad < 0 || pad >= kernel) return TFMIX_BAD_WINDOW;  // the first window begins at -pad
  const int64_t last_origin = int64_t{output - 1} * stride - pad;
  if (last_origin >= input) return TFMIX_BAD_WINDOW;
  return CheckFitsInt32(last_origin + kernel);
}

// The window fields of any struct that has them. Returns the elements of input and output.
template <typename Params>
inline tfmix_status CheckWindow(const Params& p, int32_t* input_elements,
                                int32_t* output_elements) {
  TFMIX_RETURN_IF_BAD(CheckWindowAxis(p.input_height, p.output_height, p.kernel_height,
                                      p.stride_height, p.pad_top));
  TFMIX_RETURN_IF_BAD(
      CheckWindowAxis(p.input_width, p.output_width, p.kernel_width, p.stride_width, p.pad_left));
  TFMIX_RETURN_IF_BAD(
      CheckProduct({p.input_height, p.input_width, p.input_channels}, input_elements));
  return CheckProduct({p.output_height, p.output_width, p.output_channels}, output_elements);
}

// What the three kernels with weights have in common, once their bits are checked: `depth` products
// for each of `channels` outputs, and `stored` weights in the constants block. `Params`: any of
// their structs. Returns the size of the constants block.
template <typename Params>
inline tfmix_status CheckLayer(const Params& p, const tfmix_variant& v, int32_t channels,
                               int32_t depth, int64_t stored, int32_t* constants_size) {
  if (stored > kMaxElements) return TFMIX_TOO_LARGE;
  TFMIX_RETURN_IF_BAD(CheckZeroPoint(p.output_zero_point, v.output_bits));
  TFMIX_RETURN_IF_BAD(CheckLeftShift(p.left_shift));
  if (p.multiplier_count != 1 && p.multiplier_count != channels) return TFMIX_BAD_RESCALE;
  TFMIX_RETURN_IF_BAD(
      CheckFitsInt32(int64_t{depth} * MaxLevel(v.input_bits) * MaxLevel(v.weight_bits)));
  const int64_t constants = 4 * int64_t{channels} + 4 * int64_t{p.multiplier_count} +
                            PackedSize(static_cast<int32_t>(stored), v.weight_bits) +
                            (v.per_channel == 1 ? channels : 1);
  TFMIX_RETURN_IF_BAD(CheckFitsInt32(constants));
  *constants_size = static_cast<int32_t>(constants);
  return TFMIX_OK;
}

// The same for weights in tiles: conv2d and fully_connected.
template <typename Params>
inline tfmix_status CheckTiledLayer(const Params& p, const tfmix_variant& v, int32_t channels,
                                    int32_t depth, int32_t* constants_size) {
  int32_t weights;
  TFMIX_RETURN_IF_BAD(CheckProduct({channels, depth}, &weights));
  // Weights narrower than a byte are multiplied by the byte, in sums of 32 bits without sign.
  if (int64_t{depth} * MaxLevel(v.input_bits) * 255 > UINT32_MAX) return TFMIX_TOO_LARGE;
  const TileShape tile = TileShapeOf(v.input_bits, v.weight_bits);
  const int64_t tiles = int64_t{tile.GroupsOf(channels)} * tile.TilesOf(depth);
  return CheckLayer(p, v, channels, depth, tiles * tile.channels * tile.depth, constants_size);
}

// Values of a column of `depth` int16, padded to whole words of four input values.
inline int32_t PaddedDepth(int32_t depth) { return (depth + 3) & ~3; }

}  // namespace tfmix

#endif  // TFMIX_SRC_CHECKS_H_
