//! The NVM command set.

use fastrand::Rng;
use gcos_layout::nvme::{DsmRange, IoCommand, Status};

use crate::controller::{Controller, Outcome};
use crate::data::Walk;
use crate::fault::{Action, Effects};
use crate::medium::{MediaError, Scratch};
use crate::namespace::{NamespaceState, find, select};
use crate::queue::Command;

/// Why a command has no successful completion.
pub(crate) enum Failure {
    Status(Status),
    /// Power went while it was carried out: nobody will hear of it.
    Silent,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// What a medium failure looks like to the host.
fn media(error: &MediaError, otherwise: Status) -> Failure {
    match error {
        MediaError::PowerOff => Failure::Silent,
        MediaError::File(_) => otherwise.into(),
        MediaError::OutOfBounds(_) => Status::INTERNAL_ERROR.into(),
    }
}

fn read_failed(error: MediaError) -> Failure {
    tracing::error!(%error, "medium read");
    media(&error, Status::UNRECOVERED_READ_ERROR)
}

fn write_failed(error: MediaError) -> Failure {
    if !matches!(error, MediaError::PowerOff) {
        tracing::error!(%error, "medium write");
    }
    media(&error, Status::WRITE_FAULT)
}

impl Controller {
    pub(crate) fn walk(&self) -> Walk<'_> {
        let page = self.page_bytes.load(std::sync::atomic::Ordering::Relaxed) as u64;
        Walk { table: &self.table, page, sgl: self.limits.sgl }
    }

    /// Carries out an I/O command; `None` when it will never complete.
    pub(crate) fn execute_io(&self, command: &Command, scratch: &mut Scratch) -> Option<Outcome> {
        let effects = command.effects.as_deref();
        let ended = match effects.and_then(planned_status) {
            Some(status) => Err(status.into()),
            None => self.io(command, effects, scratch),
        };
        match ended {
            Ok(()) => Some(Outcome::SUCCESS),
            Err(Failure::Status(status)) => Some(status.into()),
            Err(Failure::Silent) => None,
        }
    }

    fn io(
        &self,
        command: &Command,
        effects: Option<&Effects>,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let sqe = &command.sqe;
        let parsed = IoCommand::parse(sqe).map_err(|error| error.status())?;
        let optional = matches!(
            parsed,
            IoCommand::Compare { .. }
                | IoCommand::WriteZeroes { .. }
                | IoCommand::DatasetManagement { .. }
        );
        if optional && !self.limits.optional_commands {
            return Err(Status::INVALID_OPCODE.with_dnr(true).into());
        }
        if sqe.fuse() != 0 {
            return Err(Status::INVALID_FIELD.with_dnr(true).into());
        }
        if effects.is_some_and(|effects| effects.has(Action::Lie)) {
            return Ok(());
        }
        if parsed == IoCommand::Flush {
            select(&self.namespaces, sqe.nsid())?;
            return self.storage.flush().map_err(write_failed);
        }
        let namespace = find(&self.namespaces, sqe.nsid())?;
        match parsed {
            IoCommand::Flush => Ok(()),
            IoCommand::Read { slba, nlb, .. } => {
                let at = self.transfer(command, namespace, slba, nlb, effects, scratch)?;
                self.storage.read(at, scratch).map_err(read_failed)?;
                effects.map_or(Ok(()), |effects| corrupt(effects, scratch))
            }
            IoCommand::Write { slba, nlb, fua } => {
                let at = self.transfer(command, namespace, slba, nlb, effects, scratch)?;
                let fua = fua && !effects.is_some_and(|effects| effects.has(Action::IgnoreFua));
                self.storage.write(at, fua, scratch).map_err(write_failed)?;
                effects.map_or(Ok(()), |effects| self.rot(effects, at, scratch.transfer.len()))
            }
            IoCommand::Compare { slba, nlb, .. } => {
                let at = self.transfer(command, namespace, slba, nlb, effects, scratch)?;
                match self.storage.compare(at, scratch).map_err(read_failed)? {
                    true => Ok(()),
                    false => Err(Status::COMPARE_FAILURE.into()),
                }
            }
            IoCommand::WriteZeroes { slba, nlb, fua, .. } => {
                let (at, len) = namespace.locate(slba, nlb.into())?;
                self.storage.zero(at, len, false, fua).map_err(write_failed)
            }
            IoCommand::DatasetManagement { ranges, deallocate } => {
                self.dataset_management(command, namespace, ranges, deallocate, scratch)
            }
        }
    }

