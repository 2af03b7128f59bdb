/* Runs the C network `network` (tfmix.export_c) on every image of the file inputs.bin and reports:
 *
 *     init <instructions>
 *     layer <number> <instructions>                    for each layer, with profile.h
 *     output <instructions> <bytes in hexadecimal>     for each image
 *     stack <bytes>
 *
 * The exit code is the status that network_init returns, or 100 where there is no inputs.bin.
 */
#include "board.h"
#include "network.h"
#include "profile.h"

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

static uint32_t layer_begin;

void network_after_layer(int32_t layer) {
  const uint32_t count = board_instructions(layer_begin, board_ticks());
  write_number("layer ", (uint32_t)layer);
  write_number(" ", count);
  board_write("\n");
  layer_begin = board_ticks();
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
    begin = layer_begin = board_ticks();
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
