//! Open pools by number.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use gcos::cuda::DeviceBuffer;
use gcos::hw::{DmaBuffer, DmaSlice};
use gcos::metrics::MetricsServer;
use gcos::{Access, Registration, Status};
use parking_lot::{Mutex, RwLock};

use crate::call::Failure;
use crate::types::gcos_store;

/// How often the end of I/O and of other threads' calls is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What is behind a handle.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) access: Arc<Access>,
    /// Memory of the caller, by address.
    pub(crate) lent: Mutex<BTreeMap<usize, Loan>>,
    /// Memory that was allocated for the caller, by address.
    pub(crate) buffers: RwLock<BTreeMap<usize, DmaBuffer>>,
    /// The same on GPUs.
    pub(crate) device_buffers: RwLock<BTreeMap<u64, DeviceBuffer>>,
    pub(crate) metrics: Mutex<Option<MetricsServer>>,
}

/// Stands for memory of the caller that drives may reach.
#[derive(Debug)]
pub(crate) struct Lent;

/// Memory of the caller.
#[derive(Debug)]
pub(crate) struct Loan {
    /// Bytes.
    pub(crate) len: usize,
    /// `None` when it is on its way out.
    pub(crate) registration: Option<Registration>,
    /// Gone when no I/O has the memory any more.
    pub(crate) in_use: Weak<Lent>,
}

/// Memory of the caller that has one of these bytes and that drives reach, or may still use.
pub(crate) fn overlapping(
    lent: &BTreeMap<usize, Loan>,
    address: usize,
    len: usize,
) -> Option<(&usize, &Loan)> {
    lent.range(..address.saturating_add(len)).find(|(start, loan)| {
        start.saturating_add(loan.len) > address && loan.in_use.strong_count() > 0
    })
}

/// Whether memory is back, at the latest when the deadline has passed since it began.
pub(crate) fn comes_back(in_use: &Weak<Lent>, begun: Instant, deadline: Duration) -> bool {
    while in_use.strong_count() > 0 {
        if begun.elapsed() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    true
}

impl Handle {
    fn new(access: Arc<Access>, lent: BTreeMap<usize, Loan>) -> Self {
        Self {
            access,
            lent: Mutex::new(lent),
            buffers: RwLock::default(),
            device_buffers: RwLock::default(),
            metrics: Mutex::default(),
        }
    }

    /// Whether one of these bytes is of memory that was allocated here.
    pub(crate) fn allocated_overlaps(&self, address: usize, len: usize) -> bool {
        let buffers = self.buffers.read();
        let before = buffers.range(..address.saturating_add(len)).next_back();
        before.is_some_and(|(start, buffer)| start.saturating_add(buffer.len()) > address)
    }

    /// Memory that drives reach: allocated here or registered.
    pub(crate) fn slice(&self, address: usize, len: usize) -> Option<DmaSlice> {
        if let Some((&start, buffer)) = self.buffers.read().range(..=address).next_back()
            && let Ok(slice) = buffer.slice(address - start, len)
        {
            return Some(slice);
        }
        self.access.slice(address, len)
    }
}

/// The pools of one process. A child process gets one of its own, so that no lock that a thread of the parent held
/// is ever taken.
#[derive(Debug)]
struct Registry {
    process: u32,
    /// Numbers below this are the parent's.
    first: usize,
    open: RwLock<HashMap<usize, Arc<Handle>>>,
}

/// The registry of this process, or of its parent; never freed.
static REGISTRY: AtomicPtr<Registry> = AtomicPtr::new(std::ptr::null_mut());
/// The next handle. Never used twice.
static NEXT: AtomicUsize = AtomicUsize::new(0x1000);

fn current() -> Option<&'static Registry> {
    // SAFETY: null, or a registry that was leaked and is only shared since.
    unsafe { REGISTRY.load(Ordering::Acquire).as_ref() }
}

/// The registry of this process, made where there is none.
fn own() -> Option<&'static Registry> {
    let process = std::process::id();
    loop {
        let found = current();
        if let Some(registry) = found.filter(|registry| registry.process == process) {
            return Some(registry);
        }
        let first = NEXT.load(Ordering::Relaxed);
        let made = Box::into_raw(Box::new(Registry { process, first, open: RwLock::default() }));
        let before =
            found.map_or(std::ptr::null_mut(), |found| std::ptr::from_ref(found).cast_mut());
        let order = (Ordering::AcqRel, Ordering::Acquire);
        if REGISTRY.compare_exchange(before, made, order.0, order.1).is_err() {
            // SAFETY: it was made just now and nobody else has seen it.
            drop(unsafe { Box::from_raw(made) });
        }
    }
}

