use super::bytes::{get, get_u16, get_u32, get_u64, put, put_u16, put_u32, put_u64};
use super::{BLOCK_BYTES, FormatError, MAX_SEQUENCE, Record, Uuid};
use crate::checksum::crc32c;

/// Longest frame in blocks.
pub const MAX_FRAME_BLOCKS: usize = 64;

const MAGIC: &[u8; 4] = b"GJFR";
const WHAT: &str = "journal frame";
const FRONT: usize = 48;

/// Records on their way into one frame (section 7).
#[derive(Debug, Clone)]
pub struct FrameBuilder {
    bytes: Vec<u8>,
    records: u16,
}

impl Default for FrameBuilder {
    fn default() -> Self {
        Self { bytes: vec![0; FRONT], records: 0 }
    }
}

impl FrameBuilder {
    /// Adds a record; `false`, and nothing added, when the frame is full.
    ///
    /// # Errors
    /// [`FormatError`] when the record cannot be encoded.
    pub fn push(&mut self, record: &Record) -> Result<bool, FormatError> {
        let before = self.bytes.len();
        record.encode_into(&mut self.bytes)?;
        if self.bytes.len() > MAX_FRAME_BLOCKS * BLOCK_BYTES || self.records == u16::MAX {
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

    /// Length that the frame will have, in blocks.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.bytes.len().div_ceil(BLOCK_BYTES)
    }

    /// The encoded frame and its checksum, which the next frame names.
    #[must_use]
    pub fn finish(self, sequence: u64, epoch: u64, previous: u32, drive: &Uuid) -> (Vec<u8>, u32) {
        let blocks = self.blocks();
        let used = self.bytes.len() - FRONT;
        let mut b = self.bytes;
        b.resize(blocks * BLOCK_BYTES, 0);
        put(&mut b, 0, MAGIC);
        put_u64(&mut b, 8, sequence);
        put_u64(&mut b, 16, epoch);
        put_u32(&mut b, 24, previous);
        put_u16(&mut b, 28, u16::try_from(blocks).unwrap_or(u16::MAX));
        put_u16(&mut b, 30, self.records);
        put_u32(&mut b, 32, u32::try_from(used).unwrap_or(u32::MAX));
        put(&mut b, 40, &get::<8>(drive, 0));
        let crc = crc32c(b.split_at(8).1);
        put_u32(&mut b, 4, crc);
        (b, crc)
    }
}

/// A verified frame. Whether it is the one expected at its place is for the reader to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalFrame {
    /// Sequence, from 1.
    pub sequence: u64,
    /// Epoch in which it was written.
    pub epoch: u64,
    /// Checksum of the frame before.
    pub previous: u32,
    /// Checksum of this frame.
    pub checksum: u32,
    /// Length in blocks.
    pub blocks: usize,
    /// What it commits.
    pub records: Vec<Record>,
}

impl JournalFrame {
    /// Decodes and verifies the frame at the start of `bytes`, written for this drive.
    ///
    /// # Errors
    /// [`FormatError`]: no frame, another drive's, torn or damaged, or nonsense.
    pub fn decode(bytes: &[u8], drive: &Uuid) -> Result<Self, FormatError> {
        if get::<4>(bytes, 0) != *MAGIC || get::<8>(bytes, 40) != get::<8>(drive, 0) {
            return Err(FormatError::Magic { what: WHAT });
        }
        let blocks = usize::from(get_u16(bytes, 28));
        if blocks == 0 || blocks > MAX_FRAME_BLOCKS {
            let (field, got, expected) = ("length", blocks as u64, "1 to 64 blocks");
            return Err(FormatError::Field { what: WHAT, field, got, expected });
        }
        let expected = blocks * BLOCK_BYTES;
        let Some(b) = bytes.get(..expected) else {
            return Err(FormatError::Short { what: WHAT, expected, got: bytes.len() });
        };
        let (stored, computed) = (get_u32(b, 4), crc32c(b.split_at(8).1));
        if stored != computed {
            return Err(FormatError::Checksum { what: WHAT, stored, computed });
        }
        if get_u64(b, 8) > MAX_SEQUENCE {
            let (field, got, expected) = ("sequence", get_u64(b, 8), "at most 2^56");
            return Err(FormatError::Field { what: WHAT, field, got, expected });
        }
        Ok(Self {
            sequence: get_u64(b, 8),
            epoch: get_u64(b, 16),
            previous: get_u32(b, 24),
            checksum: stored,
            blocks,
            records: decode_records(WHAT, b, FRONT, get_u32(b, 32), get_u16(b, 30).into())?,
        })
    }
}

