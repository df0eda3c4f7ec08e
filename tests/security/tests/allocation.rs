//! How much memory hostile media can make the store and the checker take.
//!
//! One test, so that nothing else allocates meanwhile: the allocator gives no more than the bound while
//! a pool is opened and checked, and the process ends with "memory allocation failed" where that is not
//! enough.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::alloc::System;
use std::sync::Arc;

use cap::Cap;
use gcos_check::{CheckOptions, check};
use gcos_engine::Engine;
use gcos_layout::media::{
    DriveState, Superblock, VERSION_MAJOR, VERSION_MINOR, ZoneChunks, ZoneMap,
};
use gcos_security_tests::{Counted, Sparse};
use gcos_store::{OpenOptions, Store};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const MIB: usize = 1 << 20;

/// Most that is taken for two drives of 6 MiB, whatever they hold: windows on journals and checkpoints,
/// records, payloads that are read back, and what the drives in memory were changed by.
const SMALL_BOUND: usize = 32 * MIB;

/// What a chunk that a drive claims to have may cost, while nothing is in it.
const CHUNK_BOUND: usize = 64;

fn engines(drives: &[Arc<dyn Engine>]) -> Vec<Arc<dyn Engine>> {
    drives.to_vec()
}

fn open_and_check(drives: &[Arc<dyn Engine>]) -> bool {
    let options = OpenOptions { background: false, ..OpenOptions::default() };
    let opened = Store::open(engines(drives), options);
    let open = opened.is_ok();
    if let Ok(store) = opened {
        for (key, info) in store.list(b"", None, usize::MAX) {
            let mut memory = vec![0; info.len as usize];
            let _ = store.get(&key, memory.as_mut_slice());
        }
    }
    let options = CheckOptions { data: true, ..CheckOptions::default() };
    let _ = check(drives, &options, &mut |_| {});
    open
}

/// A drive of `capacity` bytes that says that it is an empty pool with chunks of `data` bytes.
fn claims(capacity: u64, data: u32) -> Option<(Arc<Counted>, Arc<Sparse>, ZoneMap)> {
    let chunks = ZoneChunks { superblock: 4096, meta: 65_536, data };
    let zones = ZoneMap::plan(capacity, chunks, 1).ok()?;
    // The least metadata, so that there are as many chunks as can be.
    let zones = ZoneMap { checkpoint_bytes: 5 * 65_536, journal_bytes: 1 << 20, ..zones };
    zones.check().ok()?;
    let (counted, dma) = Counted::space().unwrap();
    let drive = Sparse::new(capacity, dma);
    let superblock = Superblock {
        version: (VERSION_MAJOR, VERSION_MINOR),
        sequence: 2,
        parent: 0,
        pool_uuid: [1; 16],
        drive_index: 0,
        members: vec![[2; 16]],
        state: DriveState::Ready,
        clean: true,
        lba_bytes: 4096,
        epoch: 1,
        created: 1,
        zones,
    };
    for offset in zones.superblock_offsets() {
        drive.put(offset, &superblock.encode());
    }
    Some((counted, drive, zones))
}

/// Opens and checks with no more than `bound` bytes beside what is in use.
fn within(bound: usize, drives: &[Arc<dyn Engine>]) -> bool {
    ALLOCATOR.set_limit(ALLOCATOR.allocated() + bound).unwrap();
    let too_much = Vec::<u8>::new().try_reserve_exact(bound + 1);
    assert!(too_much.is_err(), "the limit does not bite");
    let opened = open_and_check(drives);
    ALLOCATOR.set_limit(usize::MAX).unwrap();
    opened
}

#[test]
fn hostile_media_take_bounded_memory() {
    // What is kept for all of them.
    drop(gcos_fuzz_targets::image::drives_of(&[]));
    let mut rng = fastrand::Rng::with_seed(11);
    let mut opened = 0;
    for round in 0..120 {
        let mut input = vec![0, u8::from(round % 4 != 0)];
        input.extend((0..rng.usize(8..600)).map(|_| rng.u8(..)));
        let drives = gcos_fuzz_targets::image::drives_of(&input);
        opened += usize::from(within(SMALL_BOUND, &drives));
    }
    assert!(opened > 10, "only {opened} were opened, so little was looked at");

    // Drives that claim to be large.
    for (capacity, data) in [(1u64 << 32, 256 << 10), (1 << 40, 256 << 10), (1 << 44, 8 << 20)] {
        let (counted, drive, zones) = claims(capacity, data).unwrap();
        let chunks = zones.data_chunks() as usize;
        let bound = SMALL_BOUND + chunks * CHUNK_BOUND;
        let drives = [Arc::clone(&drive) as Arc<dyn Engine>];
        assert!(within(bound, &drives), "{capacity} bytes in {chunks} chunks are refused");
        assert!(counted.most() < 64 * MIB, "{} bytes are mapped for devices", counted.most());
    }
    // More chunks than locations can name are no pool at all, however large the drive.
    assert!(claims(1 << 50, 256 << 10).is_none());
}
