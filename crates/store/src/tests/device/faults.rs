use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use gcos_engine::device::{
    DeviceEngine, DeviceMemory, DevicePath, DeviceTicket, DeviceTransfer, HostDriven, MemoryOptions,
};
use gcos_engine::{IoError, IoErrorKind};

use super::layers::until;
use super::*;
use crate::{Durability, LayerSink, MissReason};

/// What a device engine does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Fault {
    None,
    /// It starts nothing.
    Refuses,
    /// It says of everything that it took too long, though it was done.
    TimesOut,
    /// The same, and nothing was done.
    DoesNothing,
    /// Every third transfer fails on the medium.
    Media,
    /// What it moves is not what it was to move, and it does not say so.
    Lies,
}

/// A device engine that can be told to fail.
#[derive(Debug)]
struct Faulty {
    inner: HostDriven,
    fault: AtomicU8,
    starts: AtomicU64,
}

#[derive(Debug)]
struct FaultyTicket {
    inner: Box<dyn DeviceTicket>,
    fault: Fault,
    count: usize,
}

impl Faulty {
    /// Takes the place of what drives `drive` for `gpu`.
    fn install(drive: &Arc<MemDrive>, gpu: &Arc<Gpu>, memory: &Arc<DeviceMemory>) -> Arc<Self> {
        let inner = HostDriven::new(drive.engine(), Arc::clone(memory)).unwrap();
        let faulty = Arc::new(Self { inner, fault: AtomicU8::new(0), starts: AtomicU64::new(0) });
        assert!(faulty.gpu().same(gpu));
        *drive.device.lock() = Some(Arc::clone(&faulty) as _);
        faulty
    }

    fn set(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::SeqCst);
    }

    fn fault(&self) -> Fault {
        match self.fault.load(Ordering::SeqCst) {
            0 => Fault::None,
            1 => Fault::Refuses,
            2 => Fault::TimesOut,
            3 => Fault::DoesNothing,
            4 => Fault::Media,
            _ => Fault::Lies,
        }
    }
}

fn error(kind: IoErrorKind) -> IoError {
    IoError {
        kind,
        drive: "faulty".to_owned(),
        op: "read",
        offset: 0,
        len: 0,
        detail: "as the test wants it".to_owned(),
        source: None,
    }
}

impl DeviceEngine for Faulty {
    fn gpu(&self) -> &Arc<Gpu> {
        self.inner.gpu()
    }
    fn memory(&self) -> &Arc<DeviceMemory> {
        self.inner.memory()
    }
    fn path(&self) -> DevicePath {
        self.inner.path()
    }
    fn start(
        &self,
        stream: &Stream,
        transfers: Vec<DeviceTransfer>,
        deadline: Duration,
    ) -> Result<Box<dyn DeviceTicket>, IoError> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        let (fault, count) = (self.fault(), transfers.len());
        let transfers = match fault {
            Fault::Refuses => return Err(error(IoErrorKind::Gone)),
            Fault::DoesNothing => Vec::new(),
            Fault::Lies => transfers
                .into_iter()
                .map(|mut transfer| {
                    transfer.extents[0].offset = 8192;
                    transfer
                })
                .collect(),
            _ => transfers,
        };
        let inner = self.inner.start(stream, transfers, deadline)?;
        Ok(Box::new(FaultyTicket { inner, fault, count }))
    }
    fn shutdown(&self, deadline: Duration) -> Result<(), IoError> {
        self.inner.shutdown(deadline)
    }
}

impl FaultyTicket {
    fn results(&self, results: Vec<Result<(), IoError>>) -> Vec<Result<(), IoError>> {
        match self.fault {
            Fault::TimesOut | Fault::DoesNothing => {
                (0..self.count).map(|_| Err(error(IoErrorKind::Timeout))).collect()
            }
            Fault::Media => {
                let bad = |i: usize| i.is_multiple_of(3);
                let one =
                    |(i, result)| if bad(i) { Err(error(IoErrorKind::Media)) } else { result };
                results.into_iter().enumerate().map(one).collect()
            }
            _ => results,
        }
    }
}

