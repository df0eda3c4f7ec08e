use super::bytes::{get, get_u32, get_u64, put, put_u32, put_u64};
use super::record::PutView;
use super::{BLOCK_BYTES, FormatError, MAX_SEQUENCE, PutRecord, Record, Uuid};
use crate::checksum::{Crc32c, crc32c};

/// Length of a checkpoint page in bytes.
pub const CHECKPOINT_PAGE_BYTES: usize = 65_536;

const HEADER_MAGIC: &[u8; 8] = b"GCOSCKPT";
const PAGE_MAGIC: &[u8; 4] = b"GCKP";
const HEADER: &str = "checkpoint header";
const PAGE: &str = "checkpoint page";
const PAGE_FRONT: usize = 32;

/// What makes a checkpoint's pages count (section 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointHeader {
    /// Drive that it belongs to.
    pub drive_uuid: Uuid,
    /// Checkpoint number, from 1.
    pub number: u64,
    /// Sequence of the first journal frame to apply after it.
    pub journal_sequence: u64,
    /// Ring block where that frame starts.
    pub journal_block: u64,
    /// Previous value that that frame carries.
    pub journal_previous: u32,
    /// Number of pages.
    pub pages: u32,
    /// Number of records.
    pub records: u64,
    /// CRC-32C over the pages' checksums: see [`CheckpointHeader::sum_pages`].
    pub pages_checksum: u32,
}

impl CheckpointHeader {
    /// The value of `pages_checksum` for pages with these checksums, in order.
    #[must_use]
    pub fn sum_pages(checksums: impl IntoIterator<Item = u32>) -> u32 {
        let mut digest = Crc32c::default();
        for checksum in checksums {
            digest.update(&checksum.to_le_bytes());
        }
        digest.finish()
    }

    /// The encoded block.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut b = [0; BLOCK_BYTES];
        put(&mut b, 0, HEADER_MAGIC);
        put_u32(&mut b, 12, CHECKPOINT_PAGE_BYTES as u32);
        put(&mut b, 16, &self.drive_uuid);
        put_u64(&mut b, 32, self.number);
        put_u64(&mut b, 40, self.journal_sequence);
        put_u64(&mut b, 48, self.journal_block);
        put_u32(&mut b, 56, self.journal_previous);
        put_u32(&mut b, 60, self.pages);
        put_u64(&mut b, 64, self.records);
        put_u32(&mut b, 72, self.pages_checksum);
        let crc = crc32c(b.split_at(12).1);
        put_u32(&mut b, 8, crc);
        b
    }

    /// Decodes and verifies a header block of this drive.
    ///
    /// # Errors
    /// [`FormatError`]: none here, another drive's, damaged, or nonsense.
    pub fn decode(bytes: &[u8], drive: &Uuid) -> Result<Self, FormatError> {
        let Some(b) = bytes.get(..BLOCK_BYTES) else {
            let (expected, got) = (BLOCK_BYTES, bytes.len());
            return Err(FormatError::Short { what: HEADER, expected, got });
        };
        if get::<8>(b, 0) != *HEADER_MAGIC || get::<16>(b, 16) != *drive {
            return Err(FormatError::Magic { what: HEADER });
        }
        let (stored, computed) = (get_u32(b, 8), crc32c(b.split_at(12).1));
        if stored != computed {
            return Err(FormatError::Checksum { what: HEADER, stored, computed });
        }
        if get_u32(b, 12) as usize != CHECKPOINT_PAGE_BYTES {
            let (field, got, expected) = ("page length", get_u32(b, 12).into(), "65,536");
            return Err(FormatError::Field { what: HEADER, field, got, expected });
        }
        for (field, got) in [("number", get_u64(b, 32)), ("journal sequence", get_u64(b, 40))] {
            if got > MAX_SEQUENCE {
                let expected = "at most 2^56";
                return Err(FormatError::Field { what: HEADER, field, got, expected });
            }
        }
        Ok(Self {
            drive_uuid: *drive,
            number: get_u64(b, 32),
            journal_sequence: get_u64(b, 40),
            journal_block: get_u64(b, 48),
            journal_previous: get_u32(b, 56),
            pages: get_u32(b, 60),
            records: get_u64(b, 64),
            pages_checksum: get_u32(b, 72),
        })
    }
}

/// Records on their way into one page.
#[derive(Debug, Clone)]
pub struct PageBuilder {
    bytes: Vec<u8>,
    records: u32,
}

impl Default for PageBuilder {
    fn default() -> Self {
        let mut bytes = Vec::with_capacity(CHECKPOINT_PAGE_BYTES);
        bytes.resize(PAGE_FRONT, 0);
        Self { bytes, records: 0 }
    }
}

impl PageBuilder {
    /// Adds a record; `false`, and nothing added, when the page is full.
    ///
    /// # Errors
    /// [`FormatError`] when the record cannot be encoded.
    pub fn push(&mut self, record: &Record) -> Result<bool, FormatError> {
        let before = self.bytes.len();
        record.encode_into(&mut self.bytes)?;
        if self.bytes.len() > CHECKPOINT_PAGE_BYTES {
            self.bytes.truncate(before);
            return Ok(false);
        }
        self.records += 1;
        Ok(true)
    }

    /// Whether no record was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The encoded page and its checksum. The builder is empty afterwards.
    #[must_use]
    pub fn finish(&mut self, checkpoint: u64, page: u32) -> (Vec<u8>, u32) {
        let Self { bytes: mut b, records } = std::mem::take(self);
        let used = b.len() - PAGE_FRONT;
        b.resize(CHECKPOINT_PAGE_BYTES, 0);
        put(&mut b, 0, PAGE_MAGIC);
        put_u64(&mut b, 8, checkpoint);
        put_u32(&mut b, 16, page);
        put_u32(&mut b, 20, records);
        put_u32(&mut b, 24, u32::try_from(used).unwrap_or(u32::MAX));
        let crc = crc32c(b.split_at(8).1);
        put_u32(&mut b, 4, crc);
        (b, crc)
    }
}

