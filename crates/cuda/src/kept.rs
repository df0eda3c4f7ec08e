//! What streams still use. It is looked through whenever something is added or a stream was found idle, and
//! dropped when its stream has passed it; a driver's callback cannot drop it, since no call of the driver
//! may be made there.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;

use crate::Event;
use crate::range::Hold;

/// Until `event`, `held` is in use.
struct Kept {
    event: Event,
    held: Hold,
}

/// In the order of the stream: when one has not come, none behind it has.
type Queue = VecDeque<Kept>;

/// One table for the process: what is kept keeps its GPU, and so could not be the GPU's. The key is the
/// stream's handle. A handle that is used again only makes the queue a little longer.
static KEPT: Mutex<BTreeMap<u64, Queue>> = Mutex::new(BTreeMap::new());

/// Takes out what is no longer in use.
fn passed(queue: &mut Queue, over: &mut Vec<Hold>) {
    // An event that cannot be asked belongs to a context that has failed: nothing runs in it any more.
    while queue.front().is_some_and(|first| first.event.query().unwrap_or(true)) {
        over.extend(queue.pop_front().map(|first| first.held));
    }
}

/// Keeps something until the event, which was recorded in this stream just now, has come.
pub(crate) fn keep(stream: u64, event: Event, held: Hold) {
    let mut over = Vec::new();
    {
        let mut kept = KEPT.lock();
        let queue = kept.entry(stream).or_default();
        passed(queue, &mut over);
        queue.push_back(Kept { event, held });
    }
    // Outside the lock: what ends here may keep or end other things.
    drop(over);
}

/// Drops what is no longer in use of any stream.
pub(crate) fn sweep() {
    let mut over = Vec::new();
    KEPT.lock().retain(|_, queue| {
        passed(queue, &mut over);
        !queue.is_empty()
    });
    drop(over);
}
