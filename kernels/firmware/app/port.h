/* What the example needs of a board. cycles_dwt.c has the clock for a Cortex-M4 or M7; the rest is
 * a line of code on each board: a UART, SWO or semihosting. */
#ifndef TFMIX_FIRMWARE_APP_PORT_H_
#define TFMIX_FIRMWARE_APP_PORT_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Called once, ahead of everything else. */
void port_init(void);

void port_print(const char* text);

/* Cycles since port_init, or what the board counts instead; wraps. */
uint32_t port_cycles(void);

/* What port_cycles counts: "cycles". */
extern const char port_unit[];

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* TFMIX_FIRMWARE_APP_PORT_H_ */
