#if defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_SIMD32) && !defined(TFMIX_PORTABLE)
@ conv2d on a Cortex-M with DSP instructions: the loop over output channels for four or two pixels.
@
@ A block is eight sums: two channels by four pixels or, with weights of 2 bits, four by two. Eight
@ sums, two pointers and four operands fill the 14 registers there are; everything else waits on the
@ stack. docs/kernels.md draws the registers and tells why the loops are as they are.
@
@ For each bit-width of weights and of outputs there is a function
@
@     void tfmix_conv2d_loop_<weights>_o<output bits>(struct ChannelLoop *loop)
@
@ with <weights> = w8, w4, w2 or, for inputs and weights of 2 bits, w2a2.

#include "channel_loop.inc"

        .syntax unified
        .thumb

@ ---- Names ---------------------------------------------------------------------------------------

weights .req    r0              @ next tile
column  .req    r1              @ next words of the columns
x0      .req    r2              @ activations of two pixels
x1      .req    r3
w0      .req    r12             @ weights of one or two channels
w1      .req    lr
@ r4 to r11 are the sums: [channel][pixel].

@ Behind the copy of the struct:
        .equ    HALF_BYTE, 88   @ o2: whether a byte is half written
        .equ    STRUCT, 88      @ w2: where the struct lies, and HALF
        .equ    MASK, 92        @ w2a2
        .equ    TOTALS, 96      @ w2a2: of the segments so far
        .equ    FRAME_BYTES, 128

@ Tiles that a turn of the inner loop takes, and bytes of the columns in a segment.
        .equ    LOG2_TILES_PER_TURN, 2
        .equ    TILES_PER_TURN, 1 << LOG2_TILES_PER_TURN
        .equ    SEGMENT_BYTES, 56 * 32

@ ---- Inner loops: one tile of weights -------------------------------------------------------------

@ Two channels, in w0 and w1, by four pixels: the first two pixels are loaded before w0 and w1 are
@ unpacked, and the word behind, if there is a `next` one, once w0 is free, so that neither has to be
@ waited for. Also otherwise the order is one that llvm-mca has found to wait little.
        .macro  LOAD_PIXELS
        ldrd    x0, x1, [column], #8
        .endm

        .macro  MULTIPLY_2_BY_4 next:vararg
        smlad   r8, w1, x0, r8
        smlad   r4, w0, x0, r4
        smlad   r5, w0, x1, r5
        smlad   r9, w1, x1, r9
        LOAD_PIXELS
        smlad   r6, w0, x0, r6
        smlad   r7, w0, x1, r7
        smlad   r10, w1, x0, r10
        \next
        smlad   r11, w1, x1, r11
        .endm

@ 8 bits: bytes 0 and 2 are the first channel's, 1 and 3 the second's.
        .macro  TILE_w8
        LOAD_PIXELS
        ldr     w0, [weights], #4
        uxtb16  w1, w0, ror #8
        uxtb16  w0, w0
        MULTIPLY_2_BY_4 ldr w0, [weights], #4
        uxtb16  w1, w0, ror #8
        LOAD_PIXELS
        uxtb16  w0, w0
        MULTIPLY_2_BY_4
        .endm

@ 4 bits: a byte holds both channels. w1 keeps both, as first + 16 * second.
        .macro  TILE_w4
        ldr     w0, [weights]
        LOAD_PIXELS
        uxtb16  w1, w0
        and     w0, w1, #0x000F000F
        MULTIPLY_2_BY_4 ldr w0, [weights], #4
        LOAD_PIXELS
        uxtb16  w1, w0, ror #8
        and     w0, w1, #0x000F000F
        MULTIPLY_2_BY_4
        .endm