/// `count` records in `used` bytes from `at` on, all of them and nothing else.
fn decode_records(
    what: &'static str,
    bytes: &[u8],
    at: usize,
    used: u32,
    count: u32,
) -> Result<Vec<Record>, FormatError> {
    let refuse = |field, got: u64, expected| FormatError::Field { what, field, got, expected };
    let end = at.saturating_add(used as usize);
    let mut left = bytes
        .get(at..end)
        .ok_or_else(|| refuse("bytes of records", used.into(), "within the structure"))?;
    let mut records = Vec::with_capacity((count as usize).min(used as usize / 32 + 1));
    while !left.is_empty() {
        let (record, len) = Record::decode(left)?;
        records.push(record);
        left = left.get(len..).unwrap_or_default();
    }
    if records.len() != count as usize {
        return Err(refuse("number of records", count.into(), "as many as there are"));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::put as put_record;
    use super::super::{BLOCK_BYTES, RemoveRecord};
    use super::*;

    const DRIVE: Uuid = [6; 16];

    fn frame(records: &[Record]) -> (Vec<u8>, u32) {
        let mut builder = FrameBuilder::default();
        for record in records {
            assert!(builder.push(record).unwrap());
        }
        builder.finish(11, 3, 0x1234, &DRIVE)
    }

    fn samples(count: u32) -> Vec<Record> {
        (0..count)
            .map(|i| match i % 3 {
                0 => Record::Remove(RemoveRecord { key: vec![i as u8; 9], generation: i.into() }),
                _ => Record::Put(put_record(&i.to_le_bytes(), 1 + i * 70_000, 1)),
            })
            .collect()
    }

    #[test]
    fn round_trip_of_one_and_several_blocks() {
        for count in [1, 30, 500] {
            let records = samples(count);
            let (bytes, checksum) = frame(&records);
            assert_eq!(bytes.len() % BLOCK_BYTES, 0);
            let decoded = JournalFrame::decode(&bytes, &DRIVE).unwrap();
            assert_eq!((decoded.sequence, decoded.epoch, decoded.previous), (11, 3, 0x1234));
            assert_eq!((decoded.checksum, decoded.blocks), (checksum, bytes.len() / BLOCK_BYTES));
            assert_eq!(decoded.records, records);
        }
    }

    #[test]
    fn one_changed_byte_anywhere_is_found() {
        let (bytes, _) = frame(&samples(40));
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 0x80;
            assert!(JournalFrame::decode(&changed, &DRIVE).is_err(), "byte {i}");
        }
    }

    #[test]
    fn a_torn_frame_is_found_at_any_block() {
        let (bytes, _) = frame(&samples(500));
        for block in 1..bytes.len() / BLOCK_BYTES {
            let mut torn = bytes.clone();
            torn[block * BLOCK_BYTES..].fill(0);
            assert!(JournalFrame::decode(&torn, &DRIVE).is_err(), "torn at block {block}");
        }
    }

    #[test]
    fn another_drives_frame_is_not_ours() {
        let (bytes, _) = frame(&samples(1));
        let error = JournalFrame::decode(&bytes, &[7; 16]).unwrap_err();
        assert!(matches!(error, FormatError::Magic { .. }));
    }

    #[test]
    fn a_full_frame_takes_no_more_and_stays_whole() {
        let mut builder = FrameBuilder::default();
        let record = Record::Put(put_record(&[1; 1024], 1 << 30, 64));
        let mut count = 0;
        while builder.push(&record).unwrap() {
            count += 1;
        }
        assert!(builder.blocks() <= MAX_FRAME_BLOCKS && count > 100);
        let (bytes, _) = builder.finish(1, 1, 0, &DRIVE);
        assert_eq!(JournalFrame::decode(&bytes, &DRIVE).unwrap().records.len(), count);
    }
}
