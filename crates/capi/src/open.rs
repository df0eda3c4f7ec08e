use std::ffi::c_char;
use std::path::Path;
use std::time::Duration;

use gcos::{Access, Config, log};

use crate::args::{Out, text};
use crate::call::{Failure, guard};
use crate::handle;
use crate::types::{GCOS_CREATE, gcos_status, gcos_store};

fn open(config: &Config, flags: u32, store: &Out<*mut gcos_store>) -> Result<(), Failure> {
    if flags & !GCOS_CREATE != 0 {
        return Err(Failure::invalid("flags", "0 or GCOS_CREATE", flags));
    }
    let opened = Access::open(config, flags & GCOS_CREATE != 0);
    log::flush();
    store.put(handle::add(opened?)?);
    Ok(())
}

/// Opens the pool of a configuration file; null: the file that GCOS_CONFIG names, else gcos.json here. Flags: 0 or
/// GCOS_CREATE. Close it with gcos_close.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_open(
    config_path: *const c_char,
    flags: u32,
    store: *mut *mut gcos_store,
) -> gcos_status {
    guard(|| {
        // SAFETY: as the header asks of callers.
        let store = unsafe { Out::of("store", store)? };
        store.put(std::ptr::null_mut());
        let path = match config_path.is_null() {
            true => None,
            // SAFETY: as the header asks of callers.
            false => Some(Path::new(unsafe { text("config_path", config_path)? })),
        };
        open(&Config::load(&Config::locate(path))?, flags, &store)
    })
}

/// As gcos_open, with the configuration itself: a JSON document.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_open_json(
    json: *const c_char,
    flags: u32,
    store: *mut *mut gcos_store,
) -> gcos_status {
    guard(|| {
        // SAFETY: as the header asks of callers.
        let (store, json) = unsafe { (Out::of("store", store)?, text("json", json)?) };
        store.put(std::ptr::null_mut());
        open(&Config::parse(json, "configuration")?, flags, &store)
    })
}

/// Ends use of the pool in order: waits for calls of other threads, makes everything durable, lets go of the
/// drives. Calls that begin meanwhile end with GCOS_CLOSED. The handle is of no use then, whatever this
/// returns, with two exceptions in which nothing was closed: GCOS_TIMEOUT when calls had not ended after
/// deadline_ms, and GCOS_BUSY when memory of gcos_alloc has not been freed. Memory that is registered is
/// unregistered, which is waited for within deadline_ms: it may be freed, or used for something else, after GCOS_OK
/// alone; after GCOS_IO, or whatever else but those two exceptions, a drive may still use it, and it must stay as long
/// as the process. A process that ends without this loses no put that was acknowledged with GCOS_SYNC.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_close(store: *mut gcos_store, deadline_ms: u64) -> gcos_status {
    guard(|| {
        let closed = handle::close(store, Duration::from_millis(deadline_ms));
        log::flush();
        closed
    })
}
