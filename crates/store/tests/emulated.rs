//! The store over the NVMe driver and the software controller: real protocol, real power cuts.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gcos_emulator::{Action, AddressSpace, Config, Emulator, Medium, Rule, Run, WriteCacheConfig};
use gcos_engine::{Engine, HostQueueEngine, HostQueueOptions};
use gcos_layout::media::ZoneChunks;
use gcos_nvme::Options;
use gcos_store::{
    FormatOptions, IfExists, MissReason, OpenOptions, PutOptions, Store, StoreError, format,
};

const MIB: u64 = 1 << 20;

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut out);
    out
}

fn config(medium: &Arc<Medium>, run: Run) -> Config {
    Config {
        write_cache: Some(WriteCacheConfig { capacity_bytes: 4 << 20, seed: 7 }),
        run,
        ..Config::new(Arc::clone(medium))
    }
}

fn engine(emulator: &Arc<Emulator>) -> Arc<dyn Engine> {
    let controller = Options {
        io_queue_pairs: 2,
        queue_depth: 64,
        abort_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let options = HostQueueOptions { controller, nsid: 1 };
    Arc::new(HostQueueEngine::open(Arc::clone(emulator).function(), options).unwrap())
}

fn quiet() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

fn small() -> FormatOptions {
    let chunks = ZoneChunks { superblock: 4096, meta: 65_536, data: 512 << 10 };
    FormatOptions { chunks, ..FormatOptions::default() }
}

/// Puts until the power goes at a random write; then what was acknowledged must be there. Returns how
/// many acknowledged objects were lost or wrong.
fn power_cut_round(
    medium: &Arc<Medium>,
    seed: u64,
    lie: bool,
    model: &mut HashMap<u64, u64>,
) -> usize {
    let mut rng = fastrand::Rng::with_seed(seed);
    let emulator = Emulator::new(config(medium, Run::Threads)).unwrap();
    let store = match Store::open(vec![engine(&emulator)], quiet()) {
        Ok(store) => store,
        // Loss of metadata is noticed by refusing to open.
        Err(error) => {
            assert!(lie, "{error:?}");
            return 1;
        }
    };
    let mut bad = 0;
    model.retain(|key, seed| {
        let good = store.get_vec(&key.to_le_bytes()).unwrap().is_ok_and(|got| {
            let len = got.len();
            got == bytes(*seed, len)
        });
        bad += usize::from(!good);
        good
    });
    if lie {
        // Flush is opcode 0 of the NVM command set.
        emulator.faults().add(Rule::io(Action::Lie).opcode(0));
    }
    emulator.cut_power_at_write(rng.u64(1..120), rng.u64(..));
    let replace = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
    for step in 0..200u64 {
        let key = rng.u64(0..16);
        let payload_seed = seed * 1000 + step;
        let payload = bytes(payload_seed, rng.usize(1..60_000));
        match store.put(&key.to_le_bytes(), payload.as_slice(), &replace) {
            Ok(_) => drop(model.insert(key, payload_seed)),
            Err(_) => {
                // It may or may not have become durable; the next put of the key decides.
                model.remove(&key);
                break;
            }
        }
    }
    drop(store);
    emulator.power_cut(rng.u64(..));
    bad
}

fn power_cuts(rounds: u64, lie: bool) -> usize {
    let medium = Medium::ram(24 * MIB).unwrap();
    let emulator = Emulator::new(config(&medium, Run::Threads)).unwrap();
    format(&[engine(&emulator)], &small()).unwrap();
    drop(emulator);
    let mut model = HashMap::new();
    (0..rounds).map(|seed| power_cut_round(&medium, seed + 1, lie, &mut model)).sum()
}

#[test]
fn acknowledged_puts_survive_power_cuts_of_the_controller() {
    assert_eq!(power_cuts(40, false), 0);
}

#[test]
fn a_drive_that_lies_about_flushes_is_caught_so_the_power_cuts_bite() {
    assert!(power_cuts(40, true) > 0);
}

/// Runs a store on a stepped controller and tells everything that shows: results and time.
fn stepped_history(seed: u64) -> Vec<String> {
    let medium = Medium::ram(24 * MIB).unwrap();
    let emulator = Emulator::new(config(&medium, Run::Stepped { seed })).unwrap();
    let drives = vec![engine(&emulator)];
    format(&drives, &small()).unwrap();
    let store = Store::open(drives, quiet()).unwrap();
    let mut history = Vec::new();
    for i in 0..40u64 {
        let len = 1 + (i as usize * 7919) % 200_000;
        let put =
            store.put(&(i % 10).to_le_bytes(), bytes(i, len).as_slice(), &PutOptions::default());
        history.push(format!("{put:?}"));
        let got = store.get_vec(&(i % 7).to_le_bytes()).unwrap();
        history.push(format!("{:?}", got.map(|b| gcos_layout::checksum::crc32c(&b))));
    }
    store.checkpoint().unwrap();
    history.push(format!("{:?} {:?}", gcos_hw::Function::now(&*emulator), emulator.counts()));
    history
}

#[test]
fn a_stepped_controller_gives_the_same_history_for_the_same_seed() {
    let first = stepped_history(3);
    assert_eq!(first, stepped_history(3));
    assert_ne!(first.last(), stepped_history(4).last(), "another seed takes other steps");
}

#[test]
fn lost_completions_and_media_errors_end_as_misses_and_errors_in_time() {
    let medium = Medium::ram(24 * MIB).unwrap();
    let emulator = Emulator::new(config(&medium, Run::Threads)).unwrap();
    let drives = vec![engine(&emulator)];
    format(&drives, &small()).unwrap();
    let options = OpenOptions { io_deadline: Duration::from_millis(300), ..quiet() };
    let store = Store::open(drives, options).unwrap();
    for i in 0..4u64 {
        store.put(&i.to_le_bytes(), bytes(i, 100_000).as_slice(), &PutOptions::default()).unwrap();
    }
    // A read whose completion is lost: aborted or reset, a miss, and the store goes on.
    emulator.faults().add(Rule::io(Action::LoseCompletion).opcode(2).times(1));
    let lost = store.get_vec(&0u64.to_le_bytes()).unwrap();
    assert!(matches!(lost, Err(MissReason::Io { .. })), "{lost:?}");
    assert_eq!(store.get_vec(&0u64.to_le_bytes()).unwrap().unwrap(), bytes(0, 100_000));
    // A bit flipped on the way is seen, and the second read is good.
    emulator.faults().add(Rule::io(Action::CorruptRead { bits: 1 }).opcode(2).times(1));
    assert_eq!(store.get_vec(&1u64.to_le_bytes()).unwrap().unwrap(), bytes(1, 100_000));
    // A write that lands elsewhere is seen when it is read.
    let misdirect =
        emulator.faults().add(Rule::io(Action::Misdirect { blocks: 300 }).opcode(1).times(1));
    store.put(b"astray", bytes(9, 4096).as_slice(), &PutOptions::default()).unwrap();
    assert_eq!(emulator.faults().applied(misdirect), Some(1));
    let astray = store.get_vec(b"astray").unwrap();
    assert!(matches!(astray, Err(MissReason::Damaged { .. })), "{astray:?}");
}

#[test]
fn a_controller_that_is_removed_ends_everything_and_nothing_acknowledged_is_lost() {
    let medium = Medium::ram(24 * MIB).unwrap();
    let emulator = Emulator::new(config(&medium, Run::Threads)).unwrap();
    let drives = vec![engine(&emulator)];
    format(&drives, &small()).unwrap();
    let store = Store::open(drives, quiet()).unwrap();
    store.put(b"k", bytes(1, 300_000).as_slice(), &PutOptions::default()).unwrap();
    emulator.remove();
    assert!(matches!(store.get_vec(b"k").unwrap(), Err(MissReason::DriveGone { drive: 0 })));
    assert!(store.put(b"x", b"y".as_slice(), &PutOptions::default()).is_err());
    drop(store);
    drop(emulator);
    let emulator = Emulator::new(config(&medium, Run::Threads)).unwrap();
    let store = Store::open(vec![engine(&emulator)], quiet()).unwrap();
    assert_eq!(store.get_vec(b"k").unwrap().unwrap(), bytes(1, 300_000));
}

#[test]
fn four_controllers_in_one_address_space_hold_one_striped_object() {
    let space = AddressSpace::new().unwrap();
    let emulators: Vec<_> = (0..4)
        .map(|_| {
            let medium = Medium::ram(24 * MIB).unwrap();
            Emulator::new(Config { space: Some(space.clone()), ..Config::new(medium) }).unwrap()
        })
        .collect();
    let drives: Vec<_> = emulators.iter().map(engine).collect();
    format(&drives, &small()).unwrap();
    let store = Store::open(drives, OpenOptions::default()).unwrap();
    let len = 9 * MIB as usize + 12_345;
    let mut buffer = store.buffer(len).unwrap();
    buffer.bytes_mut().unwrap().copy_from_slice(&bytes(5, len));
    store.put(b"wide", &buffer, &PutOptions::default()).unwrap();
    assert_eq!(store.info(b"wide").unwrap().drives.len(), 4);
    buffer.bytes_mut().unwrap().fill(0);
    assert!(store.get(b"wide", &mut buffer).unwrap().is_hit());
    assert!(buffer.bytes_mut().unwrap() == bytes(5, len));
    for emulator in &emulators {
        assert!(emulator.counts().writes > 0);
    }
    store.close().unwrap();
}

#[test]
fn a_pool_of_512_byte_blocks_works_the_same() {
    let medium = Medium::ram(24 * MIB).unwrap();
    let namespaces = vec![gcos_emulator::Namespace { lba_bytes: 512, bytes: 24 * MIB }];
    let emulator = Emulator::new(Config { namespaces, ..config(&medium, Run::Threads) }).unwrap();
    let drives = vec![engine(&emulator)];
    assert_eq!(drives[0].geometry().lba_bytes, 512);
    format(&drives, &small()).unwrap();
    let store = Store::open(drives, quiet()).unwrap();
    for i in 0..50u64 {
        let len = 1 + i as usize * 9001;
        match store.put(&i.to_le_bytes(), bytes(i, len).as_slice(), &PutOptions::default()) {
            Ok(_) | Err(StoreError::Full { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    for i in 0..50u64 {
        if let Ok(got) = store.get_vec(&i.to_le_bytes()).unwrap() {
            assert!(got == bytes(i, 1 + i as usize * 9001));
        }
    }
}
