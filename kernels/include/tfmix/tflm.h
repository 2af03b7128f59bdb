/* The operators of tfmix for TensorFlow Lite Micro.
 *
 *     tflite::MicroMutableOpResolver<2> resolver;
 *     tfmix::AddTFMIX_CONV2D_A8W4O2_PC(resolver);
 *     tfmix::AddTFMIX_SOFTMAX_A8O8(resolver);
 *
 * There is one operator for each variant of a kernel, named as in the file: a firmware names those
 * that its model needs, and is linked with no others. tfmix.export_resolver writes the header that
 * names them. The build needs -ffunction-sections, -fdata-sections and --gc-sections, as that of
 * TFLM does. docs/tflm.md is the manual.
 */
#ifndef TFMIX_TFLM_H_
#define TFMIX_TFLM_H_

#include <stddef.h>
#include <stdint.h>

#include "tfmix/stream.h"
#include "tfmix/tflm_compat.h"
#include "tfmix/variants.inc"

namespace tfmix {

/* For each variant, for instance
 *
 *     const TFLMRegistration* Register_TFMIX_CONV2D_A8W4O2_PC();
 *
 *     template <class Resolver>
 *     TfLiteStatus AddTFMIX_CONV2D_A8W4O2_PC(Resolver& resolver);
 *
 * `Resolver` is any class with AddCustom(name, registration), as MicroMutableOpResolver. */
#define TFMIX_DECLARE_OP_(name_)                           \
  const TFLMRegistration* Register_TFMIX_##name_();        \
  template <class Resolver>                                \
  TfLiteStatus AddTFMIX_##name_(Resolver& resolver) {      \
    const TFLMRegistration* op = Register_TFMIX_##name_(); \
    return resolver.AddCustom(op->custom_name, op);        \
  }

/* Names of operators have capitals throughout, and a macro's argument must become its capitals
 * before it can be pasted: hence a second macro below the first. */
#define TFMIX_CAPITAL_pc_ PC
#define TFMIX_CAPITAL_pl_ PL
#define TFMIX_PASTE_WEIGHTED_(kernel_, a_, w_, o_, z_) kernel_##_A##a_##W##w_##O##o_##_##z_
#define TFMIX_WEIGHTED_NAME_(kernel_, a_, w_, o_, z_) TFMIX_PASTE_WEIGHTED_(kernel_, a_, w_, o_, z_)

