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

// Until when a kernel goes on.
struct Limit {
  std::uint64_t end_ns;
  const std::uint32_t* abort;

  // kGoOn, kAborted or kTimedOut. Reads host memory: about 2 us on a GPU, so not at every look.
  GCOS_DEVICE std::uint32_t check() const {
    if (load_relaxed<Scope::kSystem>(abort) != 0) return kAborted;
    return now_ns() >= end_ns ? kTimedOut : kGoOn;
  }
};

// The limit of a kernel that starts now. A budget past the end of the clock is one without end in practice.
GCOS_DEVICE Limit limit_of(const Batch& batch) {
  const std::uint64_t now = now_ns();
  const std::uint64_t end = now + batch.budget_ns;
  return Limit{end < now ? ~0ull : end, at<const std::uint32_t>(batch.abort)};
}

}  // namespace gcos
