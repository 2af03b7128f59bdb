// A fuzz target: one node with any options and tensors through Init, Prepare and Eval.
//
// TFLM itself trusts the structure of a file: it follows offsets and indices without a look. What
// the bridge must stand is everything else, so this target makes up the node and the tensors and
// stands in for TFLM's interpreter. Each buffer has exactly the size that was promised and is a
// block of its own, so that the address sanitizer sees every byte read or written beyond.
//
//     clang++ -fsanitize=fuzzer,address,undefined ...        LLVMFuzzerTestOneInput
//
// tests/tflm_fuzzing.py builds it, makes seeds of valid nodes, and packs the corpus.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "../../tflm/bridge.h"
#include "op_table.h"
#include "tensorflow/lite/micro/compatibility.h"
#include "tfmix/options.h"

namespace tfmix::tflm_test {
namespace {

// No more than this in one buffer, and in steps of a kernel: a run should not take long.
constexpr int64_t kMaxBytes = 1 << 18;
constexpr int64_t kMaxSteps = 1 << 21;

using Buffer = std::vector<uint8_t>;

// Takes numbers from the input; zeros where it ends.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  template <typename Number>
  Number Take() {
    Number number = 0;
    const size_t size = sizeof(number) < size_ ? sizeof(number) : size_;
    if (size > 0) std::memcpy(&number, data_, size);
    data_ += size;
    size_ -= size;
    return number;
  }

