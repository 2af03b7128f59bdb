/* Runs the C network `network` (tfmix.export_c) on every image of the file inputs.bin and reports:
 *
 *     init <instructions>
 *     output <instructions> <bytes in hexadecimal>     for each image
 *     stack <bytes>
 *
 * The exit code is the status that network_init returns, or 100 where there is no inputs.bin.
 */
#include "board.h"
#include "network.h"

#define NO_INPUTS 100
#define BYTES_A_LINE 32

static void write_number(const char* what, uint32_t value) {
  board_write(what);
  board_write_int((int32_t)value);
}

static void write_bytes(const uint8_t* bytes, int32_t count) {
  static const char digits[] = "0123456789abcdef";
  char text[2 * BYTES_A_LINE + 1];
  while (count > 0) {
    const int32_t run = count < BYTES_A_LINE ? count : BYTES_A_LINE;
    for (int32_t i = 0; i < run; ++i) {
      text[2 * i] = digits[bytes[i] >> 4];
      text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * run] = '\0';
    board_write(text);
    bytes += run;
    count -= run;
  }
}

int main(void) {
  uint32_t begin = board_ticks();
  const tfmix_status status = network_init();
  write_number("init ", board_instructions(begin, board_ticks()));
  board_write("\n");
  if (status != TFMIX_OK) {
    board_write(tfmix_status_message(status));
    return (int)status;
  }
  const int32_t file = board_open("inputs.bin");
  if (file < 0) return NO_INPUTS;
  while (board_read(file, network_input(), NETWORK_INPUT_BYTES) == NETWORK_INPUT_BYTES) {
    begin = board_ticks();
    network_invoke();
    write_number("output ", board_instructions(begin, board_ticks()));
    board_write(" ");
    write_bytes(network_output(), NETWORK_OUTPUT_BYTES);
    board_write("\n");
  }
  write_number("stack ", (uint32_t)board_stack_used());
  board_write("\n");
  return 0;
}
