// A controller that checks what kernels give it: it takes entries from a submission queue, follows their data
// pointers, moves the data and completes them, as a warp of a GPU or as a thread of the host. Memory is
// addressed by the same numbers on all sides. It can be told to misbehave.
#pragma once

#include "gcos/pair.h"
#include "gcos/platform.h"
#include "gcos/pointer.h"
#include "gcos/queue.h"

namespace gcos_test {

using gcos::at;
using gcos::Scope;

// How the controller misbehaves at the command number `fault_at`, counted from 0.
enum Fault : std::uint32_t {
  kNoFault,
  kDrop,        // no completion
  kUnknown,     // a completion names a slot in which nothing is
  kOutOfRange,  // a completion names a slot past the queue
  kRepeat,      // the command is completed twice
  kStatus,      // the command fails with status 0x281
  kAbort,       // the host raises the abort flag instead of a completion
};

// What the controller saw that no kernel may do.
enum Violation : std::uint32_t {
  kNone,
  kTailRange,
  kHeadRange,
  kReserved,
  kIdentifier,
  kNamespace,
  kOpcode,
  kBlocks,
  kPrpOffset,
  kSglType,
  kSglLength,
  kMemory,
  kTime,
};

constexpr std::uint32_t kFailedStatus = 0x281;
constexpr std::uint32_t kMostHeld = 16;

// The controller of one queue pair. The host fills it in; the counters at the end are the controller's.
struct Model {
  std::uint64_t sq;
  std::uint64_t cq;
  std::uint64_t sq_doorbell;
  std::uint64_t cq_doorbell;
  std::uint64_t medium;
  std::uint64_t memory;        // what may be touched: `memory_bytes` from here on
  std::uint64_t memory_bytes;
  std::uint64_t abort;
  std::uint64_t done;          // Batch.done: the controller ends when it has come to `done_at`
  std::uint64_t budget_ns;
  std::uint32_t done_at;
  std::uint32_t entries;
  std::uint32_t nsid;
  std::uint32_t lba_shift;
  std::uint32_t medium_blocks;
  std::uint32_t fault;
  std::uint32_t fault_at;
  std::uint32_t hold;          // completes the youngest of so many commands first
  std::uint32_t fetched;
  std::uint32_t completed;
  std::uint32_t violation;
  std::uint32_t sq_head;
  std::uint32_t cq_tail;
  std::uint32_t phase;
};

// One run of the controller, by `Lanes` threads that all do the same and share out the copying.
template <std::uint32_t Lanes>
class Server {
 public:
  GCOS_DEVICE explicit Server(Model& model) : m_(model), state_(model) {
    rung_head_ = gcos::load_acquire<Scope::kSystem>(at<const std::uint32_t>(model.cq_doorbell));
  }

  GCOS_DEVICE void run() {
    const std::uint64_t start = gcos::now_ns();
    for (std::uint32_t turn = 0; !over(); ++turn) {
      const std::uint32_t tail =
          gcos::load_acquire<Scope::kSystem>(at<const std::uint32_t>(state_.sq_doorbell));
      if (tail >= state_.entries) complain(kTailRange);
      if (state_.violation != kNone) break;
      if (tail == state_.sq_head) {
        while (held_count_ != 0) complete_one();
        gcos::pause(turn);
        if (gcos::now_ns() - start > state_.budget_ns) complain(kTime);
        continue;
      }
      turn = 0;
      take();
      if (held_count_ > state_.hold) complete_one();
    }
    together();
    if (lane() == 0) m_ = state_;
  }

 private:
  GCOS_DEVICE static std::uint32_t lane() {
    if constexpr (Lanes == 1) {
      return 0;
    } else {
      return gcos::lane_index();
    }
  }
  GCOS_DEVICE static void together() {
    if constexpr (Lanes != 1) gcos::sync_warp();
  }

