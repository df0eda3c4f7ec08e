use std::fmt;

use serde::{Serialize, Serializer};

/// A way through the kernel, as `kernel_path.force` and `GCOS_FORCE_PATH` name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelWay {
    /// cuFile, between a file and the memory of a GPU. Requests of the host go through io_uring or POSIX.
    CuFile,
    /// io_uring.
    IoUring,
    /// `preadv2` and `pwritev2`, by a pool of threads.
    Posix,
}

impl KernelWay {
    /// Every way, the best first.
    pub const ALL: [Self; 3] = [Self::CuFile, Self::IoUring, Self::Posix];

    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CuFile => "cufile",
            Self::IoUring => "io_uring",
            Self::Posix => "posix",
        }
    }

    /// The way of that name; `None` where there is no such way.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.name() == name)
    }
}

impl fmt::Display for KernelWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// As the configuration is read: empty for none.
fn by_name<S: Serializer>(way: &Option<KernelWay>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(way.map_or("", KernelWay::name))
}

/// Section `kernel_path`: block devices and plain files, which are driven through the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelPaths {
    /// Whether cuFile may move data between files and GPU memory.
    pub use_cufile: bool,
    /// Whether files must be opened past the page cache (`O_DIRECT`). A file system that cannot is an
    /// error then, not a reason to go through the page cache.
    pub use_direct_io: bool,
    /// The one way that may be taken; `None` for the best that works.
    #[serde(serialize_with = "by_name")]
    pub force: Option<KernelWay>,
    /// Requests that one drive has in flight through io_uring.
    pub queue_depth: u32,
    /// Threads that carry out requests of one drive where POSIX is the way.
    pub workers: u32,
    /// Most memory of each GPU that is registered with cuFile, in MiB.
    pub cufile_buffer_mib: u32,
}

/// Section `fallback`: what becomes of a drive that fails or slows down while the pool is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fallback {
    /// File for spill: it takes objects only while a drive is missing or out of use and the rest have no
    /// room. Formatted with the pool; empty for none.
    pub path: String,
    /// Bytes of that file to use; 0 where there is none.
    pub capacity_bytes: u64,
    /// Errors of its way, not of the medium, after which a drive changes to the next; 0 for never.
    pub max_errors: u32,
    /// How many times as long as usual requests may take before a drive changes to the next way; 0 for
    /// any.
    pub latency_multiple: u32,
}
