use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use gcos::Status;
use gcos::cuda::{ForeignMemory, Gpu, Stream};
use gcos::store::{DeviceRun, DeviceSegment};

use crate::args::{Out, array_mut, bytes};
use crate::batch::{apart, conclude};
use crate::call::{Failure, guard};
use crate::handle::{self, Handle};
use crate::object::{hit, kept, put_options};
use crate::types::{gcos_item, gcos_key, gcos_put_options, gcos_status, gcos_store};

/// The process that first used GPUs; 0 before. What the driver knows of them, and locks that its threads held, are of no
/// use in a child.
static USED_BY: AtomicU32 = AtomicU32::new(0);

/// Refuses GPUs to a child of the process that used them first, before any lock.
pub(crate) fn check_fork() -> Result<(), Failure> {
    let now = std::process::id();
    let first = USED_BY.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
    match first.err().filter(|&first| first != now) {
        None => Ok(()),
        Some(first) => Err(Failure::new(
            Status::Forked,
            format!(
                "GPUs were used by process {first}, and this is its child {now}: CUDA does not work here; fork before \
                 they are used, or start another program"
            ),
        )),
    }
}

/// The GPU of this number.
pub(crate) fn gpu(handle: &Handle, device: i32) -> Result<Arc<Gpu>, Failure> {
    let Ok(ordinal) = usize::try_from(device) else {
        return Err(Failure::invalid("device", "the number of a GPU, from 0", device));
    };
    check_fork()?;
    Ok(handle.access.gpu(ordinal)?)
}

/// A stream of the caller's.
///
/// # Safety
/// It is null or a stream of CUDA that lives until its work has ended.
pub(crate) unsafe fn stream(gpu: &Arc<Gpu>, stream: *mut c_void) -> Result<Stream, Failure> {
    // SAFETY: as the caller promises.
    Ok(unsafe { Stream::borrow(gpu, stream as usize as u64)? })
}

/// Memory of a GPU: the pool's own, or anybody's.
fn run(handle: &Handle, gpu: &Arc<Gpu>, item: &gcos_item) -> Result<DeviceRun, Failure> {
    let address = item.data as usize as u64;
    if let Some((&start, buffer)) = handle.device_buffers.read().range(..=address).next_back()
        && buffer.gpu().same(gpu)
        && let Ok(offset) = usize::try_from(address - start)
        && let Ok(slice) = buffer.slice(offset, item.len)
    {
        return Ok(DeviceRun::from_iter([DeviceSegment::Reached(slice)]));
    }
    Ok(DeviceRun::from(ForeignMemory::check(gpu, address, item.len)?))
}

/// Items whose memory can be used, by their position, and what is wrong with the others.
#[expect(clippy::type_complexity, reason = "said once")]
fn runs<'a>(
    handle: &Handle,
    gpu: &Arc<Gpu>,
    items: &[gcos_item],
) -> Result<(Vec<(&'a [u8], DeviceRun)>, Vec<Option<Failure>>), Failure> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for item in items {
        // SAFETY: as the header asks of callers, of each item.
        let key = unsafe { bytes("key of an item", item.key.data, item.key.len)? };
        match run(handle, gpu, item) {
            Ok(run) => {
                good.push((key, run));
                bad.push(None);
            }
            Err(failure) => bad.push(Some(failure)),
        }
    }
    Ok((good, bad))
}

/// Puts the results of good items among the failures of the others.
fn merge<T>(
    bad: Vec<Option<Failure>>,
    results: impl IntoIterator<Item = Result<T, Failure>>,
) -> impl Iterator<Item = Result<T, Failure>> {
    let mut results = results.into_iter();
    let none = || Err(Failure::new(Status::Internal, "an item without a result"));
    bad.into_iter().map(move |bad| match bad {
        Some(failure) => Err(failure),
        None => results.next().unwrap_or_else(none),
    })
}

/// # Safety
/// As of [`gcos_put_many_device`].
unsafe fn put_many(
    handle: &Handle,
    device: i32,
    on: *mut c_void,
    items: &mut [gcos_item],
    options: *const gcos_put_options,
    failed: &Out<usize>,
) -> Result<Option<Failure>, Failure> {
    let gpu = gpu(handle, device)?;
    // SAFETY: as the header asks of callers.
    let (stream, options) = unsafe { (stream(&gpu, on)?, put_options(options)?) };
    let (good, bad) = runs(handle, &gpu, items)?;
    let results = handle.access.put_on(&stream, good, &options).into_iter();
    let mut results: Vec<_> = merge(bad, results.map(|r| r.map_err(Failure::from))).collect();
    let first = first_failure(&mut results);
    conclude(items, results, kept, failed);
    Ok(first)
}

