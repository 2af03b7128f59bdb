// Chains of layers from the file that tests/kernels/test_sanitizers.py writes: each must compute
// what the file says, whole and with input 0 fed row by row; and every chain again with hostile
// records, which prepare may refuse or not. Meant to be built with -fsanitize=address,undefined:
// all buffers lie on the heap with exactly the sizes that prepare returns.
//
//     stream_test <file> <hostile runs for each chain> <seed>
//
// The file, all integers int32:
//
//     chain = layers | inputs | rows of input 0 that are kept, if it comes row by row | operands
//           | record... | (size | bytes) of each operand | (size | bytes) of the output
//
// Prints the number of chains and exits with 0 if all of them hold.
#include "tfmix/stream.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "../host/stream_kernels.h"

namespace tfmix {
namespace {

using Bytes = std::vector<uint8_t>;

[[noreturn]] void Fail(const char* what) {
  std::printf("%s\n", what);
  std::exit(1);
}

struct Chain {
  tfmix_stream stream;
  Bytes records;
  std::vector<Bytes> operands;
  Bytes output;
};

int32_t ReadInt(std::FILE* file) {
  int32_t value;
  if (std::fread(&value, sizeof(value), 1, file) != 1) Fail("the file is cut off");
  return value;
}

Bytes ReadBytes(std::FILE* file, size_t size) {
  Bytes bytes(size);
  if (size != 0 && std::fread(bytes.data(), size, 1, file) != 1) Fail("the file is cut off");
  return bytes;
}

Chain ReadChain(std::FILE* file) {
  Chain chain = {};
  chain.stream.layer_count = ReadInt(file);
  chain.stream.input_count = ReadInt(file);
  chain.stream.input_rows = ReadInt(file);
  chain.stream.kernels = tfmix_host_stream_kernels(&chain.stream.kernel_count);
  chain.operands.resize(static_cast<size_t>(ReadInt(file)));
  chain.records =
      ReadBytes(file, static_cast<size_t>(chain.stream.layer_count) * sizeof(tfmix_stream_layer));
  for (Bytes& operand : chain.operands) {
    operand = ReadBytes(file, static_cast<size_t>(ReadInt(file)));
  }
  chain.output = ReadBytes(file, static_cast<size_t>(ReadInt(file)));
  return chain;
}

// A block of its own, at an odd address if `misalign`: one byte too far is an error.
class Block {
 public:
  explicit Block(size_t size, bool misalign = false)
      : offset_(misalign ? 1 : 0), memory_(new uint8_t[size + offset_]) {
    std::memset(data(), 0x5A, size);
  }
  explicit Block(const Bytes& bytes, bool misalign = false) : Block(bytes.size(), misalign) {
    if (!bytes.empty()) std::memcpy(data(), bytes.data(), bytes.size());
  }
  uint8_t* data() const { return memory_.get() + offset_; }

