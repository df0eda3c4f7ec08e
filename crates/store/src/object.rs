//! What a get needs to know of an object, whichever path its bytes take.

use gcos_engine::IoErrorKind;
use gcos_layout::media::{BLOCK_BYTES, Location, ObjectHeader, Shape};

use crate::canary::{self, Canary};
use crate::drive::Drive;
use crate::index::{Entry, Id};
use crate::pool::{Pool, count, now_seconds};
use crate::{MissReason, ObjectInfo, StoreError};

/// What the index says of an object.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) id: Id,
    pub(crate) shape: Shape,
    pub(crate) head: Location,
    pub(crate) pieces: Vec<Location>,
    pub(crate) generation: u64,
    root: u32,
    pub(crate) info: ObjectInfo,
}

/// Which payload bytes are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Range {
    /// All of them.
    Whole,
    /// As many as the target holds, from this offset on.
    From(u32),
}

impl Range {
    /// Offset of the first byte.
    pub(crate) fn offset(self) -> u32 {
        match self {
            Range::Whole => 0,
            Range::From(offset) => offset,
        }
    }
}

/// Whether what was read may be believed.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    Good,
    Damaged {
        drive: u8,
        detail: String,
    },
    Gone {
        drive: u8,
    },
    Failed {
        detail: String,
    },
    /// As `Failed`, and the target may still be written to.
    Unfinished {
        detail: String,
    },
}

impl Verdict {
    /// The same, of a read that cannot write to the target any more.
    pub(crate) fn settled(self, so: bool) -> Self {
        match self {
            Verdict::Unfinished { detail } if so => Verdict::Failed { detail },
            other => other,
        }
    }
}

impl Object {
    /// What an entry says, if it says anything that makes sense.
    pub(crate) fn of(id: Id, entry: &Entry) -> Option<Self> {
        Some(Self {
            id,
            shape: entry.shape().ok()?,
            head: entry.head(),
            pieces: entry.pieces().collect(),
            generation: entry.generation,
            root: entry.root,
            info: ObjectInfo::of(entry),
        })
    }

    /// Bytes of the object's header on its drive, for a key of this length.
    pub(crate) fn header_bytes(&self, key: &[u8]) -> u32 {
        self.shape.header_blocks(key.len()) * BLOCK_BYTES as u32
    }

    /// The header, if these bytes are this object's.
    pub(crate) fn header(&self, key: &[u8], bytes: &[u8]) -> Result<ObjectHeader, Verdict> {
        let damaged = |detail: String| Verdict::Damaged { drive: self.head.drive, detail };
        let (header, root) = ObjectHeader::decode(bytes).map_err(|e| damaged(e.to_string()))?;
        let same = root == self.root && header.key == key && header.generation == self.generation;
        if !same && !canary::on(Canary::HeaderUnchecked) {
            return Err(damaged("the header belongs to another object".to_owned()));
        }
        Ok(header)
    }

    /// Slot that a part of the payload lies in, and the offset of its first byte from the slot's start.
    pub(crate) fn place(
        &self,
        key: &[u8],
        piece: Option<usize>,
        offset: u32,
    ) -> Result<(Location, u64), StoreError> {
        match piece {
            Some(index) => {
                let slot = self.pieces.get(index).copied().ok_or(StoreError::Closed)?;
                Ok((slot, offset.into()))
            }
            None => Ok((self.head, u64::from(self.header_bytes(key)) + u64::from(offset))),
        }
    }
}

/// Compares checksums of grains, the first of which is grain `first` of the object.
pub(crate) fn check_grains(
    header: &ObjectHeader,
    first: usize,
    found: &[u32],
    drive: u8,
) -> Result<(), Verdict> {
    let expected = header.grains.get(first..first + found.len()).unwrap_or_default();
    if found == expected || canary::on(Canary::ChecksumSkipped) {
        return Ok(());
    }
    let bad = found.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
    let detail = format!("checksum of payload grain {} does not fit", first + bad);
    Err(Verdict::Damaged { drive, detail })
}

