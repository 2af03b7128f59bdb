// Runs the models of the file models.bin, which tests/tflm/cases.py writes, in TensorFlow Lite
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
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"
#include "tfmix/tflm.h"

namespace tfmix::tflm_test {
namespace {

constexpr int32_t kModelSize = 3 << 19;
constexpr int32_t kArenaSize = 3 << 18;
constexpr int32_t kDataSize = 1 << 20;
constexpr int32_t kAlignment = 16;

alignas(kAlignment) uint8_t model_bytes[kModelSize];
alignas(kAlignment) uint8_t arena[kArenaSize];
uint8_t data[kDataSize];

// ---- The operators ------------------------------------------------------------------------------

constexpr unsigned kOps = 217;
using Resolver = tflite::MicroMutableOpResolver<kOps>;

// Every variant there is.
bool AddAll(Resolver* resolver) {
  bool ok = true;
#define TFMIX_ADD_NAMED_(name_) ok = ok && AddTFMIX_##name_(*resolver) == kTfLiteOk;
#define TFMIX_ADD_EXPANDED_(name_) TFMIX_ADD_NAMED_(name_)
#define TFMIX_ADD_WEIGHTED_(kernel_, a_, w_, o_, z_) \
  TFMIX_ADD_EXPANDED_(TFMIX_WEIGHTED_NAME_(kernel_, a_, w_, o_, TFMIX_CAPITAL_##z_##_))
#define TFMIX_ADD_CONV2D_(a_, w_, o_, z_) TFMIX_ADD_WEIGHTED_(CONV2D, a_, w_, o_, z_)
#define TFMIX_ADD_DEPTHWISE_(a_, w_, o_, z_) TFMIX_ADD_WEIGHTED_(DEPTHWISE_CONV2D, a_, w_, o_, z_)
#define TFMIX_ADD_FULLY_(a_, w_, o_, z_) TFMIX_ADD_WEIGHTED_(FULLY_CONNECTED, a_, w_, o_, z_)
#define TFMIX_ADD_ADD_(a_, b_, o_) TFMIX_ADD_NAMED_(ADD_A##a_##B##b_##O##o_)
#define TFMIX_ADD_CONCATENATE_(o_) TFMIX_ADD_NAMED_(CONCATENATE_O##o_)
#define TFMIX_ADD_REQUANTIZE_(a_, o_) TFMIX_ADD_NAMED_(REQUANTIZE_A##a_##O##o_)
#define TFMIX_ADD_AVERAGE_POOL_(a_, o_) TFMIX_ADD_NAMED_(AVERAGE_POOL_A##a_##O##o_)
#define TFMIX_ADD_MAX_POOL_(a_) TFMIX_ADD_NAMED_(MAX_POOL_A##a_)
#define TFMIX_ADD_PAD_(a_) TFMIX_ADD_NAMED_(PAD_A##a_)
#define TFMIX_ADD_SOFTMAX_(a_, o_) TFMIX_ADD_NAMED_(SOFTMAX_A##a_##O##o_)
  TFMIX_CONV2D_VARIANTS(TFMIX_ADD_CONV2D_)
  TFMIX_DEPTHWISE_CONV2D_VARIANTS(TFMIX_ADD_DEPTHWISE_)
  TFMIX_FULLY_CONNECTED_VARIANTS(TFMIX_ADD_FULLY_)
  TFMIX_ADD_VARIANTS(TFMIX_ADD_ADD_)
  TFMIX_CONCATENATE_VARIANTS(TFMIX_ADD_CONCATENATE_)
  TFMIX_REQUANTIZE_VARIANTS(TFMIX_ADD_REQUANTIZE_)
  TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_ADD_AVERAGE_POOL_)
  TFMIX_MAX_POOL_VARIANTS(TFMIX_ADD_MAX_POOL_)
  TFMIX_PAD_VARIANTS(TFMIX_ADD_PAD_)
  TFMIX_SOFTMAX_VARIANTS(TFMIX_ADD_SOFTMAX_)
  return ok;
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

// The smallest arena in which the model loads: `used` bytes, or somewhat more.
int32_t Needs(const Resolver& resolver, int32_t used) {
  int32_t size = (used + kAlignment - 1) / kAlignment * kAlignment;
  Mute(true);
  while (size < kArenaSize && !Loads(resolver, size)) size += kAlignment;
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
