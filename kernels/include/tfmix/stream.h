/* Chains of layers that run row by row, so that the tensors between them are never whole.
 *
 * A chain is layers of which each reads what earlier ones write. Rows are made on demand: the last
 * layer wants the input rows of its next row, the layer that makes these wants those of its own,
 * and so on; every row is made once. Of a tensor in between only as many rows are kept as later
 * rows still read, one after the other in a buffer. The kernels are those of kernels.h: one call
 * makes a band of rows, most often one.
 *
 *     made[t] = rows of tensor t that exist
 *     while made[output] < rows of the output:
 *         layer = the last one
 *         until no row of its inputs is missing for its next band:
 *             layer = the one that makes the first such input
 *         make the band
 *
 * A chain is used like a kernel: tfmix_stream_prepare checks everything that a file may have wrong
 * and returns the sizes of all buffers, tfmix_stream_run checks nothing. There is no heap and no
 * global data, and all state is in scratch; beside what a kernel takes, run needs less than 768
 * bytes of stack and prepare less than 1024. docs/streaming.md explains the method, docs/format.md
 * how a file holds a chain.
 */
#ifndef TFMIX_STREAM_H_
#define TFMIX_STREAM_H_

#include <stdint.h>

#include "tfmix/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TFMIX_STREAM_MOST_LAYERS 64
#define TFMIX_STREAM_MOST_INPUTS 64
#define TFMIX_STREAM_MOST_OPERANDS (TFMIX_STREAM_MOST_LAYERS + TFMIX_STREAM_MOST_INPUTS)
#define TFMIX_STREAM_MOST_ROWS 65535

/* tfmix_stream_layer::kernel. */
typedef enum tfmix_stream_kind {
  TFMIX_STREAM_CONV2D = 1,
  TFMIX_STREAM_DEPTHWISE_CONV2D = 2,
  TFMIX_STREAM_ADD = 3,
  TFMIX_STREAM_REQUANTIZE = 4,
  TFMIX_STREAM_AVERAGE_POOL = 5,
  TFMIX_STREAM_MAX_POOL = 6,
  /* average_pool with a window of the whole image, as running sums of each channel: the last layer
   * only. It takes in one row at a time and writes its pixel after the last one. */
  TFMIX_STREAM_AVERAGE_POOL_ROWS = 7
} tfmix_stream_kind;

/* One layer: 27 fields of 4 bytes. */
typedef struct tfmix_stream_layer {
  int32_t kernel;        /* tfmix_stream_kind */
  tfmix_variant variant; /* fields that the kernel has no use for are 0 */
  int32_t rows;          /* of the output */
  int32_t band;          /* rows that one call makes; the last call makes what is left */
  int32_t buffer_rows;   /* of the output that are kept at once; 0 for the last layer */
  /* A tensor: 0 to input_count - 1 are the chain's inputs, input_count + i is the output of layer
   * i, which comes before this one. */
  int32_t input;
  int32_t second_input; /* add; otherwise -1 */
  union {
    int32_t fields[16]; /* those behind the kernel's own are 0 */
    tfmix_conv_params conv;
    tfmix_add_params add;
    tfmix_requantize_params requantize;
    tfmix_average_pool_params average_pool;
    tfmix_max_pool_params max_pool;
  } params; /* of the whole layer */
} tfmix_stream_layer;

typedef void (*tfmix_stream_function)(void);

/* A variant of a kernel that chains may use: what is listed is linked, and no other. */
typedef struct tfmix_stream_kernel {
  int32_t kernel; /* tfmix_stream_kind */
  tfmix_variant variant;
  tfmix_stream_function prepare; /* tfmix_<kernel>_prepare */
  tfmix_stream_function run;     /* tfmix_<variant> */
} tfmix_stream_kernel;

typedef struct tfmix_stream {
  const uint8_t* layers; /* layer_count tfmix_stream_layer, little-endian, at any address */
  int32_t layer_count;
  int32_t input_count;
  int32_t input_rows; /* of input 0 that are kept at once, if it comes row by row; 0: it is whole */
  const tfmix_stream_kernel* kernels; /* in any order, at most 65535 */
  int32_t kernel_count;
} tfmix_stream;

