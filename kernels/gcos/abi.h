// Records that the host and the kernels share.
// Written by `cargo run -p gcos-layout --example kernel_header`: change crates/layout/src/gpu.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gcos {

// Compared with the host's when the kernels are loaded.
constexpr std::uint64_t kLayoutHash = 0xd6c314dfb6c52c73ull;

// Bytes of a submission queue entry.
constexpr std::uint32_t kSqeBytes = 0x40u;
// Bytes of a completion queue entry.
constexpr std::uint32_t kCqeBytes = 0x10u;
// Bytes of a memory page of the controller.
constexpr std::uint32_t kPageBytes = 0x1000u;
// Most entries of a queue that kernels drive.
constexpr std::uint32_t kMaxQueueEntries = 0x1000u;
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
// From the object to the cache.
constexpr std::uint32_t kPagedScatter = 0x1u;
// The table holds a slot for each token.
constexpr std::uint32_t kPagedSlots = 0x2u;

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
  // Device address of the state of `gcos_io_shared`: [`ticket_bytes`] of zeros when the pair is made,
  // aligned to 128 bytes, kept by the kernels. 0 for a pair that only `gcos_io` uses.
  std::uint64_t tickets;
  // Entries of each queue: 2 to [`super::MAX_QUEUE_ENTRIES`].
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
static_assert(offsetof(QueuePair, tickets) == 48, "the host puts QueuePair.tickets there");
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
  // Device address of the commands, aligned to 16 bytes.
  std::uint64_t commands;
  // Device address of the segments.
  std::uint64_t segments;
  // Device address of the status words of 32 bits, one for each command, 0 at the start.
  std::uint64_t statuses;
  // Device address of a word of 32 bits; not 0 means: give up.
  std::uint64_t abort;
  // Device address of a counter of 32 bits: shares whose status words are all final.
  std::uint64_t done;
  // Nanoseconds from the start of the kernel after which it gives up.
  std::uint64_t budget_ns;
  // Number of shares.
  std::uint32_t share_count;
  // Number of commands.
  std::uint32_t command_count;
  // Number of segments.
  std::uint32_t segment_count;
  // 0.
  std::uint32_t reserved;
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
static_assert(offsetof(Batch, segment_count) == 64, "the host puts Batch.segment_count there");
static_assert(offsetof(Batch, reserved) == 68, "the host puts Batch.reserved there");
static_assert(sizeof(Batch) == 72, "the host takes Batch to be so long");

// Parameter of the kernel `gcos_round_trip`, of which one thread works: rings, waits for the answer, and
// does so again.
struct RoundTrip {
  // Device address of a queue pair, which nobody else drives: an entry is posted, and answered by a
  // completion. 0: a bare word is stored and answered by a word.
  std::uint64_t queue_pair;
  // Without a queue pair: device address of the word of 32 bits that is rung. Rings are 1, 2, 3 and so
  // on.
  std::uint64_t bell;
  // Without a queue pair: device address of the word of 32 bits that answers with what was rung.
  std::uint64_t answer;
  // Device address of a word of 32 bits for each round: nanoseconds.
  std::uint64_t times;
  // Device address of a word of 32 bits; not 0 means: give up.
  std::uint64_t abort;
  // Nanoseconds from the start of the kernel after which it gives up.
  std::uint64_t budget_ns;
  // Device address of a word of 32 bits: rounds that ended well, stored at the end.
  std::uint64_t ended;
  // PRP entry 1 of the commands; 0 where they have no data.
  std::uint64_t data;
  // Dword 0 of the commands without the identifier: the opcode.
  std::uint32_t opcode;
  // Rounds.
  std::uint32_t rounds;
};
static_assert(offsetof(RoundTrip, queue_pair) == 0, "the host puts RoundTrip.queue_pair there");
static_assert(offsetof(RoundTrip, bell) == 8, "the host puts RoundTrip.bell there");
static_assert(offsetof(RoundTrip, answer) == 16, "the host puts RoundTrip.answer there");
static_assert(offsetof(RoundTrip, times) == 24, "the host puts RoundTrip.times there");
static_assert(offsetof(RoundTrip, abort) == 32, "the host puts RoundTrip.abort there");
static_assert(offsetof(RoundTrip, budget_ns) == 40, "the host puts RoundTrip.budget_ns there");
static_assert(offsetof(RoundTrip, ended) == 48, "the host puts RoundTrip.ended there");
static_assert(offsetof(RoundTrip, data) == 56, "the host puts RoundTrip.data there");
static_assert(offsetof(RoundTrip, opcode) == 64, "the host puts RoundTrip.opcode there");
static_assert(offsetof(RoundTrip, rounds) == 68, "the host puts RoundTrip.rounds there");
static_assert(sizeof(RoundTrip) == 72, "the host takes RoundTrip to be so long");