  GCOS_DEVICE bool over() const {
    return gcos::load_acquire<Scope::kSystem>(at<const std::uint32_t>(state_.done)) >= state_.done_at;
  }

  GCOS_DEVICE void complain(std::uint32_t violation) {
    if (state_.violation == kNone) state_.violation = violation;
  }

  // Takes the entry at the head, moves its data, and holds its completion.
  GCOS_DEVICE void take() {
    const std::uint32_t slot = state_.sq_head;
    std::uint32_t entry[16];
    const std::uint32_t* from = at<const std::uint32_t>(state_.sq) + 16ull * slot;
    for (std::uint32_t i = 0; i < 16; ++i) entry[i] = from[i];
    state_.sq_head = gcos::wrapped(slot + 1, state_.entries);
    if ((entry[2] | entry[3] | entry[4] | entry[5] | entry[13] | entry[14] | entry[15]) != 0) {
      complain(kReserved);
    }
    if (entry[0] >> 16 != slot) complain(kIdentifier);
    if (entry[1] != state_.nsid) complain(kNamespace);
    for (std::uint32_t i = 0; i < held_count_; ++i) {
      if (held_[i] == slot) complain(kIdentifier);
    }
    move(entry);
    held_[held_count_++] = slot;
    state_.fetched += 1;
  }

  GCOS_DEVICE static std::uint64_t wide(const std::uint32_t* words) {
    return words[0] | static_cast<std::uint64_t>(words[1]) << 32;
  }

  GCOS_DEVICE void move(const std::uint32_t* entry) {
    const std::uint32_t opcode = entry[0] & 0xff;
    const std::uint64_t lba = wide(entry + 10);
    const std::uint32_t blocks = (entry[12] & 0xffff) + 1;
    if (opcode != gcos::kOpcodeRead && opcode != gcos::kOpcodeWrite) return complain(kOpcode);
    if (lba + blocks > state_.medium_blocks) return complain(kBlocks);
    writes_ = opcode == gcos::kOpcodeWrite;
    place_ = state_.medium + (lba << state_.lba_shift);
    left_ = static_cast<std::uint64_t>(blocks) << state_.lba_shift;
    if ((entry[0] & (3u << 14)) != 0) {
      follow_sgl(wide(entry + 6), wide(entry + 8));
    } else {
      follow_prp(wide(entry + 6), wide(entry + 8));
    }
    if (left_ != 0) complain(kSglLength);
  }

  GCOS_DEVICE void follow_prp(std::uint64_t first, std::uint64_t second) {
    const std::uint64_t in_page = gcos::kPageBytes - (first & gcos::kPageMask);
    copy(first, in_page);
    if (left_ == 0) return;
    if ((second & gcos::kPageMask) != 0) return complain(kPrpOffset);
    if (left_ <= gcos::kPageBytes) return copy(second, left_);
    std::uint32_t index = 0;
    while (left_ != 0 && state_.violation == kNone) {
      if (!inside(second, gcos::kPageBytes)) return complain(kMemory);
      const std::uint64_t entry = at<const std::uint64_t>(second)[index];
      if ((entry & gcos::kPageMask) != 0) return complain(kPrpOffset);
      if (index == gcos::kPrpChained && left_ > gcos::kPageBytes) {
        second = entry;
        index = 0;
        continue;
      }
      copy(entry, gcos::kPageBytes);
      index += 1;
    }
  }

  GCOS_DEVICE void follow_sgl(std::uint64_t address, std::uint64_t rest) {
    const std::uint32_t bytes = static_cast<std::uint32_t>(rest);
    const std::uint32_t type = static_cast<std::uint32_t>(rest >> 56);
    if (type == gcos::kSglDataBlock) return copy_exactly(address, bytes);
    if (type != gcos::kSglLastSegment || bytes % 16 != 0) return complain(kSglType);
    if (!inside(address, bytes)) return complain(kMemory);
    for (std::uint32_t i = 0; i < bytes / 16 && state_.violation == kNone; ++i) {
      const std::uint32_t* d = at<const std::uint32_t>(address) + 4 * i;
      if (d[3] != 0) return complain(kSglType);
      copy_exactly(wide(d), d[2]);
    }
  }

