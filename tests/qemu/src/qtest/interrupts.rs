//! Interrupts as words in RAM that a thread looks at.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use gcos_hw::{EventFd, SharedMemory};

use super::link::locked;

/// How often the words are looked at.
const INTERVAL: Duration = Duration::from_micros(100);

/// One routed vector.
#[derive(Debug)]
struct Route {
    words: Arc<SharedMemory>,
    offset: usize,
    event: Arc<EventFd>,
}

/// The interrupts of a machine. The thread starts with the first vector that is routed.
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    routes: Arc<Mutex<Vec<Route>>>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Interrupts {
    /// Signals `event` whenever a device has stored to the word.
    pub(crate) fn route(
        &self,
        words: Arc<SharedMemory>,
        offset: usize,
        event: Arc<EventFd>,
    ) -> std::io::Result<()> {
        locked(&self.routes).push(Route { words, offset, event });
        let mut thread = locked(&self.thread);
        if thread.is_none() {
            let (routes, stop) = (Arc::clone(&self.routes), Arc::clone(&self.stop));
            let name = "qtest-interrupts".to_owned();
            let watch = move || {
                while !stop.load(Ordering::Relaxed) {
                    locked(&routes).iter().for_each(Route::look);
                    std::thread::sleep(INTERVAL);
                }
            };
            *thread = Some(std::thread::Builder::new().name(name).spawn(watch)?);
        }
        Ok(())
    }
}

impl Route {
    fn look(&self) {
        if self.words.load_u32(self.offset, Ordering::Acquire).is_ok_and(|word| word != 0) {
            // Cleared before the signal: a store in between is covered by it, since whoever is woken
            // looks after it.
            let _ = self.words.store_u32(self.offset, 0, Ordering::Release);
            self.event.signal();
        }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = locked(&self.thread).take() {
            let _ = thread.join();
        }
    }
}
