// Chains of layers, row by row: see stream.h.
//
// The chain is walked twice, by the same code: prepare counts rows to learn how many of each tensor
// are needed at once, run makes them. Scratch holds, one behind the other,
//
//     the state: counters of rows, for each layer
//     the rows of input 0, if it comes row by row
//     the rows of each tensor between layers, each buffer a multiple of 4 bytes
//     the sums of a pool over the whole image
//     the scratch of the kernel that runs
//
// The rows that a buffer holds begin at its front. When it is full, those that no layer reads any
// more are dropped by moving the others there: so a kernel finds the rows of its window side by
// side, whichever they are, and knows nothing of streams.
#include "tfmix/stream.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "checks.h"

namespace tfmix {
namespace {

constexpr int32_t kNone = -1;

static_assert(sizeof(tfmix_stream_layer) == 27 * sizeof(int32_t), "as in files");

bool IsWindow(int32_t kernel) {
  return kernel != TFMIX_STREAM_ADD && kernel != TFMIX_STREAM_REQUANTIZE;
}
bool IsWeighted(int32_t kernel) {
  return kernel == TFMIX_STREAM_CONV2D || kernel == TFMIX_STREAM_DEPTHWISE_CONV2D;
}

// A tensor as a layer sees it.
struct Image {
  int32_t rows;
  int32_t elements;  // of a row
  int32_t bits;

  int64_t RowBits() const { return int64_t{elements} * bits; }
  int32_t RowBytes() const { return static_cast<int32_t>(RowBits() / 8); }
  bool operator==(const Image& other) const {
    return rows == other.rows && elements == other.elements && bits == other.bits;
  }
};

// All structs with a window begin alike.
const tfmix_max_pool_params& WindowOf(const tfmix_stream_layer& layer) {
  static_assert(offsetof(tfmix_conv_params, pad_left) == offsetof(tfmix_max_pool_params, pad_left));
  static_assert(offsetof(tfmix_average_pool_params, pad_left) ==
                offsetof(tfmix_max_pool_params, pad_left));
  return layer.params.max_pool;
}

int32_t& ElementsOf(tfmix_stream_layer* layer) {
  static_assert(offsetof(tfmix_add_params, elements) == 0);
  static_assert(offsetof(tfmix_requantize_params, elements) == 0);
  return layer->params.fields[0];
}

Image InputOf(const tfmix_stream_layer& layer, int32_t bits) {
  if (!IsWindow(layer.kernel)) return {layer.rows, layer.params.fields[0] / layer.rows, bits};
  const tfmix_max_pool_params& p = WindowOf(layer);
  return {p.input_height, p.input_width * p.input_channels, bits};
}
Image FirstInputOf(const tfmix_stream_layer& layer) {
  return InputOf(layer, layer.variant.input_bits);
}
Image SecondInputOf(const tfmix_stream_layer& layer) {
  return InputOf(layer, layer.variant.second_input_bits);
}
Image OutputOf(const tfmix_stream_layer& layer) {
  const tfmix_variant& v = layer.variant;
  if (!IsWindow(layer.kernel)) return InputOf(layer, v.output_bits);
  const tfmix_max_pool_params& p = WindowOf(layer);
  return {p.output_height, p.output_width * p.output_channels,
          layer.kernel == TFMIX_STREAM_MAX_POOL ? v.input_bits : v.output_bits};
}

// Which input rows a layer reads. A step makes an output row, or takes in a row of a pool over the
// whole image.
struct Steps {
  int32_t count;
  int32_t band;  // steps in a call
  int32_t input_rows;
  int32_t kernel;
  int32_t stride;
  int32_t pad;

