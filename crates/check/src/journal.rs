//! The journal ring of one drive (format.md, section 7).

use gcos_layout::media::{
    BLOCK_BYTES, CheckpointHeader, JournalFrame, MAX_FRAME_BLOCKS, Record, Uuid,
};

use crate::DiskError;
use crate::disk::TRANSFER_BYTES;
use crate::drive::Drive;

const BLOCK: u64 = BLOCK_BYTES as u64;
const WINDOW_BLOCKS: u64 = (TRANSFER_BYTES / BLOCK_BYTES) as u64;
const LONGEST: u64 = MAX_FRAME_BLOCKS as u64;
/// Latest epochs that a frame may be of whose epoch is damaged.
const EPOCHS_TRIED: u64 = 16;

/// A place in the journal, and what the frame there must say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) sequence: u64,
    pub(crate) block: u64,
    pub(crate) previous: u32,
    /// Lowest epoch that counts.
    pub(crate) epoch: u64,
}

impl Place {
    /// Where the frames of a freshly formatted drive start.
    pub(crate) const FIRST: Self = Self { sequence: 1, block: 0, previous: 0, epoch: 0 };

    /// Where the frames after a checkpoint start.
    pub(crate) fn after(header: &CheckpointHeader) -> Self {
        Self {
            sequence: header.journal_sequence,
            block: header.journal_block,
            previous: header.journal_previous,
            epoch: 0,
        }
    }
}

/// What a pass over the whole ring found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Highest sequence of any valid frame, and its block.
    pub(crate) highest: Option<(u64, u64)>,
    /// Latest epoch of any valid frame.
    pub(crate) epoch: u64,
    /// Blocks that could not be read.
    pub(crate) unreadable: Vec<u64>,
}

/// Frames that follow one another without a gap to the last one that was written.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// Where each frame starts and what it had to say there; behind the last one the end.
    pub(crate) places: Vec<Place>,
    /// Their records, in order.
    pub(crate) records: Vec<Record>,
}

impl Chain {
    /// Where the journal ends, if there is any frame.
    pub(crate) fn end(&self) -> Option<Place> {
        self.places.last().copied()
    }
}

/// The epoch with which a frame verifies that does not with the one that it states: it was written whole,
/// and damaged there since.
fn whole_but_for_epoch(bytes: &[u8], uuid: &Uuid, latest: u64) -> Option<u64> {
    let blocks = u16::from_le_bytes(bytes.get(28..30)?.try_into().ok()?);
    let len = usize::from(blocks).min(MAX_FRAME_BLOCKS) * BLOCK_BYTES;
    let mut frame = bytes.get(..len)?.to_vec();
    (0..EPOCHS_TRIED).map_while(|back| latest.checked_sub(back)).find(|epoch| {
        if let Some(field) = frame.get_mut(16..24) {
            field.copy_from_slice(&epoch.to_le_bytes());
        }
        JournalFrame::decode(&frame, uuid).is_ok()
    })
}

/// Reader of the ring, through a window over it.
#[derive(Debug)]
pub(crate) struct Ring<'d, 'a> {
    drive: &'d Drive<'a>,
    window: Vec<u8>,
    window_at: u64,
    /// The last error that was not damage.
    pub(crate) unreachable: Option<String>,
}

impl<'d, 'a> Ring<'d, 'a> {
    pub(crate) fn new(drive: &'d Drive<'a>) -> Self {
        Self { drive, window: Vec::new(), window_at: 0, unreachable: None }
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.drive.zones().journal_blocks()
    }

    /// Offset of a block on the drive.
    pub(crate) fn offset(&self, block: u64) -> u64 {
        self.drive.zones().journal_offset() + block * BLOCK
    }

    fn read(&mut self, block: u64, count: u64) -> Result<(), DiskError> {
        let count = count.min(self.blocks().saturating_sub(block));
        let len = usize::try_from(count * BLOCK).unwrap_or(usize::MAX);
        self.window.clear();
        self.window = self.drive.disk.read(self.offset(block), len)?;
        self.window_at = block;
        Ok(())
    }

