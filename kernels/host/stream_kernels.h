// All kernels that chains can use. Not part of a firmware: a table that names every kernel links
// them all.
#ifndef TFMIX_HOST_STREAM_KERNELS_H_
#define TFMIX_HOST_STREAM_KERNELS_H_

#include <cstdint>

#include "tfmix/stream.h"

extern "C" {

// For tfmix_stream::kernels and kernel_count.
TFMIX_API const tfmix_stream_kernel* tfmix_host_stream_kernels(int32_t* count);
}

#endif  // TFMIX_HOST_STREAM_KERNELS_H_