impl DeviceTicket for FaultyTicket {
    fn settle(&mut self) {
        self.inner.settle();
    }
    fn poll(&mut self) -> Option<Vec<Result<(), IoError>>> {
        let results = self.inner.poll()?;
        Some(self.results(results))
    }
    fn wait(self: Box<Self>) -> Vec<Result<(), IoError>> {
        let Self { inner, fault, count } = *self;
        let results = inner.wait();
        Self { inner: Box::new(Nothing), fault, count }.results(results)
    }
}

#[derive(Debug)]
struct Nothing;

impl DeviceTicket for Nothing {
    fn poll(&mut self) -> Option<Vec<Result<(), IoError>>> {
        None
    }
    fn wait(self: Box<Self>) -> Vec<Result<(), IoError>> {
        Vec::new()
    }
}

/// A world whose first `faulty` drives have engines that fail when told to.
fn faulty_world(drives: usize, faulty: usize) -> (World, Vec<Arc<Faulty>>) {
    let world = World::new(drives, 64 * MIB);
    let dma = world.drives[0].engine();
    let memory = DeviceMemory::new(&world.gpu, dma.dma(), MemoryOptions::default()).unwrap();
    let engines = world.drives[..faulty]
        .iter()
        .map(|drive| Faulty::install(drive, &world.gpu, &memory))
        .collect();
    (world, engines)
}

fn find(drive: &MemDrive, needle: &[u8]) -> u64 {
    drive.snapshot().windows(needle.len()).position(|w| w == needle).unwrap() as u64
}

#[test]
fn a_device_engine_that_fails_costs_time_and_nothing_else() {
    for fault in [Fault::Refuses, Fault::TimesOut, Fault::DoesNothing, Fault::Media] {
        // One of two drives fails: the objects lie on both.
        let (world, engines) = faulty_world(2, 1);
        let len = 5 * MIB + 77;
        put(&world.store, b"before", 1, len);
        engines[0].set(fault);
        world.assert_gets(b"before", 1, len);
        world.put(b"after", &bytes(2, len)).unwrap();
        let stats = world.store.stats();
        // What a medium could not read is read again, which is no falling back.
        let fallbacks = if fault == Fault::Media { 1 } else { 2 };
        assert_eq!((stats.device_gets, stats.device_puts), (0, 0), "{fault:?}");
        assert_eq!(stats.device_fallbacks, fallbacks, "{fault:?}");
        engines[0].set(Fault::None);
        world.assert_gets(b"after", 2, len);
        assert_holds(&world.store, b"after", 2, len);
        assert_eq!(world.store.stats().device_gets, 1, "{fault:?}: in use again");
        assert!(engines[0].starts.load(Ordering::SeqCst) >= 3);
        assert_eq!(world.store.stats().drives_lost, 0, "the drive itself is fine");
    }
}

#[test]
fn wrong_bytes_from_a_drive_are_read_again_and_never_given_out() {
    let (world, engines) = faulty_world(1, 1);
    put(&world.store, b"k", 1, 300_000);
    engines[0].set(Fault::Lies);
    world.assert_gets(b"k", 1, 300_000);
    assert_eq!(world.store.stats().device_gets, 0, "the host's second read was the good one");
    assert_eq!(world.store.stats().misses, 0);
}

