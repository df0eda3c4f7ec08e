// CRC-32C of grains, a block of threads each.
//
// A grain is taken as rows of sixteen bytes a thread (4 KiB) that end with its last byte; what the
// first row lacks is zeros, which change no remainder. A thread has the same sixteen bytes of every
// row, as four words with a sum each: the sum past a row, four look-ups, plus the next word. In the
// end the sums of the threads are those of a single row, and are joined in three steps: the words
// of a thread, every 32nd thread, the lanes of a warp.
#pragma once

#include <cstdint>

#include "gcos/abi.h"
#include "gcos/crc32c.h"
#include "gcos/grain.h"
#include "gcos/platform.h"

namespace gcos {

// Threads of a block. Host threads are dear.
constexpr std::uint32_t kChecksumThreads = kPlayed ? 64 : 256;
// Runs of a grain that are kept at hand; further ones are read where the host put them.
constexpr std::uint32_t kRunsAtHand = 256;

namespace crc32c {

constexpr std::uint32_t kRowBytes = kChecksumThreads * sizeof(Chunk);

GCOS_TABLE Product kPastRow = product_with(past(kRowBytes));
GCOS_TABLE Product kPastWarp = product_with(past(32 * sizeof(Chunk)));
GCOS_TABLE Product kPastWord = product_with(past(4));
GCOS_TABLE Places kPastLanes = places_of(sizeof(Chunk));

}  // namespace crc32c

// Memory of a block.
struct ChecksumShared {
  crc32c::Product past_row;
  crc32c::Product past_warp;
  crc32c::Product past_word;
  GrainRun runs[kRunsAtHand];
  std::uint32_t sums[kChecksumThreads];
};

// The sums of one thread over its part of all rows.
class Rows {
 public:
  GCOS_DEVICE explicit Rows(const crc32c::Product& past_row) : past_row_(past_row) {}

  GCOS_DEVICE void add(const Chunk& chunk) {
    for (int i = 0; i < 4; ++i) {
      sums_.words[i] = crc32c::look_up(past_row_, sums_.words[i]) ^ chunk.words[i];
    }
  }

  // The four sums as one, past the 32 zeros that the definition appends.
  GCOS_DEVICE std::uint32_t join(const crc32c::Product& past_word) const {
    std::uint32_t sum = 0;
    for (int i = 0; i < 4; ++i) sum = crc32c::look_up(past_word, sum ^ sums_.words[i]);
    return sum;
  }

