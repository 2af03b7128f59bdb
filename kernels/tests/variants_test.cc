// Every variant against the reference, on random shapes and values, and every prepare function
// against hostile parameters. Meant to be built with -fsanitize=address,undefined: all buffers lie
// on the heap with exactly the sizes that prepare returns, so that a byte too far is an error.
//
//     variants_test [cases per variant] [seed]
//
// Prints the number of cases and exits with 0 if all of them hold.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "../reference/reference.h"
#include "tfmix/kernels.h"

namespace tfmix {
namespace {

using reference::Values;
using Bytes = std::vector<uint8_t>;

// ---- Random values ------------------------------------------------------------------------------

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}

  // Uniform in [low, high].
  int32_t In(int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(engine_);
  }
  bool OneIn(int32_t n) { return In(1, n) == 1; }
  double Real(double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(engine_);
  }
  // Mostly small, now and then longer than the runs that kernels work in.
  int32_t Channels() { return OneIn(8) ? In(1, 140) : In(1, 9); }
  // The ends of the range more often than the rest: saturation and asymmetry hide there.
  int32_t ZeroPoint(int32_t bits) {
    const int32_t max_level = (1 << bits) - 1;
    return OneIn(4) ? 0 : OneIn(4) ? max_level : In(0, max_level);
  }
  // A multiplier that spreads values of size `from` over values of size `to`, more or less. Powers
  // of two now and then, because only they make ties to round.
  int32_t Multiplier(double from, double to, int32_t left_shift) {
    double multiplier = std::ldexp(to / from * Real(0.1, 4.0), 32 - left_shift);
    if (OneIn(3)) multiplier = std::exp2(std::floor(std::log2(multiplier)));
    return static_cast<int32_t>(std::min(multiplier, 2147483647.0));
  }
  // What a damaged or malicious file may hold.
  int32_t Hostile() {
    static constexpr int32_t kValues[] = {INT32_MIN, INT32_MIN + 1,
                                          -65536,    -256,
                                          -32,       -2,
                                          -1,        0,
                                          1,         2,
                                          4,         8,
                                          31,        32,
                                          255,       256,
                                          32767,     32768,
                                          65536,     1 << 20,
                                          1 << 24,   1 << 30,
                                          INT32_MAX};
    return OneIn(4) ? In(INT32_MIN, INT32_MAX) : kValues[In(0, std::size(kValues) - 1)];
  }
  Bytes Contents(size_t size) {
    Bytes bytes(size);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(In(0, 255));
    return bytes;
  }

 private:
  std::mt19937 engine_;
};

// A copy of `contents` of which neither the byte before nor the byte after may be touched, unless
// `misalign`, which moves the beginning to an odd address and leaves only the end guarded.
class Guarded {
 public:
  explicit Guarded(const Bytes& contents, bool misalign = false)
      : size_(contents.size()), offset_(misalign ? 1 : 0), memory_(new uint8_t[size_ + offset_]) {
    if (size_ != 0) std::memcpy(data(), contents.data(), size_);
  }
  uint8_t* data() const { return memory_.get() + offset_; }
  Bytes contents() const { return Bytes(data(), data() + size_); }

 private:
  size_t size_, offset_;
  std::unique_ptr<uint8_t[]> memory_;
};

// ---- Problems: parameters of one kernel, drawn, prepared, run and computed by the reference -----

struct Buffers {
  std::vector<const uint8_t*> inputs;
  const uint8_t* constants;
  uint8_t* output;
  void* scratch;
};

using Sizes = std::vector<int32_t>;

template <typename Params>
void DrawWindow(Random& random, Params* p) {
  p->input_height = random.In(1, 7);
  p->input_width = random.In(1, 7);
  p->kernel_height = random.In(1, 4);
  p->kernel_width = random.In(1, 4);
  p->stride_height = random.In(1, 3);
  p->stride_width = random.In(1, 3);
  p->pad_top = random.In(0, p->kernel_height - 1);
  p->pad_left = random.In(0, p->kernel_width - 1);
  p->output_height = random.In(1, (p->input_height - 1 + p->pad_top) / p->stride_height + 1);
  p->output_width = random.In(1, (p->input_width - 1 + p->pad_left) / p->stride_width + 1);
}

