use std::sync::Arc;
use std::time::Duration;

use gcos_hw::{HwError, OutOfBounds};
use gcos_layout::nvme::Status;

/// Why an operation failed, for deciding what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request does not fit the controller or namespace: a caller's bug.
    Invalid,
    /// The controller or the namespace cannot do what was asked for.
    Unsupported,
    /// Media and data integrity error (SCT 2).
    Media,
    /// The controller failed the command for another reason.
    Device,
    /// The deadline passed, or the command was ended by a reset.
    Timeout,
    /// The controller is gone, shut down, or did not come back from a reset.
    Gone,
    /// The platform refused memory, mappings or interrupts.
    Platform,
}

/// What went wrong, where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NvmeError {
    /// The request does not fit.
    #[error("{device}: {what}: expected {expected}, got {got}")]
    Invalid {
        /// Controller.
        device: Arc<str>,
        /// The parameter.
        what: &'static str,
        /// What is accepted.
        expected: String,
        /// What was given.
        got: u64,
    },
    /// The controller lacks something that was asked for.
    #[error("{device}: {what}: expected {expected}, the controller reports {got}")]
    Unsupported {
        /// Controller.
        device: Arc<str>,
        /// The capability.
        what: &'static str,
        /// What is needed.
        expected: String,
        /// What the controller reports.
        got: u64,
    },
    /// The namespace is there and cannot be read and written.
    #[error("{device}: namespace {nsid} cannot be used: {reason}")]
    Namespace {
        /// Controller.
        device: Arc<str>,
        /// Namespace.
        nsid: u32,
        /// Why, and what to do: see [`crate::Namespace::unusable`].
        reason: Arc<str>,
    },
    /// The controller grants fewer I/O queue pairs than were asked for.
    #[error(
        "{device}: asked for {asked} I/O queue pairs, the controller grants {sq} submission and {cq} completion queues; configure fewer"
    )]
    QueueGrant {
        /// Controller.
        device: Arc<str>,
        /// Queue pairs asked for.
        asked: u32,
        /// Submission queues granted.
        sq: u32,
        /// Completion queues granted.
        cq: u32,
    },
    /// A register did not reach a value in time.
    #[error("{device}: {what} did not happen within {waited:?} (CSTS = {csts:#x})")]
    NotReady {
        /// Controller.
        device: Arc<str>,
        /// What was waited for.
        what: &'static str,
        /// How long.
        waited: Duration,
        /// Controller status register.
        csts: u32,
    },
    /// A command ended with an error status.
    #[error("{device}: {opcode} (namespace {nsid}, LBA {lba}) failed: {status}")]
    Command {
        /// Controller.
        device: Arc<str>,
        /// The command's name in the specification.
        opcode: &'static str,
        /// Namespace, 0 when the command has none.
        nsid: u32,
        /// First logical block, 0 when the command has none.
        lba: u64,
        /// Status of the completion.
        status: Status,
    },
    /// A command missed its deadline.
    #[error("{device}: {opcode} (namespace {nsid}, LBA {lba}) missed its deadline; {ended}")]
    Timeout {
        /// Controller.
        device: Arc<str>,
        /// The command's name in the specification.
        opcode: &'static str,
        /// Namespace, 0 when the command has none.
        nsid: u32,
        /// First logical block, 0 when the command has none.
        lba: u64,
        /// How it ended.
        ended: &'static str,
    },
    /// A command was in flight when the controller was reset because of something else.
    #[error("{device}: {opcode} (namespace {nsid}, LBA {lba}) was ended by a controller reset")]
    Reset {
        /// Controller.
        device: Arc<str>,
        /// The command's name in the specification.
        opcode: &'static str,
        /// Namespace, 0 when the command has none.
        nsid: u32,
        /// First logical block, 0 when the command has none.
        lba: u64,
    },
    /// The controller can no longer be used.
    #[error("{device}: the controller is gone: {reason}")]
    Gone {
        /// Controller.
        device: Arc<str>,
        /// Why.
        reason: Arc<str>,
    },
    /// The platform refused.
    #[error("{device}: {what} failed")]
    Platform {
        /// Controller.
        device: Arc<str>,
        /// What was being done.
        what: &'static str,
        /// The platform's error.
        #[source]
        source: HwError,
    },
}

impl NvmeError {
    /// For deciding what to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Unsupported { .. } | Self::QueueGrant { .. } | Self::Namespace { .. } => {
                ErrorKind::Unsupported
            }
            Self::Command { status, .. } if status.sct() == Status::SCT_MEDIA => ErrorKind::Media,
            Self::Command { .. } => ErrorKind::Device,
            Self::Timeout { .. } | Self::Reset { .. } => ErrorKind::Timeout,
            Self::NotReady { .. } | Self::Gone { .. } => ErrorKind::Gone,
            Self::Platform { .. } => ErrorKind::Platform,
        }
    }

    /// The status that the controller gave, where it gave one.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Command { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Wraps a platform error with what was being done.
    pub(crate) fn platform(device: &Arc<str>, what: &'static str) -> impl FnOnce(HwError) -> Self {
        let device = Arc::clone(device);
        move |source| Self::Platform { device, what, source }
    }

    /// Wraps an access outside of memory, which only a bug of ours can make.
    pub(crate) fn bounds(
        device: &Arc<str>,
        what: &'static str,
    ) -> impl FnOnce(OutOfBounds) -> Self {
        let device = Arc::clone(device);
        move |source| Self::Platform { device, what, source: source.into() }
    }
}
