// The one packing format: b-bit values in a byte stream, little-endian within the byte, no gaps.
//
// Element i occupies bits [i * b mod 8, i * b mod 8 + b) of byte i * b div 8. Runs of elements may
// begin and end inside a byte: with odd channel counts pixels do. tfmix/integer/packing.py is the
// same in Python.
#ifndef TFMIX_SRC_PACKING_H_
#define TFMIX_SRC_PACKING_H_

#include <cstdint>

namespace tfmix {

// Largest value of an unsigned kBits-wide element.
template <int kBits>
constexpr int32_t kMaxLevel = (1 << kBits) - 1;

// Elements in a byte.
template <int kBits>
constexpr int32_t kPerByte = 8 / kBits;

// Bytes of `elements` packed elements, of which there is at least one.
template <int kBits>
constexpr int32_t PackedSize(int32_t elements) {
  return (elements - 1) / kPerByte<kBits> + 1;
}

// Position of element `index` inside its byte, in bits.
template <int kBits>
inline int32_t BitOffset(int32_t index) {
  static_assert(kBits == 2 || kBits == 4 || kBits == 8, "no such bit-width");
  return (index % kPerByte<kBits>)*kBits;
}

// out[i] = element first + i of `data`, minus `offset`, for i in [0, count).
template <int kBits>
inline void Unpack(const uint8_t* data, int32_t first, int32_t count, int32_t offset,
                   int16_t* out) {
  constexpr int32_t kMask = kMaxLevel<kBits>;
  const auto unpack_one = [=](int32_t i) {
    const int32_t byte = data[(first + i) / kPerByte<kBits>];
    out[i] = static_cast<int16_t>(((byte >> BitOffset<kBits>(first + i)) & kMask) - offset);
  };

  // Up to the first byte boundary, then whole bytes, then what is left.
  int32_t i = 0;
  for (; i < count && BitOffset<kBits>(first + i) != 0; ++i) unpack_one(i);
  const uint8_t* bytes = data + (first + i) / kPerByte<kBits>;
  const int32_t whole_bytes = (count - i) / kPerByte<kBits>;
  int16_t* whole = out + i;
  for (int32_t b = 0; b < whole_bytes; ++b) {
    for (int32_t j = 0; j < kPerByte<kBits>; ++j) {
      const int32_t value = (bytes[b] >> (j * kBits)) & kMask;
      whole[b * kPerByte<kBits> + j] = static_cast<int16_t>(value - offset);
    }
  }
  i += whole_bytes * kPerByte<kBits>;
  for (; i < count; ++i) unpack_one(i);
}

// Element first + i of `data` = values[i], which is in [0, kMaxLevel], for i in [0, count).
// Elements around the run, also those that share a byte with it, stay as they are.
template <int kBits>
inline void Pack(const uint8_t* values, int32_t first, int32_t count, uint8_t* data) {
  const auto pack_one = [=](int32_t i) {
    uint8_t& byte = data[(first + i) / kPerByte<kBits>];
    const int32_t shift = BitOffset<kBits>(first + i);
    byte = static_cast<uint8_t>((byte & ~(kMaxLevel<kBits> << shift)) | (values[i] << shift));
  };

  int32_t i = 0;
  for (; i < count && BitOffset<kBits>(first + i) != 0; ++i) pack_one(i);
  uint8_t* bytes = data + (first + i) / kPerByte<kBits>;
  const int32_t whole_bytes = (count - i) / kPerByte<kBits>;
  const uint8_t* whole = values + i;
  for (int32_t b = 0; b < whole_bytes; ++b) {
    int32_t byte = 0;
    for (int32_t j = 0; j < kPerByte<kBits>; ++j) {
      byte |= whole[b * kPerByte<kBits> + j] << (j * kBits);
    }
    bytes[b] = static_cast<uint8_t>(byte);
  }
  i += whole_bytes * kPerByte<kBits>;
  for (; i < count; ++i) pack_one(i);
}

// Zeroes the last byte of a packed tensor where it has bits that belong to no element. Pack never
// touches those, so each kernel calls this before it writes.
template <int kBits>
inline void ClearUnusedBits(int32_t elements, uint8_t* data) {
  if (BitOffset<kBits>(elements) != 0) data[elements / kPerByte<kBits>] = 0;
}

}  // namespace tfmix

#endif  // TFMIX_SRC_PACKING_H_
