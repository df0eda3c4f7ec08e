//! Calls from bytes, with arguments as wrong as can be found out: for fuzzing.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

use gcos::Status;

use crate::types::*;
use crate::*;

/// Most calls of one input.
const CALLS: usize = 200;
/// Room for payloads.
const ROOM: usize = 80 << 10;

const CONFIG: &CStr = c"{\"disk\": {\"number\": 1, \"paths\": [\"emulated:ram:8MiB\"], \
    \"capacity_bytes\": 8388608, \"block_size\": 4096}, \
    \"zone_chunk_size_kb\": {\"sb\": 64, \"meta\": 64, \"data\": 256}}";

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn number(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }
}

/// What a player has: pools, payloads that were put, memory.
struct Player<'a> {
    input: Bytes<'a>,
    open: Vec<*mut gcos_store>,
    closed: Vec<*mut gcos_store>,
    /// What the keys of each pool were put with last; nothing of a key whose put may have ended either way.
    model: HashMap<(usize, Vec<u8>), Vec<u8>>,
    source: Vec<u8>,
    target: Vec<u8>,
}

/// Makes calls as the bytes say, and asserts what holds whatever they are: every call has a status that is known, a
/// message if and only if it failed, and a get that hits has the bytes of the last put.
pub fn play(data: &[u8]) {
    let source = (0..ROOM).map(|at| (at % 251) as u8).collect();
    let mut player = Player {
        input: Bytes(data),
        open: Vec::new(),
        closed: Vec::new(),
        model: HashMap::new(),
        source,
        target: vec![0; ROOM],
    };
    player.open();
    for _ in 0..CALLS {
        if player.input.0.is_empty() {
            break;
        }
        player.call();
    }
    for store in player.open.drain(..) {
        // SAFETY: a handle.
        let status = unsafe { gcos_close(store, 60_000) };
        assert!([Status::Ok.code(), Status::Busy.code()].contains(&status), "{status}");
    }
}

fn message() -> String {
    // SAFETY: valid until the next call of this thread.
    unsafe { CStr::from_ptr(gcos_last_error()) }.to_string_lossy().into_owned()
}

/// What holds of every status.
fn known(status: gcos_status) -> gcos_status {
    let said = Status::from_code(status);
    assert!(said.is_some() && said != Some(Status::Internal), "{status}: {}", message());
    assert_eq!(status == 0, message().is_empty(), "{status}: {}", message());
    status
}

