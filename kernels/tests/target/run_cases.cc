// Runs the cases of the file cases.bin, which tests/target_cases.py writes, and compares every byte
// of output. Prints a line for each case:
//
//     <variant> <instructions> <bytes of scratch> ok
//     <variant> <what is wrong>
//
// and in the end "<cases> cases, <failures> failures". The exit code is 0 if there are no failures.
#include <cstdint>
#include <cstring>

#include "board.h"
#include "guarded_memory.h"
#include "variant_table.h"

namespace tfmix::target {
namespace {

// ---- The file -----------------------------------------------------------------------------------

struct Part {
  const uint8_t* data;
  int32_t size;
};

struct Case {
  char name[40];
  int32_t input_count;
  Part params;
  Part inputs[kMaxInputs];
  Part constants;
  Part output;  // as it must be
};

constexpr int32_t kRecordSize = 1280 * 1024;
alignas(uint32_t) uint8_t record[kRecordSize];

class Reader {
 public:
  explicit Reader(const char* path) : handle_(board_open(path)) {}
  bool is_open() const { return handle_ >= 0; }

  // The next case; its parts stay until the one after. False at the end of the file.
  bool Next(Case* c) {
    used_ = 0;
    if (board_read(handle_, c->name, sizeof(c->name)) == 0) return false;
    c->input_count = Int();
    c->params = ReadPart();
    for (int32_t i = 0; i < c->input_count; ++i) c->inputs[i] = ReadPart();
    c->constants = ReadPart();
    c->output = ReadPart();
    return true;
  }

 private:
  int32_t Int() {
    int32_t value = 0;
    board_read(handle_, &value, sizeof(value));
    return value;
  }
  Part ReadPart() {
    const int32_t size = Int();
    const int32_t padded = (size + 3) & -4;
    if (padded > kRecordSize - used_) {
      board_write("a case is too large\n");
      board_exit(2);
    }
    board_read(handle_, record + used_, padded);
    used_ += padded;
    return {record + used_ - padded, size};
  }

  int32_t handle_;
  int32_t used_ = 0;
};

// ---- A run --------------------------------------------------------------------------------------

// A copy of `part` in `slot`.
const uint8_t* PlaceCopy(Slot slot, Side side, const Part& part, int32_t alignment = 1) {
  uint8_t* copy = Place(slot, side, part.size, alignment);
  if (copy != nullptr) std::memcpy(copy, part.data, static_cast<size_t>(part.size));
  return copy;
}

bool IsUntouched(Slot slot, const uint8_t* copy, const Part& part) {
  return std::memcmp(copy, part.data, static_cast<size_t>(part.size)) == 0 &&
         CanariesAlive(slot, copy, part.size);
}

Slot InputSlot(int32_t index) { return static_cast<Slot>(kInput0 + index); }

// Runs a case once. Returns what is wrong, or nullptr.
const char* Run(const Case& c, const Variant& variant, const Sizes& sizes, Side side,
                uint32_t* instructions) {
  Buffers b = {};
  b.params = c.params.data;
  bool fits = true;
  for (int32_t i = 0; i < c.input_count; ++i) {
    b.inputs[i] = PlaceCopy(InputSlot(i), side, c.inputs[i]);
    fits = fits && b.inputs[i] != nullptr;
  }
  b.constants = PlaceCopy(kConstants, side, c.constants, alignof(int32_t));
  b.output = Place(kOutput, side, sizes.output);
  b.scratch = Place(kScratch, side, sizes.scratch, alignof(int32_t));
  if (!fits || b.constants == nullptr || b.output == nullptr || b.scratch == nullptr) {
    return "a buffer is too large for this program";
  }
  const int garbage = side == Side::kBegin ? 0x5A : 0xFF;
  std::memset(b.output, garbage, static_cast<size_t>(sizes.output));
  std::memset(b.scratch, garbage, static_cast<size_t>(sizes.scratch));

  const uint32_t begin = board_ticks();
  variant.run(b);
  *instructions = board_instructions(begin, board_ticks());

  if (std::memcmp(b.output, c.output.data, static_cast<size_t>(sizes.output)) != 0) {
    return "the output differs from the reference";
  }
  if (!CanariesAlive(kOutput, b.output, sizes.output)) return "wrote beyond the output";
  if (!CanariesAlive(kScratch, static_cast<uint8_t*>(b.scratch), sizes.scratch)) {
    return "wrote beyond the scratch";
  }
  if (!IsUntouched(kConstants, b.constants, c.constants)) return "wrote into the constants";
  for (int32_t i = 0; i < c.input_count; ++i) {
    if (!IsUntouched(InputSlot(i), b.inputs[i], c.inputs[i])) return "wrote into an input";
  }
  return nullptr;
}

bool SizesAgree(const Case& c, const Sizes& sizes) {
  if (c.input_count != sizes.input_count) return false;
  for (int32_t i = 0; i < c.input_count; ++i) {
    if (c.inputs[i].size != sizes.inputs[i]) return false;
  }
  return c.constants.size == sizes.constants && c.output.size == sizes.output;
}

const char* RunAtBothEnds(const Case& c, Sizes* sizes, uint32_t* instructions) {
  const Variant* variant = FindVariant(c.name);
  if (variant == nullptr) return "there is no such variant";
  const tfmix_status status = variant->prepare(c.params.data, variant->bits, sizes);
  if (status != TFMIX_OK) return tfmix_status_message(status);
  if (!SizesAgree(c, *sizes)) return "prepare returns other sizes than the case has";
  // At the end buffers lie at any address. The count is that of aligned ones.
  uint32_t unused;
  const char* wrong = Run(c, *variant, *sizes, Side::kEnd, &unused);
  return wrong != nullptr ? wrong : Run(c, *variant, *sizes, Side::kBegin, instructions);
}

}  // namespace
}  // namespace tfmix::target

int main() {
  using namespace tfmix::target;
  Reader reader("cases.bin");
  if (!reader.is_open()) {
    board_write("no cases.bin\n");
    return 2;
  }
  ProtectGuards();
  int32_t cases = 0, failures = 0;
  for (Case c; reader.Next(&c); ++cases) {
    // First of all, so that a fault has a name.
    board_write(c.name);
    Sizes sizes;
    uint32_t instructions = 0;
    const char* wrong = RunAtBothEnds(c, &sizes, &instructions);
    board_write(" ");
    if (wrong != nullptr) {
      ++failures;
      board_write(wrong);
    } else {
      board_write_int(static_cast<int32_t>(instructions));
      board_write(" ");
      board_write_int(sizes.scratch);
      board_write(" ok");
    }
    board_write("\n");
  }
  board_write_int(cases);
  board_write(" cases, ");
  board_write_int(failures);
  board_write(" failures\n");
  return failures == 0 ? 0 : 1;
}