 private:
  size_t offset_;
  std::unique_ptr<uint8_t[]> memory_;
};

// `operands` as they are, whatever prepare has said of their sizes.
Bytes Run(const tfmix_stream& stream, const tfmix_stream_sizes& sizes,
          const std::vector<Bytes>& operands, bool misalign) {
  std::vector<Block> blocks;
  std::vector<const uint8_t*> addresses;
  const Bytes& first = operands[0];
  for (const Bytes& operand : operands) blocks.emplace_back(operand, misalign);
  for (const Block& block : blocks) addresses.push_back(block.data());
  const Block output(static_cast<size_t>(sizes.output), misalign);
  const Block scratch(static_cast<size_t>(sizes.scratch));
  if (stream.input_rows == 0) {
    tfmix_stream_run(&stream, addresses.data(), output.data(), scratch.data());
  } else {
    addresses[0] = nullptr;
    std::vector<int32_t> row_and_rest(operands.size());
    tfmix_stream_sizes unused;
    tfmix_stream_prepare(&stream, row_and_rest.data(), static_cast<int32_t>(operands.size()),
                         &unused);
    const auto size = static_cast<size_t>(row_and_rest[0]);
    tfmix_stream_begin(&stream, scratch.data());
    for (size_t at = 0; at + size <= first.size(); at += size) {
      const Block row(Bytes(first.begin() + static_cast<ptrdiff_t>(at),
                            first.begin() + static_cast<ptrdiff_t>(at + size)));
      tfmix_stream_feed(&stream, row.data(), addresses.data(), output.data(), scratch.data());
    }
  }
  return Bytes(output.data(), output.data() + sizes.output);
}

// As prepare wants them, with anything in them.
bool FitOperands(const std::vector<int32_t>& sizes, std::mt19937* random,
                 std::vector<Bytes>* operands) {
  constexpr int32_t kMostBytes = 1 << 16;
  operands->clear();
  for (const int32_t size : sizes) {
    if (size > kMostBytes) return false;
    operands->emplace_back(static_cast<size_t>(size));
    for (uint8_t& byte : operands->back()) byte = static_cast<uint8_t>((*random)());
  }
  return true;
}

int32_t Hostile(std::mt19937* random) {
  static constexpr int32_t kValues[] = {INT32_MIN, -1,   0,     1,     2,       3,       4,
                                        5,         7,    8,     16,    63,      64,      255,
                                        256,       4095, 65535, 65536, 1 << 20, 1 << 30, INT32_MAX};
  return (*random)() % 4 == 0 ? static_cast<int32_t>((*random)())
                              : kValues[(*random)() % (sizeof(kValues) / sizeof(kValues[0]))];
}

void Damage(Chain* chain, std::mt19937* random) {
  for (auto fields = 1 + (*random)() % 3; fields > 0; --fields) {
    const size_t words = chain->records.size() / sizeof(int32_t);
    const size_t word = (*random)() % (words + 3);
    int32_t value = Hostile(random);
    if (word < words) {
      uint8_t* const field = chain->records.data() + word * sizeof(value);
      if ((*random)() % 2 == 0) {  // a little more or less
        std::memcpy(&value, field, sizeof(value));
        value = static_cast<int32_t>(static_cast<uint32_t>(value) + (*random)() % 5 - 2);
      }
      std::memcpy(field, &value, sizeof(value));
    } else if (word == words) {
      chain->stream.input_count = value;
    } else if (word == words + 1) {
      chain->stream.input_rows = value;
    } else {  // no more than there are
      chain->stream.layer_count = static_cast<int32_t>((*random)() % 9) - 1;
      const auto most = static_cast<int32_t>(chain->records.size() / sizeof(tfmix_stream_layer));
      if (chain->stream.layer_count > most) chain->stream.layer_count = most;
    }
  }
}

void RunHostile(Chain chain, std::mt19937* random) {
  constexpr int64_t kMostWork = 1 << 24;
  Damage(&chain, random);
  const Block records(chain.records, true);
  chain.stream.layers = records.data();
  std::vector<int32_t> sizes(chain.operands.size());
  tfmix_stream_sizes found;
  if (tfmix_stream_prepare(&chain.stream, sizes.data(), static_cast<int32_t>(sizes.size()),
                           &found) != TFMIX_OK) {
    return;
  }
  int64_t work = 1;
  for (int32_t i = 0; i < chain.stream.layer_count; ++i) {
    tfmix_stream_layer layer;
    std::memcpy(&layer, records.data() + static_cast<size_t>(i) * sizeof(layer), sizeof(layer));
    int64_t products = 1;
    if (layer.kernel != TFMIX_STREAM_ADD && layer.kernel != TFMIX_STREAM_REQUANTIZE) {
      for (const int k : {2, 3, 4, 5, 6, 7}) products *= layer.params.fields[k] % 65536;
    }
    work += products + layer.rows;
    if (work > kMostWork) return;
  }
  if (int64_t{found.output} + found.scratch > kMostWork / 16) return;
  const bool by_rows = chain.stream.input_rows != 0;
  if (!FitOperands(sizes, random, &chain.operands)) return;
  if (by_rows) {  // many rows, so that all is made
    const Bytes row = chain.operands[0];
    for (int i = 0; i < 40; ++i) {
      chain.operands[0].insert(chain.operands[0].end(), row.begin(), row.end());
    }
  }
  Run(chain.stream, found, chain.operands, true);
}

void Test(Chain* chain) {
  const Block records(chain->records, true);
  chain->stream.layers = records.data();
  const auto count = static_cast<int32_t>(chain->operands.size());
  std::vector<int32_t> sizes(chain->operands.size());
  tfmix_stream_sizes found;
  const tfmix_status status = tfmix_stream_prepare(&chain->stream, sizes.data(), count, &found);
  if (status != TFMIX_OK) Fail(tfmix_status_message(status));
  for (size_t i = chain->stream.input_rows != 0; i < sizes.size(); ++i) {
    if (chain->operands[i].size() != static_cast<size_t>(sizes[i])) Fail("an operand's size");
  }
  if (chain->output.size() != static_cast<size_t>(found.output)) Fail("the output's size");
  if (Run(chain->stream, found, chain->operands, false) != chain->output) Fail("another output");
}

}  // namespace
}  // namespace tfmix

int main(int, char** arguments) {
  using namespace tfmix;
  std::FILE* file = std::fopen(arguments[1], "rb");
  if (file == nullptr) Fail("no file");
  const int hostile = std::atoi(arguments[2]);
  std::mt19937 random(static_cast<uint32_t>(std::atoi(arguments[3])));
  int chains = 0;
  for (int next = std::fgetc(file); next != EOF; next = std::fgetc(file), ++chains) {
    std::ungetc(next, file);
    Chain chain = ReadChain(file);
    Test(&chain);
    for (int i = 0; i < hostile; ++i) RunHostile(chain, &random);
  }
  std::fclose(file);
  std::printf("%d chains\n", chains);
  return 0;
}
