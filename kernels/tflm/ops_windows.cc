// The operators that move or pool pixels: average_pool, max_pool, pad. Input: x.
#include "bridge.h"
#include "tfmix/tflm.h"

namespace tfmix {
namespace {

TfLiteStatus PrepareAveragePool(TfLiteContext* context, TfLiteNode* node, const tflm::Op& op) {
  return tflm::Prepare(context, node, op, tfmix_average_pool_prepare, false);
}

TfLiteStatus PrepareMaxPool(TfLiteContext* context, TfLiteNode* node, const tflm::Op& op) {
  return tflm::Prepare(context, node, op, tfmix_max_pool_prepare, false);
}

TfLiteStatus PreparePad(TfLiteContext* context, TfLiteNode* node, const tflm::Op& op) {
  return tflm::Prepare(context, node, op, tfmix_pad_prepare, false);
}

}  // namespace

#define TFMIX_AVERAGE_POOL_OP_(a_, o_)                                             \
  TFMIX_DEFINE_OP_(AVERAGE_POOL_A##a_##O##o_, PrepareAveragePool, tflm::EvalUnary, \
                   tfmix_average_pool_a##a_##o##o_, a_, 0, 0, o_, 0)
#define TFMIX_MAX_POOL_OP_(a_)                                                                   \
  TFMIX_DEFINE_OP_(MAX_POOL_A##a_, PrepareMaxPool, tflm::EvalUnary, tfmix_max_pool_a##a_, a_, 0, \
                   0, 0, 0)
#define TFMIX_PAD_OP_(a_) \
  TFMIX_DEFINE_OP_(PAD_A##a_, PreparePad, tflm::EvalUnary, tfmix_pad_a##a_, a_, 0, 0, 0, 0)

TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_AVERAGE_POOL_OP_)
TFMIX_MAX_POOL_VARIANTS(TFMIX_MAX_POOL_OP_)
TFMIX_PAD_VARIANTS(TFMIX_PAD_OP_)

}  // namespace tfmix
