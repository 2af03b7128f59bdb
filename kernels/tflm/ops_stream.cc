// Chains of layers. Inputs: those of the chain, then the constants of its layers that have any.
#include "bridge.h"
#include "tfmix/tflm.h"

namespace tfmix {
namespace tflm {
namespace {

constexpr Op kStream = {"TFMIX_STREAM", {}};

// Whether the output lies far enough below input 0 to follow the rows that have been read.
bool IsBelow(const uint8_t* output, const uint8_t* input, int32_t distance) {
  const auto from = reinterpret_cast<uintptr_t>(output), to = reinterpret_cast<uintptr_t>(input);
  return to >= from && to - from >= static_cast<uintptr_t>(distance);
}

}  // namespace

OptionsStatus ReadStream(OptionsReader* reader, tfmix_stream* stream) {
  int32_t counts[3];
  const OptionsStatus status = reader->Read(counts, 3);
  if (status != OptionsStatus::kOk) return status;
  *stream = {nullptr, counts[0], counts[1], counts[2], nullptr, 0};
  if (counts[0] < 0) return OptionsStatus::kTooShort;
  if (static_cast<size_t>(counts[0]) > reader->left() / sizeof(tfmix_stream_layer)) {
    return OptionsStatus::kTooShort;
  }
  stream->layers = reader->Take(static_cast<size_t>(counts[0]) * sizeof(tfmix_stream_layer));
  return OptionsStatus::kOk;
}

TfLiteStatus PrepareStream(TfLiteContext* context, TfLiteNode* node,
                           const tfmix_stream_kernel* kernels, int32_t kernel_count) {
  NodeCheck check(context, node, kStream);
  const int32_t operands = node->inputs == nullptr ? 0 : node->inputs->size;
  tfmix_stream stream;
  if (!check.Begin(operands) || !check.ReadStream(&stream)) return kTfLiteError;
  stream.kernels = kernels;
  stream.kernel_count = kernel_count;
  int32_t operand_sizes[TFMIX_STREAM_MOST_OPERANDS];
  tfmix_stream_sizes sizes;
  // Input 0 is whole: TFLM has no way to feed rows.
  const bool possible = operands <= TFMIX_STREAM_MOST_OPERANDS && stream.input_rows == 0;
  if (!check.Accepts(possible ? tfmix_stream_prepare(&stream, operand_sizes, operands, &sizes)
                              : TFMIX_BAD_CHAIN)) {
    return kTfLiteError;
  }
  for (int32_t i = 0; i < operands; ++i) {
    const bool ok = i < stream.input_count ? check.Input(i, operand_sizes[i])
                                           : check.Constants(i, operand_sizes[i]);
    if (!ok) return kTfLiteError;
  }
  DataOf(node).distance = sizes.distance;
  return check.Output(sizes.output) && check.Scratch(sizes.scratch) ? kTfLiteOk : kTfLiteError;
}

TfLiteStatus EvalStream(TfLiteContext* context, TfLiteNode* node,
                        const tfmix_stream_kernel* kernels, int32_t kernel_count) {
  const NodeBuffers buffers(context, node);
  const OpData& data = DataOf(node);
  tfmix_stream stream;
  OptionsReader reader;
  const bool over = IsBelow(buffers.Output(), buffers.Input(0), data.distance);
  if (reader.Open(data.options, data.options_size) != OptionsStatus::kOk ||
      ReadStream(&reader, &stream) != OptionsStatus::kOk ||
      !buffers.Apart(kStream.name, stream.input_count, over ? 1 : 0)) {
    return kTfLiteError;
  }
  stream.kernels = kernels;
  stream.kernel_count = kernel_count;
  const uint8_t* operands[TFMIX_STREAM_MOST_OPERANDS];
  for (int32_t i = 0; i < node->inputs->size; ++i) operands[i] = buffers.Input(i);
  tfmix_stream_run(&stream, operands, buffers.Output(), buffers.Scratch());
  return kTfLiteOk;
}

}  // namespace tflm
}  // namespace tfmix
