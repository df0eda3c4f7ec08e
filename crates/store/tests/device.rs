//! The store over GPU queues on software controllers. On a GPU that host threads play; with the feature
//! `gpu`, on a real one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::collections::HashMap;
use std::time::Duration;

use gcos_emulator::{Action, Rule};
use gcos_engine::device::{DeviceSlice, ForeignMemory, Stream};
use gcos_store::{
    DevicePut, DeviceRun, DeviceSegment, Durability, IfExists, LayerSink, Lookup, MissReason,
    PutOptions, StoreError,
};

use rig::{Rig, bytes, gpu};

const MIB: usize = 1 << 20;
const REPLACE: PutOptions = PutOptions {
    durability: Durability::Sync,
    if_exists: IfExists::Replace,
    ttl: None,
    pin: false,
};

/// GPU memory in pages that lie in any order, some of them memory that drives do not reach.
struct Pages {
    slices: Vec<DeviceSlice>,
    run: DeviceRun,
}

impl Pages {
    fn new(rig: &Rig, rng: &mut fastrand::Rng, len: usize) -> Self {
        let page = [4096, 16_384, 65_536, 999, 4100][rng.usize(..5)];
        let buffer = rig.store.device_buffer(&rig.gpu, len.next_multiple_of(page)).unwrap();
        let mut order: Vec<usize> = (0..len.div_ceil(page)).collect();
        rng.shuffle(&mut order);
        let foreign = rng.u8(..4) == 0;
        let mut left = len;
        let mut slices = Vec::new();
        for index in order {
            let take = page.min(left);
            slices.push(buffer.slice(index * page, take).unwrap());
            left -= take;
        }
        let segment = |slice: &DeviceSlice| match foreign {
            true => {
                let (address, len) = (slice.device_address(), slice.len());
                DeviceSegment::Foreign(ForeignMemory::check(&rig.gpu, address, len).unwrap())
            }
            false => DeviceSegment::Reached(slice.clone()),
        };
        let run = slices.iter().map(segment).collect();
        Self { slices, run }
    }

    fn fill(&self, payload: &[u8]) {
        let mut at = 0;
        for slice in &self.slices {
            slice.copy_in(0, &payload[at..at + slice.len()]).unwrap();
            at += slice.len();
        }
    }

    fn read(&self) -> Vec<u8> {
        let mut out = vec![0; self.slices.iter().map(|slice| slice.len()).sum()];
        let mut at = 0;
        for slice in &self.slices {
            slice.copy_out(0, &mut out[at..at + slice.len()]).unwrap();
            at += slice.len();
        }
        out
    }
}

fn put(rig: &Rig, stream: &Stream, key: &[u8], payload: &[u8], pages: &Pages) {
    pages.fill(payload);
    rig.store.put_on(stream, key, pages.run.clone(), &REPLACE).unwrap().wait().unwrap();
}

fn get(rig: &Rig, stream: &Stream, key: &[u8], pages: &Pages) -> Lookup {
    let gets = rig.store.get_on(stream, [(key, pages.run.clone())]).unwrap();
    gets.wait().pop().unwrap().unwrap()
}

/// Random puts and gets by GPU and host, compared with a model.
fn client(rig: &Rig, seed: u64, steps: u64, most: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let stream = Stream::new(&rig.gpu).unwrap();
    let mut model: HashMap<u8, (u64, usize)> = HashMap::new();
    for step in 0..steps {
        let id = rng.u8(..5);
        let key = [seed as u8, id];
        let at = format!("seed {seed}, step {step}");
        match (rng.u8(..8), model.get(&id).copied()) {
            (0..=2, _) | (_, None) => {
                let most = [5000, 200_000, most][rng.usize(..3)];
                let len = rng.usize(1..=most);
                let content = seed * 1_000_000 + step;
                let pages = Pages::new(rig, &mut rng, len);
                put(rig, &stream, &key, &bytes(content, len), &pages);
                model.insert(id, (content, len));
            }
            (3, Some((content, len))) => {
                let got = rig.store.get_vec(&key).unwrap();
                assert!(got.is_ok_and(|got| got == bytes(content, len)), "host, {at}");
            }
            (4, Some((content, len))) => layers(rig, &stream, &mut rng, &key, (content, len)),
            (_, Some((content, len))) => {
                let pages = Pages::new(rig, &mut rng, len);
                let lookup = get(rig, &stream, &key, &pages);
                assert!(lookup.is_hit(), "{lookup:?}, {at}");
                assert!(pages.read() == bytes(content, len), "{at}");
            }
        }
    }
}

