/* All that this project says about where TensorFlow Lite Micro keeps things.
 *
 * TFLM has moved headers and namespaces before and will again. The bridge includes this file and no
 * header of TFLM, and names its C++ types through the aliases below, so that a move is answered
 * here. Both answers can also come from a build, without an edit:
 *
 *     TFMIX_TFLM_HEADERS     a header of yours that includes those of TFLM, in quotes
 *     TFMIX_TFLM_NAMESPACE   the namespace of MicroContext
 *
 * Builds with TFLM of July 2023 to August 2026 as it is.
 */
#ifndef TFMIX_TFLM_COMPAT_H_
#define TFMIX_TFLM_COMPAT_H_

#ifdef TFMIX_TFLM_HEADERS
#include TFMIX_TFLM_HEADERS
#else
#include "tensorflow/lite/micro/micro_common.h"
#include "tensorflow/lite/micro/micro_context.h"
#include "tensorflow/lite/micro/micro_log.h"
#endif

#ifndef TFMIX_TFLM_NAMESPACE
#define TFMIX_TFLM_NAMESPACE tflite
#endif

namespace tfmix {
namespace tflm {

using TFMIX_TFLM_NAMESPACE::GetMicroContext;
using TFMIX_TFLM_NAMESPACE::MicroContext;

}  // namespace tflm
}  // namespace tfmix

#endif  // TFMIX_TFLM_COMPAT_H_
