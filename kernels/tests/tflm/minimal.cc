// The smallest firmware with a model: to see what is linked. It is not run.
#include <cstddef>
#include <cstdint>

#include "model_ops.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {

alignas(16) uint8_t arena[model_ops::kArenaBytes];
const void* volatile model;  // a firmware has it in flash

}  // namespace

extern "C" void DebugLog(const char*, va_list) {}
extern "C" [[noreturn]] void abort() {
  for (;;) {
  }
}

int main() {
  tflite::MicroMutableOpResolver<model_ops::kCount> resolver;
  if (model_ops::AddTo(resolver) != kTfLiteOk) return 1;
  tflite::MicroInterpreter interpreter(tflite::GetModel(const_cast<const void*>(model)), resolver,
                                       arena, sizeof(arena));
  if (interpreter.AllocateTensors() != kTfLiteOk) return 1;
  return interpreter.Invoke();
}
