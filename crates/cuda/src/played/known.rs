//! What lies where in host memory, for the question that `cuPointerGetAttributes` answers on a real GPU.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::Played;

/// What a played GPU takes memory for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryKind {
    Device,
    Host,
}

/// An entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) base: u64,
    pub(crate) len: usize,
    pub(crate) kind: MemoryKind,
    pub(crate) gpu_id: u64,
    pub(crate) ordinal: usize,
}

static TABLE: Mutex<BTreeMap<(u64, u64), Entry>> = Mutex::new(BTreeMap::new());

/// Keeps an entry in the table.
#[derive(Debug)]
pub(crate) struct Known {
    key: (u64, u64),
}

impl Known {
    pub(crate) fn new(gpu: &Played, base: u64, len: usize, kind: MemoryKind) -> Self {
        let (gpu_id, ordinal) = (gpu.id(), gpu.options().ordinal);
        let key = (base, gpu_id);
        TABLE.lock().insert(key, Entry { base, len, kind, gpu_id, ordinal });
        Self { key }
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        TABLE.lock().remove(&self.key);
    }
}

/// What holds the byte at an address.
pub(crate) fn look_up(address: u64) -> Option<Entry> {
    let table = TABLE.lock();
    let before = table.range(..=(address, u64::MAX)).rev();
    before.map(|(_, entry)| *entry).find(|entry| address - entry.base < entry.len as u64)
}
