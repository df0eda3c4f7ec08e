// A queue pair that many warps use at once, of one kernel or of several.
//
// Posting: a warp takes tickets for its commands by one atomic; a ticket is a place in the endless sequence
// of submission queue slots. Warps fill their slots in any order. The right to ring is a baton that stands
// where the entries written without a gap end: whoever closes the gap there takes it, goes on over what others
// have written beyond, rings once, and leaves it at the next gap. At each gap two meet, the baton's holder
// and the writer of the range that begins there; the second to come goes on.
//
// Reaping: there is no consumer by office. A warp that waits looks at the completion queue; the one that
// takes the lock reads up to 32 entries, ends their commands, and frees their slots. Lock and head are one
// word. A slot's word says by its epoch whether a command has ended, so owners need not take part.
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
// Times that the consumer reads on before it gives the lock back.
constexpr std::uint32_t kConsumerTrips = 4;

// Slot words: bit 31 claimed, bit 30 posted, bits 0 to 29 the epoch: how often the ring had gone round when
// the slot was last given out.
constexpr std::uint32_t kClaimed = 1u << 31;
constexpr std::uint32_t kPosted = 1u << 30;
constexpr std::uint32_t kEpochMask = kPosted - 1;

// Boundary words: entries of the range that begins there, once they are written, and whether the baton is
// there.
constexpr std::uint32_t kBaton = 1u << 31;
constexpr std::uint32_t kRangeMask = 63;

// The consumer's word: bits 0 to 15 the index of the next completion entry, bit 16 whether the phase has
// turned from 1 to 0, bits 17 to 62 a number that is new at each change, bit 63 the lock.
constexpr std::uint64_t kLocked = 1ull << 63;
constexpr std::uint64_t kTurnedPhase = 1ull << 16;
constexpr std::uint64_t kChange = 1ull << 17;

// What QueuePair.tickets points to; zeros when the pair is made.
struct TicketMemory {
  std::uint64_t* next;         // tickets given out
  std::uint64_t* consumer;     // lock and head of the completion queue
  std::uint64_t* status_of;    // for each slot, the address of the status word of its command
  std::uint32_t* slots;
  std::uint32_t* boundaries;
};

GCOS_DEVICE TicketMemory ticket_memory(std::uint64_t address, std::uint32_t entries) {
  std::uint64_t* status_of = at<std::uint64_t>(address + 256);
  std::uint32_t* slots = reinterpret_cast<std::uint32_t*>(status_of + entries);
  return TicketMemory{at<std::uint64_t>(address), at<std::uint64_t>(address + 128), status_of, slots,
                      slots + entries};
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
  bool active = false;
};

