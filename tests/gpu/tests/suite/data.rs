//! Data arrives where it belongs.

use std::sync::Arc;
use std::time::Duration;

use gcos_cuda::{DeviceSlice, Gpu, Rung};
use gcos_engine::device::{DeviceEngine, DeviceTransfer, Doorbell, Driver};
use gcos_engine::{DoorbellChoice, Engine, Extent, Op};

use super::rig::{Choice, LONG, Rig, all_good, content, poll, random, run};

pub(crate) fn what_is_written_is_read_by_the_gpu_and_by_the_host(gpu: &Arc<Gpu>) {
    for lba_bytes in [512, 4096] {
        let rig = Rig::new(gpu, Choice { lba_bytes, ..Choice::default() });
        let path = rig.engine.path();
        assert!(matches!(path.driver, Driver::Gpu { queue_pairs: 2, queue_depth: 64 }), "{path}");
        let found = rig.host.device(gpu).unwrap();
        assert!(found.gpu().same(gpu));
        for (round, len) in (0..).zip([4096, 8192, 12_288, 128 << 10, (1 << 20) + 4096]) {
            let (source, bytes) = rig.random(len, round);
            let at = round * (4 << 20);
            all_good(&rig.run(vec![DeviceTransfer::write(at, source, false)], LONG));
            assert!(rig.medium(at, len) == bytes, "{len} bytes on the medium");
            let target = rig.alloc(len);
            all_good(&rig.run(vec![DeviceTransfer::read(at, target.clone())], LONG));
            assert!(content(&target) == bytes, "{len} bytes in the GPU's memory");
        }
        let stats = rig.engine.stats();
        assert_eq!((stats.batches, stats.by_host, stats.timeouts, stats.bounced), (10, 0, 0, 0));
        assert_eq!((stats.pairs_made, stats.pairs_deleted), (2, 0));
    }
}

/// Cuts memory into pieces of lengths that `length` gives, and mixes them; the last one stays the last.
fn cut(
    slice: &DeviceSlice,
    rng: &mut fastrand::Rng,
    mut length: impl FnMut(&mut fastrand::Rng) -> usize,
) -> Vec<DeviceSlice> {
    let (mut pieces, mut at) = (Vec::new(), 0);
    while at < slice.len() {
        let len = length(rng).min(slice.len() - at);
        pieces.push(slice.slice(at, len).unwrap());
        at += len;
    }
    let last = pieces.len() - 1;
    rng.shuffle(&mut pieces[..last]);
    pieces
}

/// The bytes of pieces, in their order.
fn joined(pieces: &[DeviceSlice]) -> Vec<u8> {
    pieces.iter().flat_map(content).collect()
}

fn random_cuts(gpu: &Arc<Gpu>, choice: Choice, unit: usize, seed: u64) -> Rig {
    let lba = choice.lba_bytes as usize;
    let rig = Rig::new(gpu, choice);
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..12 {
        let blocks = rng.usize(1..400);
        let len = blocks * lba;
        let (source, target) = (rig.random(len, seed + round).0, rig.alloc(len));
        let mut extents = Vec::new();
        let (mut left, mut at) = (blocks, 0);
        while left > 0 {
            let take = rng.usize(1..=left);
            extents.push(Extent { offset: at, len: (take * lba) as u64 });
            // A gap between extents.
            at += ((take + rng.usize(0..3)) * lba) as u64;
            left -= take;
        }
        // Backwards, so that neither memory nor medium is one run.
        extents.reverse();
        let longest = (len / unit / 3).max(1) + 1;
        let pieces = cut(&source, &mut rng, |rng| rng.usize(1..longest) * unit);
        let bytes = joined(&pieces);
        let op = Op::Write { fua: rng.bool() };
        let write = DeviceTransfer { op, extents: extents.clone().into(), segments: pieces.into() };
        all_good(&rig.run(vec![write], LONG));
        let pieces_of_target = cut(&target, &mut rng, |rng| rng.usize(1..longest) * unit);
        let segments = pieces_of_target.iter().cloned().collect();
        let read = DeviceTransfer { op: Op::Read, extents: extents.into(), segments };
        all_good(&rig.run(vec![read], LONG));
        assert!(joined(&pieces_of_target) == bytes, "round {round} of seed {seed}: {len} bytes");
    }
    rig
}

pub(crate) fn extents_and_segments_are_cut_independently_of_each_other(gpu: &Arc<Gpu>) {
    for (seed, lba_bytes) in [(1, 512), (2, 4096)] {
        // Whole pages: PRP lists.
        let rig =
            random_cuts(gpu, Choice { lba_bytes, sgl: false, ..Choice::default() }, 4096, seed);
        assert_eq!(rig.engine.stats().bounced, 0);
        // Anything: SGLs.
        let rig = random_cuts(gpu, Choice { lba_bytes, ..Choice::default() }, 512, seed + 10);
        assert_eq!(rig.engine.stats().bounced, 0);
    }
}

pub(crate) fn memory_that_no_pointer_can_name_is_bounced(gpu: &Arc<Gpu>) {
    let rig = random_cuts(gpu, Choice { sgl: false, ..Choice::default() }, 4, 3);
    assert!(rig.engine.stats().bounced > 0);
}

