//! From `disk.paths` to engines: drives behind VFIO or software controllers, all in one address space.

mod bring_up;
mod error;
mod gpu;
mod image;
mod platform;

pub use error::OpenError;

use std::sync::Arc;

use gcos_cuda::DeviceMemory;
use gcos_engine::{Engine, HostQueueEngine};
use gcos_hw::DmaSpace;

use crate::config::Config;
use gpu::Gpus;
use platform::Platform;

/// A drive that was left out.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SkippedDrive {
    /// Entry of `disk.paths`.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// The drives of a configuration, ready for [`crate::Store::open`].
#[derive(Debug)]
pub struct Drives {
    /// One engine per drive, in the order of `disk.paths`.
    pub engines: Vec<Arc<dyn Engine>>,
    /// The address space that all of them reach.
    pub dma: Arc<DmaSpace>,
    /// Drives that could not be opened.
    pub skipped: Vec<SkippedDrive>,
    /// Memory of the GPUs that were opened, which all drives reach: see [`Engine::device`].
    pub gpus: Vec<Arc<DeviceMemory>>,
    /// GPUs that were asked for and are not used, or do not drive queues themselves, and why.
    pub gpus_refused: Vec<String>,
}

/// Opens every drive of a configuration. With `create`, image files that are not there are made
/// first (sparse, `disk.capacity_bytes` long, readable by their owner alone), and no drive may be
/// missing; without it, drives that are missing are left out where `pool.allow_missing` says so.
///
/// # Errors
/// [`OpenError`] of the first drive that may not be left out, or when no drive is left; of a GPU that cannot
/// be had where `namespace.gpu.fallback` is off.
pub fn open_drives(config: &Config, create: bool) -> Result<Drives, OpenError> {
    let kinds = platform::kinds(config)?;
    // What can never be opened is said before a GPU is touched.
    Platform::check(&kinds)?;
    open_with(config, create, Gpus::open(config)?)
}

fn open_with(config: &Config, create: bool, gpus: Gpus) -> Result<Drives, OpenError> {
    let kinds = platform::kinds(config)?;
    let platform = Platform::of(&kinds)?;
    let lent = gpus.queue_pairs(config);
    let (mut engines, mut skipped) = (Vec::<Arc<HostQueueEngine>>::new(), Vec::new());
    for (index, (path, kind)) in kinds.iter().enumerate() {
        let may_skip = config.pool.allow_missing && !create && kinds.len() > 1;
        match bring_up::drive(config, index, (path, kind), &platform, create, lent) {
            Ok(engine) => engines.push(engine),
            Err(error) if may_skip && error.is_missing_drive() => {
                tracing::warn!(drive = path, %error, "drive left out; its objects are misses");
                let reason = chain(&error);
                skipped.push(SkippedDrive { path: (*path).to_owned(), reason });
            }
            Err(error) => return Err(error),
        }
    }
    match platform.dma() {
        Some(dma) if !engines.is_empty() => {
            let attached = gpus.attach(config, &dma, &engines)?;
            let engines = engines.into_iter().map(|engine| engine as Arc<dyn Engine>).collect();
            let (gpus, gpus_refused) = (attached.memories, attached.refused);
            Ok(Drives { engines, dma, skipped, gpus, gpus_refused })
        }
        _ => Err(OpenError::NoneLeft { skipped }),
    }
}

/// An error with its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
