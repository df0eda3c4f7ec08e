use std::fmt;
use std::sync::Arc;

use gcos_hw::{DmaBuffer, DmaSpace, SharedMemory};

use crate::{Gpu, GpuError, Pinned, VramWindow, gdr};

/// Where memory for the GPU and drives lies, and by what means both reach it. The best comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// GPU memory through a window that Vulkan maps: see [`VramWindow`].
    Window,
    /// GPU memory through the kernel module of GDRCopy, which maps it. Never run with the real module so
    /// far: see `src/gdr.rs`.
    GdrCopy,
    /// Host memory that the GPU reaches over the bus.
    Staging,
}

impl Rung {
    /// All, the best first.
    pub const ALL: [Self; 3] = [Self::Window, Self::GdrCopy, Self::Staging];

    /// Stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::GdrCopy => "gdrcopy",
            Self::Staging => "staging",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Window => "GPU memory, mapped through Vulkan",
            Self::GdrCopy => "GPU memory, mapped through GDRCopy",
            Self::Staging => "host memory that the GPU reaches",
        })
    }
}

/// Why a rung could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which.
    pub rung: Rung,
    /// What was expected and found, and what to do.
    pub reason: String,
}

/// What was found out about the rungs of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The best that works.
    pub rung: Rung,
    /// Why the better ones do not.
    pub refusals: Vec<Refusal>,
}

impl Probe {
    /// Finds out by trying: a small piece of memory of each rung is made, the GPU and the CPU each write to
    /// it and see what the other wrote. No drive takes part.
    ///
    /// # Errors
    /// [`GpuError::NoRoom`] when not even host memory can be had; its reason has those of all rungs.
    pub fn of(gpu: &Arc<Gpu>) -> Result<Self, GpuError> {
        const LEN: usize = 2 << 20;
        let (_, probe) = first_that(gpu, &Rung::ALL, LEN, |rung| Place::new(gpu, rung, LEN))?;
        Ok(probe)
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rung)?;
        for Refusal { rung, reason } in &self.refusals {
            write!(f, "; not {}: {reason}", rung.name())?;
        }
        Ok(())
    }
}

/// An error and all its sources, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// Tries rungs in order until one works.
pub(crate) fn first_that<T>(
    gpu: &Gpu,
    rungs: &[Rung],
    len: usize,
    mut make: impl FnMut(Rung) -> Result<T, GpuError>,
) -> Result<(T, Probe), GpuError> {
    let mut refusals = Vec::new();
    for &rung in rungs {
        match make(rung) {
            Ok(made) => return Ok((made, Probe { rung, refusals })),
            Err(error) => refusals.push(Refusal { rung, reason: chain(&error) }),
        }
    }
    let reasons: Vec<_> = refusals
        .iter()
        .map(|refusal| format!("{}: {}", refusal.rung.name(), refusal.reason))
        .collect();
    let reason = match reasons.is_empty() {
        true => "no rung was allowed".to_owned(),
        false => reasons.join("; "),
    };
    Err(GpuError::NoRoom { ordinal: gpu.ordinal(), len, reason })
}

/// Memory of some rung, not yet known to any drive.
#[derive(Debug)]
pub(crate) struct Place {
    memory: Arc<SharedMemory>,
    pub(crate) device_address: u64,
    /// Host memory that the GPU reaches ends with its registration.
    _pinned: Option<Pinned>,
}

impl Place {
    /// Makes it and sees that it works.
    pub(crate) fn new(gpu: &Arc<Gpu>, rung: Rung, len: usize) -> Result<Self, GpuError> {
        let place = match rung {
            Rung::Window => {
                let window = VramWindow::new(gpu, len)?;
                let (memory, device_address) =
                    (Arc::clone(window.memory()), window.device_address());
                Self { memory, device_address, _pinned: None }
            }
            Rung::GdrCopy => {
                let (memory, device_address) = gdr::window(gpu, len)?;
                Self { memory, device_address, _pinned: None }
            }
            Rung::Staging => {
                let pinned = Pinned::new(gpu, len)?;
                let (memory, device_address) =
                    (Arc::clone(pinned.memory()), pinned.device_address());
                Self { memory, device_address, _pinned: Some(pinned) }
            }
        };
        place.check(gpu, rung)?;
        Ok(place)
    }

    /// The GPU and the CPU each write, and see what the other wrote, at both ends.
    fn check(&self, gpu: &Gpu, rung: Rung) -> Result<(), GpuError> {
        let ordinal = gpu.ordinal();
        let bounds = |source| GpuError::OutOfBounds { ordinal, source };
        let differs = |who: &str| GpuError::NoWindow {
            ordinal,
            reason: format!("{who} does not see what was written; {rung} is of no use here"),
        };
        for offset in [0, self.memory.len() - 64] {
            let address = self.device_address + offset as u64;
            let (first, second, mut seen) = ([0xA5_u8; 64], [0x5A_u8; 64], [0_u8; 64]);
            gpu.copy_in(address, &first)?;
            self.memory.read(offset, &mut seen).map_err(bounds)?;
            if seen != first {
                return Err(differs("the CPU"));
            }
            self.memory.write(offset, &second).map_err(bounds)?;
            gpu.copy_out(address, &mut seen)?;
            if seen != second {
                return Err(differs("the GPU"));
            }
        }
        Ok(())
    }

    pub(crate) fn memory(&self) -> &Arc<SharedMemory> {
        &self.memory
    }

    /// Lets the drives of a space reach it.
    pub(crate) fn adopt(&self, gpu: &Gpu, space: &Arc<DmaSpace>) -> Result<DmaBuffer, GpuError> {
        let ordinal = gpu.ordinal();
        let adopted = space.adopt(Arc::clone(&self.memory));
        adopted.map_err(|source| GpuError::Memory { ordinal, source })
    }
}
