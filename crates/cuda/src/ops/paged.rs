use std::sync::Arc;

use gcos_layout::gpu::{PagedBatch, flag};

use super::scratch::{HEAD_BYTES, REFUSED_AT};
use super::{Memory, ObjectLayout, OpTicket, Ops, PageLayout};
use crate::{DeviceMemory, DeviceSlice, GpuError, Stream};

pub(super) const KERNEL: &str = "gcos_paged_copy";

/// Bytes of a tile, about, of large and of small objects.
const LARGE_TILE: u64 = 32 << 10;
const SMALL_TILE: u64 = 4 << 10;
/// Most tiles of one launch.
const MOST_TILES: u64 = 1 << 30;

/// A paged KV cache: layers of one layout. Made once, used by many copies.
#[derive(Debug)]
pub struct PagedKv {
    layers: Vec<Memory>,
    layout: PageLayout,
    /// The layers' addresses, where kernels read them: every warp does, which host memory is too slow for.
    addresses: DeviceSlice,
    /// All addresses, strides and lengths of pages, or'ed.
    alignment: u64,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the pages to the object.
    Gather,
    /// From the object to the pages.
    Scatter,
}

/// Which pages have the tokens of an object.
#[derive(Debug)]
pub enum Table<'a> {
    /// The blocks that hold them one after the other, the first token in slot `first_slot` of the first
    /// block.
    Blocks {
        /// The blocks.
        blocks: &'a [u32],
        /// Less than the tokens of a block.
        first_slot: u32,
    },
    /// A slot for each token: block times tokens of a block plus place in the block.
    Slots(&'a [i64]),
    /// [`Table::Blocks`] in memory that the GPU reaches, 32 bits each, aligned to 4. Blocks that do not exist
    /// are found by the kernel: their tokens are left out, and the ticket says so.
    DeviceBlocks {
        /// The blocks.
        blocks: Memory,
        /// Less than the tokens of a block.
        first_slot: u32,
    },
    /// [`Table::Slots`] in memory that the GPU reaches, 64 bits each, aligned to 8.
    DeviceSlots(Memory),
}

/// A table where the kernel reads it: its address or its bytes, its flags, its first slot, what is held.
struct Found {
    address: Option<u64>,
    bytes: Vec<u8>,
    flags: u32,
    first_slot: u32,
    held: Option<Memory>,
}

impl Ops {
    /// A cache whose layers lie in `layers`, in order. Eight bytes a layer of `memory` hold their addresses.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] when a layer is shorter than the layout, of another GPU, or there is none;
    /// [`GpuError::NoRoom`], [`GpuError::Cuda`].
    pub fn paged_kv(
        &self,
        memory: &DeviceMemory,
        layers: Vec<Memory>,
        layout: PageLayout,
    ) -> Result<Arc<PagedKv>, GpuError> {
        let extent = layout.extent().ok_or_else(|| {
            let expected =
                "at least one block, token, plane, part and byte, and less than 2^64 bytes";
            self.invalid("layout of pages", expected, u64::from(layout.part_bytes))
        })?;
        if layers.is_empty() {
            return Err(self.invalid("layers of a paged cache", "1 or more", 0));
        }
        let pieces = pieces(&layout, layers.len());
        if pieces > MOST_TILES {
            let expected = "at most 2^30 in all layers";
            return Err(self.invalid("parts of a token", expected, pieces));
        }
        let mut bytes = Vec::with_capacity(layers.len() * 8);
        let mut alignment = strides(&[
            (layout.planes, layout.plane_stride),
            (layout.parts, layout.part_stride),
            (layout.blocks, layout.block_stride),
            (layout.block_tokens, layout.token_stride),
        ]);
        alignment |= u64::from(layout.part_bytes);
        for layer in &layers {
            layer.is_of(self.gpu())?;
            if (layer.len() as u64) < extent {
                let expected = "the extent of the layout";
                return Err(self.invalid("bytes of a layer", expected, layer.len() as u64));
            }
            alignment |= layer.address();
            bytes.extend_from_slice(&layer.address().to_le_bytes());
        }
        let addresses = memory.alloc(bytes.len(), 256)?.as_slice();
        Memory::of(&addresses).is_of(self.gpu())?;
        addresses.copy_in(0, &bytes)?;
        Ok(Arc::new(PagedKv { layers, layout, addresses, alignment }))
    }