impl Player<'_> {
    fn open(&mut self) {
        let mut store = null_mut();
        // SAFETY: a text and a place.
        let status = unsafe { gcos_open_json(CONFIG.as_ptr(), 0, &mut store) };
        assert_eq!(known(status), 0, "{}", message());
        self.open.push(store);
    }

    /// A handle: mostly one that is open.
    fn store(&mut self) -> *mut gcos_store {
        let choice = self.input.byte();
        let pick =
            |from: &[*mut gcos_store]| from.get(usize::from(choice) % from.len().max(1)).copied();
        match choice {
            250..252 => null_mut(),
            252..254 => pick(&self.closed).unwrap_or(null_mut()),
            // Never one that was given out: other threads may play, too.
            254 => std::ptr::without_provenance_mut(self.input.number() % 0x1000),
            255 => std::ptr::without_provenance_mut(usize::MAX - self.input.number()),
            _ => pick(&self.open).unwrap_or(null_mut()),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        match self.input.byte() {
            255 => vec![7; 1000 + self.input.number() % 100],
            choice => vec![choice % 8; usize::from(choice) % 4],
        }
    }

    /// A pointer and a length that go together, or that cannot.
    fn range(&mut self, memory: *const u8) -> (*mut c_void, usize) {
        let (choice, len) = (self.input.byte(), self.input.number());
        match choice {
            248 => (null_mut(), len),
            249 => (memory.cast_mut().cast(), usize::MAX - len),
            250 => (std::ptr::without_provenance_mut(usize::MAX - len / 2), len + 1),
            _ => {
                let offset = usize::from(choice) * 16;
                (memory.wrapping_add(offset).cast_mut().cast(), len.min(ROOM - offset))
            }
        }
    }

    fn options(&mut self) -> gcos_put_options {
        let byte = self.input.byte();
        gcos_put_options {
            struct_size: match byte {
                255 => self.input.number() % size_of::<gcos_put_options>(),
                _ => size_of::<gcos_put_options>(),
            },
            durability: u32::from(byte & 3) % 3,
            if_exists: u32::from(byte >> 2 & 3) % 3,
            ttl_ms: if byte & 16 == 0 { 0 } else { 100_000 },
            pin: u32::from(byte == 33),
            reserved: u32::from(byte == 77),
        }
    }

    fn call(&mut self) {
        match self.input.byte() % 16 {
            0..4 => self.put(),
            4..7 => self.get(),
            7 => self.put_many(),
            8 => self.get_many(),
            9 => self.look(),
            10 => self.remove(),
            11 => self.memory(),
            12 => self.figures(),
            13 => self.list(),
            14 => self.devices(),
            _ => self.open_and_close(),
        }
    }

    fn put(&mut self) {
        let (store, key, options) = (self.store(), self.key(), self.options());
        let (data, len) = self.range(self.source.as_ptr());
        let mut kept = 0;
        let options_at = if self.input.byte() == 9 { null() } else { &raw const options };
        // SAFETY: what is not valid is of a kind that is found out.
        let status = known(unsafe {
            gcos_put(store, key.as_ptr().cast(), key.len(), data, len, options_at, &mut kept)
        });
        self.was_put(store, key, (data, len), status, kept);
    }

    fn was_put(
        &mut self,
        store: *mut gcos_store,
        key: Vec<u8>,
        (data, len): (*mut c_void, usize),
        status: gcos_status,
        kept: i32,
    ) {
        if status == 0 && kept == 0 {
            let offset = data.addr() - self.source.as_ptr().addr();
            let bytes = self.source.get(offset..offset + len).unwrap_or_default();
            self.model.insert((store.addr(), key), bytes.to_vec());
        }
    }

    fn get(&mut self) {
        let (store, key) = (self.store(), self.key());
        let expected = self.model.get(&(store.addr(), key.clone())).cloned();
        let exact = self.input.byte();
        let (mut data, mut len) = self.range(self.target.as_ptr());
        if let (Some(expected), 0..200) = (&expected, exact) {
            (data, len) = (self.target.as_mut_ptr().cast(), expected.len());
        }
        let offset = if exact.is_multiple_of(5) { self.input.number() } else { 0 };
        // SAFETY: as above; the target is nobody else's.
        let status = known(unsafe {
            match offset {
                0 => gcos_get(store, key.as_ptr().cast(), key.len(), data, len),
                _ => {
                    let offset = offset as u64;
                    gcos_get_range(store, key.as_ptr().cast(), key.len(), offset, data, len)
                }
            }
        });
        if status == 0 {
            let expected = expected.unwrap_or_default();
            let at = data.addr() - self.target.as_ptr().addr();
            let found = self.target.get(at..at + len);
            assert_eq!(found, expected.get(offset..offset + len), "other bytes than were put");
        }
    }

    /// Items, each with its own part of the memory.
    fn items(&mut self, memory: *const u8) -> (Vec<Vec<u8>>, Vec<gcos_item>) {
        let count = usize::from(self.input.byte()) % 6;
        let keys: Vec<_> = (0..count).map(|_| self.key()).collect();
        let part = ROOM / 8;
        let mut items = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let len = self.input.number() % part;
            let data = match self.input.byte() {
                255 => null_mut(),
                254 => memory.cast_mut().cast(),
                _ => memory.wrapping_add(index * part).cast_mut().cast(),
            };
            let key = gcos_key { data: key.as_ptr().cast(), len: key.len() };
            items.push(gcos_item { key, data, len, status: 1, kept: 1 });
        }
        (keys, items)
    }

    fn put_many(&mut self) {
        let (store, options) = (self.store(), self.options());
        let (keys, mut items) = self.items(self.source.as_ptr());
        let mut failed = 0;
        // SAFETY: as above.
        let status = known(unsafe {
            gcos_put_many(store, items.as_mut_ptr(), items.len(), &options, &mut failed)
        });
        if status == 0 {
            assert_eq!(failed, items.iter().filter(|item| item.status != 0).count());
            for (key, item) in keys.into_iter().zip(items) {
                self.was_put(store, key, (item.data, item.len), item.status, item.kept);
            }
        }
    }

    fn get_many(&mut self) {
        let store = self.store();
        let (keys, mut items) = self.items(self.target.as_ptr());
        let mut failed = 0;
        let (first, count) = (items.as_mut_ptr(), items.len());
        // SAFETY: as above; items whose memory overlaps are found out.
        if known(unsafe { gcos_get_many(store, first, count, &mut failed) }) != 0 {
            return;
        }
        for (key, item) in keys.into_iter().zip(items).filter(|(_, item)| item.status == 0) {
            let at = item.data.addr() - self.target.as_ptr().addr();
            let found = self.target.get(at..at + item.len);
            let expected = self.model.get(&(store.addr(), key)).map(Vec::as_slice);
            assert_eq!(found, expected, "other bytes than were put");
        }
    }

    fn look(&mut self) {
        let (store, key) = (self.store(), self.key());
        let (data, len) = (key.as_ptr().cast(), key.len());
        let keys = [gcos_key { data, len }; 2];
        let mut info = gcos_object_info {
            struct_size: usize::from(self.input.byte()) % (size_of::<gcos_object_info>() + 1),
            len: 0,
            generation: 0,
            expires_at: 0,
            pins: 0,
            reserved: 0,
        };
        let (mut found, mut hits) = (7, 7);
        // SAFETY: as above.
        unsafe {
            if known(gcos_contains(store, data, len, &mut found)) == 0 {
                assert!(found == 0 || found == 1);
                assert_eq!(known(gcos_prefix(store, keys.as_ptr(), 2, &mut hits)), 0);
                assert!(hits == 0 || hits == 2, "{hits}");
            }
            known(gcos_contains(store, data, len, null_mut()));
            known(gcos_info(store, data, len, &mut info));
            known(gcos_pin(store, data, len));
            known(gcos_touch(store, data, len));
            known(gcos_unpin(store, data, len));
            known(gcos_prefix(store, keys.as_ptr(), usize::MAX - 3, &mut hits));
        }
    }

    fn remove(&mut self) {
        let (store, key, how) = (self.store(), self.key(), u32::from(self.input.byte() % 3));
        // SAFETY: as above.
        if known(unsafe { gcos_remove(store, key.as_ptr().cast(), key.len(), how) }) == 0 {
            self.model.remove(&(store.addr(), key));
        }
    }

    fn memory(&mut self) {
        let (store, len) = (self.store(), self.input.number());
        let page = self.target.as_ptr().addr().next_multiple_of(4096) - self.target.as_ptr().addr();
        let at = self.target.as_mut_ptr().wrapping_add(page);
        let (mut data, byte) = (null_mut(), self.input.byte());
        // SAFETY: as above; what is registered lives as long as the pools.
        unsafe {
            match byte % 4 {
                0 if known(gcos_alloc(store, len, &mut data)) == 0 => {
                    data.cast::<u8>().write(7);
                    known(gcos_free(store, data.wrapping_byte_add(usize::from(byte == 128))));
                    known(gcos_free(store, data));
                }
                1 => drop(known(gcos_register(store, at.cast(), usize::from(byte / 16) * 4096))),
                2 => drop(known(gcos_register(store, at.cast(), len))),
                _ => {
                    known(gcos_unregister(store, at.cast()));
                    known(gcos_free(store, at.cast()));
                }
            }
        }
    }

    fn figures(&mut self) {
        let store = self.store();
        let (room, size) = (self.input.number(), self.input.number());
        let mut text = vec![0; room];
        let mut len = 0;
        // SAFETY: numbers, which may be 0.
        let mut stats = unsafe { std::mem::zeroed::<gcos_stats>() };
        stats.struct_size = size % (size_of::<gcos_stats>() + 1);
        // SAFETY: as above.
        unsafe {
            known(gcos_get_stats(store, &mut stats));
            known(gcos_flush(store));
            if known(gcos_describe(store, text.as_mut_ptr(), room, &mut len)) == 0 && room > 0 {
                assert_eq!(CStr::from_ptr(text.as_ptr()).to_bytes().len(), len);
            }
            known(gcos_metrics_text(store, text.as_mut_ptr(), room, null_mut()));
        }
    }

    fn list(&mut self) {
        unsafe extern "C" fn count(
            user: *mut c_void,
            key: *const c_void,
            len: usize,
            info: *const gcos_object_info,
        ) -> i32 {
            // SAFETY: the counter that was given, and what the library gives.
            unsafe {
                *user.cast::<usize>() += 1;
                assert!(!key.is_null() && len <= 1024 && (*info).len > 0);
                i32::from(*user.cast::<usize>() > 20)
            }
        }
        let (store, prefix, after) = (self.store(), self.key(), self.key());
        let limit = self.input.number() % 30;
        let mut counted = 0_usize;
        // SAFETY: as above.
        let status = known(unsafe {
            gcos_list(
                store,
                prefix.as_ptr().cast(),
                prefix.len(),
                after.as_ptr().cast(),
                after.len(),
                limit,
                if self.input.byte() == 200 { None } else { Some(count) },
                (&raw mut counted).cast(),
            )
        });
        assert!(status == 0 || counted == 0);
        assert!(limit == 0 || counted <= limit);
    }

    /// There is no such GPU.
    fn devices(&mut self) {
        let (store, device) = (self.store(), -1 - i32::from(self.input.byte()));
        let mut data = null_mut();
        // SAFETY: as above.
        unsafe {
            let at = self.target.as_mut_ptr().cast();
            known(gcos_put_device(store, null(), 0, device, at, 5, null_mut(), null(), null_mut()));
            known(gcos_get_device(store, null(), 0, device, at, 5, null_mut()));
            known(gcos_device_alloc(store, device, 4096, &mut data));
            known(gcos_device_free(store, at));
        }
    }

    fn open_and_close(&mut self) {
        if self.open.len() < 2 {
            return self.open();
        }
        let store = self.store();
        // SAFETY: as above.
        if known(unsafe { gcos_close(store, 60_000) }) == 0 {
            self.open.retain(|open| *open != store);
            self.closed.push(store);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_bytes_can_be_played() {
        let mut state = 1_u64;
        for _ in 0..30 {
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .take(400)
            .collect();
            super::play(&bytes);
        }
    }
}
