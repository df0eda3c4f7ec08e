//! What a store does beside serving: writing relaxed records, checkpoints, expiry, deallocation.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use gcos_engine::{Extent, Request};
use parking_lot::{Condvar, Mutex};

use crate::StoreError;
use crate::canary::{self, Canary};
use crate::index::{EntryState, Id};
use crate::pool::{Member, Pool, count, now_seconds};

/// Chunks deallocated with one command: the most ranges that Dataset Management takes.
const DEALLOCATE_CHUNKS: usize = 256;
/// Free chunks below which deallocating is not worth a command, unless the store is idle.
const DEALLOCATE_LEAST: usize = 16;
/// Entries looked at for expiry in one pass.
const EXPIRY_SCAN: u32 = 16_384;

/// Where the search for expired objects goes on.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    next: Id,
    /// Free chunks seen in the last pass: equal ones mean that the store is idle.
    dirty_before: usize,
}

impl Pool {
    /// One pass of everything.
    pub(crate) fn maintain(&self, sweep: &mut Sweep) -> Result<(), StoreError> {
        self.expire(sweep);
        self.write_journals(u64::MAX)?;
        for member in self.present().filter(|m| m.drive.online()) {
            if member.journal.writer().wants_checkpoint() {
                self.checkpoint(member)?;
            }
        }
        if self.options.deallocate {
            let dirty = self.dirty_chunks();
            let idle = dirty == sweep.dirty_before;
            sweep.dirty_before = dirty;
            for member in self.present().filter(|m| m.drive.online()) {
                self.deallocate(member, if idle { 1 } else { DEALLOCATE_LEAST })?;
            }
        }
        Ok(())
    }

    fn dirty_chunks(&self) -> usize {
        let state = self.state.lock();
        state.spaces.iter().flatten().map(|space| space.alloc.dirty_chunks()).sum()
    }

    /// Removes expired objects among the next entries.
    fn expire(&self, sweep: &mut Sweep) {
        let now = now_seconds();
        let writable = self.writable();
        let mut state = self.state.lock();
        let upper = state.index.upper_id();
        let end = sweep.next.saturating_add(EXPIRY_SCAN).min(upper);
        let gone: Vec<Id> = (sweep.next..end)
            .filter(|&id| {
                state.index.entry(id).is_some_and(|e| {
                    e.state() == EntryState::Live
                        && e.expired(now)
                        && writable & (1 << e.head().drive) != 0
                })
            })
            .collect();
        sweep.next = if end == upper { 0 } else { end };
        for id in gone {
            let removal = state.remove(id);
            self.enqueue(removal);
            count(&self.counters.expired, 1);
        }
    }

    /// Tells the drive about free chunks, if there are at least `least`. They cannot be handed out
    /// before the drive has answered, or it could discard what was just written.
    fn deallocate(&self, member: &Member, least: usize) -> Result<(), StoreError> {
        let drive = &member.drive;
        if !drive.io.engine.geometry().deallocate {
            return Ok(());
        }
        let chunks = {
            let mut state = self.state.lock();
            let Some(Some(space)) = state.spaces.get_mut(usize::from(drive.index)) else {
                return Ok(());
            };
            // Not all of them: a put should find room without waiting for the drive.
            let most = (space.alloc.free_chunks() / 2).min(DEALLOCATE_CHUNKS);
            if space.alloc.dirty_chunks() < least || most == 0 {
                return Ok(());
            }
            let chunks = space.alloc.take_dirty(most);
            state.deallocating += chunks.len();
            chunks
        };
        let len = u64::from(drive.zones.chunks.data);
        let extents = chunks.iter().filter_map(|&chunk| {
            let chunk = chunk ^ u32::from(canary::on(Canary::DeallocateLive));
            drive.zones.data_offset(chunk, 0).map(|offset| Extent { offset, len })
        });
        let request = Request::deallocate(extents, self.options.io_deadline);
        let result = drive.io.engine.run(request).map_err(StoreError::from);
        let mut state = self.state.lock();
        if let Some(Some(space)) = state.spaces.get_mut(usize::from(drive.index))
            && !canary::on(Canary::DeallocateRace)
        {
            space.alloc.deallocated(&chunks, result.is_ok());
        }
        state.deallocating -= chunks.len();
        drop(state);
        self.changed.notify_all();
        if let Err(error) = &result {
            drive.note(error);
        } else {
            count(&self.counters.chunks_deallocated, chunks.len() as u64);
        }
        result
    }
}

/// The thread that keeps calling [`Pool::maintain`].
#[derive(Debug)]
pub(crate) struct Maintainer {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Maintainer {
    pub(crate) fn start(pool: Arc<Pool>) -> std::io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let signal = Arc::clone(&stop);
        let interval = pool.options.relaxed_interval.max(Duration::from_millis(1));
        let run = move || {
            let mut sweep = Sweep::default();
            let mut complained = false;
            loop {
                {
                    let mut stopped = signal.0.lock();
                    if !*stopped {
                        signal.1.wait_for(&mut stopped, interval);
                    }
                    if *stopped {
                        return;
                    }
                }
                match pool.maintain(&mut sweep) {
                    Ok(()) => complained = false,
                    Err(error) if !complained => {
                        complained = true;
                        tracing::error!(%error, "maintenance failed; it goes on trying");
                    }
                    Err(_) => {}
                }
            }
        };
        let thread = std::thread::Builder::new().name("gcos-maintain".to_owned()).spawn(run)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends the thread after the pass that it is in.
    pub(crate) fn stop(&mut self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has already been reported by the runtime.
            let _ = thread.join();
        }
    }
}

impl Drop for Maintainer {
    fn drop(&mut self) {
        self.stop();
    }
}
