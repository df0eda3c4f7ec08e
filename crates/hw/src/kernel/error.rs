use std::io;
use std::path::PathBuf;

/// Why a block device or a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A call to the system failed.
    #[error("{}: cannot {what}", path.display())]
    Os {
        /// What was given.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// It is neither a block device nor a plain file.
    #[error("{}: expected a block device or a plain file, found {found}", path.display())]
    Kind {
        /// What was given.
        path: PathBuf,
        /// What it is: "a directory", "a FIFO" and the like.
        found: &'static str,
    },
    /// The file system cannot go round the page cache.
    #[error(
        "{}: the file system ({file_system}) has no direct I/O (O_DIRECT) for this file; use a block \
         device or a file on ext4, XFS or btrfs, or allow the page cache", path.display()
    )]
    NoDirect {
        /// What was given.
        path: PathBuf,
        /// What the file system is: "tmpfs", "overlay" and the like.
        file_system: String,
    },
    /// Somebody else has it.
    #[error("{}: in use: {by}", path.display())]
    InUse {
        /// What was given.
        path: PathBuf,
        /// By whom as far as is known, and what to do.
        by: String,
    },
    /// Its size or its blocks cannot be used.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Unusable {
        /// What was given.
        path: PathBuf,
        /// What is accepted.
        expected: &'static str,
        /// What it has.
        found: String,
    },
}
