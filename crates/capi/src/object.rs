use std::ffi::c_void;
use std::time::Duration;

use gcos::store::{PutOptions, Sink, Source};
use gcos::{Durability, IfExists, Lookup, PutOutcome};

use crate::args::{Out, bytes, bytes_mut, read};
use crate::call::{Failure, guard};
use crate::handle::{self, Handle};
use crate::types::{
    GCOS_KEEP, GCOS_RELAXED, GCOS_REPLACE, GCOS_SYNC, gcos_put_options, gcos_status, gcos_store,
};

pub(crate) fn durability(value: u32) -> Result<Durability, Failure> {
    match value {
        GCOS_SYNC => Ok(Durability::Sync),
        GCOS_RELAXED => Ok(Durability::Relaxed),
        other => Err(Failure::invalid("durability", "GCOS_SYNC or GCOS_RELAXED", other)),
    }
}

/// # Safety
/// A pointer that is not null leads to options whose size is set.
pub(crate) unsafe fn put_options(options: *const gcos_put_options) -> Result<PutOptions, Failure> {
    // SAFETY: as the caller promises.
    let Some(given) = (unsafe { read("options", options)? }) else {
        return Ok(PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() });
    };
    if given.reserved != 0 {
        return Err(Failure::invalid("reserved of options", "0", given.reserved));
    }
    Ok(PutOptions {
        durability: durability(given.durability)?,
        if_exists: match given.if_exists {
            GCOS_REPLACE => IfExists::Replace,
            GCOS_KEEP => IfExists::Keep,
            other => return Err(Failure::invalid("if_exists", "GCOS_REPLACE or GCOS_KEEP", other)),
        },
        ttl: (given.ttl_ms != 0).then(|| Duration::from_millis(given.ttl_ms)),
        pin: given.pin != 0,
    })
}

/// 1 for an object that was kept.
pub(crate) fn kept(outcome: PutOutcome) -> i32 {
    i32::from(outcome == PutOutcome::Kept)
}

/// A miss as a failure.
pub(crate) fn hit(lookup: Lookup) -> Result<(), Failure> {
    match lookup {
        Lookup::Hit(_) => Ok(()),
        Lookup::Miss(reason) => Err(reason.into()),
    }
}

/// Stores an object: key of 0 to 1024 bytes, payload of 1 byte to 1 GiB. Least recently used objects are evicted
/// for it if they must. With GCOS_KEEP, kept (may be null) says whether an object was there. If this fails, nothing
/// of the object is visible.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_put(
    store: *mut gcos_store,
    key: *const c_void,
    key_len: usize,
    data: *const c_void,
    len: usize,
    options: *const gcos_put_options,
    kept: *mut i32,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let (key, options) = unsafe { (bytes("key", key, key_len)?, put_options(options)?) };
        // SAFETY: as above.
        let was_kept = unsafe { Out::maybe("kept", kept)? };
        let outcome = match handle.slice(data as usize, len) {
            Some(slice) => handle.access.put(key, Source::Segments(&[slice]), &options),
            // SAFETY: as above.
            None => handle.access.put(key, unsafe { bytes("data", data, len)? }, &options),
        }?;
        was_kept.put(self::kept(outcome));
        Ok(())
    })
}

/// Reads an object into memory of exactly its length: ask gcos_info for that. GCOS_NO_SUCH_KEY is a miss, for
/// the reason that gcos_last_error tells; what is in the memory is unspecified then, as after every failure. After
/// GCOS_TIMEOUT it may still be written to: see gcos_register.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_get(
    store: *mut gcos_store,
    key: *const c_void,
    key_len: usize,
    data: *mut c_void,
    len: usize,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let key = unsafe { bytes("key", key, key_len)? };
        // SAFETY: as above.
        unsafe { get(&handle, data, len, |sink| handle.access.get(key, sink)) }
    })
}

/// Reads part of an object: len bytes from offset on. GCOS_WRONG_SIZE when they are not inside it. Only the 64 KiB
/// grains that are touched are read and verified.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_get_range(
    store: *mut gcos_store,
    key: *const c_void,
    key_len: usize,
    offset: u64,
    data: *mut c_void,
    len: usize,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let key = unsafe { bytes("key", key, key_len)? };
        // No object is that long, so it is in none: whether there is one, the store says.
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        // SAFETY: as above.
        unsafe { get(&handle, data, len, |sink| handle.access.get_range(key, offset, sink)) }
    })
}

/// # Safety
/// As [`bytes_mut`], for the time of this call.
unsafe fn get<'a>(
    handle: &Handle,
    data: *mut c_void,
    len: usize,
    read: impl for<'s> FnOnce(Sink<'s>) -> Result<Lookup, gcos::StoreError> + 'a,
) -> Result<(), Failure> {
    if let Some(slice) = handle.slice(data as usize, len) {
        return hit(read(Sink::Segments(&[slice]))?);
    }
    // SAFETY: as the caller promises.
    let data = unsafe { bytes_mut("data", data, len)? };
    hit(read(Sink::Bytes(data))?)
}
