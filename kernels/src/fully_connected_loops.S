#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_SIMD32) && !defined(TFMIX_PORTABLE)
@ fully_connected on a Cortex-M with DSP instructions: the loop over outputs.
@
@ Each turn of the outer loop computes four outputs, from one group of tiles where a tile has four
@ channels and from two groups side by side where it has two. There is a function
@
@     void tfmix_fully_connected_loop_<weights>_o<output bits>(struct ChannelLoop *loop)
@
@ for each bit-width of weights and outputs; <weights> is as in conv2d_loops.S.

#include "channel_loop.inc"

        .syntax unified
        .thumb

weights .req    r0              @ next tile
second  .req    r1              @ next tile of the second group
column  .req    r2
x0      .req    r3              @ words of the column
x1      .req    r12
@ r4 to r7 are the sums, by channel.
w0      .req    r8
w1      .req    r9
field   .req    r10
mask    .req    r11
end     .req    lr              @ of the column

        .equ    TOTALS, 88      @ w2a2: of the segments so far
        .equ    FRAME_BYTES, 104

        .equ    LOG2_TILES_PER_TURN, 2
        .equ    TILES_PER_TURN, 1 << LOG2_TILES_PER_TURN
        .equ    SEGMENT_BYTES, 56 * 8   @ of the column

@ ---- Inner loops: a tile of each group ------------------------------------------------------------

@ 8 bits: two words of two channels.
        .macro  PAIR_w8 group, sum0, sum1
        ldrd    w0, w1, [\group], #8
        uxtb16  field, w0, ror #8
        uxtb16  w0, w0
        smlad   \sum1, field, x0, \sum1
        uxtb16  field, w1, ror #8
        smlad   \sum0, w0, x0, \sum0
        uxtb16  w1, w1
        smlad   \sum1, field, x1, \sum1
        smlad   \sum0, w1, x1, \sum0
        .endm

@ 4 bits: one sum is of both channels, first + 16 * second.
        .macro  PAIR_w4 group, sum0, sum1
        ldr     w0, [\group], #4
        uxtb16  field, w0
        and     w1, field, #0x000F000F
        smlad   \sum1, field, x0, \sum1
        uxtb16  field, w0, ror #8
        smlad   \sum0, w1, x0, \sum0
        and     w1, field, #0x000F000F
        smlad   \sum1, field, x1, \sum1
        smlad   \sum0, w1, x1, \sum0
        .endm

@ 2 by 2 bits.
        .macro  PAIR_w2a2 group, sum0, sum1
        ldr     w0, [\group], #4
        and     field, mask, w0
        and     w1, mask, w0, ror #2
        smlad   \sum0, field, x0, \sum0
        and     field, mask, w0, ror #8
        smlad   \sum1, w1, x0, \sum1
        and     w1, mask, w0, ror #10
        smlad   \sum0, field, x1, \sum0
        smlad   \sum1, w1, x1, \sum1
        .endm

        .irp    kind, w8, w4, w2a2
        .macro  TILE_\kind
        ldrd    x0, x1, [column], #8
        PAIR_\kind weights, r4, r5
        PAIR_\kind second, r6, r7
        .endm
        .endr

@ 2 bits: each sum is of the channels up to its own.
        .macro  STEP_w2 x
        smlad   r7, field, \x, r7
        and     field, field, #0x003F003F
        smlad   r6, field, \x, r6
        and     field, field, #0x000F000F
        smlad   r5, field, \x, r5
        and     field, field, #0x00030003
        smlad   r4, field, \x, r4
        .endm

        .macro  TILE_w2
        ldrd    x0, x1, [column], #8
        ldr     w0, [weights], #4
        uxtb16  field, w0
        STEP_w2 x0
        uxtb16  field, w0, ror #8
        STEP_w2 x1
        .endm

@ ---- From what the loops have added to sums of products --------------------------------------------

        .macro  SEPARATE_w8 turn
        .endm

        .macro  SEPARATE_w4 turn
        subs    r5, r5, r4
        subs    r7, r7, r6
        lsrs    r5, r5, #4
        lsrs    r7, r7, #4
        .endm

        .macro  SEPARATE_w2 turn
        subs    r7, r7, r6
        subs    r6, r6, r5
        subs    r5, r5, r4
        lsrs    r7, r7, #6
        lsrs    r6, r6, #4
        lsrs    r5, r5, #2
        .endm

