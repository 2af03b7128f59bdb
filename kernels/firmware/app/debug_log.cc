// Where TensorFlow Lite Micro says why it refuses a model, in place of the debug_log.cc of its own,
// which writes to stderr. A TFLM that is built with TF_LITE_STRIP_ERROR_STRINGS says nothing and
// needs no printf; then leave this file out.
#include <cstdarg>
#include <cstddef>
#include <cstdio>

#include "port.h"

extern "C" {

int DebugVsnprintf(char* text, size_t size, const char* format, va_list arguments);
void DebugLog(const char* format, va_list arguments);

int DebugVsnprintf(char* text, size_t size, const char* format, va_list arguments) {
  return std::vsnprintf(text, size, format, arguments);
}

void DebugLog(const char* format, va_list arguments) {
  char text[160];
  DebugVsnprintf(text, sizeof(text), format, arguments);
  port_print(text);
}
}