/// Reads an object layer by layer.
fn layers(
    rig: &Rig,
    stream: &Stream,
    rng: &mut fastrand::Rng,
    key: &[u8],
    (content, len): (u64, usize),
) {
    let step = len.div_ceil(rng.usize(1..9)).max(1);
    let starts: Vec<usize> = (0..len).step_by(step).collect();
    let pages: Vec<_> =
        starts.iter().map(|start| Pages::new(rig, rng, step.min(len - start))).collect();
    let sinks = starts.iter().zip(&pages);
    let sinks = sinks.map(|(start, pages)| LayerSink::new(*start as u32, pages.run.clone()));
    let whole = bytes(content, len);
    let prefetch = [1, 2, 4][rng.usize(..3)];
    let layers = rig.store.get_layers(stream, &[key], sinks.collect(), prefetch).unwrap();
    let mut seen = 0;
    for layer in layers {
        assert!(layer.is_hit(), "{layer:?}");
        let start = starts[layer.index];
        let pages = &pages[layer.index];
        let got = pages.read();
        assert!(got == whole[start..start + got.len()], "layer {}", layer.index);
        seen += 1;
    }
    assert_eq!(seen, starts.len());
}

#[test]
fn objects_in_pages_go_both_ways_by_gpu_queues_and_by_the_host() {
    let rig = Rig::new(&gpu(), 2, 128 * MIB);
    for seed in 1..4 {
        client(&rig, seed, 40, 6 * MIB);
    }
    let stats = rig.store.stats();
    assert_eq!(stats.device_fallbacks, 0, "{stats:?}");
    assert!(stats.device_gets > 10 && stats.device_puts > 10, "{stats:?}");
    for engine in rig.engines.iter().flatten() {
        assert!(engine.stats().commands > 0);
        assert_eq!(engine.stats().by_host, 0);
    }
}

#[test]
fn a_drive_whose_queues_no_gpu_drives_works_beside_one() {
    let rig = Rig::mixed(&gpu(), 128 * MIB);
    client(&rig, 7, 30, 6 * MIB);
    assert_eq!(rig.store.stats().device_fallbacks, 0);
    let paths = rig.store.device_paths(&rig.gpu);
    assert!(paths[0].contains("by the GPU") && paths[1].contains("by the host"), "{paths:?}");
}

#[test]
fn many_streams_at_once_keep_their_objects_apart() {
    let rig = Rig::new(&gpu(), 2, 128 * MIB);
    std::thread::scope(|scope| {
        for seed in 20..24 {
            let rig = &rig;
            scope.spawn(move || client(rig, seed, 15, MIB));
        }
    });
    assert_eq!(rig.store.stats().device_fallbacks, 0);
}

#[test]
fn lost_completions_and_errors_of_a_drive_never_give_wrong_bytes() {
    let rig = Rig::new(&gpu(), 1, 64 * MIB);
    let stream = Stream::new(&rig.gpu).unwrap();
    let mut rng = fastrand::Rng::with_seed(5);
    let len = 500_000;
    let pages = Pages::new(&rig, &mut rng, len);
    put(&rig, &stream, b"k", &bytes(1, len), &pages);
    // Read is opcode 2, write 1.
    for action in
        [Action::LoseCompletion, Action::CorruptRead { bits: 3 }, Action::Misdirect { blocks: 300 }]
    {
        let sink = Pages::new(&rig, &mut rng, len);
        rig.emulators[0].faults().add(Rule::io(action).opcode(2).times(1));
        let lookup = get(&rig, &stream, b"k", &sink);
        assert!(lookup.is_hit(), "{action:?}: {lookup:?}");
        assert!(sink.read() == bytes(1, len), "{action:?}");
    }
    let rule = Rule::io(Action::LoseCompletion).opcode(1).times(1);
    rig.emulators[0].faults().add(rule);
    let source = Pages::new(&rig, &mut rng, len);
    put(&rig, &stream, b"other", &bytes(2, len), &source);
    assert_eq!(rig.store.get_vec(b"other").unwrap().unwrap(), bytes(2, len));
    assert!(rig.store.stats().device_fallbacks >= 2, "{:?}", rig.store.stats());
}

