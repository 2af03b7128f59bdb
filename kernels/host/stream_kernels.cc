#include "stream_kernels.h"

namespace {

const tfmix_stream_kernel kKernels[] = {
    // clang-format off
    TFMIX_CONV2D_VARIANTS(TFMIX_STREAM_KERNEL_CONV2D)
    TFMIX_DEPTHWISE_CONV2D_VARIANTS(TFMIX_STREAM_KERNEL_DEPTHWISE_CONV2D)
    TFMIX_ADD_VARIANTS(TFMIX_STREAM_KERNEL_ADD)
    TFMIX_REQUANTIZE_VARIANTS(TFMIX_STREAM_KERNEL_REQUANTIZE)
    TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_STREAM_KERNEL_AVERAGE_POOL)
    TFMIX_MAX_POOL_VARIANTS(TFMIX_STREAM_KERNEL_MAX_POOL)
    TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_STREAM_KERNEL_AVERAGE_POOL_ROWS)
    // clang-format on
};

}  // namespace

const tfmix_stream_kernel* tfmix_host_stream_kernels(int32_t* count) {
  *count = static_cast<int32_t>(sizeof(kKernels) / sizeof(kKernels[0]));
  return kKernels;
}
