// A queue pair that one block of threads owns for the life of a kernel.
//
// The block goes round in trips. In each, all threads look at one completion entry each, agree by one vote how
// many new ones there are and how many commands fit, reap those, post these, and the first thread rings
// both doorbells once. Rounds are posted without waiting as long as the queue has room: two are in flight
// with a fast controller, as many as fit with a slow one. A trip that would move few commands costs a
// fence at system scope all the same; then the first thread alone waits a little for more. A block of one
// warp is for latency: it gives a fast controller the time to answer before it posts another round.
//
// The identifier of a command is its slot. A table in the block's memory says which command is in which
// slot; taking it out of there ends the command, exactly once.
#pragma once

#include "gcos/abi.h"
#include "gcos/outcome.h"
#include "gcos/pair.h"
#include "gcos/platform.h"
#include "gcos/pointer.h"
#include "gcos/queue.h"

namespace gcos {

// Trips after which the leader asks whether to go on, and looks at the completion queue in one wait.
constexpr std::uint32_t kCheckTrips = 256;
constexpr std::uint32_t kCheckLooks = 64;
// Looks for more completions, about 0.4 us each, when there are some but few.
constexpr std::uint32_t kPatienceLooks = 3;
// A block of one warp looks so often, about 0.3 us each, before it posts another round; if that was in vain,
// so many trips go by before it tries again. Host threads that play a warp are too slow for it.
constexpr std::uint32_t kQuickLooks = kPlayed ? 1 : 8;
constexpr std::uint32_t kQuietTrips = 16;

// Most threads of a block that owns a pair.
constexpr std::uint32_t kMaxIoThreads = 256;

struct BlockShared {
  Stage stages[kMaxIoThreads / kWarpThreads];
  // A word for each warp, of even and of odd trips.
  std::uint32_t votes[2][kMaxIoThreads / kWarpThreads];
  // kGoOn, or why the block gives up.
  std::uint32_t verdict;
  // For each slot, 1 + the command of the share in flight there; 0: free. Barriers part those who read it
  // from those who write it; only two completions of one name meet, so only taking a word out is atomic.
  std::uint32_t in_slot[kMaxQueueEntries];
};

namespace detail {

// Where the block is in its share. The same in every thread.
struct Progress {
  std::uint32_t taken;   // commands of the share posted, or found bad
  std::uint32_t flying;  // commands in flight
  std::uint32_t tail;
  std::uint32_t head;
  std::uint32_t phase;
};

// What the block agreed on for one trip.
struct Agreement {
  std::uint32_t reap;  // new completion entries, without a gap, from the head on
  std::uint32_t post;  // commands to post, all sound, whose slots are free
  bool bad;            // the next command makes no sense
};

GCOS_DEVICE Agreement agree(BlockShared& shared, std::uint32_t trip, bool fresh, bool fits, bool bad) {
  const std::uint32_t reap = leading(ballot(fresh));
  const std::uint32_t post = leading(ballot(fits));
  const std::uint32_t first_bad = ballot(bad) & 1;
  const std::uint32_t warps = block_threads() / kWarpThreads;
  if (warps == 1) {
    sync_block();
    return Agreement{reap, post, first_bad != 0};
  }
  std::uint32_t* votes = shared.votes[trip & 1];
  if (lane_index() == 0) votes[warp_index()] = reap | (post << 8) | (first_bad << 16);
  sync_block();
  // Each lane takes the vote of one warp; full warps count as a whole up to the first that is not.
  const std::uint32_t vote = lane_index() < warps ? votes[lane_index()] : 0;
  const std::uint32_t reaping = leading(ballot((vote & 0xff) == kWarpThreads));
  const std::uint32_t posting = leading(ballot(((vote >> 8) & 0xff) == kWarpThreads));
  const std::uint32_t reap_rest = shuffle(vote, reaping % kWarpThreads) & 0xff;
  const std::uint32_t post_rest = (shuffle(vote, posting % kWarpThreads) >> 8) & 0xff;
  return Agreement{reaping * kWarpThreads + (reaping < warps ? reap_rest : 0),
                   posting * kWarpThreads + (posting < warps ? post_rest : 0),
                   (shuffle(vote, 0) >> 16) != 0};
}

// One thread's look at the completion queue.
struct Look {
  Completion completion;
  bool fresh;
};

GCOS_DEVICE Look look(const Pair& pair, const Progress& now) {
  const std::uint32_t me = thread_index();
  if (me >= now.flying) return Look{Completion{0}, false};
  const bool turned = now.head + me >= pair.entries;
  const Completion completion = peek_unordered(pair.cq, wrapped(now.head + me, pair.entries));
  return Look{completion, completion.phase() == (now.phase ^ (turned ? 1u : 0u))};
}

// The look of a block of one warp. `quiet` counts the trips in which it does not wait.
GCOS_DEVICE Look look_awhile(const Pair& pair, const Progress& now, std::uint32_t& quiet) {
  Look found = look(pair, now);
  if (now.flying == 0) return found;
  if (quiet != 0) {
    quiet -= 1;
    return found;
  }
  for (std::uint32_t looks = 1; any(thread_index() < now.flying && !found.fresh); ++looks) {
    if (looks == kQuickLooks) {
      quiet = kQuietTrips;
      break;
    }
    found = look(pair, now);
  }
  return found;
}

// By the leader, while the others wait at a barrier: until the entry `wanted` places after the head is new. If
// there is something to do already (`some`), or once the head itself is new, not for long.
GCOS_DEVICE std::uint32_t wait_for_more(const Pair& pair, const Progress& now, std::uint32_t wanted,
                                        bool some, const Limit& limit) {
  const bool turned = now.head + wanted >= pair.entries;
  const std::uint32_t index = wrapped(now.head + wanted, pair.entries);
  const std::uint32_t phase = now.phase ^ (turned ? 1u : 0u);
  std::uint32_t patience = kPatienceLooks;
  for (std::uint32_t turn = 1;; ++turn) {
    if (peek_unordered(pair.cq, index).phase() == phase) return kGoOn;
    some = some || peek_unordered(pair.cq, now.head).phase() == now.phase;
    if (some && --patience == 0) return kGoOn;
    if (turn % kCheckLooks == 0) {
      const std::uint32_t verdict = limit.check();
      if (verdict != kGoOn) return verdict;
    }
    pause(turn);
  }
}

// Whether a trip that moves so much is worth its fence, or the block should wait for more.
GCOS_DEVICE bool worth(const Agreement& agreed, const Progress& now, std::uint32_t left) {
  const std::uint32_t round = block_threads();
  const std::uint32_t full = left < round ? left : round;
  const std::uint32_t half = now.flying / 2 < round ? now.flying / 2 : round;
  return agreed.bad || (full != 0 && agreed.post == full) || (agreed.reap != 0 && agreed.reap >= half);
}

// Ends the command that a completion names. A name that is not in flight, or not any more, breaks the pair.
// `posting` slots from the tail on are being filled at this moment and cannot have been completed.
template <class Probe>
GCOS_DEVICE void reap(const Batch& batch, const Share& share, const Pair& pair, const Progress& now,
                      std::uint32_t posting, Completion completion, BlockShared& shared,
                      const Probe& probe) {
  const std::uint32_t slot = completion.slot();
  const std::uint32_t ahead = slot >= now.tail ? slot - now.tail : slot + pair.entries - now.tail;
  std::uint32_t command = 0;
  if (slot < pair.entries && ahead >= posting) {
    command = exchange_relaxed<Scope::kBlock>(&shared.in_slot[slot], 0u);
  }
  if (command == 0) {
    store_relaxed<Scope::kBlock>(&shared.verdict, kBadCompletion);
    return;
  }
  conclude(batch, share.first + command - 1, outcome(kCompleted, completion.status()));
  probe.ended(share.first + command - 1);
}

// Ends what is left of the share when the block gives up: in flight as `verdict` says, the rest never
// started.
GCOS_DEVICE void give_up(const Batch& batch, const Share& share, const Pair& pair, std::uint32_t taken,
                         std::uint32_t verdict, BlockShared& shared) {
  for (std::uint32_t slot = thread_index(); slot < pair.entries; slot += block_threads()) {
    const std::uint32_t command = shared.in_slot[slot];
    if (command != 0) conclude(batch, share.first + command - 1, outcome(verdict));
  }
  for (std::uint32_t i = taken + thread_index(); i < share.count; i += block_threads()) {
    conclude(batch, share.first + i, outcome(kNotStarted));
  }
}

// The trips. Gives back kGoOn when every command has ended, or why the block gave up.
template <class Probe>
GCOS_DEVICE std::uint32_t make_trips(const Batch& batch, const Share& share, const Pair& pair,
                                     const Limit& limit, Progress& now, BlockShared& shared,
                                     const Probe& probe) {
  const std::uint32_t me = thread_index();
  const Segment* segments = at<const Segment>(batch.segments);
  // This thread's next command; loaded a trip ahead.
  Command command{};
  if (me < share.count) command = load_command(batch, share.first + me);
  const bool solo = block_threads() == kWarpThreads;
  std::uint32_t quiet = 0;
  // Whether the trip before only waited: then this one does with what there is.
  bool waited = false;
  for (std::uint32_t trip = 0; now.taken < share.count || now.flying != 0; ++trip) {
    const Look found = solo ? look_awhile(pair, now, quiet) : look(pair, now);
    // With a fast controller, a block of one warp has one round in flight.
    const bool hold = solo && quiet == 0 && any(me < now.flying && !found.fresh);
    const std::uint32_t left = share.count - now.taken;
    const std::uint32_t room = pair.entries - 1 - now.flying;
    const bool next = me < left && me < room && !hold;
    const std::uint32_t slot = wrapped(now.tail + (next ? me : 0), pair.entries);
    const Plan plan = plan_command(next, command, batch, pair);
    const bool bad = plan.kind == PointerKind::kBad;
    const bool fits =
        next && !bad && shared.in_slot[slot] == 0;
    const Agreement agreed = agree(shared, trip, found.fresh, fits, bad);

    if (me == 0 && trip % kCheckTrips == kCheckTrips - 1) {
      const std::uint32_t verdict = limit.check();
      if (verdict != kGoOn) store_relaxed<Scope::kBlock>(&shared.verdict, verdict);
    }
    if (!waited && !worth(agreed, now, left)) {
      if (me == 0 && now.flying != 0) {
        const std::uint32_t half = now.flying / 2 < block_threads() ? now.flying / 2 : block_threads();
        const std::uint32_t verdict = wait_for_more(pair, now, half != 0 ? half - 1 : 0,
                                                    agreed.reap != 0 || agreed.post != 0, limit);
        if (verdict != kGoOn) store_relaxed<Scope::kBlock>(&shared.verdict, verdict);
      }
      sync_block();
      const std::uint32_t verdict = load_relaxed<Scope::kBlock>(&shared.verdict);
      if (verdict != kGoOn) return verdict;
      waited = true;
      continue;
    }
    waited = false;
    if (me < agreed.reap) {
      reap(batch, share, pair, now, agreed.post, found.completion, shared, probe);
    }
    const bool posts = me < agreed.post;
    if (any(posts)) {
      const Pointer pointer =
          write_pointer(posts ? plan : Plan{}, command, segments, slot, pair.memory);
      const Entry entry = entry_of(pair, command, pointer, slot);
      if (solo) {
        // For one warp the way over the stage costs more than it saves.
        if (posts) post_entry(pair.sq, slot, entry);
      } else {
        const std::uint32_t first = kWarpThreads * warp_index();
        const std::uint32_t rest = agreed.post - first;
        post_entries(pair.sq, wrapped(now.tail + first, pair.entries), pair.entries,
                     rest < kWarpThreads ? rest : kWarpThreads, entry, shared.stages[warp_index()]);
      }
      if (posts) {
        shared.in_slot[slot] = now.taken + me + 1;
        probe.posted(share.first + now.taken + me);
      }
    }
    // A bad command is passed over when it is the next, so that it takes no slot.
    const bool skip = agreed.post == 0 && agreed.bad;
    if (skip && me == 0) conclude(batch, share.first + now.taken, outcome(kBadCommand));
    now.taken += agreed.post + (skip ? 1 : 0);
    now.flying += agreed.post - agreed.reap;
    now.tail = wrapped(now.tail + agreed.post, pair.entries);
    now.phase ^= now.head + agreed.reap >= pair.entries ? 1u : 0u;
    now.head = wrapped(now.head + agreed.reap, pair.entries);
    if (me < share.count - now.taken) {
      command = load_command(batch, share.first + now.taken + me);
    }
    sync_block();
    const std::uint32_t verdict = load_relaxed<Scope::kBlock>(&shared.verdict);
    if (verdict != kGoOn) return verdict;
    if (me == 0) {
      if (agreed.post != 0) ring_tail(pair.sq_doorbell, now.tail);
      if (agreed.reap != 0) ring_head(pair.cq_doorbell, now.head);
    }
  }
  return kGoOn;
}

}  // namespace detail

// Carries out a share on a pair that no other block drives, and writes the status words of its commands;
// they are ordered by whoever counts the share in Batch.done. All threads of the block call it.
// A block of more than kMaxIoThreads starts nothing.
template <class Probe>
GCOS_DEVICE void run_share(const Batch& batch, const Share& share, const Limit& limit,
                           BlockShared& shared, const Probe& probe) {
  QueuePair& record = *at<QueuePair>(share.queue_pair);
  const Pair pair = pair_of(record);
  detail::Progress now{0, 0, record.sq_tail, record.cq_head, record.phase};
  const bool fits = drivable(pair) && block_threads() <= kMaxIoThreads;
  if (thread_index() == 0) {
    // The host sets `broken` for kernels to come, maybe while this one begins: one thread looks.
    const bool usable = fits && load_relaxed<Scope::kSystem>(&record.broken) == kGoOn;
    store_relaxed<Scope::kBlock>(&shared.verdict, usable ? limit.check() : kNotStarted);
  }
  if (fits) {
    for (std::uint32_t slot = thread_index(); slot < pair.entries; slot += block_threads()) {
      shared.in_slot[slot] = 0;
    }
  }
  sync_block();
  if (load_relaxed<Scope::kBlock>(&shared.verdict) != kGoOn) {
    // Nothing was posted, so the pair is as it was.
    for (std::uint32_t i = thread_index(); i < share.count; i += block_threads()) {
      conclude(batch, share.first + i, outcome(kNotStarted));
    }
    return;
  }
  std::uint32_t verdict = detail::make_trips(batch, share, pair, limit, now, shared, probe);
  // What the commands wrote comes before the count of the share in Batch.done.
  order_polled<Scope::kSystem>();
  if (verdict != kGoOn) detail::give_up(batch, share, pair, now.taken, verdict, shared);
  if (thread_index() != 0) return;
  // Nothing is in flight, so nothing new may be there.
  if (verdict == kGoOn && peek_completion(pair.cq, now.head).phase() == now.phase) {
    verdict = kBadCompletion;
  }
  record.sq_tail = now.tail;
  record.cq_head = now.head;
  record.phase = now.phase;
  // The host may look meanwhile, for the batch before this one.
  store_relaxed<Scope::kSystem>(&record.broken, verdict);
}

}  // namespace gcos
