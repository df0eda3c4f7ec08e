// What the kernels take from where they run: threads, barriers, votes, atomics, fences, the clock.
//
// The same kernels are compiled for a GPU by nvcc, and with -DGCOS_PLAYED for a GPU played by host threads
// (every CUDA thread is a thread, a block is a team of them), where the sanitizers of the host compiler see
// every access. Kernels use nothing but the names below.
//
// Rules that both sides keep:
// - A block has a multiple of 32 threads, of one dimension. The grid has one dimension.
// - Warp functions (sync_warp, ballot, any, all, shuffle, shuffle_up) are called by all 32 lanes together.
// - Every atomic names its scope and its order. What is shared without an atomic is ordered by a barrier or
//   by a release and an acquire.
// - store_release at system scope is the system-scope fence before a doorbell: everything that this thread
//   did, or saw done through barriers and acquires, is visible to the host and to devices before the word.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gcos {

// Who is to see an atomic access: the block, the GPU, or the host and devices as well.
enum class Scope { kBlock, kDevice, kSystem };

constexpr std::uint32_t kWarpThreads = 32;
constexpr std::uint32_t kMaxBlockThreads = 1024;

// 16 bytes that are loaded or stored by one instruction. Not an atomic.
struct alignas(16) Chunk {
  std::uint32_t words[4];
};

}  // namespace gcos

#if defined(GCOS_PLAYED)
#include "played/platform.h"
#else
#include "gcos/platform_cuda.h"
#endif

namespace gcos {

// A pointer from an address in a record.
template <class T>
GCOS_DEVICE T* at(std::uint64_t address) {
  return reinterpret_cast<T*>(static_cast<std::uintptr_t>(address));
}

// Lane of this thread in its warp.
GCOS_DEVICE std::uint32_t lane_index() { return thread_index() % kWarpThreads; }

// Warp of this thread in its block.
GCOS_DEVICE std::uint32_t warp_index() { return thread_index() / kWarpThreads; }

// Whether any lane says so.
GCOS_DEVICE bool any(bool predicate) { return ballot(predicate) != 0; }

// Whether every lane says so.
GCOS_DEVICE bool all(bool predicate) { return ballot(predicate) == 0xffffffffu; }

// A word of 64 bits from another lane.
GCOS_DEVICE std::uint64_t shuffle_wide(std::uint64_t value, std::uint32_t lane) {
  const std::uint32_t low = shuffle(static_cast<std::uint32_t>(value), lane);
  const std::uint32_t high = shuffle(static_cast<std::uint32_t>(value >> 32), lane);
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

// Number of leading lanes, from lane 0 on, whose bit is set.
GCOS_DEVICE std::uint32_t leading(std::uint32_t votes) {
  return votes == 0xffffffffu ? kWarpThreads : lowest_bit(~votes);
}

}  // namespace gcos
