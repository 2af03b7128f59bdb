# Cortex-M7 with a double-precision FPU, for instance STM32H7, STM32F76x, i.MX RT1060.
set(TFMIX_CPU_FLAGS "-mcpu=cortex-m7 -mfpu=fpv5-d16")
include(${CMAKE_CURRENT_LIST_DIR}/arm-none-eabi.cmake)
