#include <cstdarg>
#include <cstdio>

#include "machine.h"

namespace tfmix::tflm_test {
namespace {
std::FILE* file = nullptr;
bool muted = false;
}  // namespace

void Mute(bool mute) { muted = mute; }

void Write(const char* text) { std::fputs(text, stdout); }
void Write(int32_t value) { std::printf("%d", static_cast<int>(value)); }

bool Open(const char* path) {
  file = std::fopen(path, "rb");
  return file != nullptr;
}

int32_t Read(void* data, int32_t size) {
  return static_cast<int32_t>(std::fread(data, 1, static_cast<size_t>(size), file));
}

}  // namespace tfmix::tflm_test

// TFLM's messages, beside the results.
extern "C" void DebugLog(const char* format, va_list arguments) {
  if (!tfmix::tflm_test::muted) std::vprintf(format, arguments);
}
