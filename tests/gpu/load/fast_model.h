// A controller for measurements: one warp serves one queue pair from the GPU's own memory, as fast as it can,
// or with a latency, and moves data if told so. It checks little; model.h checks.
#pragma once

#include <cstdint>

#include "gcos/queue.h"

namespace gcos_load {

constexpr std::uint32_t kServerWidth = 8;  // entries a lane takes in one trip
constexpr std::uint32_t kMostEntries = 4096;

// One queue pair as the controller sees it, and what it counted.
struct FastQueue {
  std::uint64_t sq;
  std::uint64_t cq;
  std::uint64_t sq_doorbell;
  std::uint64_t cq_doorbell;
  std::uint64_t medium;        // data of block 0
  std::uint64_t commands;      // ends after so many
  std::uint32_t entries;
  std::uint32_t data_bytes;    // of each command; 0 moves none
  std::uint32_t latency_ns;
  std::uint32_t strange;       // entries whose identifier is not their slot
  std::uint64_t fetched;
  std::uint64_t posted;
  std::uint64_t took_ns;       // from the first entry to the last completion
  std::uint64_t resident;      // address of a word to which each server adds 1 when it runs
};

struct ServerShared {
  std::uint64_t due[kMostEntries];
  std::uint16_t slot[kMostEntries];
};

__device__ __forceinline__ void post_completion(std::uint64_t cq, std::uint32_t index,
                                                std::uint32_t phase, std::uint32_t slot,
                                                std::uint32_t head) {
  std::uint64_t* to = gcos::at<std::uint64_t>(cq) + 2ull * index;
  const std::uint64_t word = head | (static_cast<std::uint64_t>(slot) << 32) |
                             (static_cast<std::uint64_t>(phase) << 48);
  asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1, %2};" ::"l"(to), "l"(0ull), "l"(word)
               : "memory");
}

// Copies the data of one command, by all lanes. 16 bytes at a time; `bytes` is a multiple of 4096.
__device__ __forceinline__ void move_data(std::uint64_t to, std::uint64_t from, std::uint32_t bytes) {
  constexpr std::uint32_t kUnroll = 8;
  const uint4* source = gcos::at<const uint4>(from) + gcos::lane_index();
  uint4* target = gcos::at<uint4>(to) + gcos::lane_index();
  for (std::uint32_t done = 0; done < bytes; done += kUnroll * 512) {
    uint4 words[kUnroll];
#pragma unroll
    for (std::uint32_t i = 0; i < kUnroll; ++i) words[i] = __ldcs(source + done / 16 + 32 * i);
#pragma unroll
    for (std::uint32_t i = 0; i < kUnroll; ++i) __stcs(target + done / 16 + 32 * i, words[i]);
  }
}

class FastServer {
 public:
  __device__ FastServer(FastQueue& queue, ServerShared& shared) : out_(queue), q_(queue), shared_(shared) {}

  __device__ void run(std::uint64_t budget_ns) {
    if (gcos::lane_index() == 0) {
      gcos::fetch_add_release<gcos::Scope::kSystem>(gcos::at<std::uint32_t>(q_.resident), 1u);
    }
    const std::uint64_t end = gcos::now_ns() + budget_ns;
    const std::uint64_t commands = q_.commands;
    std::uint64_t began = 0;
    for (std::uint32_t turn = 0; posted_ < commands; ++turn) {
      if (fetched_ == 0) began = gcos::now_ns();
      take();
      if (q_.latency_ns != 0) post_due();
      if (turn % 4096 == 4095 && gcos::now_ns() > end) break;
    }
    for (std::uint32_t delta = 16; delta != 0; delta /= 2) {
      strange_ += __shfl_xor_sync(0xffffffffu, strange_, delta);
    }
    if (gcos::lane_index() == 0) {
      out_.took_ns = gcos::now_ns() - began;
      out_.fetched = fetched_;
      out_.posted = posted_;
      out_.strange = strange_;
    }
  }

 private:
  // Room for completions, from the last known head on; looks again when there seems to be little.
  __device__ std::uint32_t room(std::uint32_t wanted) {
    const std::uint32_t entries = q_.entries;
    const auto free_now = [&] {
      const std::uint32_t used =
          cq_tail_ >= cq_head_ ? cq_tail_ - cq_head_ : cq_tail_ + entries - cq_head_;
      return entries - 1 - used;
    };
    if (free_now() < wanted) {
      cq_head_ = gcos::load_relaxed<gcos::Scope::kSystem>(
          gcos::at<const std::uint32_t>(q_.cq_doorbell));
    }
    const std::uint32_t left = free_now();
    return left < wanted ? left : wanted;
  }

