//! Power cuts at every place of a format, of blank drives and over an older pool.

use std::sync::Arc;

use fastrand::Rng;
use gcos_layout::media::ZoneChunks;
use gcos_store::{FormatOptions, PutOptions, Store, StoreError, format};

use crate::client::read_whole;
use crate::crash::{
    DRIVE_BYTES, Event, KEYS, Lost, Media, Rig, Searched, brief, engines, fingerprint, quiet,
    subsets,
};
use crate::keys::key_bytes;
use crate::memory::{Changed, Image, Log};
use crate::model::{Excuse, Seen, payload};
use crate::recycle::address_space;
use crate::verdict;

/// Salt of the payloads of the older pool, and their length.
const OLD: (u64, u32) = (99, 70_000);

fn options() -> FormatOptions {
    let chunks = ZoneChunks { superblock: 4096, meta: 65_536, data: 256 << 10 };
    FormatOptions { chunks, force: true, ..FormatOptions::default() }
}

fn blank(drives: usize) -> Vec<Arc<Vec<u8>>> {
    (0..drives).map(|_| Arc::new(vec![0; DRIVE_BYTES as usize])).collect()
}

/// Drives with an older pool on them, closed in order or not.
fn older(drives: usize, closed: bool) -> Result<Vec<Arc<Vec<u8>>>, String> {
    let images = over(&blank(drives), &[]);
    let words = |error: StoreError| error.to_string();
    let dma = address_space()?.dma;
    format(&engines(&images, &dma), &options()).map_err(words)?;
    let store = Store::open(engines(&images, &dma), quiet()).map_err(words)?;
    for key in 0..KEYS {
        let bytes = payload(OLD.0, key, 1, OLD.1);
        store.put(&key_bytes(key), bytes.as_slice(), &PutOptions::default()).map_err(words)?;
    }
    match closed {
        true => store.close().map_err(words)?,
        false => drop(store),
    }
    let whole = |image: &Arc<Image>| {
        let mut bytes = vec![0; DRIVE_BYTES as usize];
        crate::memory::Blocks::read(&**image, 0, &mut bytes).map(|()| Arc::new(bytes))
    };
    images.iter().map(whole).collect()
}

/// Images over these, with changes.
fn over(bases: &[Arc<Vec<u8>>], changed: &[Changed]) -> Vec<Arc<Image>> {
    let each = bases.iter().enumerate();
    each.map(|(drive, base)| {
        let changed = changed.get(drive).cloned().unwrap_or_default();
        Arc::new(Image::new(drive, base, changed, &Log::default()))
    })
    .collect()
}

/// Formats so many drives, over an older pool or not, and cuts the power at every place: what is left must be
/// no pool, an empty one, or the older one, and another format must make a pool of it.
///
/// # Errors
/// The first place where it is not so.
pub fn search(drives: usize, old: Option<bool>) -> Result<Searched, Lost> {
    let lost = |place: String, what: String| Lost { steps: Vec::new(), place, what };
    let nowhere = |what: String| lost("nowhere".to_owned(), what);
    let bases = match old {
        Some(closed) => older(drives, closed).map_err(nowhere)?,
        None => blank(drives),
    };
    let events = record(&bases).map_err(nowhere)?;
    let (mut media, mut rng) = (Media::new(&bases), Rng::with_seed(drives as u64));
    let mut seen = std::collections::HashSet::new();
    let mut out = Searched { workloads: 1, ..Searched::default() };
    for (at, event) in events.iter().enumerate() {
        out.places += 1;
        let choices = media.choices(event);
        for kept in subsets(&choices, &mut rng) {
            let left = media.left(&choices, &kept);
            if !seen.insert(fingerprint(&left)) {
                continue;
            }
            out.recoveries += 1;
            judge(&bases, &left, old.is_some())
                .map_err(|what| lost(format!("before event {at} ({})", brief(event)), what))?;
        }
        media.happen(event);
    }
    Ok(out)
}

fn record(bases: &[Arc<Vec<u8>>]) -> Result<Vec<Event>, String> {
    let rig = Rig::new(bases, 1)?;
    let engines = rig.engines()?;
    format(&engines, &options()).map_err(|error| error.to_string())?;
    drop(engines);
    let events = std::mem::take(&mut *rig.events.lock());
    Ok(events)
}

fn judge(bases: &[Arc<Vec<u8>>], left: &[Changed], old: bool) -> Result<(), String> {
    let dma = address_space()?.dma;
    let images = over(bases, left);
    match Store::open(engines(&images, &dma), quiet()) {
        Ok(store) => {
            for key in 0..KEYS {
                match read_whole(&store, key)? {
                    Seen::Absent => {}
                    Seen::Bytes { bytes, .. } if old && bytes == payload(OLD.0, key, 1, OLD.1) => {}
                    seen => return Err(format!("key {key} is {seen}")),
                }
            }
        }
        Err(
            StoreError::NotAPool { .. }
            | StoreError::Unopenable { .. }
            | StoreError::Format { .. }
            | StoreError::MixedPools { .. },
        ) => {}
        Err(error) => return Err(format!("{error} ({error:?})")),
    }
    let words = |error: StoreError| error.to_string();
    format(&engines(&images, &dma), &options()).map_err(words)?;
    let store = Store::open(engines(&images, &dma), quiet()).map_err(words)?;
    if store.recovery().objects != 0 {
        return Err("a pool that was just formatted is not empty".to_owned());
    }
    store.put(b"after", [7; 3000].as_slice(), &PutOptions::default()).map_err(words)?;
    store.close().map_err(words)?;
    let report = verdict::examine(&engines(&images, &dma), true)?;
    let bad = verdict::unexplained(&report, Excuse::Nothing, false);
    match bad.is_empty() {
        true => Ok(()),
        false => Err(format!("after another format the checker finds {}", bad.join("; "))),
    }
}