/* Exact sizes in bytes, beside those of the operands. */
typedef struct tfmix_stream_sizes {
  int32_t output;
  int32_t scratch; /* aligned to 4 bytes; contents are lost between runs */
  /* The output may overlap input 0 if it begins at least so many bytes below it: no row is
   * overwritten that is read later. Without meaning where input 0 comes row by row. */
  int32_t distance;
} tfmix_stream_sizes;

/* Operands are the chain's inputs and behind them, layer by layer, the constants of those that have
 * any: operand_count in all. Their sizes go to operand_sizes; that of input 0 is of one row where
 * it comes row by row.
 *
 * Besides what a layer's kernel has against its parameters: TFMIX_NO_KERNEL if `kernels` lacks its
 * variant; TFMIX_BAD_CHAIN if a count is outside its limits, layers disagree about a tensor, a row
 * is not whole bytes, or an input or an output is read by no layer; TFMIX_BAD_ROWS if another
 * number of rows has to be kept than the layer says, no more and no less. */
TFMIX_API tfmix_status tfmix_stream_prepare(const tfmix_stream* stream, int32_t* operand_sizes,
                                            int32_t operand_count, tfmix_stream_sizes* sizes);

/* Computes the output of inputs that are whole. Inputs other than input 0 must be apart from the
 * output, input 0 apart or tfmix_stream_sizes::distance above it: then it is destroyed. */
TFMIX_API void tfmix_stream_run(const tfmix_stream* stream, const uint8_t* const* operands,
                                uint8_t* output, void* scratch);

/* The same where input 0 comes row by row: begin, then feed each row as it arrives, from the first
 * to the last. operands[0] is not looked at; `row` may be overwritten when feed returns. feed
 * returns how many rows of the output are there; rows fed after the last of them are ignored. */
TFMIX_API void tfmix_stream_begin(const tfmix_stream* stream, void* scratch);
TFMIX_API int32_t tfmix_stream_feed(const tfmix_stream* stream, const uint8_t* row,
                                    const uint8_t* const* operands, uint8_t* output, void* scratch);

/* ---- Running sums ---------------------------------------------------------------------------
 *
 * For each variant of average_pool, for instance
 *
 *     void tfmix_average_pool_rows_a8o8(const tfmix_average_pool_params* params, int32_t row,
 *                                       const uint8_t* input, uint8_t* output, int32_t* sums);
 *
 * `input` is row number `row` of the image, which the window covers; `sums` has one entry for each
 * channel, and what it holds is lost when row 0 comes. The output is written with the last row. */
#define TFMIX_DECLARE_AVERAGE_POOL_ROWS_(a_, o_)                                               \
  TFMIX_API void tfmix_average_pool_rows_a##a_##o##o_(const tfmix_average_pool_params* params, \
                                                      int32_t row, const uint8_t* input,       \
                                                      uint8_t* output, int32_t* sums);
TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_DECLARE_AVERAGE_POOL_ROWS_)
#undef TFMIX_DECLARE_AVERAGE_POOL_ROWS_

/* ---- Entries of tfmix_stream::kernels --------------------------------------------------------
 *
 *     static const tfmix_stream_kernel kernels[] = {TFMIX_STREAM_KERNEL_CONV2D(8, 4, 8, pc)
 *                                                   TFMIX_STREAM_KERNEL_ADD(8, 8, 8)};
 *
 * with the parts of the variant's name as in variants.inc. */
#ifdef __cplusplus
#define TFMIX_STREAM_FUNCTION_(name_) reinterpret_cast<tfmix_stream_function>(name_)
#else
#define TFMIX_STREAM_FUNCTION_(name_) (tfmix_stream_function) name_
#endif
#define TFMIX_STREAM_PER_CHANNEL_pc 1
#define TFMIX_STREAM_PER_CHANNEL_pl 0

