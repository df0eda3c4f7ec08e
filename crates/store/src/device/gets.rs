//! Gets on a stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_engine::device::{Event, Stream};

use super::context::Device;
use super::held::{self, Held};
use super::launch::{Flight, Launch};
use super::memory::{DeviceRun, DeviceSink};
use super::plan::Plan;
use super::reaper::Pending;
use crate::object::{Range, Verdict};
use crate::pool::{Pool, count};
use crate::put::check_key;
use crate::{Lookup, MissReason, StoreError};

/// Gets under way on a stream.
///
/// What the stream does after [`crate::Store::get_on`] sees the bytes that the drives returned, but only
/// [`DeviceGets::wait`] says whether they are what was stored. Dropping this gives the gets up: nothing
/// waits, and memory and objects stay held until the I/O has ended.
#[derive(Debug)]
pub struct DeviceGets {
    inner: Option<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: Arc<Pool>,
    device: Arc<Device>,
    reads: Vec<Read>,
    /// `None` when the host does everything.
    flight: Option<Flight>,
    /// The end of what was in the stream before.
    before: Event,
}

#[derive(Debug)]
enum Read {
    Over(Result<Lookup, StoreError>),
    UnderWay { held: Arc<Held>, sink: DeviceSink, item: usize },
}

/// How long streams may take in all: the engine gives the work before the I/O one deadline and the I/O
/// another, and may have to recover the drive.
pub(super) fn patience(pool: &Pool) -> Duration {
    pool.options.io_deadline * 4
}

impl DeviceGets {
    pub(crate) fn begin(
        pool: &Arc<Pool>,
        stream: &Stream,
        items: impl IntoIterator<Item = (Vec<u8>, DeviceSink)>,
    ) -> Result<Self, StoreError> {
        pool.check_open()?;
        let device = pool.device(stream.gpu());
        let before = stream.record()?;
        let mut plan = Plan::default();
        let (mut reads, mut segments) = (Vec::new(), 0);
        for (key, sink) in items {
            let item = plan.items.len();
            reads.push(match resolve(pool, stream, &key, Range::Whole, &sink) {
                Ok(Ok(held)) => match plan.read(held.places(), 0, &sink.spans(segments), true) {
                    Ok(()) => {
                        segments += sink.segments().len();
                        Read::UnderWay { held, sink, item }
                    }
                    Err(error) => Read::Over(Err(error)),
                },
                Ok(Err(reason)) => {
                    count(&pool.counters.misses, 1);
                    Read::Over(Ok(Lookup::Miss(reason)))
                }
                Err(error) => Read::Over(Err(error)),
            });
        }
        let flight = match plan.items.is_empty() || device.direct.is_none() {
            true => None,
            false => {
                let runs: Vec<&DeviceRun> = reads.iter().filter_map(Read::sink).collect();
                let launched = Launch::read(pool, &device, stream, &plan, &runs);
                launched.inspect_err(|error| tracing::debug!(%error, "left to the host")).ok()
            }
        };
        let pool = Arc::clone(pool);
        Ok(Self { inner: Some(Inner { pool, device, reads, flight, before }) })
    }

    /// Whether [`DeviceGets::wait`] would not have to wait for the stream.
    pub fn poll(&mut self) -> bool {
        self.inner.as_mut().is_none_or(Inner::ended)
    }

    /// Point of the stream from which on the bytes are there as the drives returned them, unverified.
    /// `None` where the host moves them: then they come with [`DeviceGets::wait`].
    #[must_use]
    pub fn landed(&self) -> Option<&Event> {
        self.inner.as_ref()?.flight.as_ref()?.landed()
    }

    /// Waits for the stream and verifies everything. One result for each item, in order: with a hit, its
    /// memory holds exactly the bytes of an acknowledged put; otherwise what is in it is unspecified.
    ///
    /// What the GPU and the drives did not bring to a good end is done by the host, which takes as long as
    /// [`crate::Store::get`]. If the stream does not come to an end within four I/O deadlines, the gets are
    /// misses; memory that is not the store's own must then stay until the stream has passed.
    pub fn wait(mut self) -> Vec<Result<Lookup, StoreError>> {
        self.inner.take().map_or_else(Vec::new, Inner::wait)
    }
}

impl Drop for DeviceGets {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            let pool = Arc::clone(&inner.pool);
            pool.reaper.keep(Box::new(inner));
        }
    }
}

