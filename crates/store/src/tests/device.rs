//! Objects in the memory of a GPU that host threads play.

mod faults;
mod layers;
mod model;

use std::sync::Arc;
use std::time::Duration;

use gcos_engine::device::{DeviceBuffer, DeviceSlice, ForeignMemory, Gpu, Stream};

use super::*;
use crate::{DeviceRun, DeviceSegment, Lookup, PutOutcome};

const SOON: Duration = Duration::from_secs(20);

/// A pool and a GPU.
struct World {
    drives: Vec<Arc<MemDrive>>,
    store: Store,
    gpu: Arc<Gpu>,
    stream: Stream,
}

impl World {
    fn new(drives: usize, bytes: usize) -> Self {
        let (drives, store) = fresh(drives, bytes);
        Self::of(drives, store)
    }

    fn of(drives: Vec<Arc<MemDrive>>, store: Store) -> Self {
        let gpu = Gpu::played();
        let stream = Stream::new(&gpu).unwrap();
        Self { drives, store, gpu, stream }
    }

    /// GPU memory that holds these bytes.
    fn filled(&self, bytes: &[u8]) -> DeviceBuffer {
        let buffer = self.store.device_buffer(&self.gpu, bytes.len()).unwrap();
        buffer.copy_in(0, bytes).unwrap();
        buffer
    }

    fn get(&self, key: &[u8], len: usize) -> (Lookup, Vec<u8>) {
        let buffer = self.filled(&vec![0xee; len]);
        let mut gets = self.store.get_on(&self.stream, [(key, (&buffer).into())]).unwrap();
        let _ = gets.poll();
        let lookup = gets.wait().pop().unwrap().unwrap();
        let mut out = vec![0; len];
        buffer.copy_out(0, &mut out).unwrap();
        (lookup, out)
    }

    fn put(&self, key: &[u8], payload: &[u8]) -> Result<PutOutcome, StoreError> {
        let buffer = self.filled(payload);
        self.store.put_on(&self.stream, key, &buffer, &PutOptions::default())?.wait()
    }

    fn assert_gets(&self, key: &[u8], seed: u64, len: usize) {
        let (lookup, got) = self.get(key, len);
        assert!(lookup.is_hit(), "{}: {lookup:?}", key.escape_ascii());
        assert!(got == bytes(seed, len), "wrong bytes for {}", key.escape_ascii());
    }
}

use crate::StoreError;

/// GPU memory cut into segments at random, so that they do not lie in the order of the payload.
struct Scattered {
    run: DeviceRun,
    /// Offset in `buffer` and length of each segment.
    cuts: Vec<(usize, usize)>,
    buffer: DeviceBuffer,
}

impl Scattered {
    fn new(world: &World, rng: &mut fastrand::Rng, len: usize) -> Self {
        let page = 1 << rng.u32(9..17);
        let style = rng.u8(..4);
        let (mut cuts, mut at, mut left) = (Vec::new(), 0, len);
        while left > 0 {
            let (gap, take) = match style {
                // One run, at a page or somewhere else.
                0 => (0, left),
                1 => (rng.usize(..5000), left),
                // Pages of a KV cache.
                2 => (page * rng.usize(..3), page.min(left)),
                // Anything.
                _ => (rng.usize(..40), rng.usize(1..=100_000).min(left)),
            };
            cuts.push((at + gap, take));
            at += gap + take;
            left -= take;
        }
        rng.shuffle(&mut cuts);
        // The last one of pages may be short: any place of the payload is fine for it.
        let buffer = world.store.device_buffer(&world.gpu, at.max(1)).unwrap();
        buffer.copy_in(0, &vec![0x5a; at]).unwrap();
        let foreign = rng.u8(..4);
        let run = cuts
            .iter()
            .map(|&(at, take)| {
                let slice = buffer.slice(at, take).unwrap();
                match foreign {
                    0 => segment_of_others(&world.gpu, &slice),
                    1 if rng.bool() => segment_of_others(&world.gpu, &slice),
                    _ => DeviceSegment::Reached(slice),
                }
            })
            .collect();
        Self { run, cuts, buffer }
    }