/// Gives C a pool that Rust has opened: a handle, to be closed with `gcos_close`.
///
/// # Errors
/// None that is expected.
pub fn hand_over(access: Access) -> Result<*mut gcos_store, Status> {
    add(access).map_err(|failure| failure.status)
}

/// Gives an open pool a number.
pub(crate) fn add(access: Access) -> Result<*mut gcos_store, Failure> {
    let handle = Handle::new(Arc::new(access), BTreeMap::new());
    let Some(registry) = own() else {
        return Err(Failure::new(Status::Internal, "no table of handles"));
    };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    registry.open.write().insert(number, Arc::new(handle));
    Ok(std::ptr::without_provenance_mut(number))
}

/// The registry that a handle may be in, in the process that opened it.
fn registry(store: *mut gcos_store) -> Result<&'static Registry, Failure> {
    let unknown = || Failure::invalid("store", "a handle of gcos_open", format!("{store:p}"));
    if store.is_null() {
        return Err(Failure::invalid("store", "a handle of gcos_open", "a null pointer"));
    }
    let registry = current().ok_or_else(unknown)?;
    let number = store.addr();
    let now = std::process::id();
    if registry.process != now || number < registry.first {
        if number >= NEXT.load(Ordering::Relaxed) {
            return Err(unknown());
        }
        return Err(Failure::new(
            Status::Forked,
            format!(
                "the pool was opened by the parent of this process ({now}): drives and threads stay with it; \
                 open a pool of its own here, or fork before opening"
            ),
        ));
    }
    Ok(registry)
}

fn not_open(store: *mut gcos_store) -> Failure {
    if (0x1000..NEXT.load(Ordering::Relaxed)).contains(&store.addr()) {
        return Failure::new(Status::Closed, "the pool has been closed");
    }
    Failure::invalid("store", "a handle of gcos_open", format!("{store:p}"))
}

/// What is behind a handle.
pub(crate) fn find(store: *mut gcos_store) -> Result<Arc<Handle>, Failure> {
    let registry = registry(store)?;
    let found = registry.open.read().get(&store.addr()).map(Arc::clone);
    found.ok_or_else(|| not_open(store))
}

/// Closes a pool once no other call has it. It stays open when the deadline passes before that.
pub(crate) fn close(store: *mut gcos_store, deadline: Duration) -> Result<(), Failure> {
    let registry = registry(store)?;
    let begun = Instant::now();
    let taken = registry.open.write().remove(&store.addr());
    let mut shared = taken.ok_or_else(|| not_open(store))?;
    let put_back = |handle: Arc<Handle>| {
        registry.open.write().insert(store.addr(), handle);
    };
    let handle = loop {
        shared = match Arc::try_unwrap(shared) {
            Ok(handle) => break handle,
            Err(shared) => shared,
        };
        if begun.elapsed() >= deadline {
            let calls = Arc::strong_count(&shared) - 1;
            put_back(shared);
            let message =
                format!("{calls} calls had not ended after {deadline:?}; nothing was closed");
            return Err(Failure::new(Status::Timeout, message));
        }
        std::thread::sleep(LOOK_AGAIN);
    };
    let buffers = handle.buffers.read().len() + handle.device_buffers.read().len();
    if buffers > 0 {
        put_back(Arc::new(handle));
        let message =
            format!("{buffers} buffers of the pool have not been freed; nothing was closed");
        return Err(Failure::new(Status::Busy, message));
    }
    let Handle { access, lent, metrics, .. } = handle;
    drop(metrics);
    let mut lent = lent.into_inner();
    for loan in lent.values_mut() {
        drop(loan.registration.take());
    }
    let left = deadline.saturating_sub(begun.elapsed());
    if let Err(error) = access.close(left) {
        let mut failure = Failure::from(error.error);
        if let Some(access) = error.access {
            put_back(Arc::new(Handle::new(access, lent)));
        } else if matches!(failure.status, Status::Timeout | Status::Busy) {
            // Those say that nothing was closed.
            failure.status = Status::Io;
        }
        return Err(failure);
    }
    // Requests that were given up on may still be with the kernel.
    for (address, loan) in lent {
        if !comes_back(&loan.in_use, begun, deadline) {
            let message = format!(
                "the pool is closed, but a drive may still use {} bytes at {address:#x} that were registered: all \
                 memory that was registered must stay as long as the process",
                loan.len
            );
            return Err(Failure::new(Status::Io, message));
        }
    }
    Ok(())
}
