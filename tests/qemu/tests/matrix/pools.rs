//! The store on four controllers of one machine.

use std::sync::Arc;

use gcos_check::{CheckOptions, check};
use gcos_engine::{Engine, HostQueueEngine, HostQueueOptions};
use gcos_layout::media::ZoneChunks;
use gcos_qemu_tests::machine::Machine;
use gcos_store::{Durability, FormatOptions, OpenOptions, PutOptions, Store, format};

use crate::rig::{MIB, PATIENCE, Shape, options};

fn engines(machine: &Machine) -> Vec<Arc<dyn Engine>> {
    let engine = |index| -> Arc<dyn Engine> {
        let options = HostQueueOptions { controller: options(), nsid: 1 };
        Arc::new(HostQueueEngine::open(machine.function(index).unwrap(), options).unwrap())
    };
    (0..machine.functions().len()).map(engine).collect()
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut out);
    out
}

fn open(machine: &Machine) -> Store {
    let options = OpenOptions { io_deadline: PATIENCE, ..OpenOptions::default() };
    Store::open(engines(machine), options).unwrap()
}

fn fsck(machine: &Machine) -> gcos_check::Report {
    let options = CheckOptions { data: true, ..CheckOptions::default() };
    let report = check(&engines(machine), &options, &mut |_| {}).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    report
}

#[test]
fn a_pool_of_four_controllers_keeps_striped_and_small_objects_over_machines() {
    const LARGE: usize = 9 * MIB as usize + 12_345;
    let mut shape = Shape::new();
    for index in 0..4 {
        // Two formats of blocks, two of queues.
        let lba = if index % 2 == 0 { 512 } else { 4096 };
        shape = shape.drive(&format!("d{index}"), 64 * MIB, "").device(&format!(
            "nvme,id=nvme{index},serial=QTEST{index},drive=d{index},logical_block_size={lba},\
             physical_block_size=4096"
        ));
    }
    let machine = shape.start();
    let chunks = ZoneChunks { superblock: 4096, meta: 65_536, data: 512 << 10 };
    let layout = FormatOptions { chunks, ..FormatOptions::default() };
    format(&engines(&machine), &layout).unwrap();
    let store = open(&machine);
    let put = |key: &[u8], bytes: &[u8]| store.put(key, bytes, &PutOptions::default()).unwrap();
    put(b"large", &bytes(1, LARGE));
    assert_eq!(store.info(b"large").unwrap().drives.len(), 4);
    for key in 0..200u64 {
        put(&key.to_le_bytes(), &bytes(key, 1 + key as usize * 331));
    }
    for key in (0..200u64).step_by(3) {
        assert!(store.remove(&key.to_le_bytes(), Durability::Sync).unwrap());
    }
    let verify = |store: &Store| {
        assert!(store.get_vec(b"large").unwrap().unwrap() == bytes(1, LARGE));
        for key in 0..200u64 {
            let got = store.get_vec(&key.to_le_bytes()).unwrap();
            let expected = (key % 3 != 0).then(|| bytes(key, 1 + key as usize * 331));
            assert!(got.ok() == expected, "object {key}");
        }
    };
    verify(&store);
    store.close().unwrap();
    assert_eq!(fsck(&machine).objects, 1 + 133);
    drop(machine);

    let machine = shape.start();
    let store = open(&machine);
    assert!(store.recovery().clean);
    verify(&store);
    // Not closed: the pool is recovered by the next.
    drop((store, machine));
    let machine = shape.start();
    fsck(&machine);
    let store = open(&machine);
    assert!(!store.recovery().clean);
    verify(&store);
    store.close().unwrap();
}
