//! Reading a drive's journal ring.

use gcos_engine::IoErrorKind;
use gcos_layout::media::{BLOCK_BYTES, JournalFrame, MAX_FRAME_BLOCKS, Uuid};

use crate::StoreError;
use crate::canary::{self, Canary};
use crate::drive::Drive;
use crate::journal::Start;

/// Ring blocks read at a time.
const READ_BLOCKS: u64 = 256;

/// The journal ring of a drive, read ahead.
#[derive(Debug)]
pub(crate) struct Ring<'a> {
    drive: &'a Drive,
    cached: Vec<u8>,
    /// Ring block of the first cached byte.
    first: u64,
}

impl<'a> Ring<'a> {
    pub(crate) fn new(drive: &'a Drive) -> Self {
        Self { drive, cached: Vec::new(), first: 0 }
    }

    /// The bytes from ring block `block` on: a whole frame's worth, less at the end of the ring.
    fn bytes_at(&mut self, block: u64) -> Result<&[u8], StoreError> {
        let blocks = self.drive.zones.journal_blocks();
        let need = (MAX_FRAME_BLOCKS as u64).min(blocks - block);
        let cached = (self.cached.len() / BLOCK_BYTES) as u64;
        if block < self.first || block + need > self.first + cached {
            let take = READ_BLOCKS.min(blocks - block);
            self.cached = self.read_blocks(block, take)?;
            self.first = block;
        }
        let from = usize::try_from(block - self.first).unwrap_or(0) * BLOCK_BYTES;
        Ok(self.cached.get(from..).unwrap_or_default())
    }

    /// Reads ring blocks; those that cannot be read hold no frame.
    fn read_blocks(&self, block: u64, count: u64) -> Result<Vec<u8>, StoreError> {
        let at = self.drive.zones.journal_offset() + block * BLOCK_BYTES as u64;
        let len = usize::try_from(count).unwrap_or(0) * BLOCK_BYTES;
        match self.drive.io.read(at, len) {
            Err(error) if error.io_kind() == Some(IoErrorKind::Media) => {}
            other => return other,
        }
        let mut all = vec![0; len];
        for (block, out) in (0u64..).zip(all.chunks_mut(BLOCK_BYTES)) {
            match self.drive.io.read(at + block * BLOCK_BYTES as u64, BLOCK_BYTES) {
                Ok(bytes) => out.copy_from_slice(&bytes),
                Err(error) if error.io_kind() == Some(IoErrorKind::Media) => {
                    tracing::error!(drive = self.drive.io.name(), %error, "journal block unreadable");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// The frame that continues the journal at `next`, and its position.
    pub(crate) fn expected(
        &mut self,
        uuid: &Uuid,
        next: &Start,
        epoch: u64,
    ) -> Result<Option<(JournalFrame, u64)>, StoreError> {
        let blocks = self.drive.zones.journal_blocks();
        let block = next.position % blocks;
        let wrap = (block + MAX_FRAME_BLOCKS as u64 > blocks && block > 0)
            .then(|| next.position + blocks - block);
        for position in std::iter::once(next.position).chain(wrap) {
            let bytes = self.bytes_at(position % blocks)?;
            if let Ok(frame) = JournalFrame::decode(bytes, uuid)
                && frame.sequence == next.sequence
                && (frame.previous == next.previous || canary::on(Canary::JournalParentUnchecked))
                && frame.epoch >= epoch
            {
                return Ok(Some((frame, position)));
            }
        }
        Ok(None)
    }

    /// Erases valid frames with a higher sequence than `sequence`, so that they are not taken for a
    /// hole again. Whether there were any.
    ///
    /// # Errors
    /// I/O errors; [`StoreError::Unopenable`] when there are any although there should be `none`: the
    /// journal's beginning and all checkpoints are lost.
    pub(crate) fn erase_later(
        &mut self,
        uuid: &Uuid,
        sequence: u64,
        none: bool,
    ) -> Result<bool, StoreError> {
        let mut found = false;
        for block in 0..self.drive.zones.journal_blocks() {
            let bytes = self.bytes_at(block)?;
            if JournalFrame::decode(bytes, uuid).is_ok_and(|frame| frame.sequence > sequence) {
                if none {
                    let reason = "its journal's beginning and its checkpoints are gone; `gcos fsck --repair` \
                         rebuilds it from what is left";
                    let drive = self.drive.io.name().to_owned();
                    return Err(StoreError::Unopenable { drive, reason: reason.to_owned() });
                }
                let at = self.drive.zones.journal_offset() + block * BLOCK_BYTES as u64;
                self.drive.io.write(at, &[0; BLOCK_BYTES], true)?;
                found = true;
            }
        }
        Ok(found)
    }
}
