// A queue pair that many warps use at once, of one kernel or of several.
//
// Posting: a warp takes tickets for its commands by one atomic; a ticket is a place in the endless sequence
// of submission queue slots. Warps fill their slots in any order. The right to ring is a baton that stands
// where the entries written without a gap end: whoever closes the gap there takes it, goes on over what others
// have written beyond, rings once, and leaves it at the next gap. At each gap two meet, the baton's holder
// and the writer of the range that begins there; the second to come goes on.
//
// Reaping: there is no consumer by office. A warp that waits reads up to 32 completion entries from the head on,
// and owns them if it is the one that moves the head past them, by one compare-and-swap; nothing is locked
// while it ends their commands. A slot's word has the address of its command's status word, and says by its
// epoch whether a command has ended, so that the owner of a command need not take part in its end.
//
// A command ends exactly once: whoever sets kClaimed in its slot's word writes its status word.
//
// A pair is used in this way for its whole life, or by gcos_io for its whole life.
#pragma once

#include "gcos/abi.h"
#include "gcos/outcome.h"
#include "gcos/pair.h"
#include "gcos/platform.h"
#include "gcos/pointer.h"
#include "gcos/queue.h"

namespace gcos {

// Turns of a wait after which a warp asks whether the pair is broken, and whether to go on.
constexpr std::uint32_t kBrokenTurns = 8;
constexpr std::uint32_t kLimitTurns = 64;
// Slot words: bit 63 claimed, bit 62 posted, bits 48 to 61 the epoch (how often the ring had gone round when
// the slot was last given out), bits 0 to 47 the address of the status word while posted.
constexpr std::uint64_t kClaimed = 1ull << 63;
constexpr std::uint64_t kPosted = 1ull << 62;
constexpr std::uint32_t kEpochShift = 48;
constexpr std::uint32_t kEpochBits = 14;
constexpr std::uint32_t kEpochMask = (1u << kEpochBits) - 1;
constexpr std::uint64_t kAddressMask = (1ull << kEpochShift) - 1;

// Boundary words: entries of the range that begins there, once they are written, and whether the baton is
// there.
constexpr std::uint32_t kBaton = 1u << 31;
constexpr std::uint32_t kRangeMask = 63;

// The head's word: bits 0 to 15 the index of the next completion entry, bit 16 whether the phase has turned
// from 1 to 0, the other bits a number that is new at each change.
constexpr std::uint64_t kTurnedPhase = 1ull << 16;
constexpr std::uint64_t kChange = 1ull << 17;

// What QueuePair.tickets points to; zeros when the pair is made.
struct TicketMemory {
  std::uint64_t* next;        // tickets given out
  std::uint64_t* head;        // of the completion queue
  std::uint32_t* bell;        // 1 while a warp rings the head
  std::uint64_t* slots;
  std::uint32_t* boundaries;
};

GCOS_DEVICE TicketMemory ticket_memory(std::uint64_t address, std::uint32_t entries) {
  const std::uint64_t slots = address + 256;
  return TicketMemory{at<std::uint64_t>(address), at<std::uint64_t>(address + 128),
                      at<std::uint32_t>(address + 192), at<std::uint64_t>(slots),
                      at<std::uint32_t>(slots + 8ull * entries)};
}

// A pair as one warp sees it.
struct Desk {
  Pair pair;
  TicketMemory tickets;
  std::uint32_t* broken;
  Limit limit;
};

// A lane's command in flight.
struct Flight {
  std::uint32_t command = 0;
  std::uint32_t slot = 0;
  std::uint32_t epoch = 0;
  std::uint64_t word = 0;  // of the slot while the command is in flight
  bool active = false;
};

namespace detail {

// Whether a slot has been free for `epoch`, or was given out in it or later.
GCOS_DEVICE bool reached(std::uint64_t word, std::uint32_t epoch) {
  const std::uint32_t ahead = (static_cast<std::uint32_t>(word >> kEpochShift) - epoch) & kEpochMask;
  return ahead >> (kEpochBits - 1) == 0;
}

GCOS_DEVICE void break_pair(const Desk& desk, std::uint32_t kind) {
  compare_exchange_acquire<Scope::kDevice>(desk.broken, kGoOn, kind);
}

// Ends the command that a completion names and frees its slot.
GCOS_DEVICE void land(const Desk& desk, Completion completion) {
  const std::uint32_t slot = completion.slot();
  if (slot >= desk.pair.entries) return break_pair(desk, kBadCompletion);
  std::uint64_t* word = desk.tickets.slots + slot;
  const std::uint64_t was = fetch_or_relaxed<Scope::kDevice>(word, kClaimed);
  if ((was & kPosted) == 0 || (was & kClaimed) != 0) return break_pair(desk, kBadCompletion);
  store_relaxed<Scope::kSystem>(at<std::uint32_t>(was & kAddressMask),
                                outcome(kCompleted, completion.status()));
  const std::uint64_t next = ((was >> kEpochShift) + 1) & kEpochMask;
  // The owner that sees this sees the status word and the data too.
  store_release<Scope::kDevice>(word, next << kEpochShift);
}

// Where the completion queue is being read.
struct Head {
  std::uint32_t index;
  std::uint32_t phase;
};

GCOS_DEVICE Head head_of(std::uint64_t word) {
  return Head{static_cast<std::uint32_t>(word) & 0xffffu, (word & kTurnedPhase) != 0 ? 0u : 1u};
}

GCOS_DEVICE std::uint64_t word_of(const Head& head, std::uint64_t before) {
  return ((before & ~(kChange - 1)) + kChange) | (head.phase == 0 ? kTurnedPhase : 0) | head.index;
}

GCOS_DEVICE Head advanced(Head head, std::uint32_t count, std::uint32_t entries) {
  head.phase ^= head.index + count >= entries ? 1u : 0u;
  head.index = wrapped(head.index + count, entries);
  return head;
}

// The head is rung when it passes a quarter of the queue, so that the doorbell costs little; the controller has
// room in the other three.
GCOS_DEVICE bool passes_quarter(const Head& from, const Head& to, std::uint32_t entries) {
  const std::uint32_t quarter = (entries + 3) / 4;
  const std::uint32_t ahead = wrapped(to.index + entries - from.index, entries);
  return ahead >= quarter || from.index / quarter != to.index / quarter;
}

// Rings where the head is now. One warp at a time does, so that the doorbell never goes back; a warp that
// comes while another does leaves it to that one, which looks again after it has made room. By one lane.
GCOS_DEVICE void ring_shared_head(const Desk& desk) {
  const std::uint32_t entries = desk.pair.entries;
  while (exchange_acq_rel<Scope::kDevice>(desk.tickets.bell, 1u) == 0) {
    const Head now = head_of(load_acquire<Scope::kDevice>(desk.tickets.head));
    ring_head(desk.pair.cq_doorbell, now.index);
    exchange_acq_rel<Scope::kDevice>(desk.tickets.bell, 0u);
    const Head then = head_of(load_acquire<Scope::kDevice>(desk.tickets.head));
    if (!passes_quarter(now, then, entries)) return;
  }
}

// Reads completion entries from the head on, which was `word`, and takes those that are new, if no other warp
// does. Called by all lanes; says whether it took something.
GCOS_DEVICE bool consume(const Desk& desk, std::uint64_t word) {
  const std::uint32_t entries = desk.pair.entries;
  const Head head = head_of(word);
  const bool looks = lane_index() < entries;
  const Head mine = advanced(head, looks ? lane_index() : 0, entries);
  const Completion completion = peek_completion(desk.pair.cq, mine.index);
  const std::uint32_t count = leading(ballot(looks && completion.phase() == mine.phase));
  if (count == 0) return false;
  const Head next = advanced(head, count, entries);
  // If the head is still where it was, what was read is still so, and now this warp's.
  bool taken = false;
  if (lane_index() == 0) {
    taken = compare_exchange_acquire<Scope::kDevice>(desk.tickets.head, word, word_of(next, word));
  }
  if (!any(taken)) return false;
  if (lane_index() < count) land(desk, completion);
  if (lane_index() == 0 && passes_quarter(head, next, entries)) ring_shared_head(desk);
  return true;
}

// Waits until `ready()` says so in every lane, and meanwhile takes completions. Called by all lanes.
// kGoOn, or why the warp gives up.
template <class Ready>
GCOS_DEVICE std::uint32_t await(const Desk& desk, const Ready& ready) {
  for (std::uint32_t turn = 0;; ++turn) {
    const std::uint64_t word = load_relaxed<Scope::kDevice>(desk.tickets.head);
    if (all(ready())) return kGoOn;
    if (!consume(desk, shuffle_wide(word, 0))) pause(turn);
    if (turn % kBrokenTurns != 0) continue;
    std::uint32_t verdict = kGoOn;
    if (lane_index() == 0) {
      verdict = load_relaxed<Scope::kDevice>(desk.broken);
      if (verdict == kGoOn && turn % kLimitTurns == kLimitTurns - kBrokenTurns) {
        verdict = desk.limit.check();
      }
    }
    verdict = shuffle(verdict, 0);
    if (verdict != kGoOn) return verdict;
  }
}

// Tells the others that the range of `count` entries at `slot` is written, and rings if that closes the
// gap. `first` says that this is the first range ever, where the baton lies from the beginning. By one lane.
GCOS_DEVICE void hand_in(const Desk& desk, std::uint32_t slot, std::uint32_t count, bool first) {
  std::uint32_t* boundaries = desk.tickets.boundaries;
  const std::uint32_t found = fetch_or_acq_rel<Scope::kDevice>(boundaries + slot, count);
  if (!first && (found & kBaton) == 0) return;
  for (;;) {
    store_relaxed<Scope::kDevice>(boundaries + slot, 0u);
    slot = wrapped(slot + count, desk.pair.entries);
    count = load_acquire<Scope::kDevice>(boundaries + slot) & kRangeMask;
    if (count != 0) continue;
    ring_tail(desk.pair.sq_doorbell, slot);
    // At system scope, so that the next to ring cannot overtake this doorbell.
    count = fetch_or_acq_rel<Scope::kSystem>(boundaries + slot, kBaton) & kRangeMask;
    if (count == 0) return;
  }
}

// A warp's range of tickets.
struct Range {
  std::uint64_t base;
  std::uint32_t slot;
  std::uint32_t epoch;
  std::uint32_t count;
};

GCOS_DEVICE Range take_tickets(const Desk& desk, std::uint32_t count) {
  std::uint64_t base = 0;
  if (lane_index() == 0) {
    base = fetch_add_relaxed<Scope::kDevice>(desk.tickets.next, static_cast<std::uint64_t>(count));
  }
  base = shuffle_wide(base, 0);
  const std::uint64_t epoch = base / desk.pair.entries;
  return Range{base, static_cast<std::uint32_t>(base - epoch * desk.pair.entries),
               static_cast<std::uint32_t>(epoch) & kEpochMask, count};
}

// Posts the lanes' commands, at most one less than the queue has entries. Bad ones end at once. Called by
// all lanes; kGoOn, or why the warp gave up before they were posted.
template <class Probe>
GCOS_DEVICE std::uint32_t post_group(const Desk& desk, const Batch& batch, std::uint32_t index,
                                     bool active, Flight& flight, const Probe& probe) {
  Command command{};
  if (active) command = load_command(batch, index);
  const Plan plan = plan_command(active, command, batch, desk.pair);
  const bool bad = plan.kind == PointerKind::kBad;
  if (bad) conclude(batch, index, outcome(kBadCommand));
  const bool good = active && !bad;
  const std::uint32_t votes = ballot(good);
  if (votes == 0) return kGoOn;
  const Range range = take_tickets(desk, count_bits(votes));
  const std::uint32_t rank = count_bits(votes & ((1u << lane_index()) - 1));
  const bool turned = range.slot + rank >= desk.pair.entries;
  flight.command = index;
  flight.slot = wrapped(range.slot + (good ? rank : 0), desk.pair.entries);
  flight.epoch = (range.epoch + (turned ? 1 : 0)) & kEpochMask;
  // The slot after the range must be free of its last command too: a queue that is full to the last slot
  // looks empty.
  const bool last = good && rank + 1 == range.count;
  const std::uint32_t after = wrapped(flight.slot + 1, desk.pair.entries);
  const std::uint32_t after_epoch = (flight.epoch + (after == 0 ? 1 : 0)) & kEpochMask;
  const std::uint32_t verdict = await(desk, [&] {
    const std::uint64_t* slots = desk.tickets.slots;
    return !good ||
           (reached(load_acquire<Scope::kDevice>(slots + flight.slot), flight.epoch) &&
            (!last || reached(load_acquire<Scope::kDevice>(slots + after), after_epoch)));
  });
  if (verdict != kGoOn) {
    if (good) conclude(batch, index, outcome(kNotStarted));
    return verdict;
  }
  const Pointer pointer = write_pointer(good ? plan : Plan{}, command,
                                        at<const Segment>(batch.segments), flight.slot,
                                        desk.pair.memory);
  if (good) {
    post_entry(desk.pair.sq, flight.slot, entry_of(desk.pair, command, pointer, flight.slot));
    const std::uint64_t epoch = static_cast<std::uint64_t>(flight.epoch) << kEpochShift;
    flight.word = kPosted | epoch | (batch.statuses + 4ull * index);
    store_relaxed<Scope::kDevice>(desk.tickets.slots + flight.slot, flight.word);
    flight.active = true;
    probe.posted(index);
  }
  sync_warp();
  if (lane_index() == 0) hand_in(desk, range.slot, range.count, range.base == 0);
  return kGoOn;
}

// Ends this lane's command if it has not ended yet, when the warp gives up.
GCOS_DEVICE void abandon(const Desk& desk, const Batch& batch, Flight& flight, std::uint32_t verdict) {
  // Only the word of this very command: the slot may be another's by now.
  if (flight.active && compare_exchange_acquire<Scope::kDevice>(
                           desk.tickets.slots + flight.slot, flight.word, flight.word | kClaimed)) {
    conclude(batch, flight.command, outcome(verdict));
  }
  flight.active = false;
}

template <class Probe>
GCOS_DEVICE std::uint32_t await_landing(const Desk& desk, Flight& flight, const Probe& probe) {
  const std::uint32_t verdict = await(desk, [&] {
    return !flight.active ||
           reached(load_acquire<Scope::kDevice>(desk.tickets.slots + flight.slot), flight.epoch + 1);
  });
  if (verdict == kGoOn && flight.active) {
    probe.ended(flight.command);
    flight.active = false;
  }
  return verdict;
}

}  // namespace detail

// Carries out this warp's part of a share: groups of commands in turn with the block's other warps, with two
// groups in flight. All lanes call it.
template <class Probe>
GCOS_DEVICE void run_warp(const Desk& desk, const Batch& batch, const Share& share,
                          const Probe& probe) {
  const std::uint32_t most = desk.pair.entries - 1;
  const std::uint32_t width = most < kWarpThreads ? most : kWarpThreads;
  const std::uint32_t stride = width * (block_threads() / kWarpThreads);
  Flight older;
  Flight newer;
  std::uint32_t verdict = kGoOn;
  if (lane_index() == 0) {
    verdict = load_relaxed<Scope::kDevice>(desk.broken);
    if (verdict == kGoOn && desk.limit.check() != kGoOn) verdict = kNotStarted;
  }
  verdict = shuffle(verdict, 0);
  const bool untouched = verdict == kNotStarted;
  for (std::uint32_t group = width * warp_index(); group < share.count; group += stride) {
    const bool active = lane_index() < width && lane_index() < share.count - group;
    const std::uint32_t index = share.first + group + lane_index();
    if (verdict != kGoOn) {
      if (active) conclude(batch, index, outcome(kNotStarted));
      continue;
    }
    verdict = detail::post_group(desk, batch, index, active, newer, probe);
    if (verdict == kGoOn) verdict = detail::await_landing(desk, older, probe);
    if (verdict == kGoOn) {
      older = newer;
      newer = Flight{};
    }
  }
  if (verdict == kGoOn) verdict = detail::await_landing(desk, older, probe);
  if (verdict == kGoOn || untouched) return;
  if (lane_index() == 0) detail::break_pair(desk, verdict);
  detail::abandon(desk, batch, older, verdict);
  detail::abandon(desk, batch, newer, verdict);
}

// Carries out a share on a pair that others use too.
template <class Probe>
GCOS_DEVICE void run_shared(const Batch& batch, const Share& share, const Limit& limit,
                            const Probe& probe) {
  QueuePair& record = *at<QueuePair>(share.queue_pair);
  const Pair pair = pair_of(record);
  // A pair that gcos_io has moved on has no tickets that fit.
  const bool usable =
      drivable(pair) && record.tickets != 0 && record.sq_tail == 0 && record.cq_head == 0;
  if (usable) {
    run_warp(Desk{pair, ticket_memory(record.tickets, pair.entries), &record.broken, limit}, batch,
             share, probe);
    return;
  }
  for (std::uint32_t i = thread_index(); i < share.count; i += block_threads()) {
    conclude(batch, share.first + i, outcome(kNotStarted));
  }
}

}  // namespace gcos
