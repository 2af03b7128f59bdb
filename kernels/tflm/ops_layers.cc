// The operators with weights: conv2d, depthwise_conv2d, fully_connected. Inputs: x, constants.
#include "bridge.h"
#include "tfmix/tflm.h"

namespace tfmix {
namespace {

TfLiteStatus PrepareConv2d(TfLiteContext* context, TfLiteNode* node, const tflm::Op& op) {
  return tflm::Prepare(context, node, op, tfmix_conv2d_prepare, true);
}

TfLiteStatus PrepareDepthwiseConv2d(TfLiteContext* context, TfLiteNode* node, const tflm::Op& op) {
  return tflm::Prepare(context, node, op, tfmix_depthwise_conv2d_prepare, true);
}

TfLiteStatus PrepareFullyConnected(TfLiteContext* context, TfLiteNode* node, const tflm::Op& op) {
  return tflm::Prepare(context, node, op, tfmix_fully_connected_prepare, true);
}

}  // namespace

#define TFMIX_CONV2D_OP_(a_, w_, o_, z_) \
  TFMIX_DEFINE_WEIGHTED_OP_(PrepareConv2d, conv2d, CONV2D, a_, w_, o_, z_)
#define TFMIX_DEPTHWISE_CONV2D_OP_(a_, w_, o_, z_)                                              \
  TFMIX_DEFINE_WEIGHTED_OP_(PrepareDepthwiseConv2d, depthwise_conv2d, DEPTHWISE_CONV2D, a_, w_, \
                            o_, z_)
#define TFMIX_FULLY_CONNECTED_OP_(a_, w_, o_, z_) \
  TFMIX_DEFINE_WEIGHTED_OP_(PrepareFullyConnected, fully_connected, FULLY_CONNECTED, a_, w_, o_, z_)

TFMIX_CONV2D_VARIANTS(TFMIX_CONV2D_OP_)
TFMIX_DEPTHWISE_CONV2D_VARIANTS(TFMIX_DEPTHWISE_CONV2D_OP_)
TFMIX_FULLY_CONNECTED_VARIANTS(TFMIX_FULLY_CONNECTED_OP_)

}  // namespace tfmix
