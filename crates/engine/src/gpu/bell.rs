//! How the GPU rings a drive's doorbells: the best way that the platform allows.

use std::sync::{Arc, Weak};

use gcos_cuda::{Gpu, GpuError, Pinned};
use gcos_hw::{DoorbellHolder, DoorbellMemory, Doorbells, Function};

use super::forward::Forwarder;
use crate::device::Doorbell;

/// Which ways may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DoorbellChoice {
    /// The best that works: the drive's registers, a software controller's memory, a thread.
    #[default]
    Auto,
    /// A thread of the host, whatever else there is.
    Forwarded,
}

/// A way to ring.
#[derive(Debug)]
pub(super) enum Bell {
    /// The GPU reaches the doorbells themselves.
    Direct {
        pinned: Pinned,
        /// Register offset of the memory's first byte.
        first: usize,
        kind: Doorbell,
    },
    Forwarded(Forwarder),
}

/// An error and what it came from, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

impl Bell {
    /// Finds a way for `lanes` pairs, and why better ones were not taken.
    pub(super) fn open(
        gpu: &Arc<Gpu>,
        function: &Arc<dyn Function>,
        holder: Weak<dyn DoorbellHolder>,
        lanes: usize,
        choice: DoorbellChoice,
    ) -> Result<(Self, Vec<String>), GpuError> {
        let mut refused = Vec::new();
        if choice == DoorbellChoice::Auto {
            let lent = function.lend_doorbells(holder).map_err(|error| chain(&error));
            let direct =
                lent.and_then(|lent| Self::direct(gpu, lent).map_err(|error| chain(&error)));
            match direct {
                Ok(bell) => return Ok((bell, refused)),
                Err(reason) => {
                    refused.push(format!("the GPU does not reach the doorbells: {reason}"))
                }
            }
        }
        let forwarder = Forwarder::new(gpu, function, lanes)?;
        Ok((Self::Forwarded(forwarder), refused))
    }

    fn direct(gpu: &Arc<Gpu>, doorbells: Doorbells) -> Result<Self, GpuError> {
        let Doorbells { memory, first, kind } = doorbells;
        let (pinned, kind) = match kind {
            DoorbellMemory::Registers => {
                (Pinned::register_registers(gpu, memory)?, Doorbell::Registers)
            }
            DoorbellMemory::Memory => (Pinned::register(gpu, memory)?, Doorbell::Memory),
        };
        Ok(Self::Direct { pinned, first, kind })
    }

    pub(super) fn kind(&self) -> Doorbell {
        match self {
            Self::Direct { kind, .. } => *kind,
            Self::Forwarded(_) => Doorbell::Forwarded,
        }
    }

    /// Where the GPU stores tail and head of a lane's pair, whose registers are at these offsets. `None` when
    /// they lie outside what the GPU reaches.
    pub(super) fn attach(&self, lane: usize, registers: (usize, usize)) -> Option<(u64, u64)> {
        match self {
            Self::Direct { pinned, first, .. } => {
                let at = |register: usize| {
                    let offset = register.checked_sub(*first)?;
                    let fits = offset.checked_add(4)? <= pinned.len();
                    fits.then(|| pinned.device_address() + offset as u64)
                };
                Some((at(registers.0)?, at(registers.1)?))
            }
            Self::Forwarded(forwarder) => Some(forwarder.attach(lane, registers)),
        }
    }

    pub(super) fn detach(&self, lane: usize) {
        if let Self::Forwarded(forwarder) = self {
            forwarder.detach(lane);
        }
    }

    pub(super) fn begin(&self) {
        if let Self::Forwarded(forwarder) = self {
            forwarder.begin();
        }
    }

    pub(super) fn end(&self) {
        if let Self::Forwarded(forwarder) = self {
            forwarder.end();
        }
    }

    pub(super) fn forwarded(&self) -> u64 {
        match self {
            Self::Direct { .. } => 0,
            Self::Forwarded(forwarder) => forwarder.forwarded(),
        }
    }
}