  GCOS_DEVICE bool inside(std::uint64_t address, std::uint64_t bytes) const {
    return address >= state_.memory && bytes <= state_.memory_bytes &&
           address - state_.memory <= state_.memory_bytes - bytes;
  }

  GCOS_DEVICE void copy_exactly(std::uint64_t address, std::uint64_t bytes) {
    if (bytes > left_) return complain(kSglLength);
    copy(address, bytes);
  }

  // Moves at most `bytes` between the memory at `address` and the medium.
  GCOS_DEVICE void copy(std::uint64_t address, std::uint64_t bytes) {
    if (bytes > left_) bytes = left_;
    if (!inside(address, bytes)) return complain(kMemory);
    std::uint32_t* memory = at<std::uint32_t>(address);
    std::uint32_t* medium = at<std::uint32_t>(place_);
    for (std::uint64_t i = lane(); i < bytes / 4; i += Lanes) {
      if (writes_) {
        medium[i] = memory[i];
      } else {
        memory[i] = medium[i];
      }
    }
    place_ += bytes;
    left_ -= bytes;
  }

  // Completes the youngest command held, in the way that the fault says.
  GCOS_DEVICE void complete_one() {
    const std::uint32_t slot = held_[--held_count_];
    const bool now = state_.fault != kNoFault && state_.completed == state_.fault_at;
    const std::uint32_t fault = now ? state_.fault : kNoFault;
    state_.completed += 1;
    if (fault == kDrop) return;
    if (fault == kAbort) {
      if (lane() == 0) gcos::store_release<Scope::kSystem>(at<std::uint32_t>(state_.abort), 1u);
      return;
    }
    std::uint32_t name = slot;
    // The slot at the tail is the one that is empty even when the queue is full.
    if (fault == kUnknown) {
      name = gcos::load_acquire<Scope::kSystem>(at<const std::uint32_t>(state_.sq_doorbell));
    }
    if (fault == kOutOfRange) name = state_.entries;
    post(name, fault == kStatus ? kFailedStatus : 0);
    if (fault == kRepeat) post(slot, 0);
  }

  GCOS_DEVICE void post(std::uint32_t slot, std::uint32_t status) {
    const std::uint32_t next = gcos::wrapped(state_.cq_tail + 1, state_.entries);
    while (rung_head_ == next || rung_head_ >= state_.entries) {
      if (over()) return;
      rung_head_ = gcos::load_acquire<Scope::kSystem>(at<const std::uint32_t>(state_.cq_doorbell));
      if (rung_head_ >= state_.entries) return complain(kHeadRange);
      gcos::pause(1);
    }
    together();
    if (lane() == 0) {
      std::uint64_t* entry = at<std::uint64_t>(state_.cq) + 2ull * state_.cq_tail;
      gcos::store_relaxed<Scope::kSystem>(entry, std::uint64_t{0});
      const std::uint64_t word = state_.sq_head | (static_cast<std::uint64_t>(slot) << 32) |
                                 (static_cast<std::uint64_t>(state_.phase) << 48) |
                                 (static_cast<std::uint64_t>(status) << 49);
      gcos::store_release<Scope::kSystem>(entry + 1, word);
    }
    state_.cq_tail = next;
    if (next == 0) state_.phase ^= 1;
  }

  Model& m_;
  Model state_;
  std::uint32_t held_[kMostHeld + 1];
  std::uint32_t held_count_ = 0;
  std::uint32_t rung_head_ = 0;
  bool writes_ = false;
  std::uint64_t place_ = 0;
  std::uint64_t left_ = 0;
};

}  // namespace gcos_test
