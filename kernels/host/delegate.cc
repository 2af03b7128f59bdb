// The desktop delegate: lets the TensorFlow Lite interpreter run what tfmix.export writes.
//
//     tf.lite.Interpreter(path, experimental_delegates=[
//         tf.lite.experimental.load_delegate(tfmix.delegate_path())])
//
// Each operator TFMIX_... is replaced by itself, never several by one: so all tensors between them
// remain tensors of the interpreter, and can be read.
//
// A file can come from anywhere. All that a node says is checked before its kernel runs: the
// options when it is made (Call::Read), the tensors when memory is planned and, since another
// operator may resize what it writes, again before every run.
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <new>

#include "stream_kernels.h"
#include "tflite_abi.h"
#include "tfmix/kernels.h"
#include "tfmix/options.h"

namespace tfmix {
namespace {

using tflite::Context;
using tflite::Delegate;
using tflite::IntArray;
using tflite::Node;
using tflite::Registration;
using tflite::Status;
using tflite::Tensor;

constexpr char kPrefix[] = "TFMIX_";

// An array on the heap that does not grow. std::vector would add its own functions to those that
// the library exports.
template <typename T>
class Array {
 public:
  Array() = default;
  explicit Array(size_t size) : items_(new T[size]()), size_(size) {}
  explicit Array(const IntArray& other) : Array(static_cast<size_t>(other.size)) {
    for (size_t i = 0; i < size_; ++i) items_[i] = other.data[i];
  }

  size_t size() const { return size_; }
  T* data() { return items_.get(); }
  const T* data() const { return items_.get(); }
  T& operator[](size_t i) { return items_[i]; }
  const T& operator[](size_t i) const { return items_[i]; }

 private:
  std::unique_ptr<T[]> items_;
  size_t size_ = 0;
};

// ---- Kernels behind one signature ---------------------------------------------------------------

// What prepare says of the buffers. The operands are what the operator lists as its inputs, in that
// order: activations, then constants.
struct BufferSizes {
  Array<int32_t> operands;
  int32_t output;
  int32_t scratch;
};

using Operands = const uint8_t* const*;
using Words = Array<int32_t>;

// Reads parameters from options and has them checked. nullptr, or what is wrong.
using ReadFunction = const char* (*)(OptionsReader&, const tfmix_variant&, Words* params,
                                     BufferSizes*);
using RunFunction = void (*)(const Words& params, Operands, uint8_t* output, void* scratch);

// Reader<tfmix_<kernel>_prepare>::Read is a ReadFunction.
template <auto kPrepare>
struct Reader;

template <typename Params,
          tfmix_status (*kPrepare)(const Params*, const tfmix_variant*, tfmix_sizes*)>
struct Reader<kPrepare> {
  static const char* Read(OptionsReader& reader, const tfmix_variant& bits, Words* params,
                          BufferSizes* sizes) {
    *params = Words(sizeof(Params) / sizeof(int32_t));
    const OptionsStatus read = reader.Read(params->data(), params->size());
    if (read != OptionsStatus::kOk) return OptionsMessage(read);
    tfmix_sizes found;
    const auto* p = reinterpret_cast<const Params*>(params->data());
    const tfmix_status status = kPrepare(p, &bits, &found);
    if (status != TFMIX_OK) return tfmix_status_message(status);
    const int32_t second = found.constants != 0 ? found.constants : found.second_input;
    *sizes = {Array<int32_t>(second != 0 ? 2 : 1), found.output, found.scratch};
    sizes->operands[0] = found.input;
    if (second != 0) sizes->operands[1] = second;
    return nullptr;
  }
};

// The descriptions of the inputs follow the parameters, in the options as in `params`.
template <>
struct Reader<tfmix_concatenate_prepare> {
  static constexpr size_t kHead = sizeof(tfmix_concatenate_params) / sizeof(int32_t);
  static constexpr size_t kItem = sizeof(tfmix_concatenate_input) / sizeof(int32_t);

  static const tfmix_concatenate_params* Head(const Words& params) {
    return reinterpret_cast<const tfmix_concatenate_params*>(params.data());
  }
  static const tfmix_concatenate_input* Items(const Words& params) {
    return reinterpret_cast<const tfmix_concatenate_input*>(params.data() + kHead);
  }

