use std::sync::Arc;
use std::time::Duration;

use gcos_cuda::{DeviceMemory, Gpu, Stream};

use super::shared::Shared;
use crate::device::{DeviceEngine, DevicePath, DeviceTicket, DeviceTransfer};
use crate::{IoError, IoErrorKind, Op};

/// The way of a GPU to a drive, as long as it is the way in use: what it writes counts, and once its way
/// is left it takes nothing more. That a GPU's queues fail says nothing of the host's, so its errors are
/// no reason to leave the way.
#[derive(Debug)]
pub(super) struct WatchedDevice {
    shared: Arc<Shared>,
    at: usize,
    inner: Arc<dyn DeviceEngine>,
}

impl WatchedDevice {
    pub(super) fn new(shared: &Arc<Shared>, at: usize, inner: Arc<dyn DeviceEngine>) -> Self {
        Self { shared: Arc::clone(shared), at, inner }
    }
}

impl DeviceEngine for WatchedDevice {
    fn gpu(&self) -> &Arc<Gpu> {
        self.inner.gpu()
    }

    fn memory(&self) -> &Arc<DeviceMemory> {
        self.inner.memory()
    }

    fn path(&self) -> DevicePath {
        self.inner.path()
    }

    fn start(
        &self,
        stream: &Stream,
        transfers: Vec<DeviceTransfer>,
        deadline: Duration,
    ) -> Result<Box<dyn DeviceTicket>, IoError> {
        if !self.shared.is_current(self.at) {
            let (name, detail) = (&self.shared.geometry.name, "the drive left the way of this GPU");
            return Err(IoError::about(name, IoErrorKind::Demoted, "start", detail));
        }
        let cached = |transfer: &DeviceTransfer| transfer.op == Op::Write { fua: false };
        let cached = transfers.iter().map(cached).collect();
        let inner = self.inner.start(stream, transfers, deadline)?;
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(WatchedTransfers { shared, at: self.at, cached, inner }))
    }

    fn shutdown(&self, deadline: Duration) -> Result<(), IoError> {
        self.inner.shutdown(deadline)
    }
}

#[derive(Debug)]
struct WatchedTransfers {
    shared: Arc<Shared>,
    at: usize,
    /// Which of them are writes without FUA.
    cached: Vec<bool>,
    inner: Box<dyn DeviceTicket>,
}

impl WatchedTransfers {
    fn note(shared: &Shared, at: usize, cached: &[bool], results: &[Result<(), IoError>]) {
        let wrote =
            results.iter().zip(cached).filter(|(result, cached)| result.is_ok() && **cached);
        if let Some(road) = shared.roads.get(at) {
            road.wrote(wrote.count() as u64);
        }
    }
}

impl DeviceTicket for WatchedTransfers {
    fn settle(&mut self) {
        self.inner.settle();
    }

    fn poll(&mut self) -> Option<Vec<Result<(), IoError>>> {
        let results = self.inner.poll()?;
        Self::note(&self.shared, self.at, &self.cached, &results);
        Some(results)
    }

    fn wait(self: Box<Self>) -> Vec<Result<(), IoError>> {
        let Self { shared, at, cached, inner } = *self;
        let results = inner.wait();
        Self::note(&shared, at, &cached, &results);
        results
    }
}