@ 2 bits: a byte holds four channels, of which masks take the highest off, one by one.
        .macro  MULTIPLY_4_BY_2
        ldrd    x0, x1, [column], #16
        smlad   r10, w1, x0, r10
        smlad   r11, w1, x1, r11
        and     w1, w1, #0x003F003F
        smlad   r8, w1, x0, r8
        smlad   r9, w1, x1, r9
        and     w1, w1, #0x000F000F
        smlad   r6, w1, x0, r6
        smlad   r7, w1, x1, r7
        and     w1, w1, #0x00030003
        smlad   r4, w1, x0, r4
        smlad   r5, w1, x1, r5
        .endm

        .macro  TILE_w2
        ldr     w0, [weights], #4
        uxtb16  w1, w0
        MULTIPLY_4_BY_2
        uxtb16  w1, w0, ror #8
        MULTIPLY_4_BY_2
        .endm

@ 2 by 2 bits: four fields of the rotated word, two in each half.
        .macro  TILE_w2a2
        ldr     w0, [weights]
        ldr     x0, [sp, #MASK]
        and     w1, x0, w0, ror #2
        and     w0, x0, w0
        LOAD_PIXELS
        MULTIPLY_2_BY_4 ldr w0, [weights], #4
        ldr     x0, [sp, #MASK]
        and     w1, x0, w0, ror #10
        and     w0, x0, w0, ror #8
        LOAD_PIXELS
        MULTIPLY_2_BY_4
        .endm

@ ---- What a sum begins with: bias - zero point * sum of the column ---------------------------------

        .macro  BEGIN_w8
        ldm     sp, {column, r4-r6, r8-r11}     @ bias, zero point and its step, sums
        ldrd    x0, x1, [r4], #8
        ldrb    w0, [r5]
        ldrb    w1, [r5, #1]
        add     r5, r6
        strd    r4, r5, [sp, #BIAS]
        mla     r4, r8, w0, x0
        mla     r5, r9, w0, x0
        mla     r6, r10, w0, x0
        mla     r7, r11, w0, x0
        mla     r8, r8, w1, x1
        mla     r9, r9, w1, x1
        mla     r10, r10, w1, x1
        mla     r11, r11, w1, x1
        .endm

@ Narrow weights: all channels begin like the first, so that their differences begin with zero.
        .macro  BEGIN_w4
        ldm     sp, {column, r4-r6, r8-r11}
        ldrb    w0, [r5]
        ldr     x0, [r4]
        mla     r4, r8, w0, x0
        mla     r5, r9, w0, x0
        mla     r6, r10, w0, x0
        mla     r7, r11, w0, x0
        mov     r8, r4
        mov     r9, r5
        mov     r10, r6
        mov     r11, r7
        .endm

        .macro  BEGIN_w2
        ldm     sp, {column, r4-r6, r10, r11}
        ldrb    w0, [r5]
        ldr     x0, [r4]
        mla     r4, r10, w0, x0
        mla     r5, r11, w0, x0
        mov     r6, r4
        mov     r7, r5
        mov     r8, r4
        mov     r9, r5
        mov     r10, r4
        mov     r11, r5
        .endm

@ 2 by 2 bits: the sums join their beginning later, see END_w2a2.
        .macro  BEGIN_w2a2
        BEGIN_w8
        ldr     x0, [sp, #FIRST_END]
        str     x0, [sp, #END]
        SAVE_TOTALS
        .endm

        .macro  SAVE_TOTALS
        add     x0, sp, #TOTALS
        stm     x0, {r4-r11}
        .irp    sum, r4, r5, r6, r7, r8, r9, r10, r11
        mov     \sum, #0
        .endr
        .endm

@ ---- From what the loops have added to sums of products ---------------------------------------------

        .macro  END_w8 turn
        .endm

@ The second channel has 16 times its products and those of the first.
        .macro  END_w4 turn
        ldm     sp, {column, x0, x1, w0}        @ bias, zero point and its step
        ldr     w1, [x0, #4]
        ldrb    column, [x1, #1]
        adds    x0, #8
        add     x1, w0
        strd    x0, x1, [sp, #BIAS]
        ldrd    x0, x1, [sp, #MINUS_SUMS]
        mla     x0, x0, column, w1
        mla     x1, x1, column, w1
        subs    r8, r8, r4
        subs    r9, r9, r5
        add     r8, x0, r8, lsr #4
        add     r9, x1, r9, lsr #4
        ldrd    x0, x1, [sp, #MINUS_SUMS + 8]
        mla     x0, x0, column, w1
        mla     x1, x1, column, w1
        subs    r10, r10, r6
        subs    r11, r11, r7
        add     r10, x0, r10, lsr #4
        add     r11, x1, r11, lsr #4
        .endm

@ Channel c has 4^c times its products and all that the channel before it has.
        .macro  SEPARATE_w2 channel, sum0, sum1, before0, before1
        ldrd    x0, x1, [sp, #MINUS_SUMS]
        ldrb    w0, [weights, #\channel]
        ldr     w1, [column, #4 * \channel]
        mla     x0, x0, w0, w1
        mla     x1, x1, w0, w1
        subs    \sum0, \sum0, \before0
        subs    \sum1, \sum1, \before1
        add     \sum0, x0, \sum0, lsr #2 * \channel
        add     \sum1, x1, \sum1, lsr #2 * \channel
        .endm

        .macro  END_w2 turn
        str     weights, [sp, #WEIGHTS]
        ldrd    column, weights, [sp, #BIAS]
        SEPARATE_w2 3, r10, r11, r8, r9
        SEPARATE_w2 2, r8, r9, r6, r7
        SEPARATE_w2 1, r6, r7, r4, r5
        ldr     x0, [sp, #ZERO_POINT_STEP]
        adds    column, #16
        add     weights, weights, x0, lsl #1
        strd    column, weights, [sp, #BIAS]
        ldr     weights, [sp, #WEIGHTS]
        .endm

@ Of a sum of 2 by 2 bits, bits 12 to 23 count. They would overflow after 113 steps, so the products
@ are taken in segments of 112. All but the first begin with a whole turn.
        .macro  END_w2a2 turn
        .irp    sum, r4, r5, r6, r7, r8, r9, r10, r11
        ubfx    \sum, \sum, #12, #12
        .endr
        .set    offset, TOTALS
        ADD_TOTALS r4, r5
        ADD_TOTALS r6, r7
        ADD_TOTALS r8, r9
        ADD_TOTALS r10, r11
        ldr     x0, [sp, #LAST_END]
        cmp     column, x0
        beq     1f
        SAVE_TOTALS
        add     x0, column, #SEGMENT_BYTES
        str     x0, [sp, #END]
        b       \turn
1:
        .endm

        .macro  ADD_TOTALS sum0, sum1
        ldrd    x0, x1, [sp, #offset]
        add     \sum0, x0
        add     \sum1, x1
        .set    offset, offset + 8
        .endm

@ ---- Requantize ---------------------------------------------------------------------------------------

@ left_shift > 0: the bias must not be shifted with the products, so sum * 2^shift takes
@ bias * (1 - 2^shift). Here x0 = 2^shift, and BIAS has moved on. column and x1 are for what follows.
        .macro  SHIFT_2_BY_4
        ldr     w1, [sp, #BIAS]
        ldrd    w0, w1, [w1, #-8]
        mls     w0, w0, x0, w0
        mls     w1, w1, x0, w1
        .irp    sum, r4, r5, r6, r7
        mla     \sum, \sum, x0, w0
        .endr
        .irp    sum, r8, r9, r10, r11
        mla     \sum, \sum, x0, w1
        .endr
        .endm

        .macro  SHIFT_4_BY_2
        ldr     w1, [sp, #BIAS]
        SHIFT_CHANNEL -16, r4, r5
        SHIFT_CHANNEL -12, r6, r7
        SHIFT_CHANNEL -8, r8, r9
        SHIFT_CHANNEL -4, r10, r11
        .endm

        .macro  SHIFT_CHANNEL bias, sum0, sum1
        ldr     w0, [w1, #\bias]
        mls     w0, w0, x0, w0
        mla     \sum0, \sum0, x0, w0
        mla     \sum1, \sum1, x0, w0
        .endm

@ column = multipliers, x0 = 2^shift or 0, x1 = the output's zero point; 2^log2_pairs pairs of
@ channels are done with the multipliers.
        .macro  LOAD_RESCALE log2_pairs
        add     column, sp, #MULTIPLIER
        ldm     column, {column, x0, x1, w0}
        add     w0, column, w0, lsl #\log2_pairs
        str     w0, [sp, #MULTIPLIER]
        .endm

        .macro  REQUANTIZE_2_BY_4
        ldrd    w0, w1, [column]
        .irp    sum, r4, r5, r6, r7
        smmlar  \sum, \sum, w0, x1
        .endr
        .irp    sum, r8, r9, r10, r11
        smmlar  \sum, \sum, w1, x1
        .endr
        .endm

        .macro  REQUANTIZE_4_BY_2
        ldrd    w0, w1, [column]
        smmlar  r4, r4, w0, x1
        smmlar  r5, r5, w0, x1
        smmlar  r6, r6, w1, x1
        smmlar  r7, r7, w1, x1
        ldrd    w0, w1, [column, #8]
        smmlar  r8, r8, w0, x1
        smmlar  r9, r9, w0, x1
        smmlar  r10, r10, w1, x1
        smmlar  r11, r11, w1, x1
        .endm

        .macro  SATURATE bits
        .irp    sum, r4, r5, r6, r7, r8, r9, r10, r11
        usat    \sum, #\bits, \sum
        .endr
        .endm

@ ---- Store ---------------------------------------------------------------------------------------------

@ The outputs of a pixel lie DISTANCE behind those of the pixel before it. `store` is strb, strh
@ or str.
        .macro  STORE_4_PIXELS store, bytes
        ldrd    x0, x1, [sp, #OUTPUT]
        \store  r4, [x0]
        \store  r5, [x0, x1]
        add     column, x0, x1, lsl #1
        \store  r6, [column]
        \store  r7, [column, x1]
        adds    x0, #\bytes
        str     x0, [sp, #OUTPUT]
        .endm

        .macro  STORE_2_PIXELS store, bytes
        ldrd    x0, x1, [sp, #OUTPUT]
        \store  r5, [x0, x1]
        \store  r4, [x0], #\bytes
        str     x0, [sp, #OUTPUT]
        .endm

        .macro  JOIN_2_CHANNELS bits
        orr     r4, r4, r8, lsl #\bits
        orr     r5, r5, r9, lsl #\bits
        orr     r6, r6, r10, lsl #\bits
        orr     r7, r7, r11, lsl #\bits
        .endm

        .macro  JOIN_4_CHANNELS bits
        orr     r4, r4, r6, lsl #\bits
        orr     r5, r5, r7, lsl #\bits
        orr     r4, r4, r8, lsl #2 * \bits
        orr     r5, r5, r9, lsl #2 * \bits
        orr     r4, r4, r10, lsl #3 * \bits
        orr     r5, r5, r11, lsl #3 * \bits
        .endm

        .macro  STORE_2_BY_4_o8
        JOIN_2_CHANNELS 8
        STORE_4_PIXELS strh, 2
        .endm

        .macro  STORE_2_BY_4_o4
        JOIN_2_CHANNELS 4
        STORE_4_PIXELS strb, 1
        .endm

@ Two channels are half a byte: every second time it is completed.
        .macro  STORE_2_BY_4_o2
        JOIN_2_CHANNELS 2
        ldr     x0, [sp, #HALF_BYTE]
        eors    x0, x0, #1
        str     x0, [sp, #HALF_BYTE]
        bne     1f
        ldrd    x0, x1, [sp, #OUTPUT]
        ldrb    w0, [x0]
        ldrb    w1, [x0, x1]
        add     column, x0, x1, lsl #1
        orr     r4, w0, r4, lsl #4
        orr     r5, w1, r5, lsl #4
        ldrb    w0, [column]
        ldrb    w1, [column, x1]
        orr     r6, w0, r6, lsl #4
        orr     r7, w1, r7, lsl #4
        STORE_4_PIXELS strb, 1
        b       2f
1:
        STORE_4_PIXELS strb, 0
2:
        .endm

        .macro  STORE_4_BY_2_o8
        JOIN_4_CHANNELS 8
        STORE_2_PIXELS str, 4
        .endm

        .macro  STORE_4_BY_2_o4
        JOIN_4_CHANNELS 4
        STORE_2_PIXELS strh, 2
        .endm

        .macro  STORE_4_BY_2_o2
        JOIN_4_CHANNELS 2
        STORE_2_PIXELS strb, 1
        .endm

@ ---- Next pixels ---------------------------------------------------------------------------------------

        .macro  NEXT_PIXELS_2_BY_4 block
        .endm

@ The other two pixels begin where these did.
        .macro  NEXT_PIXELS_4_BY_2 block
        ldr     x0, [sp, #SECOND_PAIR]
        cbz     x0, 4f
        movs    x0, #0
        str     x0, [sp, #SECOND_PAIR]
        ldr     column, [sp, #STRUCT]
        ldr     weights, [column, #WEIGHTS - HALF]
        ldr     x0, [column, #MULTIPLIER - HALF]
        str     x0, [sp, #MULTIPLIER]
        ldrd    x0, x1, [column, #BIAS - HALF]
        strd    x0, x1, [sp, #BIAS]
        ldrd    x0, x1, [column, #OUTPUT - HALF]
        add     x0, x0, x1, lsl #1
        str     x0, [sp, #OUTPUT]
        ldrd    x0, x1, [sp, #MINUS_SUMS + 8]
        strd    x0, x1, [sp, #MINUS_SUMS]
        ldr     x0, [sp, #END]
        ldr     x1, [sp, #COLUMNS]
        adds    x0, #8
        adds    x1, #8
        str     x0, [sp, #END]
        str     x1, [sp, #COLUMNS]
        b       \block
4:
        .endm

@ ---- The functions --------------------------------------------------------------------------------------

        .macro  CHANNEL_LOOP name, kind, shape, output_bits
        .section .text.tfmix_conv2d_loop_\name, "ax", %progbits
        .balign 4
        .global tfmix_conv2d_loop_\name
        .type   tfmix_conv2d_loop_\name, %function
        .thumb_func
tfmix_conv2d_loop_\name:
        ENTER   FRAME_BYTES, LOG2_TILES_PER_TURN, .Lturn_\name, .Lturn_end_\name
        .ifc    \kind, w2
        str     r0, [sp, #STRUCT]
        .else
        movs    r1, #0
        str     r1, [sp, #HALF_BYTE]
        .endif
        .ifc    \kind, w2a2
        LOAD_MASK r1
        str     r1, [sp, #MASK]
        .endif
        ldr     weights, [sp, #WEIGHTS]
.Lblock_\name:
        BEGIN_\kind
        ldr     pc, [sp, #ENTRY]
        .balign 4
.Lturn_\name:
        .rept   TILES_PER_TURN
        TILE_\kind
        .endr
.Lturn_end_\name:
        ldr     x0, [sp, #END]
        cmp     column, x0
        bne     .Lturn_\name
        END_\kind .Lturn_\name
        .ifc    \kind, w2
        LOAD_RESCALE 1
        .else
        LOAD_RESCALE 0
        .endif
        cbz     x0, 3f
        SHIFT_\shape
3:
        REQUANTIZE_\shape
        SATURATE \output_bits
        STORE_\shape\()_o\output_bits
        ldr     x0, [sp, #WEIGHTS_END]
        cmp     weights, x0
        bne     .Lblock_\name
        NEXT_PIXELS_\shape .Lblock_\name
        LEAVE   FRAME_BYTES
        .size   tfmix_conv2d_loop_\name, . - tfmix_conv2d_loop_\name
        .endm

        .irp    bits, 8, 4, 2
        CHANNEL_LOOP w8_o\bits, w8, 2_BY_4, \bits
        CHANNEL_LOOP w4_o\bits, w4, 2_BY_4, \bits
        CHANNEL_LOOP w2_o\bits, w2, 4_BY_2, \bits
        CHANNEL_LOOP w2a2_o\bits, w2a2, 2_BY_4, \bits
        .endr

#endif
