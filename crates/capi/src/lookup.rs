use std::ffi::c_void;

use gcos::{ObjectInfo, Status};

use crate::args::{Out, OutStruct, array, bytes};
use crate::call::{Failure, guard};
use crate::handle;
use crate::object::durability;
use crate::types::{gcos_key, gcos_list_callback, gcos_object_info, gcos_status, gcos_store};

/// Objects that gcos_list asks for at a time.
const PAGE: usize = 16 << 10;

fn info_of(info: &ObjectInfo) -> gcos_object_info {
    gcos_object_info {
        struct_size: size_of::<gcos_object_info>(),
        len: info.len.into(),
        generation: info.generation,
        expires_at: info.expires_at.map_or(0, u64::from),
        pins: info.pins,
        reserved: 0,
    }
}

fn no_such_key() -> Failure {
    Failure::new(Status::NoSuchKey, "no such key")
}

fn found(found: bool) -> Result<(), Failure> {
    if found { Ok(()) } else { Err(no_such_key()) }
}

/// Whether an object is there: found is 1 or 0. A get may still miss, if a drive fails or the object is damaged.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_contains(
    store: *mut gcos_store,
    key: *const c_void,
    key_len: usize,
    found: *mut i32,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let (key, found) = unsafe { (bytes("key", key, key_len)?, Out::of("found", found)?) };
        found.put(i32::from(handle.access.store().contains(key)));
        Ok(())
    })
}

/// How many keys from the start of the list are there without a gap: the longest cached prefix of a chain of blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_prefix(
    store: *mut gcos_store,
    keys: *const gcos_key,
    count: usize,
    hits: *mut usize,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let (keys, hits) = unsafe { (array("keys", keys, count)?, Out::of("hits", hits)?) };
        // SAFETY: as above, of each key.
        let bytes = |key: &gcos_key| unsafe { bytes("a key", key.data, key.len) };
        let keys = keys.iter().map(bytes).collect::<Result<Vec<_>, _>>()?;
        hits.put(handle.access.store().prefix(&keys));
        Ok(())
    })
}

/// What is known of an object without reading it. GCOS_NO_SUCH_KEY if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_info(
    store: *mut gcos_store,
    key: *const c_void,
    key_len: usize,
    info: *mut gcos_object_info,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let (key, info) = unsafe { (bytes("key", key, key_len)?, OutStruct::of("info", info)?) };
        let found = handle.access.store().info(key).ok_or_else(no_such_key)?;
        info.put(&info_of(&found));
        Ok(())
    })
}

/// Protects an object from eviction until as many gcos_unpin calls. Pins end with the process. GCOS_NO_SUCH_KEY when
/// there is none, or when it has 65535 pins.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_pin(
    store: *mut gcos_store,
    key: *const c_void,
    key_len: usize,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        found(handle.access.store().pin(unsafe { bytes("key", key, key_len)? }))
    })
}

/// Takes one pin back. GCOS_NO_SUCH_KEY when there is no such object, or it is not pinned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_unpin(
    store: *mut gcos_store,
    key: *const c_void,
    key_len: usize,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        found(handle.access.store().unpin(unsafe { bytes("key", key, key_len)? }))
    })
}

/// Marks an object as just used, so that others are evicted first. GCOS_NO_SUCH_KEY when there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_touch(
    store: *mut gcos_store,
    key: *const c_void,
    key_len: usize,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        found(handle.access.store().touch(unsafe { bytes("key", key, key_len)? }))
    })
}

/// Removes an object, pinned or not. Durability: GCOS_SYNC or GCOS_RELAXED. GCOS_NO_SUCH_KEY when there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_remove(
    store: *mut gcos_store,
    key: *const c_void,
    key_len: usize,
    durability: u32,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let key = unsafe { bytes("key", key, key_len)? };
        found(handle.access.store().remove(key, self::durability(durability)?)?)
    })
}

/// Calls back for each object whose key starts with prefix and comes behind the key after (null: from the first),
/// in the order of keys, at most limit (0: all). What is put or removed meanwhile may be in the list or not. For
/// people and tools: it looks at every object for each 16384 that it lists.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_list(
    store: *mut gcos_store,
    prefix: *const c_void,
    prefix_len: usize,
    after: *const c_void,
    after_len: usize,
    limit: usize,
    callback: gcos_list_callback,
    user: *mut c_void,
) -> gcos_status {
    guard(|| {
        let handle = handle::find(store)?;
        // SAFETY: as the header asks of callers.
        let prefix = unsafe { bytes("prefix", prefix, prefix_len)? };
        let mut behind = match after.is_null() {
            true if after_len == 0 => None,
            // SAFETY: as above.
            _ => Some(unsafe { bytes("after", after, after_len)? }.to_vec()),
        };
        let Some(callback) = callback else {
            return Err(Failure::invalid("callback", "a function", "a null pointer"));
        };
        let mut left = if limit == 0 { usize::MAX } else { limit };
        while left > 0 {
            let wanted = left.min(PAGE);
            let page = handle.access.store().list(prefix, behind.as_deref(), wanted);
            let last = page.len() < wanted;
            for (key, info) in &page {
                let info = info_of(info);
                // SAFETY: a function of C's as the header describes it; all pointers are valid for the call.
                if unsafe { callback(user, key.as_ptr().cast(), key.len(), &info) } != 0 {
                    return Ok(());
                }
            }
            if last {
                return Ok(());
            }
            left -= page.len();
            behind = page.into_iter().next_back().map(|(key, _)| key);
        }
        Ok(())
    })
}
