use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::histogram::{Histogram, Snapshot};

macro_rules! ops {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, reads: $reads:literal;)*) => {
        /// A kind of call whose time is taken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Op {
            $($(#[doc = $doc])* $name,)*
        }

        impl Op {
            pub(super) const ALL: &[Self] = &[$(Self::$name),*];

            /// Value of the label `op`.
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            pub(super) fn reads(self) -> bool {
                match self { $(Self::$name => $reads,)* }
            }
        }
    };
}

ops! {
    /// One put.
    Put = "put", reads: false;
    /// A batch of puts.
    PutMany = "put_many", reads: false;
    /// Puts from GPU memory.
    DevicePut = "device_put", reads: false;
    /// One get, or part of an object.
    Get = "get", reads: true;
    /// A batch of gets.
    GetMany = "get_many", reads: true;
    /// Gets into GPU memory.
    DeviceGet = "device_get", reads: true;
}

/// Times of calls, of all threads.
#[derive(Debug, Default)]
pub(crate) struct Measures {
    ops: [Measure; Op::ALL.len()],
    reads: Mutex<Busy>,
    writes: Mutex<Busy>,
}

/// Of one kind of call.
#[derive(Debug, Default)]
struct Measure {
    latency: Histogram,
    bytes: AtomicU64,
}

/// When any call of a direction was under way.
#[derive(Debug, Default)]
struct Busy {
    calls: u64,
    since: Option<Instant>,
    time: Duration,
}

impl Busy {
    fn so_far(&self, now: Instant) -> Duration {
        self.time + self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// Figures of one direction at a moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Direction {
    pub(super) latency: Snapshot,
    pub(super) bytes: u64,
    /// Calls under way.
    pub(super) calls: u64,
    /// Time in which at least one was.
    pub(super) busy: Duration,
}

impl Measures {
    /// Does a call and takes its time. `bytes` says from its result how many bytes of payload it moved.
    pub(crate) fn call<R>(
        &self,
        op: Op,
        call: impl FnOnce() -> R,
        bytes: impl FnOnce(&R) -> u64,
    ) -> R {
        let under_way = UnderWay::begin(self, op);
        let result = call();
        under_way.moved(bytes(&result));
        result
    }

    fn busy(&self, op: Op) -> &Mutex<Busy> {
        if op.reads() { &self.reads } else { &self.writes }
    }

    fn of(&self, op: Op) -> Option<&Measure> {
        self.ops.get(op as usize)
    }

    pub(super) fn latency(&self, op: Op) -> Snapshot {
        self.of(op).map(|measure| measure.latency.snapshot()).unwrap_or_default()
    }

    pub(super) fn bytes(&self, op: Op) -> u64 {
        self.of(op).map_or(0, |measure| measure.bytes.load(Ordering::Relaxed))
    }

    /// Reads, or writes, of all kinds.
    pub(super) fn direction(&self, reads: bool) -> Direction {
        let ops = || Op::ALL.iter().copied().filter(|op| op.reads() == reads);
        let latency = ops().fold(Snapshot::default(), |sum, op| sum.plus(&self.latency(op)));
        let busy = if reads { &self.reads } else { &self.writes }.lock();
        Direction {
            latency,
            bytes: ops().map(|op| self.bytes(op)).sum(),
            calls: busy.calls,
            busy: busy.so_far(Instant::now()),
        }
    }
}

/// A call under way; ends however the call ends.
struct UnderWay<'a> {
    measures: &'a Measures,
    op: Op,
    begun: Instant,
}

impl<'a> UnderWay<'a> {
    fn begin(measures: &'a Measures, op: Op) -> Self {
        let begun = Instant::now();
        let mut busy = measures.busy(op).lock();
        busy.calls += 1;
        busy.since.get_or_insert(begun);
        drop(busy);
        Self { measures, op, begun }
    }

    fn moved(&self, bytes: u64) {
        if let Some(measure) = self.measures.of(self.op) {
            measure.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        if let Some(measure) = self.measures.of(self.op) {
            measure.latency.record(now.saturating_duration_since(self.begun));
        }
        let mut busy = self.measures.busy(self.op).lock();
        busy.calls = busy.calls.saturating_sub(1);
        if busy.calls == 0 {
            busy.time = busy.so_far(now);
            busy.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_calls_overlap_is_counted_once() {
        let measures = Measures::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    measures.call(
                        Op::Get,
                        || std::thread::sleep(Duration::from_millis(50)),
                        |()| 10,
                    );
                });
            }
        });
        let reads = measures.direction(true);
        assert_eq!((reads.calls, reads.bytes, reads.latency.count()), (0, 40, 4));
        assert!(reads.latency.seconds() >= 0.2);
        assert!(reads.busy >= Duration::from_millis(50));
        assert!(reads.busy < Duration::from_secs_f64(reads.latency.seconds()));
        assert_eq!(measures.direction(false).latency.count(), 0);
    }

    #[test]
    fn a_call_that_panics_is_no_longer_under_way() {
        let measures = Measures::default();
        let call = || measures.call(Op::Put, || panic!("as wanted"), |()| 1);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
        let writes = measures.direction(false);
        assert_eq!((writes.calls, writes.bytes, writes.latency.count()), (0, 0, 1));
    }
}
