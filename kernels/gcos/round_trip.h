// One thread that rings, waits for the answer, and takes the time: bare words, or commands of a queue pair.
#pragma once

#include "gcos/abi.h"
#include "gcos/outcome.h"
#include "gcos/pair.h"
#include "gcos/platform.h"
#include "gcos/queue.h"

namespace gcos {

// Looks at the answer between two looks at the clock and the abort flag, which lies in host memory.
constexpr std::uint32_t kLooksPerCheck = 4096;

namespace detail {

// Until `there` holds: whether it did before the limit.
template <class There>
GCOS_DEVICE bool await(const Limit& limit, There there) {
  for (std::uint32_t looks = 1;; ++looks) {
    if (there()) return true;
    if (looks % kLooksPerCheck == 0 && limit.check() != kGoOn) return false;
  }
}

// Stores words and waits for them to come back: how many did.
GCOS_DEVICE std::uint32_t ring_words(const RoundTrip& trip, const Limit& limit) {
  std::uint32_t* bell = at<std::uint32_t>(trip.bell);
  const std::uint32_t* answer = at<const std::uint32_t>(trip.answer);
  for (std::uint32_t round = 0; round < trip.rounds; ++round) {
    const std::uint64_t start = now_ns();
    store_relaxed<Scope::kSystem>(bell, round + 1);
    const bool came = await(
        limit, [&] { return load_acquire<Scope::kSystem>(answer) == round + 1; });
    if (!came) return round;
    at<std::uint32_t>(trip.times)[round] = static_cast<std::uint32_t>(now_ns() - start);
  }
  return trip.rounds;
}

// Gives commands to a queue pair, one at a time: how many ended well.
GCOS_DEVICE std::uint32_t ring_commands(const RoundTrip& trip, const Limit& limit) {
  QueuePair& record = *at<QueuePair>(trip.queue_pair);
  const Pair pair = pair_of(record);
  if (record.broken != 0 || !drivable(pair)) return 0;
  std::uint32_t tail = record.sq_tail;
  std::uint32_t head = record.cq_head;
  std::uint32_t phase = record.phase;
  std::uint32_t round = 0;
  for (; round < trip.rounds; ++round) {
    const std::uint64_t start = now_ns();
    const Entry entry{trip.opcode | (tail << 16), pair.nsid, trip.data, 0, 0, 0};
    post_entry(pair.sq, tail, entry);
    const std::uint32_t slot = tail;
    tail = wrapped(tail + 1, pair.entries);
    ring_tail(pair.sq_doorbell, tail);
    Completion completion{0};
    const bool came = await(limit, [&] {
      completion = peek_completion(pair.cq, head);
      return completion.phase() == phase;
    });
    if (!came || completion.slot() != slot || completion.status() != 0) {
      record.broken = came ? kBadCompletion : kTimedOut;
      break;
    }
    at<std::uint32_t>(trip.times)[round] = static_cast<std::uint32_t>(now_ns() - start);
    head = wrapped(head + 1, pair.entries);
    if (head == 0) phase ^= 1u;
    ring_head(pair.cq_doorbell, head);
  }
  record.sq_tail = tail;
  record.cq_head = head;
  record.phase = phase;
  return round;
}

}  // namespace detail

// The rounds of `trip`, by the calling thread alone.
GCOS_DEVICE void make_round_trips(const RoundTrip& trip) {
  const Limit limit{now_ns() + trip.budget_ns, at<const std::uint32_t>(trip.abort)};
  const std::uint32_t ended = trip.queue_pair == 0 ? detail::ring_words(trip, limit)
                                                   : detail::ring_commands(trip, limit);
  store_release<Scope::kSystem>(at<std::uint32_t>(trip.ended), ended);
}

}  // namespace gcos
