// Copies of runs of bytes at any addresses, a warp each.
#pragma once

#include <cstdint>

#include "gcos/abi.h"
#include "gcos/platform.h"

namespace gcos {

GCOS_DEVICE Chunk load_unit(const Chunk* from) { return load_chunk(from); }
GCOS_DEVICE void store_unit(Chunk* to, const Chunk& unit) { store_chunk(to, unit); }
template <class Unit>
GCOS_DEVICE Unit load_unit(const Unit* from) {
  return *from;
}
template <class Unit>
GCOS_DEVICE void store_unit(Unit* to, const Unit& unit) {
  *to = unit;
}

// Copies `units` units with `threads` threads, of which this is number `thread`: several loads
// under way at a time.
template <class Unit>
GCOS_DEVICE void copy_units(std::uint64_t source, std::uint64_t target, std::uint64_t units,
                            std::uint32_t thread, std::uint32_t threads) {
  constexpr std::uint32_t kAtOnce = 4;
  const Unit* from = at<const Unit>(source);
  Unit* to = at<Unit>(target);
  std::uint64_t i = thread;
  for (; i + (kAtOnce - 1) * threads < units; i += kAtOnce * threads) {
    Unit loaded[kAtOnce];
    for (std::uint32_t k = 0; k < kAtOnce; ++k) loaded[k] = load_unit(from + i + k * threads);
    for (std::uint32_t k = 0; k < kAtOnce; ++k) store_unit(to + i + k * threads, loaded[k]);
  }
  for (; i < units; i += threads) store_unit(to + i, load_unit(from + i));
}

// Copies a run with one warp: what stands before the first whole unit of the target byte by byte,
// then units, then the bytes after the last one. Units are as long as both addresses allow.
template <class Unit>
GCOS_DEVICE void copy_run_by(const CopyRun& run) {
  const std::uint32_t lane = lane_index();
  const std::uint64_t before = (0 - run.target) % sizeof(Unit);
  const std::uint64_t head = before < run.bytes ? before : run.bytes;
  const std::uint64_t units = (run.bytes - head) / sizeof(Unit);
  const std::uint64_t tail = head + units * sizeof(Unit);
  if (lane < head) {
    *at<std::uint8_t>(run.target + lane) = *at<const std::uint8_t>(run.source + lane);
  }
  copy_units<Unit>(run.source + head, run.target + head, units, lane, kWarpThreads);
  if (tail + lane < run.bytes) {
    const std::uint64_t byte = tail + lane;
    *at<std::uint8_t>(run.target + byte) = *at<const std::uint8_t>(run.source + byte);
  }
}

GCOS_DEVICE void copy_run(const CopyRun& run) {
  const std::uint64_t apart = run.source ^ run.target;
  if (apart % 16 == 0) {
    copy_run_by<Chunk>(run);
  } else if (apart % 8 == 0) {
    copy_run_by<std::uint64_t>(run);
  } else if (apart % 4 == 0) {
    copy_run_by<std::uint32_t>(run);
  } else if (apart % 2 == 0) {
    copy_run_by<std::uint16_t>(run);
  } else {
    copy_run_by<std::uint8_t>(run);
  }
}

// Carries out a batch; the warps of all blocks take turns. A warp has its next run fetched while it
// copies.
GCOS_DEVICE void copy_batch(const CopyBatch& batch) {
  const CopyRun* runs = at<const CopyRun>(batch.runs);
  const std::uint32_t block_warps = block_threads() / kWarpThreads;
  const std::uint32_t warps = block_warps * grid_blocks();
  std::uint32_t i = block_index() * block_warps + warp_index();
  if (i < batch.run_count) {
    CopyRun run = runs[i];
    for (;;) {
      const bool more = batch.run_count - i > warps;
      i += warps;
      const CopyRun next = more ? runs[i] : run;
      copy_run(run);
      if (!more) break;
      run = next;
    }
  }
}

}  // namespace gcos
