// pad: the image with zero points around it.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "checks.h"
#include "packing.h"
#include "tfmix/kernels.h"

namespace tfmix {
namespace {

constexpr int32_t kRun = 64;  // elements taken at a time

// Writes packed elements from the first to the last, in runs.
template <int kBits>
class Writer {
 public:
  explicit Writer(uint8_t* output) : output_(output) {}

  void Fill(uint8_t value, int32_t count) {
    std::fill_n(run_, std::min(kRun, count), value);
    count -= WholeBytes(count, [&](uint8_t* out, int32_t bytes) {
      std::memset(out, value * (UINT8_MAX / kMaxLevel<kBits>), static_cast<size_t>(bytes));
    });
    ForEachRun(count, [](int32_t, int32_t) {});
  }

  void Copy(const uint8_t* input, int32_t first, int32_t count) {
    if (BitOffset<kBits>(first) == 0) {
      const int32_t copied = WholeBytes(count, [&](uint8_t* out, int32_t bytes) {
        std::memcpy(out, input + first / kPerByte<kBits>, static_cast<size_t>(bytes));
      });
      first += copied, count -= copied;
    }
    ForEachRun(count, [&](int32_t begin, int32_t n) {
      int16_t values[kRun];
      Unpack<kBits>(input, first + begin, n, 0, values);
      std::copy_n(values, n, run_);
    });
  }

 private:
  // Where the next of `count` elements begins a byte: write(address, bytes) with as many whole
  // bytes as there are. The number of elements written.
  template <typename WriteBytes>
  int32_t WholeBytes(int32_t count, WriteBytes write) {
    const int32_t bytes = count / kPerByte<kBits>;
    if (bytes == 0 || BitOffset<kBits>(position_) != 0) return 0;
    write(output_ + position_ / kPerByte<kBits>, bytes);
    position_ += bytes * kPerByte<kBits>;
    return bytes * kPerByte<kBits>;
  }

  // Writes `count` elements; before each run, prepare(begin, n) puts its n elements into run_.
  template <typename PrepareRun>
  void ForEachRun(int32_t count, PrepareRun prepare) {
    for (int32_t begin = 0; begin < count; begin += kRun) {
      const int32_t n = std::min(kRun, count - begin);
      prepare(begin, n);
      Pack<kBits>(run_, position_, n, output_);
      position_ += n;
    }
  }

  uint8_t* output_;
  int32_t position_ = 0;
  uint8_t run_[kRun];
};

// Sizes of the output; prepare has seen that they fit.
int32_t OutputWidth(const tfmix_pad_params& p) { return p.pad_left + p.input_width + p.pad_right; }
int32_t OutputHeight(const tfmix_pad_params& p) {
  return p.pad_top + p.input_height + p.pad_bottom;
}

template <int kBits>
void Pad(const tfmix_pad_params& p, const uint8_t* input, uint8_t* output) {
  const int32_t input_row = p.input_width * p.channels;
  const int32_t output_row = OutputWidth(p) * p.channels;
  const uint8_t zero_point = static_cast<uint8_t>(p.zero_point);
  ClearUnusedBits<kBits>(OutputHeight(p) * output_row, output);
  Writer<kBits> writer(output);
  writer.Fill(zero_point, p.pad_top * output_row);
  for (int32_t row = 0; row < p.input_height; ++row) {
    writer.Fill(zero_point, p.pad_left * p.channels);
    writer.Copy(input, row * input_row, input_row);
    writer.Fill(zero_point, p.pad_right * p.channels);
  }
  writer.Fill(zero_point, p.pad_bottom * output_row);
}

}  // namespace
}  // namespace tfmix

tfmix_status tfmix_pad_prepare(const tfmix_pad_params* params, const tfmix_variant* variant,
                               tfmix_sizes* sizes) {
  using namespace tfmix;
  const tfmix_pad_params& p = *params;
  TFMIX_RETURN_IF_BAD(CheckBits(variant->input_bits));
  if (p.pad_top < 0 || p.pad_bottom < 0 || p.pad_left < 0 || p.pad_right < 0) {
    return TFMIX_BAD_SHAPE;
  }
  int32_t input, output;
  TFMIX_RETURN_IF_BAD(CheckProduct({p.input_height, p.input_width, p.channels}, &input));
  TFMIX_RETURN_IF_BAD(CheckFitsInt32(int64_t{p.pad_top} + p.input_height + p.pad_bottom));
  TFMIX_RETURN_IF_BAD(CheckFitsInt32(int64_t{p.pad_left} + p.input_width + p.pad_right));
  TFMIX_RETURN_IF_BAD(CheckProduct({OutputHeight(p), OutputWidth(p), p.channels}, &output));
  TFMIX_RETURN_IF_BAD(CheckZeroPoint(p.zero_point, variant->input_bits));
  *sizes = {PackedSize(input, variant->input_bits), 0, 0, PackedSize(output, variant->input_bits),
            0};
  return TFMIX_OK;
}

#define TFMIX_DEFINE_(a_)                                                                       \
  void tfmix_pad_a##a_(const tfmix_pad_params* params, const uint8_t* input, uint8_t* output) { \
    tfmix::Pad<a_>(*params, input, output);                                                     \
  }
TFMIX_PAD_VARIANTS(TFMIX_DEFINE_)
