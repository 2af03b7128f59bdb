// Runs the models of the file models.bin, which tests/tflm_cases.py writes, in TensorFlow Lite
// Micro and compares every byte of output. Prints a line for each:
//
//     case <name> arena <bytes in use> needs <bytes> ok
//     case <name> refused
//     case <name> differs
//
// "needs" is the smallest arena in which the model loads, to 16 bytes: while it loads TFLM has use
// for more than afterwards. What TFLM and the bridge have to say stands before the line.
#include <cstdint>
#include <cstring>

#include "machine.h"
#include "op_table.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace tfmix::tflm_test {
namespace {

constexpr int32_t kModelSize = 9 << 18;
constexpr int32_t kArenaSize = 3 << 18;
constexpr int32_t kDataSize = 1 << 19;
constexpr int32_t kAlignment = 16;
// More than TFLM needs while it loads one of the models, beyond what it needs afterwards.
constexpr int32_t kLoading = 4096;

alignas(kAlignment) uint8_t model_bytes[kModelSize];
alignas(kAlignment) uint8_t arena[kArenaSize];
uint8_t data[kDataSize];

// ---- The operators ------------------------------------------------------------------------------

using Resolver = tflite::MicroMutableOpResolver<kOperatorCount + 1>;

// Every variant there is.
bool AddAll(Resolver* resolver) {
  for (const Operator& op : kOperators) {
    const TFLMRegistration* registration = op.registration();
    if (resolver->AddCustom(registration->custom_name, registration) != kTfLiteOk) return false;
  }
  return AddTFMIX_STREAM<kStreamKernels>(*resolver) == kTfLiteOk;
}

// ---- The file -----------------------------------------------------------------------------------

// A model, and `runs` times its inputs and the output that must come out. The integers and the name
// are as in the file.
struct Case {
  char name[64];
  int32_t model_size;
  int32_t runs;
  int32_t input_size;  // of all inputs together
  int32_t output_size;
};

bool ReadWhole(void* destination, int32_t size, int32_t capacity) {
  return size >= 0 && size <= capacity && Read(destination, size) == size;
}

// ---- A case -------------------------------------------------------------------------------------

enum class Result { kOk, kRefused, kDiffers };

Result Run(const Case& c, const Resolver& resolver, int32_t* arena_used) {
  tflite::MicroInterpreter interpreter(tflite::GetModel(model_bytes), resolver, arena, kArenaSize);
  if (interpreter.AllocateTensors() != kTfLiteOk) return Result::kRefused;
  *arena_used = static_cast<int32_t>(interpreter.arena_used_bytes());
  const uint8_t* next = data;
  for (int32_t run = 0; run < c.runs; ++run) {
    for (size_t i = 0; i < interpreter.inputs_size(); ++i) {
      TfLiteTensor* input = interpreter.input(i);
      std::memcpy(input->data.uint8, next, input->bytes);
      next += input->bytes;
    }
    if (interpreter.Invoke() != kTfLiteOk) return Result::kRefused;
    const TfLiteTensor* output = interpreter.output(0);
    if (output->bytes != static_cast<size_t>(c.output_size) ||
        std::memcmp(output->data.uint8, next, output->bytes) != 0) {
      return Result::kDiffers;
    }
    next += c.output_size;
  }
  return Result::kOk;
}

bool Loads(const Resolver& resolver, int32_t arena_size) {
  tflite::MicroInterpreter interpreter(tflite::GetModel(model_bytes), resolver, arena,
                                       static_cast<size_t>(arena_size));
  return interpreter.AllocateTensors() == kTfLiteOk;
}

// The smallest arena in which the model loads: `used` bytes, or somewhat more. From above, since
// TFLM reports an arena that is a little too small, but may crash in one that is much too small.
int32_t Needs(const Resolver& resolver, int32_t used) {
  const int32_t least = (used + kAlignment - 1) / kAlignment * kAlignment;
  int32_t size = least + kLoading;
  Mute(true);
  while (size > least && Loads(resolver, size - kAlignment)) size -= kAlignment;
  Mute(false);
  return size;
}

void Report(const Case& c, const Resolver& resolver) {
  int32_t used = 0;
  const Result result = Run(c, resolver, &used);
  if (result != Result::kOk) Write("\n");
  Write("case ");
  Write(c.name);
  if (result == Result::kOk) {
    Write(" arena ");
    Write(used);
    Write(" needs ");
    Write(Needs(resolver, used));
    Write(" ok\n");
  } else {
    Write(result == Result::kRefused ? " refused\n" : " differs\n");
  }
}

int Main() {
  Resolver resolver;  // a global would need a constructor before main
  if (!AddAll(&resolver) || !Open("models.bin")) return 1;
  Case c;
  while (Read(&c, sizeof(c)) == static_cast<int32_t>(sizeof(c))) {
    const int32_t data_size = c.runs * (c.input_size + c.output_size);
    if (!ReadWhole(model_bytes, c.model_size, kModelSize) ||
        !ReadWhole(data, data_size, kDataSize)) {
      Write("a case is too large\n");
      return 1;
    }
    Report(c, resolver);
  }
  Write("end\n");
  return 0;
}

}  // namespace
}  // namespace tfmix::tflm_test

int main() { return tfmix::tflm_test::Main(); }
