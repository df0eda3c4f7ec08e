// The kernel that computes checksums.
#include "gcos/abi.h"
#include "gcos/checksum.h"
#include "gcos/module.h"
#include "gcos/platform.h"

// CRC-32C of grains, as `gcos_layout::checksum::crc32c`. Any grid; a block is kChecksumThreads
// threads.
GCOS_KERNEL gcos_checksum(gcos::ChecksumBatch batch) {
  GCOS_SHARED(gcos::ChecksumShared, shared);
  gcos::checksum_batch(batch, shared);
}