  Buffer TakeBytes(size_t count) {
    if (count > size_) count = size_;
    Buffer bytes(data_, data_ + count);
    data_ += count;
    size_ -= count;
    return bytes;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

// ---- What the kernel wants ----------------------------------------------------------------------

struct Wanted {
  bool valid = false;
  std::vector<int32_t> inputs;
  size_t first_constant = SIZE_MAX;  // streams: `inputs` from here on are constants
  int32_t constants = 0;
  int32_t output = 0;
  double steps = 0;
};

template <typename Params>
double WindowSteps(const Params& p) {
  return 1.0 * p.output_height * p.output_width * p.output_channels * p.kernel_height *
         p.kernel_width;
}

template <typename Params, typename Prepare, typename Steps>
Wanted Ask(OptionsReader reader, const tfmix_variant& variant, Prepare prepare, Steps steps) {
  Params params;
  tfmix_sizes sizes;
  if (reader.Read(&params) != OptionsStatus::kOk ||
      prepare(&params, &variant, &sizes) != TFMIX_OK) {
    return {};
  }
  Wanted wanted;
  wanted.valid = true;
  wanted.inputs = {sizes.input};
  if (sizes.second_input > 0) wanted.inputs.push_back(sizes.second_input);
  wanted.constants = sizes.constants;
  wanted.output = sizes.output;
  wanted.steps = steps(params);
  return wanted;
}

Wanted AskConcatenate(OptionsReader reader, const tfmix_variant& variant, size_t count) {
  tfmix_concatenate_params params;
  std::vector<tfmix_concatenate_input> descriptions(count);
  tfmix_sizes sizes;
  Wanted wanted;
  wanted.inputs.resize(count);
  wanted.valid =
      reader.Read(&params) == OptionsStatus::kOk &&
      reader.Read(descriptions.data(), count) == OptionsStatus::kOk &&
      tfmix_concatenate_prepare(&params, descriptions.data(), static_cast<int32_t>(count), &variant,
                                wanted.inputs.data(), &sizes) == TFMIX_OK;
  if (wanted.valid) wanted.output = sizes.output;
  return wanted;
}

Wanted AskStream(OptionsReader reader, size_t operands) {
  Wanted wanted;
  tfmix_stream stream;
  if (tflm::ReadStream(&reader, &stream) != OptionsStatus::kOk) return wanted;
  stream.kernels = kStreamKernels;
  stream.kernel_count = sizeof(kStreamKernels) / sizeof(kStreamKernels[0]);
  wanted.inputs.resize(operands);
  tfmix_stream_sizes sizes;
  wanted.valid = stream.input_rows == 0 &&
                 tfmix_stream_prepare(&stream, wanted.inputs.data(), static_cast<int32_t>(operands),
                                      &sizes) == TFMIX_OK;
  if (!wanted.valid) return wanted;
  wanted.first_constant = static_cast<size_t>(stream.input_count);
  wanted.output = sizes.output;
  for (int32_t i = 0; i < stream.layer_count; ++i) {
    tfmix_stream_layer layer;
    std::memcpy(&layer, stream.layers + static_cast<size_t>(i) * sizeof(layer), sizeof(layer));
    wanted.steps += layer.rows;
    if (layer.kernel == TFMIX_STREAM_ADD || layer.kernel == TFMIX_STREAM_REQUANTIZE) continue;
    const tfmix_max_pool_params& p = layer.params.max_pool;  // all windows begin alike
    wanted.steps += WindowSteps(p) * (layer.kernel == TFMIX_STREAM_CONV2D ? p.input_channels : 1);
  }
  return wanted;
}

Wanted Ask(const Operator& op, const Buffer& options, size_t inputs) {
  OptionsReader reader;
  if (reader.Open(options.data(), options.size()) != OptionsStatus::kOk) return {};
  const auto none = [](const auto&) { return 0.0; };
  const auto window = [](const auto& p) { return WindowSteps(p); };
  const auto conv = [](const auto& p) { return WindowSteps(p) * p.input_channels; };
  const tfmix_variant& v = op.variant;
  switch (op.kernel) {
    case Kernel::kConv2d:
      return Ask<tfmix_conv_params>(reader, v, tfmix_conv2d_prepare, conv);
    case Kernel::kDepthwiseConv2d:
      return Ask<tfmix_conv_params>(reader, v, tfmix_depthwise_conv2d_prepare, window);
    case Kernel::kFullyConnected:
      return Ask<tfmix_fully_connected_params>(reader, v, tfmix_fully_connected_prepare, none);
    case Kernel::kAdd:
      return Ask<tfmix_add_params>(reader, v, tfmix_add_prepare, none);
    case Kernel::kMultiply:
      return Ask<tfmix_multiply_params>(reader, v, tfmix_multiply_prepare, none);
    case Kernel::kConcatenate:
      return AskConcatenate(reader, v, inputs);
    case Kernel::kRequantize:
      return Ask<tfmix_requantize_params>(reader, v, tfmix_requantize_prepare, none);
    case Kernel::kLookup:
      return Ask<tfmix_lookup_params>(reader, v, tfmix_lookup_prepare, none);
    case Kernel::kAveragePool:
      return Ask<tfmix_average_pool_params>(reader, v, tfmix_average_pool_prepare, window);
    case Kernel::kMaxPool:
      return Ask<tfmix_max_pool_params>(reader, v, tfmix_max_pool_prepare, window);
    case Kernel::kPad:
      return Ask<tfmix_pad_params>(reader, v, tfmix_pad_prepare, none);
    case Kernel::kSoftmax:
      return Ask<tfmix_softmax_params>(reader, v, tfmix_softmax_prepare, none);
    case Kernel::kStream:
      return AskStream(reader, inputs);
  }
  return {};
}

// ---- Tensors ------------------------------------------------------------------------------------

// TfLiteIntArray: a length, and as many numbers.
class IntArray {
 public:
  explicit IntArray(const std::vector<int32_t>& values) : words_(1 + values.size()) {
    words_[0] = static_cast<int32_t>(values.size());
    if (!values.empty()) std::memcpy(&words_[1], values.data(), 4 * values.size());
  }
  TfLiteIntArray* get() { return reinterpret_cast<TfLiteIntArray*>(words_.data()); }

 private:
  std::vector<int32_t> words_;
};

struct Tensor {
  TfLiteType type = kTfLiteUInt8;
  bool constant = false;
  std::unique_ptr<IntArray> shape;
  // A constant: its length, as flatbuffers have it, and its bytes. Otherwise the bytes.
  Buffer memory;
  TfLiteEvalTensor eval = {};

  uint8_t* data() { return memory.data() + (constant ? sizeof(uint32_t) : 0); }

  int64_t bytes() const {
    const TfLiteIntArray* dims = shape->get();
    int64_t product = 1;
    for (int i = 0; i < dims->size; ++i) {
      if (dims->data[i] < 1 || product > kMaxBytes) return -1;
      product *= dims->data[i];
    }
    return product <= kMaxBytes ? product : -1;
  }
};

// Anything at all, from a small generator.
void Fill(uint8_t* data, size_t size, uint32_t seed) {
  uint32_t state = seed | 1;
  for (size_t i = 0; i < size; ++i) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    data[i] = static_cast<uint8_t>(state);
  }
}

constexpr TfLiteType kTypes[] = {kTfLiteUInt8, kTfLiteInt8, kTfLiteFloat32, kTfLiteNoType};

// wanted: what it has to be, unless the input says otherwise.
Tensor TakeTensor(Input* input, int32_t wanted, bool wanted_constant) {
  Tensor tensor;
  const auto mode = input->Take<uint8_t>();
  const auto seed = input->Take<uint32_t>();
  std::vector<int32_t> shape = {1, wanted};
  tensor.constant = wanted_constant;
  int64_t stored = wanted;
  if (mode & 1) {
    tensor.type = kTypes[input->Take<uint8_t>() % 4];
    tensor.constant = input->Take<uint8_t>() & 1;
    shape.resize(input->Take<uint8_t>() % 5);
    for (int32_t& size : shape) size = input->Take<int32_t>();
    stored = input->Take<uint16_t>();
  }
  tensor.shape = std::make_unique<IntArray>(shape);
  if (tensor.constant) {
    if (stored < 0 || stored > kMaxBytes) stored = 0;
    const auto length = static_cast<uint32_t>(stored);
    tensor.memory.resize(sizeof(length) + length);
    std::memcpy(tensor.memory.data(), &length, sizeof(length));
    Fill(tensor.data(), length, seed);
  } else {
    const int64_t size = tensor.bytes();
    tensor.memory.resize(size < 0 ? 0 : static_cast<size_t>(size));
    Fill(tensor.memory.data(), tensor.memory.size(), seed);
  }
  return tensor;
}

// ---- TFLM ---------------------------------------------------------------------------------------

// Hands out blocks of exactly the size asked for.
class Context : public tflite::MicroContext {
 public:
  Context(std::vector<Tensor>* tensors, int allocations)
      : tensors_(*tensors), allocations_left_(allocations) {}