    /// Launches a copy of `tokens` tokens between `object` and the pages that `table` names. A table of the
    /// host is checked here; no table makes the kernel touch what is not in the layers. A slot that occurs
    /// twice in a scatter holds either token afterwards, or some of both.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] for an object or a table too short, a block or slot that does not exist, or
    /// memory of another GPU; [`GpuError::Cuda`].
    pub fn paged(
        &self,
        stream: &Stream,
        direction: Direction,
        kv: &Arc<PagedKv>,
        table: Table<'_>,
        (object, at): (Memory, ObjectLayout),
        tokens: u32,
    ) -> Result<OpTicket, GpuError> {
        if tokens == 0 {
            return Ok(OpTicket { flight: None });
        }
        let (layout, layers) = (&kv.layout, kv.layers.len() as u32);
        object.is_of(self.gpu())?;
        let extent = at.extent(layout, layers, tokens);
        if extent.is_none_or(|extent| extent > object.len() as u64) {
            let expected = "at least as many as its layout takes";
            return Err(self.invalid("bytes of an object", expected, object.len() as u64));
        }
        let Found { address, bytes, mut flags, first_slot, held } =
            self.find(table, layout, tokens)?;
        if direction == Direction::Scatter {
            flags |= flag::PAGED_SCATTER;
        }
        let alignment = kv.alignment
            | object.address()
            | strides(&[
                (layers, at.layer_stride),
                (layout.planes, at.plane_stride),
                (layout.parts, at.part_stride),
                (tokens, at.token_stride),
            ]);
        let pieces = pieces(layout, kv.layers.len());
        let tile_tokens = self.tile_tokens(pieces, u64::from(layout.part_bytes), tokens);
        let tiles = pieces * u64::from(tokens.div_ceil(tile_tokens));
        if tiles > MOST_TILES {
            return Err(self.invalid("tiles of a paged copy", "at most 2^30", tiles));
        }
        let lease = Arc::new(self.pool.take(&bytes, 0)?);
        let batch = PagedBatch {
            layers: kv.addresses.device_address(),
            table: address.map_or_else(|| lease.address(HEAD_BYTES), Ok)?,
            object: object.address(),
            refused: lease.address(REFUSED_AT)?,
            object_layer_stride: at.layer_stride,
            object_plane_stride: at.plane_stride,
            object_part_stride: at.part_stride,
            object_token_stride: at.token_stride,
            page_plane_stride: layout.plane_stride,
            page_part_stride: layout.part_stride,
            page_block_stride: layout.block_stride,
            page_token_stride: layout.token_stride,
            layer_count: layers,
            plane_count: layout.planes,
            part_count: layout.parts,
            part_bytes: layout.part_bytes,
            tokens,
            block_tokens: layout.block_tokens,
            block_count: layout.blocks,
            first_slot,
            tile_tokens,
            width: 1 << alignment.trailing_zeros().min(4),
            flags,
            reserved: 0,
        };
        let shape = (self.paged, (tiles as u32).min(self.paged.most_blocks));
        let held = (object, held, Arc::clone(kv));
        let flight = self.launch(stream, KERNEL, shape, &batch.to_bytes(), (lease, held))?;
        Ok(OpTicket { flight: Some(flight) })
    }

    /// Tiles of a size that keeps all blocks busy, and their threads.
    fn tile_tokens(&self, pieces: u64, part_bytes: u64, tokens: u32) -> u32 {
        let all = pieces.saturating_mul(part_bytes).saturating_mul(u64::from(tokens));
        let share = all / u64::from(self.paged.most_blocks);
        let bytes = share.clamp(SMALL_TILE, LARGE_TILE);
        let most = u64::from(self.paged.threads.min(tokens));
        (bytes / part_bytes).clamp(1, most.max(1)) as u32
    }