/// Finds an object and takes a hold on it.
pub(super) fn resolve(
    pool: &Arc<Pool>,
    stream: &Stream,
    key: &[u8],
    range: Range,
    sink: &DeviceSink,
) -> Result<Result<Arc<Held>, MissReason>, StoreError> {
    check_key(key)?;
    sink.check(stream.gpu())?;
    let found = pool.find_and_hold(key, range, sink.len())?;
    Ok(found.map(|object| Held::new(pool, object, key)))
}

impl Read {
    fn over(self) -> Option<Result<Lookup, StoreError>> {
        match self {
            Read::Over(result) => Some(result),
            Read::UnderWay { .. } => None,
        }
    }

    fn sink(&self) -> Option<&DeviceSink> {
        match self {
            Read::Over(_) => None,
            Read::UnderWay { sink, .. } => Some(sink),
        }
    }
}

impl Inner {
    fn wait(mut self) -> Vec<Result<Lookup, StoreError>> {
        let end = Instant::now() + patience(&self.pool);
        if self.reads.iter().all(|read| matches!(read, Read::Over(_))) {
            return self.reads.into_iter().filter_map(Read::over).collect();
        }
        let in_time = match &mut self.flight {
            Some(flight) => flight.wait(patience(&self.pool)),
            None => true,
        };
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let passed = match in_time {
            true => held::passed(&self.before, left),
            false => Err(held::not_passed()),
        };
        // Without the flight nothing is under way that could come later.
        let passed = passed.map_err(|verdict| verdict.settled(self.flight.is_none()));
        let reads = std::mem::take(&mut self.reads);
        if let Err(verdict) = passed {
            return self.give_up(reads, &verdict);
        }
        reads.into_iter().map(|read| self.conclude(read)).collect()
    }

    /// The stream did not pass: what is under way stays held until it has.
    fn give_up(mut self, reads: Vec<Read>, verdict: &Verdict) -> Vec<Result<Lookup, StoreError>> {
        let mut results = Vec::with_capacity(reads.len());
        for read in reads {
            results.push(match read {
                Read::Over(result) => result,
                under_way => {
                    self.reads.push(under_way);
                    count(&self.pool.counters.misses, 1);
                    Ok(Lookup::Miss(self.pool.reason(verdict.clone())))
                }
            });
        }
        let pool = Arc::clone(&self.pool);
        pool.reaper.keep(Box::new(self));
        results
    }

    fn conclude(&mut self, read: Read) -> Result<Lookup, StoreError> {
        let (held, sink, item) = match read {
            Read::Over(result) => return result,
            Read::UnderWay { held, sink, item } => (held, sink, item),
        };
        let verdict = match &mut self.flight {
            Some(flight) => held::ended(&held, flight, item, &mut None),
            None => Err(Verdict::Failed { detail: "not started on the GPU".to_owned() }),
        };
        conclude(&self.device, &held, 0, &sink, verdict)
    }
}

/// Turns what the device path found into the result of a get, with the help of the host where needed.
pub(super) fn conclude(
    device: &Device,
    held: &Held,
    offset: u64,
    sink: &DeviceSink,
    verdict: Result<(), Verdict>,
) -> Result<Lookup, StoreError> {
    let pool = held.pool();
    let verdict = match verdict {
        Ok(()) => {
            count(&pool.counters.device_gets, 1);
            Verdict::Good
        }
        // What is still under way would overwrite what the host brought and verified.
        Err(late @ Verdict::Unfinished { .. }) => late,
        Err(first) => {
            let key = held.key.escape_ascii();
            match &first {
                Verdict::Damaged { .. } => {
                    tracing::warn!(%key, verdict = ?first, "object damaged, reading it again");
                }
                other => device.fell_back(pool, &format!("{other:?}")),
            }
            held.read_by_host(device, offset, sink, &first)
        }
    };
    match verdict {
        Verdict::Good => {
            count(&pool.counters.hits, 1);
            count(&pool.counters.get_bytes, sink.len());
            Ok(Lookup::Hit(held.object.info.clone()))
        }
        bad => {
            if matches!(bad, Verdict::Damaged { .. }) {
                held.drop_damaged();
            }
            count(&pool.counters.misses, 1);
            Ok(Lookup::Miss(pool.reason(bad)))
        }
    }
}

impl Pending for Inner {
    fn ended(&mut self) -> bool {
        self.flight.as_mut().is_none_or(Flight::ended)
    }

    fn finish(self: Box<Self>) {}
}