@ Bits 12 to 23 count; they would overflow after 113 steps, hence the segments. All but the first
@ begin with a whole turn.
        .macro  SEPARATE_w2a2 turn
        ldr     x0, [sp, #LAST_END]
        ldr     w0, [sp, #TOTALS]
        ldr     w1, [sp, #TOTALS + 4]
        ubfx    r4, r4, #12, #12
        ubfx    r5, r5, #12, #12
        ubfx    r6, r6, #12, #12
        ubfx    r7, r7, #12, #12
        add     r4, w0
        add     r5, w1
        ldr     w0, [sp, #TOTALS + 8]
        ldr     w1, [sp, #TOTALS + 12]
        add     r6, w0
        add     r7, w1
        cmp     column, x0
        beq     1f
        SAVE_TOTALS
        add     end, column, #SEGMENT_BYTES
        b       \turn
1:
        .endm

        .macro  SAVE_TOTALS
        add     x0, sp, #TOTALS
        stm     x0, {r4-r7}
        CLEAR_SUMS
        .endm

        .macro  CLEAR_SUMS
        .irp    sum, r4, r5, r6, r7
        movs    \sum, #0
        .endr
        .endm

@ ---- The functions -----------------------------------------------------------------------------------

@ sum + bias - zero point * sum of the column, shifted or not, requantized.
        .macro  FINISH_CHANNEL channel, sum, bits
        ldrb    w0, [x0, #\channel]
        ldr     w1, [x1, #4 * \channel]
        mla     \sum, w0, end, \sum
        cbz     second, 2f
        mul     \sum, \sum, second
2:
        add     \sum, w1
        ldr     w0, [field, #4 * \channel]
        smmlar  \sum, \sum, w0, mask
        usat    \sum, #\bits, \sum
        .endm

        .macro  OUTPUT_LOOP name, kind, bits, store
        .section .text.tfmix_fully_connected_loop_\name, "ax", %progbits
        .balign 4
        .global tfmix_fully_connected_loop_\name
        .type   tfmix_fully_connected_loop_\name, %function
        .thumb_func
tfmix_fully_connected_loop_\name:
        ENTER   FRAME_BYTES, LOG2_TILES_PER_TURN, .Lturn_\name, .Lturn_end_\name
        ldr     weights, [sp, #WEIGHTS]
.Loutputs_\name:
        CLEAR_SUMS
        ldr     end, [sp, #LAST_END]
        ldr     column, [sp, #COLUMNS]
        .ifc    \kind, w2a2
        SAVE_TOTALS
        LOAD_MASK mask
        ldr     end, [sp, #FIRST_END]
        .endif
        .ifnc   \kind, w2
        ldr     second, [sp, #DISTANCE]
        add     second, weights
        .endif
        ldr     pc, [sp, #ENTRY]
        .balign 4
.Lturn_\name:
        .rept   TILES_PER_TURN
        TILE_\kind
        .endr
.Lturn_end_\name:
        cmp     column, end
        bne     .Lturn_\name
        SEPARATE_\kind .Lturn_\name
        .ifnc   \kind, w2
        mov     weights, second
        .endif

        ldr     x0, [sp, #ZERO_POINT]
        ldr     x1, [sp, #BIAS]
        ldr     field, [sp, #MULTIPLIER]
        ldr     mask, [sp, #OUTPUT_ZERO_POINT]
        ldr     end, [sp, #MINUS_SUMS]
        ldr     second, [sp, #SHIFT_FACTOR]
        FINISH_CHANNEL 0, r4, \bits
        FINISH_CHANNEL 1, r5, \bits
        FINISH_CHANNEL 2, r6, \bits
        FINISH_CHANNEL 3, r7, \bits
        ldr     w0, [sp, #ZERO_POINT_STEP]
        ldr     w1, [sp, #MULTIPLIER_STEP]
        add     x0, x0, w0, lsl #1
        add     field, field, w1, lsl #1
        add     x1, #16
        str     x0, [sp, #ZERO_POINT]
        str     field, [sp, #MULTIPLIER]
        str     x1, [sp, #BIAS]

        ldr     x0, [sp, #OUTPUT]
        orr     r4, r4, r5, lsl #\bits
        orr     r4, r4, r6, lsl #2 * \bits
        orr     r4, r4, r7, lsl #3 * \bits
        \store  r4, [x0], #\bits / 2
        str     x0, [sp, #OUTPUT]
        ldr     x0, [sp, #WEIGHTS_END]
        cmp     weights, x0
        bne     .Loutputs_\name
        LEAVE   FRAME_BYTES
        .size   tfmix_fully_connected_loop_\name, . - tfmix_fully_connected_loop_\name
        .endm

        .irp    kind, w8, w4, w2, w2a2
        OUTPUT_LOOP \kind\()_o8, \kind, 8, str
        OUTPUT_LOOP \kind\()_o4, \kind, 4, strh
        OUTPUT_LOOP \kind\()_o2, \kind, 2, strb
        .endr

#endif
