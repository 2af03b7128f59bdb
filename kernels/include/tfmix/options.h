/* The custom options of an operator in a .tflite file, read by those who run such files: the
 * desktop delegate and the bridge to TensorFlow Lite Micro. docs/format.md is the layout.
 *
 *     OptionsReader reader;
 *     tfmix_conv_params params;
 *     if (reader.Open(options, size) != OptionsStatus::kOk) ...
 *     if (reader.Read(&params) != OptionsStatus::kOk) ...
 *
 * Files come from anywhere: nothing is read beyond `size`, and everything is copied byte by byte,
 * since options lie at any address. What the parameters say is for the kernel's prepare function to
 * judge. Header only, without heap or libraries, so that a firmware pays for what it uses.
 */
#ifndef TFMIX_OPTIONS_H_
#define TFMIX_OPTIONS_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "options are little-endian, and copied as they are"
#endif

namespace tfmix {

constexpr uint16_t kFormatVersion = 1;

enum class OptionsStatus {
  kOk,
  kNoMagic,     // not ours, or too short for a header
  kNewVersion,  // the file is newer than this reader
  kBadHeader,   // a version or size that no writer has
  kTooShort,    // the parameters are cut off
};

// A sentence for people. Linked only where it is called.
inline const char* OptionsMessage(OptionsStatus status) {
  switch (status) {
    case OptionsStatus::kOk:
      return "ok";
    case OptionsStatus::kNoMagic:
      return "the custom options are not those of tfmix";
    case OptionsStatus::kNewVersion:
      return "the file is of a newer format: update tfmix";
    case OptionsStatus::kBadHeader:
      return "the header of the custom options is damaged";
    case OptionsStatus::kTooShort:
      return "the custom options are cut off";
  }
  return "unknown status";
}

// Walks from the header through the parameters.
class OptionsReader {
 public:
  // Checks the header and stands behind it.
  OptionsStatus Open(const void* options, size_t size) {
    const auto* bytes = static_cast<const uint8_t*>(options);
    if (bytes == nullptr || size < kHeaderSize || memcmp(bytes, "TFMX", 4) != 0) {
      return OptionsStatus::kNoMagic;
    }
    uint16_t version;
    memcpy(&version, bytes + 4, sizeof(version));
    if (version > kFormatVersion) return OptionsStatus::kNewVersion;
    const size_t header = bytes[6];
    if (version < 1 || (header != kHeaderSize && header != kHeaderSizeWithPlane)) {
      return OptionsStatus::kBadHeader;
    }
    if (header > size) return OptionsStatus::kTooShort;
    next_ = bytes + header;
    left_ = size - header;
    return OptionsStatus::kOk;
  }

  // Copies the next struct, or the next `count` of them, and steps over it.
  template <typename Params>
  OptionsStatus Read(Params* params, size_t count = 1) {
    if (count > left_ / sizeof(Params)) return OptionsStatus::kTooShort;
    if (count == 0) return OptionsStatus::kOk;
    memcpy(params, next_, count * sizeof(Params));
    next_ += count * sizeof(Params);
    left_ -= count * sizeof(Params);
    return OptionsStatus::kOk;
  }

  // The next `size` bytes, where they are, and steps over them; nullptr if there are fewer.
  const uint8_t* Take(size_t size) {
    if (size > left_) return nullptr;
    const uint8_t* bytes = next_;
    next_ += size;
    left_ -= size;
    return bytes;
  }

  // Bytes not yet read. The name of the node may be among them.
  size_t left() const { return left_; }

 private:
  static constexpr size_t kHeaderSize = 12;
  static constexpr size_t kHeaderSizeWithPlane = 20;

  const uint8_t* next_ = nullptr;
  size_t left_ = 0;
};

}  // namespace tfmix

#endif  // TFMIX_OPTIONS_H_
