// What the test programs beside this file need of the machine they run on: a host, or a board.
#ifndef TFMIX_TESTS_TFLM_MACHINE_H_
#define TFMIX_TESTS_TFLM_MACHINE_H_

#include <cstdint>

namespace tfmix::tflm_test {

void Write(const char* text);
void Write(int32_t value);

// Whether to leave out what TFLM says.
void Mute(bool mute);

// Opens the only file that a program reads. False if it is not there.
bool Open(const char* path);

// Reads up to `size` bytes, fewer only at the end of the file. The number of bytes read.
int32_t Read(void* data, int32_t size);

}  // namespace tfmix::tflm_test

#endif  // TFMIX_TESTS_TFLM_MACHINE_H_
