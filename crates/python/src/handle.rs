//! One open store as all its Python objects share it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use gcos::engine::device::DeviceSlice;
use gcos::hw::DmaSlice;
use gcos::{Access, AccessError, Status, log};
use parking_lot::{Mutex, RwLock};
use pyo3::prelude::*;

use crate::crew::Crew;
use crate::error::Failure;

/// All stores of the process that may be open, for the end of the interpreter.
static ALL: Mutex<Vec<Weak<Handle>>> = Mutex::new(Vec::new());

/// How long the list is waited for; in a child process it may be locked by a thread that is not there.
const LIST_WAIT: Duration = Duration::from_secs(1);

/// What is left of a store that nobody closed is closed in order within this time.
const LAST_CHANCE: Duration = Duration::from_secs(30);

/// Memory of the store's own that was handed out, by its address: what is inside moves without a copy.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    host: RwLock<BTreeMap<usize, DmaSlice>>,
    device: RwLock<BTreeMap<(usize, u64), DeviceSlice>>,
}

impl Reached {
    pub(crate) fn add_host(&self, address: usize, slice: DmaSlice) {
        self.host.write().insert(address, slice);
    }

    pub(crate) fn remove_host(&self, address: usize) -> Option<DmaSlice> {
        self.host.write().remove(&address)
    }

    pub(crate) fn host(&self, address: usize, len: usize) -> Option<DmaSlice> {
        let table = self.host.read();
        let (start, slice) = table.range(..=address).next_back()?;
        slice.slice(address - start, len).ok()
    }

    pub(crate) fn add_device(&self, gpu: usize, address: u64, slice: DeviceSlice) {
        self.device.write().insert((gpu, address), slice);
    }

    pub(crate) fn remove_device(&self, gpu: usize, address: u64) -> Option<DeviceSlice> {
        self.device.write().remove(&(gpu, address))
    }

    pub(crate) fn device(&self, gpu: usize, address: u64, len: usize) -> Option<DeviceSlice> {
        let table = self.device.read();
        let ((other, start), slice) = table.range(..=(gpu, address)).next_back()?;
        let offset = usize::try_from(address - start).ok().filter(|_| *other == gpu)?;
        slice.slice(offset, len).ok()
    }
}

/// Where a store is in its life.
#[derive(Debug)]
enum State {
    Open(Arc<Access>),
    /// It takes no more work; what is under way ends.
    Closing(Arc<Access>),
    /// Whoever closes it has the pool.
    Ending,
    Closed,
}

/// One open store.
#[derive(Debug)]
pub(crate) struct Handle {
    process: u32,
    state: Mutex<State>,
    /// Held by whoever closes it.
    closing: Mutex<()>,
    pub(crate) crew: Crew,
    pub(crate) reached: Reached,
}

impl Handle {
    pub(crate) fn new(access: Access, threads: usize) -> Arc<Self> {
        let handle = Arc::new(Self {
            process: std::process::id(),
            state: Mutex::new(State::Open(Arc::new(access))),
            closing: Mutex::new(()),
            crew: Crew::new(threads),
            reached: Reached::default(),
        });
        let mut all = ALL.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&handle));
        handle
    }

    /// Whether this is the process that opened it. Comes before every lock: in a child they may be held by
    /// threads that are not there.
    pub(crate) fn is_ours(&self) -> bool {
        std::process::id() == self.process
    }

    pub(crate) fn check_fork(&self) -> Result<(), Failure> {
        let now = std::process::id();
        if now == self.process {
            return Ok(());
        }
        Err(AccessError::Forked { opened_by: self.process, now }.into())
    }

    /// The pool, for the time of one call.
    pub(crate) fn access(&self) -> Result<Arc<Access>, Failure> {
        self.check_fork()?;
        match &*self.state.lock() {
            State::Open(access) => Ok(Arc::clone(access)),
            State::Closing(_) | State::Ending | State::Closed => Err(Failure::closed()),
        }
    }

    /// Whether it takes no more work.
    pub(crate) fn is_closed(&self) -> bool {
        !self.is_ours() || !matches!(&*self.state.lock(), State::Open(_))
    }

    /// Whether the pool is closed, or is being so.
    fn is_ended(&self) -> bool {
        matches!(&*self.state.lock(), State::Ending | State::Closed)
    }

    /// Takes no more work, waits for what is under way, and closes the pool. Work that has not begun at the end
    /// of `patience` is given up; if some that has begun does not end, the pool stays, and this may be called again.
    pub(crate) fn close(&self, patience: Duration) -> Result<(), Failure> {
        self.check_fork()?;
        let end = Instant::now().checked_add(patience);
        {
            let mut state = self.state.lock();
            *state = match std::mem::replace(&mut *state, State::Closed) {
                State::Open(access) | State::Closing(access) => State::Closing(access),
                State::Ending => State::Ending,
                State::Closed => return Ok(()),
            };
        }
        // Who comes second returns when it is closed, not before.
        let alone = match end {
            Some(end) => self.closing.try_lock_until(end),
            None => Some(self.closing.lock()),
        };
        let Some(_alone) = alone else {
            let message = "another thread is still closing the store; call close() again";
            return Err(Failure::new(Status::Timeout, message));
        };
        self.crew.finish(end)?;
        let access = {
            let mut state = self.state.lock();
            match std::mem::replace(&mut *state, State::Ending) {
                State::Open(access) | State::Closing(access) => access,
                State::Ending | State::Closed => {
                    *state = State::Closed;
                    return Ok(());
                }
            }
        };
        let left = end.map_or(patience, |end| end.saturating_duration_since(Instant::now()));
        let closed = access.close(left);
        let mut state = self.state.lock();
        *state = State::Closed;
        closed.map_err(|error| {
            let failure = Failure::new(Status::of(&error), error.to_string());
            if let Some(access) = error.access {
                *state = State::Closing(access);
            }
            failure
        })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.is_ours() {
            // `Access` lets its parts be; the rest is memory, threads that are not here, and locks.
            self.crew.forget();
            self.reached = Reached::default();
        }
    }
}

/// Closes a store that nobody holds any more. Nobody is left to be told how that went.
pub(crate) fn abandon(handle: &Arc<Handle>) {
    if !handle.is_ours() || handle.is_ended() {
        return;
    }
    if !handle.crew.is_mine() {
        let _ = handle.close(LAST_CHANCE);
        return;
    }
    // The last one to hold it was a done callback: the thread that it runs on is waited for by another.
    let handle = Arc::clone(handle);
    let closer = std::thread::Builder::new().name("gcos-close".to_owned());
    let _ = closer.spawn(move || handle.close(LAST_CHANCE));
}

/// Closes all stores of this process that are open, within `timeout` seconds together. For the end of the
/// interpreter. Gives how many could not be closed in order.
#[pyfunction]
pub(crate) fn close_all(py: Python<'_>, timeout: f64) -> usize {
    let patience = Duration::try_from_secs_f64(timeout).unwrap_or(LAST_CHANCE);
    py.detach(|| {
        let end = Instant::now() + patience;
        let Some(all) = ALL.try_lock_for(LIST_WAIT).map(|mut all| std::mem::take(&mut *all)) else {
            return 0;
        };
        let open = all.iter().filter_map(Weak::upgrade).filter(|handle| handle.is_ours());
        let left = || end.saturating_duration_since(Instant::now());
        let failed = open.filter(|handle| handle.close(left()).is_err()).count();
        log::flush();
        failed
    })
}
