//! Objects that only their own headers tell of (format.md, section 5).
//!
//! A header shows that an object was written, not that it was ever acknowledged, nor that it is not
//! removed or replaced since. So these objects count only where somebody asks for them.

use gcos_layout::media::{
    BLOCK_BYTES, CHECKPOINT_PAGE_BYTES, Location, MAX_KEY_BYTES, ObjectHeader, PutRecord, Record,
    Uuid,
};

use crate::area::pages_in;
use crate::disk::TRANSFER_BYTES;
use crate::drive::Drive;
use crate::{Phase, Progress};

/// Blocks of the longest header: most pieces, longest key, most grains.
const LONGEST_HEADER: u16 = 17;

/// What a pass over a drive's data zone found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Objects by their headers, in the order of their places.
    pub(crate) records: Vec<PutRecord>,
    /// Whether there were more than the drive has room to record.
    pub(crate) more: bool,
    /// Blocks that could not be read.
    pub(crate) unreadable: u64,
}

/// Reads the whole data zone of a drive. `epoch` is the latest that is known: later objects cannot be.
pub(crate) fn scan(
    drive: &Drive<'_>,
    pool: &Uuid,
    epoch: u64,
    progress: &mut dyn FnMut(Progress),
) -> Found {
    let zones = drive.zones();
    let chunk_bytes = u64::from(zones.chunks.data);
    let total = u64::from(zones.data_chunks()) * chunk_bytes;
    let mut scan = Scan {
        drive,
        pool,
        epoch,
        room: pages_in(zones.checkpoint_bytes).saturating_mul(CHECKPOINT_PAGE_BYTES as u64),
        found: Found::default(),
    };
    for chunk in 0..zones.data_chunks() {
        let mut block = 0;
        while block < zones.chunk_blocks() {
            block += scan.stretch(chunk, block);
            let done = u64::from(chunk) * chunk_bytes + u64::from(block) * BLOCK_BYTES as u64;
            progress(Progress { phase: Phase::Headers, done, total });
        }
    }
    scan.found
}

struct Scan<'s, 'a> {
    drive: &'s Drive<'a>,
    pool: &'s Uuid,
    epoch: u64,
    /// Bytes of records that a checkpoint of the drive still holds: a bound on memory.
    room: u64,
    found: Found,
}

impl Scan<'_, '_> {
    /// Looks at as many blocks as one transfer brings; tells how many.
    fn stretch(&mut self, chunk: u32, first: u32) -> u32 {
        let most = (TRANSFER_BYTES / BLOCK_BYTES) as u32;
        let count = most.min(self.drive.zones().chunk_blocks() - first);
        match self.read(chunk, first, count) {
            Some(bytes) => {
                for (block, bytes) in (first..).zip(bytes.chunks(BLOCK_BYTES)) {
                    self.look(chunk, block, bytes);
                }
            }
            // A read that failed says nothing of its blocks but one.
            None => {
                for block in first..first + count {
                    match self.read(chunk, block, 1) {
                        Some(bytes) => self.look(chunk, block, &bytes),
                        None => self.found.unreadable += 1,
                    }
                }
            }
        }
        count
    }

    fn read(&self, chunk: u32, block: u32, count: u32) -> Option<Vec<u8>> {
        let offset = self.drive.zones().data_offset(chunk, block)?;
        self.drive.disk.read(offset, count as usize * BLOCK_BYTES).ok()
    }

    fn look(&mut self, chunk: u32, block: u32, bytes: &[u8]) {
        let Ok(blocks @ 1..=LONGEST_HEADER) = ObjectHeader::peek_blocks(bytes) else { return };
        if u32::from(blocks) > self.drive.zones().chunk_blocks() - block {
            return;
        }
        let whole = match blocks {
            1 => bytes.to_vec(),
            _ => match self.read(chunk, block, blocks.into()) {
                Some(whole) => whole,
                None => return,
            },
        };
        let Ok((header, root)) = ObjectHeader::decode(&whole) else { return };
        let here = u16::try_from(block)
            .is_ok_and(|block| header.head == Location { drive: self.drive.index(), chunk, block });
        let possible = header.generation >> 40 <= self.epoch && header.key.len() <= MAX_KEY_BYTES;
        if !here || !possible || header.pool_uuid != *self.pool {
            return;
        }
        let len = Record::put_len(header.key.len(), header.pieces.len()) as u64;
        if len > self.room {
            self.found.more = true;
            return;
        }
        self.room -= len;
        self.found.records.push(PutRecord {
            key: header.key,
            generation: header.generation,
            root,
            expiry: header.expiry,
            shape: header.shape,
            head: header.head,
            pieces: header.pieces,
        });
    }
}