#[test]
fn layers_come_by_the_host_where_the_device_engine_fails() {
    let (world, engines) = faulty_world(1, 1);
    let len = 6 * 100_000;
    put(&world.store, b"k", 3, len);
    let buffers: Vec<_> = (0..6).map(|_| world.filled(&[0; 100_000])).collect();
    let sinks = buffers.iter().enumerate().map(|(i, b)| LayerSink::new(i as u32 * 100_000, b));
    let layers = world.store.get_layers(&world.stream, &[b"k"], sinks.collect(), 2).unwrap();
    let mut seen = 0;
    for layer in layers {
        assert!(layer.is_hit(), "{layer:?}");
        let mut got = vec![0; 100_000];
        buffers[layer.index].copy_out(0, &mut got).unwrap();
        assert!(got == bytes(3, len)[layer.index * 100_000..][..100_000]);
        seen += 1;
        if seen == 2 {
            engines[0].set(Fault::Refuses);
        }
    }
    assert_eq!(seen, 6);
    let stats = world.store.stats();
    assert!(stats.device_gets >= 2 && stats.device_fallbacks >= 2, "{stats:?}");
    assert_eq!(stats.device_gets + stats.device_fallbacks, 6);
}

#[test]
fn a_header_that_did_not_come_with_one_layer_comes_with_the_next() {
    let (world, engines) = faulty_world(1, 1);
    put(&world.store, b"k", 3, 6 * 100_000);
    let buffers: Vec<_> = (0..6).map(|_| world.filled(&[0; 100_000])).collect();
    let sinks = buffers.iter().enumerate().map(|(i, b)| LayerSink::new(i as u32 * 100_000, b));
    engines[0].set(Fault::Refuses);
    let layers = world.store.get_layers(&world.stream, &[b"k"], sinks.collect(), 1).unwrap();
    engines[0].set(Fault::None);
    assert!(layers.map(|layer| assert!(layer.is_hit(), "{layer:?}")).count() == 6);
    let stats = world.store.stats();
    assert_eq!((stats.device_gets, stats.device_fallbacks), (5, 1), "{stats:?}");
}

#[test]
fn a_stream_that_has_failed_is_told_as_it_is() {
    let world = World::new(1, 16 * MIB);
    put(&world.store, b"k", 3, 100_000);
    let target = world.filled(&[0; 100_000]);
    world.stream.host(Box::new(|| panic!("as the test wants it"))).unwrap();
    let gets = world.store.get_on(&world.stream, [(&b"k"[..], (&target).into())]).unwrap();
    let sinks = vec![LayerSink::new(0, &target)];
    let mut layers = world.store.get_layers(&world.stream, &[b"k"], sinks, 1).unwrap();
    let lookups = [gets.wait().pop(), layers.next().unwrap().results.pop()];
    for lookup in lookups.map(|lookup| lookup.unwrap().unwrap()) {
        let Lookup::Miss(MissReason::Io { detail, .. }) = &lookup else { panic!("{lookup:?}") };
        assert!(detail.contains("a job panicked"), "{detail}");
    }
}

#[test]
fn a_put_that_begins_again_holds_up_no_other_of_its_batch() {
    let world = World::new(1, 64 * MIB);
    let relaxed = PutOptions { durability: Durability::Relaxed, ..PutOptions::default() };
    world.store.put(b"k", &bytes(1, 1000)[..], &relaxed).unwrap();
    let source = world.filled(&bytes(2, 1000));
    let options = PutOptions::default();
    let put_on = |key: &[u8]| world.store.put_on(&world.stream, key, &source, &options).unwrap();
    let batch = vec![put_on(b"k"), put_on(b"other")];
    world.store.remove(b"k", Durability::Relaxed).unwrap();
    // What was to be kept is gone, and its key is taken.
    let holder = put_on(b"k");
    std::thread::scope(|scope| {
        let batch = scope.spawn(|| crate::DevicePut::wait_all(batch));
        until(|| world.store.contains(b"other"));
        holder.wait().unwrap();
        for result in batch.join().unwrap() {
            result.unwrap();
        }
    });
    world.assert_gets(b"other", 2, 1000);
}