// A run of bytes of a grain.
struct GrainRun {
  // Device address.
  std::uint64_t address;
  // Offset of its first byte within the grain: the sum of the lengths of the runs before it.
  std::uint32_t offset;
  // Bytes, not 0.
  std::uint32_t bytes;
};
static_assert(offsetof(GrainRun, address) == 0, "the host puts GrainRun.address there");
static_assert(offsetof(GrainRun, offset) == 8, "the host puts GrainRun.offset there");
static_assert(offsetof(GrainRun, bytes) == 12, "the host puts GrainRun.bytes there");
static_assert(sizeof(GrainRun) == 16, "the host takes GrainRun to be so long");

// A sequence of bytes with a checksum of its own: the concatenation of its runs.
struct Grain {
  // Index of its first run.
  std::uint32_t first_run;
  // Number of runs, not 0.
  std::uint32_t run_count;
  // Bytes: the sum of the lengths of its runs, less than 2^31.
  std::uint32_t bytes;
  // Added (exclusive or) to the remainder: the CRC-32C of as many zeros makes the sum the CRC-32C
  // of the grain, and 0 leaves the bare remainder.
  std::uint32_t seed;
};
static_assert(offsetof(Grain, first_run) == 0, "the host puts Grain.first_run there");
static_assert(offsetof(Grain, run_count) == 4, "the host puts Grain.run_count there");
static_assert(offsetof(Grain, bytes) == 8, "the host puts Grain.bytes there");
static_assert(offsetof(Grain, seed) == 12, "the host puts Grain.seed there");
static_assert(sizeof(Grain) == 16, "the host takes Grain to be so long");

// Parameter of the kernel `gcos_checksum`: one block of threads computes one grain at a time.
struct ChecksumBatch {
  // Device address of the runs.
  std::uint64_t runs;
  // Device address of the grains.
  std::uint64_t grains;
  // Device address of the sums, a word of 32 bits for each grain.
  std::uint64_t sums;
  // Number of grains.
  std::uint32_t grain_count;
  // 0.
  std::uint32_t reserved;
};
static_assert(offsetof(ChecksumBatch, runs) == 0, "the host puts ChecksumBatch.runs there");
static_assert(offsetof(ChecksumBatch, grains) == 8, "the host puts ChecksumBatch.grains there");
static_assert(offsetof(ChecksumBatch, sums) == 16, "the host puts ChecksumBatch.sums there");
static_assert(offsetof(ChecksumBatch, grain_count) == 24, "the host puts ChecksumBatch.grain_count there");
static_assert(offsetof(ChecksumBatch, reserved) == 28, "the host puts ChecksumBatch.reserved there");
static_assert(sizeof(ChecksumBatch) == 32, "the host takes ChecksumBatch to be so long");

// Bytes to copy. The ranges of a batch's sources and targets do not overlap.
struct CopyRun {
  // Device address to copy from.
  std::uint64_t source;
  // Device address to copy to.
  std::uint64_t target;
  // Bytes, not 0.
  std::uint64_t bytes;
};
static_assert(offsetof(CopyRun, source) == 0, "the host puts CopyRun.source there");
static_assert(offsetof(CopyRun, target) == 8, "the host puts CopyRun.target there");
static_assert(offsetof(CopyRun, bytes) == 16, "the host puts CopyRun.bytes there");
static_assert(sizeof(CopyRun) == 24, "the host takes CopyRun to be so long");

// Parameter of the kernel `gcos_copy`: one warp copies one run at a time.
struct CopyBatch {
  // Device address of the runs.
  std::uint64_t runs;
  // Number of runs.
  std::uint32_t run_count;
  // 0.
  std::uint32_t reserved;
};
static_assert(offsetof(CopyBatch, runs) == 0, "the host puts CopyBatch.runs there");
static_assert(offsetof(CopyBatch, run_count) == 8, "the host puts CopyBatch.run_count there");
static_assert(offsetof(CopyBatch, reserved) == 12, "the host puts CopyBatch.reserved there");
static_assert(sizeof(CopyBatch) == 16, "the host takes CopyBatch to be so long");

