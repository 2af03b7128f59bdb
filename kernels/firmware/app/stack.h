/* How much stack a call needs, on any Cortex-M:
 *
 *     stack_paint();
 *     network_invoke();
 *     stack_used();     bytes below the caller's frame, interrupts in between included
 */
#ifndef TFMIX_FIRMWARE_APP_STACK_H_
#define TFMIX_FIRMWARE_APP_STACK_H_

#include <stdint.h>

/* So much is painted; the stack must have it to spare. */
#ifndef STACK_PAINT_BYTES
#define STACK_PAINT_BYTES 2048
#endif

#ifdef __cplusplus
extern "C" {
#endif

void stack_paint(void);

/* STACK_PAINT_BYTES says: so much or more. */
int32_t stack_used(void);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* TFMIX_FIRMWARE_APP_STACK_H_ */
