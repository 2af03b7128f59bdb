// Sliding windows over an image stored by rows, columns, channels.
#ifndef TFMIX_SRC_WINDOW_H_
#define TFMIX_SRC_WINDOW_H_

#include <algorithm>
#include <cstdint>

namespace tfmix {

// One axis of a window: it covers [origin, origin + kernel), of which [begin, end) is in the image.
struct WindowSpan {
  int32_t origin;
  int32_t begin;
  int32_t end;

  int32_t Count() const { return end - begin; }
  bool Contains(int32_t position) const { return position >= begin && position < end; }
};

inline WindowSpan SpanOf(int32_t output, int32_t stride, int32_t pad, int32_t kernel,
                         int32_t image) {
  const int32_t origin = output * stride - pad;
  return {origin, std::max(origin, int32_t{0}), std::min(origin + kernel, image)};
}

template <typename Params>
inline WindowSpan RowsOf(const Params& p, int32_t output_row) {
  return SpanOf(output_row, p.stride_height, p.pad_top, p.kernel_height, p.input_height);
}

template <typename Params>
inline WindowSpan ColumnsOf(const Params& p, int32_t output_column) {
  return SpanOf(output_column, p.stride_width, p.pad_left, p.kernel_width, p.input_width);
}

// Index of the first channel of an input pixel.
template <typename Params>
inline int32_t InputIndex(const Params& p, int32_t row, int32_t column) {
  return (row * p.input_width + column) * p.input_channels;
}

// Calls visit(rows, columns, index) for each output pixel in the order of memory; `index` is that
// of the pixel's first output channel.
template <typename Params, typename Visit>
inline void ForEachOutputPixel(const Params& p, Visit visit) {
  int32_t index = 0;
  for (int32_t y = 0; y < p.output_height; ++y) {
    const WindowSpan rows = RowsOf(p, y);
    for (int32_t x = 0; x < p.output_width; ++x, index += p.output_channels) {
      visit(rows, ColumnsOf(p, x), index);
    }
  }
}

// Calls visit(row, column) for each element of a window that lies in the image.
template <typename Visit>
inline void ForEachElement(const WindowSpan& rows, const WindowSpan& columns, Visit visit) {
  for (int32_t row = rows.begin; row < rows.end; ++row) {
    for (int32_t column = columns.begin; column < columns.end; ++column) visit(row, column);
  }
}

}  // namespace tfmix

#endif  // TFMIX_SRC_WINDOW_H_
