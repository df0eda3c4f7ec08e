//! Tests of the whole store on a drive in memory that can lose what was not flushed.

mod crash;
mod device;
mod drive;
mod eviction;
mod faults;
mod many_drives;
mod objects;
mod recovery;
mod regressions;
mod superblocks;

use std::sync::Arc;
use std::time::Duration;

use gcos_engine::Engine;
use gcos_layout::media::ZoneChunks;

use crate::tests::drive::MemDrive;
use crate::{FormatOptions, OpenOptions, PutOptions, Store, format};

pub(crate) const MIB: usize = 1 << 20;

/// Small zones, so that small drives fill, wrap their journals and evict.
pub(crate) fn small_chunks() -> ZoneChunks {
    ZoneChunks { superblock: 4096, meta: 65_536, data: 256 << 10 }
}

pub(crate) fn engines(drives: &[Arc<MemDrive>]) -> Vec<Arc<dyn Engine>> {
    drives.iter().map(|drive| drive.engine()).collect()
}

pub(crate) fn format_small(drives: &[Arc<MemDrive>]) {
    let options = FormatOptions { chunks: small_chunks(), ..FormatOptions::default() };
    format(&engines(drives), &options).unwrap();
}

pub(crate) fn quiet() -> OpenOptions {
    OpenOptions { background: false, io_deadline: Duration::from_secs(5), ..OpenOptions::default() }
}

pub(crate) fn open(drives: &[Arc<MemDrive>]) -> Store {
    Store::open(engines(drives), quiet()).unwrap()
}

pub(crate) fn fresh(count: usize, bytes: usize) -> (Vec<Arc<MemDrive>>, Store) {
    let drives = MemDrive::several(count, bytes);
    format_small(&drives);
    let store = open(&drives);
    (drives, store)
}

/// Bytes that depend on a seed, all of them.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut out = vec![0; len];
    rng.fill(&mut out);
    out
}

pub(crate) fn put(store: &Store, key: &[u8], seed: u64, len: usize) {
    store.put(key, bytes(seed, len).as_slice(), &PutOptions::default()).unwrap();
}

pub(crate) fn assert_holds(store: &Store, key: &[u8], seed: u64, len: usize) {
    match store.get_vec(key).unwrap() {
        Ok(got) => assert!(got == bytes(seed, len), "wrong bytes for {}", key.escape_ascii()),
        Err(reason) => panic!("{} is a miss: {reason}", key.escape_ascii()),
    }
}
