// Four neighbouring channels of a pixel at a time.
//
// Where the four of each pixel fill whole bytes they are one load or store; what an odd number of
// channels leaves is put together bit by bit.
#ifndef TFMIX_SRC_CHANNEL_GROUP_H_
#define TFMIX_SRC_CHANNEL_GROUP_H_

#include <cstdint>
#include <cstring>

#include "dsp.h"
#include "packing.h"

namespace tfmix {

constexpr int32_t kGroup = 4;  // channels

#if TFMIX_DSP

// Consecutive channels, first + [0, count), of a tensor whose pixels have `channels`.
struct ChannelGroup {
  int32_t first;
  int32_t count;  // 1 to kGroup
  int32_t channels;
};

// Whether a group's elements of every pixel are whole bytes.
template <int kBits>
inline bool FillsBytes(const ChannelGroup& g) {
  return g.count == kGroup && BitOffset<kBits>(g.first | g.channels) == 0;
}

// Four packed elements in the low bits: 8, 16 or 32 of them.
template <int kBits>
inline uint32_t LoadBytes(const uint8_t* data) {
  uint32_t packed = 0;
  std::memcpy(&packed, data, kGroup * kBits / 8);
  return packed;
}

// Up to four elements from any bit on.
template <int kBits>
TFMIX_FOR_SIZE uint32_t LoadBits(const uint8_t* data, int32_t first, int32_t count) {
  const int32_t offset = BitOffset<kBits>(first);
  data += first / kPerByte<kBits>;
  uint32_t packed = 0;
  for (int32_t bit = 0; bit < offset + count * kBits; bit += 8) {
    packed |= static_cast<uint32_t>(*data++) << bit;
  }
  const uint32_t unused = static_cast<uint32_t>(32 - count * kBits);
  return packed >> offset << unused >> unused;
}

// Four packed elements -> a byte each.
template <int kBits>
inline uint32_t SpreadFour(uint32_t packed) {
  if constexpr (kBits == 4) {
    packed = (packed | packed << 8) & 0x00FF00FF;
    return (packed | packed << 4) & 0x0F0F0F0F;
  }
  if constexpr (kBits == 2) {
    packed = (packed | packed << 12) & 0x000F000F;
    return (packed | packed << 6) & 0x03030303;
  }
  return packed;
}

// Four elements, a byte each -> packed in the low bits. Above them lies something.
template <int kBits>
inline uint32_t PackFour(uint32_t bytes) {
  if constexpr (kBits == 4) {
    bytes = Uxtb16(bytes | bytes >> 4);
    return bytes | bytes >> 8;
  }
  if constexpr (kBits == 2) {
    bytes |= bytes >> 6;
    return bytes | bytes >> 12;
  }
  return bytes;
}

template <int kBits>
inline void StoreBytes(uint32_t bytes, uint8_t* data) {
  const uint32_t packed = PackFour<kBits>(bytes);
  std::memcpy(data, &packed, kGroup * kBits / 8);
}

// The first `count` of four bytes become elements `first` and following.
template <int kBits>
TFMIX_FOR_SIZE void StoreBits(uint32_t bytes, int32_t first, int32_t count, uint8_t* data) {
  for (; count != 0; --count, ++first, bytes >>= 8) {
    uint8_t& byte = data[first / kPerByte<kBits>];
    const int32_t shift = BitOffset<kBits>(first);
    byte = static_cast<uint8_t>((byte & ~(kMaxLevel<kBits> << shift)) | (bytes & 0xFF) << shift);
  }
}

// A group of the pixel whose first channel is element `pixel`, a byte each.
template <int kBits>
inline uint32_t LoadGroup(const ChannelGroup& group, const uint8_t* data, int32_t pixel) {
  pixel += group.first;
  return SpreadFour<kBits>(FillsBytes<kBits>(group)
                               ? LoadBytes<kBits>(data + pixel / kPerByte<kBits>)
                               : LoadBits<kBits>(data, pixel, group.count));
}

template <int kBits>
inline void StoreGroup(const ChannelGroup& group, uint32_t bytes, int32_t pixel, uint8_t* data) {
  pixel += group.first;
  if (FillsBytes<kBits>(group)) {
    StoreBytes<kBits>(bytes, data + pixel / kPerByte<kBits>);
  } else {
    StoreBits<kBits>(bytes, pixel, group.count, data);
  }
}

#endif  // TFMIX_DSP

}  // namespace tfmix

#endif  // TFMIX_SRC_CHANNEL_GROUP_H_
