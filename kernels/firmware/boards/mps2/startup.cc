// From reset to main: FPU, memory, stack paint; and a word about every fault before QEMU ends.
#include <stdint.h>
#include <string.h>

#include "board.h"

extern "C" {

// Defined by mps2.ld.
extern uint32_t board_stack_bottom[], board_stack_top[];
extern uint32_t board_data_begin[], board_data_end[], board_data_image[];
extern uint32_t board_bss_begin[], board_bss_end[];

void Reset_Handler();
void Fault_Handler();
[[noreturn]] void board_report_fault(const uint32_t* frame);
}

namespace {

// System control block of Armv7-M.
volatile uint32_t& Register(uint32_t address) {
  return *reinterpret_cast<volatile uint32_t*>(address);
}
constexpr uint32_t kConfigurationControl = 0xE000ED14;
constexpr uint32_t kHandlerControl = 0xE000ED24;
constexpr uint32_t kFaultStatus = 0xE000ED28;
constexpr uint32_t kMemManageAddress = 0xE000ED34;
constexpr uint32_t kBusFaultAddress = 0xE000ED38;
constexpr uint32_t kCoprocessorAccess = 0xE000ED88;

constexpr uint32_t kPaint = 0xDEADBEEF;

constexpr int kFaultExitCode = 99;

using Handler = void (*)();

union Vector {
  const uint32_t* stack;
  Handler handler;
};

constexpr int kSystemVectors = 16;

__attribute__((section(".vectors"), used)) const Vector kVectors[kSystemVectors] = {
    {.stack = board_stack_top}, {.handler = Reset_Handler},  // reset
    {.handler = Fault_Handler},                              // NMI
    {.handler = Fault_Handler},                              // hard fault
    {.handler = Fault_Handler},                              // memory management
    {.handler = Fault_Handler},                              // bus
    {.handler = Fault_Handler},                              // usage
};

void PaintStack() {
  uint32_t here;
  // What lies above this variable is in use.
  for (uint32_t* word = board_stack_bottom; word < &here; ++word) *word = kPaint;
}

}  // namespace

void Reset_Handler() {
  Register(kCoprocessorAccess) |= 0xF << 20;  // full access to the FPU
  Register(kConfigurationControl) |= 1 << 4;  // a division by zero is a fault
  Register(kHandlerControl) |= 7 << 16;       // memory, bus and usage faults, each by itself
  __asm volatile("dsb\n isb" ::: "memory");

  memcpy(board_data_begin, board_data_image,
         static_cast<size_t>(board_data_end - board_data_begin) * sizeof(uint32_t));
  memset(board_bss_begin, 0,
         static_cast<size_t>(board_bss_end - board_bss_begin) * sizeof(uint32_t));
  PaintStack();
  board_exit(main());
}

// The stack may be what has overflowed, so the report begins a new one.
__attribute__((naked)) void Fault_Handler() {
  __asm volatile(
      "mov r0, sp\n"
      "ldr r1, =board_stack_top\n"
      "mov sp, r1\n"
      "b board_report_fault\n");
}

void board_report_fault(const uint32_t* frame) {
  const uint32_t status = Register(kFaultStatus);
  board_write("\nfault: status ");
  board_write_hex(status);
  if (status & 1 << 7) {
    board_write(", protected address ");
    board_write_hex(Register(kMemManageAddress));
  }
  if (status & 1 << 15) {
    board_write(", unmapped address ");
    board_write_hex(Register(kBusFaultAddress));
  }
  if (frame >= board_stack_bottom && frame + 7 < board_stack_top) {
    board_write(", instruction at ");
    board_write_hex(frame[6]);
  } else {
    board_write(", stack overflow");
  }
  board_write("\n");
  board_exit(kFaultExitCode);
}

int32_t board_stack_used() {
  const uint32_t* word = board_stack_bottom;
  while (word < board_stack_top && *word == kPaint) ++word;
  return static_cast<int32_t>(board_stack_top - word) * static_cast<int32_t>(sizeof(uint32_t));
}
