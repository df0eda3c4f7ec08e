//! The journal of one drive: records gathered from many threads, written as frames by one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use gcos_layout::media::{
    BLOCK_BYTES, CheckpointHeader, FrameBuilder, MAX_FRAME_BLOCKS, Record, Uuid, ZoneMap,
};
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::StoreError;
use crate::canary::{self, Canary};
use crate::drive::BlockIo;
use crate::index::Id;

/// A record on its way to the journal.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) record: Record,
    /// Drives (bit mask) whose data must be durable before the record.
    pub(crate) flush: u64,
    /// The object that a put record is about.
    pub(crate) entry: Option<Id>,
    /// Whether that object becomes visible when the record is durable; a relaxed one is already.
    pub(crate) make_live: bool,
    /// Doomed entries that the record makes obsolete. When it is durable, one hold of each ends, if
    /// its own records are in the same journal; else its removal is recorded next, in that one.
    pub(crate) release: SmallVec<[Id; 1]>,
    /// Who waits for it.
    pub(crate) waiter: Option<Arc<Waiter>>,
}

/// Lets one thread learn how its record fared.
#[derive(Debug, Default)]
pub(crate) struct Waiter {
    done: AtomicU8,
    /// Drives (bit mask) whose journals must be written, too, before the operation is acknowledged.
    follow: AtomicU64,
}

impl Waiter {
    /// The journals of these drives (bit mask) must be written, too.
    pub(crate) fn follow(&self, drives: u64) {
        self.follow.fetch_or(drives, Ordering::Relaxed);
    }

    pub(crate) fn finish(&self, durable: bool) {
        self.done.store(if durable { 1 } else { 2 }, Ordering::Release);
    }

    /// When the record has ended: whether it is durable, and the drives whose journals follow.
    pub(crate) fn result(&self) -> Option<(bool, u64)> {
        match self.done.load(Ordering::Acquire) {
            0 => None,
            done => Some((done == 1, self.follow.load(Ordering::Relaxed))),
        }
    }
}

/// Where a checkpoint's journal begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    /// Sequence of the frame there.
    pub(crate) sequence: u64,
    /// Its distance in blocks from where the ring began to be counted; the ring block is this modulo
    /// the ring's length.
    pub(crate) position: u64,
    /// Previous value that it carries.
    pub(crate) previous: u32,
}

/// The writing end. Held by whoever writes a frame.
#[derive(Debug)]
pub(crate) struct Writer {
    ring_blocks: u64,
    /// Where the next frame goes.
    pub(crate) next: Start,
    /// Where the journal of the newest checkpoint begins.
    pub(crate) newest: Start,
    /// Where the journal of the checkpoint before begins: nothing from here on is overwritten.
    pub(crate) older: Start,
    /// Number of the newest checkpoint, 0 if there is none.
    pub(crate) checkpoint: u64,
}

impl Writer {
    /// A writer at `next`, with the ring blocks that the two checkpoints still need.
    pub(crate) fn new(
        zones: &ZoneMap,
        next: Start,
        newest: Start,
        older: Start,
        number: u64,
    ) -> Self {
        let ring_blocks = zones.journal_blocks();
        Self { ring_blocks, next, newest, older, checkpoint: number }
    }

    /// Where a frame of `blocks` would start: at block 0 if it does not fit before the end.
    fn place(&self, blocks: u64) -> u64 {
        let block = self.next.position % self.ring_blocks;
        let wraps = block + blocks > self.ring_blocks;
        self.next.position + if wraps { self.ring_blocks - block } else { 0 }
    }

    /// Whether a frame of `blocks` fits without overwriting what a checkpoint needs.
    fn has_room(&self, blocks: u64) -> bool {
        let needed = if canary::on(Canary::RingOverwritten) { self.newest } else { self.older };
        self.place(blocks) + blocks <= needed.position + self.ring_blocks
    }

    /// Whether any frame fits.
    pub(crate) fn has_room_for_a_frame(&self) -> bool {
        self.has_room(MAX_FRAME_BLOCKS as u64)
    }

    /// Whether a checkpoint should be taken: a third of the ring was written since the last one.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.next.position - self.newest.position > self.ring_blocks / 3
    }

    /// Notes that checkpoint `number`, whose journal begins at `start`, counts now.
    pub(crate) fn checkpointed(&mut self, number: u64, start: Start) {
        self.older = self.newest;
        self.newest = start;
        self.checkpoint = number;
    }
}

/// How a call to [`Journal::write_frame`] ended.
#[derive(Debug)]
pub(crate) enum Written {
    /// Nothing was waiting.
    Nothing,
    /// These records are durable.
    Frame(Vec<Item>),
    /// The ring is full: take a checkpoint first. The records wait.
    Full,
    /// Nothing was written: the data of these drives (bit mask) could not be made durable. The records
    /// wait.
    NotFlushed(u64, StoreError),
    /// The frame may or may not be on the drive; nothing may be written after it.
    Failed(Vec<Item>, StoreError),
}

/// The journal of one drive.
#[derive(Debug)]
pub(crate) struct Journal {
    queue: Mutex<Vec<Item>>,
    writer: Mutex<Writer>,
    drive_uuid: Uuid,
    epoch: u64,
    offset: u64,
}