pub(crate) fn a_batch_larger_than_the_queue_goes_in_rounds(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice { depth: 8, pairs: 3, ..Choice::default() });
    let (source, bytes) = rig.random(2 << 20, 4);
    let each = |f: &dyn Fn(u64, DeviceSlice) -> DeviceTransfer, memory: &DeviceSlice| {
        let piece = |n: usize| memory.slice(n * 4096, 4096).unwrap();
        (0..512).map(|n| f(n as u64 * 8192, piece(n))).collect::<Vec<_>>()
    };
    let results =
        rig.run(each(&|at, piece| DeviceTransfer::write(at, piece, false), &source), LONG);
    assert_eq!(results.len(), 512);
    all_good(&results);
    let target = rig.alloc(2 << 20);
    all_good(&rig.run(each(&DeviceTransfer::read, &target), LONG));
    assert!(content(&target) == bytes);
    let stats = rig.engine.stats();
    assert_eq!((stats.batches, stats.commands, stats.bytes), (2, 1024, 4 << 20));
}

pub(crate) fn transfers_keep_the_order_of_their_stream(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice::default());
    let stream = rig.stream();
    let len = 64 << 10;
    let (first, second) = (rig.alloc(len), rig.alloc(len));
    let mut tickets = Vec::new();
    let mut last = 0;
    // Nobody waits in between: each step reads what the step before it has made.
    for round in 0..20_u8 {
        stream.fill(&first, round).unwrap();
        let write = vec![DeviceTransfer::write(1 << 20, first.clone(), false)];
        tickets.push(rig.engine.start(&stream, write, LONG).unwrap());
        stream.fill(&first, 0xEE).unwrap();
        let read = vec![DeviceTransfer::read(1 << 20, second.clone())];
        tickets.push(rig.engine.start(&stream, read, LONG).unwrap());
        let keep = rig.alloc(len);
        stream.copy(&second, &keep).unwrap();
        stream.copy(&keep, &first).unwrap();
        last = round;
    }
    for ticket in tickets {
        all_good(&poll(ticket));
    }
    stream.synchronize(LONG).unwrap();
    assert!(content(&first).iter().all(|&byte| byte == last));
}

pub(crate) fn many_streams_at_once_keep_their_data_apart(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice { pairs: 3, ..Choice::default() });
    std::thread::scope(|scope| {
        for thread in 0..6_u64 {
            let rig = &rig;
            scope.spawn(move || {
                let stream = rig.stream();
                for round in 0..15 {
                    let len = 4096 * (1 + (round as usize * 7 + thread as usize) % 40);
                    let (source, bytes) = rig.random(len, thread * 1000 + round);
                    let at = thread * (8 << 20);
                    let write = vec![DeviceTransfer::write(at, source, false)];
                    all_good(&run(&*rig.engine, &stream, write, LONG));
                    let target = rig.alloc(len);
                    let read = vec![DeviceTransfer::read(at, target.clone())];
                    all_good(&run(&*rig.engine, &stream, read, LONG));
                    assert!(content(&target) == bytes, "thread {thread}, round {round}");
                }
            });
        }
    });
    assert_eq!(rig.engine.stats().timeouts, 0);
}

pub(crate) fn doorbells_are_rung_directly_or_forwarded(gpu: &Arc<Gpu>) {
    for (doorbells, expected) in
        [(DoorbellChoice::Auto, Doorbell::Memory), (DoorbellChoice::Forwarded, Doorbell::Forwarded)]
    {
        let rig = Rig::new(gpu, Choice { doorbells, ..Choice::default() });
        assert_eq!(rig.engine.path().doorbell, Some(expected), "{}", rig.engine.path());
        for round in 0..20 {
            let (source, bytes) = rig.random(16 << 10, round);
            all_good(&rig.run(vec![DeviceTransfer::write(0, source, false)], LONG));
            assert!(rig.medium(0, 16 << 10) == bytes);
        }
        let forwarded = rig.engine.stats().doorbells_forwarded;
        assert_eq!(forwarded > 0, expected == Doorbell::Forwarded, "{forwarded}");
    }
}

pub(crate) fn queues_may_lie_in_host_memory(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice { rungs: vec![Rung::Staging], ..Choice::default() });
    assert_eq!(rig.engine.path().memory, Rung::Staging);
    let (source, bytes) = rig.random(300 << 10, 5);
    all_good(&rig.run(vec![DeviceTransfer::write(4096, source, false)], LONG));
    let target = rig.alloc(300 << 10);
    all_good(&rig.run(vec![DeviceTransfer::read(4096, target.clone())], LONG));
    assert!(content(&target) == bytes);
}

pub(crate) fn writes_with_force_unit_access_survive_a_power_cut(gpu: &Arc<Gpu>) {
    let rig = Rig::new(gpu, Choice { write_cache: true, ..Choice::default() });
    let len = 256 << 10;
    let (source, bytes) = rig.random(len, 6);
    all_good(&rig.run(vec![DeviceTransfer::write(0, source.clone(), true)], LONG));
    assert_eq!(rig.emulator.dirty_bytes(), 0, "nothing is left in the cache");
    all_good(&rig.run(vec![DeviceTransfer::write(1 << 20, source, false)], LONG));
    assert!(rig.emulator.dirty_bytes() > 0, "the cache holds what came without it");
    rig.emulator.power_cut(7);
    rig.emulator.power_on();
    rig.controller.reset().unwrap();
    assert!(rig.medium(0, len) == bytes);
    // And the GPU's queues work again.
    let target = rig.alloc(len);
    all_good(&rig.run(vec![DeviceTransfer::read(0, target.clone())], Duration::from_secs(5)));
    assert!(content(&target) == bytes);
    assert!(content(&target) != random(len, 0));
}
