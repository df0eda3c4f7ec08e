// The shares of a batch, block by block.
#pragma once

#include "gcos/abi.h"
#include "gcos/block.h"
#include "gcos/outcome.h"
#include "gcos/pair.h"
#include "gcos/platform.h"
#include "gcos/ticket.h"

namespace gcos {

// Calls `run(share, limit)` for every share that is the block's: `block` of `blocks` has every `blocks`-th. When
// all status words of a share are final, the share is counted in Batch.done, at system scope.
template <class Run>
GCOS_DEVICE void for_each_share(const Batch& batch, std::uint32_t block, std::uint32_t blocks,
                                const Run& run) {
  const Limit limit = limit_of(batch);
  for (std::uint32_t s = block; s < batch.share_count; s += blocks) {
    const Share share = at<const Share>(batch.shares)[s];
    // A share past the commands has no status words to write; its count alone is given.
    if (share.first <= batch.command_count && share.count <= batch.command_count - share.first) {
      run(share, limit);
    }
    sync_block();
    if (thread_index() == 0) {
      fetch_add_release<Scope::kSystem>(at<std::uint32_t>(batch.done), 1u);
    }
  }
}

// Each share on a pair that its block owns.
template <class Probe>
GCOS_DEVICE void run_batch(const Batch& batch, std::uint32_t block, std::uint32_t blocks,
                           BlockShared& shared, const Probe& probe) {
  for_each_share(batch, block, blocks, [&](const Share& share, const Limit& limit) {
    run_share(batch, share, limit, shared, probe);
  });
}

// Shares on pairs that several blocks use.
template <class Probe>
GCOS_DEVICE void run_shared_batch(const Batch& batch, std::uint32_t block, std::uint32_t blocks,
                                  const Probe& probe) {
  for_each_share(batch, block, blocks, [&](const Share& share, const Limit& limit) {
    run_shared(batch, share, limit, probe);
  });
}

}  // namespace gcos
