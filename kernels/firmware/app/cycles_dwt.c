/* The clock of port.h on a real Cortex-M4 or M7: CYCCNT of the Data Watchpoint and Trace unit,
 * which counts the cycles of the core. 2^32 cycles are 9 seconds at 480 MHz.
 *
 * Written without vendor headers. The addresses are those of the Armv7-M architecture. QEMU has no
 * such counter. */
#include <stdint.h>

#include "port.h"

static volatile uint32_t* reg(uint32_t address) { return (volatile uint32_t*)address; }

#define DEMCR 0xE000EDFCu
#define DEMCR_TRCENA (1u << 24)
#define DWT_CTRL 0xE0001000u
#define DWT_CTRL_CYCCNTENA 1u
#define DWT_CYCCNT 0xE0001004u
#define DWT_LAR 0xE0001FB0u /* a lock on the M7; nothing on the M4 */
#define DWT_LAR_KEY 0xC5ACCE55u

void port_init(void) {
  *reg(DEMCR) |= DEMCR_TRCENA;
  *reg(DWT_LAR) = DWT_LAR_KEY;
  *reg(DWT_CYCCNT) = 0;
  *reg(DWT_CTRL) |= DWT_CTRL_CYCCNTENA;
}

uint32_t port_cycles(void) { return *reg(DWT_CYCCNT); }

const char port_unit[] = "cycles";
