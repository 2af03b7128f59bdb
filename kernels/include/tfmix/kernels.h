/* The tfmix kernels: integer-only inference on 2-, 4- and 8-bit tensors.
 *
 * A kernel is used in two steps.
 *
 *   1. tfmix_<kernel>_prepare checks every field of the parameters against every limit and returns
 *      the exact sizes in bytes of all buffers. The caller compares them with what it has. Do this
 *      once, when a model is loaded.
 *   2. tfmix_<variant> computes. It trusts what prepare has seen and checks nothing.
 *
 * Nothing that prepare accepts makes a kernel read or write outside buffers of those sizes, divide
 * by zero or run into undefined behaviour, whatever the contents of the buffers.
 *
 * Tensors are unsigned b-bit values packed without gaps: element i occupies the bits
 * [i * b mod 8, i * b mod 8 + b) of byte i * b div 8. Images are stored by rows, columns, channels;
 * a row or pixel may start inside a byte. Kernels write all bytes of their output and none beyond,
 * and leave the unused high bits of its last byte zero. Output and inputs must not overlap.
 *
 * Parameters are fields of 4 bytes without padding, little-endian in files; tfmix/integer/abi.py is
 * the same declaration in Python. docs/arithmetic.md defines what is computed.
 *
 * The kernels need no heap and no global data, do not recurse, and use less than 1024 bytes of
 * stack. They can be called from several threads at once.
 */
#ifndef TFMIX_KERNELS_H_
#define TFMIX_KERNELS_H_

#include <stdint.h>

#include "tfmix/variants.inc"

#if defined(__GNUC__)
#define TFMIX_API __attribute__((visibility("default")))
#else
#define TFMIX_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status -------------------------------------------------------------------------------- */

/* What a prepare function has found. */
typedef enum tfmix_status {
  TFMIX_OK = 0,
  TFMIX_BAD_BITS = 1,       /* there is no such variant */
  TFMIX_BAD_SHAPE = 2,      /* a size is not positive, or sizes contradict each other */
  TFMIX_BAD_WINDOW = 3,     /* an output has a window without any element of the image */
  TFMIX_BAD_ZERO_POINT = 4, /* a zero point is outside the range of its tensor */
  TFMIX_BAD_RESCALE = 5,    /* a multiplier, its count, or a shift is outside its range */
  TFMIX_TOO_LARGE = 6,      /* a size in bytes or an accumulator would leave int32 */
  TFMIX_NO_KERNEL = 7,      /* tfmix/stream.h: a kernel is not among those that are linked */
  TFMIX_BAD_CHAIN = 8,      /* tfmix/stream.h: layers do not make a chain */
  TFMIX_BAD_ROWS = 9        /* tfmix/stream.h: another number of rows has to be kept */
} tfmix_status;

/* A sentence for people. Never NULL. */
TFMIX_API const char* tfmix_status_message(tfmix_status status);

/* The bits of a variant, for prepare. Fields that a kernel has no use for are ignored. */
typedef struct tfmix_variant {
  int32_t input_bits;        /* of the first input where there are two */
  int32_t second_input_bits; /* add, multiply */
  int32_t weight_bits;       /* conv2d, depthwise_conv2d, fully_connected */
  int32_t output_bits;       /* all but max_pool and pad, whose output has the input's */
  int32_t per_channel;       /* weight zero points: 1 = one per output channel, 0 = one */
} tfmix_variant;

/* Exact sizes of a kernel's buffers in bytes. Zero where there is no such buffer. */
typedef struct tfmix_sizes {
  int32_t input;        /* the first input where there are two */
  int32_t second_input; /* add, multiply */
  int32_t constants;    /* weights with all that belongs to them, or a table */
  int32_t output;
  int32_t scratch; /* contents are lost between calls; must be aligned to 4 bytes */
} tfmix_sizes;

/* ---- Parameters ---------------------------------------------------------------------------- */

/* The fields of a sliding window, the same in all three structs that begin with them. Output pixel
 * (y, x) sees input rows [y * stride_height - pad_top, ... + kernel_height), columns likewise.
 * Padding at the bottom and on the right is what the output size implies. */

/* conv2d and depthwise_conv2d. In the latter, output channel c reads input channel
 * c / (output_channels / input_channels). */
