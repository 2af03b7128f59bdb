// depthwise_conv2d, DSP path: the dot products of one output row of four channels.
//
// The ring holds pairs of columns, and for each pair the rows of the window side by side, in the
// order of their places in the ring:
//
//     rows     | 0 1 2 | 0 1 2 | 0 1 2 |
//     columns  | 0, 1  | 2, 3  | 4, 5  |
//
// A window row of three taps that begins in the low half of a pair is {w0, w1} {w2, 0}, one that
// begins in the high half {0, w0} {w1, w2}. Four neighbouring outputs share the loads of columns.
#ifndef TFMIX_SRC_DEPTHWISE_ROWS_H_
#define TFMIX_SRC_DEPTHWISE_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "depthwise_layout.h"
#include "dsp.h"

#if TFMIX_DSP

namespace tfmix {

// Of one output channel: y = clamp(zero_point + requantize((sum << left_shift) + bias)).
struct OutputChannel {
  const Int16Pair* ring;  // of the input channel that it reads
  int32_t bias;
  int32_t multiplier;
};

// One output row of up to four channels. The assembly below knows the order of the fields.
struct GroupRow {
  int32_t zero_point;
  uint8_t* out;  // the first channel's bytes, kGroup apart; the next channel's are beside them
  const uint8_t* end;
  const OutputChannel* channel;
  const Int16Pair* weights;           // of the first channel
  int32_t weight_step;                // to those of the next
  const OutputChannel* last_channel;  // one behind it
  int32_t back;                       // from `end` to the next channel's `out`
  // What follows is for windows of any size.
  int32_t rows;
  int32_t pairs;
  int32_t stride;
  int32_t left_shift;
};

#if defined(TFMIX_EMULATE_DSP)

// 3 x 3 windows: 24 multiplications for 36 products.
template <int kStride, int kOutputBits>
void Dot3x3(const GroupRow& row) {
  constexpr int32_t kRows = 3;
  uint8_t* channel_out = row.out;
  const Int16Pair* weights = row.weights;
  for (const OutputChannel* c = row.channel; c != row.last_channel; ++c, ++channel_out) {
    uint8_t* out = channel_out;
    for (int32_t column = 0; out < row.end; out += kGroup, column += kStride) {
      int32_t sum = c->bias;
      for (int32_t i = 0; i < kRows; ++i) {
        const Int16Pair first = c->ring[column / 2 * kRows + i];
        const Int16Pair second = c->ring[(column / 2 + 1) * kRows + i];
        const Int16Pair u = weights[2 * i], v = weights[2 * i + 1];  // {w0, w1}, {w1, w2}
        sum = column % 2 == 0 ? Smlatb(v, second, Smlad(u, first, sum))
                              : Smlad(v, second, Smlabt(u, first, sum));
      }
      *out = static_cast<uint8_t>(Usat<kOutputBits>(Smmlar(sum, c->multiplier, row.zero_point)));
    }
    weights += row.weight_step;
  }
}

// Windows of any size and stride.
template <int kOutputBits>
void DotAny(const GroupRow& group_row) {
  const GroupRow row = group_row;  // which the bytes that are written cannot change
  const int32_t step1 = (row.stride >> 1) * row.rows;  // from the first output to the second
  const int32_t step2 = row.stride * row.rows;
  const int32_t step3 = (3 * row.stride >> 1) * row.rows;
  uint8_t* channel_out = row.out;
  const Int16Pair* weights = row.weights;
  for (const OutputChannel* c = row.channel; c != row.last_channel; ++c, ++channel_out) {
    const OutputChannel channel = *c;
    const auto output = [&](int32_t sum) {
      const uint32_t value =
          (static_cast<uint32_t>(sum) << row.left_shift) + static_cast<uint32_t>(channel.bias);
      return static_cast<uint8_t>(Usat<kOutputBits>(
          Smmlar(static_cast<int32_t>(value), channel.multiplier, row.zero_point)));
    };
    const Int16Pair* ring = channel.ring;
    for (uint8_t* out = channel_out; out < row.end; out += kBlock * kGroup, ring += 2 * step2) {
      int32_t sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
      const Int16Pair* taps = weights;
      for (int32_t i = 0; i < row.rows; ++i) {
        const Int16Pair* x = ring + i;
        for (int32_t left = row.pairs; left != 0; --left, x += row.rows, taps += kParities) {
          const Int16Pair even = taps[0], odd = taps[1];
          sum0 = Smlad(even, x[0], sum0);
          sum1 = Smlad(odd, x[step1], sum1);
          sum2 = Smlad(even, x[step2], sum2);
          sum3 = Smlad(odd, x[step3], sum3);
        }
      }
      out[0] = output(sum0);
      out[kGroup] = output(sum1);
      out[2 * kGroup] = output(sum2);
      out[3 * kGroup] = output(sum3);
    }
    weights += row.weight_step;
  }
}

#else

static_assert(sizeof(OutputChannel) == 12 && offsetof(GroupRow, left_shift) == 44,
              "the assembly loads these structs whole");

// In assembly, because it takes all fourteen registers and the compiler spills:
//
//     r0        where we are in the ring
//     r1 to r6  {w0, w1} and {w1, w2} of the window's rows
//     r7 to r9  a pair of columns in the window's rows
//     r10 to r12, lr  the sums of four outputs
//
// The rest is on the stack:
//
//     sp + 0 bias    8 zero_point   16 end       24 weights       32 last_channel
//        4 multiplier   12 out      20 channel   28 weight_step   36 back

#define TFMIX_BEGIN_CHANNEL_ \
  "push {r4-r11, lr}\n"      \
  "ldm r0, {r1-r8}\n"        \
  "push {r1-r8}\n"           \
  "sub sp, #8\n"             \
  "1:\n"                     \
  "ldr r7, [sp, #20]\n"      \
  "ldrd r1, r2, [sp, #24]\n" \
  "add r8, r1, r2, lsl #2\n" \
  "ldm r7!, {r0, r4, r5}\n"  \
  "strd r7, r8, [sp, #20]\n" \
  "strd r4, r5, [sp]\n"      \
  "ldm r1, {r1-r6}\n"        \
  "2:\n"                     \
  "ldr lr, [sp]\n"

// A pair of columns meets the first, or the last, taps of the window's rows.
#define TFMIX_FIRST_TAPS_(op_, sum_, start_)                                             \
  op_ " " sum_ ", r1, r7, " start_ "\n" op_ " " sum_ ", r3, r8, " sum_ "\n" op_ " " sum_ \
      ", r5, r9, " sum_ "\n"
#define TFMIX_LAST_TAPS_(op_, sum_)                                                    \
  op_ " " sum_ ", r2, r7, " sum_ "\n" op_ " " sum_ ", r4, r8, " sum_ "\n" op_ " " sum_ \
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
  "ldr r9, [sp, #36]\n"       \
  "sub r7, r7, r9\n"          \
  "add r8, r8, #1\n"          \
  "strd r7, r8, [sp, #12]\n"  \
  "ldr r7, [sp, #20]\n"       \
  "ldr r8, [sp, #32]\n"       \
  "cmp r7, r8\n"              \
  "bne 1b\n"                  \
  "add sp, #40\n"             \
  "pop {r4-r11, pc}\n"

// 3 x 3 windows: 24 multiplications for 36 products.
template <int kStride, int kOutputBits>
__attribute__((naked, noinline)) void Dot3x3(const GroupRow&) {
  if constexpr (kStride == 1) {
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
            : [bits] "I"(kOutputBits));
  } else {
    static_assert(kStride == 2, "windows must begin at pairs");
    __asm__(TFMIX_BEGIN_CHANNEL_                             //
                TFMIX_NEXT_COLUMNS_                          // 0, 1
                    TFMIX_FIRST_TAPS_("smlad", "r10", "lr")  //
            TFMIX_NEXT_COLUMNS_                              // 2, 3
                TFMIX_LAST_TAPS_("smlatb", "r10")            //
            TFMIX_FIRST_TAPS_("smlad", "r11", "lr")          //
            TFMIX_NEXT_COLUMNS_                              // 4, 5
                TFMIX_LAST_TAPS_("smlatb", "r11")            //
            TFMIX_FIRST_TAPS_("smlad", "r12", "lr")          //
            TFMIX_NEXT_COLUMNS_                              // 6, 7
                TFMIX_LAST_TAPS_("smlatb", "r12")            //
            TFMIX_FIRST_TAPS_("smlad", "lr", "lr")           //
            TFMIX_LAST_COLUMNS_                              // 8, 9
                TFMIX_LAST_TAPS_("smlatb", "lr")             //
            TFMIX_END_CHANNEL_
            :
            : [bits] "I"(kOutputBits));
  }
}