namespace detail {

// Whether a slot has been free for `epoch`, or was given out in it or later.
GCOS_DEVICE bool reached(std::uint32_t word, std::uint32_t epoch) {
  return (((word - epoch) & kEpochMask) >> 29) == 0;
}

// Whether a lane's command has ended, or there is none.
GCOS_DEVICE bool landed(const Desk& desk, const Flight& flight) {
  return !flight.active ||
         reached(load_acquire<Scope::kDevice>(desk.tickets.slots + flight.slot), flight.epoch + 1);
}

GCOS_DEVICE void break_pair(const Desk& desk, std::uint32_t kind) {
  compare_exchange_acquire<Scope::kDevice>(desk.broken, kGoOn, kind);
}

// Ends the command that a completion names and frees its slot.
GCOS_DEVICE void land(const Desk& desk, Completion completion) {
  const std::uint32_t slot = completion.slot();
  if (slot >= desk.pair.entries) return break_pair(desk, kBadCompletion);
  std::uint32_t* word = desk.tickets.slots + slot;
  const std::uint32_t was = fetch_or_acq_rel<Scope::kDevice>(word, kClaimed);
  if ((was & kPosted) == 0 || (was & kClaimed) != 0) return break_pair(desk, kBadCompletion);
  store_relaxed<Scope::kSystem>(at<std::uint32_t>(desk.tickets.status_of[slot]),
                                outcome(kCompleted, completion.status()));
  store_release<Scope::kDevice>(word, ((was & kEpochMask) + 1) & kEpochMask);
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
  const std::uint64_t number = (before & ~(kChange - 1)) + kChange;
  return (number & ~kLocked) | (head.phase == 0 ? kTurnedPhase : 0) | head.index;
}

GCOS_DEVICE void advance(Head& head, std::uint32_t count, std::uint32_t entries) {
  head.phase ^= head.index + count >= entries ? 1u : 0u;
  head.index = wrapped(head.index + count, entries);
}

// Completion entries that are new from `head` on, without a gap, at most one for each lane.
GCOS_DEVICE std::uint32_t fresh_entries(const Desk& desk, const Head& head, Completion& completion) {
  const std::uint32_t entries = desk.pair.entries;
  const bool looks = lane_index() < entries;
  Head mine = head;
  advance(mine, looks ? lane_index() : 0, entries);
  completion = peek_completion(desk.pair.cq, mine.index);
  return leading(ballot(looks && completion.phase() == mine.phase));
}

// Looks at the completion queue and, if there is something new and no other warp is at it, takes it.
// Called by all lanes; says whether it took something.
GCOS_DEVICE bool consume(const Desk& desk) {
  std::uint64_t* consumer = desk.tickets.consumer;
  const std::uint64_t word = shuffle_wide(load_relaxed<Scope::kDevice>(consumer), 0);
  if ((word & kLocked) != 0) return false;
  const Head before = head_of(word);
  Completion completion;
  std::uint32_t count = fresh_entries(desk, before, completion);
  if (count == 0) return false;
  // If the head is still where it was, what was read is still so.
  bool mine = false;
  if (lane_index() == 0) {
    mine = compare_exchange_acquire<Scope::kDevice>(consumer, word, word | kLocked);
  }
  if (!any(mine)) return false;
  Head head = before;
  std::uint32_t taken = 0;
  for (std::uint32_t trip = 1; count != 0; ++trip) {
    if (lane_index() < count) land(desk, completion);
    advance(head, count, desk.pair.entries);
    taken += count;
    const bool more = count == kWarpThreads && trip < kConsumerTrips;
    count = more ? fresh_entries(desk, head, completion) : 0;
  }
  sync_warp();
  if (lane_index() == 0) {
    // The head is rung when it has passed a quarter of the queue, so that the doorbell costs little; the
    // controller has room in the other three.
    const std::uint32_t quarter = (desk.pair.entries + 3) / 4;
    if (taken >= quarter || head.index / quarter != before.index / quarter) {
      ring_head(desk.pair.cq_doorbell, head.index);
    }
    store_release<Scope::kDevice>(consumer, word_of(head, word));
  }
  return true;
}

// Waits until `ready()` says so in every lane, and meanwhile takes completions. Called by all lanes.
// kGoOn, or why the warp gives up.
template <class Ready>
GCOS_DEVICE std::uint32_t await(const Desk& desk, const Ready& ready) {
  for (std::uint32_t turn = 0;; ++turn) {
    if (all(ready())) return kGoOn;
    if (!consume(desk)) pause(turn);
    if (turn % kBrokenTurns != 0) continue;
    std::uint32_t verdict = kGoOn;
    if (lane_index() == 0) {
      verdict = load_relaxed<Scope::kDevice>(desk.broken);
      if (verdict == kGoOn && turn % kLimitTurns == 0) verdict = desk.limit.check();
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
    const std::uint32_t* slots = desk.tickets.slots;
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
    desk.tickets.status_of[flight.slot] = batch.statuses + 4ull * index;
    // A release, so that even a completion that nobody asked for finds the right status word.
    store_release<Scope::kDevice>(desk.tickets.slots + flight.slot, kPosted | flight.epoch);
    flight.active = true;
    probe.posted(index);
  }
  sync_warp();
  if (lane_index() == 0) hand_in(desk, range.slot, range.count, range.base == 0);
  return kGoOn;
}

// Ends this lane's command if it has not ended yet, when the warp gives up.
GCOS_DEVICE void abandon(const Desk& desk, const Batch& batch, Flight& flight, std::uint32_t verdict) {
  if (flight.active) {
    const std::uint32_t was =
        fetch_or_acq_rel<Scope::kDevice>(desk.tickets.slots + flight.slot, kClaimed);
    if (was == (kPosted | flight.epoch)) conclude(batch, flight.command, outcome(verdict));
  }
  flight.active = false;
}

template <class Probe>
GCOS_DEVICE std::uint32_t await_landing(const Desk& desk, Flight& flight, const Probe& probe) {
  const std::uint32_t verdict = await(desk, [&] { return landed(desk, flight); });
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
