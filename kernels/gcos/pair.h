// What kernels need of a queue pair, and commands made into entries.
#pragma once

#include "gcos/abi.h"
#include "gcos/platform.h"
#include "gcos/pointer.h"
#include "gcos/queue.h"

namespace gcos {

// NVM opcodes that kernels give to a controller.
constexpr std::uint32_t kOpcodeWrite = 0x01;
constexpr std::uint32_t kOpcodeRead = 0x02;
// Most logical blocks of one command: the field NLB has 16 bits, 0's based.
constexpr std::uint32_t kMaxBlocks = 1u << 16;

// The part of a pair that does not change while it is driven.
struct Pair {
  std::uint64_t sq;
  std::uint64_t cq;
  std::uint64_t sq_doorbell;
  std::uint64_t cq_doorbell;
  ListMemory memory;
  std::uint32_t entries;
  std::uint32_t nsid;
  std::uint32_t lba_shift;
  std::uint32_t max_transfer;
};

GCOS_DEVICE Pair pair_of(const QueuePair& from) {
  return Pair{from.sq,
              from.cq,
              from.sq_doorbell,
              from.cq_doorbell,
              ListMemory{from.lists, from.lists_iova, from.list_pages, (from.flags & kQueueSgl) != 0},
              from.entries,
              from.nsid,
              from.lba_shift,
              from.max_transfer};
}

// Whether kernels can drive queues of this length.
GCOS_DEVICE bool drivable(const Pair& pair) {
  return pair.entries >= 2 && pair.entries <= kMaxQueueEntries && pair.lba_shift < 32;
}

// One command of the batch, by two loads of 16 bytes.
GCOS_DEVICE Command load_command(const Batch& batch, std::uint32_t index) {
  const Chunk* from = at<const Chunk>(batch.commands) + 2ull * index;
  const Chunk a = load_chunk(from);
  const Chunk b = load_chunk(from + 1);
  return Command{a.words[0] | static_cast<std::uint64_t>(a.words[1]) << 32,
                 a.words[2] | static_cast<std::uint64_t>(a.words[3]) << 32,
                 b.words[0],
                 b.words[1],
                 b.words[2],
                 b.words[3]};
}

// Whether the lengths and the opcode of a command make sense on this pair; its pointer is plan_pointer's.
GCOS_DEVICE bool sound(const Pair& pair, const Command& command) {
  const std::uint32_t blocks = command.bytes >> pair.lba_shift;
  return (command.opcode == kOpcodeRead || command.opcode == kOpcodeWrite) && command.bytes != 0 &&
         command.bytes <= pair.max_transfer && (blocks << pair.lba_shift) == command.bytes &&
         blocks <= kMaxBlocks;
}

// The plan of this lane's command if `active`; a command without sense is kBad. Called by all lanes.
GCOS_DEVICE Plan plan_command(bool active, const Command& command, const Batch& batch,
                              const Pair& pair) {
  const bool good = active && sound(pair, command);
  Plan plan = plan_pointer(good, command, at<const Segment>(batch.segments), batch.segment_count,
                           pair.memory);
  if (active && !good) plan.kind = PointerKind::kBad;
  return plan;
}

// The entry of a command in `slot`, which is its identifier too.
GCOS_DEVICE Entry entry_of(const Pair& pair, const Command& command, const Pointer& pointer,
                           std::uint32_t slot) {
  const std::uint32_t blocks = command.bytes >> pair.lba_shift;
  return Entry{command.opcode | (pointer.sgl ? kEntrySgl : 0) | (slot << 16),
               pair.nsid,
               pointer.first,
               pointer.second,
               command.lba,
               (blocks - 1) | ((command.flags & kCommandFua) != 0 ? kEntryFua : 0)};
}

// Watches commands; what measures gives one of its own. This one costs nothing.
struct NoProbe {
  GCOS_DEVICE void posted(std::uint32_t) const {}
  GCOS_DEVICE void ended(std::uint32_t) const {}
};

}  // namespace gcos
