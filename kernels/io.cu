// Kernels that drive NVMe queue pairs.
#include "gcos/abi.h"
#include "gcos/block.h"
#include "gcos/module.h"
#include "gcos/platform.h"

// Carries out a batch: block b owns the queue pair of share b until its commands have ended. Any grid; a block
// is a multiple of 32 threads.
GCOS_KERNEL gcos_io(gcos::Batch batch) {
  GCOS_SHARED(gcos::BlockShared, shared);
  gcos::run_batch(batch, gcos::block_index(), gcos::grid_blocks(), shared, gcos::NoProbe{});
}