/// # Safety
/// As of [`gcos_get_many_device`].
unsafe fn get_many(
    handle: &Handle,
    device: i32,
    on: *mut c_void,
    items: &mut [gcos_item],
    failed: &Out<usize>,
) -> Result<Option<Failure>, Failure> {
    let gpu = gpu(handle, device)?;
    // SAFETY: as the header asks of callers.
    let stream = unsafe { stream(&gpu, on)? };
    apart(items)?;
    let (good, bad) = runs(handle, &gpu, items)?;
    let results = handle.access.get_on(&stream, good)?.into_iter();
    let mut results: Vec<_> = merge(bad, results.map(|result| hit(result?))).collect();
    let first = first_failure(&mut results);
    conclude(items, results, |()| 0, failed);
    Ok(first)
}

/// A copy of the first failure, for calls of one object.
fn first_failure<T>(results: &mut [Result<T, Failure>]) -> Option<Failure> {
    let failures = results.iter().find_map(|result| result.as_ref().err());
    failures.map(|failure| Failure::new(failure.status, failure.message.clone()))
}

/// Stores an object from memory of a GPU, which was allocated by anybody, after the work that is in the stream
/// (cudaStream_t or CUstream; null is the default stream), and returns when it is stored. Memory of gcos_device_alloc
/// moves without a copy.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_put_device(
    store: *mut gcos_store,
    key: *const c_void,
    key_len: usize,
    device: i32,
    data: *const c_void,
    len: usize,
    stream: *mut c_void,
    options: *const gcos_put_options,
    kept: *mut i32,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let was_kept = unsafe { Out::maybe("kept", kept)? };
        let key = gcos_key { data: key, len: key_len };
        let mut items = [gcos_item { key, data: data.cast_mut(), len, status: 0, kept: 0 }];
        // SAFETY: as above; no place to count in is given.
        let none = unsafe { Out::maybe("failed", std::ptr::null_mut())? };
        // SAFETY: as above.
        match unsafe { put_many(&handle, device, stream, &mut items, options, &none)? } {
            Some(failure) => Err(failure),
            None => {
                was_kept.put(items[0].kept);
                Ok(())
            }
        }
    })
}

/// Reads an object into memory of a GPU, of exactly its length, after the work that is in the stream, and returns when
/// it is there and was verified. As gcos_get and gcos_put_device else. Should the stream not pass in time, or the drive not
/// deliver (GCOS_TIMEOUT), the memory must stay, and be used for nothing else, until they have.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_get_device(
    store: *mut gcos_store,
    key: *const c_void,
    key_len: usize,
    device: i32,
    data: *mut c_void,
    len: usize,
    stream: *mut c_void,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        let key = gcos_key { data: key, len: key_len };
        let mut items = [gcos_item { key, data, len, status: 0, kept: 0 }];
        // SAFETY: no place to count in is given.
        let none = unsafe { Out::maybe("failed", std::ptr::null_mut())? };
        // SAFETY: as the header asks of callers.
        match unsafe { get_many(&handle, device, stream, &mut items, &none)? } {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    })
}

/// As gcos_put_many, from memory of a GPU after the work that is in the stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_put_many_device(
    store: *mut gcos_store,
    device: i32,
    stream: *mut c_void,
    items: *mut gcos_item,
    count: usize,
    options: *const gcos_put_options,
    failed: *mut usize,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let items = unsafe { array_mut("items", items, count)? };
        // SAFETY: as above.
        let failed = unsafe { Out::maybe("failed", failed)? };
        // SAFETY: as above.
        unsafe { put_many(&handle, device, stream, items, options, &failed) }.map(drop)
    })
}

/// As gcos_get_many, into memory of a GPU after the work that is in the stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_get_many_device(
    store: *mut gcos_store,
    device: i32,
    stream: *mut c_void,
    items: *mut gcos_item,
    count: usize,
    failed: *mut usize,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let items = unsafe { array_mut("items", items, count)? };
        // SAFETY: as above.
        let failed = unsafe { Out::maybe("failed", failed)? };
        // SAFETY: as above.
        unsafe { get_many(&handle, device, stream, items, &failed) }.map(drop)
    })
}
