// Copies between one contiguous object and the pages of a paged KV cache.
//
// The work is cut into tiles: some tokens of one part of one plane of one layer. A block of threads
// takes one tile at a time. First its threads look up where the pages have the tile's tokens, then
// they copy, with neighbouring threads at neighbouring units, while what the next tile needs from
// the table is on its way.
//
// A table that names a block that does not exist costs nothing but its tokens: they are left out,
// and a word says so.
#pragma once

#include <cstdint>

#include "gcos/abi.h"
#include "gcos/copy.h"
#include "gcos/platform.h"

namespace gcos {

// Most tokens of a tile.
constexpr std::uint32_t kMaxTileTokens = 256;

// Memory of a block: where in a layer the pages have the tokens of this tile and the next one.
struct PagedShared {
  std::uint64_t pages[2][kMaxTileTokens];
};

namespace detail {

// A token that the pages do not have.
constexpr std::uint64_t kNowhere = ~std::uint64_t{0};

// Which tokens of what.
struct Tile {
  std::uint32_t layer;
  std::uint32_t plane;
  std::uint32_t part;
  std::uint32_t first;  // token
  std::uint32_t count;  // tokens
};

GCOS_DEVICE Tile tile_of(const PagedBatch& batch, std::uint32_t tiles, std::uint32_t index) {
  Tile tile;
  std::uint32_t rest = index / tiles;
  tile.first = (index - rest * tiles) * batch.tile_tokens;
  const std::uint32_t left = batch.tokens - tile.first;
  tile.count = left < batch.tile_tokens ? left : batch.tile_tokens;
  tile.part = rest % batch.part_count;
  rest /= batch.part_count;
  tile.plane = rest % batch.plane_count;
  tile.layer = rest / batch.plane_count;
  return tile;
}

// Offset of a token's bytes in a plane of a layer.
GCOS_DEVICE std::uint64_t page_of(const PagedBatch& batch, std::uint32_t token) {
  std::uint64_t block;
  std::uint32_t slot;
  if ((batch.flags & kPagedSlots) != 0) {
    const std::uint64_t place = at<const std::uint64_t>(batch.table)[token];
    // A negative slot is past every block.
    if (place >= std::uint64_t{batch.block_count} * batch.block_tokens) return kNowhere;
    block = place / batch.block_tokens;
    slot = static_cast<std::uint32_t>(place - block * batch.block_tokens);
  } else {
    const std::uint64_t place = std::uint64_t{batch.first_slot} + token;
    const std::uint64_t index = place / batch.block_tokens;
    slot = static_cast<std::uint32_t>(place - index * batch.block_tokens);
    block = at<const std::uint32_t>(batch.table)[index];
    if (block >= batch.block_count) return kNowhere;
  }
  return block * batch.page_block_stride + slot * batch.page_token_stride;
}

// Where a thread is in a tile, as the tile's units are dealt out in turn, and how far it goes on.
struct Cursor {
  std::uint32_t token;
  std::uint32_t unit;  // of the token
};

// Copies a tile; unit u of token t lies at pages[t] + u units in the pages.
template <class Unit>
GCOS_DEVICE void copy_tile(const PagedBatch& batch, const Tile& tile, const std::uint64_t* pages,
                           std::uint64_t page_base, std::uint64_t object_base) {
  constexpr std::uint32_t kAtOnce = 4;
  const bool scatter = (batch.flags & kPagedScatter) != 0;
  const std::uint32_t units = batch.part_bytes / static_cast<std::uint32_t>(sizeof(Unit));
  const std::uint32_t step_tokens = block_threads() / units;
  const std::uint32_t step_units = block_threads() - step_tokens * units;
  Cursor here{thread_index() / units, thread_index() % units};
  while (here.token < tile.count) {
    Unit loaded[kAtOnce];
    Unit* to[kAtOnce];
    for (std::uint32_t k = 0; k < kAtOnce; ++k) {
      to[k] = nullptr;
      if (here.token < tile.count && pages[here.token] != kNowhere) {
        const std::uint64_t inside = std::uint64_t{here.unit} * sizeof(Unit);
        const std::uint64_t page = page_base + pages[here.token] + inside;
        const std::uint64_t object = object_base + here.token * batch.object_token_stride + inside;
        loaded[k] = load_unit(at<const Unit>(scatter ? object : page));
        to[k] = at<Unit>(scatter ? page : object);
      }
      here.token += step_tokens;
      here.unit += step_units;
      if (here.unit >= units) {
        here.unit -= units;
        here.token += 1;
      }
    }
    for (std::uint32_t k = 0; k < kAtOnce; ++k) {
      if (to[k] != nullptr) store_unit(to[k], loaded[k]);
    }
  }
}

GCOS_DEVICE void copy_tile(const PagedBatch& batch, const Tile& tile, const std::uint64_t* pages,
                           std::uint64_t layer) {
  const std::uint64_t page_base =
      layer + tile.plane * batch.page_plane_stride + tile.part * batch.page_part_stride;
  const std::uint64_t object_base = batch.object + tile.layer * batch.object_layer_stride +
                                    tile.plane * batch.object_plane_stride +
                                    tile.part * batch.object_part_stride +
                                    tile.first * batch.object_token_stride;
  switch (batch.width) {
    case 16:
      return copy_tile<Chunk>(batch, tile, pages, page_base, object_base);
    case 8:
      return copy_tile<std::uint64_t>(batch, tile, pages, page_base, object_base);
    case 4:
      return copy_tile<std::uint32_t>(batch, tile, pages, page_base, object_base);
    case 2:
      return copy_tile<std::uint16_t>(batch, tile, pages, page_base, object_base);
    default:
      return copy_tile<std::uint8_t>(batch, tile, pages, page_base, object_base);
  }
}

}  // namespace detail

// Carries out a batch; the blocks take turns. A block has at least as many threads as a tile has
// tokens.
GCOS_DEVICE void paged_batch(const PagedBatch& batch, PagedShared& shared) {
  using namespace detail;
  const std::uint32_t thread = thread_index();
  const std::uint32_t tiles = (batch.tokens + batch.tile_tokens - 1) / batch.tile_tokens;
  const std::uint32_t count = tiles * batch.layer_count * batch.plane_count * batch.part_count;
  const std::uint64_t* layers = at<const std::uint64_t>(batch.layers);
  bool refused = false;
  std::uint32_t turn = 0;
  std::uint32_t index = block_index();
  Tile tile{};
  std::uint64_t layer = 0;
  if (index < count) {
    tile = tile_of(batch, tiles, index);
    layer = layers[tile.layer];
    if (thread < tile.count) shared.pages[turn][thread] = page_of(batch, tile.first + thread);
  }
  while (index < count) {
    // The tile's pages are there, and nobody reads those of the tile before any more.
    sync_block();
    const std::uint64_t* pages = shared.pages[turn];
    refused = refused || (thread < tile.count && pages[thread] == kNowhere);
    turn ^= 1;
    index += grid_blocks();
    Tile next{};
    std::uint64_t next_layer = 0;
    std::uint64_t next_page = 0;
    if (index < count) {
      next = tile_of(batch, tiles, index);
      next_layer = layers[next.layer];
      if (thread < next.count) next_page = page_of(batch, next.first + thread);
    }
    copy_tile(batch, tile, pages, layer);
    if (thread < next.count) shared.pages[turn][thread] = next_page;
    tile = next;
    layer = next_layer;
  }
  if (refused) store_relaxed<Scope::kSystem>(at<std::uint32_t>(batch.refused), std::uint32_t{1});
}

}  // namespace gcos