  __device__ void take() {
    const std::uint32_t entries = q_.entries;
    const std::uint32_t lane = gcos::lane_index();
    // Entries are read past the first-level cache below, so nothing need be acquired.
    const std::uint32_t tail = gcos::load_relaxed<gcos::Scope::kSystem>(
        gcos::at<const std::uint32_t>(q_.sq_doorbell));
    std::uint32_t count = tail >= sq_head_ ? tail - sq_head_ : tail + entries - sq_head_;
    if (count > 32 * kServerWidth) count = 32 * kServerWidth;
    if (q_.latency_ns == 0) count = room(count);
    if (count == 0) return;
    const std::uint64_t due = q_.latency_ns != 0 ? gcos::now_ns() + q_.latency_ns : 0;
    const std::uint32_t new_head = gcos::wrapped(sq_head_ + count, entries);
    std::uint32_t first[kServerWidth];
#pragma unroll
    for (std::uint32_t k = 0; k < kServerWidth; ++k) {
      const std::uint32_t i = 32 * k + lane;
      first[k] = i < count ? __ldcg(entry_at(i)) : 0;
    }
#pragma unroll
    for (std::uint32_t k = 0; k < kServerWidth; ++k) {
      const std::uint32_t i = 32 * k + lane;
      if (32 * k >= count) break;
      const bool mine = i < count;
      if (q_.data_bytes != 0) {
        move_all(reinterpret_cast<const uint4*>(entry_at(mine ? i : 0)), mine ? 1u : 0u);
      }
      if (!mine) continue;
      const std::uint32_t name = first[k] >> 16;
      strange_ += name != gcos::wrapped(sq_head_ + i, entries) ? 1 : 0;
      if (q_.latency_ns != 0) {
        const std::uint32_t place = (fetched_ + i) % kMostEntries;
        shared_.due[place] = due;
        shared_.slot[place] = static_cast<std::uint16_t>(name);
      } else {
        post_one(i, name, new_head);
      }
    }
    __syncwarp();
    sq_head_ = new_head;
    fetched_ += count;
    if (q_.latency_ns == 0) posted(count);
  }

  __device__ const std::uint32_t* entry_at(std::uint32_t i) const {
    const std::uint32_t slot = gcos::wrapped(sq_head_ + i, q_.entries);
    return gcos::at<const std::uint32_t>(q_.sq) + 16ull * slot;
  }

  // Moves the data of the lanes' commands, one after another.
  __device__ void move_all(const uint4* entry, std::uint32_t mine) {
    const uint4 second = __ldcg(entry + 1);
    const uint4 third = __ldcg(entry + 2);
    const std::uint32_t opcode = __ldcg(entry).x & 0xff;
    const std::uint64_t memory = second.z | static_cast<std::uint64_t>(second.w) << 32;
    const std::uint64_t lba = third.z | static_cast<std::uint64_t>(third.w) << 32;
    for (std::uint32_t votes = __ballot_sync(0xffffffffu, mine); votes != 0; votes &= votes - 1) {
      const std::uint32_t lane = gcos::lowest_bit(votes);
      const std::uint64_t m = gcos::shuffle_wide(memory, lane);
      const std::uint64_t d = q_.medium + 512 * gcos::shuffle_wide(lba, lane);
      const bool reads = gcos::shuffle(opcode, lane) == 2;
      move_data(reads ? m : d, reads ? d : m, q_.data_bytes);
    }
    // Data before its completion, for whoever looks.
    cuda::atomic_thread_fence(cuda::memory_order_acq_rel, cuda::thread_scope_system);
    __syncwarp();
  }

  __device__ void post_one(std::uint32_t i, std::uint32_t slot, std::uint32_t head) {
    const bool turned = cq_tail_ + i >= q_.entries;
    post_completion(q_.cq, gcos::wrapped(cq_tail_ + i, q_.entries), phase_ ^ (turned ? 1u : 0u), slot,
                    head);
  }

  __device__ void posted(std::uint32_t count) {
    if (cq_tail_ + count >= q_.entries) phase_ ^= 1;
    cq_tail_ = gcos::wrapped(cq_tail_ + count, q_.entries);
    posted_ += count;
  }

  // Posts what has waited long enough, in order.
  __device__ void post_due() {
    const std::uint64_t flying = fetched_ - posted_;
    std::uint32_t most = flying < 32 ? static_cast<std::uint32_t>(flying) : 32u;
    most = room(most);
    const std::uint32_t lane = gcos::lane_index();
    const std::uint32_t place = (posted_ + lane) % kMostEntries;
    const bool ready = lane < most && shared_.due[place] <= gcos::now_ns();
    const std::uint32_t count = gcos::leading(gcos::ballot(ready));
    if (lane < count) post_one(lane, shared_.slot[place], sq_head_);
    __syncwarp();
    if (count != 0) posted(count);
  }

  FastQueue& out_;
  const FastQueue q_;
  ServerShared& shared_;
  std::uint64_t fetched_ = 0;
  std::uint64_t posted_ = 0;
  std::uint32_t sq_head_ = 0;
  std::uint32_t cq_tail_ = 0;
  std::uint32_t cq_head_ = 0;
  std::uint32_t phase_ = 1;
  std::uint32_t strange_ = 0;
};

}  // namespace gcos_load