    fn fill(&self, payload: &[u8]) {
        let mut done = 0;
        for &(at, len) in &self.cuts {
            self.buffer.copy_in(at, &payload[done..done + len]).unwrap();
            done += len;
        }
    }

    fn read(&self) -> Vec<u8> {
        let mut out = vec![0; self.cuts.iter().map(|cut| cut.1).sum()];
        let mut done = 0;
        for &(at, len) in &self.cuts {
            self.buffer.copy_out(at, &mut out[done..done + len]).unwrap();
            done += len;
        }
        out
    }

    /// Whether nothing but the segments was written to.
    fn is_clean_outside(&self) -> bool {
        let mut all = vec![0; self.buffer.len()];
        self.buffer.copy_out(0, &mut all).unwrap();
        let end = self.cuts.iter().map(|cut| cut.0 + cut.1).max().unwrap_or(0);
        for &(at, len) in &self.cuts {
            all[at..at + len].fill(0x5a);
        }
        all[..end].iter().all(|&byte| byte == 0x5a)
    }
}

/// The same memory as one that drives do not reach.
fn segment_of_others(gpu: &Arc<Gpu>, slice: &DeviceSlice) -> DeviceSegment {
    let (address, len) = (slice.device_address(), slice.len());
    DeviceSegment::Foreign(ForeignMemory::check(gpu, address, len).unwrap())
}

#[test]
fn a_payload_goes_from_gpu_memory_to_drives_and_back() {
    let world = World::new(1, 64 * MIB);
    for (i, len) in [1, 4095, 4096, 65_537, 250_000, 3 * MIB + 5].into_iter().enumerate() {
        let key = [i as u8];
        assert_eq!(world.put(&key, &bytes(i as u64, len)).unwrap(), PutOutcome::Stored);
        world.assert_gets(&key, i as u64, len);
        assert_holds(&world.store, &key, i as u64, len);
    }
    let stats = world.store.stats();
    assert_eq!((stats.device_gets, stats.device_puts, stats.device_fallbacks), (6, 6, 0));
    assert_eq!((stats.puts, stats.hits), (6, 12));
}

#[test]
fn what_the_host_puts_the_gpu_gets_and_the_other_way_round_after_a_restart() {
    let world = World::new(3, 64 * MIB);
    for i in 0..10u64 {
        let len = 1 + i as usize * 777_777;
        match i % 2 {
            0 => put(&world.store, &[i as u8], i, len),
            _ => drop(world.put(&[i as u8], &bytes(i, len)).unwrap()),
        }
    }
    let World { drives, store, .. } = world;
    store.close().unwrap();
    let store = open(&drives);
    let world = World::of(drives, store);
    for i in 0..10u64 {
        let len = 1 + i as usize * 777_777;
        world.assert_gets(&[i as u8], i, len);
        assert_holds(&world.store, &[i as u8], i, len);
    }
}

#[test]
fn keys_that_are_not_there_and_memory_of_the_wrong_length_are_told_of_each_item() {
    let world = World::new(1, 16 * MIB);
    put(&world.store, b"a", 1, 1000);
    let run = |len: usize| DeviceRun::from(&world.filled(&vec![0; len]));
    let items = [(&b"a"[..], run(1000)), (b"none", run(5)), (b"a", run(999)), (b"a", run(1000))];
    let results = world.store.get_on(&world.stream, items).unwrap().wait();
    assert!(matches!(&results[0], Ok(Lookup::Hit(info)) if info.len == 1000));
    assert!(matches!(&results[1], Ok(Lookup::Miss(crate::MissReason::Absent))));
    assert!(matches!(&results[2], Err(StoreError::WrongSize { object: 1000, target: 999 })));
    assert!(results[3].as_ref().unwrap().is_hit());
    let empty: [(&[u8], DeviceRun); 0] = [];
    assert!(world.store.get_on(&world.stream, empty).unwrap().wait().is_empty());
}

#[test]
fn memory_of_another_gpu_is_refused() {
    let world = World::new(1, 16 * MIB);
    put(&world.store, b"a", 1, 1000);
    let other = Gpu::played();
    let buffer = world.store.device_buffer(&other, 1000).unwrap();
    let get = world.store.get_on(&world.stream, [(&b"a"[..], (&buffer).into())]).unwrap();
    let error = get.wait().pop().unwrap().unwrap_err();
    assert!(error.to_string().contains("which the stream belongs to"), "{error}");
    let put = world.store.put_on(&world.stream, b"b", &buffer, &PutOptions::default());
    assert!(matches!(put, Err(StoreError::Invalid { .. })), "{put:?}");
}

