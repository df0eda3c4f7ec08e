// Included once by every kernel source: the hash that the host compares when it loads the module.
#pragma once

#include "gcos/abi.h"

#if !defined(GCOS_PLAYED)
extern "C" __device__ const std::uint64_t gcos_layout_hash = gcos::kLayoutHash;
#endif
