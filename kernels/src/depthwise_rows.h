// depthwise_conv2d, DSP path: the dot products of one output row of four channels.
//
// The ring holds pairs of columns, and for each pair the rows of the window side by side, in the
// order of their places in the ring:
//
//     rows     | 0 1 2 | 0 1 2 | 0 1 2 |
//     columns  | 0, 1  | 2, 3  | 4, 5  |
//
// A window row of three taps that begins in the low half of a pair is {w0, w1} {w2, 0}, one that
// begins in the high half {0, w0} {w1, w2}.
//
// Wide rows have a ring for each channel: the weights of a channel stay in registers while its
// outputs pass, and four outputs share the loads of columns. Otherwise the four channels of each
// pair in the ring follow each other, and so do those of the weights, so that a window is one run
// of words; the four sums of a pixel are computed and stored together.
#ifndef TFMIX_SRC_DEPTHWISE_ROWS_H_
#define TFMIX_SRC_DEPTHWISE_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "channel_group.h"
#include "depthwise_layout.h"
#include "dsp.h"

#if TFMIX_DSP

namespace tfmix {

// Of one output channel: y = clamp(zero_point + requantize(sum + bias)).
struct OutputChannel {
  const Int16Pair* ring;
  int32_t bias;
  int32_t multiplier;
};

// A wide output row of up to four channels. The assembly below knows the order of the fields.
struct WideRow {
  int32_t zero_point;
  uint8_t* out;  // the first channel's bytes, kGroup apart; the next channel's are beside them
  const uint8_t* end;
  const OutputChannel* channel;
  const Int16Pair* weights;           // of the first channel; those of the next are beside them
  const OutputChannel* last_channel;  // one behind it
  int32_t back;                       // from `end` to the next channel's `out`
};

// The weights for windows that begin in the low, or in the high half of a pair. They are in runs,
// of the pairs of taps that meet successive words of the ring.
struct WindowPhase {
  const Int16Pair* weights;
  int32_t ring_step;        // bytes from the end of the window to the next one
  const WindowPhase* next;  // of the output behind this one
  const Int16Pair* weights_end;
  const Int16Pair* run_end;
  int32_t entry;  // for the assembly, see EntryOf
};

// Outputs of four channels: y = clamp(zero_point + requantize((sum << left_shift) + bias)). Steps
// and sizes in bytes.
struct PixelRow {
  int32_t bias[kGroup];
  int32_t multiplier[kGroup];
  int32_t zero_point;
  uint8_t* out;  // packed
  const uint8_t* end;
  int32_t out_step;
  int32_t unused_1;
  const WindowPhase* phase;  // of the first output
  int32_t unused_2[3];
  int32_t run;
  int32_t skip;  // from a run to the next
  int32_t left_shift;
  const Int16Pair* ring;
};

// WindowPhase::entry for runs of so many bytes: a turn of the loop is four times what meets a pair
// of columns, 16 bytes of weights and 24 of code.
inline int32_t EntryOf(int32_t run) { return (-(run / 16) & 3) * 24; }

// In the weights of a 3 x 3 window, twice three rows of four channels to a pair of taps: bytes from
// {w0, w1} of the low windows to {w1, w2}, the last pair of the high ones.
constexpr int32_t kWideLast = 3 * 2 * 3 * kGroup * kPairBytes;

#if defined(TFMIX_EMULATE_DSP)

// 3 x 3 windows at stride 1: 24 multiplications for 36 products.
template <int kOutputBits>
void DotWide(const WideRow& row) {
  constexpr int32_t kRows = 3;
  uint8_t* channel_out = row.out;
  const Int16Pair* weights = row.weights;
  for (const OutputChannel* c = row.channel; c != row.last_channel; ++c, ++channel_out) {
    uint8_t* out = channel_out;
    for (int32_t column = 0; out < row.end; out += kGroup, ++column) {
      int32_t sum = c->bias;
      for (int32_t i = 0; i < kRows; ++i) {
        const Int16Pair first = c->ring[column / 2 * kRows + i];
        const Int16Pair second = c->ring[(column / 2 + 1) * kRows + i];
        const Int16Pair u = weights[kGroup * i], v = weights[kWideLast / kPairBytes + kGroup * i];
        sum = column % 2 == 0 ? Smlatb(v, second, Smlad(u, first, sum))
                              : Smlad(v, second, Smlabt(u, first, sum));
      }
      *out = static_cast<uint8_t>(Usat<kOutputBits>(Smmlar(sum, c->multiplier, row.zero_point)));
    }
    ++weights;
  }
}

// Windows of any size.
template <int kOutputBits>
void DotPixels(const PixelRow& row) {
  const Int16Pair* x = row.ring;
  const WindowPhase* phase = row.phase;
  for (uint8_t* out = row.out; out != row.end; out += row.out_step, phase = phase->next) {
    int32_t sums[kGroup] = {};
    const Int16Pair *w = phase->weights, *run_end = phase->run_end;
    for (;; w += row.skip / kPairBytes, run_end = w + row.run / kPairBytes) {
      for (; w != run_end; ++w, ++x) {
        int32_t& sum = sums[(w - phase->weights) % kGroup];
        sum = Smlad(*w, *x, sum);
      }
      if (w == phase->weights_end) break;
    }
    x += phase->ring_step / kPairBytes;
    uint32_t bytes = 0;
    for (int32_t k = 0; k < kGroup; ++k) {
      const auto value = static_cast<int32_t>((static_cast<uint32_t>(sums[k]) << row.left_shift) +
                                              static_cast<uint32_t>(row.bias[k]));
      bytes |= Usat<kOutputBits>(Smmlar(value, row.multiplier[k], row.zero_point)) << 8 * k;
    }
    StoreBytes<kOutputBits>(bytes, out);
  }
}

// 3 x 3 windows, without a left shift.
template <int kOutputBits>
void DotPixels3x3(const PixelRow& row) {
  DotPixels<kOutputBits>(row);
}

#else

static_assert(sizeof(OutputChannel) == 12 && sizeof(WideRow) == 28 &&
                  offsetof(PixelRow, ring) == 80 && sizeof(WindowPhase) == 24,
              "the assembly loads these structs whole");

// In assembly, because it takes all fourteen registers and the compiler spills:
//
//     r0        where we are in the ring
//     r1 to r3  {w0, w1} of the window's rows
//     r4 to r6  {w1, w2}
//     r7 to r9  a pair of columns in the window's rows
//     r10 to r12, lr  the sums of four outputs
//
// The rest is on the stack:
//
//     sp + 0 bias    8 zero_point   16 end       24 weights       32 back
//        4 multiplier   12 out      20 channel   28 last_channel

#define TFMIX_BEGIN_CHANNEL_     \
  "push {r4-r11, lr}\n"          \
  "ldm r0, {r1-r7}\n"            \
  "push {r1-r7}\n"               \
  "sub sp, #8\n"                 \
  "1:\n"                         \
  "ldrd r7, r8, [sp, #20]\n"     \
  "ldm r7!, {r0, r4, r5}\n"      \
  "strd r4, r5, [sp]\n"          \
  "ldr r2, [r8, #16]\n"          \
  "ldr r3, [r8, #32]\n"          \
  "ldr r4, [r8, %[last]]\n"      \
  "ldr r5, [r8, %[last] + 16]\n" \
  "ldr r6, [r8, %[last] + 32]\n" \
  "ldr r1, [r8], #4\n"           \
  "strd r7, r8, [sp, #20]\n"     \
  "2:\n"                         \
  "ldr lr, [sp]\n"

// A pair of columns meets the first, or the last, taps of the window's rows.
#define TFMIX_FIRST_TAPS_(op_, sum_, start_)                                             \
  op_ " " sum_ ", r1, r7, " start_ "\n" op_ " " sum_ ", r2, r8, " sum_ "\n" op_ " " sum_ \
      ", r3, r9, " sum_ "\n"
#define TFMIX_LAST_TAPS_(op_, sum_)                                                    \
  op_ " " sum_ ", r4, r7, " sum_ "\n" op_ " " sum_ ", r5, r8, " sum_ "\n" op_ " " sum_ \
      ", r6, r9, " sum_ "\n"

#define TFMIX_NEXT_COLUMNS_ "ldm r0!, {r7, r8, r9}\n"
#define TFMIX_LAST_COLUMNS_ "ldm r0, {r7, r8, r9}\n"  // they are the first of the next block

#define TFMIX_END_CHANNEL_    \
  "ldrd r7, r8, [sp, #4]\n"   \
  "smmlar r10, r10, r7, r8\n" \
  "smmlar r11, r11, r7, r8\n" \
  "smmlar r12, r12, r7, r8\n" \
  "smmlar lr, lr, r7, r8\n"   \
  "ldrd r7, r8, [sp, #12]\n"  \
  "usat r10, %[bits], r10\n"  \
  "usat r11, %[bits], r11\n"  \
  "usat r12, %[bits], r12\n"  \
  "usat lr, %[bits], lr\n"    \
  "strb r10, [r7], #16\n"     \
  "strb r11, [r7, #-12]\n"    \
  "strb r12, [r7, #-8]\n"     \
  "strb lr, [r7, #-4]\n"      \
  "str r7, [sp, #12]\n"       \
  "cmp r7, r8\n"              \
  "bne 2b\n"                  \
  "ldr r9, [sp, #32]\n"       \
  "sub r7, r7, r9\n"          \
  "add r8, r8, #1\n"          \
  "strd r7, r8, [sp, #12]\n"  \
  "ldr r7, [sp, #20]\n"       \
  "ldr r8, [sp, #28]\n"       \
  "cmp r7, r8\n"              \
  "bne 1b\n"                  \
  "add sp, #36\n"             \
  "pop {r4-r11, pc}\n"

// 3 x 3 windows at stride 1: 24 multiplications for 36 products.
template <int kOutputBits>
__attribute__((naked, noinline)) void DotWide(const WideRow&) {
  __asm__(TFMIX_BEGIN_CHANNEL_                             //
              TFMIX_NEXT_COLUMNS_                          // 0, 1
                  TFMIX_FIRST_TAPS_("smlad", "r10", "lr")  //
          TFMIX_FIRST_TAPS_("smlabt", "r11", "lr")         //
          TFMIX_NEXT_COLUMNS_                              // 2, 3
              TFMIX_LAST_TAPS_("smlatb", "r10")            //
          TFMIX_LAST_TAPS_("smlad", "r11")                 //
          TFMIX_FIRST_TAPS_("smlad", "r12", "lr")          //
          TFMIX_FIRST_TAPS_("smlabt", "lr", "lr")          //
          TFMIX_LAST_COLUMNS_                              // 4, 5
              TFMIX_LAST_TAPS_("smlatb", "r12")            //
          TFMIX_LAST_TAPS_("smlad", "lr")                  //
          TFMIX_END_CHANNEL_
          :
          : [bits] "I"(kOutputBits), [last] "I"(kWideLast));
}

#undef TFMIX_BEGIN_CHANNEL_
#undef TFMIX_FIRST_TAPS_
#undef TFMIX_LAST_TAPS_
#undef TFMIX_NEXT_COLUMNS_
#undef TFMIX_LAST_COLUMNS_
#undef TFMIX_END_CHANNEL_

// Four channels of a pixel after the other. For each pair of columns in each row of the window the
// four channels are loaded at once, and so are their weights.
//
//     r0                where we are in the ring
//     r1                in the weights
//     r2, r3, r12, lr   weights
//     r4 to r7          the sums
//     r8 to r11         pairs of columns
//
// The stack has a copy of the struct, where the fields of the phase take the place of what it does
// not use:
//
//     sp + 0 bias          36 out          52 phase          68 run
//       16 multiplier      40 end          56 weights_end    72 skip
//       32 zero_point      44 out_step     60 run_end        76 left_shift
//                          48 ring_step    64 entry          80 ring

#define TFMIX_BEGIN_PIXELS_ \
  "push {r4-r11, lr}\n"     \
  "sub sp, #84\n"           \
  "mov lr, sp\n"            \
  "ldm r0!, {r1-r12}\n"     \
  "stm lr!, {r1-r12}\n"     \
  "ldm r0, {r1-r9}\n"       \
  "stm lr, {r1-r9}\n"       \
  "mov r0, r9\n"

#define TFMIX_PAIR_              \
  "ldm r0!, {r8-r11}\n"          \
  "ldm r1!, {r2, r3, r12, lr}\n" \
  "smlad r4, r8, r2, r4\n"       \
  "smlad r5, r9, r3, r5\n"       \
  "smlad r6, r10, r12, r6\n"     \
  "smlad r7, r11, lr, r7\n"

// `store_` is str, strh or strb.
#define TFMIX_END_PIXEL_(store_)        \
  "add lr, sp, #16\n"                   \
  "ldm lr, {r1, r2, r3, r8-r12, lr}\n"  \
  "smmlar r4, r4, r1, r9\n"             \
  "smmlar r5, r5, r2, r9\n"             \
  "smmlar r6, r6, r3, r9\n"             \
  "smmlar r7, r7, r8, r9\n"             \
  "usat r4, %[bits], r4\n"              \
  "usat r5, %[bits], r5\n"              \
  "usat r6, %[bits], r6\n"              \
  "usat r7, %[bits], r7\n"              \
  "orr r4, r4, r5, lsl %[bits]\n"       \
  "orr r6, r6, r7, lsl %[bits]\n"       \
  "orr r4, r4, r6, lsl %[two]\n" store_ \
  " r4, [r10]\n"                        \
  "add r0, lr\n"                        \
  "add r10, r12\n"                      \
  "str r10, [sp, #36]\n"                \
  "cmp r10, r11\n"                      \
  "bne 1b\n"                            \
  "add sp, #84\n"                       \
  "pop {r4-r11, pc}\n"

// 3 x 3 windows, without a left shift: two runs of three pairs.
#define TFMIX_PIXELS_3X3_(store_)                                \
  TFMIX_BEGIN_PIXELS_                                            \
  "1:\n"                                                         \
  "ldm sp, {r4-r7}\n"                                            \
  "ldr lr, [sp, #52]\n"                                          \
  "ldm lr, {r1, r2, r3}\n"                                       \
  "strd r2, r3, [sp, #48]\n" TFMIX_PAIR_ TFMIX_PAIR_ TFMIX_PAIR_ \
  "add r1, r1, #48\n" TFMIX_PAIR_ TFMIX_PAIR_ TFMIX_PAIR_        \
  TFMIX_END_PIXEL_(store_)

// Any windows. A turn of the inner loop is four pairs; the first turn of a run begins `entry` bytes
// behind its beginning, where the pairs that are left make whole turns.
#define TFMIX_PIXELS_(store_) \
  TFMIX_BEGIN_PIXELS_         \
  "1:\n"                                                 \
  "ldm sp, {r4-r7}\n"                                    \
  "ldr lr, [sp, #52]\n"                                  \
  "add r12, sp, #48\n"                                   \
  "ldm lr, {r1, r2, r3, r8, r9, r10}\n"                  \
  "stm r12, {r2, r3, r8, r9, r10}\n"                     \
  "2:\n"                                                 \
  "add pc, r10\n"                                        \
  "nop\n"                                                \
  "3:\n" TFMIX_PAIR_ TFMIX_PAIR_ TFMIX_PAIR_ TFMIX_PAIR_ \
  "ldrd r2, r3, [sp, #56]\n"                             \
  "cmp r1, r2\n"                                         \
  "beq 5f\n"                                             \
  "cmp r1, r3\n"                                         \
  "bne 3b\n"                                             \
  "ldrd r2, r3, [sp, #68]\n"                             \
  "ldr r10, [sp, #64]\n"                                 \
  "add r1, r3\n"                                         \
  "add r2, r1\n"                                         \
  "str r2, [sp, #60]\n"                                  \
  "b 2b\n"                                               \
  "5:\n"                                                 \
  "ldr r2, [sp, #76]\n"                                  \
  "cbnz r2, 6f\n"                                        \
  "4:\n" TFMIX_END_PIXEL_(store_)                        \
  "6:\n"                                                 \
  "ldm sp, {r8-r11}\n"                                   \
  "sub r4, r8\n"                                         \
  "sub r5, r9\n"                                         \
  "sub r6, r10\n"                                        \
  "sub r7, r11\n"                                        \
  "lsl r4, r2\n"                                         \
  "lsl r5, r2\n"                                         \
  "lsl r6, r2\n"                                         \
  "lsl r7, r2\n"                                         \
  "add r4, r8\n"                                         \
  "add r5, r9\n"                                         \
  "add r6, r10\n"                                        \
  "add r7, r11\n"                                        \
  "b 4b\n"

#define TFMIX_DEFINE_PIXELS_(name_, code_)                                            \
  template <int kOutputBits>                                                          \
  __attribute__((naked, noinline)) void name_(const PixelRow&) {                      \
    if constexpr (kOutputBits == 8) {                                                 \
      __asm__(code_("str") : : [bits] "I"(kOutputBits), [two] "I"(2 * kOutputBits));  \
    } else if constexpr (kOutputBits == 4) {                                          \
      __asm__(code_("strh") : : [bits] "I"(kOutputBits), [two] "I"(2 * kOutputBits)); \
    } else {                                                                          \
      __asm__(code_("strb") : : [bits] "I"(kOutputBits), [two] "I"(2 * kOutputBits)); \
    }                                                                                 \
  }
TFMIX_DEFINE_PIXELS_(DotPixels3x3, TFMIX_PIXELS_3X3_)
TFMIX_DEFINE_PIXELS_(DotPixels, TFMIX_PIXELS_)

#undef TFMIX_BEGIN_PIXELS_
#undef TFMIX_PAIR_
#undef TFMIX_END_PIXEL_
#undef TFMIX_PIXELS_3X3_
#undef TFMIX_PIXELS_
#undef TFMIX_DEFINE_PIXELS_

#endif  // TFMIX_EMULATE_DSP

}  // namespace tfmix

#endif  // TFMIX_DSP

#endif  // TFMIX_SRC_DEPTHWISE_ROWS_H_
