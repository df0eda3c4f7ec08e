//! The two checkpoint areas of one drive (format.md, section 8).

use gcos_layout::media::{
    BLOCK_BYTES, CHECKPOINT_PAGE_BYTES, CheckpointHeader, CheckpointPage, FormatError, PutRecord,
};

use crate::disk::TRANSFER_BYTES;
use crate::drive::Drive;
use crate::findings::{Findings, Fix};
use crate::{DiskError, FindingCode, Severity};

/// Pages that one read brings in.
const PAGES_AT_ONCE: u32 = (TRANSFER_BYTES / CHECKPOINT_PAGE_BYTES) as u32;

/// Most pages that an area of this length holds.
pub(crate) fn pages_in(checkpoint_bytes: u64) -> u64 {
    checkpoint_bytes.saturating_sub(BLOCK_BYTES as u64) / CHECKPOINT_PAGE_BYTES as u64
}

/// Offset of a page.
pub(crate) fn page_offset(area_offset: u64, page: u32) -> u64 {
    area_offset + BLOCK_BYTES as u64 + u64::from(page) * CHECKPOINT_PAGE_BYTES as u64
}

/// What a reader learnt of one area besides its records.
#[derive(Debug, Default)]
pub(crate) struct AreaState {
    /// The header, when there is one for this drive that makes sense.
    pub(crate) header: Option<CheckpointHeader>,
    /// Number in a header that decodes, whether or not its checkpoint counts; 0 for none.
    pub(crate) number: u64,
    /// Whether something could not be read for a reason other than damage.
    pub(crate) unreachable: Option<String>,
}

/// Reader of one area.
#[derive(Debug)]
pub(crate) struct Area<'d, 'a> {
    drive: &'d Drive<'a>,
    area: u64,
}

impl<'d, 'a> Area<'d, 'a> {
    pub(crate) fn new(drive: &'d Drive<'a>, area: u64) -> Self {
        Self { drive, area }
    }

    fn offset(&self) -> u64 {
        self.drive.zones().checkpoint_offset(self.area)
    }

    fn add(&self, code: FindingCode, what: &str, detail: String, findings: &mut Findings) {
        let fix = Fix::Checkpoint(self.drive.position);
        let what = format!("checkpoint area {}{what}", self.area);
        findings.add(code, fix, Some(self.drive.name()), what, detail);
    }

    /// Reads and judges the header.
    pub(crate) fn header(&self, findings: &mut Findings) -> AreaState {
        let mut state = AreaState::default();
        let block = match self.drive.disk.read(self.offset(), BLOCK_BYTES) {
            Ok(block) => block,
            Err(error) => {
                self.unreadable(&error, ": header", &mut state, findings);
                return state;
            }
        };
        if block.iter().all(|&byte| byte == 0) {
            return state;
        }
        match CheckpointHeader::decode(&block, &self.drive.uuid()) {
            Ok(header) => self.judge(header, &mut state, findings),
            Err(error) => self.no_header(&block, &error, findings),
        }
        state
    }

    fn unreadable(
        &self,
        error: &DiskError,
        what: &str,
        state: &mut AreaState,
        findings: &mut Findings,
    ) {
        if !error.is_damage() {
            state.unreachable = Some(error.text());
        }
        self.add(FindingCode::CheckpointUnreadable, what, error.text(), findings);
    }

    /// A checkpoint that an earlier pool left is nothing to worry about.
    fn no_header(&self, block: &[u8], error: &FormatError, findings: &mut Findings) {
        let theirs = block.get(16..32).and_then(|uuid| uuid.try_into().ok());
        if theirs.is_some_and(|uuid| CheckpointHeader::decode(block, &uuid).is_ok()) {
            let drive = Some(self.drive.name());
            let what = format!("checkpoint area {}", self.area);
            let detail = "another drive's checkpoint, left from an earlier pool";
            findings.add(FindingCode::CheckpointForeign, Fix::None, drive, what, detail);
            return;
        }
        self.add(FindingCode::CheckpointDamaged, ": header", error.to_string(), findings);
    }

