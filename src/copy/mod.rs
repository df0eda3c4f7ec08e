//! From one pool to another: other drives, or the same way of keeping objects over another path.
//!
//! The source may be in use: [`copy`] only reads it, through the store that its owner has open. One that nobody
//! has open stays as it is, to the byte, where its drives are [`Untouched`]. The
//! destination is a pool of its own that was formatted before. Every object is verified by its checksums
//! when it is read, and read back from the destination and compared before it counts. A copy that was cut
//! short is begun again: what is there already with the same bytes is left alone.

mod batch;
mod report;
mod untouched;

pub use report::{CopyError, CopyOptions, CopyProblem, CopyReport};
pub use untouched::Untouched;

use std::collections::HashSet;
use std::ops::ControlFlow;

use gcos_store::{DriveHealth, DriveInfo, ObjectInfo, Store};

use batch::Batch;

/// Objects of one batch at most.
const BATCH_OBJECTS: usize = 64;

/// Keys taken from the index at a time.
const PAGE: usize = 4096;

/// Copies the objects of `source` that `options` names into `destination`, in the order of generations: the
/// order in which they were put, and in which a pool evicts them once it has been opened again. Nothing is
/// removed from either pool; objects of the destination are pinned meanwhile, so that none makes room for
/// another, and in the order of generations afterwards. `progress` is called after each batch and may end
/// the copy; what was copied until then stays.
///
/// What lies on drives that the source has lost cannot be copied, and what lies there alone is not even known
/// of: such a copy is never complete ([`CopyReport::drives_lost`]).
///
/// Lifetimes are carried over, to the second. Pins are those of whoever holds a store open, and are not.
///
/// # Errors
/// [`CopyError`] when either pool fails, or the destination is full. Everything that was reported as copied
/// is in the destination all the same, and durable.
pub fn copy(
    source: &Store,
    destination: &Store,
    options: &CopyOptions,
    mut progress: impl FnMut(&CopyReport) -> ControlFlow<()>,
) -> Result<CopyReport, CopyError> {
    let mut pins = Pins::of_all(destination);
    let mut list = all(source, &options.prefix);
    list.sort_by_key(|(_, info)| info.generation);
    let mut report = CopyReport::new(&list, options.dry_run);
    report.drives_lost = drives_lost(source);
    let mut left = list.as_slice();
    while !left.is_empty() {
        let (now, later) = left.split_at(batch_len(left, options.batch_bytes));
        Batch::new(source, destination, options, now).run(&mut report, &mut pins)?;
        left = later;
        if progress(&report).is_break() {
            break;
        }
    }
    // One that has come back meanwhile had objects that were not listed.
    report.drives_lost = report.drives_lost.max(drives_lost(source));
    report.complete = left.is_empty() && report.drives_lost == 0;
    Ok(report)
}

/// Drives of a pool whose objects cannot be read.
fn drives_lost(store: &Store) -> u64 {
    let readable =
        |drive: &DriveInfo| matches!(drive.health, DriveHealth::Online | DriveHealth::ReadOnly);
    store.drives().iter().filter(|drive| !readable(drive)).count() as u64
}

/// All objects with a prefix.
fn all(store: &Store, prefix: &[u8]) -> Vec<(Vec<u8>, ObjectInfo)> {
    let mut list: Vec<(Vec<u8>, ObjectInfo)> = Vec::new();
    loop {
        let after = list.last().map(|(key, _)| key.clone());
        let page = store.list(prefix, after.as_deref(), PAGE);
        let is_last = page.len() < PAGE;
        list.extend(page);
        if is_last {
            return list;
        }
    }
}

/// How many objects from the start make up a batch: one at least.
fn batch_len(list: &[(Vec<u8>, ObjectInfo)], bytes: u64) -> usize {
    let mut sum = 0;
    let within = |(_, info): &&(Vec<u8>, ObjectInfo)| {
        sum += u64::from(info.len);
        sum <= bytes
    };
    list.iter().take(BATCH_OBJECTS).take_while(within).count().max(1)
}

/// Pins on objects of a store, taken back in the end.
struct Pins<'s> {
    store: &'s Store,
    keys: HashSet<Vec<u8>>,
}

impl<'s> Pins<'s> {
    fn of_all(store: &'s Store) -> Self {
        let keys = all(store, b"").into_iter().map(|(key, _)| key);
        Self { store, keys: keys.filter(|key| store.pin(key)).collect() }
    }

    /// Notes an object that was put with a pin. A put that replaces one ends the pins on it.
    fn note(&mut self, key: &[u8]) {
        self.keys.insert(key.to_vec());
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        // An object whose last pin goes counts as used just then.
        let generation = |key: &Vec<u8>| self.store.info(key).map(|info| info.generation);
        let mut order: Vec<_> = self.keys.iter().map(|key| (generation(key), key)).collect();
        order.sort_unstable();
        for (_, key) in order {
            self.store.unpin(key);
        }
    }
}
