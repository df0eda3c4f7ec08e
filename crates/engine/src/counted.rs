use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gcos_hw::DmaSpace;

use crate::device::{DeviceEngine, Gpu};
use crate::{Demotions, Engine, Geometry, IoError, Op, Request, Ticket, UnderWay, Way};

/// An engine that counts what the host has under way; all else goes to the one inside. It goes around what
/// else is around an engine: a request that is carried out once more inside is under way until that has ended.
#[derive(Debug)]
pub struct CountedEngine {
    inner: Arc<dyn Engine>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// A request that is counted while this lives.
#[derive(Debug)]
struct Counting {
    counts: Arc<Counts>,
    bytes: u64,
}

#[derive(Debug)]
struct CountedTicket {
    inner: Box<dyn Ticket>,
    _counting: Counting,
}

impl CountedEngine {
    /// Over an engine.
    #[must_use]
    pub fn new(inner: Arc<dyn Engine>) -> Arc<Self> {
        Arc::new(Self { inner, counts: Arc::default() })
    }

    fn count(&self, request: &Request) -> Counting {
        let bytes = request.extents.iter().map(|extent| extent.len).sum();
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        Counting { counts: Arc::clone(&self.counts), bytes }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.counts.requests.fetch_sub(1, Ordering::Relaxed);
        self.counts.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Ticket for CountedTicket {
    fn poll(&mut self) -> Option<Result<(), IoError>> {
        self.inner.poll()
    }

    fn wait(self: Box<Self>) -> Result<(), IoError> {
        let Self { inner, _counting } = *self;
        inner.wait()
    }
}

impl Engine for CountedEngine {
    fn geometry(&self) -> &Geometry {
        self.inner.geometry()
    }

    fn way(&self) -> Way {
        self.inner.way()
    }

    fn dma(&self) -> &Arc<DmaSpace> {
        self.inner.dma()
    }

    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        if request.op == Op::Flush {
            return self.inner.submit(request);
        }
        let counting = self.count(&request);
        let inner = self.inner.submit(request)?;
        Ok(Box::new(CountedTicket { inner, _counting: counting }))
    }

    fn device(&self, gpu: &Arc<Gpu>) -> Option<Arc<dyn DeviceEngine>> {
        self.inner.device(gpu)
    }

    fn under_way(&self) -> UnderWay {
        UnderWay {
            requests: self.counts.requests.load(Ordering::Relaxed),
            bytes: self.counts.bytes.load(Ordering::Relaxed),
        }
    }

    fn demotions(&self) -> Demotions {
        self.inner.demotions()
    }

    fn promote(&self, deadline: Duration) -> Result<(), IoError> {
        self.inner.promote(deadline)
    }

    fn shutdown(&self, deadline: Duration) -> Result<(), IoError> {
        self.inner.shutdown(deadline)
    }
}

#[cfg(test)]
mod tests {
    use gcos_hw::kernel::host_space;

    use super::*;
    use crate::NoopEngine;

    #[test]
    fn what_has_not_been_answered_is_counted_and_what_was_dropped_is_not() {
        let geometry = Geometry {
            name: "nothing".to_owned(),
            serial: String::new(),
            model: String::new(),
            capacity: 1 << 30,
            lba_bytes: 4096,
            max_transfer: 1 << 20,
            volatile_cache: false,
            deallocate: false,
        };
        let engine = CountedEngine::new(Arc::new(NoopEngine::new(geometry, host_space().unwrap())));
        let buffer = engine.dma().alloc(8192).unwrap();
        let read = |len| {
            let slice = buffer.slice(0, len).unwrap();
            engine.submit(Request::read(0, slice, Duration::from_secs(1))).unwrap()
        };
        let (first, second) = (read(4096), read(8192));
        assert_eq!(engine.under_way(), UnderWay { requests: 2, bytes: 12_288 });
        first.wait().unwrap();
        assert_eq!(engine.under_way(), UnderWay { requests: 1, bytes: 8192 });
        drop(second);
        assert_eq!(engine.under_way(), UnderWay::default());
        engine.run(Request::flush(Duration::from_secs(1))).unwrap();
    }
}