typedef struct tfmix_conv_params {
  int32_t input_height;
  int32_t input_width;
  int32_t input_channels;
  int32_t output_height;
  int32_t output_width;
  int32_t output_channels;
  int32_t kernel_height;
  int32_t kernel_width;
  int32_t stride_height;
  int32_t stride_width;
  int32_t pad_top;
  int32_t pad_left;
  int32_t input_zero_point; /* what padding reads; otherwise it is folded into the bias */
  int32_t output_zero_point;
  int32_t left_shift;
  int32_t multiplier_count; /* 1 or output_channels */
} tfmix_conv_params;

typedef struct tfmix_fully_connected_params {
  int32_t input_features;
  int32_t output_features;
  int32_t output_zero_point;
  int32_t left_shift;
  int32_t multiplier_count; /* 1 or output_features */
} tfmix_fully_connected_params;

typedef struct tfmix_add_params {
  int32_t elements;
  int32_t multiplier_a;
  int32_t multiplier_b;
  int32_t offset;
  int32_t shift; /* to the right, 1 to 31 */
  int32_t output_zero_point;
} tfmix_add_params;

/* Element i of the first input is multiplied by element i modulo second_elements of the second. */
typedef struct tfmix_multiply_params {
  int32_t elements;        /* of the first input and of the output */
  int32_t second_elements; /* a divisor of elements */
  int32_t zero_point_a;
  int32_t zero_point_b;
  int32_t output_zero_point;
  int32_t multiplier; /* positive */
  int32_t left_shift; /* of the product */
} tfmix_multiply_params;

/* Comes with an array of `input_count` tfmix_concatenate_input. */
typedef struct tfmix_concatenate_params {
  int32_t pixels;
  int32_t output_channels; /* sum of the channels of all inputs */
  int32_t output_zero_point;
  int32_t input_count;
} tfmix_concatenate_params;

typedef struct tfmix_concatenate_input {
  int32_t channels;
  int32_t bits;
  int32_t zero_point;
  int32_t multiplier;
  int32_t left_shift;
} tfmix_concatenate_input;

typedef struct tfmix_requantize_params {
  int32_t elements;
  int32_t input_zero_point;
  int32_t output_zero_point;
  int32_t multiplier;
  int32_t left_shift;
} tfmix_requantize_params;

typedef struct tfmix_lookup_params {
  int32_t elements;
  int32_t output_zero_point; /* which the table has in it */
} tfmix_lookup_params;

typedef struct tfmix_average_pool_params {
  int32_t input_height;
  int32_t input_width;
  int32_t input_channels;
  int32_t output_height;
  int32_t output_width;
  int32_t output_channels; /* equal to input_channels */
  int32_t kernel_height;
  int32_t kernel_width;
  int32_t stride_height;
  int32_t stride_width;
  int32_t pad_top;
  int32_t pad_left;
  int32_t input_zero_point;
  int32_t output_zero_point;
  int32_t multiplier; /* positive */
  int32_t left_shift;
} tfmix_average_pool_params;

typedef struct tfmix_max_pool_params {
  int32_t input_height;
  int32_t input_width;
  int32_t input_channels;
  int32_t output_height;
  int32_t output_width;
  int32_t output_channels; /* equal to input_channels */
  int32_t kernel_height;
  int32_t kernel_width;
  int32_t stride_height;
  int32_t stride_width;
  int32_t pad_top;
  int32_t pad_left;
} tfmix_max_pool_params;

typedef struct tfmix_pad_params {
  int32_t input_height;
  int32_t input_width;
  int32_t channels;
  int32_t pad_top;
  int32_t pad_bottom;
  int32_t pad_left;
  int32_t pad_right;
  int32_t zero_point;
} tfmix_pad_params;

typedef struct tfmix_softmax_params {
  int32_t rows;
  int32_t classes;    /* at most 32767 */
  int32_t table_size; /* entries of uint16, 1 to 256 */
} tfmix_softmax_params;

/* ---- Prepare -------------------------------------------------------------------------------
 *
 * Each returns TFMIX_OK and fills `sizes`, or says what is wrong and leaves `sizes` undefined.
 *
 * The limits, besides those beside the fields: every size, kernel and stride is at least 1; a
 * tensor has at most 2^30 elements and a buffer at most 2^31 - 1 bytes; 0 <= padding < kernel;
 * every window holds an element of the image; 0 <= zero point <= 2^bits - 1; 0 <= left_shift <= 31.
 * Where the parameters alone decide it, no intermediate value leaves int32; for the kernels with
 * weights this is K * (2^input_bits - 1) * (2^weight_bits - 1) <= 2^31 - 1 with K products per
 * output, and for conv2d and fully_connected K * (2^input_bits - 1) * 255 <= 2^32 - 1.
 */

