//! Removals that are on their way to a journal and that nobody waits for.
//!
//! An operation is acknowledged as durable when its own record is. But what it says of its key must also hold
//! when its own drive has forgotten it: a checkpoint keeps neither a removal nor what was removed. Then an
//! older object of the key on another drive, whose removal still waits there, would be back after a power
//! cut. So whoever waits for a record of the key waits for such removals, too.

use std::collections::HashMap;

use gcos_layout::media::Record;
use parking_lot::Mutex;
use smallvec::SmallVec;

/// By key: the drives in whose journals removals of objects of that key wait, one for each removal.
#[derive(Debug, Default)]
pub(crate) struct Trailing(Mutex<HashMap<Vec<u8>, SmallVec<[u8; 8]>>>);

impl Trailing {
    /// A record goes to the queue of a drive.
    pub(crate) fn begin(&self, drive: u8, record: &Record) {
        if let Record::Remove(remove) = record {
            self.0.lock().entry(remove.key.clone()).or_default().push(drive);
        }
    }

    /// A record of a drive is durable, or never will be: the other drives (bit mask) on which removals of its
    /// key still wait.
    pub(crate) fn end(&self, drive: u8, record: &Record) -> u64 {
        let (key, removal) = match record {
            Record::Put(put) => (&put.key, false),
            Record::Remove(remove) => (&remove.key, true),
        };
        let mut all = self.0.lock();
        let Some(drives) = all.get_mut(key) else { return 0 };
        if let Some(at) = drives.iter().position(|&one| one == drive).filter(|_| removal) {
            drives.swap_remove(at);
        }
        let others = drives.iter().filter(|&&one| one != drive);
        let mask = others.fold(0, |mask, one| mask | 1 << one);
        if drives.is_empty() {
            all.remove(key);
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use gcos_layout::media::RemoveRecord;

    use super::*;

    #[test]
    fn a_removal_trails_until_it_ends_and_only_for_its_key_and_other_drives() {
        let remove = |key: &[u8]| Record::Remove(RemoveRecord { key: key.to_vec(), generation: 1 });
        let trailing = Trailing::default();
        trailing.begin(3, &remove(b"a"));
        trailing.begin(3, &remove(b"a"));
        trailing.begin(5, &remove(b"a"));
        assert_eq!(trailing.end(0, &remove(b"b")), 0);
        assert_eq!(trailing.end(5, &remove(b"a")), 1 << 3);
        assert_eq!(trailing.end(3, &remove(b"a")), 0, "its own drive keeps the order");
        assert_eq!(trailing.end(1, &remove(b"a")), 1 << 3);
        assert_eq!(trailing.end(3, &remove(b"a")), 0);
        assert!(trailing.0.lock().is_empty());
    }
}