#[test]
fn a_get_waits_for_the_work_before_it_and_the_work_behind_it_sees_the_bytes() {
    let world = World::new(2, 64 * MIB);
    let len = 5 * MIB + 3;
    put(&world.store, b"k", 1, len);
    let (target, copy) = (world.filled(&vec![1; len]), world.filled(&vec![2; len]));
    let before = world.filled(&vec![3; len]);
    let gate = world.stream.gate().unwrap();
    world.stream.copy(&target.as_slice(), &before.as_slice()).unwrap();
    let mut gets = world.store.get_on(&world.stream, [(&b"k"[..], (&target).into())]).unwrap();
    world.stream.copy(&target.as_slice(), &copy.as_slice()).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    assert!(!gets.poll(), "the stream has not come to it");
    let mut now = vec![0; len];
    target.copy_out(0, &mut now).unwrap();
    assert!(now.iter().all(|&byte| byte == 1));
    gate.open();
    gets.landed().unwrap().synchronize(SOON).unwrap();
    assert!(gets.wait().pop().unwrap().unwrap().is_hit());
    world.stream.synchronize(SOON).unwrap();
    before.copy_out(0, &mut now).unwrap();
    assert!(now.iter().all(|&byte| byte == 1));
    copy.copy_out(0, &mut now).unwrap();
    assert!(now == bytes(1, len));
}

#[test]
fn a_put_takes_what_the_work_before_it_wrote_and_is_seen_by_nobody_before_it_is_awaited() {
    let world = World::new(2, 64 * MIB);
    let len = 3 * MIB + 1;
    let (source, payload) = (world.filled(&vec![1; len]), world.filled(&bytes(4, len)));
    let gate = world.stream.gate().unwrap();
    world.stream.copy(&payload.as_slice(), &source.as_slice()).unwrap();
    let mut put = world.store.put_on(&world.stream, b"k", &source, &PutOptions::default()).unwrap();
    assert!(!put.poll());
    gate.open();
    world.stream.synchronize(SOON).unwrap();
    assert!(!world.store.contains(b"k"));
    assert_eq!(put.wait().unwrap(), PutOutcome::Stored);
    assert_holds(&world.store, b"k", 4, len);
}

#[test]
fn a_key_that_exists_is_kept_or_replaced_as_asked() {
    let world = World::new(1, 16 * MIB);
    put(&world.store, b"k", 1, 1000);
    assert_eq!(world.put(b"k", &bytes(2, 500)).unwrap(), PutOutcome::Kept);
    world.assert_gets(b"k", 1, 1000);
    let replace = PutOptions { if_exists: crate::IfExists::Replace, ..PutOptions::default() };
    let source = world.filled(&bytes(3, 700));
    world.store.put_on(&world.stream, b"k", &source, &replace).unwrap().wait().unwrap();
    world.assert_gets(b"k", 3, 700);
    // Kept when it was asked, gone when it is awaited: then it is stored after all.
    let put = world.store.put_on(&world.stream, b"k", &source, &PutOptions::default()).unwrap();
    let relaxed = crate::Durability::Relaxed;
    world.store.remove(b"k", relaxed).unwrap();
    put.wait().unwrap();
}

#[test]
fn several_puts_are_awaited_together_and_share_frames() {
    let world = World::new(1, 64 * MIB);
    let sources: Vec<_> = (0..20).map(|i| world.filled(&bytes(i, 10_000))).collect();
    let frames = world.store.stats().journal_frames;
    let puts = sources.iter().enumerate().map(|(i, source)| {
        world.store.put_on(&world.stream, &[i as u8], source, &PutOptions::default()).unwrap()
    });
    let results = crate::DevicePut::wait_all(puts.collect());
    assert!(results.iter().all(|result| matches!(result, Ok(PutOutcome::Stored))));
    assert!(world.store.stats().journal_frames - frames <= 2);
    for i in 0..20 {
        world.assert_gets(&[i as u8], i, 10_000);
    }
}
