//! Verified load on a raw queue pair: 32 commands in flight, every byte that is read compared.

use std::time::{Duration, Instant};

use gcos_hw::{DmaSlice, PAGE_BYTES};
use gcos_layout::nvme::{DataPointer, IoCommand};

use crate::drive::{check, fill};
use crate::raw::Raw;
use crate::report::{Trouble, ensure, failed};

/// Commands in flight.
pub(crate) const DEPTH: u16 = 32;
/// Entries of the queues: one more than are in flight.
pub(crate) const ENTRIES: u32 = 64;
/// Bytes that one command moves at most.
const MOST: usize = 8 * PAGE_BYTES;
/// Memory of one slot: data, then its PRP list.
const SLOT: usize = MOST + PAGE_BYTES;
/// Data memory of all slots.
pub(crate) const BYTES: usize = SLOT * DEPTH as usize;

const LONGEST: Duration = Duration::from_secs(60);

/// What a slot does: its own stretch of the medium is written, read back and compared, in turn.
#[derive(Debug)]
struct Slot {
    memory: DmaSlice,
    list: DmaSlice,
    slba: u64,
    seed: u64,
    bytes: usize,
    reading: bool,
}

/// Runs `commands` commands over data memory `memory` ([`BYTES`] of it) and lists in `lists` (a page for
/// each slot); returns the time that they took.
pub(crate) fn run(
    raw: &mut Raw,
    memory: &DmaSlice,
    lba_bytes: u64,
    commands: u32,
    seed: u64,
) -> Result<Duration, Trouble> {
    let start = Instant::now();
    let mut slots = Vec::new();
    for index in 0..usize::from(DEPTH) {
        let all = memory.slice(index * SLOT, SLOT)?;
        slots.push(Slot {
            memory: all.slice(0, MOST)?,
            list: all.slice(MOST, PAGE_BYTES)?,
            slba: (index * MOST) as u64 / lba_bytes,
            seed: seed << 40 | (index as u64) << 32,
            bytes: 0,
            reading: true,
        });
    }
    let (mut posted, mut ended) = (0, 0);
    for (cid, slot) in (0..).zip(&mut slots) {
        slot.next(raw, cid, lba_bytes)?;
        posted += 1;
    }
    raw.ring();
    while ended < posted {
        ensure(start.elapsed() < LONGEST, || format!("{ended} commands in {LONGEST:?}"))?;
        let cqe = raw.wait()?;
        ended += 1;
        let Some(slot) = slots.get_mut(usize::from(cqe.cid())) else {
            return failed(format!("a completion for a command that was never posted: {cqe:?}"));
        };
        ensure(cqe.status().is_success(), || format!("command {ended}: {}", cqe.status()))?;
        if slot.reading {
            check(&slot.memory.slice(0, slot.bytes)?, slot.seed)?;
        }
        // Written but not read back yet: goes on past the number asked for.
        if posted < commands || !slot.reading {
            slot.next(raw, cqe.cid(), lba_bytes)?;
            raw.ring();
            posted += 1;
        }
    }
    ensure(ended >= commands, || format!("only {ended} commands"))?;
    Ok(start.elapsed())
}

impl Slot {
    /// Posts a write of something new, or the read of what was written.
    fn next(&mut self, raw: &mut Raw, cid: u16, lba_bytes: u64) -> Result<(), Trouble> {
        self.reading = !self.reading;
        if !self.reading {
            self.seed += 1;
            // One page, two pages and a list, in turn; not from the start of a page every third time.
            self.bytes = [PAGE_BYTES, 2 * PAGE_BYTES, MOST][self.seed as usize % 3];
            fill(&self.memory.slice(0, self.bytes)?, self.seed)?;
        } else {
            self.memory.fill(0, self.bytes, 0xEE)?;
        }
        let nlb = (self.bytes as u64 / lba_bytes) as u32;
        let command = match self.reading {
            true => IoCommand::Read { slba: self.slba, nlb, fua: false },
            false => IoCommand::Write { slba: self.slba, nlb, fua: false },
        };
        let data = pages(&self.memory, &self.list, self.bytes / PAGE_BYTES)?;
        raw.post(cid, &command, data)
    }
}

/// PRP entries for the first pages of page-aligned memory, the list in `list`.
pub(crate) fn pages(
    memory: &DmaSlice,
    list: &DmaSlice,
    count: usize,
) -> Result<DataPointer, Trouble> {
    let page = |index: usize| memory.iova() + (index * PAGE_BYTES) as u64;
    let prp2 = match count {
        0 | 1 => 0,
        2 => page(1),
        _ => {
            for index in 1..count {
                list.write((index - 1) * 8, &page(index).to_le_bytes())?;
            }
            list.iova()
        }
    };
    Ok(DataPointer::Prp { prp1: page(0), prp2 })
}
