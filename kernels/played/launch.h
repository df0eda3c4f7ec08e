// Starts kernels of a GPU played by host threads, by name.
#pragma once

#include <cstdint>

extern "C" {

// Runs the kernel `kernel` in `grid` blocks of `block` threads with the record at `params` and returns when
// it has ended. Several threads may do so at once.
//
// 0: it ran. -1: no kernel has this name. -2: its record is not `params_len` bytes long. -3: no such shape
// (a block is a multiple of 32 threads, at most 1024). -4: a thread could not be started; nothing ran.
std::int32_t gcos_played_launch(const char* kernel, std::uint32_t grid, std::uint32_t block,
                                const void* params, std::uint64_t params_len);

// What the host compares before it launches anything.
std::uint64_t gcos_layout_hash();
}
