//! What happens to media while nothing runs.

use std::collections::HashSet;

use fastrand::Rng;
use gcos_emulator::Medium;
use gcos_layout::media::{
    BLOCK_BYTES, CHECKPOINT_PAGE_BYTES, CheckpointHeader, CheckpointPage, FrameBuilder,
    JournalFrame, Record, Superblock, Uuid, ZoneMap,
};

use crate::model::Excuse;
use crate::plan::{Decay, Region};
use crate::world::region_bytes;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A drive that decays.
#[derive(Debug)]
pub struct Patient<'a> {
    /// What it holds.
    pub medium: &'a Medium,
    /// What it held when the last round began.
    pub before: &'a [u8],
    /// Its zones.
    pub zones: &'a ZoneMap,
}

impl Patient<'_> {
    fn read(&self, at: u64) -> Result<Vec<u8>, String> {
        let mut block = vec![0; BLOCK_BYTES];
        self.medium.peek(at, &mut block).map_err(|error| error.to_string())?;
        Ok(block)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), String> {
        self.medium.poke(at, bytes).map_err(|error| error.to_string())
    }

    fn flip(&self, at: u64, rng: &mut Rng) -> Result<(), String> {
        let block = at / BLOCK * BLOCK;
        let mut bytes = self.read(block)?;
        bytes[(at - block) as usize] ^= 1 << rng.u8(0..8);
        self.write(block, &bytes)
    }

    /// Lets it happen: what is excused from then on. `twins` are frames by which others were replaced, known
    /// by the frame that they name before them.
    ///
    /// # Errors
    /// The simulator's own.
    pub fn suffer(
        &self,
        decay: Decay,
        rng: &mut Rng,
        twins: &mut HashSet<u32>,
    ) -> Result<Excuse, String> {
        match decay {
            Decay::Rot(region, bits) => {
                let bytes = region_bytes(self.zones, region);
                for _ in 0..bits {
                    self.flip(self.used(&bytes, rng)?, rng)?;
                }
                Ok(excuse(region))
            }
            Decay::OneCheckpoint => self.one_checkpoint(rng),
            Decay::Superblocks(copies) => {
                let mut places = self.zones.superblock_offsets();
                rng.shuffle(&mut places);
                // Those that are bad already count: so many copies are bad then, not so many more.
                let good = self.superblock()?;
                let held = |at: &u64| self.read(*at).is_ok_and(|block| Some(block) == good);
                places.sort_by_key(held);
                for &place in places.iter().take(copies.into()) {
                    self.flip(place + rng.u64(0..BLOCK), rng)?;
                }
                Ok(Excuse::Nothing)
            }
            Decay::Stale(region, blocks) => {
                let bytes = region_bytes(self.zones, region);
                let mut changed = Vec::new();
                for at in (bytes.start..bytes.end).step_by(BLOCK_BYTES) {
                    let now = self.read(at)?;
                    let old = &self.before[at as usize..][..BLOCK_BYTES];
                    if now != old {
                        changed.push(at);
                    }
                }
                let old_superblocks = self.zones.superblock_offsets();
                changed.retain(|at| !old_superblocks.contains(at));
                // Blocks side by side: a whole write that was lost.
                let first = rng.usize(0..changed.len().max(1));
                for &at in changed.iter().skip(first).take(blocks.into()) {
                    self.write(at, &self.before[at as usize..][..BLOCK_BYTES])?;
                }
                Ok(excuse(region))
            }
            Decay::Rollback => {
                for (at, old) in (0..).step_by(BLOCK_BYTES).zip(self.before.chunks(BLOCK_BYTES)) {
                    if self.read(at)? != old {
                        self.write(at, old)?;
                    }
                }
                Ok(Excuse::Anything)
            }
            Decay::Splice => self.splice(twins),
        }
    }

    /// The superblock that counts: of those that two copies hold, the one with the highest sequence.
    fn superblock(&self) -> Result<Option<Vec<u8>>, String> {
        let mut found: Vec<(u64, Vec<u8>)> = Vec::new();
        for at in self.zones.superblock_offsets() {
            let block = self.read(at)?;
            if let Ok(superblock) = Superblock::decode(&block) {
                found.push((superblock.sequence, block));
            }
        }
        let agreed = |one: &&(u64, Vec<u8>)| found.iter().filter(|other| other == one).count() > 1;
        let best = found.iter().filter(agreed).max_by_key(|(sequence, _)| *sequence);
        Ok(best.map(|(_, block)| block.clone()))
    }

    /// A byte of a region that is in use, if chance finds one.
    fn used(&self, bytes: &std::ops::Range<u64>, rng: &mut Rng) -> Result<u64, String> {
        let copies = self.zones.superblock_offsets();
        let mut at = bytes.start;
        for _ in 0..50 {
            at = rng.u64(bytes.clone());
            let block = at / BLOCK * BLOCK;
            if !copies.contains(&block) && self.read(block)?.iter().any(|&byte| byte != 0) {
                break;
            }
        }
        // A superblock is no part of any region.
        Ok(if copies.contains(&(at / BLOCK * BLOCK)) { bytes.start } else { at })
    }

    fn drive_uuid(&self) -> Result<Option<Uuid>, String> {
        for at in self.zones.superblock_offsets() {
            if let Ok(superblock) = Superblock::decode(&self.read(at)?) {
                return Ok(Some(superblock.drive_uuid()));
            }
        }
        Ok(None)
    }

    /// One of two checkpoints may be lost without any loss; the only one may not.
    fn one_checkpoint(&self, rng: &mut Rng) -> Result<Excuse, String> {
        let Some(uuid) = self.drive_uuid()? else { return Ok(Excuse::Nothing) };
        let mut headers = Vec::new();
        for area in 0..2 {
            let at = self.zones.checkpoint_offset(area);
            if let Ok(header) = CheckpointHeader::decode(&self.read(at)?, &uuid)
                && self.pages_are_whole(at, &header)?
            {
                headers.push((at, header));
            }
        }
        if headers.len() < 2 {
            return Ok(Excuse::Nothing);
        }
        headers.sort_by_key(|(_, header)| header.number);
        let (at, header) = &headers[usize::from(rng.u8(0..4) > 0)];
        let pages = u64::from(header.pages) * CHECKPOINT_PAGE_BYTES as u64;
        let bytes = if pages > 0 && rng.bool() {
            // Where records are, not in what is zero behind them.
            at + BLOCK + rng.u64(0..200.min(pages))
        } else {
            at + rng.u64(0..76)
        };
        self.flip(bytes, rng)?;
        Ok(Excuse::Nothing)
    }

    /// Whether every page counts of the checkpoint whose header is at `at`.
    fn pages_are_whole(&self, at: u64, header: &CheckpointHeader) -> Result<bool, String> {
        let mut page = vec![0; CHECKPOINT_PAGE_BYTES];
        for number in 0..header.pages {
            let place = at + BLOCK + u64::from(number) * CHECKPOINT_PAGE_BYTES as u64;
            self.medium.peek(place, &mut page).map_err(|error| error.to_string())?;
            if CheckpointPage::decode(&page, header.number, number).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The last frame, and where it is in the ring.
    fn last_frame(&self) -> Result<Option<(u64, JournalFrame, Uuid)>, String> {
        let Some(uuid) = self.drive_uuid()? else { return Ok(None) };
        let journal = region_bytes(self.zones, Region::Journal);
        let mut ring = vec![0; self.zones.journal_bytes as usize];
        self.medium.peek(journal.start, &mut ring).map_err(|error| error.to_string())?;
        let frames = (0..ring.len()).step_by(BLOCK_BYTES).filter_map(|at| {
            JournalFrame::decode(&ring[at..], &uuid).ok().map(|frame| (at as u64, frame))
        });
        let last = frames.max_by_key(|(_, frame)| frame.sequence);
        Ok(last.map(|(at, frame)| (journal.start + at, frame, uuid)))
    }

    /// The last frame gets a twin that names another frame before it.
    fn splice(&self, twins: &mut HashSet<u32>) -> Result<Excuse, String> {
        let Some((at, frame, uuid)) = self.last_frame()? else { return Ok(Excuse::Nothing) };
        if twins.contains(&frame.previous) {
            // The twin of a twin is the frame itself, which counts.
            return Ok(Excuse::Nothing);
        }
        twins.insert(!frame.previous);
        let mut builder = FrameBuilder::default();
        for record in &frame.records {
            builder.push(record).map_err(|error| error.to_string())?;
        }
        let (bytes, _) = builder.finish(frame.sequence, frame.epoch, !frame.previous, &uuid);
        self.write(at, &bytes)?;
        Ok(Excuse::Journal)
    }

    /// Keys and generations that the last frame alone names: of a drive that has no checkpoint.
    ///
    /// # Errors
    /// The simulator's own.
    pub fn spliced(&self) -> Result<Vec<(Vec<u8>, u64)>, String> {
        for area in 0..2 {
            let header = self.read(self.zones.checkpoint_offset(area))?;
            if header.iter().any(|&byte| byte != 0) {
                return Ok(Vec::new());
            }
        }
        let Some((_, frame, _)) = self.last_frame()? else { return Ok(Vec::new()) };
        let named = frame.records.into_iter().filter_map(|record| match record {
            Record::Put(put) => Some((put.key, put.generation)),
            Record::Remove(_) => None,
        });
        Ok(named.collect())
    }
}

fn excuse(region: Region) -> Excuse {
    match region {
        Region::Data => Excuse::Losses,
        Region::Journal => Excuse::Journal,
        Region::Checkpoints => Excuse::Anything,
    }
}
