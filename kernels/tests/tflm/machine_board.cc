#include <cerrno>
#include <cstdarg>
#include <cstddef>
#include <cstdio>

#include "board.h"
#include "machine.h"

namespace tfmix::tflm_test {
namespace {
int32_t file = -1;
bool muted = false;
}  // namespace

void Mute(bool mute) { muted = mute; }

void Write(const char* text) { board_write(text); }
void Write(int32_t value) { board_write_int(value); }

bool Open(const char* path) {
  file = board_open(path);
  return file >= 0;
}

int32_t Read(void* data, int32_t size) { return board_read(file, data, size); }

}  // namespace tfmix::tflm_test

extern "C" {

// TFLM's messages, beside the results.
void DebugLog(const char* format, va_list arguments) {
  if (tfmix::tflm_test::muted) return;
  char text[256];
  std::vsnprintf(text, sizeof(text), format, arguments);
  board_write(text);
}

// What the C library's printf and abort refer to, and nothing here uses.
void* _sbrk(ptrdiff_t) {
  errno = ENOMEM;
  return reinterpret_cast<void*>(-1);
}
int _write(int, const void*, int size) { return size; }
int _read(int, void*, int) { return 0; }
int _lseek(int, int, int) { return 0; }
int _close(int) { return -1; }
int _fstat(int, void*) { return -1; }
int _isatty(int) { return 1; }
int _getpid() { return 1; }
int _kill(int, int) { return -1; }
[[noreturn]] void _exit(int code) { board_exit(code); }
}