  static const char* Read(OptionsReader& reader, const tfmix_variant& bits, Words* params,
                          BufferSizes* sizes) {
    tfmix_concatenate_params head;
    OptionsStatus read = reader.Read(&head);
    if (read != OptionsStatus::kOk) return OptionsMessage(read);
    const int32_t count = head.input_count;
    const size_t most = reader.left() / sizeof(tfmix_concatenate_input);
    if (count < 1 || static_cast<size_t>(count) > most) {
      return OptionsMessage(OptionsStatus::kTooShort);
    }
    *params = Words(kHead + kItem * count);
    std::memcpy(params->data(), &head, sizeof(head));
    read = reader.Read(params->data() + kHead, kItem * count);
    if (read != OptionsStatus::kOk) return OptionsMessage(read);
    tfmix_sizes found;
    sizes->operands = Array<int32_t>(count);
    const tfmix_status status = tfmix_concatenate_prepare(Head(*params), Items(*params), count,
                                                          &bits, sizes->operands.data(), &found);
    if (status != TFMIX_OK) return tfmix_status_message(status);
    sizes->output = found.output;
    sizes->scratch = found.scratch;
    return nullptr;
  }
};

// Runner<tfmix_<variant>>::Run is a RunFunction.
template <auto kKernel>
struct Runner;

template <typename Params, void (*kKernel)(const Params*, const uint8_t*, uint8_t*)>
struct Runner<kKernel> {
  static void Run(const Words& params, Operands operands, uint8_t* output, void*) {
    kKernel(reinterpret_cast<const Params*>(params.data()), operands[0], output);
  }
};

// add, multiply, and those with a table
template <typename Params, void (*kKernel)(const Params*, const uint8_t*, const uint8_t*, uint8_t*)>
struct Runner<kKernel> {
  static void Run(const Words& params, Operands operands, uint8_t* output, void*) {
    kKernel(reinterpret_cast<const Params*>(params.data()), operands[0], operands[1], output);
  }
};

template <typename Params,
          void (*kKernel)(const Params*, const uint8_t*, const uint8_t*, uint8_t*, void*)>
struct Runner<kKernel> {
  static void Run(const Words& params, Operands operands, uint8_t* output, void* scratch) {
    kKernel(reinterpret_cast<const Params*>(params.data()), operands[0], operands[1], output,
            scratch);
  }
};

template <void (*kKernel)(const tfmix_concatenate_params*, const tfmix_concatenate_input*, Operands,
                          uint8_t*)>
struct Runner<kKernel> {
  static void Run(const Words& params, Operands operands, uint8_t* output, void*) {
    using Concatenate = Reader<tfmix_concatenate_prepare>;
    kKernel(Concatenate::Head(params), Concatenate::Items(params), operands, output);
  }
};

// A chain of layers: `params` are layer_count, input_count and the layers.
struct Stream {
  static constexpr size_t kHead = 2;
  static constexpr size_t kLayer = sizeof(tfmix_stream_layer) / sizeof(int32_t);

  static tfmix_stream Of(const Words& params) {
    tfmix_stream stream = {};
    stream.layers = reinterpret_cast<const uint8_t*>(params.data() + kHead);
    stream.layer_count = params[0];
    stream.input_count = params[1];
    stream.kernels = tfmix_host_stream_kernels(&stream.kernel_count);
    return stream;
  }

  static const char* Read(OptionsReader& reader, const tfmix_variant&, Words* params,
                          BufferSizes* sizes) {
    int32_t counts[3];  // layers, inputs, rows of input 0 if they come one by one
    OptionsStatus read = reader.Read(counts, 3);
    if (read != OptionsStatus::kOk) return OptionsMessage(read);
    if (counts[0] < 1 || counts[0] > TFMIX_STREAM_MOST_LAYERS || counts[1] < 1 ||
        counts[1] > TFMIX_STREAM_MOST_INPUTS || counts[2] != 0) {
      return tfmix_status_message(TFMIX_BAD_CHAIN);
    }
    const size_t layers = static_cast<size_t>(counts[0]);
    *params = Words(kHead + layers * kLayer);
    std::memcpy(params->data(), counts, kHead * sizeof(int32_t));
    auto* records = reinterpret_cast<tfmix_stream_layer*>(params->data() + kHead);
    read = reader.Read(records, layers);
    if (read != OptionsStatus::kOk) return OptionsMessage(read);
    int32_t operands = counts[1];
    for (size_t i = 0; i < layers; ++i) {
      operands += records[i].kernel == TFMIX_STREAM_CONV2D ||
                  records[i].kernel == TFMIX_STREAM_DEPTHWISE_CONV2D;
    }
    sizes->operands = Array<int32_t>(static_cast<size_t>(operands));
    const tfmix_stream stream = Of(*params);
    tfmix_stream_sizes found;
    const tfmix_status status =
        tfmix_stream_prepare(&stream, sizes->operands.data(), operands, &found);
    if (status != TFMIX_OK) return tfmix_status_message(status);
    sizes->output = found.output;
    sizes->scratch = found.scratch;
    return nullptr;
  }

