// The instruction counter of board.h, on timer 0 of the CMSDK peripherals.
#include <stdint.h>

#include "board.h"

namespace {

// Counts down from `reload`.
struct Timer {
  uint32_t control;
  uint32_t value;
  uint32_t reload;
};

volatile Timer& timer = *reinterpret_cast<volatile Timer*>(0x40000000);

constexpr uint32_t kEnable = 1;

uint32_t ToInstructions(uint32_t ticks) {
  return static_cast<uint32_t>((uint64_t{ticks} * 10 + 8) / 16);
}

}  // namespace

uint32_t board_ticks() {
  if (timer.control == 0) {
    timer.reload = UINT32_MAX;
    timer.value = UINT32_MAX;
    timer.control = kEnable;
  }
  return ~timer.value;
}

uint32_t board_instructions(uint32_t begin, uint32_t end) {
  // What two calls in a row count is the price of the calls.
  const uint32_t first = board_ticks();
  const uint32_t price = ToInstructions(board_ticks() - first);
  return ToInstructions(end - begin) - price;
}