#[test]
fn a_changed_byte_on_the_drive_is_a_miss_never_wrong_bytes() {
    for (at, len) in [(0, 100), (70_000, 100_000), (99_990, 100_000), (3_000_000, 3_145_728)] {
        let world = World::new(1, 64 * MIB);
        world.put(b"k", &bytes(1, len)).unwrap();
        let needle = &bytes(1, len)[at..(at + 64).min(len)];
        world.drives[0].corrupt(find(&world.drives[0], needle), 4);
        let (lookup, _) = world.get(b"k", len);
        assert!(matches!(lookup, Lookup::Miss(MissReason::Damaged { .. })), "{lookup:?}");
        assert!(!world.store.contains(b"k"));
        assert_eq!(world.store.stats().misses_damaged, 1);
        // Its key is free for a new one.
        world.put(b"k", &bytes(2, 100)).unwrap();
        world.assert_gets(b"k", 2, 100);
    }
}

#[test]
fn a_changed_byte_of_a_header_is_a_miss() {
    let world = World::new(1, 16 * MIB);
    world.put(b"k", &bytes(1, 5000)).unwrap();
    let payload = find(&world.drives[0], &bytes(1, 5000)[..64]);
    world.drives[0].corrupt(payload - 4096 + 20, 1);
    let (lookup, _) = world.get(b"k", 5000);
    assert!(matches!(lookup, Lookup::Miss(MissReason::Damaged { .. })), "{lookup:?}");
    assert!(!world.store.contains(b"k"));
}

#[test]
fn an_unreadable_block_is_a_miss() {
    let world = World::new(1, 16 * MIB);
    world.put(b"k", &bytes(1, 10_000)).unwrap();
    let block = find(&world.drives[0], &bytes(1, 10_000)[..64]) / 4096;
    world.drives[0].unreadable.lock().insert(block);
    let (lookup, _) = world.get(b"k", 10_000);
    assert!(matches!(lookup, Lookup::Miss(MissReason::Damaged { .. })), "{lookup:?}");
}

#[test]
fn a_drive_that_goes_away_makes_misses_and_errors_not_hangs() {
    let world = World::new(2, 64 * MIB);
    let len = 4 * MIB;
    world.put(b"both", &bytes(1, len)).unwrap();
    let target = world.filled(&vec![0; len]);
    let gate = world.stream.gate().unwrap();
    let gets = world.store.get_on(&world.stream, [(&b"both"[..], (&target).into())]).unwrap();
    let put = world.store.put_on(&world.stream, b"new", &target, &PutOptions::default()).unwrap();
    world.drives[1].gone.store(true, Ordering::SeqCst);
    gate.open();
    let lookup = gets.wait().pop().unwrap().unwrap();
    assert!(matches!(lookup, Lookup::Miss(MissReason::DriveGone { drive: 1 })), "{lookup:?}");
    // The host puts it again, on the drive that is left.
    put.wait().unwrap();
    assert!(world.get(b"new", len).0.is_hit());
    assert_eq!(world.store.stats().puts_retried, 1);
    // The object is kept for the drive's return.
    assert!(world.store.contains(b"both"));
    let (lookup, _) = world.get(b"both", len);
    assert!(matches!(lookup, Lookup::Miss(MissReason::DriveGone { drive: 1 })), "{lookup:?}");
}

#[test]
fn a_failed_write_fails_the_put_and_frees_its_space() {
    let world = World::new(1, 16 * MIB);
    world.put(b"a", &bytes(1, 1000)).unwrap();
    let used = world.store.stats().used_bytes;
    world.drives[0].fail_writes.store(true, Ordering::SeqCst);
    let failed = world.put(b"b", &bytes(2, MIB)).unwrap_err();
    assert!(matches!(failed, StoreError::Io(_)), "{failed:?}");
    assert_eq!((world.store.stats().used_bytes, world.store.contains(b"b")), (used, false));
    world.drives[0].fail_writes.store(false, Ordering::SeqCst);
    world.put(b"b", &bytes(3, 1000)).unwrap();
    world.assert_gets(b"b", 3, 1000);
}

