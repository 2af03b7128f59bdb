#include "bridge.h"

#include <cstring>

namespace tfmix {
namespace tflm {
namespace {

// A tensor stored in the file begins behind its length: so has the format of flatbuffers it. TFLM
// believes a tensor's shape without comparing the two.
constexpr size_t kLengthSize = sizeof(uint32_t);

uint32_t StoredBytes(const void* data) {
  uint32_t length;
  std::memcpy(&length, static_cast<const uint8_t*>(data) - kLengthSize, sizeof(length));
  return length;
}

// Bytes of a tensor of bytes: the product of its dimensions, or -1 where it is not positive or too
// large. TFLM multiplies without looking at overflow.
int32_t ShapeBytes(const TfLiteIntArray* shape) {
  if (shape == nullptr) return -1;
  int64_t bytes = 1;
  for (int i = 0; i < shape->size; ++i) {
    bytes *= shape->data[i];
    if (bytes < 1 || bytes > INT32_MAX) return -1;
  }
  return static_cast<int32_t>(bytes);
}

bool Overlap(const uint8_t* a, int32_t a_bytes, const uint8_t* b, int32_t b_bytes) {
  const auto a_address = reinterpret_cast<uintptr_t>(a);
  const auto b_address = reinterpret_cast<uintptr_t>(b);
  return a_address < b_address ? b_address - a_address < static_cast<uintptr_t>(a_bytes)
                               : a_address - b_address < static_cast<uintptr_t>(b_bytes);
}

}  // namespace

void* Init(TfLiteContext* context, const char* options, size_t size) {
  void* memory = GetMicroContext(context)->AllocatePersistentBuffer(sizeof(OpData));
  if (memory == nullptr) return nullptr;
  auto* data = static_cast<OpData*>(memory);
  data->options = reinterpret_cast<const uint8_t*>(options);
  data->options_size = size;
  data->scratch = kNoScratch;
  data->list = nullptr;
  return data;
}

// ---- Prepare ------------------------------------------------------------------------------------

bool NodeCheck::Begin(int32_t inputs) {
  if (node_.user_data == nullptr) {
    TFMIX_REPORT("%s: the arena is too small", op_.name);
    return false;
  }
  const int input_count = node_.inputs == nullptr ? 0 : node_.inputs->size;
  const int output_count = node_.outputs == nullptr ? 0 : node_.outputs->size;
  if (input_count != inputs || output_count != 1) {
    TFMIX_REPORT("%s: %d inputs and %d outputs, %d and 1 expected", op_.name, input_count,
                 output_count, static_cast<int>(inputs));
    return false;
  }
  const OpData& data = DataOf(&node_);
  const OptionsStatus status = reader_.Open(data.options, data.options_size);
  return status == OptionsStatus::kOk || RefuseOptions(status);
}

bool NodeCheck::RefuseOptions(OptionsStatus status) {
  static_cast<void>(status);
  TFMIX_REPORT("%s: %s", op_.name, OptionsMessage(status));
  return false;
}

bool NodeCheck::Accepts(tfmix_status status) {
  if (status == TFMIX_OK) return true;
  TFMIX_REPORT("%s: %s", op_.name, tfmix_status_message(status));
  return false;
}

bool NodeCheck::Input(int32_t index, int32_t bytes) {
  return CheckTensor(context_.AllocateTempInputTensor(&node_, index), Role::kInput, index, bytes);
}

bool NodeCheck::Constants(int32_t index, int32_t bytes) {
  return CheckTensor(context_.AllocateTempInputTensor(&node_, index), Role::kConstants, index,
                     bytes);
}

bool NodeCheck::Output(int32_t bytes) {
  return CheckTensor(context_.AllocateTempOutputTensor(&node_, 0), Role::kOutput, 0, bytes);
}

bool NodeCheck::CheckTensor(TfLiteTensor* tensor, Role role, int32_t index, int32_t bytes) {
  if (tensor == nullptr) {
    TFMIX_REPORT("%s: %s %d is missing, or the arena is too small", op_.name,
                 role == Role::kOutput ? "output" : "input", static_cast<int>(index));
    return false;
  }
  const bool ok = IsTensor(*tensor, role, index, bytes);
  context_.DeallocateTempTfLiteTensor(tensor);
  return ok;
}

bool NodeCheck::IsTensor(const TfLiteTensor& tensor, Role role, int32_t index, int32_t bytes) {
  static_cast<void>(index);
  const char* what = role == Role::kOutput ? "output" : "input";
  static_cast<void>(what);
  if (tensor.type != kTfLiteUInt8) {
    TFMIX_REPORT("%s: %s %d has type %d, %d (uint8) expected", op_.name, what,
                 static_cast<int>(index), static_cast<int>(tensor.type),
                 static_cast<int>(kTfLiteUInt8));
    return false;
  }
  if (ShapeBytes(tensor.dims) != bytes) {
    TFMIX_REPORT("%s: %s %d has %d bytes, %d expected", op_.name, what, static_cast<int>(index),
                 static_cast<int>(ShapeBytes(tensor.dims)), static_cast<int>(bytes));
    return false;
  }
  if ((tensor.allocation_type == kTfLiteMmapRo) != (role == Role::kConstants)) {
    TFMIX_REPORT("%s: %s %d must %sbe a constant", op_.name, what, static_cast<int>(index),
                 role == Role::kConstants ? "" : "not ");
    return false;
  }
  if (role != Role::kConstants) return true;
  const uint32_t stored = StoredBytes(tensor.data.data);
  if (stored < static_cast<uint32_t>(bytes)) {
    TFMIX_REPORT("%s: input %d has %d bytes in the file, %d expected", op_.name,
                 static_cast<int>(index), static_cast<int>(stored), static_cast<int>(bytes));
    return false;
  }
  return true;
}

bool NodeCheck::Scratch(int32_t bytes) {
  if (bytes == 0) return true;
  int index = kNoScratch;
  if (context_.RequestScratchBufferInArena(static_cast<size_t>(bytes), &index) != kTfLiteOk) {
    TFMIX_REPORT("%s: no %d bytes of scratch memory", op_.name, static_cast<int>(bytes));
    return false;
  }
  DataOf(&node_).scratch = index;
  return true;
}

void* NodeCheck::Allocate(size_t bytes) {
  void* memory = context_.AllocatePersistentBuffer(bytes);
  if (memory == nullptr) TFMIX_REPORT("%s: the arena is too small", op_.name);
  return memory;
}

// ---- Eval ---------------------------------------------------------------------------------------

bool NodeBuffers::Apart(const char* name, int32_t inputs, int32_t first) const {
  static_cast<void>(name);
  const TfLiteEvalTensor* output = context_.GetEvalTensor(node_.outputs->data[0]);
  const int32_t output_bytes = ShapeBytes(output->dims);
  for (int32_t i = first; i < inputs; ++i) {
    const TfLiteEvalTensor* input = context_.GetEvalTensor(node_.inputs->data[i]);
    if (Overlap(output->data.uint8, output_bytes, input->data.uint8, ShapeBytes(input->dims))) {
      TFMIX_REPORT("%s: the file plans the output over input %d", name, static_cast<int>(i));
      return false;
    }
  }
  return true;
}

}  // namespace tflm
}  // namespace tfmix
