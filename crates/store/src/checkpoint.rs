//! Writing a checkpoint of one drive while objects come and go.

use gcos_engine::{Request, Ticket};
use gcos_layout::media::{
    BLOCK_BYTES, CHECKPOINT_PAGE_BYTES, CheckpointHeader, PageBuilder, Record, ZoneMap,
};

use crate::StoreError;
use crate::canary::{self, Canary};
use crate::drive::{BlockIo, Drive};
use crate::index::EntryState;
use crate::journal::Start;
use crate::staging::Lease;
use crate::state::State;

/// Entries looked at under one lock of the state.
const BATCH: u32 = 512;
/// Page writes in flight.
const DEPTH: usize = 16;
/// What a page may lose at its end because the next record does not fit.
const PAGE_SLACK: u64 = 36 + 6 * 256 + 1024;

/// Bytes of records that a checkpoint area certainly holds.
pub(crate) fn record_capacity(zones: &ZoneMap) -> u64 {
    let pages = (zones.checkpoint_bytes - BLOCK_BYTES as u64) / CHECKPOINT_PAGE_BYTES as u64;
    pages * (CHECKPOINT_PAGE_BYTES as u64 - 32 - PAGE_SLACK)
}

/// Writes the pages of a checkpoint, several in flight.
struct PageWriter<'a> {
    io: &'a BlockIo,
    zones: &'a ZoneMap,
    number: u64,
    builder: PageBuilder,
    checksums: Vec<u32>,
    records: u64,
    in_flight: std::collections::VecDeque<(Box<dyn Ticket>, Lease)>,
}

impl Drop for PageWriter<'_> {
    /// A page that is still on its way could land on the next checkpoint's.
    fn drop(&mut self) {
        for (ticket, _lease) in self.in_flight.drain(..) {
            let _ = ticket.wait();
        }
    }
}

impl PageWriter<'_> {
    fn push(&mut self, record: &Record) -> Result<(), StoreError> {
        let encode = |source| StoreError::Format {
            drive: self.io.name().to_owned(),
            at: "a checkpoint record".to_owned(),
            source,
        };
        if !self.builder.push(record).map_err(encode)? {
            self.write_page()?;
            self.builder.push(record).map_err(encode)?;
        }
        self.records += 1;
        Ok(())
    }

    fn write_page(&mut self) -> Result<(), StoreError> {
        let page = u32::try_from(self.checksums.len()).unwrap_or(u32::MAX);
        let within = BLOCK_BYTES as u64 + u64::from(page) * CHECKPOINT_PAGE_BYTES as u64;
        if within + CHECKPOINT_PAGE_BYTES as u64 > self.zones.checkpoint_bytes {
            return Err(StoreError::Unopenable {
                drive: self.io.name().to_owned(),
                reason: "its objects' metadata does not fit the checkpoint area".to_owned(),
            });
        }
        let (bytes, checksum) = self.builder.finish(self.number, page);
        self.checksums.push(checksum);
        let lease = self.io.staging.take(bytes.len())?;
        let slice = lease.slice(0, bytes.len())?;
        slice.write(0, &bytes)?;
        let at = self.zones.checkpoint_offset(self.number) + within;
        let request = Request::write(at, slice, false, self.io.deadline);
        self.in_flight.push_back((self.io.engine.submit(request)?, lease));
        match self.in_flight.len() > DEPTH {
            true => self.finish_oldest(),
            false => Ok(()),
        }
    }

    fn finish_oldest(&mut self) -> Result<(), StoreError> {
        if let Some((ticket, _lease)) = self.in_flight.pop_front() {
            ticket.wait()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(Vec<u32>, u64), StoreError> {
        if !self.builder.is_empty() {
            self.write_page()?;
        }
        while !self.in_flight.is_empty() {
            self.finish_oldest()?;
        }
        Ok((std::mem::take(&mut self.checksums), self.records))
    }
}

/// Writes checkpoint `number` of `drive`, whose journal begins at `start`: what the frames before
/// `start` say must already be in `state`. When this returns the checkpoint counts.
///
/// It holds the objects that a recovery at this moment would find: those whose put record is durable
/// and whose end is not. An object that is visible but not recorded yet is left to its record, which
/// will be behind `start`; one that is gone but whose removal is not recorded yet stays.
pub(crate) fn write(
    drive: &Drive,
    state: &parking_lot::Mutex<State>,
    number: u64,
    start: Start,
) -> Result<(), StoreError> {
    let area = drive.zones.checkpoint_offset(number);
    drive.io.write(area, &[0; BLOCK_BYTES], true)?;
    let mut pages = PageWriter {
        io: &drive.io,
        zones: &drive.zones,
        number,
        builder: PageBuilder::default(),
        checksums: Vec::new(),
        records: 0,
        in_flight: std::collections::VecDeque::new(),
    };
    let mut next = 0;
    loop {
        let batch = collect(state, drive, &mut next)?;
        for record in batch.records {
            pages.push(&record)?;
        }
        if batch.last {
            break;
        }
    }
    let (checksums, records) = pages.finish()?;
    if !canary::on(Canary::CheckpointHeaderFirst) {
        drive.io.flush()?;
    }
    let header = CheckpointHeader {
        drive_uuid: drive.superblock.lock().drive_uuid(),
        number,
        journal_sequence: start.sequence,
        journal_block: start.position % drive.zones.journal_blocks(),
        journal_previous: start.previous,
        pages: u32::try_from(checksums.len()).unwrap_or(u32::MAX),
        records,
        pages_checksum: CheckpointHeader::sum_pages(checksums),
    };
    drive.io.write(area, &header.encode(), true)
}

struct Batch {
    records: Vec<Record>,
    last: bool,
}

/// The records of the durable objects among the next entries whose heads are on `drive`.
fn collect(
    state: &parking_lot::Mutex<State>,
    drive: &Drive,
    next: &mut u32,
) -> Result<Batch, StoreError> {
    let state = state.lock();
    let upper = state.index.upper_id();
    let end = next.saturating_add(BATCH).min(upper);
    let mut records = Vec::new();
    for id in *next..end {
        let Some(entry) = state.index.entry(id) else { continue };
        let forgotten =
            canary::on(Canary::CheckpointForgetsDoomed) && entry.state() == EntryState::Doomed;
        if entry.durable() && entry.head().drive == drive.index && !forgotten {
            let record = entry.record().map_err(|source| StoreError::Format {
                drive: drive.io.name().to_owned(),
                at: "an index entry".to_owned(),
                source,
            })?;
            records.push(Record::Put(record));
        }
    }
    *next = end;
    Ok(Batch { records, last: end == upper })
}