// Parameter of the kernel `gcos_paged_copy`: tokens between one contiguous object and the pages of a
// cache. Byte `b` of part `q` of plane `p` (keys, values) of layer `l` of token `t` lies in the object
// at `object + l object_layer_stride + p object_plane_stride + q object_part_stride +
// t object_token_stride + b`, and in the cache, when the token has slot `s` of block `k`, at
// `layers[l] + p page_plane_stride + q page_part_stride + k page_block_stride +
// s page_token_stride + b`.
struct PagedBatch {
  // Device address of the layers' device addresses, a word of 64 bits each.
  std::uint64_t layers;
  // Device address of the table: the blocks, a word of 32 bits each, that hold the tokens from
  // `first_slot` of the first one on; or the slots, a signed word of 64 bits for each token.
  std::uint64_t table;
  // Device address of the object.
  std::uint64_t object;
  // Device address of a word of 32 bits: 1 once tokens were left out, since the table names a block
  // that does not exist for them.
  std::uint64_t refused;
  // Bytes from one layer to the next in the object.
  std::uint64_t object_layer_stride;
  // Bytes from keys to values in the object.
  std::uint64_t object_plane_stride;
  // Bytes from one part of a token to the next in the object.
  std::uint64_t object_part_stride;
  // Bytes from one token to the next in the object.
  std::uint64_t object_token_stride;
  // Bytes from keys to values in a layer of the cache.
  std::uint64_t page_plane_stride;
  // Bytes from one part of a token to the next in the cache.
  std::uint64_t page_part_stride;
  // Bytes from one block to the next in a layer of the cache.
  std::uint64_t page_block_stride;
  // Bytes from one token to the next in a block.
  std::uint64_t page_token_stride;
  // Number of layers.
  std::uint32_t layer_count;
  // Planes of each layer: 2 for keys and values, 1 where they are one.
  std::uint32_t plane_count;
  // Parts of each token that lie apart, such as heads; 1 where a token is one piece.
  std::uint32_t part_count;
  // Bytes of one part of one token.
  std::uint32_t part_bytes;
  // Number of tokens.
  std::uint32_t tokens;
  // Tokens of a block.
  std::uint32_t block_tokens;
  // Blocks that exist in each layer.
  std::uint32_t block_count;
  // Slot of the first token in its block, when the table holds blocks.
  std::uint32_t first_slot;
  // Most tokens that one block of threads copies at a time.
  std::uint32_t tile_tokens;
  // Bytes moved at once: 1, 2, 4, 8 or 16; every address, stride and length is a multiple of it.
  std::uint32_t width;
  // Bits: towards the cache; the table holds slots.
  std::uint32_t flags;
  // 0.
  std::uint32_t reserved;
};
static_assert(offsetof(PagedBatch, layers) == 0, "the host puts PagedBatch.layers there");
static_assert(offsetof(PagedBatch, table) == 8, "the host puts PagedBatch.table there");
static_assert(offsetof(PagedBatch, object) == 16, "the host puts PagedBatch.object there");
static_assert(offsetof(PagedBatch, refused) == 24, "the host puts PagedBatch.refused there");
static_assert(offsetof(PagedBatch, object_layer_stride) == 32, "the host puts PagedBatch.object_layer_stride there");
static_assert(offsetof(PagedBatch, object_plane_stride) == 40, "the host puts PagedBatch.object_plane_stride there");
static_assert(offsetof(PagedBatch, object_part_stride) == 48, "the host puts PagedBatch.object_part_stride there");
static_assert(offsetof(PagedBatch, object_token_stride) == 56, "the host puts PagedBatch.object_token_stride there");
static_assert(offsetof(PagedBatch, page_plane_stride) == 64, "the host puts PagedBatch.page_plane_stride there");
static_assert(offsetof(PagedBatch, page_part_stride) == 72, "the host puts PagedBatch.page_part_stride there");
static_assert(offsetof(PagedBatch, page_block_stride) == 80, "the host puts PagedBatch.page_block_stride there");
static_assert(offsetof(PagedBatch, page_token_stride) == 88, "the host puts PagedBatch.page_token_stride there");
static_assert(offsetof(PagedBatch, layer_count) == 96, "the host puts PagedBatch.layer_count there");
static_assert(offsetof(PagedBatch, plane_count) == 100, "the host puts PagedBatch.plane_count there");
static_assert(offsetof(PagedBatch, part_count) == 104, "the host puts PagedBatch.part_count there");
static_assert(offsetof(PagedBatch, part_bytes) == 108, "the host puts PagedBatch.part_bytes there");
static_assert(offsetof(PagedBatch, tokens) == 112, "the host puts PagedBatch.tokens there");
static_assert(offsetof(PagedBatch, block_tokens) == 116, "the host puts PagedBatch.block_tokens there");
static_assert(offsetof(PagedBatch, block_count) == 120, "the host puts PagedBatch.block_count there");
static_assert(offsetof(PagedBatch, first_slot) == 124, "the host puts PagedBatch.first_slot there");
static_assert(offsetof(PagedBatch, tile_tokens) == 128, "the host puts PagedBatch.tile_tokens there");
static_assert(offsetof(PagedBatch, width) == 132, "the host puts PagedBatch.width there");
static_assert(offsetof(PagedBatch, flags) == 136, "the host puts PagedBatch.flags there");
static_assert(offsetof(PagedBatch, reserved) == 140, "the host puts PagedBatch.reserved there");
static_assert(sizeof(PagedBatch) == 144, "the host takes PagedBatch to be so long");

}  // namespace gcos