TFMIX_API tfmix_status tfmix_conv2d_prepare(const tfmix_conv_params* params,
                                            const tfmix_variant* variant, tfmix_sizes* sizes);
TFMIX_API tfmix_status tfmix_depthwise_conv2d_prepare(const tfmix_conv_params* params,
                                                      const tfmix_variant* variant,
                                                      tfmix_sizes* sizes);
TFMIX_API tfmix_status tfmix_fully_connected_prepare(const tfmix_fully_connected_params* params,
                                                     const tfmix_variant* variant,
                                                     tfmix_sizes* sizes);
TFMIX_API tfmix_status tfmix_add_prepare(const tfmix_add_params* params,
                                         const tfmix_variant* variant, tfmix_sizes* sizes);
TFMIX_API tfmix_status tfmix_multiply_prepare(const tfmix_multiply_params* params,
                                              const tfmix_variant* variant, tfmix_sizes* sizes);
/* `descriptions` and `input_sizes` have `description_count` entries, and params->input_count must
 * be equal to it. The sizes of the inputs go to `input_sizes`, sizes->input is their sum. */
TFMIX_API tfmix_status tfmix_concatenate_prepare(const tfmix_concatenate_params* params,
                                                 const tfmix_concatenate_input* descriptions,
                                                 int32_t description_count,
                                                 const tfmix_variant* variant, int32_t* input_sizes,
                                                 tfmix_sizes* sizes);
TFMIX_API tfmix_status tfmix_requantize_prepare(const tfmix_requantize_params* params,
                                                const tfmix_variant* variant, tfmix_sizes* sizes);
TFMIX_API tfmix_status tfmix_lookup_prepare(const tfmix_lookup_params* params,
                                            const tfmix_variant* variant, tfmix_sizes* sizes);
TFMIX_API tfmix_status tfmix_average_pool_prepare(const tfmix_average_pool_params* params,
                                                  const tfmix_variant* variant, tfmix_sizes* sizes);
TFMIX_API tfmix_status tfmix_max_pool_prepare(const tfmix_max_pool_params* params,
                                              const tfmix_variant* variant, tfmix_sizes* sizes);
TFMIX_API tfmix_status tfmix_pad_prepare(const tfmix_pad_params* params,
                                         const tfmix_variant* variant, tfmix_sizes* sizes);
TFMIX_API tfmix_status tfmix_softmax_prepare(const tfmix_softmax_params* params,
                                             const tfmix_variant* variant, tfmix_sizes* sizes);

/* ---- Kernels -------------------------------------------------------------------------------
 *
 * One function per variant, for instance
 *
 *     void tfmix_conv2d_a8w4o2_pc(const tfmix_conv_params* params, const uint8_t* input,
 *                                 const uint8_t* constants, uint8_t* output, void* scratch);
 *
 * `constants` of a kernel with weights, oc = output channels:
 *
 *     int32 bias[oc] | int32 multiplier[multiplier_count] | packed weights | uint8 zero_point[oc|1]
 *
 * with left_shift fractional bits in the bias and with the weights by [kernel row][kernel column]
 * [oc] in depthwise_conv2d, in the tiles of docs/format.md in conv2d and fully_connected. The
 * latter two need them aligned to 4 bytes on a Cortex-M with DSP instructions; otherwise they may
 * lie anywhere. Where prepare asks for no scratch, `scratch` may be NULL.
 */

#define TFMIX_DECLARE_WEIGHTED_(name_, params_)                                               \
  TFMIX_API void name_(const params_* params, const uint8_t* input, const uint8_t* constants, \
                       uint8_t* output, void* scratch);
#define TFMIX_DECLARE_UNARY_(name_, params_) \
  TFMIX_API void name_(const params_* params, const uint8_t* input, uint8_t* output);

#define TFMIX_DECLARE_CONV2D_(a_, w_, o_, z_) \
  TFMIX_DECLARE_WEIGHTED_(tfmix_conv2d_a##a_##w##w_##o##o_##_##z_, tfmix_conv_params)
#define TFMIX_DECLARE_DEPTHWISE_CONV2D_(a_, w_, o_, z_) \
  TFMIX_DECLARE_WEIGHTED_(tfmix_depthwise_conv2d_a##a_##w##w_##o##o_##_##z_, tfmix_conv_params)
#define TFMIX_DECLARE_FULLY_CONNECTED_(a_, w_, o_, z_)                      \
  TFMIX_DECLARE_WEIGHTED_(tfmix_fully_connected_a##a_##w##w_##o##o_##_##z_, \
                          tfmix_fully_connected_params)
#define TFMIX_DECLARE_ADD_(a_, b_, o_)                                                           \
  TFMIX_API void tfmix_add_a##a_##b##b_##o##o_(const tfmix_add_params* params, const uint8_t* a, \
                                               const uint8_t* b, uint8_t* output);
#define TFMIX_DECLARE_MULTIPLY_(a_, b_, o_)          \
  TFMIX_API void tfmix_multiply_a##a_##b##b_##o##o_( \
      const tfmix_multiply_params* params, const uint8_t* a, const uint8_t* b, uint8_t* output);