// Overwrites one field of a struct of int32 with something hostile.
template <typename Params>
void MutateField(Random& random, Params* params) {
  const int32_t value = random.Hostile();
  const int32_t field = random.In(0, sizeof(Params) / sizeof(value) - 1);
  std::memcpy(reinterpret_cast<char*>(params) + sizeof(value) * static_cast<size_t>(field), &value,
              sizeof(value));
}

template <typename P>
struct OneStruct {
  using Params = P;
  Params p = {};
  void Mutate(Random& random) { MutateField(random, &p); }
  Bytes DrawConstants(Random&, const tfmix_variant&, int32_t) { return {}; }
};

template <typename P, tfmix_status (*kPrepare)(const P*, const tfmix_variant*, tfmix_sizes*)>
struct OneInput : OneStruct<P> {
  tfmix_status Prepare(const tfmix_variant& v, Sizes* inputs, tfmix_sizes* sizes) {
    const tfmix_status status = kPrepare(&this->p, &v, sizes);
    *inputs = {sizes->input};
    return status;
  }
  using Kernel = void (*)(const P*, const uint8_t*, uint8_t*);
  void Run(Kernel kernel, const Buffers& b) { kernel(&this->p, b.inputs[0], b.output); }
};

template <typename P, tfmix_status (*kPrepare)(const P*, const tfmix_variant*, tfmix_sizes*)>
struct Weighted : OneInput<P, kPrepare> {
  using Kernel = void (*)(const P*, const uint8_t*, const uint8_t*, uint8_t*, void*);
  void Run(Kernel kernel, const Buffers& b) {
    kernel(&this->p, b.inputs[0], b.constants, b.output, b.scratch);
  }

  void DrawRescale(Random& random, const tfmix_variant& v, int32_t channels) {
    this->p.output_zero_point = random.ZeroPoint(v.output_bits);
    this->p.left_shift = random.In(0, 3);
    this->p.multiplier_count = random.OneIn(2) ? channels : 1;
  }

  // Bias and multipliers that make sense for `depth` products, and weights that are anything.
  Bytes LayerConstants(Random& random, const tfmix_variant& v, int32_t size, int32_t channels,
                       int32_t depth) {
    Bytes block = random.Contents(static_cast<size_t>(size));
    const double spread = std::sqrt(depth) * std::ldexp(1.0, v.input_bits + v.weight_bits) / 4;
    for (int32_t i = 0; i < channels + this->p.multiplier_count; ++i) {
      // The bias has left_shift fractional bits.
      auto value =
          static_cast<int32_t>(std::ldexp(random.Real(-spread, spread), this->p.left_shift));
      if (i >= channels) {
        value = random.Multiplier(spread, std::ldexp(1.0, v.output_bits), this->p.left_shift);
        if (random.OneIn(3)) value = -value;
      }
      std::memcpy(block.data() + 4 * i, &value, sizeof(value));
    }
    const int32_t zero_points = v.per_channel ? channels : 1;
    for (auto i = block.end() - zero_points; i != block.end(); ++i) {
      *i = static_cast<uint8_t>(random.ZeroPoint(v.weight_bits));
    }
    return block;
  }

  // `unpack` makes values of the bytes that begin with the weights.
  template <typename UnpackValues>
  reference::Weights Parse(const tfmix_variant& v, const Bytes& block, int32_t channels,
                           UnpackValues unpack) const {
    size_t position = 0;
    const auto int32s = [&](int32_t count) {
      Values values(static_cast<size_t>(count));
      std::memcpy(values.data(), block.data() + position, 4 * values.size());
      position += 4 * values.size();
      return values;
    };
    reference::Weights w;
    w.bias = int32s(channels);
    w.multiplier = int32s(this->p.multiplier_count);
    const Bytes rest(block.begin() + static_cast<std::ptrdiff_t>(position), block.end());
    w.values = unpack(rest);
    const int32_t zero_points = v.per_channel ? channels : 1;
    w.zero_point.assign(rest.end() - zero_points, rest.end());
    return w;
  }

