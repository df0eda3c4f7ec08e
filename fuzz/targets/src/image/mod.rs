//! Whole pools: a good one is changed as the input says, with checksums put right if it says so, then
//! checked, opened and used.

mod base;
mod change;

use std::sync::Arc;

use gcos_check::{CheckError, CheckOptions, Report, check};
use gcos_engine::Engine;
use gcos_layout::media::BLOCK_BYTES;
use gcos_store::{OpenOptions, PutOptions, Store, StoreError};

use crate::drive::Drive;
use crate::input::Input;
pub use base::Base;
use base::{DRIVE_BYTES, DRIVES};
use change::{Changed, changed};

/// Largest object that is read back unless the input asks for all.
const READ_BYTES: u32 = 256 << 10;

/// Checks, repairs, opens and uses a changed pool.
pub fn image(data: &[u8]) {
    let base = Base::get();
    let mut input = Input::new(data);
    let how = input.u8();
    let (drives, changes) = changed(base, &mut input);
    // Reading all data is most of the time, so it is not always done.
    let data = how & 8 != 0;
    if how & 1 == 0 {
        survey(&drives, data, false);
    }
    if how & 2 != 0 {
        repair(&drives, data);
    }
    // Perhaps with one drive missing.
    let given = if how & 4 != 0 { &drives[1..] } else { &drives[..] };
    let most = if data { u32::MAX } else { READ_BYTES };
    let options = OpenOptions { background: false, ..OpenOptions::default() };
    let Ok(store) = Store::open(engines(given), options.clone()) else { return };
    read_all(base, &store, &changes, most);
    let kept = use_it(store);
    if how & 16 != 0
        && let Ok(store) = Store::open(engines(given), options)
    {
        read_all(base, &store, &changes, most);
        if let Some(payload) = kept {
            let got = store.get_vec(NEW).unwrap();
            assert_eq!(got, Ok(payload), "acknowledged, closed in order, and gone");
        }
    }
}

/// What the input makes of the pool, for who looks at other things than whether it is survived.
#[must_use]
pub fn drives_of(data: &[u8]) -> Vec<Arc<dyn Engine>> {
    let mut input = Input::new(data);
    input.u8();
    let (drives, _) = changed(Base::get(), &mut input);
    engines(&drives)
}

fn engines(drives: &[Arc<Drive>]) -> Vec<Arc<dyn Engine>> {
    drives.iter().map(Drive::engine).collect()
}

fn survey(drives: &[Arc<Drive>], data: bool, repair: bool) -> Option<Report> {
    let options = CheckOptions { data, repair, ..CheckOptions::default() };
    match check(&engines(drives), &options, &mut |_| {}) {
        Ok(report) => Some(report),
        Err(CheckError::Version { .. }) => None,
        Err(other) => panic!("the check gave up: {other}"),
    }
}

fn repair(drives: &[Arc<Drive>], data: bool) {
    let Some(report) = survey(drives, data, true) else { return };
    if report.is_repaired() {
        let again = survey(drives, data, false).unwrap_or_default();
        assert!(again.is_clean(), "repaired, and yet: {:?}", again.findings);
    }
}

/// Every object that the pool claims to have.
fn read_all(base: &Base, store: &Store, changes: &Changed, most: u32) {
    let listed = store.list(b"", None, usize::MAX);
    let total: u64 = listed.iter().map(|(_, info)| u64::from(info.len)).sum();
    assert!(total <= (DRIVES * DRIVE_BYTES) as u64, "more objects than room: {total} bytes");
    for (key, info) in listed {
        if info.len > most {
            continue;
        }
        let Ok(Ok(got)) = store.get_vec(&key) else { continue };
        if changes.proves_payloads() && key != NEW {
            let versions = base.payloads.get(&key);
            let known = versions.is_some_and(|versions| versions.contains(&got));
            assert!(known, "{} reads as what was never put", key.escape_ascii());
        }
    }
}

const NEW: &[u8] = b"put by the fuzzer";

/// What is acknowledged is there, whatever else the media hold. Returns what must be there after the
/// next open, too.
fn use_it(store: Store) -> Option<Vec<u8>> {
    let payload: Vec<u8> = (0..3 * BLOCK_BYTES + 17).map(|i| (i * 31) as u8).collect();
    let options = PutOptions { if_exists: gcos_store::IfExists::Replace, ..PutOptions::default() };
    let put = store.put(NEW, payload.as_slice(), &options);
    match &put {
        Ok(_) => assert_eq!(store.get_vec(NEW).unwrap().as_ref(), Ok(&payload)),
        Err(StoreError::Invalid { .. }) => panic!("a good put is called invalid"),
        Err(_) => {}
    }
    let _ = store.maintain();
    let closed = store.close();
    (put.is_ok() && closed.is_ok()).then_some(payload)
}
