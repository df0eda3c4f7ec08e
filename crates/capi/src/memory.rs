use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use gcos::Status;
use gcos::hw::SharedMemory;

use crate::args::Out;
use crate::call::{Failure, guard};
use crate::device::gpu;
use crate::handle::{self, Lent, Loan};
use crate::types::{gcos_status, gcos_store};

/// How often the end of I/O is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Lets the drives reach memory of the caller: puts from it and gets into it, or into parts of it, move whole blocks
/// of 4096 bytes without a copy. Address and length are multiples of 4096; no two registrations overlap. The memory
/// stays what it is, and allocated, until gcos_unregister or gcos_close has returned GCOS_OK.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_register(
    store: *mut gcos_store,
    data: *mut c_void,
    len: usize,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        let address = data as usize;
        let Some(base) = NonNull::new(data.cast::<u8>()) else {
            return Err(Failure::invalid("data", "a pointer", "a null pointer"));
        };
        if address.checked_add(len).is_none() {
            return Err(Failure::invalid("len", "a length inside the address space", len));
        }
        let mut lent = handle.lent.lock();
        if lent.get(&address).is_some_and(|loan| loan.in_use.strong_count() > 0) {
            let message = format!("{data:p} is registered, or was and may still be in use");
            return Err(Failure::new(Status::Busy, message));
        }
        let owner = Arc::new(Lent);
        let in_use = Arc::downgrade(&owner);
        // SAFETY: the caller keeps the memory until it is unregistered, which waits for the owner to be gone; slices
        // of it are made where nothing of it is registered, or last for one call alone.
        let memory = unsafe { SharedMemory::lent(base, len, owner)? };
        let registration = handle.access.register(memory)?;
        lent.insert(address, Loan { registration: Some(registration), in_use });
        Ok(())
    })
}

/// Takes memory back, given by its first address, once no drive uses it. GCOS_TIMEOUT when one that was given up
/// on still may after the I/O deadline: the memory must stay then, and this be called again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_unregister(store: *mut gcos_store, data: *mut c_void) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        let address = data as usize;
        let in_use = {
            let mut lent = handle.lent.lock();
            let Some(loan) = lent.get_mut(&address) else {
                let expected = "the first address of memory that is registered";
                return Err(Failure::invalid("data", expected, format!("{data:p}")));
            };
            drop(loan.registration.take());
            Weak::clone(&loan.in_use)
        };
        wait(&in_use, handle.access.config().io_deadline())?;
        handle.lent.lock().remove(&address);
        Ok(())
    })
}

/// Waits until no drive has the memory any more.
fn wait(in_use: &Weak<Lent>, deadline: Duration) -> Result<(), Failure> {
    let begun = Instant::now();
    while in_use.strong_count() > 0 {
        if begun.elapsed() >= deadline {
            let message = format!(
                "a drive may still use the memory after {deadline:?}: it must stay; unregister it again later"
            );
            return Err(Failure::new(Status::Timeout, message));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Allocates memory that the drives reach, zeroed, at a multiple of 4096: as if it were registered. Free it with
/// gcos_free before gcos_close.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_alloc(
    store: *mut gcos_store,
    len: usize,
    data: *mut *mut c_void,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let data = unsafe { Out::of("data", data)? };
        data.put(std::ptr::null_mut());
        let buffer = handle.access.store().buffer(len)?;
        let (memory, offset) = {
            let whole = buffer.as_dma();
            let (memory, offset) = whole.memory();
            (memory.address(), offset)
        };
        let address = memory + offset;
        handle.buffers.write().insert(address, buffer);
        data.put(std::ptr::with_exposed_provenance_mut(address));
        Ok(())
    })
}

/// Frees memory of gcos_alloc. Null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_free(store: *mut gcos_store, data: *mut c_void) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        if data.is_null() || handle.buffers.write().remove(&(data as usize)).is_some() {
            return Ok(());
        }
        let expected = "an address that gcos_alloc gave and that was not freed";
        Err(Failure::invalid("data", expected, format!("{data:p}")))
    })
}

/// Allocates memory of a GPU that the drives reach, too: puts from it and gets into it move without a copy. Its content
/// is unspecified. GCOS_INVALID_ARGUMENT where there is none that both reach. Free it with gcos_device_free before
/// gcos_close.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_device_alloc(
    store: *mut gcos_store,
    device: i32,
    len: usize,
    data: *mut *mut c_void,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let data = unsafe { Out::of("data", data)? };
        data.put(std::ptr::null_mut());
        let buffer = handle.access.store().device_buffer(&gpu(&handle, device)?, len)?;
        let address = buffer.device_address();
        handle.device_buffers.write().insert(address, buffer);
        data.put(address as usize as *mut c_void);
        Ok(())
    })
}

/// Frees memory of gcos_device_alloc; work on the GPU that uses it must have ended. Null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_device_free(
    store: *mut gcos_store,
    data: *mut c_void,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        let address = data as usize as u64;
        if data.is_null() || handle.device_buffers.write().remove(&address).is_some() {
            return Ok(());
        }
        let expected = "an address that gcos_device_alloc gave and that was not freed";
        Err(Failure::invalid("data", expected, format!("{data:p}")))
    })
}
