//! What streams still use. It is looked through whenever something is added or a stream was found idle, and
//! dropped when its stream has passed it; a driver's callback cannot drop it, since no call of the driver
//! may be made there.

use parking_lot::Mutex;

use crate::Event;
use crate::range::Hold;

/// Until `event`, `held` is in use.
struct Kept {
    event: Event,
    held: Hold,
}

/// One list for the process: what is kept keeps its GPU, and so could not be the GPU's.
static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// Keeps something until the event has come.
pub(crate) fn keep(event: Event, held: Hold) {
    sweep();
    KEPT.lock().push(Kept { event, held });
}

/// Drops what is no longer in use.
pub(crate) fn sweep() {
    let over: Vec<Kept> = {
        let mut kept = KEPT.lock();
        // An event that cannot be asked belongs to a context that has failed: nothing runs in it any more.
        kept.extract_if(.., |kept| kept.event.query().unwrap_or(true)).collect()
    };
    // Outside the lock: what ends here may keep or end other things.
    for Kept { held, .. } in over {
        drop(held);
    }
}