  void* AllocatePersistentBuffer(size_t bytes) override {
    if (allocations_left_-- == 0) return nullptr;
    blocks_.push_back(std::make_unique<Buffer>(bytes));
    return blocks_.back()->data();
  }
  TfLiteStatus RequestScratchBufferInArena(size_t bytes, int* index) override {
    *index = static_cast<int>(scratch_.size());
    scratch_.emplace_back(bytes <= static_cast<size_t>(kMaxBytes) * 8 ? bytes : 0);
    too_large_ = too_large_ || scratch_.back().size() != bytes;
    return kTfLiteOk;
  }
  void* GetScratchBuffer(int index) override {
    return scratch_.at(static_cast<size_t>(index)).data();
  }
  TfLiteTensor* AllocateTempTfLiteTensor(int index) override {
    if (index < 0) std::abort();
    Tensor& from = tensors_.at(static_cast<size_t>(index));
    auto* tensor = new TfLiteTensor{};
    tensor->type = from.type;
    tensor->dims = from.shape->get();
    tensor->allocation_type = from.constant ? kTfLiteMmapRo : kTfLiteArenaRw;
    tensor->data.data = from.constant ? from.data() : nullptr;
    ++temporaries_;
    return tensor;
  }
  void DeallocateTempTfLiteTensor(TfLiteTensor* tensor) override {
    delete tensor;
    --temporaries_;
  }
  uint8_t* AllocateTempBuffer(size_t, size_t) override { std::abort(); }
  void DeallocateTempBuffer(uint8_t*) override { std::abort(); }
  TfLiteEvalTensor* GetEvalTensor(int index) override {
    return &tensors_.at(static_cast<size_t>(index)).eval;
  }
  TfLiteStatus set_external_context(void*) override { return kTfLiteError; }
  void* external_context() override { return nullptr; }
  tflite::MicroGraph& graph() override { std::abort(); }