  // The same for weights in tiles.
  reference::Weights ParseTiles(const tfmix_variant& v, const Bytes& block, int32_t channels,
                                int32_t depth) const {
    return Parse(v, block, channels, [&](const Bytes& bytes) {
      return reference::UnpackWeights(bytes, channels, depth, v.input_bits, v.weight_bits);
    });
  }
};

struct Conv2dProblem : Weighted<tfmix_conv_params, tfmix_conv2d_prepare> {
  void Draw(Random& random, const tfmix_variant& v) {
    DrawWindow(random, &p);
    p.input_channels = random.Channels();
    p.output_channels = random.Channels();
    p.input_zero_point = random.ZeroPoint(v.input_bits);
    DrawRescale(random, v, p.output_channels);
  }
  int32_t depth() const { return p.kernel_height * p.kernel_width * p.input_channels; }
  Bytes DrawConstants(Random& random, const tfmix_variant& v, int32_t size) {
    return LayerConstants(random, v, size, p.output_channels, depth());
  }
  Values Reference(const tfmix_variant& v, const std::vector<Bytes>& inputs, const Bytes& block) {
    const Values x = reference::Unpack(inputs[0], v.input_bits,
                                       p.input_height * p.input_width * p.input_channels);
    return reference::Conv2d(p, x, ParseTiles(v, block, p.output_channels, depth()), v.output_bits);
  }
};

struct DepthwiseConv2dProblem : Weighted<tfmix_conv_params, tfmix_depthwise_conv2d_prepare> {
  void Draw(Random& random, const tfmix_variant& v) {
    DrawWindow(random, &p);
    if (random.OneIn(8)) {  // wider than the pieces that kernels work in
      p.input_width = random.In(60, 200);
      p.output_width = random.In(1, (p.input_width - 1 + p.pad_left) / p.stride_width + 1);
    } else if (random.OneIn(8)) {  // a window over time
      p.input_width = p.kernel_width = p.output_width = 1;
      p.pad_left = 0;
    }
    p.input_channels = random.Channels();
    p.output_channels = p.input_channels * (random.OneIn(3) ? random.In(2, 4) : 1);
    p.input_zero_point = random.ZeroPoint(v.input_bits);
    DrawRescale(random, v, p.output_channels);
  }
  int32_t depth() const { return p.kernel_height * p.kernel_width; }
  Bytes DrawConstants(Random& random, const tfmix_variant& v, int32_t size) {
    return LayerConstants(random, v, size, p.output_channels, depth());
  }
  Values Reference(const tfmix_variant& v, const std::vector<Bytes>& inputs, const Bytes& block) {
    const Values x = reference::Unpack(inputs[0], v.input_bits,
                                       p.input_height * p.input_width * p.input_channels);
    const reference::Weights weights = Parse(v, block, p.output_channels, [&](const Bytes& bytes) {
      return reference::Unpack(bytes, v.weight_bits, p.output_channels * depth());
    });
    return reference::DepthwiseConv2d(p, x, weights, v.output_bits);
  }
};

struct FullyConnectedProblem
    : Weighted<tfmix_fully_connected_params, tfmix_fully_connected_prepare> {
  void Draw(Random& random, const tfmix_variant& v) {
    p.input_features = random.Channels() * random.In(1, 4);
    p.output_features = random.Channels();
    DrawRescale(random, v, p.output_features);
  }
  Bytes DrawConstants(Random& random, const tfmix_variant& v, int32_t size) {
    return LayerConstants(random, v, size, p.output_features, p.input_features);
  }
  Values Reference(const tfmix_variant& v, const std::vector<Bytes>& inputs, const Bytes& block) {
    const Values x = reference::Unpack(inputs[0], v.input_bits, p.input_features);
    return reference::FullyConnected(
        p, x, ParseTiles(v, block, p.output_features, p.input_features), v.output_bits);
  }
};

