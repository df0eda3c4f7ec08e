//! The store on one file, moved to and from a GPU that host threads play by a stand-in for cuFile, or through
//! pinned memory.

use std::sync::Arc;
use std::time::Duration;

use gcos_cuda::{
    CuFileCount, DeviceMemory, Gpu, MemoryOptions, PlayedCuFile, PlayedOptions, Stream,
};
use gcos_engine::device::{Attached, CuFileUse, FileDeviceOptions, file_device};
use gcos_engine::{Engine, FileEngine, FileOptions};
use gcos_hw::kernel::{Direct, Target, TargetOptions, host_space};
use gcos_store::{
    DeviceRun, Durability, FormatOptions, IfExists, LayerSink, OpenOptions, PutOptions, Store,
    format,
};

const MIB: usize = 1 << 20;

fn sample(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u8(..)).collect()
}

#[test]
fn objects_come_and_go_many_at_a_time_wherever_the_gpus_memory_lies() {
    use CuFileUse::{Never, Require};
    for (way, windows, shared_queue) in [
        (Require, true, false),
        (Require, false, false),
        (Require, true, true),
        (Require, false, true),
        (Never, true, true),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(256 * MIB as u64).unwrap();
        let options = TargetOptions { direct: Direct::Prefer, read_only: false };
        let target = Target::open(file.path(), &options).unwrap();
        let space = host_space().unwrap();
        let engine = FileEngine::open(target, Arc::clone(&space), FileOptions::default()).unwrap();
        let gpu =
            Gpu::played_with(PlayedOptions { windows, shared_queue, ..PlayedOptions::default() });
        let memory = DeviceMemory::new(&gpu, &space, MemoryOptions::default()).unwrap();
        let played = PlayedCuFile::new().unwrap();
        let options = FileDeviceOptions {
            cufile: way,
            library: Some(played.path().to_owned()),
            ..FileDeviceOptions::default()
        };
        let drive = Attached::new(Arc::clone(&engine) as _);
        drive.attach(file_device(&engine, &memory, &options).unwrap());
        let drives = vec![drive as Arc<dyn Engine>];
        format(&drives, &FormatOptions::default()).unwrap();
        let options = OpenOptions { io_deadline: Duration::from_secs(5), ..OpenOptions::default() };
        let store = Store::open(drives, options).unwrap();
        let stream = Stream::new(&gpu).unwrap();

        for (count, len) in [(1, 64 << 10), (8, MIB), (8, 100_001)] {
            let keys: Vec<_> = (0..count).map(|n| format!("{len}-{n}").into_bytes()).collect();
            let buffers: Vec<_> = (0..count)
                .map(|n| {
                    let buffer = store.device_buffer(&gpu, len).unwrap();
                    buffer.copy_in(0, &sample(n, len)).unwrap();
                    buffer
                })
                .collect();
            let items = keys.iter().zip(&buffers).map(|(key, buffer)| (&key[..], buffer.into()));
            for result in store.put_many_on(&stream, items, &PutOptions::default()) {
                result.unwrap();
            }
            let check = || {
                for (n, buffer) in buffers.iter().enumerate() {
                    let mut got = vec![0; len];
                    buffer.copy_out(0, &mut got).unwrap();
                    assert!(got == sample(n as u64, len), "{len}: object {n}");
                    buffer.copy_in(0, &vec![0; len]).unwrap();
                }
            };
            check();
            let items = keys.iter().zip(&buffers).map(|(key, buffer)| (&key[..], buffer.into()));
            for lookup in store.get_on(&stream, items).unwrap().wait() {
                assert!(lookup.unwrap().is_hit());
            }
            check();
            let names: Vec<_> = keys.iter().map(|key| &key[..]).collect();
            let part = |layer: LayerSink, n: usize| layer.part(n, 0, &buffers[n]);
            let layer = (0..names.len()).fold(LayerSink::default(), part);
            for layer in store.get_layers(&stream, &names, vec![layer], 2).unwrap() {
                assert!(layer.is_hit(), "{layer:?}");
            }
            check();
        }
        // Again and again under the same keys, by several threads, as a measurement does.
        let replace = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
        let relaxed = PutOptions { durability: Durability::Relaxed, ..replace };
        let rounds = |thread: usize| {
            let stream = Stream::new(&gpu).unwrap();
            let (keys, all): (Vec<_>, _) = (
                (0..8).map(|n| [thread as u8, n]).collect(),
                store.device_buffer(&gpu, 8 * (64 << 10)).unwrap(),
            );
            let slices: Vec<_> =
                (0..8).map(|n| all.slice(n * (64 << 10), 64 << 10).unwrap()).collect();
            for round in 0..8 {
                let items = || {
                    let runs = slices.iter().map(|slice| DeviceRun::from(slice.clone()));
                    keys.iter().map(|key| &key[..]).zip(runs)
                };
                let options = if round % 2 == 0 { &relaxed } else { &replace };
                for result in store.put_many_on(&stream, items(), options) {
                    result.unwrap();
                }
                for lookup in store.get_on(&stream, items()).unwrap().wait() {
                    assert!(lookup.unwrap().is_hit());
                }
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let rounds = &rounds;
                scope.spawn(move || rounds(thread));
            }
        });
        let stats = store.stats();
        assert_eq!(stats.device_fallbacks, 0, "{stats:?}");
        let calls = [CuFileCount::Writes, CuFileCount::Reads].map(|calls| played.count(calls));
        assert_eq!(calls.map(|calls| calls > 0), [way == Require; 2]);
        store.close().unwrap();
    }
}
