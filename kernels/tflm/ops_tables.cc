// The operators with a table: lookup, softmax. Inputs: x, table.
#include "bridge.h"
#include "tfmix/tflm.h"

namespace tfmix {
namespace tflm {
namespace {

TfLiteStatus PrepareLookup(TfLiteContext* context, TfLiteNode* node, const Op& op) {
  return Prepare(context, node, op, tfmix_lookup_prepare, true);
}

TfLiteStatus PrepareSoftmax(TfLiteContext* context, TfLiteNode* node, const Op& op) {
  return Prepare(context, node, op, tfmix_softmax_prepare, true);
}

template <typename Params>
using TableKernel = void (*)(const Params*, const uint8_t* input, const uint8_t* table,
                             uint8_t* output);

template <typename Params>
TfLiteStatus EvalWithTable(TfLiteContext* context, TfLiteNode* node, const Op& op,
                           TableKernel<Params> kernel) {
  const NodeBuffers buffers(context, node);
  if (!buffers.Apart(op.name, 1)) return kTfLiteError;
  const Params params = buffers.Read<Params>();
  kernel(&params, buffers.Input(0), buffers.Input(1), buffers.Output());
  return kTfLiteOk;
}

}  // namespace
}  // namespace tflm

#define TFMIX_LOOKUP_OP_(a_, o_)                                                  \
  TFMIX_DEFINE_OP_(LOOKUP_A##a_##O##o_, tflm::PrepareLookup, tflm::EvalWithTable, \
                   tfmix_lookup_a##a_##o##o_, a_, 0, 0, o_, 0)
#define TFMIX_SOFTMAX_OP_(a_, o_)                                                   \
  TFMIX_DEFINE_OP_(SOFTMAX_A##a_##O##o_, tflm::PrepareSoftmax, tflm::EvalWithTable, \
                   tfmix_softmax_a##a_##o##o_, a_, 0, 0, o_, 0)

TFMIX_LOOKUP_VARIANTS(TFMIX_LOOKUP_OP_)
TFMIX_SOFTMAX_VARIANTS(TFMIX_SOFTMAX_OP_)

}  // namespace tfmix
