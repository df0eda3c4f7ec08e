//! Repairs over the driver and the software controller, whose power is cut at every write: what is left
//! opens into right bytes or not at all, and the next repair comes to the same end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gcos_check::{CheckOptions, Report, check};
use gcos_emulator::{Config, Emulator, Medium, WriteCacheConfig};
use gcos_engine::{Engine, HostQueueEngine, HostQueueOptions};
use gcos_layout::media::{Superblock, ZoneChunks, ZoneMap};
use gcos_store::{Durability, FormatOptions, IfExists, OpenOptions, PutOptions, Store, format};

const BYTES: usize = 12 << 20;

/// What each key may read as; everything else is wrong.
#[derive(Default)]
struct Model {
    now: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Every version that was ever acknowledged: what a salvage may bring back.
    ever: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
}

impl Model {
    fn allows(&self, key: &[u8], got: &[u8], stale: bool) -> bool {
        match stale {
            true => self.ever.get(key).is_some_and(|all| all.iter().any(|one| one == got)),
            false => self.now.get(key).is_some_and(|one| one == got),
        }
    }
}

struct Rig {
    emulator: Arc<Emulator>,
    engine: Arc<dyn Engine>,
}

fn rig(medium: &Arc<Medium>, seed: u64) -> Rig {
    let write_cache = Some(WriteCacheConfig { capacity_bytes: 1 << 20, seed });
    let config = Config { write_cache, ..Config::new(Arc::clone(medium)) };
    let emulator = Emulator::new(config).unwrap();
    let options = HostQueueOptions { nsid: 1, ..HostQueueOptions::default() };
    let engine = HostQueueEngine::open(Arc::clone(&emulator).function(), options).unwrap();
    Rig { emulator, engine: Arc::new(engine) }
}

fn quiet() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut out);
    out
}

fn image(medium: &Medium) -> Vec<u8> {
    let mut image = vec![0; BYTES];
    medium.peek(0, &mut image).unwrap();
    image
}

fn medium(image: &[u8]) -> Arc<Medium> {
    let medium = Medium::ram(BYTES as u64).unwrap();
    medium.poke(0, image).unwrap();
    medium
}

/// A pool that was closed, of which the ring has turned, and what it holds. Some objects were removed
/// and some replaced, long ago and just now.
fn pool() -> (Vec<u8>, Model) {
    let medium = medium(&vec![0; BYTES]);
    let Rig { engine, emulator } = rig(&medium, 1);
    let chunks = ZoneChunks { superblock: 4096, meta: 65_536, data: 512 << 10 };
    let options = FormatOptions { chunks, ..FormatOptions::default() };
    format(&[Arc::clone(&engine)], &options).unwrap();
    let store = Store::open(vec![engine], quiet()).unwrap();
    let mut model = Model::default();
    let replace = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
    let put = |model: &mut Model, name: &str, seed: u64, len: usize| {
        let payload = bytes(seed, len);
        store.put(name.as_bytes(), payload.as_slice(), &replace).unwrap();
        model.ever.entry(name.as_bytes().to_vec()).or_default().push(payload.clone());
        model.now.insert(name.as_bytes().to_vec(), payload);
    };
    let remove = |model: &mut Model, name: &str| {
        assert!(store.remove(name.as_bytes(), Durability::Sync).unwrap());
        model.now.remove(name.as_bytes());
    };
    for i in 0..8 {
        put(&mut model, &format!("old {i}"), i, 20_000 + 9000 * i as usize);
    }
    remove(&mut model, "old 3");
    put(&mut model, "old 4", 104, 70_000);
    for i in 0..300 {
        put(&mut model, &format!("filler {}", i % 3), 1000 + i, 100);
        store.maintain().unwrap();
    }
    store.checkpoint().unwrap();
    put(&mut model, "young", 200, 90_000);
    put(&mut model, "old 5", 205, 5000);
    remove(&mut model, "old 6");
    store.close().unwrap();
    drop(emulator);
    (image(&medium), model)
}

fn zones(image: &[u8]) -> ZoneMap {
    let places = ZoneMap::copies(BYTES as u64);
    let found = places.iter().find_map(|&at| Superblock::decode(&image[at as usize..]).ok());
    found.unwrap().zones
}

