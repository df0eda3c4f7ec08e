//! Which object holds which blocks.

use std::collections::{BTreeMap, HashMap};

use gcos_layout::media::{BLOCK_BYTES, Location, PutRecord, SlotClass};

use crate::FindingCode;
use crate::pool::Pool;

/// A head or piece.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) at: Location,
    pub(crate) blocks: u32,
}

/// The head and the pieces of an object.
pub(crate) fn parts(record: &PutRecord) -> impl Iterator<Item = Part> + '_ {
    let head = Part { at: record.head, blocks: record.shape.head_blocks(record.key.len()) };
    let pieces = record.pieces.iter().enumerate();
    std::iter::once(head)
        .chain(pieces.map(|(i, &at)| Part { at, blocks: record.shape.piece_blocks(i) }))
}

/// Why an object cannot exist where its record says.
#[derive(Debug)]
pub(crate) struct Impossible {
    pub(crate) code: FindingCode,
    pub(crate) detail: String,
}

/// A part that is inside its drive, and its slot.
#[derive(Debug, Clone, Copy)]
struct Slot {
    part: Part,
    class: SlotClass,
    bytes: u64,
}

/// Slots taken in one chunk.
#[derive(Debug)]
struct Chunk {
    class: SlotClass,
    /// First block → block behind the last.
    taken: BTreeMap<u32, u32>,
}

/// Slots taken in the pool.
#[derive(Debug, Default)]
pub(crate) struct Space {
    chunks: HashMap<(u8, u32), Chunk>,
}

/// What an object takes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Taken {
    /// Bytes of slots on the drives present.
    pub(crate) bytes: u64,
    /// Whether a part lies on a missing drive.
    pub(crate) incomplete: bool,
}

impl Space {
    /// Takes the slots of an object, or none and tells why.
    pub(crate) fn take(
        &mut self,
        record: &PutRecord,
        pool: &Pool<'_>,
    ) -> Result<Taken, Impossible> {
        let mut taken = Taken::default();
        let mut slots = Vec::new();
        for part in parts(record) {
            match slot_of(part, pool)? {
                Some(slot) => slots.push(slot),
                None => taken.incomplete = true,
            }
        }
        for (done, slot) in slots.iter().enumerate() {
            if let Err(error) = self.take_slot(slot) {
                for slot in slots.iter().take(done) {
                    self.give_slot(slot);
                }
                return Err(error);
            }
            taken.bytes += slot.bytes;
        }
        Ok(taken)
    }

    fn take_slot(&mut self, slot: &Slot) -> Result<(), Impossible> {
        let Part { at, blocks } = slot.part;
        let chunk = self
            .chunks
            .entry((at.drive, at.chunk))
            .or_insert_with(|| Chunk { class: slot.class, taken: BTreeMap::new() });
        let (first, end) = (u32::from(at.block), u32::from(at.block) + blocks);
        let before = chunk.taken.range(..end).next_back();
        if let Some((&theirs, _)) = before.filter(|&(_, &their_end)| their_end > first) {
            let detail = format!("blocks from {first} on of {}, held from {theirs} on", place(at));
            return Err(Impossible { code: FindingCode::Overlap, detail });
        }
        if chunk.class != slot.class {
            let (got, has) = (slot.class.slots(), chunk.class.slots());
            let detail = format!("a slot of 1/{got} in {} of {has} slots", place(at));
            return Err(Impossible { code: FindingCode::SlotSizesMixed, detail });
        }
        chunk.taken.insert(first, end);
        Ok(())
    }

    fn give_slot(&mut self, slot: &Slot) {
        let at = slot.part.at;
        if let Some(chunk) = self.chunks.get_mut(&(at.drive, at.chunk)) {
            chunk.taken.remove(&u32::from(at.block));
            if chunk.taken.is_empty() {
                self.chunks.remove(&(at.drive, at.chunk));
            }
        }
    }
}

fn place(at: Location) -> String {
    format!("chunk {} of drive {}", at.chunk, at.drive)
}

/// The slot of a part; `None` when its drive is missing.
fn slot_of(part: Part, pool: &Pool<'_>) -> Result<Option<Slot>, Impossible> {
    let Part { at, blocks } = part;
    let outside = |what: &str| Impossible {
        code: FindingCode::LocationOutOfRange,
        detail: format!("block {} of {}: {what}", at.block, place(at)),
    };
    if usize::from(at.drive) >= pool.members {
        return Err(outside("the pool has no such drive"));
    }
    let Some(drive) = pool.drive(at.drive) else { return Ok(None) };
    let (zones, first) = (drive.zones(), u32::from(at.block));
    let chunk_blocks = zones.chunk_blocks();
    let offset = zones.data_offset(at.chunk, first).ok_or_else(|| outside("no such block"))?;
    if first + blocks > chunk_blocks {
        return Err(outside("it crosses the chunk's end"));
    }
    let end = offset.saturating_add(u64::from(blocks) * BLOCK_BYTES as u64);
    if end > drive.disk.engine().geometry().capacity {
        return Err(outside("the drive ends before it"));
    }
    let class = SlotClass::for_blocks(blocks, chunk_blocks)
        .ok_or_else(|| outside("it does not fit a chunk"))?;
    let slot = class.slot_blocks(chunk_blocks);
    if first % slot != 0 || first / slot >= class.slots() {
        let detail = format!("block {first} of {} starts no slot of {slot} blocks", place(at));
        return Err(Impossible { code: FindingCode::SlotMisplaced, detail });
    }
    Ok(Some(Slot { part, class, bytes: u64::from(slot) * BLOCK_BYTES as u64 }))
}
