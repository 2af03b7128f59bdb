// All operators, for tests that walk through them.
#ifndef TFMIX_TESTS_TFLM_OP_TABLE_H_
#define TFMIX_TESTS_TFLM_OP_TABLE_H_

#include <cstdint>

#include "tfmix/kernels.h"
#include "tfmix/tflm.h"

namespace tfmix::tflm_test {

enum class Kernel {
  kConv2d,
  kDepthwiseConv2d,
  kFullyConnected,
  kAdd,
  kMultiply,
  kConcatenate,
  kRequantize,
  kLookup,
  kAveragePool,
  kMaxPool,
  kPad,
  kSoftmax,
  kStream,  // not in the table
};

struct Operator {
  Kernel kernel;
  tfmix_variant variant;
  const TFLMRegistration* (*registration)();
};

constexpr int32_t kOperatorCount = 253;
extern const Operator kOperators[kOperatorCount];

// What chains of layers may call.
inline const tfmix_stream_kernel kStreamKernels[] = {TFMIX_STREAM_ALL_KERNELS};

}  // namespace tfmix::tflm_test

#endif  // TFMIX_TESTS_TFLM_OP_TABLE_H_
