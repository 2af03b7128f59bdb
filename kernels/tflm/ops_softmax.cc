// softmax. Inputs: x, table.
#include "bridge.h"
#include "tfmix/tflm.h"

namespace tfmix {
namespace tflm {
namespace {

TfLiteStatus PrepareSoftmax(TfLiteContext* context, TfLiteNode* node, const Op& op) {
  return Prepare(context, node, op, tfmix_softmax_prepare, true);
}

using SoftmaxKernel = void (*)(const tfmix_softmax_params*, const uint8_t* input,
                               const uint8_t* table, uint8_t* output);

TfLiteStatus EvalSoftmax(TfLiteContext* context, TfLiteNode* node, const Op& op,
                         SoftmaxKernel kernel) {
  const NodeBuffers buffers(context, node);
  if (!buffers.Apart(op.name, 1)) return kTfLiteError;
  const auto params = buffers.Read<tfmix_softmax_params>();
  kernel(&params, buffers.Input(0), buffers.Input(1), buffers.Output());
  return kTfLiteOk;
}

}  // namespace
}  // namespace tflm

#define TFMIX_SOFTMAX_OP_(a_, o_)                                                 \
  TFMIX_DEFINE_OP_(SOFTMAX_A##a_##O##o_, tflm::PrepareSoftmax, tflm::EvalSoftmax, \
                   tfmix_softmax_a##a_##o##o_, a_, 0, 0, o_, 0)

TFMIX_SOFTMAX_VARIANTS(TFMIX_SOFTMAX_OP_)

}  // namespace tfmix
