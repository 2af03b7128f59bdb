// What the host library says of itself, so that a test can hold the C declarations against the
// Python ones. Not part of a firmware: a table that names every kernel links them all.
#include <cstddef>
#include <cstdint>

#include "tfmix/kernels.h"
#include "tfmix/stream.h"

extern "C" {

// A field of a struct. The last entry of each struct has an empty name; its offset is the
// size of the struct.
typedef struct tfmix_host_field {
  const char* struct_name;
  const char* name;
  int32_t offset;
} tfmix_host_field;

// All fields of all structs, struct by struct, in the order of declaration.
TFMIX_API const tfmix_host_field* tfmix_host_fields(int32_t* count);

// The names of all variants without their prefix, each followed by a space.
TFMIX_API const char* tfmix_host_variants(void);
}

namespace {

#define TFMIX_FIELD_(s_, f_) {#s_, #f_, static_cast<int32_t>(offsetof(s_, f_))},
#define TFMIX_VARIANT_FIELD_(s_, f_) {#s_, #f_, static_cast<int32_t>(offsetof(s_, variant.f_))},
#define TFMIX_SIZE_(s_) {#s_, "", static_cast<int32_t>(sizeof(s_))},
#define TFMIX_WINDOW_FIELDS_(s_)    \
  TFMIX_FIELD_(s_, input_height)    \
  TFMIX_FIELD_(s_, input_width)     \
  TFMIX_FIELD_(s_, input_channels)  \
  TFMIX_FIELD_(s_, output_height)   \
  TFMIX_FIELD_(s_, output_width)    \
  TFMIX_FIELD_(s_, output_channels) \
  TFMIX_FIELD_(s_, kernel_height)   \
  TFMIX_FIELD_(s_, kernel_width)    \
  TFMIX_FIELD_(s_, stride_height)   \
  TFMIX_FIELD_(s_, stride_width)    \
  TFMIX_FIELD_(s_, pad_top)         \
  TFMIX_FIELD_(s_, pad_left)

constexpr tfmix_host_field kFields[] = {
    // clang-format off
    TFMIX_WINDOW_FIELDS_(tfmix_conv_params)
    TFMIX_FIELD_(tfmix_conv_params, input_zero_point)
    TFMIX_FIELD_(tfmix_conv_params, output_zero_point)
    TFMIX_FIELD_(tfmix_conv_params, left_shift)
    TFMIX_FIELD_(tfmix_conv_params, multiplier_count)
    TFMIX_SIZE_(tfmix_conv_params)
    TFMIX_FIELD_(tfmix_fully_connected_params, input_features)
    TFMIX_FIELD_(tfmix_fully_connected_params, output_features)
    TFMIX_FIELD_(tfmix_fully_connected_params, output_zero_point)
    TFMIX_FIELD_(tfmix_fully_connected_params, left_shift)
    TFMIX_FIELD_(tfmix_fully_connected_params, multiplier_count)
    TFMIX_SIZE_(tfmix_fully_connected_params)
    TFMIX_FIELD_(tfmix_add_params, elements)
    TFMIX_FIELD_(tfmix_add_params, multiplier_a)
    TFMIX_FIELD_(tfmix_add_params, multiplier_b)
    TFMIX_FIELD_(tfmix_add_params, offset)
    TFMIX_FIELD_(tfmix_add_params, shift)
    TFMIX_FIELD_(tfmix_add_params, output_zero_point)
    TFMIX_SIZE_(tfmix_add_params)
    TFMIX_FIELD_(tfmix_multiply_params, elements)
    TFMIX_FIELD_(tfmix_multiply_params, second_elements)
    TFMIX_FIELD_(tfmix_multiply_params, zero_point_a)
    TFMIX_FIELD_(tfmix_multiply_params, zero_point_b)
    TFMIX_FIELD_(tfmix_multiply_params, output_zero_point)
    TFMIX_FIELD_(tfmix_multiply_params, multiplier)
    TFMIX_FIELD_(tfmix_multiply_params, left_shift)
    TFMIX_SIZE_(tfmix_multiply_params)
    TFMIX_FIELD_(tfmix_concatenate_params, pixels)
    TFMIX_FIELD_(tfmix_concatenate_params, output_channels)
    TFMIX_FIELD_(tfmix_concatenate_params, output_zero_point)
    TFMIX_FIELD_(tfmix_concatenate_params, input_count)
    TFMIX_SIZE_(tfmix_concatenate_params)
    TFMIX_FIELD_(tfmix_concatenate_input, channels)
    TFMIX_FIELD_(tfmix_concatenate_input, bits)
    TFMIX_FIELD_(tfmix_concatenate_input, zero_point)
    TFMIX_FIELD_(tfmix_concatenate_input, multiplier)
    TFMIX_FIELD_(tfmix_concatenate_input, left_shift)
    TFMIX_SIZE_(tfmix_concatenate_input)
    TFMIX_FIELD_(tfmix_requantize_params, elements)
    TFMIX_FIELD_(tfmix_requantize_params, input_zero_point)
    TFMIX_FIELD_(tfmix_requantize_params, output_zero_point)
    TFMIX_FIELD_(tfmix_requantize_params, multiplier)
    TFMIX_FIELD_(tfmix_requantize_params, left_shift)
    TFMIX_SIZE_(tfmix_requantize_params)
    TFMIX_FIELD_(tfmix_lookup_params, elements)
    TFMIX_FIELD_(tfmix_lookup_params, output_zero_point)
    TFMIX_SIZE_(tfmix_lookup_params)
    TFMIX_WINDOW_FIELDS_(tfmix_average_pool_params)
    TFMIX_FIELD_(tfmix_average_pool_params, input_zero_point)
    TFMIX_FIELD_(tfmix_average_pool_params, output_zero_point)
    TFMIX_FIELD_(tfmix_average_pool_params, multiplier)
    TFMIX_FIELD_(tfmix_average_pool_params, left_shift)
    TFMIX_SIZE_(tfmix_average_pool_params)
    TFMIX_WINDOW_FIELDS_(tfmix_max_pool_params)
    TFMIX_SIZE_(tfmix_max_pool_params)
    TFMIX_FIELD_(tfmix_pad_params, input_height)
    TFMIX_FIELD_(tfmix_pad_params, input_width)
    TFMIX_FIELD_(tfmix_pad_params, channels)
    TFMIX_FIELD_(tfmix_pad_params, pad_top)
    TFMIX_FIELD_(tfmix_pad_params, pad_bottom)
    TFMIX_FIELD_(tfmix_pad_params, pad_left)
    TFMIX_FIELD_(tfmix_pad_params, pad_right)
    TFMIX_FIELD_(tfmix_pad_params, zero_point)
    TFMIX_SIZE_(tfmix_pad_params)
    TFMIX_FIELD_(tfmix_softmax_params, rows)
    TFMIX_FIELD_(tfmix_softmax_params, classes)
    TFMIX_FIELD_(tfmix_softmax_params, table_size)
    TFMIX_SIZE_(tfmix_softmax_params)
    TFMIX_FIELD_(tfmix_variant, input_bits)
    TFMIX_FIELD_(tfmix_variant, second_input_bits)
    TFMIX_FIELD_(tfmix_variant, weight_bits)
    TFMIX_FIELD_(tfmix_variant, output_bits)
    TFMIX_FIELD_(tfmix_variant, per_channel)
    TFMIX_SIZE_(tfmix_variant)
    TFMIX_FIELD_(tfmix_sizes, input)
    TFMIX_FIELD_(tfmix_sizes, second_input)
    TFMIX_FIELD_(tfmix_sizes, constants)
    TFMIX_FIELD_(tfmix_sizes, output)
    TFMIX_FIELD_(tfmix_sizes, scratch)
    TFMIX_SIZE_(tfmix_sizes)
    TFMIX_FIELD_(tfmix_stream_layer, kernel)
    TFMIX_VARIANT_FIELD_(tfmix_stream_layer, input_bits)
    TFMIX_VARIANT_FIELD_(tfmix_stream_layer, second_input_bits)
    TFMIX_VARIANT_FIELD_(tfmix_stream_layer, weight_bits)
    TFMIX_VARIANT_FIELD_(tfmix_stream_layer, output_bits)
    TFMIX_VARIANT_FIELD_(tfmix_stream_layer, per_channel)
    TFMIX_FIELD_(tfmix_stream_layer, rows)
    TFMIX_FIELD_(tfmix_stream_layer, band)
    TFMIX_FIELD_(tfmix_stream_layer, buffer_rows)
    TFMIX_FIELD_(tfmix_stream_layer, input)
    TFMIX_FIELD_(tfmix_stream_layer, second_input)
    TFMIX_FIELD_(tfmix_stream_layer, params)
    TFMIX_SIZE_(tfmix_stream_layer)
    TFMIX_FIELD_(tfmix_stream_kernel, kernel)
    TFMIX_FIELD_(tfmix_stream_kernel, variant)
    TFMIX_FIELD_(tfmix_stream_kernel, prepare)
    TFMIX_FIELD_(tfmix_stream_kernel, run)
    TFMIX_SIZE_(tfmix_stream_kernel)
    TFMIX_FIELD_(tfmix_stream, layers)
    TFMIX_FIELD_(tfmix_stream, layer_count)
    TFMIX_FIELD_(tfmix_stream, input_count)
    TFMIX_FIELD_(tfmix_stream, input_rows)
    TFMIX_FIELD_(tfmix_stream, kernels)
    TFMIX_FIELD_(tfmix_stream, kernel_count)
    TFMIX_SIZE_(tfmix_stream)
    TFMIX_FIELD_(tfmix_stream_sizes, output)
    TFMIX_FIELD_(tfmix_stream_sizes, scratch)
    TFMIX_FIELD_(tfmix_stream_sizes, distance)
    TFMIX_SIZE_(tfmix_stream_sizes)
    // clang-format on
};

#define TFMIX_NAME_AWOZ_(a_, w_, o_, z_) "a" #a_ "w" #w_ "o" #o_ "_" #z_ " "
#define TFMIX_NAME_CONV2D_(a_, w_, o_, z_) "conv2d_" TFMIX_NAME_AWOZ_(a_, w_, o_, z_)
#define TFMIX_NAME_DEPTHWISE_CONV2D_(a_, w_, o_, z_) \
  "depthwise_conv2d_" TFMIX_NAME_AWOZ_(a_, w_, o_, z_)
#define TFMIX_NAME_FULLY_CONNECTED_(a_, w_, o_, z_) \
  "fully_connected_" TFMIX_NAME_AWOZ_(a_, w_, o_, z_)
#define TFMIX_NAME_ADD_(a_, b_, o_) "add_a" #a_ "b" #b_ "o" #o_ " "
#define TFMIX_NAME_MULTIPLY_(a_, b_, o_) "multiply_a" #a_ "b" #b_ "o" #o_ " "
#define TFMIX_NAME_CONCATENATE_(o_) "concatenate_o" #o_ " "
#define TFMIX_NAME_REQUANTIZE_(a_, o_) "requantize_a" #a_ "o" #o_ " "
#define TFMIX_NAME_LOOKUP_(a_, o_) "lookup_a" #a_ "o" #o_ " "
#define TFMIX_NAME_AVERAGE_POOL_(a_, o_) "average_pool_a" #a_ "o" #o_ " "
#define TFMIX_NAME_MAX_POOL_(a_) "max_pool_a" #a_ " "
#define TFMIX_NAME_PAD_(a_) "pad_a" #a_ " "
#define TFMIX_NAME_SOFTMAX_(a_, o_) "softmax_a" #a_ "o" #o_ " "

// clang-format off
constexpr char kVariants[] =
    TFMIX_CONV2D_VARIANTS(TFMIX_NAME_CONV2D_)
    TFMIX_DEPTHWISE_CONV2D_VARIANTS(TFMIX_NAME_DEPTHWISE_CONV2D_)
    TFMIX_FULLY_CONNECTED_VARIANTS(TFMIX_NAME_FULLY_CONNECTED_)
    TFMIX_ADD_VARIANTS(TFMIX_NAME_ADD_)
    TFMIX_MULTIPLY_VARIANTS(TFMIX_NAME_MULTIPLY_)
    TFMIX_CONCATENATE_VARIANTS(TFMIX_NAME_CONCATENATE_)
    TFMIX_REQUANTIZE_VARIANTS(TFMIX_NAME_REQUANTIZE_)
    TFMIX_LOOKUP_VARIANTS(TFMIX_NAME_LOOKUP_)
    TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_NAME_AVERAGE_POOL_)
    TFMIX_MAX_POOL_VARIANTS(TFMIX_NAME_MAX_POOL_)
    TFMIX_PAD_VARIANTS(TFMIX_NAME_PAD_)
    TFMIX_SOFTMAX_VARIANTS(TFMIX_NAME_SOFTMAX_);
// clang-format on

}  // namespace

const tfmix_host_field* tfmix_host_fields(int32_t* count) {
  *count = static_cast<int32_t>(sizeof(kFields) / sizeof(kFields[0]));
  return kFields;
}

const char* tfmix_host_variants(void) { return kVariants; }