  bool too_large() const { return too_large_; }
  int temporaries() const { return temporaries_; }

 private:
  std::vector<Tensor>& tensors_;
  int allocations_left_;
  std::vector<std::unique_ptr<Buffer>> blocks_;
  std::vector<Buffer> scratch_;
  bool too_large_ = false;
  int temporaries_ = 0;

  TF_LITE_REMOVE_VIRTUAL_DELETE
};

// ---- A node -------------------------------------------------------------------------------------

// The order of what the input holds is also that of tests/tflm_fuzzing.py.
void RunNode(Input input) {
  static const Operator kStream = {Kernel::kStream, {}, Register_TFMIX_STREAM<kStreamKernels>};
  const int32_t number = input.Take<uint16_t>() % (kOperatorCount + 1);
  const Operator& op = number < kOperatorCount ? kOperators[number] : kStream;
  const size_t input_count = input.Take<uint8_t>() % 8;
  const size_t output_count = input.Take<uint8_t>() % 4;
  const auto oddities = input.Take<uint8_t>();
  const Buffer options = input.TakeBytes(input.Take<uint16_t>());

  const bool has_constants = op.kernel == Kernel::kConv2d ||
                             op.kernel == Kernel::kDepthwiseConv2d ||
                             op.kernel == Kernel::kFullyConnected || op.kernel == Kernel::kLookup ||
                             op.kernel == Kernel::kSoftmax;
  const Wanted wanted = Ask(op, options, input_count);
  std::vector<Tensor> tensors;
  std::vector<int32_t> inputs, outputs;
  for (size_t i = 0; i < input_count; ++i) {
    const bool constant = (has_constants && i == 1) || i >= wanted.first_constant;
    const int32_t size = has_constants && i == 1    ? wanted.constants
                         : i < wanted.inputs.size() ? wanted.inputs[i]
                                                    : 0;
    if (wanted.valid && size > kMaxBytes) return;
    inputs.push_back(static_cast<int32_t>(tensors.size()));
    tensors.push_back(TakeTensor(&input, size, constant));
  }
  if (wanted.valid && wanted.output > kMaxBytes) return;
  for (size_t i = 0; i < output_count; ++i) {
    outputs.push_back(static_cast<int32_t>(tensors.size()));
    tensors.push_back(TakeTensor(&input, wanted.output, false));
  }
  // Now and then: a tensor left out, twice the same, or the output over the input.
  if ((oddities & 1) && input_count > 0) inputs.back() = kTfLiteOptionalTensor;
  if ((oddities & 2) && input_count > 1) inputs[1] = inputs[0];
  if ((oddities & 4) && input_count > 0 && output_count > 0) outputs[0] = inputs[0];

  IntArray input_array(inputs), output_array(outputs);
  TfLiteNode node = {};
  node.inputs = oddities & 8 ? nullptr : input_array.get();
  node.outputs = oddities & 16 ? nullptr : output_array.get();
  Context micro_context(&tensors, oddities & 32 ? 0 : oddities & 64 ? 1 : -1);
  TfLiteContext context = {};
  context.impl_ = &micro_context;

  const TFLMRegistration* registration = op.registration();
  node.user_data = registration->init(
      &context, oddities & 128 ? nullptr : reinterpret_cast<const char*>(options.data()),
      options.size());
  const TfLiteStatus prepared = registration->prepare(&context, &node);
  if (micro_context.temporaries() != 0) std::abort();
  if (prepared != kTfLiteOk || micro_context.too_large() || wanted.steps > kMaxSteps) return;
  for (Tensor& tensor : tensors) {
    tensor.eval.type = tensor.type;
    tensor.eval.dims = tensor.shape->get();
    tensor.eval.data.data = tensor.data();
  }
  registration->invoke(&context, &node);
}

}  // namespace
}  // namespace tfmix::tflm_test

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tfmix::tflm_test::RunNode(tfmix::tflm_test::Input(data, size));
  return 0;
}

// What is refused says so a million times.
extern "C" void DebugLog(const char*, va_list) {}
