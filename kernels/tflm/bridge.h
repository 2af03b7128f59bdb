// From a node of TensorFlow Lite Micro to a kernel of the C API: what all operators share.
//
// A model file may be damaged or hostile, and a kernel trusts its caller. So Prepare checks all
// that a file says: the custom options, the number, type and size of every tensor against the exact
// sizes that the kernel's prepare function wants, and that constants are constants that lie whole
// in the file. Eval is left with what only the memory plan decides.
//
// Per node the arena holds an OpData and nothing else (concatenate: and a list): the parameters
// stay in the file, and Eval copies them to the stack, a matter of a hundred cycles.
#ifndef TFMIX_TFLM_BRIDGE_H_
#define TFMIX_TFLM_BRIDGE_H_

#include <cstddef>
#include <cstdint>

#include "tfmix/kernels.h"
#include "tfmix/options.h"
#include "tfmix/stream.h"
#include "tfmix/tflm_compat.h"

// Says why a model is refused. Not only the text goes where TFLM strips its own, but also the calls
// among the arguments.
#ifdef TF_LITE_STRIP_ERROR_STRINGS
#define TFMIX_REPORT(...) \
  do {                    \
  } while (false)
#else
#define TFMIX_REPORT(...) MicroPrintf(__VA_ARGS__)
#endif

namespace tfmix {
namespace tflm {

// What distinguishes the operators of one kernel.
struct Op {
  const char* name;
  tfmix_variant variant;
};

// Lives as long as the interpreter.
struct OpData {
  const uint8_t* options;  // the custom options, which stay where they are in the file
  size_t options_size;
  int32_t scratch;  // TFLM's index of the scratch buffer, or kNoScratch
  union {
    void* list;        // concatenate
    int32_t distance;  // streams: from the output to input 0, where they overlap
  };
};

constexpr int32_t kNoScratch = -1;

// TFLMRegistration::init of all operators. It has no way to fail: Prepare finds out.
void* Init(TfLiteContext* context, const char* options, size_t size);

// What the options of TFMIX_STREAM say; the kernels are for the caller to add.
OptionsStatus ReadStream(OptionsReader* reader, tfmix_stream* stream);

// The data of a node that Prepare has accepted.
inline OpData& DataOf(const TfLiteNode* node) { return *static_cast<OpData*>(node->user_data); }

// ---- Prepare ------------------------------------------------------------------------------------

// Checks one node, question by question. Each answer is false where the node must be refused, and
// then the reason has been reported.
class NodeCheck {
 public:
  NodeCheck(TfLiteContext* context, TfLiteNode* node, const Op& op)
      : context_(*GetMicroContext(context)), node_(*node), op_(op) {}

  // The node has `inputs` inputs, constants included, and one output; its options have a header.
  bool Begin(int32_t inputs);

  // The next parameters in the options.
  template <typename Params>
  bool Read(Params* params, size_t count = 1) {
    const OptionsStatus status = reader_.Read(params, count);
    return status == OptionsStatus::kOk || RefuseOptions(status);
  }

  // The same for the records of a stream, which stay where they are.
  bool ReadStream(tfmix_stream* stream) {
    const OptionsStatus status = tflm::ReadStream(&reader_, stream);
    return status == OptionsStatus::kOk || RefuseOptions(status);
  }

  // What a kernel's prepare function has found.
  bool Accepts(tfmix_status status);

  // A tensor of exactly `bytes` bytes: written by this or another node, or stored in the file.
  bool Input(int32_t index, int32_t bytes);
  bool Constants(int32_t index, int32_t bytes);
  bool Output(int32_t bytes);

  // Asks TFLM for scratch memory. None where `bytes` is 0.
  bool Scratch(int32_t bytes);

  // Memory that stays; nullptr where there is none left, which has been reported.
  void* Allocate(size_t bytes);

  int32_t input_count() const { return node_.inputs->size; }

 private:
  enum class Role { kInput, kConstants, kOutput };

  bool CheckTensor(TfLiteTensor* tensor, Role role, int32_t index, int32_t bytes);
  bool IsTensor(const TfLiteTensor& tensor, Role role, int32_t index, int32_t bytes);
  bool RefuseOptions(OptionsStatus status);

  MicroContext& context_;
  TfLiteNode& node_;
  const Op& op_;
  OptionsReader reader_;
};

// A kernel whose prepare function takes its parameters and the variant. `constants`: whether its
// last input are constants.
template <typename Params>
using PrepareFunction = tfmix_status (*)(const Params*, const tfmix_variant*, tfmix_sizes*);

template <typename Params>
TfLiteStatus Prepare(TfLiteContext* context, TfLiteNode* node, const Op& op,
                     PrepareFunction<Params> prepare, bool constants) {
  NodeCheck check(context, node, op);
  Params params;
  tfmix_sizes sizes;
  const bool ok = check.Begin(constants ? 2 : 1) && check.Read(&params) &&
                  check.Accepts(prepare(&params, &op.variant, &sizes)) &&
                  check.Input(0, sizes.input) &&
                  (!constants || check.Constants(1, sizes.constants)) &&
                  check.Output(sizes.output) && check.Scratch(sizes.scratch);
  return ok ? kTfLiteOk : kTfLiteError;
}

// ---- Eval ---------------------------------------------------------------------------------------

// The buffers of a node while it runs.
class NodeBuffers {
 public:
  NodeBuffers(TfLiteContext* context, TfLiteNode* node)
      : context_(*GetMicroContext(context)), node_(*node) {}

