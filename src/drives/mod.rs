//! From `disk.paths` to engines: drives behind VFIO or software controllers, all in one address space.

mod bring_up;
mod error;
mod image;
mod platform;

pub use error::OpenError;

use std::sync::Arc;

use gcos_engine::Engine;
use gcos_hw::DmaSpace;

use crate::config::Config;
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
}

/// Opens every drive of a configuration. With `create`, image files that are not there are made
/// first (sparse, `disk.capacity_bytes` long, readable by their owner alone), and no drive may be
/// missing; without it, drives that are missing are left out where `pool.allow_missing` says so.
///
/// # Errors
/// [`OpenError`] of the first drive that may not be left out, or when no drive is left.
pub fn open_drives(config: &Config, create: bool) -> Result<Drives, OpenError> {
    let kinds = platform::kinds(config)?;
    let platform = Platform::of(&kinds)?;
    let (mut engines, mut skipped) = (Vec::new(), Vec::new());
    for (index, (path, kind)) in kinds.iter().enumerate() {
        let may_skip = config.pool.allow_missing && !create && kinds.len() > 1;
        match bring_up::drive(config, index, (path, kind), &platform, create) {
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
        Some(dma) if !engines.is_empty() => Ok(Drives { engines, dma, skipped }),
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
