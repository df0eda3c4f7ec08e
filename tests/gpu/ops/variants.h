// Other ways to sum up a grain that is one aligned run, for comparison with the one in
// gcos/checksum.h.
#pragma once

#include "gcos/checksum.h"

namespace gcos::test {

// Products by look-ups of 11 bits: three for a word, in tables of 24 KiB.
struct Wide {
  std::uint32_t of[3][2048];
};

constexpr Wide wide_product_with(std::uint32_t factor) {
  Wide table{};
  std::uint32_t term = factor;
  for (int bit = 31; bit >= 0; --bit) {
    table.of[bit / 11][1 << (bit % 11)] = term;
    term = crc32c::times_x(term);
  }
  for (int part = 0; part < 3; ++part) {
    for (int value = 1; value < 2048; ++value) {
      const int lowest = value & -value;
      table.of[part][value] = table.of[part][value ^ lowest] ^ table.of[part][lowest];
    }
  }
  return table;
}

GCOS_TABLE Wide kWidePastRow = wide_product_with(crc32c::past(crc32c::kRowBytes));

struct WideRows {
  static constexpr std::size_t kWords = 3 * 2048;
  static __device__ void take(std::uint32_t* table) {
    for (std::uint32_t i = thread_index(); i < kWords; i += kChecksumThreads) {
      table[i] = kWidePastRow.of[i / 2048][i % 2048];
    }
  }
  static __device__ std::uint32_t past(const std::uint32_t* table, std::uint32_t word) {
    return table[word & 0x7ffu] ^ table[2048 + ((word >> 11) & 0x7ffu)] ^
           table[4096 + (word >> 22)];
  }
};

// Products by look-ups of 4 bits: eight for a word, in tables of which every bank has a copy (16
// KiB), so that lanes never wait for each other.
struct NibbleRows {
  static constexpr std::size_t kWords = 8 * 16 * 32;
  static __device__ void take(std::uint32_t* table) {
    for (std::uint32_t i = thread_index(); i < kWords; i += kChecksumThreads) {
      const std::uint32_t nibble = i / 512, value = i / 32 % 16;
      table[i] = crc32c::kPastRow.of[nibble / 2][nibble % 2 == 0 ? value : value << 4];
    }
  }
  static __device__ std::uint32_t past(const std::uint32_t* table, std::uint32_t word) {
    std::uint32_t sum = 0;
    const std::uint32_t* mine = table + lane_index();
    for (int nibble = 0; nibble < 8; ++nibble) {
      sum ^= mine[nibble * 512 + ((word >> (4 * nibble)) & 15u) * 32];
    }
    return sum;
  }
};

// As gcos_checksum, of grains that are one aligned run of whole chunks, with another product.
template <class Way>
__global__ void checksum_by(ChecksumBatch batch) {
  __shared__ std::uint32_t table[Way::kWords];
  __shared__ crc32c::Product past_warp, past_word;
  __shared__ std::uint32_t sums[kChecksumThreads];
  const std::uint32_t thread = thread_index();
  Way::take(table);
  for (int byte = 0; byte < 4; ++byte) {
    past_warp.of[byte][thread] = crc32c::kPastWarp.of[byte][thread];
    past_word.of[byte][thread] = crc32c::kPastWord.of[byte][thread];
  }
  for (std::uint32_t g = block_index(); g < batch.grain_count; g += grid_blocks()) {
    const Grain grain = at<const Grain>(batch.grains)[g];
    const Chunk* from = at<const Chunk>(at<const GrainRun>(batch.runs)[grain.first_run].address);
    const std::uint32_t chunks = grain.bytes / 16;
    sync_block();
    Chunk state{};
    std::uint32_t left = (chunks + kChecksumThreads - 1) / kChecksumThreads;
    std::uint32_t chunk = thread + chunks - left * kChecksumThreads;
    if (chunk < chunks) state = load_chunk(from + chunk);
    chunk += kChecksumThreads;
    for (--left; left > 0;) {
      Chunk loaded[kRowsAtOnce];
      const std::uint32_t now = left < kRowsAtOnce ? left : kRowsAtOnce;
#pragma unroll
      for (std::uint32_t i = 0; i < kRowsAtOnce; ++i) {
        if (i < now) loaded[i] = load_chunk(from + chunk + i * kChecksumThreads);
      }
#pragma unroll
      for (std::uint32_t i = 0; i < kRowsAtOnce; ++i) {
        if (i < now) {
          for (int w = 0; w < 4; ++w) {
            state.words[w] = Way::past(table, state.words[w]) ^ loaded[i].words[w];
          }
        }
      }
      left -= now;
      chunk += now * kChecksumThreads;
    }
    std::uint32_t sum = 0;
    for (int w = 0; w < 4; ++w) sum = crc32c::look_up(past_word, sum ^ state.words[w]);
    sums[thread] = sum;
    sync_block();
    if (thread < 32) {
      sum = 0;
      for (std::uint32_t i = thread; i < kChecksumThreads; i += 32) {
        sum = crc32c::look_up(past_warp, sum) ^ sums[i];
      }
      sum = crc32c::times(sum, crc32c::kPastLanes.of[thread]);
      for (std::uint32_t distance = 16; distance > 0; distance /= 2)
        sum ^= shuffle(sum, thread ^ distance);
      if (thread == 0) at<std::uint32_t>(batch.sums)[g] = sum ^ grain.seed;
    }
  }
}

// No tables but at the end: a warp has a grain, a lane every 32nd word, and bit j of its words is a
// sequence of its own. With y = x^1024, one step of which goes from word to word, the generator of
// y is that of x, since 1024 is a power of two; so 32 registers are 32 shift registers with
// feedback, and a word costs as many exclusive ors as the generator has terms.
constexpr std::uint32_t kSliceRow = 32 * 4;
GCOS_TABLE crc32c::Product kPastSliceRow = crc32c::product_with(crc32c::past(kSliceRow));
GCOS_TABLE crc32c::Places kPastWordLanes = crc32c::places_of(4);
constexpr std::uint32_t kPastFour = crc32c::past(4);

__global__ void __launch_bounds__(256) checksum_sliced(ChecksumBatch batch) {
  __shared__ crc32c::Product past_row;
  for (int byte = 0; byte < 4; ++byte)
    past_row.of[byte][threadIdx.x] = kPastSliceRow.of[byte][threadIdx.x];
  __syncthreads();
  constexpr std::uint32_t kTerms = 0x1edc6f41u;
  const std::uint32_t lane = lane_index();
  const std::uint32_t warps = gridDim.x * 8;
  for (std::uint32_t g = blockIdx.x * 8 + warp_index(); g < batch.grain_count; g += warps) {
    const Grain grain = at<const Grain>(batch.grains)[g];
    const std::uint32_t* from =
        at<const std::uint32_t>(at<const GrainRun>(batch.runs)[grain.first_run].address) + lane;
    std::uint32_t r[32];
#pragma unroll
    for (int c = 0; c < 32; ++c) r[c] = 0;
    // A multiple of 4 KiB here.
    for (std::uint32_t left = grain.bytes / (32 * kSliceRow); left > 0; --left) {
      std::uint32_t w[32];
#pragma unroll
      for (int i = 0; i < 32; ++i) w[i] = from[i * 32];
      from += 32 * 32;
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        // Coefficient c of y is in r[(c - i) mod 32] before step i.
        const std::uint32_t top = r[(31 - i) & 31];
#pragma unroll
        for (int c = 1; c < 32; ++c) {
          if ((kTerms >> c) & 1u) r[(c - i - 1) & 31] ^= top;
        }
        r[(31 - i) & 31] = top ^ w[i];
      }
    }
    std::uint32_t sum = 0;
#pragma unroll
    for (int c = 31; c >= 0; --c) sum = crc32c::look_up(past_row, sum) ^ r[c];
    sum = crc32c::times(sum, kPastWordLanes.of[lane]);
    for (std::uint32_t distance = 16; distance > 0; distance /= 2)
      sum ^= shuffle(sum, lane ^ distance);
    // Past the 32 zeros that the definition appends.
    if (lane == 0) {
      at<std::uint32_t>(batch.sums)[g] = crc32c::times(sum, kPastFour) ^ grain.seed;
    }
  }
}

}  // namespace gcos::test