    /// Brings the block, and as much behind it as a frame may need, into the window. Around damage the
    /// frame alone is read.
    fn load(&mut self, block: u64) -> Result<(), DiskError> {
        let need = LONGEST.min(self.blocks().saturating_sub(block));
        let end = self.window_at + self.window.len() as u64 / BLOCK;
        if block >= self.window_at && block + need <= end {
            return Ok(());
        }
        match self.read(block, WINDOW_BLOCKS) {
            Err(error) if error.is_damage() => {}
            done => return done,
        }
        self.read(block, 1)?;
        let len = self.window.get(28..30).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes);
        match u64::from(len.unwrap_or(0)) {
            len @ 2..=LONGEST => self.read(block, len),
            _ => Ok(()),
        }
    }

    /// The bytes from a block on, at least the longest frame's unless the ring ends or is damaged.
    pub(crate) fn bytes_at(&mut self, block: u64) -> Result<&[u8], DiskError> {
        if let Err(error) = self.load(block) {
            self.window.clear();
            if !error.is_damage() {
                self.unreachable = Some(error.text());
            }
            return Err(error);
        }
        let from = usize::try_from((block - self.window_at) * BLOCK).unwrap_or(usize::MAX);
        Ok(self.window.get(from..).unwrap_or_default())
    }

    fn frame_at(&mut self, block: u64) -> Option<JournalFrame> {
        let uuid = self.drive.uuid();
        JournalFrame::decode(self.bytes_at(block).ok()?, &uuid).ok()
    }

    fn expected_at(&mut self, block: u64, place: &Place) -> Option<JournalFrame> {
        self.frame_at(block).filter(|frame| {
            frame.sequence == place.sequence
                && frame.previous == place.previous
                && frame.epoch >= place.epoch
        })
    }

    /// Follows the frames from a place to the end of the journal, which it returns.
    pub(crate) fn walk(&mut self, from: Place, mut apply: impl FnMut(Record)) -> Place {
        let mut place = from;
        // Every frame of a chain stands elsewhere, so a longer one than the ring is none.
        for _ in 0..self.blocks() {
            if place.block >= self.blocks() {
                place.block = 0;
            }
            let Some((block, frame)) = self.next_frame(&place) else { break };
            let Some(sequence) = place.sequence.checked_add(1) else { break };
            let block = block + frame.blocks as u64;
            place = Place { sequence, block, previous: frame.checksum, epoch: frame.epoch };
            frame.records.into_iter().for_each(&mut apply);
        }
        place
    }

    fn next_frame(&mut self, place: &Place) -> Option<(u64, JournalFrame)> {
        if let Some(frame) = self.expected_at(place.block, place) {
            return Some((place.block, frame));
        }
        if place.block == 0 || self.blocks() - place.block >= LONGEST {
            return None;
        }
        self.expected_at(0, place).map(|frame| (0, frame))
    }

    /// Looks at every block for frames of this drive.
    pub(crate) fn scan(&mut self) -> Scan {
        let mut scan = Scan::default();
        let mut block = 0;
        while block < self.blocks() {
            if self.bytes_at(block).is_err() {
                scan.unreadable.push(block);
                block += 1;
                if self.unreachable.is_some() {
                    break;
                }
                continue;
            }
            let Some(frame) = self.frame_at(block) else {
                block += 1;
                continue;
            };
            if scan.highest.is_none_or(|(highest, _)| frame.sequence > highest) {
                scan.highest = Some((frame.sequence, block));
            }
            scan.epoch = scan.epoch.max(frame.epoch);
            block += frame.blocks as u64;
        }
        scan
    }

    /// Every valid frame of this drive: its block, and the frame without its records.
    fn frames(&mut self) -> Vec<(u64, JournalFrame)> {
        let (mut frames, mut block) = (Vec::new(), 0);
        while block < self.blocks() {
            match self.frame_at(block) {
                Some(frame) => {
                    let len = frame.blocks as u64;
                    frames.push((block, JournalFrame { records: Vec::new(), ..frame }));
                    block += len;
                }
                None => block += 1,
            }
        }
        frames.sort_by_key(|(_, frame)| (frame.sequence, frame.epoch));
        frames
    }

    /// The frames that lead without a gap to the one of the highest sequence, from the earliest that
    /// is still there on. What they say is true however the journal began.
    pub(crate) fn chain(&mut self) -> Chain {
        let mut frames = self.frames();
        let mut chain = Chain::default();
        let Some((block, last)) = frames.pop() else { return chain };
        let end = Place {
            sequence: last.sequence.saturating_add(1),
            block: block + last.blocks as u64,
            previous: last.checksum,
            epoch: last.epoch,
        };
        let mut first = last;
        let mut blocks = vec![block];
        let place = |block, frame: &JournalFrame| Place {
            sequence: frame.sequence,
            block,
            previous: frame.previous,
            epoch: frame.epoch,
        };
        chain.places.push(end);
        chain.places.push(place(block, &first));
        while let Some((block, frame)) = frames.pop() {
            if frame.sequence.saturating_add(1) < first.sequence {
                break;
            }
            // Another one of a sequence was never acknowledged: the journal went on without it.
            let leads = frame.sequence < first.sequence && frame.checksum == first.previous;
            if leads && frame.epoch <= first.epoch {
                chain.places.push(place(block, &frame));
                blocks.push(block);
                first = frame;
            }
        }
        chain.places.reverse();
        for &block in blocks.iter().rev() {
            chain.records.extend(self.frame_at(block).into_iter().flat_map(|f| f.records));
        }
        chain
    }

    /// Records of all valid frames from a sequence on, in order, whether or not the journal leads there.
    pub(crate) fn records_from(&mut self, sequence: u64) -> Vec<Record> {
        let mut frames = self.frames();
        frames.retain(|(_, frame)| frame.sequence >= sequence);
        let mut records = Vec::new();
        for (block, _) in frames {
            records.extend(self.frame_at(block).into_iter().flat_map(|f| f.records));
        }
        records
    }

    /// The block where what looks like the next frame stands, torn or damaged: two of magic number,
    /// drive and sequence are right, and the whole is not a frame. Also the epoch that it states.
    pub(crate) fn torn_at(&mut self, place: &Place) -> Option<(u64, u64)> {
        let places = if self.blocks() - place.block.min(self.blocks()) < LONGEST {
            [place.block, 0]
        } else {
            [place.block; 2]
        };
        places.into_iter().find_map(|block| Some((block, self.torn_epoch(block, place)?)))
    }

    fn torn_epoch(&mut self, block: u64, place: &Place) -> Option<u64> {
        let (uuid, latest) = (self.drive.uuid(), self.drive.superblock().epoch);
        if block >= self.blocks() {
            return None;
        }
        let bytes = self.bytes_at(block).ok()?;
        if JournalFrame::decode(bytes, &uuid).is_ok() {
            return None;
        }
        let magic = bytes.get(..4) == Some(b"GJFR".as_slice());
        let ours = bytes.get(40..48).is_some_and(|id| uuid.starts_with(id));
        let next = bytes.get(8..16) == Some(place.sequence.to_le_bytes().as_slice());
        let epoch = bytes.get(16..24)?.try_into().ok().map(u64::from_le_bytes);
        let epoch = whole_but_for_epoch(bytes, &uuid, latest).or(epoch);
        // A frame of an older pool may stand here, with the same number: its drive is another one. Where
        // only the drive is damaged, the frame is whole with ours.
        let whole = || whole_but_for_drive(bytes, &uuid);
        epoch.filter(|_| match (magic, ours, next) {
            (true, true, _) | (_, true, true) => true,
            (true, false, true) => whole(),
            _ => false,
        })
    }
}

/// Whether a frame verifies that states another drive, once it states this one.
fn whole_but_for_drive(bytes: &[u8], uuid: &Uuid) -> bool {
    let mut frame = bytes.get(..MAX_FRAME_BLOCKS * BLOCK_BYTES).unwrap_or(bytes).to_vec();
    if let (Some(field), Some(id)) = (frame.get_mut(40..48), uuid.get(..8)) {
        field.copy_from_slice(id);
    }
    JournalFrame::decode(&frame, uuid).is_ok()
}
