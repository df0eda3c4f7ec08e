// Host threads that play the blocks of a GPU.
#include "played/team.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <new>
#include <system_error>
#include <thread>

#include "gcos/platform.h"

namespace gcos {
namespace played {

thread_local Place place;

namespace {

// A thread looks at a word this often, giving the processor away in between, before it sleeps.
constexpr int kLooks = 4;

void wait_while(const std::uint32_t* word, std::uint32_t value) {
  for (int look = 0; look < kLooks; ++look) {
    if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != value) return;
    sched_yield();
  }
  while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
  }
}

void wake_all(const std::uint32_t* word) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

constexpr std::uint64_t kOneExpected = 1ull << 32;

std::uint32_t expected_of(std::uint64_t state) { return static_cast<std::uint32_t>(state >> 32); }
std::uint32_t arrived_of(std::uint64_t state) { return static_cast<std::uint32_t>(state); }

}  // namespace

void Barrier::open(std::uint32_t threads) { state_ = kOneExpected * threads; }

// By the one that made the count full. All others wait, so nobody else touches the state until the
// generation has changed.
void Barrier::turn_over(std::uint32_t expected) {
  __atomic_store_n(&state_, kOneExpected * expected, __ATOMIC_RELAXED);
  __atomic_fetch_add(&generation_, 1, __ATOMIC_RELEASE);
  wake_all(&generation_);
}

void Barrier::arrive() {
  const std::uint32_t generation = __atomic_load_n(&generation_, __ATOMIC_ACQUIRE);
  const std::uint64_t now = __atomic_add_fetch(&state_, 1, __ATOMIC_ACQ_REL);
  if (arrived_of(now) == expected_of(now)) {
    turn_over(expected_of(now));
  } else {
    wait_while(&generation_, generation);
  }
}

void Barrier::leave() {
  const std::uint64_t now = __atomic_sub_fetch(&state_, kOneExpected, __ATOMIC_ACQ_REL);
  if (expected_of(now) != 0 && arrived_of(now) == expected_of(now)) turn_over(expected_of(now));
}

Team::Team(std::uint32_t block_, std::uint32_t grid_, std::uint32_t threads_)
    : block(block_), grid(grid_), threads(threads_), shared(kSharedBytes + 128) {
  barrier.open(threads);
  for (std::uint32_t first = 0; first < threads; first += kWarpThreads) {
    warps.push_back(std::make_unique<Warp>());
    warps.back()->barrier.open(kWarpThreads);
  }
  // As on a GPU, nobody may count on zeros.
  for (unsigned char& byte : shared) byte = 0xa5;
}

void* shared_object(std::size_t bytes) {
  const std::size_t at = place.shared_used;
  place.shared_used += (bytes + 127) / 128 * 128;
  if (place.shared_used > kSharedBytes) std::abort();  // would not have compiled for a GPU either
  const auto base = reinterpret_cast<std::uintptr_t>(place.team->shared.data());
  return reinterpret_cast<void*>((base + 127) / 128 * 128 + at);
}

namespace {

void leave_team() {
  Warp& warp = *place.warp;
  const std::uint32_t lane = place.thread % kWarpThreads;
  // Not the array used last: slower lanes may still be reading what was shown there.
  __atomic_store_n(&warp.words[place.turn][lane], 0, __ATOMIC_RELAXED);
  warp.barrier.leave();
  place.team->barrier.leave();
  place = Place{};
}

// What keeps threads from beginning before all are there.
enum Gate : std::uint32_t { kClosed, kOpen, kCancelled };

}  // namespace

bool run(std::uint32_t grid, std::uint32_t threads, const std::function<void()>& body) {
  std::uint32_t gate = kClosed;
  std::vector<std::unique_ptr<Team>> teams;
  std::vector<std::thread> hosts;
  const auto work = [&](Team* team, std::uint32_t thread) {
    wait_while(&gate, kClosed);
    if (__atomic_load_n(&gate, __ATOMIC_ACQUIRE) == kCancelled) return;
    place.team = team;
    place.warp = team->warps[thread / kWarpThreads].get();
    place.thread = thread;
    body();
    leave_team();
  };
  std::uint32_t verdict = kOpen;
  try {
    for (std::uint32_t block = 0; block < grid; ++block) {
      teams.push_back(std::make_unique<Team>(block, grid, threads));
      for (std::uint32_t thread = 0; thread < threads; ++thread) {
        hosts.emplace_back(work, teams.back().get(), thread);
      }
    }
  } catch (const std::system_error&) {
    verdict = kCancelled;
  } catch (const std::bad_alloc&) {
    verdict = kCancelled;
  }
  __atomic_store_n(&gate, verdict, __ATOMIC_RELEASE);
  wake_all(&gate);
  for (std::thread& host : hosts) host.join();
  return verdict == kOpen;
}

}  // namespace played

namespace {

// Shows `value` to the warp and gives back what each lane showed.
const std::uint32_t* show(std::uint32_t value) {
  played::Place& place = played::place;
  std::uint32_t* words = place.warp->words[place.turn];
  place.turn ^= 1;
  __atomic_store_n(&words[place.thread % kWarpThreads], value, __ATOMIC_RELAXED);
  place.warp->barrier.arrive();
  return words;
}

}  // namespace

std::uint32_t ballot(bool predicate) {
  const std::uint32_t* words = show(predicate ? 1 : 0);
  std::uint32_t votes = 0;
  for (std::uint32_t lane = 0; lane < kWarpThreads; ++lane) {
    if (__atomic_load_n(&words[lane], __ATOMIC_RELAXED) != 0) votes |= 1u << lane;
  }
  return votes;
}

std::uint32_t shuffle(std::uint32_t value, std::uint32_t lane) {
  return __atomic_load_n(&show(value)[lane % kWarpThreads], __ATOMIC_RELAXED);
}

std::uint32_t shuffle_up(std::uint32_t value, std::uint32_t delta) {
  const std::uint32_t lane = played::place.thread % kWarpThreads;
  const std::uint32_t from = lane >= delta ? lane - delta : lane;
  return __atomic_load_n(&show(value)[from], __ATOMIC_RELAXED);
}

std::uint64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000000000ull +
         static_cast<std::uint64_t>(now.tv_nsec);
}

void pause(std::uint32_t turn) {
  if (turn < 64) {
    sched_yield();
    return;
  }
  const timespec nap = {0, 20000};
  nanosleep(&nap, nullptr);
}

}  // namespace gcos