impl Journal {
    pub(crate) fn new(writer: Writer, drive_uuid: Uuid, epoch: u64, zones: &ZoneMap) -> Self {
        let offset = zones.journal_offset();
        Self { queue: Mutex::default(), writer: Mutex::new(writer), drive_uuid, epoch, offset }
    }

    /// Adds a record to those waiting. Records are written in the order of these calls. Returns how
    /// many wait.
    pub(crate) fn enqueue(&self, item: Item) -> usize {
        let mut queue = self.queue.lock();
        queue.push(item);
        queue.len()
    }

    /// How many records wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.lock().len()
    }

    /// The writing end, exclusively.
    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        crate::turns::lock(&self.writer)
    }

    /// Takes as many waiting records as fit one frame, makes the data that they name durable through
    /// `flush`, and writes the frame.
    pub(crate) fn write_frame(
        &self,
        writer: &mut Writer,
        io: &BlockIo,
        flush: impl FnOnce(u64) -> Result<(), (u64, StoreError)>,
    ) -> Written {
        if !writer.has_room_for_a_frame() {
            return match self.waiting() {
                0 => Written::Nothing,
                _ => Written::Full,
            };
        }
        let (builder, items) = match self.take_frame() {
            Ok(taken) => taken,
            Err((items, error)) => return Written::Failed(items, error),
        };
        if items.is_empty() {
            return Written::Nothing;
        }
        let mask = items.iter().fold(0, |mask, item| mask | item.flush);
        let mask = if canary::on(Canary::MissingFlush) { 0 } else { mask };
        if let Err((drives, error)) = flush(mask)
            && !canary::on(Canary::FailedFlushTrusted)
        {
            self.queue.lock().splice(0..0, items);
            return Written::NotFlushed(drives, error);
        }
        let position = writer.place(builder.blocks() as u64);
        let (sequence, previous) = (writer.next.sequence, writer.next.previous);
        let (bytes, checksum) = builder.finish(sequence, self.epoch, previous, &self.drive_uuid);
        let at = self.offset + position % writer.ring_blocks * BLOCK_BYTES as u64;
        if let Err(error) = io.write(at, &bytes, !canary::on(Canary::NoFua)) {
            return Written::Failed(items, error);
        }
        writer.next = Start {
            sequence: sequence + 1,
            position: position + (bytes.len() / BLOCK_BYTES) as u64,
            previous: checksum,
        };
        Written::Frame(items)
    }

    #[expect(clippy::result_large_err, reason = "it goes into `Written` as it is, once")]
    fn take_frame(&self) -> Result<(FrameBuilder, Vec<Item>), (Vec<Item>, StoreError)> {
        let mut queue = self.queue.lock();
        let mut builder = FrameBuilder::default();
        let mut count = 0;
        for item in queue.iter() {
            match builder.push(&item.record) {
                Ok(true) => count += 1,
                Ok(false) => break,
                Err(source) => {
                    let (drive, at) = ("journal".to_owned(), "a record".to_owned());
                    let error = StoreError::Format { drive, at, source };
                    return Err((queue.drain(..=count).collect(), error));
                }
            }
        }
        Ok((builder, queue.drain(..count).collect()))
    }

    /// Takes the waiting records that need one of these drives (bit mask), to tell their waiters that
    /// they will never be written.
    pub(crate) fn abandon(&self, drives: u64) -> Vec<Item> {
        let mut queue = self.queue.lock();
        let (gone, kept) =
            std::mem::take(&mut *queue).into_iter().partition(|item| item.flush & drives != 0);
        *queue = kept;
        gone
    }

    /// Takes all waiting records.
    pub(crate) fn abandon_all(&self) -> Vec<Item> {
        std::mem::take(&mut *self.queue.lock())
    }
}

/// The start that a checkpoint header states, counted so that it is not before `ring` blocks.
pub(crate) fn start_of(header: &CheckpointHeader, ring_blocks: u64) -> Start {
    Start {
        sequence: header.journal_sequence,
        position: ring_blocks + header.journal_block % ring_blocks.max(1),
        previous: header.journal_previous,
    }
}

#[cfg(test)]
mod tests {
    use gcos_layout::media::ZoneChunks;

    use super::*;

    fn writer(next: u64, older: u64) -> Writer {
        let zones = ZoneMap::plan(64 << 20, ZoneChunks { data: 1 << 20, ..Default::default() }, 1);
        let at = |position| Start { sequence: 1, position, previous: 0 };
        Writer::new(&zones.unwrap(), at(next), at(older), at(older), 0)
    }

    #[test]
    fn a_frame_that_does_not_fit_before_the_end_starts_at_block_0() {
        let writer = writer(250, 250);
        assert_eq!(writer.ring_blocks, 256);
        assert_eq!(writer.place(6), 250);
        assert_eq!(writer.place(7), 256);
    }

    #[test]
    fn what_a_checkpoint_needs_is_not_overwritten() {
        assert!(writer(256 + 99, 100).has_room(1));
        assert!(!writer(256 + 100, 100).has_room(1));
        assert!(!writer(256 + 250, 251).has_room(7), "the skipped blocks count");
    }
}
