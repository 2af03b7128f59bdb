// conv2d and fully_connected on a Cortex-M with DSP instructions: the loops over output channels,
// which are in assembly, and what they need.
#ifndef TFMIX_SRC_CHANNEL_LOOP_H_
#define TFMIX_SRC_CHANNEL_LOOP_H_

#include <cstddef>
#include <cstdint>

#include "columns_dsp.h"
#include "dsp.h"
#include "layer.h"
#include "weight_tiles.h"

// The loops have no emulation: on a host there is the portable path only.
#if TFMIX_DSP && !defined(TFMIX_EMULATE_DSP)
#define TFMIX_CHANNEL_LOOPS 1
#else
#define TFMIX_CHANNEL_LOOPS 0
#endif

#if TFMIX_CHANNEL_LOOPS

namespace tfmix {

// What a loop reads. channel_loop.inc has the offsets.
struct ChannelLoop {
  const uint32_t* columns;
  const int32_t* bias;
  const uint8_t* zero_point;
  int32_t zero_point_step;      // bytes to that of the second channel from here, 0 if all have one
  int32_t minus_sums[kPixels];  // of the values of each column
  const uint32_t* end;          // of the columns
  const uint8_t* weights;
  const uint8_t* weights_end;
  const int32_t* multiplier;
  int32_t shift_factor;  // 2^left_shift, but 0 instead of 1
  int32_t output_zero_point;
  int32_t multiplier_step;  // as with zero points
  int32_t tiles;            // of weights, along a column
  uint8_t* output;
  // conv2d: bytes from the outputs of a pixel to those of the next. fully_connected: bytes from a
  // group of weights to the one that is computed with it.
  int32_t distance;
  const uint32_t* first_end;  // of the first segment of columns of 2 by 2 bits
  const uint32_t* last_end;   // of the last one
  uint32_t entry;             // for the loop to remember something, 0 at first
  int32_t second_pair;        // conv2d, loops over two pixels: whether to take the other two then
};
static_assert(offsetof(ChannelLoop, entry) == 80 && sizeof(ChannelLoop) == 88, "see .inc");

using RunChannelLoop = void (*)(ChannelLoop* loop);

// What distinguishes the variants of a kernel, besides the code that makes columns.
struct ChannelLoopVariant {
  RunChannelLoop run;
  int8_t input_bits;
  int8_t weight_bits;
  int8_t output_bits;
  bool per_channel;
};

#define TFMIX_DECLARE_LOOPS_(kernel_, weights_)                              \
  extern "C" void tfmix_##kernel_##_loop_##weights_##_o8(ChannelLoop* loop); \
  extern "C" void tfmix_##kernel_##_loop_##weights_##_o4(ChannelLoop* loop); \
  extern "C" void tfmix_##kernel_##_loop_##weights_##_o2(ChannelLoop* loop);

// The variant of `kernel_` with these bits, of `weights_` w8, w4, w2 or w2a2.
#define TFMIX_LOOP_OF_(kernel_, weights_, output_bits_)         \
  (output_bits_ == 8   ? tfmix_##kernel_##_loop_##weights_##_o8 \
   : output_bits_ == 4 ? tfmix_##kernel_##_loop_##weights_##_o4 \
                       : tfmix_##kernel_##_loop_##weights_##_o2)

// Defines kLoopVariant<input bits, weight bits, output bits, per channel> for a kernel.
#define TFMIX_DEFINE_LOOP_VARIANTS_(kernel_)                                    \
  TFMIX_DECLARE_LOOPS_(kernel_, w8)                                             \
  TFMIX_DECLARE_LOOPS_(kernel_, w4)                                             \
  TFMIX_DECLARE_LOOPS_(kernel_, w2)                                             \
  TFMIX_DECLARE_LOOPS_(kernel_, w2a2)                                           \
  template <int kInputBits, int kWeightBits, int kOutputBits, bool kPerChannel> \
  inline constexpr ChannelLoopVariant kLoopVariant = {                          \
      kWeightBits == 8   ? TFMIX_LOOP_OF_(kernel_, w8, kOutputBits)             \
      : kWeightBits == 4 ? TFMIX_LOOP_OF_(kernel_, w4, kOutputBits)             \
      : kInputBits != 2  ? TFMIX_LOOP_OF_(kernel_, w2, kOutputBits)             \
                         : TFMIX_LOOP_OF_(kernel_, w2a2, kOutputBits),          \
      kInputBits, kWeightBits, kOutputBits, kPerChannel};

// A layer as its loop sees it. `block_channels` channels are computed together.
class LoopLayer {
 public:
  static constexpr int32_t kMostChannels = 4;  // of a block

  // `Params`: of either kernel. `constants` and `columns` are aligned to 4 bytes; a column has
  // `depth` values, its words are `stride` apart.
  template <typename Params>
  LoopLayer(const Params& p, const ChannelLoopVariant& variant, const uint8_t* constants,
            int32_t channels, int32_t depth, int32_t block_channels, const uint32_t* columns,
            int32_t stride)
      : variant_(variant), channels_(channels), block_channels_(block_channels) {
    SetUp(constants, p.multiplier_count, depth, columns, stride);
    loop.output_zero_point = p.output_zero_point;
    loop.shift_factor = p.left_shift == 0 ? 0 : WrappingShiftLeft(1, p.left_shift);
  }

  int32_t group_bytes() const { return group_bytes_; }  // of the weights of a group of tiles

  // Channels from 0 on that make whole blocks: the loop can store them where outputs of a pixel
  // make whole bytes.
  int32_t whole_channels() const { return channels_ - channels_ % block_channels_; }

  // Computes those from loop.columns. Their outputs begin at `output`.
  void ComputeBlocks(uint8_t* output) {
    if (loop.weights == loop.weights_end) return;
    loop.output = output;
    variant_.run(&loop);
  }

  // Computes the channels from `channel` on, one block, where the loop cannot store by itself:
  // there are fewer than it computes, or they do not begin with a byte. `pixels`: those that count.
  void ComputeStaged(int32_t channel, int32_t pixels, int32_t index, uint8_t* output);

  ChannelLoop loop;

 private:
  void SetUp(const uint8_t* constants, int32_t multiplier_count, int32_t depth,
             const uint32_t* columns, int32_t stride);

  const ChannelLoopVariant& variant_;
  int32_t channels_;
  int32_t block_channels_;
  int32_t group_channels_;
  int32_t group_bytes_;
  // Where one serves the whole layer, for all channels of a block.
  int32_t multipliers_[kMostChannels];
  uint8_t zero_points_[kMostChannels];
};

}  // namespace tfmix

#endif  // TFMIX_CHANNEL_LOOPS

#endif  // TFMIX_SRC_CHANNEL_LOOP_H_