struct AddProblem : OneStruct<tfmix_add_params> {
  void Draw(Random& random, const tfmix_variant& v) {
    p.elements = random.In(1, 300);
    p.shift = random.In(1, 20);
    for (int32_t* multiplier : {&p.multiplier_a, &p.multiplier_b}) {
      *multiplier = static_cast<int32_t>(std::ldexp(random.Real(-2.0, 2.0), p.shift));
    }
    p.offset = static_cast<int32_t>(std::ldexp(random.Real(-200.0, 200.0), p.shift));
    p.output_zero_point = random.ZeroPoint(v.output_bits);
  }
  tfmix_status Prepare(const tfmix_variant& v, Sizes* inputs, tfmix_sizes* sizes) {
    const tfmix_status status = tfmix_add_prepare(&p, &v, sizes);
    *inputs = {sizes->input, sizes->second_input};
    return status;
  }
  using Kernel = void (*)(const tfmix_add_params*, const uint8_t*, const uint8_t*, uint8_t*);
  void Run(Kernel kernel, const Buffers& b) { kernel(&p, b.inputs[0], b.inputs[1], b.output); }
  Values Reference(const tfmix_variant& v, const std::vector<Bytes>& inputs, const Bytes&) {
    return reference::Add(p, reference::Unpack(inputs[0], v.input_bits, p.elements),
                          reference::Unpack(inputs[1], v.second_input_bits, p.elements),
                          v.output_bits);
  }
};

struct MultiplyProblem : OneStruct<tfmix_multiply_params> {
  void Draw(Random& random, const tfmix_variant& v) {
    p.second_elements = random.OneIn(2) ? 4 * random.Channels() : random.Channels();
    p.elements = p.second_elements * random.In(1, 12);
    p.zero_point_a = random.ZeroPoint(v.input_bits);
    p.zero_point_b = random.ZeroPoint(v.second_input_bits);
    p.output_zero_point = random.ZeroPoint(v.output_bits);
    p.left_shift = random.OneIn(2) ? 0 : random.In(0, 12);
    const int32_t product_bits = v.input_bits + v.second_input_bits;
    p.multiplier = random.Multiplier(std::ldexp(1.0, product_bits), std::ldexp(1.0, v.output_bits),
                                     p.left_shift);
    if (random.OneIn(8)) p.multiplier = INT32_MAX;
    p.multiplier = std::max(p.multiplier, 1);
  }
  tfmix_status Prepare(const tfmix_variant& v, Sizes* inputs, tfmix_sizes* sizes) {
    const tfmix_status status = tfmix_multiply_prepare(&p, &v, sizes);
    *inputs = {sizes->input, sizes->second_input};
    return status;
  }
  using Kernel = void (*)(const tfmix_multiply_params*, const uint8_t*, const uint8_t*, uint8_t*);
  void Run(Kernel kernel, const Buffers& b) { kernel(&p, b.inputs[0], b.inputs[1], b.output); }
  Values Reference(const tfmix_variant& v, const std::vector<Bytes>& inputs, const Bytes&) {
    return reference::Multiply(p, reference::Unpack(inputs[0], v.input_bits, p.elements),
                               reference::Unpack(inputs[1], v.second_input_bits, p.second_elements),
                               v.output_bits);
  }
};

struct ConcatenateProblem : OneStruct<tfmix_concatenate_params> {
  std::vector<tfmix_concatenate_input> descriptions;

