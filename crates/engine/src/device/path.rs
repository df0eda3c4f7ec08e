use std::fmt;

use gcos_cuda::Rung;
use gcos_cuda::cufile::CuFileMode;

/// Who posts commands and reads completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Kernels on the GPU.
    Gpu {
        /// Queue pairs that are in use or can be.
        queue_pairs: u32,
        /// Entries of each queue.
        queue_depth: u32,
    },
    /// The host's queues and processors. The data goes to the GPU's memory all the same.
    Host,
    /// cuFile, over the kernel's file or block device.
    CuFile(CuFileMode),
    /// The host, to and from its own memory; the GPU copies from and to there.
    Staged,
}

/// How the doorbells of a drive are rung by a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doorbell {
    /// The GPU stores to the drive's registers.
    Registers,
    /// The GPU stores to memory that a software controller looks at.
    Memory,
    /// The GPU stores to memory that a thread of this process looks at, which writes the registers.
    Forwarded,
}

impl fmt::Display for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registers => "the drive's registers",
            Self::Memory => "the software controller's memory",
            Self::Forwarded => "forwarded by a thread",
        })
    }
}

/// Which way transfers between a drive and a GPU go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePath {
    /// Who drives the queues.
    pub driver: Driver,
    /// How the drive and the GPU come to reach the same memory; queues that the GPU drives lie in it, too.
    pub memory: Rung,
    /// How the GPU rings, if it does.
    pub doorbell: Option<Doorbell>,
    /// Better ways that were refused, and why.
    pub refused: Vec<String>,
}

impl fmt::Display for DevicePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.driver {
            Driver::Gpu { queue_pairs, queue_depth } => {
                write!(f, "driven by the GPU: {queue_pairs} queue pairs of {queue_depth} entries")?
            }
            Driver::Host => f.write_str("driven by the host")?,
            Driver::CuFile(mode) => write!(f, "by cuFile, {mode}")?,
            Driver::Staged => f.write_str("driven by the host, through pinned host memory")?,
        }
        write!(f, "; memory: {}", self.memory)?;
        if let Some(doorbell) = self.doorbell {
            write!(f, "; doorbells: {doorbell}")?;
        }
        for reason in &self.refused {
            write!(f, "; not better, since {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_who_drives_and_why_nothing_better_is_used() {
        let path = DevicePath {
            driver: Driver::Gpu { queue_pairs: 4, queue_depth: 1024 },
            memory: Rung::Window,
            doorbell: Some(Doorbell::Forwarded),
            refused: vec!["registers: no right".into()],
        };
        let text = path.to_string();
        for part in ["by the GPU: 4", "1024", "forwarded", "no right"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let host = DevicePath { driver: Driver::Host, doorbell: None, refused: vec![], ..path };
        assert!(host.to_string().starts_with("driven by the host; memory:"));
    }
}
