#include "op_table.h"

namespace tfmix::tflm_test {

#define TFMIX_OP_(kernel_, name_, ...) {Kernel::kernel_, {__VA_ARGS__}, Register_TFMIX_##name_},
#define TFMIX_NAMED_OP_(kernel_, name_, ...) TFMIX_OP_(kernel_, name_, __VA_ARGS__)
#define TFMIX_ONE_IF_pc_ 1
#define TFMIX_ONE_IF_pl_ 0
#define TFMIX_WEIGHTED_OP_(kernel_, capitals_, a_, w_, o_, z_)                                     \
  TFMIX_NAMED_OP_(kernel_, TFMIX_WEIGHTED_NAME_(capitals_, a_, w_, o_, TFMIX_CAPITAL_##z_##_), a_, \
                  0, w_, o_, TFMIX_ONE_IF_##z_##_)
#define TFMIX_CONV2D_OP_(a_, w_, o_, z_) TFMIX_WEIGHTED_OP_(kConv2d, CONV2D, a_, w_, o_, z_)
#define TFMIX_DEPTHWISE_CONV2D_OP_(a_, w_, o_, z_) \
  TFMIX_WEIGHTED_OP_(kDepthwiseConv2d, DEPTHWISE_CONV2D, a_, w_, o_, z_)
#define TFMIX_FULLY_CONNECTED_OP_(a_, w_, o_, z_) \
  TFMIX_WEIGHTED_OP_(kFullyConnected, FULLY_CONNECTED, a_, w_, o_, z_)
#define TFMIX_ADD_OP_(a_, b_, o_) TFMIX_OP_(kAdd, ADD_A##a_##B##b_##O##o_, a_, b_, 0, o_, 0)
#define TFMIX_MULTIPLY_OP_(a_, b_, o_) \
  TFMIX_OP_(kMultiply, MULTIPLY_A##a_##B##b_##O##o_, a_, b_, 0, o_, 0)
#define TFMIX_CONCATENATE_OP_(o_) TFMIX_OP_(kConcatenate, CONCATENATE_O##o_, 0, 0, 0, o_, 0)
#define TFMIX_REQUANTIZE_OP_(a_, o_) \
  TFMIX_OP_(kRequantize, REQUANTIZE_A##a_##O##o_, a_, 0, 0, o_, 0)
#define TFMIX_LOOKUP_OP_(a_, o_) TFMIX_OP_(kLookup, LOOKUP_A##a_##O##o_, a_, 0, 0, o_, 0)
#define TFMIX_AVERAGE_POOL_OP_(a_, o_) \
  TFMIX_OP_(kAveragePool, AVERAGE_POOL_A##a_##O##o_, a_, 0, 0, o_, 0)
#define TFMIX_MAX_POOL_OP_(a_) TFMIX_OP_(kMaxPool, MAX_POOL_A##a_, a_, 0, 0, 0, 0)
#define TFMIX_PAD_OP_(a_) TFMIX_OP_(kPad, PAD_A##a_, a_, 0, 0, 0, 0)
#define TFMIX_SOFTMAX_OP_(a_, o_) TFMIX_OP_(kSoftmax, SOFTMAX_A##a_##O##o_, a_, 0, 0, o_, 0)

// clang-format off
const Operator kOperators[kOperatorCount] = {
    TFMIX_CONV2D_VARIANTS(TFMIX_CONV2D_OP_)
    TFMIX_DEPTHWISE_CONV2D_VARIANTS(TFMIX_DEPTHWISE_CONV2D_OP_)
    TFMIX_FULLY_CONNECTED_VARIANTS(TFMIX_FULLY_CONNECTED_OP_)
    TFMIX_ADD_VARIANTS(TFMIX_ADD_OP_)
    TFMIX_MULTIPLY_VARIANTS(TFMIX_MULTIPLY_OP_)
    TFMIX_CONCATENATE_VARIANTS(TFMIX_CONCATENATE_OP_)
    TFMIX_REQUANTIZE_VARIANTS(TFMIX_REQUANTIZE_OP_)
    TFMIX_LOOKUP_VARIANTS(TFMIX_LOOKUP_OP_)
    TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_AVERAGE_POOL_OP_)
    TFMIX_MAX_POOL_VARIANTS(TFMIX_MAX_POOL_OP_)
    TFMIX_PAD_VARIANTS(TFMIX_PAD_OP_)
    TFMIX_SOFTMAX_VARIANTS(TFMIX_SOFTMAX_OP_)
};
// clang-format on

}  // namespace tfmix::tflm_test
