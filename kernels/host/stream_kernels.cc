#include "stream_kernels.h"

namespace {

const tfmix_stream_kernel kKernels[] = {TFMIX_STREAM_ALL_KERNELS};

}  // namespace

const tfmix_stream_kernel* tfmix_host_stream_kernels(int32_t* count) {
  *count = static_cast<int32_t>(sizeof(kKernels) / sizeof(kKernels[0]));
  return kKernels;
}
