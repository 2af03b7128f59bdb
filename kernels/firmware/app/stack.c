/* Paints memory below the stack pointer and looks later how far the paint has been overwritten. */
#include "stack.h"

#include <stdint.h>

#define PAINT 0xDEADBEEFu
#define WORDS (STACK_PAINT_BYTES / 4)

static volatile uint32_t* top;

static volatile uint32_t* stack_pointer(void) {
  volatile uint32_t* pointer;
  __asm volatile("mov %0, sp" : "=r"(pointer));
  return pointer;
}

/* No variable of this function may lie in what it paints, and it calls nothing: so it stays clear
 * of the stack pointer by what an interrupt could push there without harm. */
__attribute__((noinline)) void stack_paint(void) {
  top = stack_pointer();
  for (int32_t i = 1; i <= WORDS; ++i) top[-i] = PAINT;
}

__attribute__((noinline)) int32_t stack_used(void) {
  int32_t words = WORDS;
  while (words > 0 && top[-words] == PAINT) --words;
  return 4 * words;
}