#[test]
fn gets_and_puts_that_are_dropped_hold_space_and_memory_until_their_io_has_ended() {
    let world = World::new(1, 16 * MIB);
    let len = MIB;
    put(&world.store, b"k", 1, len);
    let target = world.filled(&vec![7; len]);
    let gate = world.stream.gate().unwrap();
    let gets = world.store.get_on(&world.stream, [(&b"k"[..], (&target).into())]).unwrap();
    let put = world.store.put_on(&world.stream, b"new", &target, &PutOptions::default()).unwrap();
    drop((gets, put));
    world.store.remove(b"k", crate::Durability::Sync).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(world.store.stats().used_bytes >= 2 * len as u64, "nothing is free yet");
    // Its memory is the caller's to drop.
    drop(target);
    gate.open();
    until(|| world.store.stats().used_bytes == 0);
    assert!(!world.store.contains(b"new"));
    // The key is free again.
    world.put(b"new", &bytes(2, 100)).unwrap();
}

#[test]
fn a_stream_that_does_not_pass_in_time_makes_misses_and_errors_and_no_wrong_bytes() {
    let (drives, store) = fresh(1, 16 * MIB);
    drop(store);
    let options = OpenOptions { io_deadline: Duration::from_millis(50), ..quiet() };
    let world = World::of(drives.clone(), Store::open(engines(&drives), options).unwrap());
    world.put(b"warm", &bytes(2, 100)).unwrap();
    let len = 200_000;
    put(&world.store, b"k", 1, len);
    let target = world.filled(&vec![7; len]);
    let gate = world.stream.gate().unwrap();
    let gets = world.store.get_on(&world.stream, [(&b"k"[..], (&target).into())]).unwrap();
    let late = world.store.put_on(&world.stream, b"new", &target, &PutOptions::default()).unwrap();
    let lookup = gets.wait().pop().unwrap().unwrap();
    assert!(matches!(&lookup, Lookup::Miss(MissReason::Unfinished { .. })), "{lookup:?}");
    assert!(late.wait().is_err());
    let mut got = vec![0; len];
    target.copy_out(0, &mut got).unwrap();
    assert!(got.iter().all(|&byte| byte == 7));
    assert!(!world.store.contains(b"new") && world.store.contains(b"k"));
    gate.open();
    until(|| world.store.stats().used_bytes < 300_000);
    world.assert_gets(b"k", 1, len);
}

#[test]
fn a_gpu_without_memory_that_drives_reach_is_served_by_the_host() {
    let (drives, store) = fresh(1, 16 * MIB);
    // Too little for a window, and none of host memory.
    let options = gcos_cuda::PlayedOptions { memory_bytes: 1 << 20, ..Default::default() };
    let gpu = Gpu::played_with(options);
    let stream = Stream::new(&gpu).unwrap();
    let world = World { drives, store, gpu, stream };
    put(&world.store, b"k", 1, 100_000);
    match world.store.device_buffer(&world.gpu, 100_000) {
        // Where host memory takes the place of the GPU's, everything goes on.
        Ok(_) => world.assert_gets(b"k", 1, 100_000),
        Err(error) => assert!(matches!(error, StoreError::Invalid { .. }), "{error:?}"),
    }
}

#[test]
fn closing_ends_the_use_of_the_drives_by_the_gpu() {
    let (world, engines) = faulty_world(1, 1);
    world.put(b"k", &bytes(1, 1000)).unwrap();
    assert_eq!(world.store.device_paths(&world.gpu).len(), 1);
    let World { store, stream, .. } = world;
    store.close().unwrap();
    let memory = engines[0].memory().alloc(4096, 4096).unwrap();
    let transfer = DeviceTransfer::read(0, memory.as_slice());
    let refused = engines[0].start(&stream, vec![transfer], SOON).unwrap_err();
    assert_eq!(refused.kind, IoErrorKind::Gone);
}
