//! `gcos.json`: which drives make up the pool and how they are driven. See `docs/config.md`.

mod environment;
mod kernel;
mod path;
mod problem;
mod read;
mod reader;
pub mod schema;
#[cfg(test)]
mod tests;
mod tree;

pub use environment::{FORCE_PATH, Override, USE_CUFILE, USE_DIRECT_IO};
pub use kernel::{Fallback, KernelPaths, KernelWay};
pub use path::{PathError, PathKind};
pub use problem::{ConfigError, Problem};

use std::path::{Path, PathBuf};
use std::time::Duration;

use gcos_layout::media::ZoneChunks;
use gcos_store::{FormatOptions, OpenOptions};
use serde::Serialize;

/// Environment variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "GCOS_CONFIG";

/// Configuration file where none is named.
pub const DEFAULT_FILE: &str = "gcos.json";

/// A configuration in which every value has been checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    /// The drives.
    pub disk: Disk,
    /// How their queue pairs are divided.
    pub namespace: Namespace,
    /// Chunk sizes of the zones, used when a pool is formatted.
    pub zone_chunk_size_kb: ZoneChunkSizeKb,
    /// How the store runs.
    pub pool: Pool,
    /// The software controller behind `emulated:` paths.
    pub emulated: Emulated,
    /// Block devices and plain files, through the kernel.
    pub kernel_path: KernelPaths,
    /// What becomes of a drive that fails or slows down while the pool is open.
    pub fallback: Fallback,
    /// Fields whose values come from the environment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
}

/// Section `disk`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Number of drives, equal to the number of paths.
    pub number: u64,
    /// One entry per drive; see [`PathKind`].
    pub paths: Vec<String>,
    /// Namespace ids 1 to this are looked at; the first active one with `block_size` is used.
    pub namespace_number: u32,
    /// Logical block size expected of each drive, in bytes: 512 or 4096.
    pub block_size: u32,
    /// Bytes of each drive to use, and the size of new image files.
    pub capacity_bytes: u64,
    /// Most I/O queue pairs asked of each controller.
    pub reserve_max_queue_pair_num: u32,
}

/// Section `namespace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Namespace {
    /// Queues that the host drives.
    pub cpu: CpuQueues,
    /// Queues that GPUs drive.
    pub gpu: GpuQueues,
}

/// Section `namespace.cpu`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CpuQueues {
    /// Queue pairs of each drive.
    pub qps: u32,
    /// Commands that one queue holds.
    pub queue_depth: u32,
    /// Whether waiting for a completion sleeps until the drive's interrupt instead of polling.
    pub interrupts: bool,
}

/// Section `namespace.gpu`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuQueues {
    /// Number of GPUs.
    pub num: u32,
    /// Queue pairs of each drive for each GPU; with 0 the host's queues move the GPU's data.
    pub qps: u32,
    /// Commands that one queue holds.
    pub queue_depth: u32,
    /// Whether the pool opens although a GPU, or queues that it drives, cannot be had.
    pub fallback: bool,
}

/// Section `zone_chunk_size_kb`; all values in KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ZoneChunkSizeKb {
    /// Reserved around each superblock copy.
    pub sb: u32,
    /// Unit of the meta zone's areas.
    pub meta: u32,
    /// Data chunk.
    pub data: u32,
}

/// Section `pool`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// Share of each drive for metadata, in percent.
    pub meta_percent: u32,
    /// Use of the data zone above which objects are evicted, in percent.
    pub high_watermark_percent: u32,
    /// Use of the data zone down to which they are evicted then, in percent.
    pub low_watermark_percent: u32,
    /// Longest time that a relaxed operation stays volatile, in milliseconds.
    pub relaxed_interval_ms: u32,
    /// Time budget of each I/O, in milliseconds.
    pub io_deadline_ms: u32,
    /// Whether the pool opens although drives are missing.
    pub allow_missing: bool,
    /// Whether drives are told about freed chunks.
    pub deallocate: bool,
}

/// Section `emulated`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Emulated {
    /// Whether the software controller has a volatile write cache.
    pub volatile_cache: bool,
    /// Whether image files are opened past the page cache.
    pub direct_io: bool,
    /// Threads that carry out the I/O of one image file; memory images have none of their own.
    pub workers: u32,
}

impl Config {
    /// The path of the configuration: `named` if given, else `GCOS_CONFIG`, else `gcos.json`.
    #[must_use]
    pub fn locate(named: Option<&Path>) -> PathBuf {
        match (named, std::env::var_os(CONFIG_VARIABLE)) {
            (Some(path), _) => path.to_owned(),
            (None, Some(path)) if !path.is_empty() => path.into(),
            _ => DEFAULT_FILE.into(),
        }
    }

    /// Reads and checks a file, and puts the environment's values ([`USE_CUFILE`], [`USE_DIRECT_IO`],
    /// [`FORCE_PATH`]) above its own.
    ///
    /// # Errors
    /// [`ConfigError`], with every problem of the document, or of the environment, at once.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, &path.display().to_string())?
            .override_with(|name| std::env::var_os(name))
    }

    /// Checks a document; the environment is not looked at. `name` is what messages call it.
    ///
    /// # Errors
    /// [`ConfigError`], with every problem of the document at once.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        read::parse(text, name)
    }

    /// Chunk sizes of the zones, in bytes.
    #[must_use]
    pub fn zone_chunks(&self) -> ZoneChunks {
        let ZoneChunkSizeKb { sb, meta, data } = self.zone_chunk_size_kb;
        ZoneChunks { superblock: sb << 10, meta: meta << 10, data: data << 10 }
    }

    /// How a pool on these drives is laid out, without a drive for spill (see
    /// [`crate::Drives::format_options`]). `force` erases what they hold.
    #[must_use]
    pub fn format_options(&self, force: bool) -> FormatOptions {
        FormatOptions {
            chunks: self.zone_chunks(),
            meta_percent: self.pool.meta_percent,
            capacity: Some(self.disk.capacity_bytes),
            spill: None,
            force,
            io_deadline: self.io_deadline(),
        }
    }

    /// How the pool is run, without a drive for spill (see [`crate::Drives::open_options`]).
    #[must_use]
    pub fn open_options(&self) -> OpenOptions {
        OpenOptions {
            high_watermark: self.pool.high_watermark_percent,
            low_watermark: self.pool.low_watermark_percent,
            relaxed_interval: Duration::from_millis(self.pool.relaxed_interval_ms.into()),
            io_deadline: self.io_deadline(),
            allow_missing: self.pool.allow_missing,
            deallocate: self.pool.deallocate,
            capacity: Some(self.disk.capacity_bytes),
            ..OpenOptions::default()
        }
    }

    /// The block devices and plain files that it names, which go through the kernel: those of `disk.paths`, and
    /// the one for spill.
    #[must_use]
    pub fn kernel_files(&self) -> Vec<PathBuf> {
        let file = |entry| match PathKind::parse(entry) {
            Ok(PathKind::Kernel(file)) => Some(file),
            _ => None,
        };
        self.entries().filter_map(file).collect()
    }

    /// Every entry that names a drive: those of `disk.paths`, then the one for spill if there is one.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        let spill = Some(&self.fallback.path).filter(|path| !path.is_empty());
        self.disk.paths.iter().chain(spill).map(String::as_str)
    }

    /// Time budget of each I/O.
    #[must_use]
    pub fn io_deadline(&self) -> Duration {
        Duration::from_millis(self.pool.io_deadline_ms.into())
    }
}
