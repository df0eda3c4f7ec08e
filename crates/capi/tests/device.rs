//! The calls of devices, on a GPU that host threads play, or, with feature `gpu`, on a real one.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};
use std::sync::Arc;

use gcos::{Access, Config, Status};
use gcos_capi::*;
use gcos_cuda::{Gpu, GpuRange, UnmappedMemory};

const CONFIG: &str =
    r#"{"disk": {"number": 1, "paths": ["emulated:ram:64MiB"], "capacity_bytes": 67108864}}"#;
const LEN: usize = 300_000;

/// A pool, and GPU 0 of it.
fn open() -> (*mut gcos_store, Arc<Gpu>) {
    let access = Access::open(&Config::parse(CONFIG, "test").unwrap(), false).unwrap();
    #[cfg(feature = "gpu")]
    let gpu = access.gpu(0).unwrap();
    #[cfg(not(feature = "gpu"))]
    let gpu = Gpu::played();
    #[cfg(not(feature = "gpu"))]
    access.add_gpu(Arc::clone(&gpu));
    (hand_over(access).unwrap(), gpu)
}

fn close(store: *mut gcos_store) {
    // SAFETY: a handle.
    assert_eq!(unsafe { gcos_close(store, 10_000) }, 0, "{}", message());
}

fn message() -> String {
    // SAFETY: valid until the next call of this thread.
    unsafe { CStr::from_ptr(gcos_last_error()) }.to_string_lossy().into_owned()
}

fn at(memory: &UnmappedMemory, offset: usize) -> *mut c_void {
    (memory.device_address() as usize + offset) as *mut c_void
}

fn item(key: &'static [u8], data: *mut c_void, len: usize) -> gcos_item {
    let key = gcos_key { data: key.as_ptr().cast(), len: key.len() };
    gcos_item { key, data, len, status: 7, kept: 7 }
}

#[test]
fn objects_go_between_a_pool_and_memory_of_a_gpu_that_anybody_has_allocated() {
    let (store, gpu) = open();
    let memory = UnmappedMemory::new(&gpu, 1 << 20).unwrap();
    let bytes: Vec<u8> = (0..LEN).map(|at| (at % 241) as u8).collect();
    memory.copy_in(0, &bytes).unwrap();
    let (key, mut kept) = (b"key".as_ptr().cast(), 7);
    // SAFETY: memory of the GPU and of the host that lives until the end.
    unsafe {
        let from = at(&memory, 0).cast_const();
        let stream = null_mut();
        let put = gcos_put_device(store, key, 3, 0, from, LEN, stream, null(), &mut kept);
        assert_eq!((put, kept), (0, 0), "{}", message());
        let mut back = vec![0_u8; LEN];
        assert_eq!(gcos_get(store, key, 3, back.as_mut_ptr().cast(), LEN), 0, "{}", message());
        assert!(back == bytes);
        let to = at(&memory, 512 << 10);
        assert_eq!(gcos_get_device(store, key, 3, 0, to, LEN, stream), 0, "{}", message());
        memory.copy_out(512 << 10, &mut back).unwrap();
        assert!(back == bytes);
        let miss = gcos_get_device(store, key, 2, 0, to, LEN, stream);
        assert_eq!(miss, Status::NoSuchKey.code(), "{}", message());
        let short = gcos_get_device(store, key, 3, 0, to, LEN - 1, stream);
        assert_eq!(short, Status::WrongSize.code(), "{}", message());
    }
    close(store);
}

#[test]
fn memory_that_is_none_of_the_gpu_fails_its_item_alone() {
    let (store, gpu) = open();
    let memory = UnmappedMemory::new(&gpu, 1 << 20).unwrap();
    memory.copy_in(0, &vec![5; 1 << 20]).unwrap();
    let host = vec![0_u8; 4096];
    let mut items = [
        item(b"a", at(&memory, 0), 1000),
        item(b"b", host.as_ptr().cast_mut().cast(), 1000),
        item(b"c", at(&memory, 1 << 19), LEN),
        item(b"d", at(&memory, 1 << 30), 11),
    ];
    let mut failed = 7;
    let statuses = |items: &[gcos_item]| items.iter().map(|item| item.status).collect::<Vec<_>>();
    let invalid = Status::InvalidArgument.code();
    // SAFETY: memory of the GPU that lives until the end; the rest is found out.
    unsafe {
        let first = items.as_mut_ptr();
        let put = gcos_put_many_device(store, 0, null_mut(), first, 4, null(), &mut failed);
        assert_eq!((put, failed), (0, 2), "{}", message());
        assert_eq!(statuses(&items), [0, invalid, 0, invalid]);
        let first = items.as_mut_ptr();
        let get = gcos_get_many_device(store, 0, null_mut(), first, 4, &mut failed);
        assert_eq!((get, failed), (0, 2), "{}", message());
        assert_eq!(statuses(&items), [0, invalid, 0, invalid]);
        items[0].data = at(&memory, (1 << 19) + 5);
        let first = items.as_mut_ptr();
        let get = gcos_get_many_device(store, 0, null_mut(), first, 4, &mut failed);
        assert_eq!(get, invalid, "overlapping memory");
        let wild = gcos_put_device(store, null(), 0, 0, null(), 5, null_mut(), null(), null_mut());
        assert_eq!(wild, invalid);
        assert!(message().contains("memory of this GPU"), "{}", message());
        // CUDA believes any handle.
        if gpu.is_played() {
            let foreign = 77 as *mut c_void;
            let put = gcos_put_many_device(store, 0, foreign, first, 1, null(), &mut failed);
            assert_eq!(put, invalid, "no stream of this GPU");
        }
    }
    close(store);
}
