// Kernels that drive NVMe queue pairs.
#include "gcos/abi.h"
#include "gcos/batch.h"
#include "gcos/module.h"
#include "gcos/platform.h"

// Carries out a batch: block b owns the queue pair of share b until its commands have ended. Any grid; a block
// is a multiple of 32 threads, at most 256.
GCOS_KERNEL GCOS_MOST_THREADS(gcos::kMaxIoThreads) gcos_io(gcos::Batch batch) {
  GCOS_SHARED(gcos::BlockShared, shared);
  gcos::run_batch(batch, gcos::block_index(), gcos::grid_blocks(), shared, gcos::NoProbe{});
}

// Carries out a batch whose shares may name the same queue pair, and pairs that other launches use at the same
// time. For many small commands of many streams; a pair of one's own is faster. Blocks
// as for gcos_io.
GCOS_KERNEL GCOS_MOST_THREADS(gcos::kMaxIoThreads) gcos_io_shared(gcos::Batch batch) {
  gcos::run_shared_batch(batch, gcos::block_index(), gcos::grid_blocks(), gcos::NoProbe{});
}
