// Records that the host and the kernels share.
// Written by `cargo run -p gcos-layout --example kernel_header`: change crates/layout/src/gpu.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gcos {

// Compared with the host's when the kernels are loaded.
constexpr std::uint64_t kLayoutHash = 0x0f064dd1695e5024ull;

// Bytes of a submission queue entry.
constexpr std::uint32_t kSqeBytes = 0x40u;
// Bytes of a completion queue entry.
constexpr std::uint32_t kCqeBytes = 0x10u;
// Bytes of a memory page of the controller.
constexpr std::uint32_t kPageBytes = 0x1000u;
// The status word is final.
constexpr std::uint32_t kOutcomeDone = 0x80000000u;
// Where the kind is.
constexpr std::uint32_t kOutcomeKindShift = 0x1cu;
// The controller completed it.
constexpr std::uint32_t kCompleted = 0x0u;
// No completion within the budget.
constexpr std::uint32_t kTimedOut = 0x1u;
// The host raised the abort flag.
constexpr std::uint32_t kAborted = 0x2u;
// The queue's completions made no sense.
constexpr std::uint32_t kBadCompletion = 0x3u;
// Never submitted.
constexpr std::uint32_t kNotStarted = 0x4u;
// A descriptor without sense.
constexpr std::uint32_t kBadCommand = 0x5u;
// The controller takes SGLs.
constexpr std::uint32_t kQueueSgl = 0x1u;
// Force Unit Access.
constexpr std::uint32_t kCommandFua = 0x1u;

// A queue pair that kernels drive, in device memory. The host fills it in when the pair is made; the
// fields from `sq_tail` on belong to the kernels from then on.
struct QueuePair {
  // Device address of the submission queue, entries of 64 bytes.
  std::uint64_t sq;
  // Device address of the completion queue, entries of 16 bytes.
  std::uint64_t cq;
  // Device address of the word to ring: submission queue tail.
  std::uint64_t sq_doorbell;
  // Device address of the word to ring: completion queue head.
  std::uint64_t cq_doorbell;
  // Device address of the list pages: `list_pages` of 4 KiB for each submission queue slot.
  std::uint64_t lists;
  // I/O virtual address of the same.
  std::uint64_t lists_iova;
  // Device address of the commands in flight: one word for each slot, kept by the kernels.
  std::uint64_t slots;
  // Entries of each queue.
  std::uint32_t entries;
  // List pages of each slot.
  std::uint32_t list_pages;
  // Namespace of the commands.
  std::uint32_t nsid;
  // Base-2 logarithm of the bytes of a logical block.
  std::uint32_t lba_shift;
  // Bits: SGLs are taken.
  std::uint32_t flags;
  // Most bytes of one command.
  std::uint32_t max_transfer;
  // Next submission queue slot to fill.
  std::uint32_t sq_tail;
  // Next completion queue entry to read.
  std::uint32_t cq_head;
  // Phase tag of new completion entries: 1 after the queue was made.
  std::uint32_t phase;
  // Not 0: the pair is out of use until the host has made it anew; the kind of the outcome that
  // broke it.
  std::uint32_t broken;
};
static_assert(offsetof(QueuePair, sq) == 0, "the host puts QueuePair.sq there");
static_assert(offsetof(QueuePair, cq) == 8, "the host puts QueuePair.cq there");
static_assert(offsetof(QueuePair, sq_doorbell) == 16, "the host puts QueuePair.sq_doorbell there");
static_assert(offsetof(QueuePair, cq_doorbell) == 24, "the host puts QueuePair.cq_doorbell there");
static_assert(offsetof(QueuePair, lists) == 32, "the host puts QueuePair.lists there");
static_assert(offsetof(QueuePair, lists_iova) == 40, "the host puts QueuePair.lists_iova there");
static_assert(offsetof(QueuePair, slots) == 48, "the host puts QueuePair.slots there");
static_assert(offsetof(QueuePair, entries) == 56, "the host puts QueuePair.entries there");
static_assert(offsetof(QueuePair, list_pages) == 60, "the host puts QueuePair.list_pages there");
static_assert(offsetof(QueuePair, nsid) == 64, "the host puts QueuePair.nsid there");
static_assert(offsetof(QueuePair, lba_shift) == 68, "the host puts QueuePair.lba_shift there");
static_assert(offsetof(QueuePair, flags) == 72, "the host puts QueuePair.flags there");
static_assert(offsetof(QueuePair, max_transfer) == 76, "the host puts QueuePair.max_transfer there");
static_assert(offsetof(QueuePair, sq_tail) == 80, "the host puts QueuePair.sq_tail there");
static_assert(offsetof(QueuePair, cq_head) == 84, "the host puts QueuePair.cq_head there");
static_assert(offsetof(QueuePair, phase) == 88, "the host puts QueuePair.phase there");
static_assert(offsetof(QueuePair, broken) == 92, "the host puts QueuePair.broken there");
static_assert(sizeof(QueuePair) == 96, "the host takes QueuePair to be so long");

