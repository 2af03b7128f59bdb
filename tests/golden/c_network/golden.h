/* golden: an integer-only network, written by tfmix VERSION. Do not edit.
 *
 *   input   2 x 3 x 2, uint8: q stands for 0.12775537f * (q - 130)
 *   output  1 x 2 x 2, uint8: q stands for 0.00390625f * (q - 0)
 *   RAM     32 bytes: the arena, which holds input, output and all between
 *   flash   652 bytes of weights and parameters, and beside them the code of the kernels:
 *
 *     tfmix_add_a8b8o2
 *     tfmix_concatenate_o8
 *     tfmix_max_pool_a2
 *     tfmix_requantize_a8o8
 *     tfmix_softmax_a8o8
 *
 *     if (golden_init() != TFMIX_OK) stop();    once
 *     memcpy(golden_input(), image, GOLDEN_INPUT_BYTES);
 *     golden_invoke();
 *     use(golden_output());
 *
 * One arena serves all calls: use the network from one thread at a time.
 */
#ifndef GOLDEN_H_
#define GOLDEN_H_

#include <stdint.h>

#include "tfmix/kernels.h"

#define GOLDEN_ARENA_BYTES 32
#define GOLDEN_CONSTANT_BYTES 652
#define GOLDEN_INPUT_BYTES 12
#define GOLDEN_OUTPUT_BYTES 4

/* An element q stands for SCALE * (q - ZERO_POINT). Shapes are rows, columns, channels. */
#define GOLDEN_INPUT_SHAPE {2, 3, 2}
#define GOLDEN_INPUT_SCALE 0.12775537f
#define GOLDEN_INPUT_ZERO_POINT 130
#define GOLDEN_OUTPUT_SHAPE {1, 2, 2}
#define GOLDEN_OUTPUT_SCALE 0.00390625f
#define GOLDEN_OUTPUT_ZERO_POINT 0

#ifdef __cplusplus
extern "C" {
#endif

/* Checks every layer against the kernels that are linked; call it once, at start-up. TFMIX_OK, or
 * what a kernel says of its parameters, or TFMIX_BAD_SHAPE where a kernel wants other buffers than
 * the network has: then the two are of different versions. Does not touch the arena. */
tfmix_status golden_init(void);

/* Where the input goes. invoke overwrites it: write it before each. */
uint8_t* golden_input(void);

/* Computes the output from the input. */
void golden_invoke(void);

/* The output, which stays from invoke until the input is written. */
const uint8_t* golden_output(void);

/* The arena. Where GOLDEN_USER_ARENA is defined it is yours to define, for instance to share it:
 * GOLDEN_ARENA_BYTES bytes at a multiple of 16. */
extern uint8_t golden_arena[GOLDEN_ARENA_BYTES];

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* GOLDEN_H_ */