#define TFMIX_STREAM_KERNEL_CONV2D(a_, w_, o_, z_) \
  {TFMIX_STREAM_CONV2D,                            \
   {a_, 0, w_, o_, TFMIX_STREAM_PER_CHANNEL_##z_}, \
   TFMIX_STREAM_FUNCTION_(tfmix_conv2d_prepare),   \
   TFMIX_STREAM_FUNCTION_(tfmix_conv2d_a##a_##w##w_##o##o_##_##z_)},
#define TFMIX_STREAM_KERNEL_DEPTHWISE_CONV2D(a_, w_, o_, z_) \
  {TFMIX_STREAM_DEPTHWISE_CONV2D,                            \
   {a_, 0, w_, o_, TFMIX_STREAM_PER_CHANNEL_##z_},           \
   TFMIX_STREAM_FUNCTION_(tfmix_depthwise_conv2d_prepare),   \
   TFMIX_STREAM_FUNCTION_(tfmix_depthwise_conv2d_a##a_##w##w_##o##o_##_##z_)},
#define TFMIX_STREAM_KERNEL_ADD(a_, b_, o_)   \
  {TFMIX_STREAM_ADD,                          \
   {a_, b_, 0, o_, 0},                        \
   TFMIX_STREAM_FUNCTION_(tfmix_add_prepare), \
   TFMIX_STREAM_FUNCTION_(tfmix_add_a##a_##b##b_##o##o_)},
#define TFMIX_STREAM_KERNEL_REQUANTIZE(a_, o_)       \
  {TFMIX_STREAM_REQUANTIZE,                          \
   {a_, 0, 0, o_, 0},                                \
   TFMIX_STREAM_FUNCTION_(tfmix_requantize_prepare), \
   TFMIX_STREAM_FUNCTION_(tfmix_requantize_a##a_##o##o_)},
#define TFMIX_STREAM_KERNEL_AVERAGE_POOL(a_, o_)       \
  {TFMIX_STREAM_AVERAGE_POOL,                          \
   {a_, 0, 0, o_, 0},                                  \
   TFMIX_STREAM_FUNCTION_(tfmix_average_pool_prepare), \
   TFMIX_STREAM_FUNCTION_(tfmix_average_pool_a##a_##o##o_)},
#define TFMIX_STREAM_KERNEL_MAX_POOL(a_)           \
  {TFMIX_STREAM_MAX_POOL,                          \
   {a_, 0, 0, 0, 0},                               \
   TFMIX_STREAM_FUNCTION_(tfmix_max_pool_prepare), \
   TFMIX_STREAM_FUNCTION_(tfmix_max_pool_a##a_)},
#define TFMIX_STREAM_KERNEL_AVERAGE_POOL_ROWS(a_, o_)  \
  {TFMIX_STREAM_AVERAGE_POOL_ROWS,                     \
   {a_, 0, 0, o_, 0},                                  \
   TFMIX_STREAM_FUNCTION_(tfmix_average_pool_prepare), \
   TFMIX_STREAM_FUNCTION_(tfmix_average_pool_rows_a##a_##o##o_)},

/* Entries of all kernels that chains can use. Not for a firmware: it links every one of them. */
#define TFMIX_STREAM_ALL_KERNELS                                        \
  TFMIX_CONV2D_VARIANTS(TFMIX_STREAM_KERNEL_CONV2D)                     \
  TFMIX_DEPTHWISE_CONV2D_VARIANTS(TFMIX_STREAM_KERNEL_DEPTHWISE_CONV2D) \
  TFMIX_ADD_VARIANTS(TFMIX_STREAM_KERNEL_ADD)                           \
  TFMIX_REQUANTIZE_VARIANTS(TFMIX_STREAM_KERNEL_REQUANTIZE)             \
  TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_STREAM_KERNEL_AVERAGE_POOL)         \
  TFMIX_MAX_POOL_VARIANTS(TFMIX_STREAM_KERNEL_MAX_POOL)                 \
  TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_STREAM_KERNEL_AVERAGE_POOL_ROWS)

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* TFMIX_STREAM_H_ */
