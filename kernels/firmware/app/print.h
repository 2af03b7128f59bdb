/* Numbers and bytes by way of port_print, without the C library's printf. */
#ifndef TFMIX_FIRMWARE_APP_PRINT_H_
#define TFMIX_FIRMWARE_APP_PRINT_H_

#include <stdint.h>

#include "port.h"

static inline void print_number(const char* before, uint32_t value, const char* after) {
  char text[11];
  char* digit = text + sizeof(text);
  *--digit = '\0';
  do *--digit = (char)('0' + value % 10);
  while ((value /= 10) != 0);
  port_print(before);
  port_print(digit);
  port_print(after);
}

static inline void print_bytes(const char* before, const uint8_t* bytes, int32_t count) {
  static const char digits[] = "0123456789abcdef";
  port_print(before);
  for (int32_t i = 0; i < count; ++i) {
    const char text[] = {digits[bytes[i] >> 4], digits[bytes[i] & 15], '\0'};
    port_print(text);
  }
  port_print("\n");
}

#endif /* TFMIX_FIRMWARE_APP_PRINT_H_ */
