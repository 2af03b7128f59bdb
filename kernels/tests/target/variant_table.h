// Every kernel variant behind one signature, by name. For tests and benchmarks only: a table that
// names every kernel links them all.
#ifndef TFMIX_TESTS_TARGET_VARIANT_TABLE_H_
#define TFMIX_TESTS_TARGET_VARIANT_TABLE_H_

#include <cstdint>

#include "tfmix/kernels.h"

namespace tfmix::target {

constexpr int32_t kMaxInputs = 4;

// What a call reads and writes. `params` is the parameter struct, of concatenate followed by the
// descriptions of the inputs.
struct Buffers {
  const void* params;
  const uint8_t* inputs[kMaxInputs];
  const uint8_t* constants;
  uint8_t* output;
  void* scratch;
};

// Sizes in bytes, as prepare returns them.
struct Sizes {
  int32_t inputs[kMaxInputs];
  int32_t input_count;
  int32_t constants;
  int32_t output;
  int32_t scratch;
};

struct Variant {
  const char* name;  // without the prefix tfmix_
  tfmix_variant bits;
  tfmix_status (*prepare)(const void* params, const tfmix_variant& bits, Sizes* sizes);
  void (*run)(const Buffers& buffers);
};

// The variant of this name, or nullptr.
const Variant* FindVariant(const char* name);

}  // namespace tfmix::target

#endif  // TFMIX_TESTS_TARGET_VARIANT_TABLE_H_
