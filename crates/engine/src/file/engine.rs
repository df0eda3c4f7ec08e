use std::sync::Arc;
use std::time::Duration;

use gcos_hw::DmaSpace;
use gcos_hw::kernel::Target;

use super::{FileEngineError, FileOptions, KernelPath};
use crate::{Engine, Geometry, IoError, IoErrorKind, Request, Ticket, Way};

/// Moves blocks of a block device or a file through the kernel.
#[derive(Debug)]
pub struct FileEngine {
    target: Arc<Target>,
    dma: Arc<DmaSpace>,
    geometry: Geometry,
    path: KernelPath,
    reason: String,
}

impl FileEngine {
    /// Opens an engine over `target`, for memory of `dma`.
    ///
    /// # Errors
    /// [`FileEngineError`] when a way that was forced cannot be used, or an option does not fit.
    pub fn open(
        target: Arc<Target>,
        dma: Arc<DmaSpace>,
        options: FileOptions,
    ) -> Result<Arc<Self>, FileEngineError> {
        let _ = dma;
        Err(FileEngineError::Forced {
            drive: target.path().display().to_string(),
            path: options.force.unwrap_or(KernelPath::Posix),
            reason: "this build does not move blocks through the kernel yet".to_owned(),
        })
    }

    /// Which way the blocks go.
    #[must_use]
    pub fn path(&self) -> KernelPath {
        self.path
    }

    /// Why not a better way, in words; "" on the best.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The block device or file.
    #[must_use]
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }
}

impl Engine for FileEngine {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn dma(&self) -> &Arc<DmaSpace> {
        &self.dma
    }

    fn way(&self) -> Way {
        Way { name: self.path.name(), reason: self.reason.clone() }
    }

    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        Err(request.error(&self.geometry, IoErrorKind::Gone, "not open"))
    }

    fn shutdown(&self, _deadline: Duration) -> Result<(), IoError> {
        Ok(())
    }
}
