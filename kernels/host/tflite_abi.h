// What a delegate touches of the C ABI of TensorFlow Lite: structs that the interpreter and its
// plug-ins share in memory, declared anew so that nothing of TensorFlow is needed to build them.
//
// TensorFlow Lite calls these structs semi-stable: fields may be added at their ends and are never
// moved. So a struct that is only reached by pointer is declared up to the last field that is used
// here. Whole are `Tensor`, of which there are arrays, `Registration`, which is passed by value,
// and `Delegate`, which is made here. The names of fields are those of TensorFlow Lite, where a
// reader may want to look them up.
//
// The assertions below hold the offsets on every 64-bit machine. Whether an interpreter really
// has this layout is looked at when a delegate is applied, see LayoutIsPlausible in delegate.cc.
#ifndef TFMIX_HOST_TFLITE_ABI_H_
#define TFMIX_HOST_TFLITE_ABI_H_

#include <cstddef>
#include <cstdint>

namespace tfmix::tflite {

enum Status : int32_t { kOk = 0, kError = 1 };

enum Type : int32_t { kUInt8 = 3 };

enum AllocationType : int32_t { kMmapRo = 1 };  // a constant in the file

constexpr int32_t kBuiltinCustom = 32;  // Registration::builtin_code of a custom operator
constexpr int64_t kAllowDynamicTensors = 1;

struct Context;
struct Delegate;

struct IntArray {
  int32_t size;
  int32_t data[1];  // `size` of them
};

struct Tensor {
  Type type;
  void* data;
  IntArray* dims;
  float scale;
  int32_t zero_point;
  AllocationType allocation_type;
  size_t bytes;
  const void* allocation;
  const char* name;
  Delegate* delegate;
  int32_t buffer_handle;
  bool data_is_stale;
  bool is_variable;
  int32_t quantization_type;
  void* quantization_params;
  void* sparsity;
  const IntArray* dims_signature;
};

struct Node {
  IntArray* inputs;
  IntArray* outputs;
  IntArray* intermediates;
  IntArray* temporaries;
  void* user_data;
  void* builtin_data;
  const void* custom_initial_data;
  int32_t custom_initial_data_size;
};

struct Registration {
  void* (*init)(Context*, const char* buffer, size_t length);
  void (*free)(Context*, void* user_data);
  Status (*prepare)(Context*, Node*);
  Status (*invoke)(Context*, Node*);
  const char* (*profiling_string)(const Context*, const Node*);
  int32_t builtin_code;
  const char* custom_name;
  int32_t version;
  void* registration_external;
  void* (*async_kernel)(Context*, Node*);
  uint64_t inplace_operator;
  uint64_t reserved[5];  // zeros for fields that are yet to come
};

struct Context {
  size_t tensors_size;
  Status (*GetExecutionPlan)(Context*, IntArray** plan);
  Tensor* tensors;
  void* impl_;
  void* ResizeTensor;
  void (*ReportError)(Context*, const char* format, ...);
  void* AddTensors;
  Status (*GetNodeAndRegistration)(Context*, int32_t node_index, Node**, Registration**);
  Status (*ReplaceNodeSubsetsWithDelegateKernels)(Context*, Registration,
                                                  const IntArray* nodes_to_replace, Delegate*);
};

// What the `buffer` of a delegate kernel's init points to.
struct DelegateParams {
  Delegate* delegate;
  IntArray* nodes_to_replace;
  IntArray* input_tensors;
  IntArray* output_tensors;
};

struct Delegate {
  void* data_;
  Status (*Prepare)(Context*, Delegate*);
  void* CopyFromBufferHandle;
  void* CopyToBufferHandle;
  void* FreeBufferHandle;
  int64_t flags;
  void* opaque_delegate_builder;
  uint64_t reserved[5];  // zeros for fields that are yet to come
};

static_assert(sizeof(void*) == 8, "these layouts are those of 64-bit machines");
static_assert(offsetof(IntArray, data) == 4);
static_assert(offsetof(Tensor, data) == 8 && offsetof(Tensor, dims) == 16);
static_assert(offsetof(Tensor, scale) == 24 && offsetof(Tensor, allocation_type) == 32);
static_assert(offsetof(Tensor, bytes) == 40 && offsetof(Tensor, name) == 56);
static_assert(offsetof(Tensor, quantization_type) == 80 && sizeof(Tensor) == 112);
static_assert(offsetof(Node, user_data) == 32 && offsetof(Node, custom_initial_data) == 48);
static_assert(offsetof(Node, custom_initial_data_size) == 56);
static_assert(offsetof(Registration, builtin_code) == 40);
static_assert(offsetof(Registration, custom_name) == 48);
static_assert(offsetof(Registration, registration_external) == 64);
static_assert(offsetof(Registration, reserved) == 88);
static_assert(offsetof(Context, tensors) == 16 && offsetof(Context, ReportError) == 40);
static_assert(offsetof(Context, GetNodeAndRegistration) == 56);
static_assert(offsetof(Context, ReplaceNodeSubsetsWithDelegateKernels) == 64);
static_assert(offsetof(Delegate, flags) == 40 && offsetof(Delegate, reserved) == 56);

}  // namespace tfmix::tflite

#endif  // TFMIX_HOST_TFLITE_ABI_H_