/// A verified page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointPage {
    /// Its checksum.
    pub checksum: u32,
    /// The objects.
    pub records: Vec<PutRecord>,
}

impl CheckpointPage {
    /// Decodes and verifies page `page` of checkpoint `checkpoint`.
    ///
    /// # Errors
    /// [`FormatError`]: not that page, damaged, or nonsense.
    pub fn decode(bytes: &[u8], checkpoint: u64, page: u32) -> Result<Self, FormatError> {
        let PackedPage { checksum, body, .. } = PackedPage::verify(bytes, checkpoint, page)?;
        Ok(Self { checksum, records: views(&body).map(|view| view.to_record()).collect() })
    }
}

/// A verified page whose records are still encoded: a fraction of the memory of a [`CheckpointPage`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedPage {
    /// Its checksum.
    pub checksum: u32,
    count: u32,
    body: Box<[u8]>,
}

impl PackedPage {
    /// Verifies page `page` of checkpoint `checkpoint`: its checksum, and each record.
    ///
    /// # Errors
    /// [`FormatError`]: not that page, damaged, or nonsense.
    pub fn verify(bytes: &[u8], checkpoint: u64, page: u32) -> Result<Self, FormatError> {
        let Some(b) = bytes.get(..CHECKPOINT_PAGE_BYTES) else {
            let (expected, got) = (CHECKPOINT_PAGE_BYTES, bytes.len());
            return Err(FormatError::Short { what: PAGE, expected, got });
        };
        if get::<4>(b, 0) != *PAGE_MAGIC {
            return Err(FormatError::Magic { what: PAGE });
        }
        let (stored, computed) = (get_u32(b, 4), crc32c(b.split_at(8).1));
        if stored != computed {
            return Err(FormatError::Checksum { what: PAGE, stored, computed });
        }
        let refuse =
            |field, got, expected| Err(FormatError::Field { what: PAGE, field, got, expected });
        if get_u64(b, 8) != checkpoint || get_u32(b, 16) != page {
            return refuse("number", get_u32(b, 16).into(), "its place in this checkpoint");
        }
        let (count, used) = (get_u32(b, 20), get_u32(b, 24));
        let end = PAGE_FRONT.saturating_add(used as usize);
        let Some(body) = b.get(PAGE_FRONT..end) else {
            return refuse("bytes of records", used.into(), "within the structure");
        };
        let (mut left, mut found) = (body, 0u32);
        while !left.is_empty() {
            left = PutView::next(left)?.1;
            found = found.saturating_add(1);
        }
        if found != count {
            return refuse("number of records", count.into(), "as many as there are");
        }
        Ok(Self { checksum: stored, count, body: body.into() })
    }

    /// Number of records.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The records.
    pub fn records(&self) -> impl Iterator<Item = PutView<'_>> {
        views(&self.body)
    }
}

/// Records of which each has been decoded once.
fn views(mut left: &[u8]) -> impl Iterator<Item = PutView<'_>> {
    std::iter::from_fn(move || {
        let (view, rest) = PutView::next(left).ok()?;
        left = rest;
        Some(view)
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::put as put_record;
    use super::*;

    fn header() -> CheckpointHeader {
        CheckpointHeader {
            drive_uuid: [3; 16],
            number: 4,
            journal_sequence: 5,
            journal_block: 6,
            journal_previous: 7,
            pages: 8,
            records: 9,
            pages_checksum: 10,
        }
    }

    #[test]
    fn header_round_trip_and_one_byte_corruption() {
        let block = header().encode();
        assert_eq!(CheckpointHeader::decode(&block, &[3; 16]).unwrap(), header());
        assert!(CheckpointHeader::decode(&block, &[4; 16]).is_err());
        assert_eq!(get_u64(&block, 48), 6);
        for i in 0..BLOCK_BYTES {
            let mut changed = block;
            changed[i] ^= 2;
            assert!(CheckpointHeader::decode(&changed, &[3; 16]).is_err(), "byte {i}");
        }
    }

    #[test]
    fn page_round_trip_and_one_byte_corruption() {
        let mut builder = PageBuilder::default();
        let mut records = Vec::new();
        for i in 0u32.. {
            let put = put_record(&i.to_le_bytes(), 1 + i, 1);
            if !builder.push(&Record::Put(put.clone())).unwrap() {
                break;
            }
            records.push(put);
        }
        assert!(records.len() > 1000);
        let (bytes, checksum) = builder.finish(7, 2);
        assert!(builder.is_empty());
        assert_eq!(
            CheckpointPage::decode(&bytes, 7, 2).unwrap(),
            CheckpointPage { checksum, records: records.clone() }
        );
        let packed = PackedPage::verify(&bytes, 7, 2).unwrap();
        assert_eq!((packed.checksum, packed.count() as usize), (checksum, records.len()));
        assert!(packed.records().map(|view| view.to_record()).eq(records.iter().cloned()));
        assert!(CheckpointPage::decode(&bytes, 6, 2).is_err());
        assert!(CheckpointPage::decode(&bytes, 7, 3).is_err());
        for i in (0..bytes.len()).step_by(7) {
            let mut changed = bytes.clone();
            changed[i] ^= 2;
            assert!(CheckpointPage::decode(&changed, 7, 2).is_err(), "byte {i}");
        }
    }

    #[test]
    fn the_sum_of_pages_depends_on_their_order() {
        assert_ne!(CheckpointHeader::sum_pages([1, 2]), CheckpointHeader::sum_pages([2, 1]));
    }
}
