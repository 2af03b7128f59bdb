// The operators on single elements: add, multiply (inputs a, b), requantize (input x).
#include "bridge.h"
#include "tfmix/tflm.h"

namespace tfmix {
namespace tflm {
namespace {

template <typename Params>
TfLiteStatus PrepareBinary(TfLiteContext* context, TfLiteNode* node, const Op& op,
                           PrepareFunction<Params> prepare) {
  NodeCheck check(context, node, op);
  Params params;
  tfmix_sizes sizes;
  const bool ok = check.Begin(2) && check.Read(&params) &&
                  check.Accepts(prepare(&params, &op.variant, &sizes)) &&
                  check.Input(0, sizes.input) && check.Input(1, sizes.second_input) &&
                  check.Output(sizes.output) && check.Scratch(sizes.scratch);
  return ok ? kTfLiteOk : kTfLiteError;
}

TfLiteStatus PrepareAdd(TfLiteContext* context, TfLiteNode* node, const Op& op) {
  return PrepareBinary(context, node, op, tfmix_add_prepare);
}

TfLiteStatus PrepareMultiply(TfLiteContext* context, TfLiteNode* node, const Op& op) {
  return PrepareBinary(context, node, op, tfmix_multiply_prepare);
}

template <typename Params>
using BinaryKernel = void (*)(const Params*, const uint8_t* a, const uint8_t* b, uint8_t* output);

template <typename Params>
TfLiteStatus EvalBinary(TfLiteContext* context, TfLiteNode* node, const Op& op,
                        BinaryKernel<Params> kernel) {
  const NodeBuffers buffers(context, node);
  if (!buffers.Apart(op.name, 2)) return kTfLiteError;
  const Params params = buffers.Read<Params>();
  kernel(&params, buffers.Input(0), buffers.Input(1), buffers.Output());
  return kTfLiteOk;
}

TfLiteStatus PrepareRequantize(TfLiteContext* context, TfLiteNode* node, const Op& op) {
  return Prepare(context, node, op, tfmix_requantize_prepare, false);
}

}  // namespace
}  // namespace tflm

#define TFMIX_ADD_OP_(a_, b_, o_)                                               \
  TFMIX_DEFINE_OP_(ADD_A##a_##B##b_##O##o_, tflm::PrepareAdd, tflm::EvalBinary, \
                   tfmix_add_a##a_##b##b_##o##o_, a_, b_, 0, o_, 0)
#define TFMIX_MULTIPLY_OP_(a_, b_, o_)                                                    \
  TFMIX_DEFINE_OP_(MULTIPLY_A##a_##B##b_##O##o_, tflm::PrepareMultiply, tflm::EvalBinary, \
                   tfmix_multiply_a##a_##b##b_##o##o_, a_, b_, 0, o_, 0)
#define TFMIX_REQUANTIZE_OP_(a_, o_)                                                  \
  TFMIX_DEFINE_OP_(REQUANTIZE_A##a_##O##o_, tflm::PrepareRequantize, tflm::EvalUnary, \
                   tfmix_requantize_a##a_##o##o_, a_, 0, 0, o_, 0)

TFMIX_ADD_VARIANTS(TFMIX_ADD_OP_)
TFMIX_MULTIPLY_VARIANTS(TFMIX_MULTIPLY_OP_)
TFMIX_REQUANTIZE_VARIANTS(TFMIX_REQUANTIZE_OP_)

}  // namespace tfmix
