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
  }
  return "unknown status";
}
