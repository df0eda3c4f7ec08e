// The kernel that copies between a contiguous object and the pages of a cache.
#include "gcos/abi.h"
#include "gcos/module.h"
#include "gcos/paged.h"
#include "gcos/platform.h"

// Copies the tokens of a batch. Any grid; a block is a multiple of 32 threads, at least
// tile_tokens.
GCOS_KERNEL gcos_paged_copy(gcos::PagedBatch batch) {
  GCOS_SHARED(gcos::PagedShared, shared);
  gcos::paged_batch(batch, shared);
}
