#include "guarded_memory.h"

#include <algorithm>

namespace tfmix::target {
namespace {

// A page of QEMU, which is quick where a whole page has the same protection.
constexpr int32_t kGuardSize = 1024;
constexpr int32_t kGuardSizeCode = 9;  // log2(size) - 1
constexpr int32_t kCanaries = 64;
constexpr uint8_t kCanary = 0xC5;

constexpr int32_t kSlotSizes[kSlots] = {
    128 * 1024,  128 * 1024, 64 * 1024, 64 * 1024,  // inputs
    1152 * 1024,                                    // constants
    128 * 1024,                                     // output
    64 * 1024,                                      // scratch
};

// Where a slot begins, and for kSlots where the guard behind the last one ends.
constexpr int32_t Offset(int32_t slot) {
  int32_t offset = kGuardSize;
  for (int32_t i = 0; i < slot; ++i) offset += kSlotSizes[i] + kGuardSize;
  return offset;
}

alignas(kGuardSize) uint8_t memory[Offset(kSlots)];

uint8_t* Begin(Slot slot) { return memory + Offset(slot); }
uint8_t* End(Slot slot) { return Begin(slot) + kSlotSizes[slot]; }

}  // namespace

void ProtectGuards() {
  volatile auto* mpu = reinterpret_cast<volatile uint32_t*>(0xE000ED90);
  constexpr int32_t kControl = 1, kRegionNumber = 2, kRegionBase = 3, kRegionAttributes = 4;
  constexpr uint32_t kExecuteNever = 1 << 28, kNoAccess = 0 << 24, kEnable = 1;
  constexpr uint32_t kDefaultElsewhere = 1 << 2;
  for (int32_t region = 0; region <= kSlots; ++region) {
    mpu[kRegionNumber] = static_cast<uint32_t>(region);
    mpu[kRegionBase] = reinterpret_cast<uint32_t>(memory + Offset(region) - kGuardSize);
    mpu[kRegionAttributes] = kExecuteNever | kNoAccess | kGuardSizeCode << 1 | kEnable;
  }
  mpu[kControl] = kDefaultElsewhere | kEnable;
  __asm volatile("dsb\n isb" ::: "memory");
}

uint8_t* Place(Slot slot, Side side, int32_t size, int32_t alignment) {
  if (size > kSlotSizes[slot] - kCanaries - alignment) return nullptr;
  if (side == Side::kBegin) {
    std::fill_n(Begin(slot) + size, kCanaries, kCanary);
    return Begin(slot);
  }
  const int32_t distance = (size + alignment - 1) & -alignment;
  std::fill(End(slot) - distance - kCanaries, End(slot), kCanary);
  return End(slot) - distance;
}

bool CanariesAlive(Slot slot, const uint8_t* buffer, int32_t size) {
  const auto alive = [](const uint8_t* begin, const uint8_t* end) {
    return std::all_of(begin, end, [](uint8_t byte) { return byte == kCanary; });
  };
  const uint8_t* end = buffer + size;
  if (buffer == Begin(slot)) return alive(end, end + kCanaries);
  return alive(buffer - kCanaries, buffer) && alive(end, End(slot));
}

}  // namespace tfmix::target
