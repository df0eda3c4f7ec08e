//! From one pool to another: other drives, or the same way of keeping objects over another path.
//!
//! The source may be in use: [`copy`] only reads it, through the store that its owner has open, and pins
//! each object while it is read. The destination is a pool of its own that was formatted before. Every
//! object is verified by its checksums when it is read, and read back from the destination and compared
//! before it counts. A copy that was cut short is begun again: what is there already with the same bytes
//! is left alone.

mod batch;
mod report;

pub use report::{CopyError, CopyOptions, CopyProblem, CopyReport};

use std::collections::HashSet;
use std::ops::ControlFlow;

use gcos_store::{ObjectInfo, Store};

use batch::Batch;

/// Objects of one batch at most.
const BATCH_OBJECTS: usize = 64;

/// Keys taken from the index at a time.
const PAGE: usize = 4096;

/// Copies the objects of `source` that `options` names into `destination`, the oldest first, so that the
/// order in which they would be evicted is the same. Nothing is removed from either pool; objects of the
/// destination are pinned meanwhile, so that none makes room for another. `progress` is called after each
/// batch and may end the copy; what was copied until then stays.
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
    let mut left = list.as_slice();
    while !left.is_empty() {
        let (now, later) = left.split_at(batch_len(left, options.batch_bytes));
        Batch::new(source, destination, options, now).run(&mut report, &mut pins)?;
        left = later;
        if progress(&report).is_break() {
            break;
        }
    }
    report.complete = left.is_empty();
    Ok(report)
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
        for key in &self.keys {
            self.store.unpin(key);
        }
    }
}