 private:
  const crc32c::Product& past_row_;
  Chunk sums_{};
};

// Copies the tables next to the threads. The block has to meet before they are used.
GCOS_DEVICE void take_tables(ChecksumShared& shared) {
  for (std::uint32_t entry = thread_index(); entry < 256; entry += kChecksumThreads) {
    for (int byte = 0; byte < 4; ++byte) {
      shared.past_row.of[byte][entry] = crc32c::kPastRow.of[byte][entry];
      shared.past_warp.of[byte][entry] = crc32c::kPastWarp.of[byte][entry];
      shared.past_word.of[byte][entry] = crc32c::kPastWord.of[byte][entry];
    }
  }
}

// Rows whose loads are under way at the same time.
constexpr std::uint32_t kRowsAtOnce = 4;

// Adds all rows of a grain that is one run of whole, aligned chunks.
GCOS_DEVICE void add_plain(Rows& rows, std::uint64_t address, std::uint32_t chunks) {
  const Chunk* from = at<const Chunk>(address);
  std::uint32_t left = (chunks + kChecksumThreads - 1) / kChecksumThreads;
  // Of this thread in the present row; in the first row it may lie before the grain, and wraps.
  std::uint32_t chunk = thread_index() + chunks - left * kChecksumThreads;
  if (chunk < chunks) rows.add(load_chunk(from + chunk));
  chunk += kChecksumThreads;
  for (--left; left >= kRowsAtOnce; left -= kRowsAtOnce) {
    Chunk loaded[kRowsAtOnce];
    for (std::uint32_t i = 0; i < kRowsAtOnce; ++i) {
      loaded[i] = load_chunk(from + chunk + i * kChecksumThreads);
    }
    for (std::uint32_t i = 0; i < kRowsAtOnce; ++i) rows.add(loaded[i]);
    chunk += kRowsAtOnce * kChecksumThreads;
  }
  for (; left > 0; --left, chunk += kChecksumThreads) rows.add(load_chunk(from + chunk));
}

// Adds all rows of any grain.
GCOS_DEVICE void add_scattered(Rows& rows, const GrainRun* runs, const Grain& grain) {
  constexpr std::int32_t kRow = static_cast<std::int32_t>(crc32c::kRowBytes);
  constexpr std::int32_t kChunk = static_cast<std::int32_t>(sizeof(Chunk));
  GrainReader reader(runs, grain.run_count);
  const std::int32_t bytes = static_cast<std::int32_t>(grain.bytes);
  std::uint32_t left = (grain.bytes + crc32c::kRowBytes - 1) / crc32c::kRowBytes;
  std::int32_t from = bytes - static_cast<std::int32_t>(left) * kRow +
                      static_cast<std::int32_t>(thread_index()) * kChunk;
  if (from > -kChunk) rows.add(reader.read(from));
  from += kRow;
  for (--left; left >= kRowsAtOnce; left -= kRowsAtOnce) {
    Chunk loaded[kRowsAtOnce];
    for (std::uint32_t i = 0; i < kRowsAtOnce; ++i, from += kRow) loaded[i] = reader.read(from);
    for (std::uint32_t i = 0; i < kRowsAtOnce; ++i) rows.add(loaded[i]);
  }
  for (; left > 0; --left, from += kRow) rows.add(reader.read(from));
}

// The sum of a grain, in thread 0; the tables are in place. All threads of the block take part.
GCOS_DEVICE std::uint32_t sum_of(ChecksumShared& shared, const GrainRun* all, const Grain& grain) {
  const std::uint32_t thread = thread_index();
  const GrainRun* runs = all + grain.first_run;
  if (grain.run_count <= kRunsAtHand) {
    for (std::uint32_t i = thread; i < grain.run_count; i += kChecksumThreads) {
      shared.runs[i] = runs[i];
    }
    runs = shared.runs;
  }
  sync_block();
  Rows rows(shared.past_row);
  const std::uint64_t address = runs[0].address;
  if (grain.run_count == 1 && (address | grain.bytes) % sizeof(Chunk) == 0) {
    add_plain(rows, address, grain.bytes / sizeof(Chunk));
  } else {
    add_scattered(rows, runs, grain);
  }
  shared.sums[thread] = rows.join(shared.past_word);
  sync_block();
  std::uint32_t sum = 0;
  if (thread < 32) {
    for (std::uint32_t from = thread; from < kChecksumThreads; from += 32) {
      sum = crc32c::look_up(shared.past_warp, sum) ^ shared.sums[from];
    }
    sum = crc32c::times(sum, crc32c::kPastLanes.of[thread]);
    for (std::uint32_t distance = 16; distance > 0; distance /= 2) {
      sum ^= shuffle(sum, thread ^ distance);
    }
  }
  return sum ^ grain.seed;
}

// Computes the sums of a batch; the blocks take turns.
GCOS_DEVICE void checksum_batch(const ChecksumBatch& batch, ChecksumShared& shared) {
  take_tables(shared);
  for (std::uint32_t i = block_index(); i < batch.grain_count; i += grid_blocks()) {
    const std::uint32_t sum =
        sum_of(shared, at<const GrainRun>(batch.runs), at<const Grain>(batch.grains)[i]);
    if (thread_index() == 0) at<std::uint32_t>(batch.sums)[i] = sum;
  }
}

}  // namespace gcos
