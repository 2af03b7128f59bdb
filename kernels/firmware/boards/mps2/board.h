/* Support for two boards as QEMU models them, so that programs can be run and counted without one:
 *
 *     mps2-an386   Cortex-M4
 *     mps2-an500   Cortex-M7
 *
 * Both have 4 MiB for code at 0 and 4 MiB for data at 0x20000000. Nothing here is part of a
 * product: a firmware for another board brings its own start-up code and linker script.
 *
 * A program provides `int main(void)`; what it returns becomes the exit code of QEMU. Build it with
 * mps2.ld and without the compiler's start files. tests/target.py does both, and runs it.
 */
#ifndef TFMIX_FIRMWARE_BOARDS_MPS2_BOARD_H_
#define TFMIX_FIRMWARE_BOARDS_MPS2_BOARD_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

int main(void);

/* ---- The machine that runs QEMU, reached by semihosting ------------------------------------ */

/* Writes text to the standard output. */
void board_write(const char* text);
void board_write_int(int32_t value);
void board_write_hex(uint32_t value);

/* Ends QEMU with this exit code. */
__attribute__((noreturn)) void board_exit(int32_t code);

/* Opens a file for reading. A handle, or -1. */
int32_t board_open(const char* path);

/* Reads up to `size` bytes, fewer only at the end of the file. The number of bytes read. */
int32_t board_read(int32_t handle, void* data, int32_t size);

/* ---- Instruction counter ---------------------------------------------------------------------
 *
 *     const uint32_t begin = board_ticks();
 *     ...
 *     const uint32_t count = board_instructions(begin, board_ticks());
 *
 * QEMU has no model of cycles, but `-icount shift=6` ties time to instructions: each takes 2^6 ns.
 * Timer 0 of the board runs at 25 MHz, so an instruction is 1.6 ticks. A count is the same in every
 * run and includes the few instructions that pass arguments around; it wraps after 2.6e9. These are
 * instructions that were executed; how many cycles they take is another question.
 */

/* Rises by 1.6 with every instruction. */
uint32_t board_ticks(void);

/* Instructions between two calls of board_ticks, without those of the calls themselves. */
uint32_t board_instructions(uint32_t begin, uint32_t end);

/* ---- Stack ----------------------------------------------------------------------------------- */

/* The most bytes of stack in use at any time since reset. */
int32_t board_stack_used(void);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* TFMIX_FIRMWARE_BOARDS_MPS2_BOARD_H_ */
