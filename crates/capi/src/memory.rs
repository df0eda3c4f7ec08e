use std::collections::BTreeMap;
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

/// Lets the drives reach memory of the caller: puts from it and gets into it, or into parts of it, move whole blocks
/// of 4096 bytes without a copy. Address and length are multiples of 4096; no two registrations overlap, and none
/// overlaps memory of gcos_alloc; GCOS_BUSY for memory that is registered already, or still on its way out. The memory stays what
/// it is, and allocated, until gcos_unregister or gcos_close has returned GCOS_OK. After a get into it that ended with
/// GCOS_TIMEOUT, a drive that is reached through the kernel may still write to the part that was given: use that part
/// for nothing else before then.
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
        if handle.allocated_overlaps(address, len) {
            let expected = "memory of the caller; that of gcos_alloc is reached as it is";
            return Err(Failure::invalid("data", expected, format!("{len} bytes at {data:p}")));
        }
        if let Some((&other, loan)) = handle::overlapping(&lent, address, len) {
            let message = format!(
                "{len} bytes at {data:p} overlap {} bytes at {other:#x} that are registered, or were and may \
                 still be in use; unregister those first",
                loan.len
            );
            let other_part = loan.registration.is_some() && other != address;
            let status = if other_part { Status::InvalidArgument } else { Status::Busy };
            return Err(Failure::new(status, message));
        }
        let owner = Arc::new(Lent);
        let in_use = Arc::downgrade(&owner);
        // SAFETY: the caller keeps the memory until it is unregistered, which waits for the owner to be gone; slices
        // of it are made where nothing of it is registered, or last for one call alone.
        let memory = unsafe { SharedMemory::lent(base, len, owner)? };
        let registration = handle.access.register(memory)?;
        lent.insert(address, Loan { len, registration: Some(registration), in_use });
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
        forget(&mut handle.lent.lock(), address, &in_use);
        Ok(())
    })
}

/// Forgets memory that nobody has any more; another thread may have done so, and the caller have lent it again since.
fn forget(lent: &mut BTreeMap<usize, Loan>, address: usize, in_use: &Weak<Lent>) {
    if lent.get(&address).is_some_and(|loan| Weak::ptr_eq(&loan.in_use, in_use)) {
        lent.remove(&address);
    }
}

