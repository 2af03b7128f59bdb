// Buffers with nothing but protected memory beyond one end, and canaries beyond the other.
//
// The memory protection unit has eight regions: enough for a guard between each two of seven slots.
// A buffer is placed at one end of a slot, so that a read or write past that end is a fault; past
// the other end a write kills a canary. Each case runs at both ends.
#ifndef TFMIX_TESTS_TARGET_GUARDED_MEMORY_H_
#define TFMIX_TESTS_TARGET_GUARDED_MEMORY_H_

#include <cstdint>

namespace tfmix::target {

// Inputs first, so that input i lies in slot i.
enum Slot { kInput0, kInput1, kInput2, kInput3, kConstants, kOutput, kScratch, kSlots };

// The end of a slot at which buffers lie.
enum class Side { kBegin, kEnd };

// Switches the guards on. Call this once.
void ProtectGuards();

// `size` bytes in `slot`, with the canaries renewed; nullptr if the slot is too small. `alignment`
// is a power of two; it may cost up to alignment - 1 bytes between a buffer and the guard behind
// it, which are canaries then.
uint8_t* Place(Slot slot, Side side, int32_t size, int32_t alignment = 1);

// Whether everything around the buffer that Place has returned is as it was.
bool CanariesAlive(Slot slot, const uint8_t* buffer, int32_t size);

}  // namespace tfmix::target

#endif  // TFMIX_TESTS_TARGET_GUARDED_MEMORY_H_