#[test]
fn a_controller_that_is_removed_ends_everything_and_nothing_acknowledged_is_lost() {
    let gpu = gpu();
    let rig = Rig::new(&gpu, 1, 64 * MIB);
    let stream = Stream::new(&gpu).unwrap();
    let mut rng = fastrand::Rng::with_seed(6);
    let pages = Pages::new(&rig, &mut rng, 300_000);
    put(&rig, &stream, b"k", &bytes(1, 300_000), &pages);
    rig.emulators[0].remove();
    let lookup = get(&rig, &stream, b"k", &pages);
    assert!(matches!(lookup, Lookup::Miss(MissReason::DriveGone { drive: 0 })), "{lookup:?}");
    let failed = rig.store.put_on(&stream, b"x", pages.run.clone(), &REPLACE);
    assert!(failed.and_then(DevicePut::wait).is_err());
    drop(pages);
    let rig = rig.reopen();
    let pages = Pages::new(&rig, &mut rng, 300_000);
    assert!(get(&rig, &stream, b"k", &pages).is_hit());
    assert!(pages.read() == bytes(1, 300_000));
}

#[test]
fn what_a_stream_put_and_awaited_survives_power_cuts() {
    let gpu = gpu();
    let mut rig = Rig::new(&gpu, 1, 24 * MIB);
    let mut model: HashMap<u8, (u64, usize)> = HashMap::new();
    for round in 0..8u64 {
        let stream = Stream::new(&gpu).unwrap();
        let mut rng = fastrand::Rng::with_seed(round);
        for (id, (content, len)) in &model {
            let pages = Pages::new(&rig, &mut rng, *len);
            let lookup = get(&rig, &stream, &[*id], &pages);
            assert!(lookup.is_hit(), "round {round}, key {id}: {lookup:?}");
            assert!(pages.read() == bytes(*content, *len), "round {round}, key {id}");
        }
        rig.emulators[0].cut_power_at_write(rng.u64(1..60), rng.u64(..));
        for step in 0..60 {
            let (id, content) = (rng.u8(..8), round * 1000 + step);
            let len = rng.usize(1..60_000);
            let pages = Pages::new(&rig, &mut rng, len);
            pages.fill(&bytes(content, len));
            let put = rig.store.put_on(&stream, &[id], pages.run.clone(), &REPLACE);
            match put.and_then(DevicePut::wait) {
                Ok(_) => drop(model.insert(id, (content, len))),
                Err(_) => {
                    model.remove(&id);
                    break;
                }
            }
        }
        rig.emulators[0].power_cut(rng.u64(..));
        rig = rig.reopen();
    }
}

#[test]
fn handles_that_are_dropped_let_go_of_everything_in_the_end() {
    let rig = Rig::new(&gpu(), 2, 64 * MIB);
    let stream = Stream::new(&rig.gpu).unwrap();
    let mut rng = fastrand::Rng::with_seed(8);
    let pages = Pages::new(&rig, &mut rng, 3 * MIB);
    put(&rig, &stream, b"k", &bytes(1, 3 * MIB), &pages);
    for i in 0..10u8 {
        drop(rig.store.get_on(&stream, [(&b"k"[..], pages.run.clone())]).unwrap());
        drop(rig.store.put_on(&stream, &[i], pages.run.clone(), &REPLACE).unwrap());
    }
    rig.store.remove(b"k", Durability::Sync).unwrap();
    drop(pages);
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while rig.store.stats().used_bytes > 0 {
        assert!(std::time::Instant::now() < end, "{:?}", rig.store.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(rig.store.stats().objects, 0);
    let missing = rig.store.get_vec(b"k").unwrap();
    assert!(matches!(missing, Err(MissReason::Absent)));
}

#[test]
fn a_full_pool_evicts_for_puts_of_a_stream_and_says_when_it_cannot() {
    let rig = Rig::new(&gpu(), 1, 24 * MIB);
    let stream = Stream::new(&rig.gpu).unwrap();
    let mut rng = fastrand::Rng::with_seed(9);
    for i in 0..60u8 {
        let pages = Pages::new(&rig, &mut rng, MIB);
        put(&rig, &stream, &[i], &bytes(i.into(), MIB), &pages);
    }
    assert!(rig.store.stats().evicted > 20);
    let pages = Pages::new(&rig, &mut rng, MIB);
    assert!(get(&rig, &stream, &[59], &pages).is_hit());
    assert!(pages.read() == bytes(59, MIB));
    let buffer = Pages::new(&rig, &mut rng, 23 * MIB);
    let full = rig.store.put_on(&stream, b"large", buffer.run.clone(), &REPLACE);
    assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
}