  void Draw(Random& random, const tfmix_variant& v) {
    p.pixels = random.In(1, 12);
    p.input_count = random.In(1, 4);
    p.output_zero_point = random.ZeroPoint(v.output_bits);
    p.output_channels = 0;
    descriptions.clear();
    for (int32_t k = 0; k < p.input_count; ++k) {
      tfmix_concatenate_input d;
      d.channels = random.Channels();
      d.bits = 1 << random.In(1, 3);
      d.zero_point = random.ZeroPoint(d.bits);
      d.left_shift = random.In(0, 8);
      d.multiplier =
          random.Multiplier(std::ldexp(1.0, d.bits), std::ldexp(1.0, v.output_bits), d.left_shift);
      p.output_channels += d.channels;
      descriptions.push_back(d);
    }
  }
  void Mutate(Random& random) {
    if (random.OneIn(2)) return MutateField(random, &p);
    MutateField(random, &descriptions[static_cast<size_t>(
                            random.In(0, static_cast<int32_t>(descriptions.size()) - 1))]);
  }
  tfmix_status Prepare(const tfmix_variant& v, Sizes* inputs, tfmix_sizes* sizes) {
    inputs->resize(descriptions.size());
    return tfmix_concatenate_prepare(&p, descriptions.data(),
                                     static_cast<int32_t>(descriptions.size()), &v, inputs->data(),
                                     sizes);
  }
  using Kernel = void (*)(const tfmix_concatenate_params*, const tfmix_concatenate_input*,
                          const uint8_t* const*, uint8_t*);
  void Run(Kernel kernel, const Buffers& b) {
    kernel(&p, descriptions.data(), b.inputs.data(), b.output);
  }
  Values Reference(const tfmix_variant& v, const std::vector<Bytes>& inputs, const Bytes&) {
    std::vector<Values> values;
    for (size_t k = 0; k < inputs.size(); ++k) {
      values.push_back(
          reference::Unpack(inputs[k], descriptions[k].bits, p.pixels * descriptions[k].channels));
    }
    return reference::Concatenate(p, descriptions, values, v.output_bits);
  }
};

struct RequantizeProblem : OneInput<tfmix_requantize_params, tfmix_requantize_prepare> {
  void Draw(Random& random, const tfmix_variant& v) {
    p.elements = random.In(1, 300);
    p.input_zero_point = random.ZeroPoint(v.input_bits);
    p.output_zero_point = random.ZeroPoint(v.output_bits);
    p.left_shift = random.In(0, 8);
    p.multiplier = random.Multiplier(std::ldexp(1.0, v.input_bits), std::ldexp(1.0, v.output_bits),
                                     p.left_shift);
  }
  Values Reference(const tfmix_variant& v, const std::vector<Bytes>& inputs, const Bytes&) {
    return reference::RequantizeTensor(p, reference::Unpack(inputs[0], v.input_bits, p.elements),
                                       v.output_bits);
  }
};

struct LookupProblem : OneInput<tfmix_lookup_params, tfmix_lookup_prepare> {
  void Draw(Random& random, const tfmix_variant& v) {
    p.elements = random.In(1, 300);
    p.output_zero_point = random.ZeroPoint(v.output_bits);
  }
  Bytes DrawConstants(Random& random, const tfmix_variant& v, int32_t size) {
    Bytes table = random.Contents(static_cast<size_t>(size));
    for (uint8_t& entry : table) entry = static_cast<uint8_t>(entry >> (8 - v.output_bits));
    return table;
  }
  using Kernel = void (*)(const tfmix_lookup_params*, const uint8_t*, const uint8_t*, uint8_t*);
  void Run(Kernel kernel, const Buffers& b) { kernel(&p, b.inputs[0], b.constants, b.output); }
  Values Reference(const tfmix_variant& v, const std::vector<Bytes>& inputs, const Bytes& block) {
    return reference::Lookup(reference::Unpack(inputs[0], v.input_bits, p.elements),
                             Values(block.begin(), block.end()));
  }
};

struct AveragePoolProblem : OneInput<tfmix_average_pool_params, tfmix_average_pool_prepare> {
  void Draw(Random& random, const tfmix_variant& v) {
    DrawWindow(random, &p);
    p.input_channels = p.output_channels = random.Channels();
    p.input_zero_point = random.ZeroPoint(v.input_bits);
    p.output_zero_point = random.ZeroPoint(v.output_bits);
    p.left_shift = random.In(0, 8);
    p.multiplier = random.Multiplier(std::ldexp(1.0, v.input_bits), std::ldexp(1.0, v.output_bits),
                                     p.left_shift);
  }
  Values Reference(const tfmix_variant& v, const std::vector<Bytes>& inputs, const Bytes&) {
    const Values x = reference::Unpack(inputs[0], v.input_bits,
                                       p.input_height * p.input_width * p.input_channels);
    return reference::AveragePool(p, x, v.output_bits);
  }
};

