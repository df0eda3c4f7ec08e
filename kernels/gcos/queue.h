// The four verbs of a queue pair: post entry, ring tail, peek completion, ring head. Each does one thing and
// leaves the rest to its caller; they are never fused.
#pragma once

#include "gcos/abi.h"
#include "gcos/platform.h"

namespace gcos {

// What varies in the entries that read or write blocks (Base, figure "Common Command Format"; NVM Command
// Set, "Read", "Write"). All other words are 0.
struct Entry {
  std::uint32_t dword0;        // opcode, PSDT, command identifier
  std::uint32_t nsid;          // namespace
  std::uint64_t data_first;    // PRP1, or address of the SGL descriptor
  std::uint64_t data_second;   // PRP2, or length and type of the SGL descriptor
  std::uint64_t lba;           // first logical block
  std::uint32_t dword12;       // blocks, 0's based, and FUA
};

// Bits 15:14 of dword 0: the data pointer is an SGL descriptor.
constexpr std::uint32_t kEntrySgl = 1u << 14;
// Bit 30 of dword 12: Force Unit Access.
constexpr std::uint32_t kEntryFua = 1u << 30;

GCOS_DEVICE std::uint32_t low(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
GCOS_DEVICE std::uint32_t high(std::uint64_t value) {
  return static_cast<std::uint32_t>(value >> 32);
}

// One of the four chunks of 16 bytes that an entry is made of.
GCOS_DEVICE Chunk chunk_of(const Entry& entry, std::uint32_t index) {
  switch (index) {
    case 0:
      return Chunk{{entry.dword0, entry.nsid, 0, 0}};
    case 1:
      return Chunk{{0, 0, low(entry.data_first), high(entry.data_first)}};
    case 2:
      return Chunk{{low(entry.data_second), high(entry.data_second), low(entry.lba), high(entry.lba)}};
    default:
      return Chunk{{entry.dword12, 0, 0, 0}};
  }
}

// Writes all 64 bytes of the entry at `slot`, in four stores of 16 bytes.
//
// Does not ring, does not check that the slot is free, and orders nothing: the barrier that collects the
// writers and the release of ring_tail do.
GCOS_DEVICE void post_entry(std::uint64_t sq, std::uint32_t slot, const Entry& entry) {
  for (std::uint32_t i = 0; i < 4; ++i) {
    store_chunk(at<Chunk>(sq) + 4ull * slot + i, chunk_of(entry, i));
  }
}

// Where a warp turns its entries over, so that neighbouring lanes store neighbouring chunks.
struct Stage {
  Chunk chunks[4 * kWarpThreads];
};

// An index that went at most one queue length too far, brought back.
GCOS_DEVICE std::uint32_t wrapped(std::uint32_t index, std::uint32_t entries) {
  return index >= entries ? index - entries : index;
}

// post_entry for the first `count` lanes of a warp at once, into the slots from `slot` on of a queue of
// `entries`. Stores whole lines instead of a quarter of a line a lane, and so a quarter as many. All lanes
// call it, and nobody else uses the stage before a barrier.
GCOS_DEVICE void post_entries(std::uint64_t sq, std::uint32_t slot, std::uint32_t entries,
                              std::uint32_t count, const Entry& entry, Stage& stage) {
  // Chunks are turned by one for every two entries, which spreads them over the banks both ways.
  const std::uint32_t lane = lane_index();
  if (lane < count) {
    for (std::uint32_t i = 0; i < 4; ++i) {
      stage.chunks[4 * lane + ((i + lane / 2) & 3)] = chunk_of(entry, i);
    }
  }
  sync_warp();
  const std::uint32_t part = lane % 4;
  for (std::uint32_t i = 0; i < 4; ++i) {
    const std::uint32_t which = 8 * i + lane / 4;
    if (which < count) {
      store_chunk(at<Chunk>(sq) + 4ull * wrapped(slot + which, entries) + part,
                  stage.chunks[4 * which + ((part + which / 2) & 3)]);
    }
  }
}

// Tells the controller that entries up to `tail` are there. The release at system scope is the fence that
// orders them, and the PRP lists, before the doorbell; it covers what this thread saw other threads write
// through a barrier or an acquire. Two calls one after the other reach the controller in that order.
//
// Does not check that the entries are written, nor that the tail only goes forward.
GCOS_DEVICE void ring_tail(std::uint64_t doorbell, std::uint32_t tail) {
  store_release<Scope::kSystem>(at<std::uint32_t>(doorbell), tail);
}

// The half of a completion entry that has SQHD, SQID, command identifier, phase tag and status: dwords 2
// and 3, which one load takes together.
struct Completion {
  std::uint64_t word;

  GCOS_DEVICE std::uint32_t phase() const { return static_cast<std::uint32_t>(word >> 48) & 1u; }
  GCOS_DEVICE std::uint32_t slot() const { return static_cast<std::uint32_t>(word >> 32) & 0xffffu; }
  // Status field without the phase tag: status code, its type, More, Do Not Retry.
  GCOS_DEVICE std::uint32_t status() const { return static_cast<std::uint32_t>(word >> 49); }
};

// What is at `index` of the completion queue, new or not: the caller compares the phase. The acquire orders
// what the command wrote before what this thread reads afterwards, if the phase says that the entry is new.
//
// Does not advance the head, does not check the identifier or the status.
GCOS_DEVICE Completion peek_completion(std::uint64_t cq, std::uint32_t index) {
  const std::uint64_t* words = at<const std::uint64_t>(cq);
  return Completion{load_acquire<Scope::kSystem>(words + 2ull * index + 1)};
}

// The same without the acquire: before anything is read that commands wrote, the thread that looked calls
// order_polled at system scope, once for all its looks.
GCOS_DEVICE Completion peek_unordered(std::uint64_t cq, std::uint32_t index) {
  const std::uint64_t* words = at<const std::uint64_t>(cq);
  return Completion{load_polled<Scope::kSystem>(words + 2ull * index + 1)};
}

// Gives entries before `head` back to the controller. No fence: the entries were read by loads whose values
// decided that this is called, and stores of one thread to one word keep their order.
//
// Does not read the entries, does not turn the phase over.
GCOS_DEVICE void ring_head(std::uint64_t doorbell, std::uint32_t head) {
  store_relaxed<Scope::kSystem>(at<std::uint32_t>(doorbell), head);
}

}  // namespace gcos