#define TFMIX_DECLARE_OP_AGAIN_(name_) TFMIX_DECLARE_OP_(name_)
#define TFMIX_DECLARE_CONV2D_OP_(a_, w_, o_, z_) \
  TFMIX_DECLARE_OP_AGAIN_(TFMIX_WEIGHTED_NAME_(CONV2D, a_, w_, o_, TFMIX_CAPITAL_##z_##_))
#define TFMIX_DECLARE_DEPTHWISE_CONV2D_OP_(a_, w_, o_, z_) \
  TFMIX_DECLARE_OP_AGAIN_(TFMIX_WEIGHTED_NAME_(DEPTHWISE_CONV2D, a_, w_, o_, TFMIX_CAPITAL_##z_##_))
#define TFMIX_DECLARE_FULLY_CONNECTED_OP_(a_, w_, o_, z_) \
  TFMIX_DECLARE_OP_AGAIN_(TFMIX_WEIGHTED_NAME_(FULLY_CONNECTED, a_, w_, o_, TFMIX_CAPITAL_##z_##_))
#define TFMIX_DECLARE_ADD_OP_(a_, b_, o_) TFMIX_DECLARE_OP_(ADD_A##a_##B##b_##O##o_)
#define TFMIX_DECLARE_MULTIPLY_OP_(a_, b_, o_) TFMIX_DECLARE_OP_(MULTIPLY_A##a_##B##b_##O##o_)
#define TFMIX_DECLARE_CONCATENATE_OP_(o_) TFMIX_DECLARE_OP_(CONCATENATE_O##o_)
#define TFMIX_DECLARE_REQUANTIZE_OP_(a_, o_) TFMIX_DECLARE_OP_(REQUANTIZE_A##a_##O##o_)
#define TFMIX_DECLARE_LOOKUP_OP_(a_, o_) TFMIX_DECLARE_OP_(LOOKUP_A##a_##O##o_)
#define TFMIX_DECLARE_AVERAGE_POOL_OP_(a_, o_) TFMIX_DECLARE_OP_(AVERAGE_POOL_A##a_##O##o_)
#define TFMIX_DECLARE_MAX_POOL_OP_(a_) TFMIX_DECLARE_OP_(MAX_POOL_A##a_)
#define TFMIX_DECLARE_PAD_OP_(a_) TFMIX_DECLARE_OP_(PAD_A##a_)
#define TFMIX_DECLARE_SOFTMAX_OP_(a_, o_) TFMIX_DECLARE_OP_(SOFTMAX_A##a_##O##o_)

TFMIX_CONV2D_VARIANTS(TFMIX_DECLARE_CONV2D_OP_)
TFMIX_DEPTHWISE_CONV2D_VARIANTS(TFMIX_DECLARE_DEPTHWISE_CONV2D_OP_)
TFMIX_FULLY_CONNECTED_VARIANTS(TFMIX_DECLARE_FULLY_CONNECTED_OP_)
TFMIX_ADD_VARIANTS(TFMIX_DECLARE_ADD_OP_)
TFMIX_MULTIPLY_VARIANTS(TFMIX_DECLARE_MULTIPLY_OP_)
TFMIX_CONCATENATE_VARIANTS(TFMIX_DECLARE_CONCATENATE_OP_)
TFMIX_REQUANTIZE_VARIANTS(TFMIX_DECLARE_REQUANTIZE_OP_)
TFMIX_LOOKUP_VARIANTS(TFMIX_DECLARE_LOOKUP_OP_)
TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_DECLARE_AVERAGE_POOL_OP_)
TFMIX_MAX_POOL_VARIANTS(TFMIX_DECLARE_MAX_POOL_OP_)
TFMIX_PAD_VARIANTS(TFMIX_DECLARE_PAD_OP_)
TFMIX_SOFTMAX_VARIANTS(TFMIX_DECLARE_SOFTMAX_OP_)

#undef TFMIX_DECLARE_OP_
#undef TFMIX_DECLARE_OP_AGAIN_
#undef TFMIX_DECLARE_CONV2D_OP_
#undef TFMIX_DECLARE_DEPTHWISE_CONV2D_OP_
#undef TFMIX_DECLARE_FULLY_CONNECTED_OP_
#undef TFMIX_DECLARE_ADD_OP_
#undef TFMIX_DECLARE_MULTIPLY_OP_
#undef TFMIX_DECLARE_CONCATENATE_OP_
#undef TFMIX_DECLARE_REQUANTIZE_OP_
#undef TFMIX_DECLARE_LOOKUP_OP_
#undef TFMIX_DECLARE_AVERAGE_POOL_OP_
#undef TFMIX_DECLARE_MAX_POOL_OP_
#undef TFMIX_DECLARE_PAD_OP_
#undef TFMIX_DECLARE_SOFTMAX_OP_

namespace tflm {

void* Init(TfLiteContext* context, const char* options, size_t size);
TfLiteStatus PrepareStream(TfLiteContext* context, TfLiteNode* node,
                           const tfmix_stream_kernel* kernels, int32_t kernel_count);
TfLiteStatus EvalStream(TfLiteContext* context, TfLiteNode* node,
                        const tfmix_stream_kernel* kernels, int32_t kernel_count);

template <const auto& kKernels>
TfLiteStatus PrepareStreamOf(TfLiteContext* context, TfLiteNode* node) {
  return PrepareStream(context, node, kKernels, sizeof(kKernels) / sizeof(kKernels[0]));
}
template <const auto& kKernels>
TfLiteStatus EvalStreamOf(TfLiteContext* context, TfLiteNode* node) {
  return EvalStream(context, node, kKernels, sizeof(kKernels) / sizeof(kKernels[0]));
}

}  // namespace tflm

/* TFMIX_STREAM, a chain of layers, calls the kernels of a list, and these are linked:
 *
 *     inline const tfmix_stream_kernel kKernels[] = {TFMIX_STREAM_KERNEL_ADD(8, 8, 8)};
 *     tfmix::AddTFMIX_STREAM<kKernels>(resolver);
 */
template <const auto& kKernels>
const TFLMRegistration* Register_TFMIX_STREAM() {
  static constexpr TFLMRegistration kRegistration = {tflm::Init,
                                                     nullptr,
                                                     tflm::PrepareStreamOf<kKernels>,
                                                     tflm::EvalStreamOf<kKernels>,
                                                     nullptr,
                                                     0,
                                                     "TFMIX_STREAM"};
  return &kRegistration;
}

template <const auto& kKernels, class Resolver>
TfLiteStatus AddTFMIX_STREAM(Resolver& resolver) {
  const TFLMRegistration* op = Register_TFMIX_STREAM<kKernels>();
  return resolver.AddCustom(op->custom_name, op);
}

}  // namespace tfmix

#endif  // TFMIX_TFLM_H_
