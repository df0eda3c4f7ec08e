// The kernel that copies runs of bytes.
#include "gcos/abi.h"
#include "gcos/copy.h"
#include "gcos/module.h"
#include "gcos/platform.h"

// Copies the runs of a batch. Any grid; a block is a multiple of 32 threads.
GCOS_KERNEL gcos_copy(gcos::CopyBatch batch) { gcos::copy_batch(batch); }
