// Bytes of a grain, sixteen at a time, wherever its runs lie.
#pragma once

#include <cstdint>

#include "gcos/abi.h"
#include "gcos/platform.h"

namespace gcos {

// A place among the runs of a grain. It finds the run of ever later bytes.
class GrainReader {
 public:
  GCOS_DEVICE GrainReader(const GrainRun* runs, std::uint32_t count) : runs_(runs), count_(count) {
    run_ = runs_[0];
  }

  // Sixteen bytes of the grain from `at` on, of which those before the grain's first byte are 0;
  // all of the others exist. `at` does not decrease from call to call, and is more than -16.
  GCOS_DEVICE Chunk read(std::int32_t at) {
    if (at < 0) return read_bytes(at);
    const std::uint32_t from = static_cast<std::uint32_t>(at);
    seek(from);
    const std::uint32_t inside = from - run_.offset;
    if (run_.bytes - inside < sizeof(Chunk)) return read_bytes(at);
    const std::uint64_t address = run_.address + inside;
    if (address % sizeof(Chunk) == 0) return load_chunk(gcos::at<const Chunk>(address));
    const std::uint32_t past = static_cast<std::uint32_t>(address % 4);
    // The words that the sixteen bytes lie in are read only where they are the run's to the last
    // byte.
    const std::uint32_t after = run_.bytes - inside - static_cast<std::uint32_t>(sizeof(Chunk));
    if (past != 0 && (inside < past || after < 4 - past)) return read_bytes(at);
    return read_words(gcos::at<const std::uint32_t>(address - past), past * 8);
  }

 private:
  // Makes the run that holds byte `at` the present one. Runs are most often much longer than the
  // step from call to call, or about as long; of many short ones, halves are left out.
  GCOS_DEVICE void seek(std::uint32_t at) {
    if (at - run_.offset < run_.bytes) return;
    run_ = runs_[++index_];
    if (at - run_.offset < run_.bytes) return;
    std::uint32_t last = count_ - 1;
    while (index_ < last) {
      const std::uint32_t middle = index_ + (last - index_ + 1) / 2;
      if (runs_[middle].offset <= at) {
        index_ = middle;
      } else {
        last = middle - 1;
      }
    }
    run_ = runs_[index_];
  }

  // Four words, or the upper part of one, three, and the lower part of one.
  GCOS_DEVICE static Chunk read_words(const std::uint32_t* words, std::uint32_t shift) {
    Chunk chunk;
    for (int i = 0; i < 4; ++i) chunk.words[i] = words[i];
    if (shift == 0) return chunk;
    const std::uint32_t last = words[4];
    for (int i = 0; i < 3; ++i) {
      chunk.words[i] = (chunk.words[i] >> shift) | (chunk.words[i + 1] << (32 - shift));
    }
    chunk.words[3] = (chunk.words[3] >> shift) | (last << (32 - shift));
    return chunk;
  }

  // Byte by byte, from run to run. Each byte comes in at the top, so that no word is chosen by a
  // number that only the running program knows.
  GCOS_DEVICE Chunk read_bytes(std::int32_t at) {
    Chunk chunk{};
#if !defined(GCOS_PLAYED)
#pragma unroll 1
#endif
    for (std::int32_t i = at; i < at + static_cast<std::int32_t>(sizeof(Chunk)); ++i) {
      std::uint32_t byte = 0;
      if (i >= 0) {
        seek(static_cast<std::uint32_t>(i));
        const std::uint32_t inside = static_cast<std::uint32_t>(i) - run_.offset;
        byte = *gcos::at<const std::uint8_t>(run_.address + inside);
      }
      for (int word = 0; word < 3; ++word) {
        chunk.words[word] = (chunk.words[word] >> 8) | (chunk.words[word + 1] << 24);
      }
      chunk.words[3] = (chunk.words[3] >> 8) | (byte << 24);
    }
    return chunk;
  }

  const GrainRun* runs_;
  std::uint32_t count_;
  std::uint32_t index_ = 0;
  GrainRun run_;
};

}  // namespace gcos