// One NVMe command to be.
struct Command {
  // First logical block.
  std::uint64_t lba;
  // Without segments, the I/O virtual address of the data; with segments, the index of the first.
  std::uint64_t data;
  // Bytes to transfer, a multiple of the logical block.
  std::uint32_t bytes;
  // Number of segments of the batch's list that make up the data; 0 when the data is one run.
  std::uint32_t segments;
  // NVM opcode: 01h write, 02h read.
  std::uint32_t opcode;
  // Bits: Force Unit Access.
  std::uint32_t flags;
};
static_assert(offsetof(Command, lba) == 0, "the host puts Command.lba there");
static_assert(offsetof(Command, data) == 8, "the host puts Command.data there");
static_assert(offsetof(Command, bytes) == 16, "the host puts Command.bytes there");
static_assert(offsetof(Command, segments) == 20, "the host puts Command.segments there");
static_assert(offsetof(Command, opcode) == 24, "the host puts Command.opcode there");
static_assert(offsetof(Command, flags) == 28, "the host puts Command.flags there");
static_assert(sizeof(Command) == 32, "the host takes Command to be so long");

// A run of memory that the controller reaches.
struct Segment {
  // I/O virtual address.
  std::uint64_t iova;
  // Bytes.
  std::uint64_t bytes;
};
static_assert(offsetof(Segment, iova) == 0, "the host puts Segment.iova there");
static_assert(offsetof(Segment, bytes) == 8, "the host puts Segment.bytes there");
static_assert(sizeof(Segment) == 16, "the host takes Segment to be so long");

// The part of a batch that one block of threads carries out on a queue pair of its own.
struct Share {
  // Device address of the queue pair.
  std::uint64_t queue_pair;
  // Index of the first command.
  std::uint32_t first;
  // Number of commands.
  std::uint32_t count;
};
static_assert(offsetof(Share, queue_pair) == 0, "the host puts Share.queue_pair there");
static_assert(offsetof(Share, first) == 8, "the host puts Share.first there");
static_assert(offsetof(Share, count) == 12, "the host puts Share.count there");
static_assert(sizeof(Share) == 16, "the host takes Share to be so long");

// Parameter of the kernel `gcos_io`: commands for several queue pairs.
struct Batch {
  // Device address of the shares, one for each block of threads.
  std::uint64_t shares;
  // Device address of the commands.
  std::uint64_t commands;
  // Device address of the segments.
  std::uint64_t segments;
  // Device address of the status words, one for each command, 0 at the start.
  std::uint64_t statuses;
  // Device address of a word; not 0 means: give up.
  std::uint64_t abort;
  // Device address of a counter: shares whose status words are all final.
  std::uint64_t done;
  // Nanoseconds from the start of the kernel after which it gives up.
  std::uint64_t budget_ns;
  // Number of shares.
  std::uint32_t share_count;
  // Number of commands.
  std::uint32_t command_count;
};
static_assert(offsetof(Batch, shares) == 0, "the host puts Batch.shares there");
static_assert(offsetof(Batch, commands) == 8, "the host puts Batch.commands there");
static_assert(offsetof(Batch, segments) == 16, "the host puts Batch.segments there");
static_assert(offsetof(Batch, statuses) == 24, "the host puts Batch.statuses there");
static_assert(offsetof(Batch, abort) == 32, "the host puts Batch.abort there");
static_assert(offsetof(Batch, done) == 40, "the host puts Batch.done there");
static_assert(offsetof(Batch, budget_ns) == 48, "the host puts Batch.budget_ns there");
static_assert(offsetof(Batch, share_count) == 56, "the host puts Batch.share_count there");
static_assert(offsetof(Batch, command_count) == 60, "the host puts Batch.command_count there");
static_assert(sizeof(Batch) == 64, "the host takes Batch to be so long");

}  // namespace gcos
