// One inference of an exported file in TensorFlow Lite Micro, and what it costs. Prints
//
//     init <cycles> cycles
//     arena <bytes in use> of <bytes>
//     invoke <cycles> cycles
//     output <bytes in hexadecimal>
//     stack <bytes>                      of all this
//
// Needs TFLM, the bridge, the kernels, model.S with the file, model_ops.h, which
// tfmix.export_resolver has written for it, and a board; no heap.
#include <cstdint>

#include "model_ops.h"
#include "port.h"
#include "print.h"
#include "stack.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

extern "C" const uint8_t model[];  // model.S

namespace {

alignas(16) uint8_t arena[model_ops::kArenaBytes];

// In place of a camera or a microphone: numbers that a test can make too.
void Fill(TfLiteTensor* input) {
  for (size_t i = 0; i < input->bytes; ++i) input->data.uint8[i] = static_cast<uint8_t>(31 * i + 7);
}

// Runs the model. nullptr, or what went wrong.
const char* Run() {
  uint32_t begin = port_cycles();
  tflite::MicroMutableOpResolver<model_ops::kCount> resolver;
  if (model_ops::AddTo(resolver) != kTfLiteOk) return "the resolver is full";
  tflite::MicroInterpreter interpreter(tflite::GetModel(model), resolver, arena, sizeof(arena));
  if (interpreter.AllocateTensors() != kTfLiteOk) return "the model is refused";
  print_number("init ", port_cycles() - begin, " ");
  port_print(port_unit);
  print_number("\narena ", interpreter.arena_used_bytes(), " of ");
  print_number("", sizeof(arena), "\n");

  Fill(interpreter.input(0));
  begin = port_cycles();
  if (interpreter.Invoke() != kTfLiteOk) return "the inference has failed";
  print_number("invoke ", port_cycles() - begin, " ");
  port_print(port_unit);
  const TfLiteTensor* output = interpreter.output(0);
  print_bytes("\noutput ", output->data.uint8, static_cast<int32_t>(output->bytes));
  return nullptr;
}

}  // namespace

int main() {
  port_init();
  stack_paint();
  const char* problem = Run();
  print_number("stack ", static_cast<uint32_t>(stack_used()), "\n");
  if (problem == nullptr) return 0;
  port_print(problem);
  port_print("\n");
  return 1;
}