/// Waits until no drive has the memory any more.
fn wait(in_use: &Weak<Lent>, deadline: Duration) -> Result<(), Failure> {
    if handle::comes_back(in_use, Instant::now(), deadline) {
        return Ok(());
    }
    let message = format!(
        "a drive may still use the memory after {deadline:?}: it must stay; unregister it again later"
    );
    Err(Failure::new(Status::Timeout, message))
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

#[cfg(test)]
mod tests {
    use gcos::hw::DmaSlice;
    use gcos::{Access, Config};

    use super::*;
    use crate::object::{gcos_get, gcos_put};
    use crate::open::gcos_close;

    const LEN: usize = 64 << 10;
    const CONFIG: &str = r#"{"disk": {"number": 1, "paths": ["emulated:ram:64MiB"], "capacity_bytes": 67108864},
        "pool": {"io_deadline_ms": 50}}"#;

    #[repr(C, align(4096))]
    struct Memory([u8; LEN]);

    fn open() -> *mut gcos_store {
        let access = Access::open(&Config::parse(CONFIG, "test").unwrap(), false).unwrap();
        handle::add(access).unwrap()
    }

    /// Registers memory that lives as long as the process.
    fn registered(store: *mut gcos_store) -> *mut c_void {
        let memory: *mut Memory = Box::leak(Box::new(Memory([0; LEN])));
        // SAFETY: it is never freed, and nobody else's.
        assert_eq!(unsafe { gcos_register(store, memory.cast(), LEN) }, 0);
        memory.cast()
    }

    fn register(store: *mut gcos_store, data: *mut c_void, offset: usize, len: usize) -> Status {
        // SAFETY: as above; parts of the same memory.
        let status = unsafe { gcos_register(store, data.wrapping_byte_add(offset), len) };
        Status::from_code(status).unwrap()
    }

    fn unregister(store: *mut gcos_store, data: *mut c_void) -> Status {
        // SAFETY: an address alone.
        Status::from_code(unsafe { gcos_unregister(store, data) }).unwrap()
    }

    /// What a request has that was given up on.
    fn in_use(store: *mut gcos_store, data: *mut c_void) -> DmaSlice {
        handle::find(store).unwrap().slice(data as usize + 8192, 4096).unwrap()
    }

    #[test]
    fn memory_that_a_drive_may_still_use_is_not_registered_again_in_whole_or_in_part() {
        let store = open();
        let data = registered(store);
        assert_eq!(register(store, data, 4096, 4096), Status::InvalidArgument);
        let held = in_use(store, data);
        assert_eq!(unregister(store, data), Status::Timeout);
        for (offset, len) in [(0, LEN), (0, 4096), (4096, 4096), (LEN - 4096, 4096)] {
            assert_eq!(register(store, data, offset, len), Status::Busy, "{offset} {len}");
        }
        drop(held);
        // It is back, whether it is asked for again or not.
        assert_eq!(register(store, data, 4096, 4096), Status::Ok);
        assert_eq!(unregister(store, data), Status::Ok);
        assert_eq!(unregister(store, data), Status::InvalidArgument);
        assert_eq!(unregister(store, data.wrapping_byte_add(4096)), Status::Ok);
        // SAFETY: a handle.
        assert_eq!(unsafe { gcos_close(store, 10_000) }, 0);
    }

    #[test]
    fn memory_of_the_pool_is_not_registered() {
        let store = open();
        let mut data = std::ptr::null_mut();
        // SAFETY: there is room for an address.
        assert_eq!(unsafe { gcos_alloc(store, LEN, &mut data) }, 0);
        for (offset, len) in [(0, LEN), (4096, 4096), (LEN - 4096, 4096)] {
            assert_eq!(register(store, data, offset, len), Status::InvalidArgument);
        }
        // SAFETY: it was allocated above, and the handle is one.
        unsafe {
            assert_eq!(gcos_free(store, data), 0);
            assert_eq!(gcos_close(store, 10_000), 0);
        }
    }

    #[test]
    fn whoever_has_waited_longest_does_not_forget_what_was_registered_since() {
        let owner = Arc::new(Lent);
        let (before, now) = (Arc::downgrade(&Arc::new(Lent)), Arc::downgrade(&owner));
        let loan = Loan { len: LEN, registration: None, in_use: Weak::clone(&now) };
        let mut lent = BTreeMap::from([(4096, loan)]);
        forget(&mut lent, 4096, &before);
        assert_eq!(lent.len(), 1);
        forget(&mut lent, 4096, &now);
        assert!(lent.is_empty());
    }

    #[test]
    fn close_says_that_memory_must_stay_which_a_drive_may_still_use() {
        for gives_up in [true, false] {
            let store = open();
            let data = registered(store);
            let held = in_use(store, data);
            let ender = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(if gives_up { 1000 } else { 100 }));
                drop(held);
            });
            if gives_up {
                // On its way out already.
                assert_eq!(unregister(store, data), Status::Timeout);
            }
            // SAFETY: a handle.
            let closed = unsafe { gcos_close(store, if gives_up { 200 } else { 10_000 }) };
            let expected = if gives_up { Status::Io } else { Status::Ok };
            assert_eq!(Status::from_code(closed), Some(expected));
            // SAFETY: a handle.
            assert_eq!(unsafe { gcos_close(store, 1000) }, Status::Closed.code());
            ender.join().unwrap();
        }
    }

    #[test]
    fn close_is_ok_where_registered_memory_was_used_through_the_kernel_and_all_of_it_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pool");
        let config = serde_json::json!({
            "disk": {"number": 1, "paths": [path], "capacity_bytes": 64 << 20},
            "kernel_path": {"use_direct_io": false},
        });
        let config = Config::parse(&config.to_string(), "test").unwrap();
        let store = handle::add(Access::open(&config, true).unwrap()).unwrap();
        let data = registered(store);
        let key = b"key".as_ptr().cast();
        let (options, kept) = (std::ptr::null(), std::ptr::null_mut());
        // SAFETY: memory as above, a key of three bytes, a handle.
        unsafe {
            assert_eq!(gcos_put(store, key, 3, data, LEN, options, kept), 0);
            assert_eq!(gcos_get(store, key, 3, data, LEN), 0);
            assert_eq!(gcos_close(store, 10_000), 0);
        }
    }
}
