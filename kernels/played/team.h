// A block of a GPU played by host threads: its barriers, votes and shared memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace gcos {
namespace played {

// A barrier that threads may leave for good, as threads that returned leave the barriers of a GPU.
class Barrier {
 public:
  // Says how many threads meet here. Before any of them does.
  void open(std::uint32_t threads);
  // Waits for all; orders what each did before with what any does after.
  void arrive();
  // Counts this thread out from now on.
  void leave();

 private:
  void turn_over(std::uint32_t expected);
  // High half: threads that meet here; low half: those that have come.
  std::uint64_t state_ = 0;
  std::uint32_t generation_ = 0;
};

// 32 threads that vote and exchange words, in one of two arrays in turn: nobody writes to one while another
// still reads it.
struct Warp {
  Barrier barrier;
  std::uint32_t words[2][32] = {};
};

// Most bytes of GCOS_SHARED objects in a kernel, what a GPU gives without being asked.
constexpr std::size_t kSharedBytes = 48 * 1024;

// One block.
struct Team {
  Team(std::uint32_t block, std::uint32_t grid, std::uint32_t threads);

  std::uint32_t block;
  std::uint32_t grid;
  std::uint32_t threads;
  Barrier barrier;
  std::vector<std::unique_ptr<Warp>> warps;
  std::vector<unsigned char> shared;
};

// This thread's place.
struct Place {
  Team* team = nullptr;
  Warp* warp = nullptr;
  std::uint32_t thread = 0;
  std::uint32_t turn = 0;
  std::size_t shared_used = 0;
};
extern thread_local Place place;

// The block's object of `bytes` at this point of the kernel: every thread names the same ones in the same
// order, and so gets the same.
void* shared_object(std::size_t bytes);

// Runs `body` in `grid` blocks of `threads` threads, all at once, and returns when all have ended. False if
// a thread could not be started; then nothing ran.
bool run(std::uint32_t grid, std::uint32_t threads, const std::function<void()>& body);

}  // namespace played
}  // namespace gcos