  static void Run(const Words& params, Operands operands, uint8_t* output, void* scratch) {
    const tfmix_stream stream = Of(params);
    tfmix_stream_run(&stream, operands, output, scratch);
  }
};

struct Variant {
  const char* op_name;
  tfmix_variant bits;
  ReadFunction read;
  RunFunction run;
};

#define TFMIX_CAPITALS_pc "PC"
#define TFMIX_CAPITALS_pl "PL"
#define TFMIX_IS_PC_pc 1
#define TFMIX_IS_PC_pl 0
#define TFMIX_FUNCTIONS_(kernel_, variant_) \
  Reader<tfmix_##kernel_##_prepare>::Read, Runner<tfmix_##kernel_##_##variant_>::Run
#define TFMIX_WEIGHTED_(NAME_, kernel_, a_, w_, o_, z_)             \
  {"TFMIX_" NAME_ "_A" #a_ "W" #w_ "O" #o_ "_" TFMIX_CAPITALS_##z_, \
   {a_, 0, w_, o_, TFMIX_IS_PC_##z_},                               \
   TFMIX_FUNCTIONS_(kernel_, a##a_##w##w_##o##o_##_##z_)},
#define TFMIX_CONV2D_(a_, w_, o_, z_) TFMIX_WEIGHTED_("CONV2D", conv2d, a_, w_, o_, z_)
#define TFMIX_DEPTHWISE_CONV2D_(a_, w_, o_, z_) \
  TFMIX_WEIGHTED_("DEPTHWISE_CONV2D", depthwise_conv2d, a_, w_, o_, z_)
#define TFMIX_FULLY_CONNECTED_(a_, w_, o_, z_) \
  TFMIX_WEIGHTED_("FULLY_CONNECTED", fully_connected, a_, w_, o_, z_)
#define TFMIX_ADD_(a_, b_, o_)        \
  {"TFMIX_ADD_A" #a_ "B" #b_ "O" #o_, \
   {a_, b_, 0, o_, 0},                \
   TFMIX_FUNCTIONS_(add, a##a_##b##b_##o##o_)},
#define TFMIX_MULTIPLY_(a_, b_, o_)        \
  {"TFMIX_MULTIPLY_A" #a_ "B" #b_ "O" #o_, \
   {a_, b_, 0, o_, 0},                     \
   TFMIX_FUNCTIONS_(multiply, a##a_##b##b_##o##o_)},
#define TFMIX_CONCATENATE_(o_) \
  {"TFMIX_CONCATENATE_O" #o_, {0, 0, 0, o_, 0}, TFMIX_FUNCTIONS_(concatenate, o##o_)},
#define TFMIX_UNARY_(NAME_, kernel_, a_, o_) \
  {"TFMIX_" NAME_ "_A" #a_ "O" #o_, {a_, 0, 0, o_, 0}, TFMIX_FUNCTIONS_(kernel_, a##a_##o##o_)},
#define TFMIX_REQUANTIZE_(a_, o_) TFMIX_UNARY_("REQUANTIZE", requantize, a_, o_)
#define TFMIX_LOOKUP_(a_, o_) TFMIX_UNARY_("LOOKUP", lookup, a_, o_)
#define TFMIX_AVERAGE_POOL_(a_, o_) TFMIX_UNARY_("AVERAGE_POOL", average_pool, a_, o_)
#define TFMIX_SOFTMAX_(a_, o_) TFMIX_UNARY_("SOFTMAX", softmax, a_, o_)
#define TFMIX_MAX_POOL_(a_) \
  {"TFMIX_MAX_POOL_A" #a_, {a_, 0, 0, 0, 0}, TFMIX_FUNCTIONS_(max_pool, a##a_)},
#define TFMIX_PAD_(a_) {"TFMIX_PAD_A" #a_, {a_, 0, 0, 0, 0}, TFMIX_FUNCTIONS_(pad, a##a_)},

constexpr Variant kVariants[] = {
    // clang-format off
    TFMIX_CONV2D_VARIANTS(TFMIX_CONV2D_)
    TFMIX_DEPTHWISE_CONV2D_VARIANTS(TFMIX_DEPTHWISE_CONV2D_)
    TFMIX_FULLY_CONNECTED_VARIANTS(TFMIX_FULLY_CONNECTED_)
    TFMIX_ADD_VARIANTS(TFMIX_ADD_)
    TFMIX_MULTIPLY_VARIANTS(TFMIX_MULTIPLY_)
    TFMIX_CONCATENATE_VARIANTS(TFMIX_CONCATENATE_)
    TFMIX_REQUANTIZE_VARIANTS(TFMIX_REQUANTIZE_)
    TFMIX_LOOKUP_VARIANTS(TFMIX_LOOKUP_)
    TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_AVERAGE_POOL_)
    TFMIX_MAX_POOL_VARIANTS(TFMIX_MAX_POOL_)
    TFMIX_PAD_VARIANTS(TFMIX_PAD_)
    TFMIX_SOFTMAX_VARIANTS(TFMIX_SOFTMAX_)
    {"TFMIX_STREAM", {}, Stream::Read, Stream::Run},
    // clang-format on
};

const Variant* FindVariant(const char* op_name) {
  for (const Variant& variant : kVariants) {
    if (std::strcmp(variant.op_name, op_name) == 0) return &variant;
  }
  return nullptr;
}

// ---- One operator -------------------------------------------------------------------------------

// An operator of the file, checked as far as it can be without its tensors.
class Call {
 public:
  // `node`: as the file has it. What is wrong with it is kept for Prepare to say.
  Call(const Variant& variant, const Node& node)
      : variant_(variant), operands_(*node.inputs), outputs_(*node.outputs) {
    problem_ = Read(node);
  }

  // Whether the tensors are what the kernel expects; sets scratch memory aside.
  Status Prepare(Context* context) {
    if (problem_ != nullptr) {
      context->ReportError(context, "tfmix: %s: %s", variant_.op_name, problem_);
      return tflite::kError;
    }
    const Status status = CheckTensors(context);
    if (status != tflite::kOk || scratch_ != nullptr || sizes_.scratch == 0) return status;
    scratch_.reset(new (std::nothrow) uint8_t[sizes_.scratch]);  // aligned for any type
    if (scratch_ != nullptr) return tflite::kOk;
    context->ReportError(context, "tfmix: %s: no memory for %d bytes of scratch", variant_.op_name,
                         sizes_.scratch);
    return tflite::kError;
  }

  Status Invoke(Context* context) {
    if (CheckTensors(context) != tflite::kOk) return tflite::kError;
    const Tensor& output = context->tensors[outputs_[0]];
    for (size_t i = 0; i < operands_.size(); ++i) {
      const Tensor& operand = context->tensors[operands_[i]];
      if (operand.data == nullptr || output.data == nullptr || Overlap(operand, output)) {
        context->ReportError(context, "tfmix: %s: tensor %d has no memory of its own",
                             variant_.op_name, operands_[i]);
        return tflite::kError;
      }
      addresses_[i] = static_cast<const uint8_t*>(operand.data);
    }
    variant_.run(params_, addresses_.data(), static_cast<uint8_t*>(output.data), scratch_.get());
    return tflite::kOk;
  }

 private:
  const char* Read(const Node& node) {
    if (node.custom_initial_data_size < 0) return OptionsMessage(OptionsStatus::kTooShort);
    OptionsReader reader;
    const OptionsStatus opened =
        reader.Open(node.custom_initial_data, static_cast<size_t>(node.custom_initial_data_size));
    if (opened != OptionsStatus::kOk) return OptionsMessage(opened);
    const char* problem = variant_.read(reader, variant_.bits, &params_, &sizes_);
    if (problem != nullptr) return problem;
    if (operands_.size() != sizes_.operands.size()) return "it has another number of inputs";
    if (outputs_.size() != 1) return "it has another number of outputs";
    addresses_ = Array<const uint8_t*>(operands_.size());
    return nullptr;
  }

  Status CheckTensors(Context* context) const {
    for (size_t i = 0; i < operands_.size(); ++i) {
      if (!CheckTensor(context, operands_[i], sizes_.operands[i])) return tflite::kError;
    }
    if (!CheckTensor(context, outputs_[0], sizes_.output)) return tflite::kError;
    if (context->tensors[outputs_[0]].allocation_type != tflite::kMmapRo) return tflite::kOk;
    context->ReportError(context, "tfmix: %s: its output is a constant", variant_.op_name);
    return tflite::kError;
  }

  bool CheckTensor(Context* context, int32_t index, int32_t expected_bytes) const {
    if (index < 0 || static_cast<size_t>(index) >= context->tensors_size) {
      context->ReportError(context, "tfmix: %s: there is no tensor %d", variant_.op_name, index);
      return false;
    }
    const Tensor& tensor = context->tensors[index];
    if (tensor.type == tflite::kUInt8 && tensor.bytes == static_cast<size_t>(expected_bytes)) {
      return true;
    }
    context->ReportError(context,
                         "tfmix: %s: tensor %d, '%s', has %zu bytes of TFLite type %d, %d bytes "
                         "of type %d (uint8) expected",
                         variant_.op_name, index, tensor.name != nullptr ? tensor.name : "",
                         tensor.bytes, tensor.type, expected_bytes, tflite::kUInt8);
    return false;
  }

  static bool Overlap(const Tensor& a, const Tensor& b) {
    const auto begin_a = reinterpret_cast<uintptr_t>(a.data);
    const auto begin_b = reinterpret_cast<uintptr_t>(b.data);
    return begin_a < begin_b + b.bytes && begin_b < begin_a + a.bytes;
  }

  const Variant& variant_;
  const Array<int32_t> operands_, outputs_;  // indices of tensors
  const char* problem_ = nullptr;
  Words params_;
  BufferSizes sizes_ = {};
  Array<const uint8_t*> addresses_;
  std::unique_ptr<uint8_t[]> scratch_;
};

// ---- What the interpreter calls -----------------------------------------------------------------

// The name of an operator of ours, nullptr for any other.
const char* OpName(const Registration& registration) {
  const char* name = registration.custom_name;
  const bool ours = registration.builtin_code == tflite::kBuiltinCustom && name != nullptr &&
                    std::strncmp(name, kPrefix, std::strlen(kPrefix)) == 0;
  return ours ? name : nullptr;
}

void* Init(Context* context, const char* buffer, size_t) {
  const auto& params = *reinterpret_cast<const tflite::DelegateParams*>(buffer);
  Node* node = nullptr;
  Registration* registration = nullptr;
  if (context->GetNodeAndRegistration(context, params.nodes_to_replace->data[0], &node,
                                      &registration) != tflite::kOk) {
    return nullptr;
  }
  return new Call(*FindVariant(OpName(*registration)), *node);  // both were there in Find
}

void Free(Context*, void* user_data) { delete static_cast<Call*>(user_data); }

Status Prepare(Context* context, Node* node) {
  if (node->user_data == nullptr) return tflite::kError;
  return static_cast<Call*>(node->user_data)->Prepare(context);
}

Status Invoke(Context* context, Node* node) {
  return static_cast<Call*>(node->user_data)->Invoke(context);
}

// Whether the tensors of a node look as tflite_abi.h says: small numbers where small numbers
// belong, and as many bytes as the shape has elements.
bool LayoutIsPlausible(const Context& context, const Node& node) {
  for (const IntArray* indices : {node.inputs, node.outputs}) {
    if (indices == nullptr || indices->size < 0) return false;
    for (int32_t i = 0; i < indices->size; ++i) {
      const int32_t index = indices->data[i];
      if (index < 0 || static_cast<size_t>(index) >= context.tensors_size) continue;
      const Tensor& tensor = context.tensors[index];
      if (static_cast<uint32_t>(tensor.type) > 100) return false;
      if (static_cast<uint32_t>(tensor.allocation_type) > 100) return false;
      if (tensor.type != tflite::kUInt8 || tensor.dims == nullptr) continue;
      if (static_cast<uint32_t>(tensor.dims->size) > 100) return false;
      size_t elements = 1;
      for (int32_t d = 0; d < tensor.dims->size; ++d) elements *= tensor.dims->data[d];
      if (tensor.bytes != 0 && tensor.bytes != elements) return false;
    }
  }
  return true;
}

// An operator of the file: of ours, unless `variant` is nullptr.
struct Found {
  int32_t index;
  const Variant* variant;
};

// Lists the operators. Ours must stand in an order in which they can run, each tensor
// written once and before it is read: interpreters take that for granted.
Status Find(Context* context, Array<Found>* result) {
  IntArray* plan = nullptr;
  if (context->GetExecutionPlan(context, &plan) != tflite::kOk) return tflite::kError;
  *result = Array<Found>(plan->size);
  Array<bool> read(context->tensors_size), written(context->tensors_size);
  for (int32_t i = 0; i < plan->size; ++i) {
    Node* node = nullptr;
    Registration* registration = nullptr;
    if (context->GetNodeAndRegistration(context, plan->data[i], &node, &registration) !=
        tflite::kOk) {
      return tflite::kError;
    }
    const char* name = OpName(*registration);
    if (name == nullptr) continue;
    const Variant* variant = FindVariant(name);
    if (variant == nullptr) {
      context->ReportError(context, "tfmix: there is no operator %s: update tfmix", name);
      return tflite::kError;
    }
    if (!LayoutIsPlausible(*context, *node)) {
      context->ReportError(context, "tfmix: this interpreter is not laid out as expected");
      return tflite::kError;
    }
    for (const IntArray* indices : {node->inputs, node->outputs}) {
      const bool writes = indices == node->outputs;
      for (int32_t k = 0; k < indices->size; ++k) {
        const int32_t tensor = indices->data[k];
        if (tensor < 0 || static_cast<size_t>(tensor) >= context->tensors_size) continue;
        if (writes && (read[tensor] || written[tensor])) {
          context->ReportError(context, "tfmix: %s writes tensor %d, which is in use already", name,
                               tensor);
          return tflite::kError;
        }
        (writes ? written : read)[tensor] = true;
      }
    }
    (*result)[i] = {plan->data[i], variant};
  }
  return tflite::kOk;
}

// Takes over every operator of ours.
Status Apply(Context* context, Delegate* delegate) {
  Array<Found> operators;
  if (Find(context, &operators) != tflite::kOk) return tflite::kError;
  for (size_t i = 0; i < operators.size(); ++i) {
    const Found& found = operators[i];
    if (found.variant == nullptr) continue;
    Registration registration = {};
    registration.init = Init;
    registration.free = Free;
    registration.prepare = Prepare;
    registration.invoke = Invoke;
    registration.custom_name = found.variant->op_name;
    registration.version = 1;
    const IntArray only = {1, {found.index}};
    if (context->ReplaceNodeSubsetsWithDelegateKernels(context, registration, &only, delegate) !=
        tflite::kOk) {
      return tflite::kError;
    }
  }
  return tflite::kOk;
}

}  // namespace
}  // namespace tfmix

// What load_delegate looks for in a library. There are no options.
extern "C" {

TFMIX_API tfmix::tflite::Delegate* tflite_plugin_create_delegate(const char* const* keys,
                                                                 const char* const* values,
                                                                 size_t count,
                                                                 void (*report_error)(const char*));
TFMIX_API void tflite_plugin_destroy_delegate(tfmix::tflite::Delegate* delegate);
}

tfmix::tflite::Delegate* tflite_plugin_create_delegate(const char* const*, const char* const*,
                                                       size_t count,
                                                       void (*report_error)(const char*)) {
  if (count != 0) {
    if (report_error != nullptr) report_error("tfmix: the delegate has no options");
    return nullptr;
  }
  auto* delegate = new tfmix::tflite::Delegate();
  delegate->Prepare = tfmix::Apply;
  delegate->flags = tfmix::tflite::kAllowDynamicTensors;
  return delegate;
}

void tflite_plugin_destroy_delegate(tfmix::tflite::Delegate* delegate) { delete delegate; }