#define TFMIX_DECLARE_CONCATENATE_(o_)                                                \
  TFMIX_API void tfmix_concatenate_o##o_(const tfmix_concatenate_params* params,      \
                                         const tfmix_concatenate_input* descriptions, \
                                         const uint8_t* const* inputs, uint8_t* output);
#define TFMIX_DECLARE_REQUANTIZE_(a_, o_) \
  TFMIX_DECLARE_UNARY_(tfmix_requantize_a##a_##o##o_, tfmix_requantize_params)
/* `table`: 2^a uint8 below 2^o, one for each value of the input. */
#define TFMIX_DECLARE_LOOKUP_(a_, o_)                                                  \
  TFMIX_API void tfmix_lookup_a##a_##o##o_(const tfmix_lookup_params* params,          \
                                           const uint8_t* input, const uint8_t* table, \
                                           uint8_t* output);
#define TFMIX_DECLARE_AVERAGE_POOL_(a_, o_) \
  TFMIX_DECLARE_UNARY_(tfmix_average_pool_a##a_##o##o_, tfmix_average_pool_params)
#define TFMIX_DECLARE_MAX_POOL_(a_) \
  TFMIX_DECLARE_UNARY_(tfmix_max_pool_a##a_, tfmix_max_pool_params)
#define TFMIX_DECLARE_PAD_(a_) TFMIX_DECLARE_UNARY_(tfmix_pad_a##a_, tfmix_pad_params)
/* `table`: table_size little-endian uint16, at any alignment. */
#define TFMIX_DECLARE_SOFTMAX_(a_, o_)                                                  \
  TFMIX_API void tfmix_softmax_a##a_##o##o_(const tfmix_softmax_params* params,         \
                                            const uint8_t* input, const uint8_t* table, \
                                            uint8_t* output);

TFMIX_CONV2D_VARIANTS(TFMIX_DECLARE_CONV2D_)
TFMIX_DEPTHWISE_CONV2D_VARIANTS(TFMIX_DECLARE_DEPTHWISE_CONV2D_)
TFMIX_FULLY_CONNECTED_VARIANTS(TFMIX_DECLARE_FULLY_CONNECTED_)
TFMIX_ADD_VARIANTS(TFMIX_DECLARE_ADD_)
TFMIX_MULTIPLY_VARIANTS(TFMIX_DECLARE_MULTIPLY_)
TFMIX_CONCATENATE_VARIANTS(TFMIX_DECLARE_CONCATENATE_)
TFMIX_REQUANTIZE_VARIANTS(TFMIX_DECLARE_REQUANTIZE_)
TFMIX_LOOKUP_VARIANTS(TFMIX_DECLARE_LOOKUP_)
TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_DECLARE_AVERAGE_POOL_)
TFMIX_MAX_POOL_VARIANTS(TFMIX_DECLARE_MAX_POOL_)
TFMIX_PAD_VARIANTS(TFMIX_DECLARE_PAD_)
TFMIX_SOFTMAX_VARIANTS(TFMIX_DECLARE_SOFTMAX_)

#undef TFMIX_DECLARE_WEIGHTED_
#undef TFMIX_DECLARE_UNARY_
#undef TFMIX_DECLARE_CONV2D_
#undef TFMIX_DECLARE_DEPTHWISE_CONV2D_
#undef TFMIX_DECLARE_FULLY_CONNECTED_
#undef TFMIX_DECLARE_ADD_
#undef TFMIX_DECLARE_MULTIPLY_
#undef TFMIX_DECLARE_CONCATENATE_
#undef TFMIX_DECLARE_REQUANTIZE_
#undef TFMIX_DECLARE_LOOKUP_
#undef TFMIX_DECLARE_AVERAGE_POOL_
#undef TFMIX_DECLARE_MAX_POOL_
#undef TFMIX_DECLARE_PAD_
#undef TFMIX_DECLARE_SOFTMAX_

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* TFMIX_KERNELS_H_ */