    /// Checks a command that moves blocks and finds its memory: the offset on the medium.
    fn transfer(
        &self,
        command: &Command,
        namespace: &NamespaceState,
        slba: u64,
        nlb: u32,
        effects: Option<&Effects>,
        scratch: &mut Scratch,
    ) -> Result<u64, Failure> {
        let (at, len) = namespace.locate(slba, nlb.into())?;
        self.check_length(len)?;
        let len_bytes = usize::try_from(len).map_err(|_| Status::INVALID_FIELD)?;
        self.walk().map(&command.sqe, len_bytes, &mut scratch.transfer)?;
        Ok(effects.map_or(at, |effects| misdirect(effects, namespace, at, len)))
    }

    /// Whether one command may move so many bytes (MDTS).
    pub(crate) fn check_length(&self, len: u64) -> Result<(), Status> {
        if self.limits.mdts != 0 && len > self.limits.mdts {
            return Err(Status::INVALID_FIELD.with_dnr(true));
        }
        Ok(())
    }

    fn dataset_management(
        &self,
        command: &Command,
        namespace: &NamespaceState,
        ranges: u32,
        deallocate: bool,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        let mut bytes = vec![0; ranges as usize * DsmRange::BYTES];
        self.walk().map(&command.sqe, bytes.len(), &mut scratch.transfer)?;
        scratch.transfer.gather(0, &mut bytes).map_err(|_| Status::INTERNAL_ERROR)?;
        let ranges = bytes.as_chunks::<{ DsmRange::BYTES }>().0.iter().map(DsmRange::from_bytes);
        // All are checked before the first is touched.
        let located: Result<Vec<_>, _> =
            ranges.map(|range| namespace.locate(range.slba, range.nlb.into())).collect();
        for (at, len) in located?.into_iter().filter(|&(_, len)| deallocate && len > 0) {
            self.storage.zero(at, len, true, false).map_err(write_failed)?;
        }
        Ok(())
    }

    /// Bit rot after a write.
    fn rot(&self, effects: &Effects, at: u64, len: usize) -> Result<(), Failure> {
        if !effects.has(Action::BitRot) {
            return Ok(());
        }
        let mut rng = Rng::with_seed(effects.seed);
        let byte = rng.u64(0..len.max(1) as u64);
        // What rots is the medium: the write must have reached it.
        self.storage.settle().map_err(write_failed)?;
        self.storage.rot(at + byte, rng.u8(0..8)).map_err(write_failed)
    }
}

/// A status that the fault plan gives without carrying the command out.
pub(crate) fn planned_status(effects: &Effects) -> Option<Status> {
    effects.find(|action| match action {
        Action::Status { sct, sc, dnr } => Some(Status::new(*sct, *sc).with_dnr(*dnr)),
        _ => None,
    })
}

fn corrupt(effects: &Effects, scratch: &Scratch) -> Result<(), Failure> {
    let bits = effects.find(|action| match action {
        Action::CorruptRead { bits } => Some(*bits),
        _ => None,
    });
    let mut rng = Rng::with_seed(effects.seed);
    for _ in 0..bits.unwrap_or(0) {
        let bit = rng.usize(0..(scratch.transfer.len() * 8).max(1));
        scratch.transfer.flip(bit).map_err(|_| Status::INTERNAL_ERROR)?;
    }
    Ok(())
}

/// The offset at which a misdirected command works.
fn misdirect(effects: &Effects, namespace: &NamespaceState, at: u64, len: u64) -> u64 {
    let distance = effects.find(|action| match action {
        Action::Misdirect { blocks } => Some(*blocks),
        _ => None,
    });
    let Some(distance) = distance else { return at };
    let room = (namespace.bytes.saturating_sub(len) >> namespace.lba_shift()) + 1;
    let block = (at - namespace.start) >> namespace.lba_shift();
    let target = (i128::from(block) + i128::from(distance)).rem_euclid(i128::from(room));
    namespace.start + ((target as u64) << namespace.lba_shift())
}
