#include "tfmix/kernels.h"

const char* tfmix_status_message(tfmix_status status) {
  switch (status) {
    case TFMIX_OK:
      return "ok";
    case TFMIX_BAD_BITS:
      return "there is no variant with these bit-widths";
    case TFMIX_BAD_SHAPE:
      return "a size is not positive, or sizes contradict each other";
    case TFMIX_BAD_WINDOW:
      return "an output has a window without any element of the image";
    case TFMIX_BAD_ZERO_POINT:
      return "a zero point is outside the range of its tensor";
    case TFMIX_BAD_RESCALE:
      return "a multiplier, the number of multipliers or a shift is outside its range";
    case TFMIX_TOO_LARGE:
      return "a tensor, a buffer or an accumulator is too large";
    case TFMIX_NO_KERNEL:
      return "a layer's kernel is not among those that are linked";
    case TFMIX_BAD_CHAIN:
      return "layers do not make a chain that can run row by row";
    case TFMIX_BAD_ROWS:
      return "another number of rows has to be kept of a tensor within a chain";
  }
  return "unknown status";
}
