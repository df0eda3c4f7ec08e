// How a command ended: the status word of a command.
#pragma once

#include "gcos/abi.h"
#include "gcos/platform.h"

namespace gcos {

// The kernel has not been told to give up. Other kinds are kCompleted and so on, of abi.h.
constexpr std::uint32_t kGoOn = 0;
static_assert(kTimedOut != kGoOn && kAborted != kGoOn && kBadCompletion != kGoOn,
              "a pair that is broken says so by a kind that is not 0");

// The final word of a command that ended in this way.
GCOS_DEVICE std::uint32_t outcome(std::uint32_t kind, std::uint32_t status = 0) {
  return kOutcomeDone | (kind << kOutcomeKindShift) | (status & 0x7fffu);
}

// Writes the final word of a command. Orders nothing: what must be seen before the word needs the release
// that counts the share in Batch.done.
GCOS_DEVICE void conclude(const Batch& batch, std::uint32_t command, std::uint32_t word) {
  store_relaxed<Scope::kSystem>(at<std::uint32_t>(batch.statuses) + command, word);
}

// How often a thread looks at the abort flag. It is in host memory: a look takes about 2 us, and many looks
// from many multiprocessors slow down whatever else runs on the GPU, to about half where it fences at
// system scope.
constexpr std::uint64_t kAbortLookNs = 2000000;

// Until when a kernel goes on, as one thread sees it.
struct Limit {
  std::uint64_t end_ns;
  const std::uint32_t* abort;
  // When the flag is looked at next; 0: at once.
  mutable std::uint64_t look_ns = 0;

  // kGoOn, kAborted or kTimedOut. Reads a slow clock: not for every look at a queue.
  GCOS_DEVICE std::uint32_t check() const {
    const std::uint64_t now = now_ns();
    if (now >= end_ns) return kTimedOut;
    if (now < look_ns) return kGoOn;
    look_ns = now + kAbortLookNs;
    return load_relaxed<Scope::kSystem>(abort) != 0 ? kAborted : kGoOn;
  }
};

// The limit of a kernel that starts now. A budget past the end of the clock is one without end in practice.
GCOS_DEVICE Limit limit_of(const Batch& batch) {
  const std::uint64_t now = now_ns();
  const std::uint64_t end = now + batch.budget_ns;
  return Limit{end < now ? ~0ull : end, at<const std::uint32_t>(batch.abort)};
}

}  // namespace gcos
