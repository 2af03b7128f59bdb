/* The example's board, where the board is QEMU: text goes to the terminal, and in place of cycles,
 * which QEMU has no model of, instructions are counted. */
#include "port.h"

#include "board.h"

static uint32_t begin;

const char port_unit[] = "instructions";

void port_init(void) { begin = board_ticks(); }

void port_print(const char* text) { board_write(text); }

uint32_t port_cycles(void) { return board_instructions(begin, board_ticks()); }
