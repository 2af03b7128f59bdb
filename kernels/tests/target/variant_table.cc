#include "variant_table.h"

#include <cstring>

namespace tfmix::target {
namespace {

// ---- Prepare ------------------------------------------------------------------------------------

template <auto kPrepare>
struct Prepare;

template <typename Params,
          tfmix_status (*kPrepare)(const Params*, const tfmix_variant*, tfmix_sizes*)>
struct Prepare<kPrepare> {
  static tfmix_status Run(const void* params, const tfmix_variant& bits, Sizes* sizes) {
    tfmix_sizes s;
    const tfmix_status status = kPrepare(static_cast<const Params*>(params), &bits, &s);
    const int32_t count = s.second_input != 0 ? 2 : 1;
    *sizes = {{s.input, s.second_input}, count, s.constants, s.output, s.scratch};
    return status;
  }
};

const tfmix_concatenate_input* Descriptions(const void* params) {
  const auto* head = static_cast<const tfmix_concatenate_params*>(params);
  return reinterpret_cast<const tfmix_concatenate_input*>(head + 1);
}

template <>
struct Prepare<tfmix_concatenate_prepare> {
  static tfmix_status Run(const void* params, const tfmix_variant& bits, Sizes* sizes) {
    const auto* head = static_cast<const tfmix_concatenate_params*>(params);
    if (head->input_count > kMaxInputs) return TFMIX_TOO_LARGE;
    tfmix_sizes s;
    const tfmix_status status = tfmix_concatenate_prepare(
        head, Descriptions(params), head->input_count, &bits, sizes->inputs, &s);
    sizes->input_count = head->input_count;
    sizes->constants = s.constants;
    sizes->output = s.output;
    sizes->scratch = s.scratch;
    return status;
  }
};

// ---- Run: one overload for each signature -------------------------------------------------------

template <typename Params>
void Call(void (*kernel)(const Params*, const uint8_t*, const uint8_t*, uint8_t*, void*),
          const Buffers& b) {
  kernel(static_cast<const Params*>(b.params), b.inputs[0], b.constants, b.output, b.scratch);
}

template <typename Params>
void Call(void (*kernel)(const Params*, const uint8_t*, uint8_t*), const Buffers& b) {
  kernel(static_cast<const Params*>(b.params), b.inputs[0], b.output);
}

// Two inputs, or one and a table: only one of the two is there.
template <typename Params>
void Call(void (*kernel)(const Params*, const uint8_t*, const uint8_t*, uint8_t*),
          const Buffers& b) {
  const uint8_t* second = b.inputs[1] != nullptr ? b.inputs[1] : b.constants;
  kernel(static_cast<const Params*>(b.params), b.inputs[0], second, b.output);
}

void Call(void (*kernel)(const tfmix_concatenate_params*, const tfmix_concatenate_input*,
                         const uint8_t* const*, uint8_t*),
          const Buffers& b) {
  kernel(static_cast<const tfmix_concatenate_params*>(b.params), Descriptions(b.params), b.inputs,
         b.output);
}

template <auto kKernel>
void Run(const Buffers& buffers) {
  Call(kKernel, buffers);
}

// ---- The table ----------------------------------------------------------------------------------

constexpr int32_t kIsPerChannel_pc = 1;
constexpr int32_t kIsPerChannel_pl = 0;

#define TFMIX_ENTRY_(kernel_, tag_, ...)                                                    \
  {#kernel_ "_" #tag_, tfmix_variant{__VA_ARGS__}, Prepare<tfmix_##kernel_##_prepare>::Run, \
   Run<tfmix_##kernel_##_##tag_>},
#define TFMIX_ENTRY_CONV2D_(a_, w_, o_, z_) \
  TFMIX_ENTRY_(conv2d, a##a_##w##w_##o##o_##_##z_, a_, 0, w_, o_, kIsPerChannel_##z_)
#define TFMIX_ENTRY_DEPTHWISE_CONV2D_(a_, w_, o_, z_) \
  TFMIX_ENTRY_(depthwise_conv2d, a##a_##w##w_##o##o_##_##z_, a_, 0, w_, o_, kIsPerChannel_##z_)
#define TFMIX_ENTRY_FULLY_CONNECTED_(a_, w_, o_, z_) \
  TFMIX_ENTRY_(fully_connected, a##a_##w##w_##o##o_##_##z_, a_, 0, w_, o_, kIsPerChannel_##z_)
#define TFMIX_ENTRY_ADD_(a_, b_, o_) TFMIX_ENTRY_(add, a##a_##b##b_##o##o_, a_, b_, 0, o_, 0)
#define TFMIX_ENTRY_MULTIPLY_(a_, b_, o_) \
  TFMIX_ENTRY_(multiply, a##a_##b##b_##o##o_, a_, b_, 0, o_, 0)
#define TFMIX_ENTRY_CONCATENATE_(o_) TFMIX_ENTRY_(concatenate, o##o_, 0, 0, 0, o_, 0)
#define TFMIX_ENTRY_REQUANTIZE_(a_, o_) TFMIX_ENTRY_(requantize, a##a_##o##o_, a_, 0, 0, o_, 0)
#define TFMIX_ENTRY_LOOKUP_(a_, o_) TFMIX_ENTRY_(lookup, a##a_##o##o_, a_, 0, 0, o_, 0)
#define TFMIX_ENTRY_AVERAGE_POOL_(a_, o_) TFMIX_ENTRY_(average_pool, a##a_##o##o_, a_, 0, 0, o_, 0)
#define TFMIX_ENTRY_MAX_POOL_(a_) TFMIX_ENTRY_(max_pool, a##a_, a_, 0, 0, 0, 0)
#define TFMIX_ENTRY_PAD_(a_) TFMIX_ENTRY_(pad, a##a_, a_, 0, 0, 0, 0)
#define TFMIX_ENTRY_SOFTMAX_(a_, o_) TFMIX_ENTRY_(softmax, a##a_##o##o_, a_, 0, 0, o_, 0)

constexpr Variant kVariants[] = {
    // clang-format off
    TFMIX_CONV2D_VARIANTS(TFMIX_ENTRY_CONV2D_)
    TFMIX_DEPTHWISE_CONV2D_VARIANTS(TFMIX_ENTRY_DEPTHWISE_CONV2D_)
    TFMIX_FULLY_CONNECTED_VARIANTS(TFMIX_ENTRY_FULLY_CONNECTED_)
    TFMIX_ADD_VARIANTS(TFMIX_ENTRY_ADD_)
    TFMIX_MULTIPLY_VARIANTS(TFMIX_ENTRY_MULTIPLY_)
    TFMIX_CONCATENATE_VARIANTS(TFMIX_ENTRY_CONCATENATE_)
    TFMIX_REQUANTIZE_VARIANTS(TFMIX_ENTRY_REQUANTIZE_)
    TFMIX_LOOKUP_VARIANTS(TFMIX_ENTRY_LOOKUP_)
    TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_ENTRY_AVERAGE_POOL_)
    TFMIX_MAX_POOL_VARIANTS(TFMIX_ENTRY_MAX_POOL_)
    TFMIX_PAD_VARIANTS(TFMIX_ENTRY_PAD_)
    TFMIX_SOFTMAX_VARIANTS(TFMIX_ENTRY_SOFTMAX_)
    // clang-format on
};

}  // namespace

const Variant* FindVariant(const char* name) {
  for (const Variant& variant : kVariants) {
    if (std::strcmp(variant.name, name) == 0) return &variant;
  }
  return nullptr;
}

}  // namespace tfmix::target
