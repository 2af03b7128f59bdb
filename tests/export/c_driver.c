/* Runs the C network `model` on images: uint8 from stdin, outputs to stdout.
 *
 * The arena is full of rubbish before each image, and guards lie on both sides of it.
 *
 * Exit code: 0; 1 where init returns something else than TFMIX_OK, which is printed; 2 where a
 * guard was overwritten.
 */
#include <stdio.h>
#include <string.h>

#include "model.h"

#define GUARD 64
#define FILL 0xa5

/* Guard, arena, guard: model_arena (MODEL_USER_ARENA) is an address in the middle of this. */
uint8_t guarded[GUARD + MODEL_ARENA_BYTES + GUARD] __attribute__((aligned(GUARD)));
__asm__(".globl model_arena\n.set model_arena, guarded + 64\n");

static int broken(const uint8_t* guard) {
  for (int i = 0; i < GUARD; ++i) {
    if (guard[i] != FILL) return 1;
  }
  return 0;
}

int main(void) {
#ifdef MODEL_INPUT_ROWS
  static uint8_t image[MODEL_INPUT_ROWS][MODEL_INPUT_ROW_BYTES];
#else
  static uint8_t image[MODEL_INPUT_BYTES];
#endif
  memset(guarded, FILL, sizeof(guarded));
  const tfmix_status status = model_init();
  if (status != TFMIX_OK) {
    puts(tfmix_status_message(status));
    return 1;
  }
  while (fread(image, 1, sizeof(image), stdin) == sizeof(image)) {
    memset(model_arena, FILL, MODEL_ARENA_BYTES);
#ifdef MODEL_INPUT_ROWS
    model_begin();
    for (int i = 0; i < MODEL_INPUT_ROWS; ++i) {
      model_feed_row(image[i]);
      memset(image[i], FILL, sizeof(image[i]));
    }
#else
    memcpy(model_input(), image, sizeof(image));
#endif
    model_invoke();
    fwrite(model_output(), 1, MODEL_OUTPUT_BYTES, stdout);
  }
  return broken(guarded) || broken(guarded + GUARD + MODEL_ARENA_BYTES) ? 2 : 0;
}
