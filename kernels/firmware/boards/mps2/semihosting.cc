// Semihosting: a breakpoint with the number 0xAB asks the debugger, here QEMU, for a service of the
// machine it runs on. r0 holds the operation, r1 its argument; the answer comes back in r0.
#include <stdint.h>
#include <string.h>

#include "board.h"

namespace {

enum Operation : uint32_t {
  kOpen = 0x01,
  kWrite0 = 0x04,
  kRead = 0x06,
  kExitExtended = 0x20,
};

constexpr uint32_t kApplicationExit = 0x20026;
constexpr uint32_t kModeReadBinary = 1;

uint32_t Word(const void* address) { return reinterpret_cast<uint32_t>(address); }

int32_t Call(Operation operation, const void* argument) {
  register uint32_t r0 __asm("r0") = operation;
  register const void* r1 __asm("r1") = argument;
  __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
  return static_cast<int32_t>(r0);
}

}  // namespace

void board_write(const char* text) { Call(kWrite0, text); }

void board_write_int(int32_t value) {
  char text[12];
  char* digit = text + sizeof(text);
  *--digit = '\0';
  uint32_t rest = value < 0 ? 0u - static_cast<uint32_t>(value) : static_cast<uint32_t>(value);
  do *--digit = static_cast<char>('0' + rest % 10);
  while ((rest /= 10) != 0);
  if (value < 0) *--digit = '-';
  board_write(digit);
}

void board_write_hex(uint32_t value) {
  char text[11] = "0x";
  for (int i = 0; i < 8; ++i) text[2 + i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15];
  text[10] = '\0';
  board_write(text);
}

void board_exit(int32_t code) {
  const uint32_t arguments[] = {kApplicationExit, static_cast<uint32_t>(code)};
  for (;;) Call(kExitExtended, arguments);
}

int32_t board_open(const char* path) {
  const uint32_t arguments[] = {Word(path), kModeReadBinary, strlen(path)};
  return Call(kOpen, arguments);
}

int32_t board_read(int32_t handle, void* data, int32_t size) {
  const uint32_t arguments[] = {static_cast<uint32_t>(handle), Word(data),
                                static_cast<uint32_t>(size)};
  // The answer is the number of bytes that were not read.
  return size - Call(kRead, arguments);
}