struct MaxPoolProblem : OneInput<tfmix_max_pool_params, tfmix_max_pool_prepare> {
  void Draw(Random& random, const tfmix_variant&) {
    DrawWindow(random, &p);
    p.input_channels = p.output_channels = random.Channels();
  }
  Values Reference(const tfmix_variant& v, const std::vector<Bytes>& inputs, const Bytes&) {
    return reference::MaxPool(p,
                              reference::Unpack(inputs[0], v.input_bits,
                                                p.input_height * p.input_width * p.input_channels));
  }
};

struct PadProblem : OneInput<tfmix_pad_params, tfmix_pad_prepare> {
  void Draw(Random& random, const tfmix_variant& v) {
    p.input_height = random.In(1, 6);
    p.input_width = random.In(1, 6);
    p.channels = random.Channels();
    for (int32_t* pad : {&p.pad_top, &p.pad_bottom, &p.pad_left, &p.pad_right}) {
      *pad = random.In(0, 3);
    }
    p.zero_point = random.ZeroPoint(v.input_bits);
  }
  Values Reference(const tfmix_variant& v, const std::vector<Bytes>& inputs, const Bytes&) {
    return reference::Pad(
        p, reference::Unpack(inputs[0], v.input_bits, p.input_height * p.input_width * p.channels));
  }
};

struct SoftmaxProblem : OneInput<tfmix_softmax_params, tfmix_softmax_prepare> {
  void Draw(Random& random, const tfmix_variant&) {
    p.rows = random.In(1, 4);
    p.classes = random.OneIn(8) ? random.In(1, 1000) : random.In(1, 20);
    p.table_size = random.In(1, 256);
  }
  Bytes DrawConstants(Random& random, const tfmix_variant&, int32_t size) {
    Bytes table(static_cast<size_t>(size));
    const double scale = random.Real(0.001, 2.0);
    for (size_t d = 0; d < table.size() / 2; ++d) {
      const auto entry =
          static_cast<uint16_t>(65535.0 * std::exp(-scale * static_cast<double>(d)) + 0.5);
      std::memcpy(table.data() + 2 * d, &entry, sizeof(entry));
    }
    return table;
  }
  using Kernel = void (*)(const tfmix_softmax_params*, const uint8_t*, const uint8_t*, uint8_t*);
  void Run(Kernel kernel, const Buffers& b) { kernel(&p, b.inputs[0], b.constants, b.output); }
  Values Reference(const tfmix_variant&, const std::vector<Bytes>& inputs, const Bytes& block) {
    Values table;
    for (size_t d = 0; d < block.size() / 2; ++d) {
      table.push_back(block[2 * d] | block[2 * d + 1] << 8);
    }
    return reference::Softmax(p, reference::Unpack(inputs[0], 8, p.rows * p.classes), table);
  }
};

// ---- The test of one variant -----------------------------------------------------------------

int32_t cases = 0;

[[noreturn]] void Fail(const char* variant, const char* what) {
  std::printf("%s, case %d: %s\n", variant, static_cast<int>(cases), what);
  std::exit(1);
}

std::vector<Bytes> DrawInputs(Random& random, const Sizes& sizes) {
  std::vector<Bytes> inputs;
  for (const int32_t size : sizes) inputs.push_back(random.Contents(static_cast<size_t>(size)));
  return inputs;
}