  int32_t InCall(int32_t step) const { return std::min(band, count - step); }
  // First of the input rows that are read from `step` on.
  int32_t FirstRow(int32_t step) const { return std::max(int32_t{0}, step * stride - pad); }
  // One behind the last input row that a call beginning at `step` reads.
  int32_t EndRow(int32_t step) const {
    return std::min(input_rows, (step + InCall(step) - 1) * stride - pad + kernel);
  }
};

Steps StepsOf(const tfmix_stream_layer& layer) {
  if (!IsWindow(layer.kernel)) return {layer.rows, layer.band, layer.rows, 1, 1, 0};
  const tfmix_max_pool_params& p = WindowOf(layer);
  if (layer.kernel == TFMIX_STREAM_AVERAGE_POOL_ROWS) {
    return {p.input_height, 1, p.input_height, 1, 1, 0};
  }
  return {layer.rows, layer.band, p.input_height, p.kernel_height, p.stride_height, p.pad_top};
}

// A call that makes `count` rows, of which the first is `row`.
[[gnu::cold]] tfmix_stream_layer CallOf(tfmix_stream_layer layer, const Steps& steps, int32_t row,
                                        int32_t count) {
  if (layer.kernel == TFMIX_STREAM_AVERAGE_POOL_ROWS) return layer;
  if (!IsWindow(layer.kernel)) {
    ElementsOf(&layer) = ElementsOf(&layer) / layer.rows * count;
    return layer;
  }
  const int32_t first = steps.FirstRow(row);
  tfmix_max_pool_params& p = layer.params.max_pool;
  p.input_height = steps.EndRow(row) - first;
  p.output_height = count;
  p.pad_top = first - (row * p.stride_height - p.pad_top);
  return layer;
}

// The layers of a stream, which lie at any address.
class Chain {
 public:
  explicit Chain(const tfmix_stream& stream) : stream_(stream) {}

  int32_t layer_count() const { return stream_.layer_count; }
  int32_t last() const { return stream_.layer_count - 1; }
  int32_t input_count() const { return stream_.input_count; }
  bool by_rows() const { return stream_.input_rows != 0; }
  const tfmix_stream& stream() const { return stream_; }

  tfmix_stream_layer Layer(int32_t index) const {
    tfmix_stream_layer layer;
    std::memcpy(&layer, stream_.layers + static_cast<size_t>(index) * sizeof(layer), sizeof(layer));
    return layer;
  }

  bool Reads(int32_t index, int32_t tensor) const {
    const uint8_t* layer = stream_.layers + static_cast<size_t>(index) * sizeof(tfmix_stream_layer);
    int32_t inputs[2];
    std::memcpy(inputs, layer + offsetof(tfmix_stream_layer, input), sizeof(inputs));
    return inputs[0] == tensor || inputs[1] == tensor;
  }

  // Input `input`, as its first reader sees it. It has one.
  Image InputImage(int32_t input) const {
    int32_t reader = 0;
    while (!Reads(reader, input)) ++reader;
    const tfmix_stream_layer layer = Layer(reader);
    return layer.input == input ? FirstInputOf(layer) : SecondInputOf(layer);
  }

  // Index of the kernel of a layer in the table, or kNone.
  int32_t FindKernel(const tfmix_stream_layer& layer) const {
    const tfmix_variant& wanted = layer.variant;
    for (int32_t i = 0; i < stream_.kernel_count; ++i) {
      const tfmix_variant& found = stream_.kernels[i].variant;
      if (stream_.kernels[i].kernel == layer.kernel && found.input_bits == wanted.input_bits &&
          found.second_input_bits == wanted.second_input_bits &&
          found.weight_bits == wanted.weight_bits && found.output_bits == wanted.output_bits &&
          found.per_channel == wanted.per_channel) {
        return i;
      }
    }
    return kNone;
  }

