// concatenate. Inputs: any number of x.
#include "bridge.h"
#include "tfmix/tflm.h"

namespace tfmix {
namespace tflm {
namespace {

// What the number of inputs decides lives in one persistent block, OpData::list: the addresses of
// the inputs, which Eval fills in, and behind them the descriptions, which Prepare reads once.
struct List {
  const uint8_t** addresses;
  tfmix_concatenate_input* descriptions;

  static constexpr size_t kItemSize = sizeof(const uint8_t*) + sizeof(tfmix_concatenate_input);

  List(void* memory, int32_t count)
      : addresses(static_cast<const uint8_t**>(memory)),
        descriptions(reinterpret_cast<tfmix_concatenate_input*>(addresses + count)) {}
};

TfLiteStatus PrepareConcatenate(TfLiteContext* context, TfLiteNode* node, const Op& op) {
  NodeCheck check(context, node, op);
  const int32_t count = node->inputs == nullptr ? 0 : node->inputs->size;
  tfmix_concatenate_params params;
  if (count < 1 || !check.Begin(count) || !check.Read(&params)) return kTfLiteError;
  OpData& data = DataOf(node);
  // The options hold a description for each input, so that a list is no longer than the file.
  if (data.options_size / sizeof(tfmix_concatenate_input) < static_cast<size_t>(count)) {
    return check.Accepts(TFMIX_BAD_SHAPE) ? kTfLiteOk : kTfLiteError;
  }
  data.list = check.Allocate(static_cast<size_t>(count) * List::kItemSize);
  if (data.list == nullptr) return kTfLiteError;
  const List list(data.list, count);
  if (!check.Read(list.descriptions, static_cast<size_t>(count))) return kTfLiteError;
  // No address is known yet, and an address has room for a size.
  auto* sizes_of_inputs = reinterpret_cast<int32_t*>(list.addresses);
  tfmix_sizes sizes;
  if (!check.Accepts(tfmix_concatenate_prepare(&params, list.descriptions, count, &op.variant,
                                               sizes_of_inputs, &sizes))) {
    return kTfLiteError;
  }
  for (int32_t i = 0; i < count; ++i) {
    if (!check.Input(i, sizes_of_inputs[i])) return kTfLiteError;
  }
  return check.Output(sizes.output) && check.Scratch(sizes.scratch) ? kTfLiteOk : kTfLiteError;
}

using ConcatenateKernel = void (*)(const tfmix_concatenate_params*, const tfmix_concatenate_input*,
                                   const uint8_t* const* inputs, uint8_t* output);

TfLiteStatus EvalConcatenate(TfLiteContext* context, TfLiteNode* node, const Op& op,
                             ConcatenateKernel kernel) {
  const NodeBuffers buffers(context, node);
  const int32_t count = node->inputs->size;
  if (!buffers.Apart(op.name, count)) return kTfLiteError;
  const auto params = buffers.Read<tfmix_concatenate_params>();
  const List list(DataOf(node).list, count);
  for (int32_t i = 0; i < count; ++i) list.addresses[i] = buffers.Input(i);
  kernel(&params, list.descriptions, list.addresses, buffers.Output());
  return kTfLiteOk;
}

}  // namespace
}  // namespace tflm

#define TFMIX_CONCATENATE_OP_(o_)                                                      \
  TFMIX_DEFINE_OP_(CONCATENATE_O##o_, tflm::PrepareConcatenate, tflm::EvalConcatenate, \
                   tfmix_concatenate_o##o_, 0, 0, 0, o_, 0)

TFMIX_CONCATENATE_VARIANTS(TFMIX_CONCATENATE_OP_)

}  // namespace tfmix