impl Pool {
    /// Looks an object up for reading. It then has a hold, which the caller ends.
    ///
    /// The outer error is the caller's mistake, the inner one the reason of a miss.
    pub(crate) fn find_and_hold(
        &self,
        key: &[u8],
        range: Range,
        target: u64,
    ) -> Result<Result<Object, MissReason>, StoreError> {
        let mut state = self.state.lock();
        let Some(id) = state.index.find(key) else { return Ok(Err(MissReason::Absent)) };
        let Some(entry) = state.index.entry(id) else { return Ok(Err(MissReason::Absent)) };
        if entry.expired(now_seconds()) {
            let removal = state.remove(id);
            self.enqueue(removal);
            count(&self.counters.expired, 1);
            return Ok(Err(MissReason::Expired));
        }
        let len = u64::from(entry.payload_len());
        let fits = match range {
            Range::Whole => target == len,
            Range::From(offset) => target > 0 && u64::from(offset) + target <= len,
        };
        if !fits {
            let object = match range {
                Range::Whole => len,
                Range::From(offset) => len.saturating_sub(offset.into()),
            };
            return Err(StoreError::WrongSize { object, target });
        }
        let Some(object) = Object::of(id, entry) else { return Ok(Err(MissReason::Absent)) };
        let lost = |drive: &&u8| !self.readable(**drive);
        if let Some(&drive) = object.info.drives.iter().find(lost) {
            return Ok(Err(MissReason::DriveGone { drive }));
        }
        if !state.hold(id) {
            let detail = "65,534 reads of this object are under way".to_owned();
            return Ok(Err(MissReason::Io { detail }));
        }
        if canary::on(Canary::HoldReleasedEarly) {
            state.unhold(id);
        }
        state.index.touch(id);
        Ok(Ok(object))
    }

    /// Takes another hold on an object that is still the one that was found.
    pub(crate) fn hold_again(&self, object: &Object) -> Result<(), Verdict> {
        let mut state = self.state.lock();
        let same = state.index.entry(object.id).is_some_and(|e| e.generation == object.generation);
        match same && state.hold(object.id) {
            true => Ok(()),
            false => Err(Verdict::Failed { detail: "removed while it was read".to_owned() }),
        }
    }

    /// Ends a hold.
    pub(crate) fn unhold(&self, object: &Object) {
        self.state.lock().unhold(object.id);
        self.changed.notify_all();
    }

    /// Removes an object of which a second read has not given what was stored.
    pub(crate) fn drop_damaged(&self, key: &[u8], generation: u64) {
        let mut state = self.state.lock();
        let Some(id) = state.index.find(key) else { return };
        if state.index.entry(id).is_some_and(|entry| entry.generation == generation) {
            let removal = state.remove(id);
            self.enqueue(removal);
            tracing::error!(key = %key.escape_ascii(), "damaged object dropped");
        }
    }

    /// The reason of a miss that follows from a verdict; counted.
    pub(crate) fn reason(&self, verdict: Verdict) -> MissReason {
        match verdict {
            Verdict::Damaged { drive, detail } => {
                count(&self.counters.misses_damaged, 1);
                MissReason::Damaged { drive: self.drive_name(drive), detail }
            }
            Verdict::Gone { drive } => {
                count(&self.counters.misses_io, 1);
                MissReason::DriveGone { drive }
            }
            Verdict::Failed { detail } => {
                count(&self.counters.misses_io, 1);
                MissReason::Io { detail }
            }
            Verdict::Unfinished { detail } => {
                count(&self.counters.misses_io, 1);
                MissReason::Unfinished { detail }
            }
            Verdict::Good => MissReason::Absent,
        }
    }

    /// What an error says about an object on a drive, and about the drive.
    pub(crate) fn verdict(&self, drive: u8, error: &StoreError) -> Verdict {
        if let Some(drive) = self.drive(drive) {
            Drive::note(drive, error);
        }
        let detail = error.io_detail();
        match error.io_kind() {
            Some(IoErrorKind::Media) => Verdict::Damaged { drive, detail },
            Some(IoErrorKind::Gone | IoErrorKind::Demoted) => Verdict::Gone { drive },
            Some(IoErrorKind::Unfinished) => Verdict::Unfinished { detail },
            _ => Verdict::Failed { detail },
        }
    }
}
