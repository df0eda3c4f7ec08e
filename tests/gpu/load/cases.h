// Tests of the kernels that drive queue pairs, for any backend.
#pragma once

#include <cstddef>

#include "world.h"

namespace gcos_test {

struct Tally {
  std::uint32_t passed = 0;
  std::uint32_t failed = 0;
};

// Runs all cases whose name holds `filter`, with blocks of each of these sizes, and prints a line for each.
Tally run_cases(Backend& backend, const std::vector<std::uint32_t>& block_threads,
                const std::string& filter);

}  // namespace gcos_test