    /// Checks a table, as far as the host sees it.
    fn find(&self, table: Table<'_>, layout: &PageLayout, tokens: u32) -> Result<Found, GpuError> {
        let found = Found { address: None, bytes: Vec::new(), flags: 0, first_slot: 0, held: None };
        Ok(match table {
            Table::Blocks { blocks, first_slot } => {
                let needed = self.blocks_needed(layout, first_slot, tokens)?;
                let used = blocks.get(..needed).ok_or_else(|| self.short(blocks.len()))?;
                if let Some(&wrong) = used.iter().find(|&&block| block >= layout.blocks) {
                    let expected = "a block that the cache has";
                    return Err(self.invalid("entry of a block table", expected, wrong.into()));
                }
                let bytes = used.iter().flat_map(|block| block.to_le_bytes()).collect();
                Found { bytes, first_slot, ..found }
            }
            Table::Slots(slots) => {
                let used = slots.get(..tokens as usize).ok_or_else(|| self.short(slots.len()))?;
                let end = u64::from(layout.blocks) * u64::from(layout.block_tokens);
                let wrong = |slot: &&i64| u64::try_from(**slot).is_ok_and(|slot| slot < end);
                if let Some(&wrong) = used.iter().find(|slot| !wrong(slot)) {
                    let expected = "a slot that the cache has, 0 or more";
                    return Err(self.invalid("entry of a slot mapping", expected, wrong as u64));
                }
                let bytes = used.iter().flat_map(|slot| slot.to_le_bytes()).collect();
                Found { bytes, flags: flag::PAGED_SLOTS, ..found }
            }
            Table::DeviceBlocks { blocks, first_slot } => {
                let needed = self.blocks_needed(layout, first_slot, tokens)?;
                let address = self.device_table(&blocks, needed as u64 * 4, 4)?;
                Found { address: Some(address), first_slot, held: Some(blocks), ..found }
            }
            Table::DeviceSlots(slots) => {
                let address = self.device_table(&slots, u64::from(tokens) * 8, 8)?;
                let flags = flag::PAGED_SLOTS;
                Found { address: Some(address), flags, held: Some(slots), ..found }
            }
        })
    }

    fn blocks_needed(
        &self,
        layout: &PageLayout,
        first_slot: u32,
        tokens: u32,
    ) -> Result<usize, GpuError> {
        if first_slot >= layout.block_tokens {
            let expected = "less than the tokens of a block";
            return Err(self.invalid("slot of the first token", expected, first_slot.into()));
        }
        let end = u64::from(first_slot) + u64::from(tokens);
        Ok(usize::try_from(end.div_ceil(u64::from(layout.block_tokens))).unwrap_or(usize::MAX))
    }

    fn device_table(&self, table: &Memory, bytes: u64, align: u64) -> Result<u64, GpuError> {
        table.is_of(self.gpu())?;
        if (table.len() as u64) < bytes {
            return Err(self.short(table.len()));
        }
        if !table.address().is_multiple_of(align) {
            let expected = "a multiple of the length of an entry";
            return Err(self.invalid("address of a table", expected, table.address()));
        }
        Ok(table.address())
    }

    fn short(&self, got: usize) -> GpuError {
        let expected = "an entry for every token, or for every block of tokens";
        self.invalid("length of a table", expected, got as u64)
    }
}

/// Pieces of a token that lie apart, in all layers.
fn pieces(layout: &PageLayout, layers: usize) -> u64 {
    let planes = (layers as u64).saturating_mul(u64::from(layout.planes));
    planes.saturating_mul(u64::from(layout.parts))
}

/// Those that count: a stride between less than two things does not.
fn strides(of: &[(u32, u64)]) -> u64 {
    of.iter().filter(|(count, _)| *count > 1).fold(0, |all, (_, stride)| all | stride)
}