/// A name, and what it does to an image.
type Damage = (&'static str, fn(&mut [u8], &ZoneMap));

fn fill(image: &mut [u8], at: u64, len: u64, with: u8) {
    image[at as usize..(at + len) as usize].fill(with);
}

fn damages() -> Vec<Damage> {
    vec![
        ("both checkpoint headers", |image, zones| {
            (0..2).for_each(|area| image[zones.checkpoint_offset(area) as usize + 100] ^= 1);
        }),
        ("both checkpoints, headers and pages", |image, zones| {
            fill(image, zones.checkpoint_offset(0), 2 * zones.checkpoint_bytes, 0xee);
        }),
        ("one checkpoint by damage, one by zeros", |image, zones| {
            fill(image, zones.checkpoint_offset(0), 4096, 0);
            fill(image, zones.checkpoint_offset(1), 4096, 0xee);
        }),
        ("all of the metadata, by zeros, and one superblock copy", |image, zones| {
            fill(image, 0, zones.journal_offset() + zones.journal_bytes, 0);
        }),
        ("the checkpoints and the middle of the journal", |image, zones| {
            fill(image, zones.checkpoint_offset(0), 2 * zones.checkpoint_bytes, 0xee);
            fill(image, zones.journal_offset() + zones.journal_bytes / 2, 8192, 0xee);
        }),
        ("three superblock copies, a checkpoint and an object", |image, zones| {
            zones.superblock_offsets().iter().skip(1).for_each(|&at| fill(image, at, 512, 0xee));
            image[zones.checkpoint_offset(1) as usize + 4096 + 100] ^= 1;
            let young = bytes(200, 90_000);
            let at = image.windows(64).position(|w| w == &young[50_000..50_064]).unwrap();
            image[at] ^= 1;
        }),
    ]
}

fn mend(engine: &Arc<dyn Engine>, salvage: bool) -> Result<Report, gcos_check::CheckError> {
    let options = CheckOptions {
        repair: true,
        salvage,
        io_deadline: Duration::from_secs(2),
        ..CheckOptions::default()
    };
    check(std::slice::from_ref(engine), &options, &mut |_| ())
}

/// What a pool on this image holds, if it opens. Fails on wrong bytes.
fn contents(image: &[u8], model: &Model, stale: bool, what: &str) -> Option<Vec<Vec<u8>>> {
    let rig = rig(&medium(image), 3);
    let store = Store::open(vec![rig.engine], quiet()).ok()?;
    let mut held = Vec::new();
    for (key, _) in store.list(b"", None, 10_000) {
        let Ok(got) = store.get_vec(&key).unwrap() else { continue };
        let text = key.escape_ascii();
        assert!(model.allows(&key, &got, stale), "{what}: {text} reads as what it is not");
        held.push(key);
    }
    Some(held)
}

fn cut_at_every_write(salvage: bool) {
    let (whole, model) = pool();
    let zones = zones(&whole);
    for (what, damage) in damages() {
        let mut damaged = whole.clone();
        damage(&mut damaged, &zones);
        contents(&damaged, &model, false, what);
        let undisturbed = medium(&damaged);
        let report = mend(&rig(&undisturbed, 2).engine, salvage).unwrap();
        assert!(report.is_repaired(), "{what}: {:#?}", report.findings);
        let end = contents(&image(&undisturbed), &model, salvage, what).unwrap();
        let mut cuts = 0;
        for writes in 1.. {
            let medium = medium(&damaged);
            let cut = rig(&medium, writes);
            cut.emulator.cut_power_at_write(writes, writes * 31);
            let ended = mend(&cut.engine, salvage).is_ok();
            cut.emulator.power_cut(writes);
            drop(cut);
            let what = format!("{what}, cut at write {writes}");
            contents(&image(&medium), &model, salvage, &what);
            let report = mend(&rig(&medium, 2).engine, salvage).unwrap();
            assert!(report.is_repaired(), "{what}: {:#?}", report.findings);
            let after = image(&medium);
            let again = mend(&rig(&medium, 2).engine, salvage).unwrap();
            assert!(again.is_clean() && again.actions.is_empty(), "{what}: {again:#?}");
            assert!(image(&medium) == after, "{what}: a second repair wrote");
            assert_eq!(contents(&after, &model, salvage, &what).as_ref(), Some(&end), "{what}");
            if ended {
                break;
            }
            cuts += 1;
        }
        assert!(cuts >= 5, "{what}: {cuts} cuts");
    }
}

#[test]
fn a_repair_that_loses_power_at_any_write_comes_to_the_same_end_and_never_to_wrong_bytes() {
    cut_at_every_write(false);
}

#[test]
fn a_repair_with_salvage_that_loses_power_at_any_write_comes_to_the_same_end() {
    cut_at_every_write(true);
}

#[test]
fn what_a_rebuild_brings_back_is_never_what_was_removed_or_replaced() {
    let (whole, model) = pool();
    let zones = zones(&whole);
    for (what, damage) in damages() {
        let mut damaged = whole.clone();
        damage(&mut damaged, &zones);
        let medium = medium(&damaged);
        let report = mend(&rig(&medium, 2).engine, false).unwrap();
        assert!(report.is_repaired(), "{what}: {:#?}", report.findings);
        let held = contents(&image(&medium), &model, false, what).unwrap();
        assert!(held.len() as u64 <= report.objects, "{what}");
        let least = match what {
            "both checkpoint headers" => model.now.len(),
            "three superblock copies, a checkpoint and an object" => model.now.len() - 1,
            "all of the metadata, by zeros, and one superblock copy" => 0,
            _ => 5,
        };
        assert!(held.len() >= least, "{what}: {} of {}", held.len(), model.now.len());
    }
}

#[test]
fn a_drive_that_has_lost_its_metadata_is_refused_with_the_cure_and_never_opens_empty() {
    let (whole, _) = pool();
    let zones = zones(&whole);
    for (what, damage) in damages() {
        let mut damaged = whole.clone();
        damage(&mut damaged, &zones);
        if what.starts_with("three superblock") {
            // A second copy that agrees: what is left is one checkpoint, which is enough.
            continue;
        }
        let medium = medium(&damaged);
        let refused = Store::open(vec![rig(&medium, 2).engine], quiet()).unwrap_err().to_string();
        assert!(refused.contains("gcos fsck --repair"), "{what}: {refused}");
        assert!(image(&medium) == damaged, "{what}: opening it wrote");
    }
}
