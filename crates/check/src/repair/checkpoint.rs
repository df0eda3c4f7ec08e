//! Fresh checkpoints, written as format.md section 8 says.

use std::collections::BTreeMap;

use gcos_layout::media::{
    BLOCK_BYTES, CHECKPOINT_PAGE_BYTES, CheckpointHeader, PageBuilder, PutRecord, Record,
};

use super::{failed, skipped};
use crate::CheckError;
use crate::area::{page_offset, pages_in};
use crate::drive::Drive;
use crate::findings::Findings;
use crate::journal::Ring;
use crate::metadata::Metadata;
use crate::objects::Objects;
use crate::pool::Pool;

const PAGE_FRONT: usize = 32;

/// The two checkpoints that one drive gets.
#[derive(Debug)]
pub(super) struct Plan<'p, 'a> {
    drive: &'p Drive<'a>,
    metadata: &'p Metadata,
    records: Vec<&'p PutRecord>,
    /// Number of the first: it goes to the area of which the checkpoint does not count.
    number: u64,
}

/// Plans all drives' checkpoints before anything is written; `None`, and a note, when one does not
/// fit.
pub(super) fn plan<'p, 'a>(
    order: &[u8],
    pool: &'p Pool<'a>,
    metadata: &'p BTreeMap<u8, Metadata>,
    objects: &'p Objects,
    findings: &mut Findings,
) -> Result<Option<Vec<Plan<'p, 'a>>>, CheckError> {
    let mut plans = Vec::new();
    for &index in order {
        let (Some(drive), Some(metadata)) = (pool.drive(index), metadata.get(&index)) else {
            continue;
        };
        let live = objects.live().filter(|object| object.source == index);
        let records: Vec<_> = live.map(|object| &object.record).collect();
        let (pages, most) = (page_count(&records), pages_in(drive.zones().checkpoint_bytes));
        if pages > most {
            let why = format!("{pages} pages of records do not fit its area of {most}");
            skipped(drive, "checkpoints", &why, findings);
            return Ok(None);
        }
        let Some(number) = first_number(metadata) else {
            skipped(drive, "checkpoints", "its numbers cannot be true", findings);
            return Ok(None);
        };
        plans.push(Plan { drive, metadata, records, number });
    }
    Ok(Some(plans))
}

/// Above all numbers on the drive, and not in the area of the checkpoint that counts, or that proves
/// most where none does.
fn first_number(metadata: &Metadata) -> Option<u64> {
    let keep = metadata.lost.map_or(metadata.active % 2, |lost| lost.keep);
    let above = metadata.highest.max(metadata.active).checked_add(1)?;
    let number = if above % 2 == keep { above.checked_add(1)? } else { above };
    // Room for the second one, and for what the store writes later.
    let sane = number < u64::MAX / 2 && metadata.next_sequence < u64::MAX / 2;
    sane.then_some(number)
}

/// Pages that the records fill, packed as [`PageBuilder`] packs them.
fn page_count(records: &[&PutRecord]) -> u64 {
    let (mut pages, mut used) = (0, CHECKPOINT_PAGE_BYTES);
    for record in records {
        let len = Record::put_len(record.key.len(), record.pieces.len());
        if used + len > CHECKPOINT_PAGE_BYTES {
            pages += 1;
            used = PAGE_FRONT;
        }
        used += len;
    }
    pages
}

impl Plan<'_, '_> {
    pub(super) fn position(&self) -> usize {
        self.drive.position
    }

    /// Writes the first checkpoint. The one that counted until now stays.
    pub(super) fn write_next(&self, findings: &mut Findings) -> Result<(), CheckError> {
        self.write(self.number, findings)
    }

    /// Writes the second checkpoint, over the one that counted before. Nothing in the journal counts
    /// any more then, and damaged blocks in it are overwritten.
    pub(super) fn write_after(&self, findings: &mut Findings) -> Result<(), CheckError> {
        self.write(self.number + 1, findings)?;
        if !self.metadata.wipe.is_empty() {
            let what = format!("zeros over {} blocks of the journal", self.metadata.wipe.len());
            findings.act(self.drive.name(), what);
        }
        let ring = Ring::new(self.drive);
        for &block in &self.metadata.wipe {
            self.put(ring.offset(block), &[0; BLOCK_BYTES], true, "clearing a journal block")?;
        }
        Ok(())
    }

    fn put(
        &self,
        offset: u64,
        bytes: &[u8],
        fua: bool,
        what: &'static str,
    ) -> Result<(), CheckError> {
        let written = self.drive.disk.write(offset, bytes, fua);
        written.map_err(|source| failed(self.drive, what, source))
    }

    fn write(&self, number: u64, findings: &mut Findings) -> Result<(), CheckError> {
        let what =
            format!("checkpoint {number} of {} objects to area {}", self.records.len(), number % 2);
        findings.act(self.drive.name(), what);
        let area = self.drive.zones().checkpoint_offset(number % 2);
        self.put(area, &[0; BLOCK_BYTES], true, "clearing a checkpoint header")?;
        let checksums = self.write_pages(number, area)?;
        let flushed = self.drive.disk.flush();
        flushed.map_err(|source| failed(self.drive, "flushing checkpoint pages", source))?;
        let header = self.header(number, &checksums).encode();
        self.put(area, &header, true, "writing a checkpoint header")
    }

    fn header(&self, number: u64, checksums: &[u32]) -> CheckpointHeader {
        CheckpointHeader {
            drive_uuid: self.drive.uuid(),
            number,
            // One is left out, so that nobody takes the frames before for a part of the same journal:
            // they name objects that this repair may have dropped.
            journal_sequence: self.metadata.next_sequence + 1,
            journal_block: self.metadata.end.block,
            journal_previous: self.metadata.end.previous,
            pages: u32::try_from(checksums.len()).unwrap_or(u32::MAX),
            records: self.records.len() as u64,
            pages_checksum: CheckpointHeader::sum_pages(checksums.iter().copied()),
        }
    }

    /// Writes the pages; tells their checksums.
    fn write_pages(&self, number: u64, area: u64) -> Result<Vec<u32>, CheckError> {
        let (mut builder, mut checksums) = (PageBuilder::default(), Vec::new());
        for record in &self.records {
            let record = Record::Put((*record).clone());
            if !self.push(&mut builder, &record)? {
                self.write_page(&mut builder, number, area, &mut checksums)?;
                self.push(&mut builder, &record)?;
            }
        }
        if !builder.is_empty() {
            self.write_page(&mut builder, number, area, &mut checksums)?;
        }
        Ok(checksums)
    }

    fn push(&self, builder: &mut PageBuilder, record: &Record) -> Result<bool, CheckError> {
        let drive = || self.drive.name().to_owned();
        builder.push(record).map_err(|source| CheckError::Encode { drive: drive(), source })
    }

    fn write_page(
        &self,
        builder: &mut PageBuilder,
        number: u64,
        area: u64,
        checksums: &mut Vec<u32>,
    ) -> Result<(), CheckError> {
        let page = u32::try_from(checksums.len()).unwrap_or(u32::MAX);
        let (bytes, checksum) = builder.finish(number, page);
        checksums.push(checksum);
        self.put(page_offset(area, page), &bytes, false, "writing a checkpoint page")
    }
}
