//! One open pool as programs in other languages use it: opened in one call, shared between threads, closed
//! with a deadline, refused in child processes, with memory of theirs that drives reach.

mod calls;
mod error;
mod open;
mod registered;

pub use error::{AccessError, CloseError};
pub use registered::Registration;

use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_cuda::{DeviceMemory, Gpu};
use gcos_hw::{DmaSlice, DmaSpace, SharedMemory};
use gcos_store::Store;
use parking_lot::Mutex;

use crate::config::Config;
use crate::drives::{DriveChoice, SkippedDrive};
use crate::metrics::{Mark, Measures};
use registered::Registered;

/// How often the end of other threads' calls is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// An open pool, to be shared as `Arc<Access>`: whoever is in a call holds a clone.
#[derive(Debug)]
pub struct Access {
    config: Config,
    store: Arc<Store>,
    choices: Vec<DriveChoice>,
    skipped: Vec<SkippedDrive>,
    dma: Arc<DmaSpace>,
    memories: Vec<Arc<DeviceMemory>>,
    gpus: Mutex<Vec<Arc<Gpu>>>,
    registered: Arc<Registered>,
    pub(crate) measures: Measures,
    mark: Mutex<Mark>,
    process: u32,
}

impl Access {
    /// Opens the pool of a configuration. With `create`, files that are missing are made, and drives of which
    /// every one holds nothing are formatted; a pool that is there, and anything that is not known, is never
    /// erased. Pools of nothing but memory (`emulated:ram`) are blank in each process and always formatted.
    ///
    /// # Errors
    /// [`AccessError`]. Files that were made are removed again.
    pub fn open(config: &Config, create: bool) -> Result<Self, AccessError> {
        open::open(config, create)
    }

    /// The store. Its calls are not to be made in a child process: ask [`Access::check_fork`] before.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The configuration that it was opened with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Which way each drive goes, and why.
    #[must_use]
    pub fn choices(&self) -> &[DriveChoice] {
        &self.choices
    }

    /// Drives that could not be opened.
    #[must_use]
    pub fn skipped(&self) -> &[SkippedDrive] {
        &self.skipped
    }

    /// Checks that this is the process that opened the pool: a child has neither its threads nor its drives.
    ///
    /// # Errors
    /// [`AccessError::Forked`].
    pub fn check_fork(&self) -> Result<(), AccessError> {
        match std::process::id() {
            now if now == self.process => Ok(()),
            now => Err(AccessError::Forked { opened_by: self.process, now }),
        }
    }

    /// The GPU with this number, as CUDA counts them: opened when it is first asked for.
    ///
    /// # Errors
    /// [`AccessError::Gpu`].
    pub fn gpu(&self, ordinal: usize) -> Result<Arc<Gpu>, AccessError> {
        let mut gpus = self.gpus.lock();
        if let Some(gpu) = gpus.iter().find(|gpu| gpu.ordinal() == ordinal) {
            return Ok(Arc::clone(gpu));
        }
        let gpu = Gpu::open(ordinal)?;
        gpus.push(Arc::clone(&gpu));
        Ok(gpu)
    }

    /// Takes a GPU that is open already, under its number: a played one, in tests.
    pub fn add_gpu(&self, gpu: Arc<Gpu>) {
        let mut gpus = self.gpus.lock();
        gpus.retain(|other| other.ordinal() != gpu.ordinal());
        gpus.push(gpu);
    }

    /// Lets the drives reach memory of the caller ([`SharedMemory::lent`]): puts from it and gets into it move
    /// whole blocks without a copy, until the registration is dropped. What is under way then keeps the memory
    /// until it ends.
    ///
    /// # Errors
    /// [`AccessError::Overlap`] for memory of which a part is registered; [`AccessError::Memory`] when the
    /// drives cannot be made to reach it.
    pub fn register(&self, memory: SharedMemory) -> Result<Registration, AccessError> {
        Registered::add(&self.registered, &self.dma, memory)
    }

    /// Memory inside one registration as drives reach it; `None` for any other.
    #[must_use]
    pub fn slice(&self, address: usize, len: usize) -> Option<DmaSlice> {
        self.registered.slice(address, len)
    }

    /// Ends use of the pool in order, as [`Store::close`], after the calls of other threads: those that hold a
    /// clone.
    ///
    /// # Errors
    /// [`CloseError`], which gives the pool back if calls had not ended at the deadline; nothing was closed
    /// then.
    pub fn close(self: Arc<Self>, deadline: Duration) -> Result<(), CloseError> {
        if let Err(error) = self.check_fork() {
            return Err(CloseError { error, access: None });
        }
        let end = Instant::now().checked_add(deadline);
        let mut shared = self;
        let access = loop {
            shared = match Arc::try_unwrap(shared) {
                Ok(access) => break access,
                Err(shared) => shared,
            };
            if end.is_some_and(|end| Instant::now() >= end) {
                let calls = Arc::strong_count(&shared) - 1;
                let error = AccessError::CallsUnderWay { calls, after: deadline };
                return Err(CloseError { error, access: Some(shared) });
            }
            std::thread::sleep(LOOK_AGAIN);
        };
        let store = Arc::clone(&access.store);
        drop(access);
        // The only other owner is gone.
        let closed = match Arc::try_unwrap(store) {
            Ok(store) => store.close().map_err(AccessError::from),
            Err(_) => Err(AccessError::CallsUnderWay { calls: 1, after: deadline }),
        };
        closed.map_err(|error| CloseError { error, access: None })
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        if self.check_fork().is_err() {
            // All of it is the parent's: its threads do not run here, and its drives must not be touched.
            std::mem::forget(Arc::clone(&self.store));
            std::mem::forget(Arc::clone(&self.dma));
            std::mem::forget(Arc::clone(&self.registered));
            self.memories.iter().for_each(|memory| std::mem::forget(Arc::clone(memory)));
            if let Some(gpus) = self.gpus.try_lock() {
                gpus.iter().for_each(|gpu| std::mem::forget(Arc::clone(gpu)));
            }
        }
    }
}