// Runs the kernel on buffers of exactly the sizes given; the output begins as random bytes.
template <typename Problem>
Bytes RunGuarded(Random& random, Problem& problem, typename Problem::Kernel kernel,
                 const std::vector<Bytes>& inputs, const Bytes& constants,
                 const tfmix_sizes& sizes) {
  std::vector<Guarded> guarded_inputs;
  std::vector<const uint8_t*> addresses;
  for (const Bytes& input : inputs) guarded_inputs.emplace_back(input, random.OneIn(2));
  for (const Guarded& input : guarded_inputs) addresses.push_back(input.data());
  const Guarded block(constants, random.OneIn(2));
  const Guarded output(random.Contents(static_cast<size_t>(sizes.output)), random.OneIn(2));
  const Guarded scratch(random.Contents(static_cast<size_t>(sizes.scratch)));
  problem.Run(kernel, {addresses, block.data(), output.data(), scratch.data()});
  return output.contents();
}

template <typename Problem>
void TestVariant(const char* name, typename Problem::Kernel kernel, const tfmix_variant& v,
                 int32_t count, Random& random) {
  for (int32_t i = 0; i < count; ++i, ++cases) {
    Problem problem;
    problem.Draw(random, v);
    Sizes input_sizes;
    tfmix_sizes sizes;
    const tfmix_status status = problem.Prepare(v, &input_sizes, &sizes);
    if (status != TFMIX_OK) Fail(name, tfmix_status_message(status));
    const std::vector<Bytes> inputs = DrawInputs(random, input_sizes);
    const Bytes constants = problem.DrawConstants(random, v, sizes.constants);
    const Bytes found = RunGuarded(random, problem, kernel, inputs, constants, sizes);
    const int output_bits = v.output_bits != 0 ? v.output_bits : v.input_bits;
    const Bytes expected = reference::Pack(problem.Reference(v, inputs, constants), output_bits);
    if (expected.size() != found.size()) Fail(name, "the output has another size");
    if (expected != found) Fail(name, "the output differs from the reference");
  }
}

// Parameters with a few hostile fields. Prepare may refuse them or not; where it does not, the
// kernel must run on any contents. Only the sanitizers judge.
template <typename Problem>
void TestHostile(typename Problem::Kernel kernel, const tfmix_variant& v, int32_t count,
                 Random& random) {
  constexpr int64_t kMostWork = 1 << 18;
  for (int32_t i = 0; i < count; ++i, ++cases) {
    Problem problem;
    problem.Draw(random, v);
    for (int32_t fields = random.In(1, 3); fields > 0; --fields) problem.Mutate(random);
    Sizes input_sizes;
    tfmix_sizes sizes = {};
    if (problem.Prepare(v, &input_sizes, &sizes) != TFMIX_OK) continue;
    int64_t work = int64_t{sizes.scratch} + sizes.constants + sizes.output;
    for (const int32_t size : input_sizes) work += size;
    if (work > kMostWork) continue;
    if (int64_t{sizes.output} * (sizes.scratch + sizes.constants) > 64 * kMostWork) continue;
    const Bytes constants = random.Contents(static_cast<size_t>(sizes.constants));
    RunGuarded(random, problem, kernel, DrawInputs(random, input_sizes), constants, sizes);
  }
}

template <typename Problem>
void Test(const char* name, typename Problem::Kernel kernel, const tfmix_variant& v, int32_t count,
          Random& random) {
  TestVariant<Problem>(name, kernel, v, count, random);
  TestHostile<Problem>(kernel, v, count, random);
}

constexpr int32_t kIsPerChannel_pc = 1;
constexpr int32_t kIsPerChannel_pl = 0;

}  // namespace
}  // namespace tfmix

