/* One inference of a network that tfmix.export_c has written, and what it costs. Prints
 *
 *     arena <bytes>
 *     init <cycles> cycles
 *     invoke <cycles> cycles
 *     stack <bytes>                      of init and invoke
 *     output <bytes in hexadecimal>
 *
 * Needs the kernels, network.c and a board; no interpreter and no heap. */
#include <stdint.h>

#include "network.h"
#include "port.h"
#include "print.h"
#include "stack.h"

/* In place of a camera or a microphone: numbers that a test can make too. */
static void fill(uint8_t* input) {
  for (int32_t i = 0; i < NETWORK_INPUT_BYTES; ++i) input[i] = (uint8_t)(31 * i + 7);
}

int main(void) {
  port_init();
  print_number("arena ", NETWORK_ARENA_BYTES, "\n");

  stack_paint();
  uint32_t begin = port_cycles();
  const tfmix_status status = network_init();
  print_number("init ", port_cycles() - begin, " ");
  port_print(port_unit);
  port_print("\n");
  if (status != TFMIX_OK) {
    port_print(tfmix_status_message(status));
    return 1;
  }

  fill(network_input());
  begin = port_cycles();
  network_invoke();
  print_number("invoke ", port_cycles() - begin, " ");
  port_print(port_unit);
  print_number("\nstack ", (uint32_t)stack_used(), "\n");
  print_bytes("output ", network_output(), NETWORK_OUTPUT_BYTES);
  return 0;
}