 private:
  const tfmix_stream& stream_;
};

// The first row of a tensor that a layer still reads, if `done` steps are done of each layer.
template <typename Done>
[[gnu::cold]] int32_t FirstNeeded(const Chain& chain, int32_t tensor, const Done& done) {
  const int32_t producer = tensor - chain.input_count();
  int32_t first = INT32_MAX;
  for (int32_t i = std::max(producer + 1, int32_t{0}); i < chain.layer_count(); ++i) {
    if (!chain.Reads(i, tensor)) continue;
    const Steps steps = StepsOf(chain.Layer(i));
    if (done(i) < steps.count) first = std::min(first, steps.FirstRow(done(i)));
  }
  return first;
}

// Makes rows until the output is whole (true), or a row of input 0 is missing. Run has
//
//     int32_t Done(int32_t layer)      steps that are done
//     int32_t InputRows()              rows of input 0 that are there
//     uint8_t& Caller(int32_t layer)   a place to keep a number
//     void Make(int32_t index, const tfmix_stream_layer&, const Steps&)    the next band
template <typename Run>
[[gnu::cold]] bool Walk(const Chain& chain, Run& run) {
  const int32_t inputs = chain.input_count();
  // Whether the next call of a layer finds its input rows.
  const auto has_rows = [&](int32_t tensor, int32_t rows) {
    if (tensor >= inputs) return run.Done(tensor - inputs) >= rows;
    return tensor != 0 || !chain.by_rows() || run.InputRows() >= rows;
  };
  int32_t index = chain.last();
  for (;;) {
    const tfmix_stream_layer layer = chain.Layer(index);
    const Steps steps = StepsOf(layer);
    if (index == chain.last() && run.Done(index) == steps.count) return true;
    const int32_t rows = steps.EndRow(run.Done(index));
    int32_t missing = kNone;
    if (!has_rows(layer.input, rows)) {
      missing = layer.input;
    } else if (layer.second_input != kNone && !has_rows(layer.second_input, rows)) {
      missing = layer.second_input;
    }
    if (missing == kNone) {
      run.Make(index, layer, steps);
      if (index != chain.last()) index = run.Caller(index);
    } else if (missing < inputs) {
      return false;
    } else {
      run.Caller(missing - inputs) = static_cast<uint8_t>(index);
      index = missing - inputs;
    }
  }
}

// ---- Scratch ------------------------------------------------------------------------------------

// Rows [first, made) of a tensor lie in a buffer.
struct Rows {
  int32_t buffer;  // where it is, bytes from the beginning of scratch
  uint16_t first;
  uint16_t made;
};

struct LayerState {
  Rows output;  // buffer: that of the sums where the layer is a pool over the whole image
  uint16_t kernel;
  uint8_t constants;  // its operand
  uint8_t caller;
};

// At the beginning of scratch, before a LayerState for each layer.
struct State {
  int32_t kernel_scratch;  // bytes from the beginning of scratch
  Rows input;              // input 0, if it comes row by row
};

constexpr int32_t kStateSize = 12;  // of each layer, and once more
static_assert(sizeof(State) == kStateSize && sizeof(LayerState) == kStateSize, "on all machines");

// Bytes of the buffer of so many rows.
int64_t BufferSize(int32_t rows, int32_t row_bytes) {
  constexpr int32_t kAlignment = 4;
  return (int64_t{rows} * row_bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Bytes of what a layer keeps in scratch between its calls.
int64_t BufferSizeOf(const tfmix_stream_layer& layer) {
  if (layer.kernel == TFMIX_STREAM_AVERAGE_POOL_ROWS) {
    return WindowOf(layer).output_channels * int64_t{sizeof(int32_t)};
  }
  return BufferSize(layer.buffer_rows, OutputOf(layer).RowBytes());
}

// ---- Prepare ------------------------------------------------------------------------------------

// Only counts.
class Simulation {
 public:
  explicit Simulation(const Chain& chain) : chain_(chain), input_(chain.InputImage(0)) {}

  // Whether all buffers have the rows that they need.
  bool Run() {
    while (!Walk(chain_, *this)) {
      const int32_t before = input_rows_++;
      Note(0, before, input_rows_, &input_needed_);
    }
    for (int32_t i = 0; i < chain_.last(); ++i) {
      if (chain_.Layer(i).buffer_rows != needed_[i]) return false;
    }
    return !chain_.by_rows() || chain_.stream().input_rows == input_needed_;
  }
  int64_t distance() const { return distance_; }

  int32_t Done(int32_t layer) const { return done_[layer]; }
  int32_t InputRows() const { return input_rows_; }
  uint8_t& Caller(int32_t layer) { return caller_[layer]; }

  void Make(int32_t index, const tfmix_stream_layer& layer, const Steps& steps) {
    const int32_t before = done_[index];
    const int32_t after = before + steps.InCall(before);
    if (index != chain_.last()) {
      Note(chain_.input_count() + index, before, after, &needed_[index]);
    } else if (!chain_.by_rows()) {
      const bool pool = layer.kernel == TFMIX_STREAM_AVERAGE_POOL_ROWS;
      if (!pool || after == steps.count) {
        const int64_t written = int64_t{pool ? 1 : after} * OutputOf(layer).RowBytes();
        const int32_t first = FirstNeeded(chain_, 0, [this](int32_t i) { return done_[i]; });
        distance_ = std::max(distance_,
                             written - int64_t{std::min(first, input_.rows)} * input_.RowBytes());
      }
    }
    done_[index] = static_cast<uint16_t>(after);
  }

 private:
  // Rows [before, after) of a tensor are being made: how many are kept at once?
  void Note(int32_t tensor, int32_t before, int32_t after, uint16_t* needed) const {
    const int32_t first = FirstNeeded(chain_, tensor, [this](int32_t i) { return done_[i]; });
    *needed = std::max(*needed, static_cast<uint16_t>(after - std::min(first, before)));
  }

  const Chain& chain_;
  const Image input_;
  int32_t input_rows_ = 0;
  uint16_t input_needed_ = 0;
  int64_t distance_ = 0;
  uint16_t done_[TFMIX_STREAM_MOST_LAYERS] = {};
  uint16_t needed_[TFMIX_STREAM_MOST_LAYERS] = {};
  uint8_t caller_[TFMIX_STREAM_MOST_LAYERS];
};

template <typename Params>
tfmix_status CallPrepare(tfmix_stream_function function, const Params& params,
                         const tfmix_variant& variant, tfmix_sizes* sizes) {
  using Prepare = tfmix_status (*)(const Params*, const tfmix_variant*, tfmix_sizes*);
  return reinterpret_cast<Prepare>(function)(&params, &variant, sizes);
}

// What the layer's kernel says of its parameters.
tfmix_status PrepareCall(tfmix_stream_function function, const tfmix_stream_layer& layer,
                         tfmix_sizes* sizes) {
  const tfmix_variant& variant = layer.variant;
  switch (layer.kernel) {
    case TFMIX_STREAM_ADD:
      return CallPrepare(function, layer.params.add, variant, sizes);
    case TFMIX_STREAM_REQUANTIZE:
      return CallPrepare(function, layer.params.requantize, variant, sizes);
    case TFMIX_STREAM_AVERAGE_POOL:
    case TFMIX_STREAM_AVERAGE_POOL_ROWS:
      return CallPrepare(function, layer.params.average_pool, variant, sizes);
    case TFMIX_STREAM_MAX_POOL:
      return CallPrepare(function, layer.params.max_pool, variant, sizes);
    default:
      return CallPrepare(function, layer.params.conv, variant, sizes);
  }
}

tfmix_status CheckRows(int32_t rows) {
  return rows >= 1 && rows <= TFMIX_STREAM_MOST_ROWS ? TFMIX_OK : TFMIX_BAD_CHAIN;
}

// A layer by itself. `whole`: sizes of the whole layer; `scratch`: of any of its calls.
[[gnu::cold]] tfmix_status CheckLayer(const Chain& chain, int32_t index, tfmix_sizes* whole,
                                      int32_t* scratch) {
  const tfmix_stream_layer layer = chain.Layer(index);
  const int32_t kernel = chain.FindKernel(layer);
  if (kernel == kNone) return TFMIX_NO_KERNEL;
  const tfmix_stream_function prepare = chain.stream().kernels[kernel].prepare;
  const bool last = index == chain.last();
  const bool two_inputs = layer.kernel == TFMIX_STREAM_ADD;
  const int32_t tensors = chain.input_count() + index;
  const auto is_tensor = [=](int32_t tensor) { return tensor >= 0 && tensor < tensors; };
  if (!is_tensor(layer.input)) return TFMIX_BAD_CHAIN;
  if (two_inputs ? !is_tensor(layer.second_input) : layer.second_input != kNone) {
    return TFMIX_BAD_CHAIN;
  }
  TFMIX_RETURN_IF_BAD(CheckRows(layer.rows));
  if (layer.band < 1 || layer.band > layer.rows) return TFMIX_BAD_CHAIN;
  if (last != (layer.buffer_rows == 0)) return TFMIX_BAD_ROWS;
  TFMIX_RETURN_IF_BAD(PrepareCall(prepare, layer, whole));
  if (!IsWindow(layer.kernel) && layer.params.fields[0] % layer.rows != 0) return TFMIX_BAD_CHAIN;

  const Image input = FirstInputOf(layer), output = OutputOf(layer);
  TFMIX_RETURN_IF_BAD(CheckRows(input.rows));
  if (output.rows != layer.rows || input.RowBits() % 8 != 0 || output.RowBits() % 8 != 0 ||
      (two_inputs && SecondInputOf(layer).RowBits() % 8 != 0)) {
    return TFMIX_BAD_CHAIN;
  }
  *scratch = 0;
  if (layer.kernel == TFMIX_STREAM_AVERAGE_POOL_ROWS) {
    const tfmix_max_pool_params& p = WindowOf(layer);
    const bool is_whole = p.kernel_height == p.input_height && p.kernel_width == p.input_width &&
                          output.elements == p.input_channels && layer.rows == 1 &&
                          p.pad_top == 0 && p.pad_left == 0;
    return last && is_whole ? TFMIX_OK : TFMIX_BAD_CHAIN;
  }
  const Steps steps = StepsOf(layer);
  for (const int32_t row : {int32_t{0}, layer.rows - (layer.rows - 1) % layer.band - 1}) {
    tfmix_sizes sizes;
    const tfmix_stream_layer call = CallOf(layer, steps, row, steps.InCall(row));
    TFMIX_RETURN_IF_BAD(PrepareCall(prepare, call, &sizes));
    *scratch = std::max(*scratch, sizes.scratch);
  }
  return TFMIX_OK;
}

// A tensor has a reader, and is the same to all of them and to the layer that makes it.
[[gnu::cold]] tfmix_status CheckReaders(const Chain& chain, int32_t tensor) {
  const int32_t producer = tensor - chain.input_count();
  bool known = producer >= 0, is_read = false;
  Image image = known ? OutputOf(chain.Layer(producer)) : Image{};
  for (int32_t i = 0; i < chain.layer_count(); ++i) {
    const tfmix_stream_layer layer = chain.Layer(i);
    for (const bool second : {false, true}) {
      if ((second ? layer.second_input : layer.input) != tensor) continue;
      const Image seen = second ? SecondInputOf(layer) : FirstInputOf(layer);
      if (!known) image = seen;
      if (!(seen == image)) return TFMIX_BAD_CHAIN;
      known = is_read = true;
    }
  }
  return is_read ? TFMIX_OK : TFMIX_BAD_CHAIN;
}

// ---- Run ----------------------------------------------------------------------------------------

// Copies to a lower address; the two may overlap.
[[gnu::hot, gnu::noinline]] void MoveDown(uint8_t* to, const uint8_t* from, int32_t bytes) {
  constexpr int32_t kBlock = 32;  // a copy of known size between words: loads and stores of several
  const bool words = (reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 4 == 0;
  if (words && from - to >= kBlock) {
    for (; bytes >= kBlock; bytes -= kBlock, to += kBlock, from += kBlock) {
      std::memcpy(__builtin_assume_aligned(to, 4), __builtin_assume_aligned(from, 4), kBlock);
    }
  }
  for (; bytes >= 4; bytes -= 4, to += 4, from += 4) {
    uint32_t word;
    std::memcpy(&word, from, sizeof(word));
    std::memcpy(to, &word, sizeof(word));
  }
  for (; bytes > 0; --bytes) *to++ = *from++;
}

// Makes the rows. Prepare has accepted the stream.
class Execution {
 public:
  Execution(const Chain& chain, const uint8_t* const* operands, uint8_t* output, void* scratch)
      : chain_(chain),
        operands_(operands),
        output_(output),
        scratch_(static_cast<uint8_t*>(scratch)),
        state_(*static_cast<State*>(scratch)),
        layers_(reinterpret_cast<LayerState*>(scratch_ + kStateSize)) {}

  void Begin() {
    int32_t offset = kStateSize * (chain_.layer_count() + 1);
    state_.input = {offset, 0, 0};
    offset += static_cast<int32_t>(
        BufferSize(chain_.stream().input_rows, chain_.InputImage(0).RowBytes()));
    int32_t operand = chain_.input_count();
    for (int32_t i = 0; i < chain_.layer_count(); ++i) {
      const tfmix_stream_layer layer = chain_.Layer(i);
      layers_[i] = {{offset, 0, 0},
                    static_cast<uint16_t>(chain_.FindKernel(layer)),
                    static_cast<uint8_t>(operand),
                    0};
      operand += IsWeighted(layer.kernel);
      offset += static_cast<int32_t>(BufferSizeOf(layer));
    }
    state_.kernel_scratch = offset;
  }

  void Run() { Walk(chain_, *this); }

  // Returns the rows of the output that are there.
  int32_t Feed(const uint8_t* row) {
    const tfmix_stream_layer layer = chain_.Layer(chain_.last());
    const int32_t steps = StepsOf(layer).count;
    if (Done(chain_.last()) != steps) {
      const int32_t bytes = chain_.InputImage(0).RowBytes();
      uint8_t* to = Append(0, &state_.input, chain_.stream().input_rows, bytes, 1);
      std::memcpy(to, row, static_cast<size_t>(bytes));
      ++state_.input.made;
      Run();
    }
    const int32_t done = Done(chain_.last());
    return layer.kernel == TFMIX_STREAM_AVERAGE_POOL_ROWS ? done / steps : done;
  }

  int32_t Done(int32_t layer) const { return layers_[layer].output.made; }
  int32_t InputRows() const { return state_.input.made; }
  uint8_t& Caller(int32_t layer) { return layers_[layer].caller; }

  void Make(int32_t index, const tfmix_stream_layer& layer, const Steps& steps) {
    LayerState& state = layers_[index];
    const int32_t row = state.output.made;
    const int32_t count = steps.InCall(row);
    const uint8_t* const input =
        RowOf(layer.input, steps.FirstRow(row), FirstInputOf(layer).RowBytes());
    const tfmix_stream_function run = chain_.stream().kernels[state.kernel].run;
    if (layer.kernel == TFMIX_STREAM_AVERAGE_POOL_ROWS) {
      using Kernel =
          void (*)(const tfmix_average_pool_params*, int32_t, const uint8_t*, uint8_t*, int32_t*);
      reinterpret_cast<Kernel>(run)(&layer.params.average_pool, row, input, output_,
                                    reinterpret_cast<int32_t*>(scratch_ + state.output.buffer));
    } else {
      const int32_t row_bytes = OutputOf(layer).RowBytes();
      const int32_t tensor = chain_.input_count() + index;
      uint8_t* const output = index == chain_.last() ? output_ + row * row_bytes
                                                     : Append(tensor, &state.output,
                                                              layer.buffer_rows, row_bytes, count);
      const tfmix_stream_layer call = CallOf(layer, steps, row, count);
      switch (layer.kernel) {
        case TFMIX_STREAM_ADD: {
          const uint8_t* const second =
              RowOf(layer.second_input, row, SecondInputOf(layer).RowBytes());
          using Kernel =
              void (*)(const tfmix_add_params*, const uint8_t*, const uint8_t*, uint8_t*);
          reinterpret_cast<Kernel>(run)(&call.params.add, input, second, output);
          break;
        }
        case TFMIX_STREAM_REQUANTIZE:
          CallUnary(run, call.params.requantize, input, output);
          break;
        case TFMIX_STREAM_AVERAGE_POOL:
          CallUnary(run, call.params.average_pool, input, output);
          break;
        case TFMIX_STREAM_MAX_POOL:
          CallUnary(run, call.params.max_pool, input, output);
          break;
        default:
          using Kernel =
              void (*)(const tfmix_conv_params*, const uint8_t*, const uint8_t*, uint8_t*, void*);
          reinterpret_cast<Kernel>(run)(&call.params.conv, input, operands_[state.constants],
                                        output, scratch_ + state_.kernel_scratch);
      }
    }
    state.output.made = static_cast<uint16_t>(row + count);
  }

 private:
  template <typename Params>
  static void CallUnary(tfmix_stream_function run, const Params& params, const uint8_t* input,
                        uint8_t* output) {
    using Kernel = void (*)(const Params*, const uint8_t*, uint8_t*);
    reinterpret_cast<Kernel>(run)(&params, input, output);
  }

  const uint8_t* RowOf(int32_t tensor, int32_t row, int32_t row_bytes) const {
    const int32_t inputs = chain_.input_count();
    if (tensor < inputs && (tensor != 0 || !chain_.by_rows())) {
      return operands_[tensor] + row * row_bytes;
    }
    const Rows& rows = tensor < inputs ? state_.input : layers_[tensor - inputs].output;
    return scratch_ + rows.buffer + (row - rows.first) * row_bytes;
  }

  // Room for `count` rows behind those that are there.
  uint8_t* Append(int32_t tensor, Rows* rows, int32_t capacity, int32_t row_bytes, int32_t count) {
    uint8_t* const buffer = scratch_ + rows->buffer;
    if (rows->made - rows->first + count > capacity) {
      const int32_t needed = FirstNeeded(chain_, tensor, [this](int32_t i) { return Done(i); });
      const int32_t dropped = std::min(needed, int32_t{rows->made}) - rows->first;
      rows->first = static_cast<uint16_t>(rows->first + dropped);
      MoveDown(buffer, buffer + dropped * row_bytes, (rows->made - rows->first) * row_bytes);
    }
    return buffer + (rows->made - rows->first) * row_bytes;
  }

  const Chain& chain_;
  const uint8_t* const* operands_;
  uint8_t* output_;
  uint8_t* scratch_;
  State& state_;
  LayerState* layers_;
};

}  // namespace
}  // namespace tfmix

[[gnu::cold]] tfmix_status tfmix_stream_prepare(const tfmix_stream* stream, int32_t* operand_sizes,
                                                int32_t operand_count, tfmix_stream_sizes* sizes) {
  using namespace tfmix;
  const tfmix_stream& s = *stream;
  if (s.layer_count < 1 || s.layer_count > TFMIX_STREAM_MOST_LAYERS || s.input_count < 1 ||
      s.input_count > TFMIX_STREAM_MOST_INPUTS || s.kernel_count < 0 ||
      s.kernel_count > UINT16_MAX || s.input_rows < 0 || s.input_rows > TFMIX_STREAM_MOST_ROWS) {
    return TFMIX_BAD_CHAIN;
  }
  const Chain chain(s);
  int64_t scratch = int64_t{kStateSize} * (s.layer_count + 1);
  int32_t kernel_scratch = 0;
  int32_t operand = s.input_count;
  for (int32_t i = 0; i < s.layer_count; ++i) {
    tfmix_sizes whole;
    int32_t of_calls;
    TFMIX_RETURN_IF_BAD(CheckLayer(chain, i, &whole, &of_calls));
    const tfmix_stream_layer layer = chain.Layer(i);
    if (IsWeighted(layer.kernel)) {
      if (operand < operand_count) operand_sizes[operand] = whole.constants;
      ++operand;
    }
    sizes->output = whole.output;  // that of the last layer stays
    scratch += BufferSizeOf(layer);
    kernel_scratch = std::max(kernel_scratch, of_calls);
  }
  if (operand != operand_count) return TFMIX_BAD_CHAIN;

  for (int32_t tensor = 0; tensor < s.input_count + s.layer_count - 1; ++tensor) {
    TFMIX_RETURN_IF_BAD(CheckReaders(chain, tensor));
    if (tensor >= s.input_count) continue;
    const Image image = chain.InputImage(tensor);
    const bool row_only = tensor == 0 && chain.by_rows();
    operand_sizes[tensor] = (row_only ? 1 : image.rows) * image.RowBytes();
  }
  scratch += BufferSize(s.input_rows, chain.InputImage(0).RowBytes()) + kernel_scratch;
  TFMIX_RETURN_IF_BAD(CheckFitsInt32(scratch));
  sizes->scratch = static_cast<int32_t>(scratch);

  Simulation simulation(chain);
  if (!simulation.Run()) return TFMIX_BAD_ROWS;
  TFMIX_RETURN_IF_BAD(CheckFitsInt32(simulation.distance()));
  sizes->distance = static_cast<int32_t>(simulation.distance());
  return TFMIX_OK;
}

[[gnu::cold]] void tfmix_stream_run(const tfmix_stream* stream, const uint8_t* const* operands,
                                    uint8_t* output, void* scratch) {
  const tfmix::Chain chain(*stream);
  tfmix::Execution execution(chain, operands, output, scratch);
  execution.Begin();
  execution.Run();
}

[[gnu::cold]] void tfmix_stream_begin(const tfmix_stream* stream, void* scratch) {
  tfmix::Execution(tfmix::Chain(*stream), nullptr, nullptr, scratch).Begin();
}

[[gnu::cold]] int32_t tfmix_stream_feed(const tfmix_stream* stream, const uint8_t* row,
                                        const uint8_t* const* operands, uint8_t* output,
                                        void* scratch) {
  const tfmix::Chain chain(*stream);
  tfmix::Execution execution(chain, operands, output, scratch);
  return execution.Feed(row);
}