int main(int argc, char** argv) {
  using namespace tfmix;
  const int32_t count = argc > 1 ? std::atoi(argv[1]) : 100;
  Random random(argc > 2 ? static_cast<uint32_t>(std::atoi(argv[2])) : 1);

#define TFMIX_TEST_(problem_, name_, ...) \
  Test<problem_>(#name_, name_, tfmix_variant{__VA_ARGS__}, count, random);
#define TFMIX_TEST_CONV2D_(a_, w_, o_, z_)                                           \
  TFMIX_TEST_(Conv2dProblem, tfmix_conv2d_a##a_##w##w_##o##o_##_##z_, a_, 0, w_, o_, \
              kIsPerChannel_##z_)
#define TFMIX_TEST_DEPTHWISE_CONV2D_(a_, w_, o_, z_)                                            \
  TFMIX_TEST_(DepthwiseConv2dProblem, tfmix_depthwise_conv2d_a##a_##w##w_##o##o_##_##z_, a_, 0, \
              w_, o_, kIsPerChannel_##z_)
#define TFMIX_TEST_FULLY_CONNECTED_(a_, w_, o_, z_)                                               \
  TFMIX_TEST_(FullyConnectedProblem, tfmix_fully_connected_a##a_##w##w_##o##o_##_##z_, a_, 0, w_, \
              o_, kIsPerChannel_##z_)
#define TFMIX_TEST_ADD_(a_, b_, o_) \
  TFMIX_TEST_(AddProblem, tfmix_add_a##a_##b##b_##o##o_, a_, b_, 0, o_, 0)
#define TFMIX_TEST_MULTIPLY_(a_, b_, o_) \
  TFMIX_TEST_(MultiplyProblem, tfmix_multiply_a##a_##b##b_##o##o_, a_, b_, 0, o_, 0)
#define TFMIX_TEST_CONCATENATE_(o_) \
  TFMIX_TEST_(ConcatenateProblem, tfmix_concatenate_o##o_, 0, 0, 0, o_, 0)
#define TFMIX_TEST_REQUANTIZE_(a_, o_) \
  TFMIX_TEST_(RequantizeProblem, tfmix_requantize_a##a_##o##o_, a_, 0, 0, o_, 0)
#define TFMIX_TEST_LOOKUP_(a_, o_) \
  TFMIX_TEST_(LookupProblem, tfmix_lookup_a##a_##o##o_, a_, 0, 0, o_, 0)
#define TFMIX_TEST_AVERAGE_POOL_(a_, o_) \
  TFMIX_TEST_(AveragePoolProblem, tfmix_average_pool_a##a_##o##o_, a_, 0, 0, o_, 0)
#define TFMIX_TEST_MAX_POOL_(a_) TFMIX_TEST_(MaxPoolProblem, tfmix_max_pool_a##a_, a_, 0, 0, 0, 0)
#define TFMIX_TEST_PAD_(a_) TFMIX_TEST_(PadProblem, tfmix_pad_a##a_, a_, 0, 0, 0, 0)
#define TFMIX_TEST_SOFTMAX_(a_, o_) \
  TFMIX_TEST_(SoftmaxProblem, tfmix_softmax_a##a_##o##o_, a_, 0, 0, o_, 0)

  TFMIX_CONV2D_VARIANTS(TFMIX_TEST_CONV2D_)
  TFMIX_DEPTHWISE_CONV2D_VARIANTS(TFMIX_TEST_DEPTHWISE_CONV2D_)
  TFMIX_FULLY_CONNECTED_VARIANTS(TFMIX_TEST_FULLY_CONNECTED_)
  TFMIX_ADD_VARIANTS(TFMIX_TEST_ADD_)
  TFMIX_MULTIPLY_VARIANTS(TFMIX_TEST_MULTIPLY_)
  TFMIX_CONCATENATE_VARIANTS(TFMIX_TEST_CONCATENATE_)
  TFMIX_REQUANTIZE_VARIANTS(TFMIX_TEST_REQUANTIZE_)
  TFMIX_LOOKUP_VARIANTS(TFMIX_TEST_LOOKUP_)
  TFMIX_AVERAGE_POOL_VARIANTS(TFMIX_TEST_AVERAGE_POOL_)
  TFMIX_MAX_POOL_VARIANTS(TFMIX_TEST_MAX_POOL_)
  TFMIX_PAD_VARIANTS(TFMIX_TEST_PAD_)
  TFMIX_SOFTMAX_VARIANTS(TFMIX_TEST_SOFTMAX_)

  std::printf("%d cases\n", static_cast<int>(cases));
  return 0;
}
