# Cortex-M4 with its single-precision FPU, for instance STM32F4, STM32L4, nRF52840.
set(TFMIX_CPU_FLAGS "-mcpu=cortex-m4 -mfpu=fpv4-sp-d16")
include(${CMAKE_CURRENT_LIST_DIR}/arm-none-eabi.cmake)