    fn judge(&self, header: CheckpointHeader, state: &mut AreaState, findings: &mut Findings) {
        state.number = header.number;
        let zones = self.drive.zones();
        let mut damaged = |detail: String| {
            self.add(FindingCode::CheckpointDamaged, ": header", detail, findings);
        };
        let most = pages_in(zones.checkpoint_bytes);
        if header.number == 0 || header.journal_sequence == 0 {
            damaged("number or journal sequence 0, expected 1 or more".to_owned());
        } else if u64::from(header.pages) > most {
            damaged(format!("{} pages, {most} fit the area", header.pages));
        } else if header.journal_block > zones.journal_blocks() {
            let (got, has) = (header.journal_block, zones.journal_blocks());
            damaged(format!("journal starts at block {got} of a ring of {has}"));
        } else if header.number % 2 != self.area {
            let detail = format!("number {} belongs in the other area", header.number);
            self.add(FindingCode::CheckpointWrongArea, ": header", detail, findings);
        } else {
            state.header = Some(header);
        }
    }

    /// Reads and verifies every page; tells whether the checkpoint counts. `sink` takes the records,
    /// which mean nothing unless it does.
    pub(crate) fn pages(
        &self,
        header: &CheckpointHeader,
        state: &mut AreaState,
        findings: &mut Findings,
        mut sink: impl FnMut(PutRecord),
    ) -> bool {
        let mut checksums = Vec::new();
        let (mut page, mut records, mut good) = (0, 0u64, true);
        while page < header.pages {
            let count = PAGES_AT_ONCE.min(header.pages - page);
            match self.read_pages(page, count) {
                Ok(bytes) => {
                    for (i, bytes) in (page..).zip(bytes.chunks(CHECKPOINT_PAGE_BYTES)) {
                        match CheckpointPage::decode(bytes, header.number, i) {
                            Ok(decoded) => {
                                checksums.push(decoded.checksum);
                                records += decoded.records.len() as u64;
                                decoded.records.into_iter().for_each(&mut sink);
                            }
                            Err(error) => {
                                good = false;
                                let (what, detail) = (format!(": page {i}"), error.to_string());
                                let code = FindingCode::CheckpointPageDamaged;
                                self.add(code, &what, detail, findings);
                            }
                        }
                    }
                }
                Err(error) => {
                    good = false;
                    self.unreadable(&error, &format!(": page {page} on"), state, findings);
                }
            }
            page += count;
        }
        good && self.counts_agree(header, &checksums, records, findings)
    }

    fn read_pages(&self, page: u32, count: u32) -> Result<Vec<u8>, DiskError> {
        let offset = page_offset(self.offset(), page);
        self.drive.disk.read(offset, count as usize * CHECKPOINT_PAGE_BYTES)
    }

    fn counts_agree(
        &self,
        header: &CheckpointHeader,
        checksums: &[u32],
        records: u64,
        findings: &mut Findings,
    ) -> bool {
        let sum = CheckpointHeader::sum_pages(checksums.iter().copied());
        let code = FindingCode::CheckpointSumWrong;
        if sum != header.pages_checksum {
            let detail = format!("{sum:#010x}, the header states {:#010x}", header.pages_checksum);
            self.add(code, ": sum over the pages", detail, findings);
        }
        if records != header.records {
            let detail = format!("{records}, the header states {}", header.records);
            self.add(code, ": number of records", detail, findings);
        }
        sum == header.pages_checksum && records == header.records
    }

    /// Notes that the area's checkpoint cannot stand in for the newer one.
    pub(crate) fn no_stand_in(&self, detail: String, findings: &mut Findings) {
        let what = format!("checkpoint area {}", self.area);
        let (fix, name) = (Fix::Checkpoint(self.drive.position), Some(self.drive.name()));
        let code = FindingCode::JournalOlderBroken;
        findings.add_as(Severity::Warning, code, fix, name, what, detail);
    }
}
