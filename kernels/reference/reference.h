// docs/arithmetic.md in plain C++: one value per element, one loop per sum, no packing, no runs.
//
// Slow and obvious; the kernels must give the same values. Tensors are vectors of unpacked values.
// Nothing here is shared with kernels/src.
#ifndef TFMIX_REFERENCE_REFERENCE_H_
#define TFMIX_REFERENCE_REFERENCE_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tfmix/kernels.h"

namespace tfmix::reference {

using Values = std::vector<int32_t>;

// What the constants block of a layer holds, unpacked. `zero_point` and `multiplier` have one entry
// per output channel or a single one.
struct Weights {
  Values bias;
  Values multiplier;
  Values values;
  Values zero_point;
};

// Packed bytes to values and back, one bit at a time.
inline Values Unpack(const std::vector<uint8_t>& data, int bits, int64_t elements) {
  Values values(static_cast<size_t>(elements));
  for (size_t bit = 0; bit < values.size() * static_cast<size_t>(bits); ++bit) {
    const int value = (data[bit / 8] >> (bit % 8)) & 1;
    values[bit / static_cast<size_t>(bits)] |= value << (bit % static_cast<size_t>(bits));
  }
  return values;
}

inline std::vector<uint8_t> Pack(const Values& values, int bits) {
  std::vector<uint8_t> data((values.size() * static_cast<size_t>(bits) + 7) / 8);
  for (size_t bit = 0; bit < values.size() * static_cast<size_t>(bits); ++bit) {
    const int32_t value = values[bit / static_cast<size_t>(bits)];
    const int set = (value >> (bit % static_cast<size_t>(bits))) & 1;
    data[bit / 8] = static_cast<uint8_t>(data[bit / 8] | (set << (bit % 8)));
  }
  return data;
}

// Weight k of channel c of a conv2d or fully_connected layer with `depth` products, in the order of
// the constants block: where its lowest bit lies.
inline int64_t WeightBit(int64_t c, int64_t k, int64_t depth, int input_bits, int weight_bits) {
  const bool both_2 = input_bits == 2 && weight_bits == 2;
  const int64_t channels = weight_bits == 2 && !both_2 ? 4 : 2, products = both_2 ? 8 : 4;
  const int64_t tiles = (depth + products - 1) / products;
  const int64_t tile = c / channels * tiles + k / products;
  const int64_t start = tile * channels * products * weight_bits;
  c %= channels;
  k %= products;
  if (both_2) {
    const int64_t bits[] = {12, 0, 28, 16};
    return start + (bits[k % 4] + 2 * c + 8 * (k / 4)) % 32;
  }
  if (weight_bits == 8) return start + 32 * (k % 2) + 16 * (k / 2) + 8 * c;
  return start + 8 * k + weight_bits * c;
}

// The weights of `channels` x `depth`, by channel, from the bytes of a constants block.
inline Values UnpackWeights(const std::vector<uint8_t>& data, int32_t channels, int32_t depth,
                            int input_bits, int weight_bits) {
  Values values;
  for (int32_t c = 0; c < channels; ++c) {
    for (int32_t k = 0; k < depth; ++k) {
      const int64_t bit = WeightBit(c, k, depth, input_bits, weight_bits);
      values.push_back((data[static_cast<size_t>(bit / 8)] >> (bit % 8)) &
                       ((1 << weight_bits) - 1));
    }
  }
  return values;
}

// floor(numerator / 2^shift) by division, with no shift of a negative number.
inline int64_t FloorDivide(int64_t numerator, int shift) {
  const int64_t denominator = int64_t{1} << shift;
  const int64_t quotient = numerator / denominator;
  return numerator % denominator < 0 ? quotient - 1 : quotient;
}

inline int64_t ShiftLeft(int64_t value, int32_t shift) { return value * (int64_t{1} << shift); }

inline int64_t Requantize(int64_t value, int64_t multiplier) {
  return FloorDivide(value * multiplier + (int64_t{1} << 31), 32);
}

inline int32_t Clamp(int64_t value, int bits) {
  return static_cast<int32_t>(std::clamp(value, int64_t{0}, (int64_t{1} << bits) - 1));
}

inline int32_t OnlyOrAt(const Values& values, int32_t index) {
  return values[values.size() == 1 ? 0 : static_cast<size_t>(index)];
}

inline int32_t LayerOutput(const Weights& w, int32_t channel, int64_t sum, int32_t left_shift,
                           int32_t output_zero_point, int output_bits) {
  const int64_t value = ShiftLeft(sum, left_shift) + w.bias[static_cast<size_t>(channel)];
  return Clamp(output_zero_point + Requantize(value, OnlyOrAt(w.multiplier, channel)), output_bits);
}

// The element (y, x, c) of an image with the window fields of `p`, or `outside`.
template <typename Params>
int32_t At(const Params& p, const Values& image, int32_t y, int32_t x, int32_t c, int32_t outside) {
  if (y < 0 || y >= p.input_height || x < 0 || x >= p.input_width) return outside;
  return image[static_cast<size_t>((y * p.input_width + x) * p.input_channels + c)];
}

// output(oy, ox, oc) for each element of the output, in the order of memory.
template <typename Params, typename Output>
Values ForEachOutput(const Params& p, Output output) {
  Values values;
  for (int32_t oy = 0; oy < p.output_height; ++oy) {
    for (int32_t ox = 0; ox < p.output_width; ++ox) {
      for (int32_t oc = 0; oc < p.output_channels; ++oc) values.push_back(output(oy, ox, oc));
    }
  }
  return values;
}

// visit(y, x, i, j) for each element (i, j) of the window of output (oy, ox), at (y, x) of the
// image or outside of it.
template <typename Params, typename Visit>
void ForEachInWindow(const Params& p, int32_t oy, int32_t ox, Visit visit) {
  for (int32_t i = 0; i < p.kernel_height; ++i) {
    for (int32_t j = 0; j < p.kernel_width; ++j) {
      visit(oy * p.stride_height - p.pad_top + i, ox * p.stride_width - p.pad_left + j, i, j);
    }
  }
}

inline Values Conv2d(const tfmix_conv_params& p, const Values& x, const Weights& w,
                     int output_bits) {
  return ForEachOutput(p, [&](int32_t oy, int32_t ox, int32_t oc) {
    int64_t sum = 0;
    ForEachInWindow(p, oy, ox, [&](int32_t y, int32_t column, int32_t i, int32_t j) {
      for (int32_t c = 0; c < p.input_channels; ++c) {
        const int32_t k = ((oc * p.kernel_height + i) * p.kernel_width + j) * p.input_channels + c;
        sum += int64_t{At(p, x, y, column, c, p.input_zero_point)} *
               (w.values[static_cast<size_t>(k)] - OnlyOrAt(w.zero_point, oc));
      }
    });
    return LayerOutput(w, oc, sum, p.left_shift, p.output_zero_point, output_bits);
  });
}

inline Values DepthwiseConv2d(const tfmix_conv_params& p, const Values& x, const Weights& w,
                              int output_bits) {
  return ForEachOutput(p, [&](int32_t oy, int32_t ox, int32_t oc) {
    const int32_t c = oc / (p.output_channels / p.input_channels);
    int64_t sum = 0;
    ForEachInWindow(p, oy, ox, [&](int32_t y, int32_t column, int32_t i, int32_t j) {
      const int32_t k = (i * p.kernel_width + j) * p.output_channels + oc;
      sum += int64_t{At(p, x, y, column, c, p.input_zero_point)} *
             (w.values[static_cast<size_t>(k)] - OnlyOrAt(w.zero_point, oc));
    });
    return LayerOutput(w, oc, sum, p.left_shift, p.output_zero_point, output_bits);
  });
}

inline Values FullyConnected(const tfmix_fully_connected_params& p, const Values& x,
                             const Weights& w, int output_bits) {
  Values y;
  for (int32_t oc = 0; oc < p.output_features; ++oc) {
    int64_t sum = 0;
    for (int32_t k = 0; k < p.input_features; ++k) {
      sum +=
          int64_t{x[static_cast<size_t>(k)]} *
          (w.values[static_cast<size_t>(oc * p.input_features + k)] - OnlyOrAt(w.zero_point, oc));
    }
    y.push_back(LayerOutput(w, oc, sum, p.left_shift, p.output_zero_point, output_bits));
  }
  return y;
}

inline Values Add(const tfmix_add_params& p, const Values& a, const Values& b, int output_bits) {
  Values y;
  for (size_t i = 0; i < a.size(); ++i) {
    const int64_t sum = int64_t{a[i]} * p.multiplier_a + int64_t{b[i]} * p.multiplier_b + p.offset;
    y.push_back(Clamp(p.output_zero_point + FloorDivide(sum, p.shift), output_bits));
  }
  return y;
}

inline Values Multiply(const tfmix_multiply_params& p, const Values& a, const Values& b,
                       int output_bits) {
  Values y;
  for (size_t i = 0; i < a.size(); ++i) {
    const int64_t product = int64_t{a[i] - p.zero_point_a} * (b[i % b.size()] - p.zero_point_b);
    y.push_back(
        Clamp(p.output_zero_point + Requantize(ShiftLeft(product, p.left_shift), p.multiplier),
              output_bits));
  }
  return y;
}

inline Values Concatenate(const tfmix_concatenate_params& p,
                          const std::vector<tfmix_concatenate_input>& descriptions,
                          const std::vector<Values>& inputs, int output_bits) {
  Values y;
  for (int32_t pixel = 0; pixel < p.pixels; ++pixel) {
    for (size_t k = 0; k < inputs.size(); ++k) {
      const tfmix_concatenate_input& d = descriptions[k];
      for (int32_t c = 0; c < d.channels; ++c) {
        const int32_t q = inputs[k][static_cast<size_t>(pixel * d.channels + c)];
        y.push_back(Clamp(p.output_zero_point +
                              Requantize(ShiftLeft(q - d.zero_point, d.left_shift), d.multiplier),
                          output_bits));
      }
    }
  }
  return y;
}

inline Values RequantizeTensor(const tfmix_requantize_params& p, const Values& x, int output_bits) {
  Values y;
  for (const int32_t q : x) {
    y.push_back(Clamp(p.output_zero_point +
                          Requantize(ShiftLeft(q - p.input_zero_point, p.left_shift), p.multiplier),
                      output_bits));
  }
  return y;
}

inline Values Lookup(const Values& x, const Values& table) {
  Values y;
  for (const int32_t q : x) y.push_back(table[static_cast<size_t>(q)]);
  return y;
}

inline Values AveragePool(const tfmix_average_pool_params& p, const Values& x, int output_bits) {
  return ForEachOutput(p, [&](int32_t oy, int32_t ox, int32_t c) {
    int64_t sum = 0, count = 0;
    ForEachInWindow(p, oy, ox, [&](int32_t y, int32_t column, int32_t, int32_t) {
      const int32_t q = At(p, x, y, column, c, -1);
      if (q >= 0) sum += q - p.input_zero_point, ++count;
    });
    const int64_t multiplier = (p.multiplier + count / 2) / count;
    return Clamp(p.output_zero_point + Requantize(ShiftLeft(sum, p.left_shift), multiplier),
                 output_bits);
  });
}

inline Values MaxPool(const tfmix_max_pool_params& p, const Values& x) {
  return ForEachOutput(p, [&](int32_t oy, int32_t ox, int32_t c) {
    int32_t largest = -1;
    ForEachInWindow(p, oy, ox, [&](int32_t y, int32_t column, int32_t, int32_t) {
      largest = std::max(largest, At(p, x, y, column, c, -1));
    });
    return largest;
  });
}

inline Values Pad(const tfmix_pad_params& p, const Values& x) {
  Values y;
  for (int32_t row = -p.pad_top; row < p.input_height + p.pad_bottom; ++row) {
    for (int32_t column = -p.pad_left; column < p.input_width + p.pad_right; ++column) {
      const bool inside = row >= 0 && row < p.input_height && column >= 0 && column < p.input_width;
      for (int32_t c = 0; c < p.channels; ++c) {
        const int32_t index = (row * p.input_width + column) * p.channels + c;
        y.push_back(inside ? x[static_cast<size_t>(index)] : p.zero_point);
      }
    }
  }
  return y;
}

inline Values Softmax(const tfmix_softmax_params& p, const Values& x, const Values& table) {
  Values y;
  for (int32_t row = 0; row < p.rows; ++row) {
    const auto begin = x.begin() + row * p.classes, end = begin + p.classes;
    const int32_t largest = *std::max_element(begin, end);
    std::vector<uint64_t> e;
    uint64_t sum = 0;
    for (auto q = begin; q != end; ++q) {
      const size_t distance = static_cast<size_t>(largest - *q);
      e.push_back(distance < table.size() ? static_cast<uint64_t>(table[distance]) : 0);
      sum += e.back();
    }
    for (const uint64_t term : e) {
      y.push_back(static_cast<int32_t>(std::min<uint64_t>(255, (512 * term + sum) / (2 * sum))));
    }
  }
  return y;
}

}  // namespace tfmix::reference

#endif  // TFMIX_REFERENCE_REFERENCE_H_
