// platform.h for a GPU played by host threads.
//
// A scope is not narrowed: every atomic is one of the whole process. A release or acquire that a GPU needs is
// one here too, so that a thread sanitizer finds it missing. Under a thread sanitizer a relaxed access
// orders nothing, as on the GPU.
#pragma once

#include <cstring>

#include "gcos/platform.h"
#include "played/team.h"

#define GCOS_DEVICE inline
#define GCOS_KERNEL extern "C" void
#define GCOS_MOST_THREADS(threads)
#define GCOS_SHARED(Type, name) \
  Type& name = *static_cast<Type*>(::gcos::played::shared_object(sizeof(Type)))

namespace gcos {

constexpr bool kPlayed = true;

GCOS_DEVICE std::uint32_t thread_index() { return played::place.thread; }
GCOS_DEVICE std::uint32_t block_index() { return played::place.team->block; }
GCOS_DEVICE std::uint32_t block_threads() { return played::place.team->threads; }
GCOS_DEVICE std::uint32_t grid_blocks() { return played::place.team->grid; }

GCOS_DEVICE void sync_block() { played::place.team->barrier.arrive(); }
GCOS_DEVICE void sync_warp() { played::place.warp->barrier.arrive(); }

std::uint32_t ballot(bool predicate);
std::uint32_t shuffle(std::uint32_t value, std::uint32_t lane);
std::uint32_t shuffle_up(std::uint32_t value, std::uint32_t delta);

GCOS_DEVICE std::uint32_t lowest_bit(std::uint32_t bits) {
  return bits == 0 ? 32u : static_cast<std::uint32_t>(__builtin_ctz(bits));
}
GCOS_DEVICE std::uint32_t count_bits(std::uint32_t bits) {
  return static_cast<std::uint32_t>(__builtin_popcount(bits));
}

template <Scope S, class T>
GCOS_DEVICE T load_relaxed(const T* from) {
  return __atomic_load_n(from, __ATOMIC_RELAXED);
}
template <Scope S, class T>
GCOS_DEVICE T load_acquire(const T* from) {
  return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}
// The thread sanitizer knows no fences, so each look is an acquire here.
template <Scope S, class T>
GCOS_DEVICE T load_polled(const T* from) {
  return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}
template <Scope S>
GCOS_DEVICE void order_polled() {}
template <Scope S, class T>
GCOS_DEVICE void store_relaxed(T* to, T value) {
  __atomic_store_n(to, value, __ATOMIC_RELAXED);
}
template <Scope S, class T>
GCOS_DEVICE void store_release(T* to, T value) {
  __atomic_store_n(to, value, __ATOMIC_RELEASE);
}
template <Scope S, class T>
GCOS_DEVICE T fetch_add_relaxed(T* at, T value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
template <Scope S, class T>
GCOS_DEVICE T fetch_add_release(T* at, T value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELEASE);
}
template <Scope S, class T>
GCOS_DEVICE T fetch_or_acq_rel(T* at, T value) {
  return __atomic_fetch_or(at, value, __ATOMIC_ACQ_REL);
}
template <Scope S, class T>
GCOS_DEVICE T fetch_or_relaxed(T* at, T value) {
  return __atomic_fetch_or(at, value, __ATOMIC_RELAXED);
}
template <Scope S, class T>
GCOS_DEVICE T exchange_relaxed(T* at, T value) {
  return __atomic_exchange_n(at, value, __ATOMIC_RELAXED);
}
template <Scope S, class T>
GCOS_DEVICE T exchange_acq_rel(T* at, T value) {
  return __atomic_exchange_n(at, value, __ATOMIC_ACQ_REL);
}
template <Scope S, class T>
GCOS_DEVICE bool compare_exchange_acquire(T* at, T expected, T value) {
  return __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_ACQUIRE,
                                     __ATOMIC_RELAXED);
}

GCOS_DEVICE Chunk load_chunk(const void* from) {
  Chunk chunk;
  std::memcpy(&chunk, from, sizeof chunk);
  return chunk;
}
GCOS_DEVICE void store_chunk(void* to, const Chunk& chunk) {
  std::memcpy(to, &chunk, sizeof chunk);
}

std::uint64_t now_ns();
void pause(std::uint32_t turn);

}  // namespace gcos
