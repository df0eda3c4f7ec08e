use std::fmt;

/// Which of the kernel's ways moves the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KernelPath {
    /// An io_uring: many transfers at a time without a thread for each.
    IoUring,
    /// preadv2 and pwritev2 by a pool of threads.
    Posix,
}

impl KernelPath {
    /// Name for messages: "io_uring" or "POSIX".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Posix => "POSIX",
        }
    }
}

impl fmt::Display for KernelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How to open a [`super::FileEngine`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOptions {
    /// The way to use; an error where it cannot be. `None`: io_uring where the kernel lets, else POSIX.
    pub force: Option<KernelPath>,
    /// Transfers under way at a time at most, 1 to 4096.
    pub depth: u32,
    /// Threads of the POSIX way, 1 to 256.
    pub workers: usize,
    /// Use only so many bytes, a multiple of the block; `None`: all.
    pub capacity: Option<u64>,
    /// Claim blocks of this size, in bytes: 512 or 4096, a multiple of the target's own; `None`: its own.
    pub lba_bytes: Option<u32>,
    /// Whether [`crate::Op::Deallocate`] gives ranges back. For a file that means holes: room that was set
    /// aside for it is anybody's again, and a later write may find the file system full.
    pub deallocate: bool,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            force: None,
            depth: 256,
            workers: 8,
            capacity: None,
            lba_bytes: None,
            deallocate: true,
        }
    }
}
