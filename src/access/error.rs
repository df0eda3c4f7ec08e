use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use gcos_cuda::GpuError;
use gcos_hw::HwError;
use gcos_store::StoreError;

use super::Access;
use crate::config::ConfigError;
use crate::drives::OpenError;
use crate::status::{Classify, Status};

/// What can go wrong with an open pool beside the operations of its store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The drives could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A GPU.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The drives cannot be made to reach the memory.
    #[error("the memory cannot be registered")]
    Memory(#[from] HwError),
    /// Part of the memory is registered already.
    #[error(
        "{len} bytes at {address:#x} overlap memory that is registered ({other_len} bytes at {other:#x}); \
         unregister that first"
    )]
    Overlap {
        /// Address of the first byte.
        address: usize,
        /// Bytes.
        len: usize,
        /// Address of what is registered.
        other: usize,
        /// Its bytes.
        other_len: usize,
    },
    /// The process that opened it is another.
    #[error(
        "the pool was opened by process {opened_by}, and this is its child {now}: drives and threads stay \
         with the parent; open a pool of its own in the child, or fork before opening (in Python: \
         multiprocessing with the start method \"spawn\")"
    )]
    Forked {
        /// Process that opened it.
        opened_by: u32,
        /// This process.
        now: u32,
    },
    /// Other threads are in calls.
    #[error("{calls} calls or buffers still use the pool after {after:?}; nothing was closed")]
    CallsUnderWay {
        /// How many.
        calls: usize,
        /// The deadline.
        after: Duration,
    },
}

impl Classify for AccessError {
    fn status(&self) -> Status {
        match self {
            Self::Config(error) => error.status(),
            Self::Open(error) => error.status(),
            Self::Store(error) => error.status(),
            Self::Gpu(error) => error.status(),
            Self::Memory(error) => error.status(),
            Self::Overlap { .. } => Status::InvalidArgument,
            Self::Forked { .. } => Status::Forked,
            Self::CallsUnderWay { .. } => Status::Timeout,
        }
    }
}

/// Why a pool was not closed in order.
#[derive(thiserror::Error)]
#[error("{error}")]
pub struct CloseError {
    /// What went wrong.
    #[source]
    pub error: AccessError,
    /// The pool, still open, where calls had not ended.
    pub access: Option<Arc<Access>>,
}

impl fmt::Debug for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloseError")
            .field("error", &self.error)
            .field("still_open", &self.access.is_some())
            .finish()
    }
}

impl Classify for CloseError {
    fn status(&self) -> Status {
        self.error.status()
    }
}
