/* What the C library asks of a system when TensorFlow Lite Micro is linked. An STM32 project has
 * its syscalls.c and sysmem.c in place of this. */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "board.h"

#define ABORTED 98

void* _sbrk(ptrdiff_t size);

/* printf refers to a heap, which nothing here uses. */
void* _sbrk(ptrdiff_t size) {
  (void)size;
  errno = ENOMEM;
  return (void*)-1;
}

void abort(void) { board_exit(ABORTED); }

/* What assert calls; that of the C library prints by way of files. */
void __assert_func(const char* file, int line, const char* function, const char* condition) {
  (void)line;
  (void)function;
  board_write(file);
  board_write(": ");
  board_write(condition);
  board_exit(ABORTED);
}