  // The parameters that Prepare has accepted.
  template <typename Params>
  Params Read() const {
    const OpData& data = DataOf(&node_);
    OptionsReader reader;
    Params params{};
    if (reader.Open(data.options, data.options_size) == OptionsStatus::kOk) reader.Read(&params);
    return params;
  }

  const uint8_t* Input(int32_t index) const { return Data(node_.inputs->data[index]); }
  uint8_t* Output() const { return Data(node_.outputs->data[0]); }
  void* Scratch() const {
    const int32_t index = DataOf(&node_).scratch;
    return index == kNoScratch ? nullptr : context_.GetScratchBuffer(index);
  }

  // Kernels must not write what they read. The plan of the arena comes from the file, and no
  // one but the bridge looks at it: true if the output is apart from the inputs `first` to
  // `inputs` - 1.
  bool Apart(const char* name, int32_t inputs, int32_t first = 0) const;

 private:
  uint8_t* Data(int32_t tensor) const { return context_.GetEvalTensor(tensor)->data.uint8; }

  MicroContext& context_;
  const TfLiteNode& node_;
};

// A kernel with weights and scratch memory.
template <typename Params>
using WeightedKernel = void (*)(const Params*, const uint8_t* input, const uint8_t* constants,
                                uint8_t* output, void* scratch);

template <typename Params>
TfLiteStatus EvalWeighted(TfLiteContext* context, TfLiteNode* node, const Op& op,
                          WeightedKernel<Params> kernel) {
  const NodeBuffers buffers(context, node);
  if (!buffers.Apart(op.name, 1)) return kTfLiteError;
  const Params params = buffers.Read<Params>();
  kernel(&params, buffers.Input(0), buffers.Input(1), buffers.Output(), buffers.Scratch());
  return kTfLiteOk;
}

// A kernel that reads nothing but its input.
template <typename Params>
using UnaryKernel = void (*)(const Params*, const uint8_t* input, uint8_t* output);

template <typename Params>
TfLiteStatus EvalUnary(TfLiteContext* context, TfLiteNode* node, const Op& op,
                       UnaryKernel<Params> kernel) {
  const NodeBuffers buffers(context, node);
  if (!buffers.Apart(op.name, 1)) return kTfLiteError;
  const Params params = buffers.Read<Params>();
  kernel(&params, buffers.Input(0), buffers.Output());
  return kTfLiteOk;
}

}  // namespace tflm
}  // namespace tfmix

// ---- Registration -------------------------------------------------------------------------------

// Defines Register_TFMIX_<name_>. prepare_ is a function of (context, node, op), eval_ of (context,
// node, op, kernel_), and kernel_ is of the C API. The rest are the bits, as in tfmix_variant. All
// of it is constant data: nothing runs before main, and the linker drops what is not registered.
#define TFMIX_DEFINE_OP_(name_, prepare_, eval_, kernel_, ...)                          \
  namespace {                                                                           \
  constexpr tflm::Op kOp_##name_ = {"TFMIX_" #name_, {__VA_ARGS__}};                    \
  TfLiteStatus Prepare_##name_(TfLiteContext* context, TfLiteNode* node) {              \
    return prepare_(context, node, kOp_##name_);                                        \
  }                                                                                     \
  TfLiteStatus Eval_##name_(TfLiteContext* context, TfLiteNode* node) {                 \
    return eval_(context, node, kOp_##name_, kernel_);                                  \
  }                                                                                     \
  constexpr TFLMRegistration kRegistration_##name_ = {                                  \
      tflm::Init, nullptr, Prepare_##name_, Eval_##name_, nullptr, 0, "TFMIX_" #name_}; \
  }                                                                                     \
  const TFLMRegistration* Register_TFMIX_##name_() { return &kRegistration_##name_; }

// For names that are macros still to be expanded.
#define TFMIX_DEFINE_NAMED_OP_(name_, ...) TFMIX_DEFINE_OP_(name_, __VA_ARGS__)

#define TFMIX_PER_CHANNEL_pc_ 1
#define TFMIX_PER_CHANNEL_pl_ 0

// kernel_, capitals_: name of the kernel in small letters and in capitals.
#define TFMIX_DEFINE_WEIGHTED_OP_(prepare_, kernel_, capitals_, a_, w_, o_, z_)              \
  TFMIX_DEFINE_NAMED_OP_(TFMIX_WEIGHTED_NAME_(capitals_, a_, w_, o_, TFMIX_CAPITAL_##z_##_), \
                         prepare_, tflm::EvalWeighted,                                       \
                         tfmix_##kernel_##_a##a_##w##w_##o##o_##_##z_, a_, 0, w_, o_,        \
                         TFMIX_PER_CHANNEL_##z_##_)

#endif  // TFMIX_TFLM_BRIDGE_H_
