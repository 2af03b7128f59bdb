// The Armv7E-M DSP instructions that the fast paths use, by name.
//
// TFMIX_DSP is 1 where the fast paths are compiled: on a core with these instructions, unless
// TFMIX_PORTABLE asks for the portable path, or anywhere with TFMIX_EMULATE_DSP, which says in C++
// what the instructions do, so that the fast paths run under the sanitizers of a host.
#ifndef TFMIX_SRC_DSP_H_
#define TFMIX_SRC_DSP_H_

#include <cstdint>
#include <cstring>

#if defined(TFMIX_EMULATE_DSP)
#define TFMIX_DSP 1
#elif defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_SIMD32) && !defined(TFMIX_PORTABLE)
#define TFMIX_DSP 1
#include <arm_acle.h>
#else
#define TFMIX_DSP 0
#endif

// What runs rarely beside the fast paths is compiled for size, and not into what runs often.
#if TFMIX_DSP && defined(__GNUC__)
#define TFMIX_FOR_SIZE __attribute__((cold, noinline))
#else
#define TFMIX_FOR_SIZE
#endif

#if TFMIX_DSP

namespace tfmix {

// Two int16 in a register: the first element in the low half.
using Int16Pair = uint32_t;

inline uint32_t LoadWord(const uint8_t* data) {
  uint32_t word;
  std::memcpy(&word, data, sizeof(word));
  return word;
}

#if defined(TFMIX_EMULATE_DSP)

inline int32_t Low(Int16Pair x) { return static_cast<int16_t>(x & 0xFFFF); }
inline int32_t High(Int16Pair x) { return static_cast<int16_t>(x >> 16); }
inline int32_t WrappingSum(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}

// sum + a.low * b.low + a.high * b.high
inline int32_t Smlad(Int16Pair a, Int16Pair b, int32_t sum) {
  return WrappingSum(WrappingSum(sum, Low(a) * Low(b)), High(a) * High(b));
}
// a.low * b.low
inline int32_t Smulbb(Int16Pair a, Int16Pair b) { return Low(a) * Low(b); }
// a.high * b.high
inline int32_t Smultt(Int16Pair a, Int16Pair b) { return High(a) * High(b); }
// sum + a.low * b.high
inline int32_t Smlabt(Int16Pair a, Int16Pair b, int32_t sum) {
  return WrappingSum(sum, Low(a) * High(b));
}
// sum + a.high * b.low
inline int32_t Smlatb(Int16Pair a, Int16Pair b, int32_t sum) {
  return WrappingSum(sum, High(a) * Low(b));
}
// {first.low, second.low}
inline uint32_t LowHalves(uint32_t first, uint32_t second) {
  return (first & 0xFFFF) | second << 16;
}
// {first.high, second.high}
inline uint32_t HighHalves(uint32_t first, uint32_t second) {
  return first >> 16 | (second & 0xFFFF0000);
}
// {a.low - b.low, a.high - b.high}
inline Int16Pair Ssub16(Int16Pair a, Int16Pair b) {
  return LowHalves(static_cast<uint32_t>(Low(a) - Low(b)),
                   static_cast<uint32_t>(High(a) - High(b)));
}
// Bytes 0 and 2.
inline Int16Pair Uxtb16(uint32_t bytes) { return bytes & 0x00FF00FF; }
// Bytes 1 and 3.
inline Int16Pair Uxtb16Ror8(uint32_t bytes) { return bytes >> 8 & 0x00FF00FF; }
// Two uint16 sums, each with a byte more: 0 and 2, or 1 and 3.
inline uint32_t Uxtab16(uint32_t sums, uint32_t bytes) {
  return LowHalves(sums + (bytes & 0xFF), (sums >> 16) + (bytes >> 16 & 0xFF));
}
inline uint32_t Uxtab16Ror8(uint32_t sums, uint32_t bytes) { return Uxtab16(sums, bytes >> 8); }
// The larger of each two bytes.
inline uint32_t Max8(uint32_t a, uint32_t b) {
  uint32_t largest = 0;
  for (int shift = 0; shift < 32; shift += 8) {
    const uint32_t x = a >> shift & 0xFF, y = b >> shift & 0xFF;
    largest |= (x > y ? x : y) << shift;
  }
  return largest;
}
// sum + the four bytes
inline uint32_t AddBytes(uint32_t bytes, uint32_t sum) {
  return sum + (bytes & 0xFF) + (bytes >> 8 & 0xFF) + (bytes >> 16 & 0xFF) + (bytes >> 24);
}
// sum + round(a * b / 2^32), ties upwards: Requantize of requantize.h and a zero point.
inline int32_t Smmlar(int32_t a, int32_t b, int32_t sum) {
  return sum + static_cast<int32_t>((int64_t{a} * b + (int64_t{1} << 31)) >> 32);
}
// sum - a * b / 2^32, rounded downwards.
inline int32_t Smmls(int32_t a, int32_t b, int32_t sum) {
  return sum + static_cast<int32_t>(-(int64_t{a} * b) >> 32);
}
// Clamps to [0, 2^kBits - 1].
template <int kBits>
inline uint32_t Usat(int32_t value) {
  constexpr int32_t kMax = (1 << kBits) - 1;
  return static_cast<uint32_t>(value < 0 ? 0 : value > kMax ? kMax : value);
}
// Both halves, clamped likewise.
template <int kBits>
inline uint32_t Usat16(Int16Pair values) {
  return LowHalves(Usat<kBits>(Low(values)), Usat<kBits>(High(values)));
}
// `value`, which the compiler is to keep in a register.
inline uint32_t InRegister(uint32_t value) { return value; }

#else

inline int32_t Smlad(Int16Pair a, Int16Pair b, int32_t sum) {
  return __smlad(static_cast<int16x2_t>(a), static_cast<int16x2_t>(b), sum);
}
inline int32_t Smlabt(Int16Pair a, Int16Pair b, int32_t sum) {
  return __smlabt(static_cast<int32_t>(a), static_cast<int32_t>(b), sum);
}
inline int32_t Smlatb(Int16Pair a, Int16Pair b, int32_t sum) {
  return __smlatb(static_cast<int32_t>(a), static_cast<int32_t>(b), sum);
}
inline Int16Pair Ssub16(Int16Pair a, Int16Pair b) {
  return static_cast<Int16Pair>(__ssub16(static_cast<int16x2_t>(a), static_cast<int16x2_t>(b)));
}
inline Int16Pair Uxtb16(uint32_t bytes) { return __uxtb16(bytes); }
inline uint32_t AddBytes(uint32_t bytes, uint32_t sum) { return __usada8(bytes, 0, sum); }
template <int kBits>
inline uint32_t Usat(int32_t value) {
  return static_cast<uint32_t>(__usat(value, kBits));
}
template <int kBits>
inline uint32_t Usat16(Int16Pair values) {
  return static_cast<uint32_t>(__usat16(static_cast<int16x2_t>(values), kBits));
}

// gcc does not find PKHBT, PKHTB, the rotation inside UXTB16, SMMLAR and SMMLS, takes high halves
// apart before it multiplies them, and would rather build a constant than keep it.
inline int32_t Smulbb(Int16Pair a, Int16Pair b) {
  int32_t result;
  __asm__("smulbb %0, %1, %2" : "=r"(result) : "r"(a), "r"(b));
  return result;
}
inline int32_t Smultt(Int16Pair a, Int16Pair b) {
  int32_t result;
  __asm__("smultt %0, %1, %2" : "=r"(result) : "r"(a), "r"(b));
  return result;
}
inline uint32_t LowHalves(uint32_t first, uint32_t second) {
  uint32_t result;
  __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(result) : "r"(first), "r"(second));
  return result;
}
inline uint32_t HighHalves(uint32_t first, uint32_t second) {
  uint32_t result;
  __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(result) : "r"(second), "r"(first));
  return result;
}
inline Int16Pair Uxtb16Ror8(uint32_t bytes) {
  Int16Pair result;
  __asm__("uxtb16 %0, %1, ror #8" : "=r"(result) : "r"(bytes));
  return result;
}
inline uint32_t Uxtab16(uint32_t sums, uint32_t bytes) {
  uint32_t result;
  __asm__("uxtab16 %0, %1, %2" : "=r"(result) : "r"(sums), "r"(bytes));
  return result;
}
inline uint32_t Uxtab16Ror8(uint32_t sums, uint32_t bytes) {
  uint32_t result;
  __asm__("uxtab16 %0, %1, %2, ror #8" : "=r"(result) : "r"(sums), "r"(bytes));
  return result;
}
inline uint32_t Max8(uint32_t a, uint32_t b) {
  uint32_t result;
  __asm__("usub8 %0, %1, %2\n\tsel %0, %1, %2" : "=&r"(result) : "r"(a), "r"(b));
  return result;
}
inline int32_t Smmlar(int32_t a, int32_t b, int32_t sum) {
  int32_t result;
  __asm__("smmlar %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  return result;
}
inline int32_t Smmls(int32_t a, int32_t b, int32_t sum) {
  int32_t result;
  __asm__("smmls %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  return result;
}
inline uint32_t InRegister(uint32_t value) {
  __asm__("" : "+r"(value));
  return value;
}

#endif  // TFMIX_EMULATE_DSP

}  // namespace tfmix

#endif  // TFMIX_DSP

#endif  // TFMIX_SRC_DSP_H_
