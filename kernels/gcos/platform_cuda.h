// platform.h for a GPU: CUDA's own means under the names that the kernels use.
#pragma once

#include <cuda/atomic>

#include "gcos/platform.h"

#define GCOS_DEVICE __device__ __forceinline__
#define GCOS_KERNEL extern "C" __global__ void
// Before the name of a kernel: the most threads of a block. One block on a multiprocessor is enough, so the
// compiler need not save registers for more.
#define GCOS_MOST_THREADS(threads) __launch_bounds__(threads, 1)
// Memory of the block, one object for each place in a kernel that names it; not initialised.
#define GCOS_SHARED(Type, name) __shared__ Type name

namespace gcos {

constexpr bool kPlayed = false;

GCOS_DEVICE std::uint32_t thread_index() { return threadIdx.x; }
GCOS_DEVICE std::uint32_t block_index() { return blockIdx.x; }
GCOS_DEVICE std::uint32_t block_threads() { return blockDim.x; }
GCOS_DEVICE std::uint32_t grid_blocks() { return gridDim.x; }

// Barrier of the block; orders the memory of its threads among each other.
GCOS_DEVICE void sync_block() { __syncthreads(); }
// Barrier of the warp; orders the memory of its lanes among each other.
GCOS_DEVICE void sync_warp() { __syncwarp(); }
GCOS_DEVICE std::uint32_t ballot(bool predicate) { return __ballot_sync(0xffffffffu, predicate); }
GCOS_DEVICE std::uint32_t shuffle(std::uint32_t value, std::uint32_t lane) {
  return __shfl_sync(0xffffffffu, value, static_cast<int>(lane));
}
// The value of the lane `delta` below; the lane's own value where there is none.
GCOS_DEVICE std::uint32_t shuffle_up(std::uint32_t value, std::uint32_t delta) {
  return __shfl_up_sync(0xffffffffu, value, delta);
}
// Index of the lowest bit set; 32 if none is.
GCOS_DEVICE std::uint32_t lowest_bit(std::uint32_t bits) {
  return bits == 0 ? 32u : static_cast<std::uint32_t>(__ffs(static_cast<int>(bits)) - 1);
}
GCOS_DEVICE std::uint32_t count_bits(std::uint32_t bits) {
  return static_cast<std::uint32_t>(__popc(bits));
}

namespace detail {
template <Scope S>
struct CudaScope;
template <>
struct CudaScope<Scope::kBlock> {
  static constexpr cuda::thread_scope kValue = cuda::thread_scope_block;
};
template <>
struct CudaScope<Scope::kDevice> {
  static constexpr cuda::thread_scope kValue = cuda::thread_scope_device;
};
template <>
struct CudaScope<Scope::kSystem> {
  static constexpr cuda::thread_scope kValue = cuda::thread_scope_system;
};
template <Scope S, class T>
using Atomic = cuda::atomic_ref<T, CudaScope<S>::kValue>;
}  // namespace detail

template <Scope S, class T>
GCOS_DEVICE T load_relaxed(const T* from) {
  return detail::Atomic<S, T>(*const_cast<T*>(from)).load(cuda::memory_order_relaxed);
}
template <Scope S, class T>
GCOS_DEVICE T load_acquire(const T* from) {
  return detail::Atomic<S, T>(*const_cast<T*>(from)).load(cuda::memory_order_acquire);
}
// For a word that is looked at again and again: orders nothing. Once the looks have ended, order_polled comes
// before anything that the words vouch for.
template <Scope S, class T>
GCOS_DEVICE T load_polled(const T* from) {
  return load_relaxed<S>(from);
}
template <Scope S>
GCOS_DEVICE void order_polled() {
  cuda::atomic_thread_fence(cuda::memory_order_acquire, detail::CudaScope<S>::kValue);
}
template <Scope S, class T>
GCOS_DEVICE void store_relaxed(T* to, T value) {
  detail::Atomic<S, T>(*to).store(value, cuda::memory_order_relaxed);
}
template <Scope S, class T>
GCOS_DEVICE void store_release(T* to, T value) {
  detail::Atomic<S, T>(*to).store(value, cuda::memory_order_release);
}
template <Scope S, class T>
GCOS_DEVICE T fetch_add_relaxed(T* at, T value) {
  return detail::Atomic<S, T>(*at).fetch_add(value, cuda::memory_order_relaxed);
}
template <Scope S, class T>
GCOS_DEVICE T fetch_add_release(T* at, T value) {
  return detail::Atomic<S, T>(*at).fetch_add(value, cuda::memory_order_release);
}
template <Scope S, class T>
GCOS_DEVICE T fetch_or_acq_rel(T* at, T value) {
  return detail::Atomic<S, T>(*at).fetch_or(value, cuda::memory_order_acq_rel);
}
template <Scope S, class T>
GCOS_DEVICE T fetch_or_relaxed(T* at, T value) {
  return detail::Atomic<S, T>(*at).fetch_or(value, cuda::memory_order_relaxed);
}
template <Scope S, class T>
GCOS_DEVICE T exchange_relaxed(T* at, T value) {
  // The intrinsic knows shared memory when it sees it; atomic_ref takes the slow way through generic addresses.
  if constexpr (S == Scope::kBlock) return atomicExch_block(at, value);
  return detail::Atomic<S, T>(*at).exchange(value, cuda::memory_order_relaxed);
}
template <Scope S, class T>
GCOS_DEVICE T exchange_acq_rel(T* at, T value) {
  return detail::Atomic<S, T>(*at).exchange(value, cuda::memory_order_acq_rel);
}
// Puts `value` there if `expected` is there, and says whether it did.
template <Scope S, class T>
GCOS_DEVICE bool compare_exchange_acquire(T* at, T expected, T value) {
  return detail::Atomic<S, T>(*at).compare_exchange_strong(
      expected, value, cuda::memory_order_acquire, cuda::memory_order_relaxed);
}

GCOS_DEVICE Chunk load_chunk(const void* from) {
  const uint4 v = *static_cast<const uint4*>(from);
  return Chunk{{v.x, v.y, v.z, v.w}};
}
GCOS_DEVICE void store_chunk(void* to, const Chunk& c) {
  *static_cast<uint4*>(to) = make_uint4(c.words[0], c.words[1], c.words[2], c.words[3]);
}

// Nanoseconds of a clock that all blocks share; coarse.
GCOS_DEVICE std::uint64_t now_ns() {
  std::uint64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

// Between two looks at a word, the `turn`-th in a row: sleeps at most 64 ns.
GCOS_DEVICE void pause(std::uint32_t turn) {
  if (turn > 4) __nanosleep(turn > 16 ? 32 : 16);
}

}  // namespace gcos
