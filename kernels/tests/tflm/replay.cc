// Runs the fuzz target on the files it is given, where there is no libFuzzer to do it.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int count, char** paths) {
  for (int i = 1; i < count; ++i) {
    std::FILE* file = std::fopen(paths[i], "rb");
    if (file == nullptr) return 1;
    std::vector<uint8_t> content(1 << 16);
    content.resize(std::fread(content.data(), 1, content.size(), file));
    std::fclose(file);
    LLVMFuzzerTestOneInput(content.data(), content.size());
  }
  std::printf("%d nodes\n", count - 1);
  return 0;
}
