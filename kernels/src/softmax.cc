// softmax: y_i = min(255, (512 * e_i + sum) / (2 * sum)), e_i = table[max(q) - q_i].
//
// The table holds round(65535 * exp(-d * scale)) for d = 0, 1, ..., up to its last non-zero entry.
#include <algorithm>
#include <cstdint>

#include "checks.h"
#include "tfmix/kernels.h"

namespace tfmix {
namespace {

// So many times 65535, doubled, fits uint32.
constexpr int32_t kMaxClasses = 32767;
constexpr int32_t kMaxTableSize = 256;

void Softmax(const tfmix_softmax_params& p, const uint8_t* input, const uint8_t* table,
             uint8_t* output) {
  const auto exponential = [&](int32_t distance) -> uint32_t {
    if (distance >= p.table_size) return 0;
    return table[2 * distance] | static_cast<uint32_t>(table[2 * distance + 1]) << 8;
  };
  for (int32_t row = 0; row < p.rows; ++row) {
    const uint8_t* q = input + row * p.classes;
    uint8_t* y = output + row * p.classes;
    const int32_t largest = *std::max_element(q, q + p.classes);
    uint32_t sum = 0;
    for (int32_t i = 0; i < p.classes; ++i) sum += exponential(largest - q[i]);
    // A sound table begins with 65535; a damaged one must not make us divide by zero.
    sum = std::max(sum, uint32_t{1});
    for (int32_t i = 0; i < p.classes; ++i) {
      const uint32_t rounded = (512 * exponential(largest - q[i]) + sum) / (2 * sum);
      y[i] = static_cast<uint8_t>(std::min(rounded, uint32_t{255}));
    }
  }
}

}  // namespace
}  // namespace tfmix

tfmix_status tfmix_softmax_prepare(const tfmix_softmax_params* params, const tfmix_variant* variant,
                                   tfmix_sizes* sizes) {
  using namespace tfmix;
  const tfmix_softmax_params& p = *params;
  if (variant->input_bits != 8 || variant->output_bits != 8) return TFMIX_BAD_BITS;
  int32_t elements;
  TFMIX_RETURN_IF_BAD(CheckProduct({p.rows, p.classes}, &elements));
  if (p.classes > kMaxClasses) return TFMIX_TOO_LARGE;
  if (p.table_size < 1 || p.table_size > kMaxTableSize) return TFMIX_BAD_SHAPE;
  *sizes = {elements, 0, 2 * p.table_size, elements, 0};
  return TFMIX_OK;
}

#define TFMIX_DEFINE_(a_, o_)                                                               \
  void tfmix_softmax_a##a_##o##o_(const tfmix_softmax_params* params, const uint8_t* input, \
                                  const uint8_t* table, uint8_t* output) {                  \
    static_assert(a_ == 8 && o_ == 8, "softmax is written for bytes");                      \
    tfmix::Softmax(*params, input, table, output);                                          \
  }
TFMIX_SOFTMAX_VARIANTS(TFMIX_DEFINE_)