#undef TFMIX_BEGIN_CHANNEL_
#undef TFMIX_FIRST_TAPS_
#undef TFMIX_LAST_TAPS_
#undef TFMIX_NEXT_COLUMNS_
#undef TFMIX_LAST_COLUMNS_
#undef TFMIX_END_CHANNEL_

// Windows of any size and stride. For each window row and each of its pairs of columns: one pair of
// taps for outputs that begin in the low half of a pair, one for the others.
//
//     r0, r1    where we are in the ring, in the weights
//     r2, r3    the two pairs of taps
//     r4 to r7  the sums
//     r8 to r10 from the columns of the first output to those of the second, third, fourth; bytes
//     r11       to the next columns
//     r12       pairs left; lr a pair of columns
//
// The stack as above, and behind it
//
//     sp + 40 rows    44 pairs    48 stride    52 left_shift    56 ring    60 rows left    64 row
template <int kOutputBits>
__attribute__((naked, noinline)) void DotAny(const GroupRow&) {
  __asm__(
      "push {r4-r11, lr}\n"
      "sub sp, #12\n"
      "ldm r0!, {r1-r8}\n"
      "ldm r0, {r9-r12}\n"
      "push {r1-r12}\n"
      "sub sp, #8\n"
      "mov r2, r11\n"  // stride
      "lsl r11, r9, #2\n"
      "lsr r8, r2, #1\n"
      "mul r8, r8, r11\n"
      "mul r9, r2, r11\n"
      "add r10, r2, r2, lsl #1\n"
      "lsr r10, r10, #1\n"
      "mul r10, r10, r11\n"
      "1:\n"  // a channel
      "ldr r7, [sp, #20]\n"
      "ldm r7!, {r0, r4, r5}\n"
      "str r7, [sp, #20]\n"
      "strd r4, r5, [sp]\n"
      "str r0, [sp, #56]\n"
      "2:\n"  // a block
      "ldr r1, [sp, #24]\n"
      "ldr r2, [sp, #40]\n"
      "mov r4, #0\n"
      "mov r5, #0\n"
      "mov r6, #0\n"
      "mov r7, #0\n"
      "3:\n"  // a row of the window
      "strd r2, r0, [sp, #60]\n"
      "ldr r12, [sp, #44]\n"
      "cmp r8, #0\n"
      "beq 6f\n"
      "5:\n"
      "ldrd r2, r3, [r1], #8\n"
      "ldr lr, [r0]\n"
      "smlad r4, r2, lr, r4\n"
      "ldr lr, [r0, r8]\n"
      "smlad r5, r3, lr, r5\n"
      "ldr lr, [r0, r9]\n"
      "smlad r6, r2, lr, r6\n"
      "ldr lr, [r0, r10]\n"
      "smlad r7, r3, lr, r7\n"
      "add r0, r0, r11\n"
      "subs r12, #1\n"
      "bne 5b\n"
      "b 7f\n"
      "6:\n"  // at stride 1 two outputs begin in each pair
      "ldrd r2, r3, [r1], #8\n"
      "ldr lr, [r0]\n"
      "smlad r4, r2, lr, r4\n"
      "smlad r5, r3, lr, r5\n"
      "add r0, r0, r11\n"
      "ldr lr, [r0]\n"
      "smlad r6, r2, lr, r6\n"
      "smlad r7, r3, lr, r7\n"
      "subs r12, #1\n"
      "bne 6b\n"
      "7:\n"
      "ldrd r2, r0, [sp, #60]\n"
      "add r0, r0, #4\n"
      "subs r2, #1\n"
      "bne 3b\n"
      "ldr r12, [sp, #52]\n"
      "ldm sp, {r0, r1, r2, r3}\n"
      "lsl r4, r4, r12\n"
      "lsl r5, r5, r12\n"
      "lsl r6, r6, r12\n"
      "lsl r7, r7, r12\n"
      "add r4, r4, r0\n"
      "add r5, r5, r0\n"
      "add r6, r6, r0\n"
      "add r7, r7, r0\n"
      "smmlar r4, r4, r1, r2\n"
      "smmlar r5, r5, r1, r2\n"
      "smmlar r6, r6, r1, r2\n"
      "smmlar r7, r7, r1, r2\n"
      "usat r4, %[bits], r4\n"
      "usat r5, %[bits], r5\n"
      "usat r6, %[bits], r6\n"
      "usat r7, %[bits], r7\n"
      "strb r4, [r3], #16\n"
      "strb r5, [r3, #-12]\n"
      "strb r6, [r3, #-8]\n"
      "strb r7, [r3, #-4]\n"
      "ldr r0, [sp, #56]\n"
      "add r0, r0, r9, lsl #1\n"
      "str r0, [sp, #56]\n"
      "ldr r1, [sp, #16]\n"
      "str r3, [sp, #12]\n"
      "cmp r3, r1\n"
      "bne 2b\n"
      "ldr r4, [sp, #36]\n"
      "sub r3, r3, r4\n"
      "add r1, r1, #1\n"
      "strd r3, r1, [sp, #12]\n"
      "ldrd r4, r5, [sp, #24]\n"
      "add r4, r4, r5, lsl #2\n"
      "str r4, [sp, #24]\n"
      "ldr r7, [sp, #20]\n"
      "ldr r0, [sp, #32]\n"
      "cmp r7, r0\n"
      "bne 1b\n"
      "add sp, #68\n"
      "pop {r4-r11, pc}\n"
      :
      : [bits] "I"(kOutputBits));
}

#endif  // TFMIX_EMULATE_DSP

}  // namespace tfmix

#endif  // TFMIX_DSP

#endif  // TFMIX_SRC_DEPTHWISE_ROWS_H_
