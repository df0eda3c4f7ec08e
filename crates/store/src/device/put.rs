//! Puts on a stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_engine::device::{Event, Stream};
use gcos_layout::media::PutRecord;

use super::context::Device;
use super::gets::patience;
use super::held;
use super::launch::{Failed, Flight, Launch};
use super::memory::{DeviceSource, Direction};
use super::plan::{Places, Plan};
use super::reaper::Pending;
use crate::payload::{Fetch, From};
use crate::pool::{Pool, count};
use crate::put::{Begun, Writing};
use crate::retry::{Failed as PutFailed, Retry};
use crate::{Durability, PutOptions, PutOutcome, StoreError};

/// A put under way on a stream.
///
/// The stream goes on when the payload has been read; what was put there may be overwritten by what comes
/// behind [`crate::Store::put_on`] in it only after [`DevicePut::wait`] has returned, since the put may have
/// to read it again. Nobody sees the object before. Dropping this gives the put up: nothing waits, and its
/// space is free when the I/O has ended.
#[derive(Debug)]
pub struct DevicePut {
    inner: Option<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: Arc<Pool>,
    device: Arc<Device>,
    key: Vec<u8>,
    source: DeviceSource,
    options: PutOptions,
    state: State,
    /// The end of what was in the stream before: the payload is there then.
    before: Event,
}

#[derive(Debug)]
enum State {
    /// The key exists and stays; its record may still wait in the journal of this drive.
    Kept(Option<u8>),
    /// Its space is taken.
    Writing(Box<Data>),
}

/// A put whose data is on its way.
#[derive(Debug)]
struct Data {
    writing: Writing,
    /// `None`: the host does everything.
    flight: Option<Flight>,
}

/// A payload in GPU memory, as the host reads it.
#[derive(Debug)]
struct FromDevice<'a> {
    device: &'a Device,
    source: &'a DeviceSource,
    deadline: Duration,
}

impl Fetch for FromDevice<'_> {
    fn fetch(&self, offset: usize, out: &mut [u8]) -> Result<(), StoreError> {
        let offset = offset as u64;
        self.device.move_bytes(self.source, offset, out, Direction::Out, self.deadline)
    }
}

fn places<'a>(record: &'a PutRecord, writing: &Writing) -> Places<'a> {
    Places {
        shape: record.shape,
        pieces: &record.pieces,
        head: record.head,
        header_bytes: writing.header_bytes().into(),
    }
}

impl DevicePut {
    pub(crate) fn begin(
        pool: &Arc<Pool>,
        stream: &Stream,
        key: &[u8],
        source: DeviceSource,
        options: &PutOptions,
    ) -> Result<Self, StoreError> {
        loop {
            match Self::try_begin(pool, stream, key, &source, options, true)? {
                Some(put) => return Ok(put),
                None => pool.await_key(key)?,
            }
        }
    }

    /// As [`DevicePut::begin`]; `None` while another put of the key is under way. Work that is given to the stream
    /// later need not come behind the put if it is not `ordered`.
    fn try_begin(
        pool: &Arc<Pool>,
        stream: &Stream,
        key: &[u8],
        source: &DeviceSource,
        options: &PutOptions,
        ordered: bool,
    ) -> Result<Option<Self>, StoreError> {
        source.check(stream.gpu())?;
        let device = pool.device(stream.gpu());
        let before = stream.record()?;
        let state = match pool.prepare_put(key, source.len(), options, 0)? {
            Begun::Busy => return Ok(None),
            Begun::Kept(waits) => State::Kept(waits),
            Begun::Writing(writing) => {
                let flight = launch(pool, &device, stream, &writing, source, ordered);
                State::Writing(Box::new(Data { writing, flight }))
            }
        };
        let (pool, key, options) = (Arc::clone(pool), key.to_vec(), *options);
        let source = source.clone();
        Ok(Some(Self { inner: Some(Inner { pool, device, key, source, options, state, before }) }))
    }

    /// Puts several objects, those that are under way together. Never waits for others while they may
    /// wait for what this holds.
    pub(crate) fn put_many(
        pool: &Arc<Pool>,
        stream: &Stream,
        items: impl IntoIterator<Item = (Vec<u8>, DeviceSource)>,
        options: &PutOptions,
    ) -> Vec<Result<PutOutcome, StoreError>> {
        let (mut results, mut batch) = (Vec::new(), Vec::new());
        for (key, source) in items {
            let failed = loop {
                // All of them have ended when this returns.
                match Self::try_begin(pool, stream, &key, &source, options, false) {
                    Ok(Some(put)) => {
                        batch.push(put);
                        break None;
                    }
                    Ok(None) | Err(StoreError::Full { .. }) if !batch.is_empty() => {
                        results.append(&mut Self::wait_all(std::mem::take(&mut batch)));
                    }
                    Ok(None) => {
                        if let Err(error) = pool.await_key(&key) {
                            break Some(error);
                        }
                    }
                    Err(error) => break Some(error),
                }
            };
            if let Some(error) = failed {
                results.append(&mut Self::wait_all(std::mem::take(&mut batch)));
                results.push(Err(error));
            }
        }
        results.append(&mut Self::wait_all(batch));
        results
    }

    /// Whether [`DevicePut::wait`] would not have to wait for the stream.
    pub fn poll(&mut self) -> bool {
        self.inner.as_mut().is_none_or(Inner::ended)
    }

    /// Waits for the stream, writes what is left and makes the object durable, as [`crate::Store::put`]
    /// does.
    ///
    /// # Errors
    /// As [`crate::Store::put`]; nothing of the object is visible then.
    pub fn wait(self) -> Result<PutOutcome, StoreError> {
        Self::wait_all(vec![self]).pop().unwrap_or(Err(StoreError::Closed))
    }

    /// Waits for several puts, whose records then go together. One result for each, in order.
    pub fn wait_all(puts: Vec<Self>) -> Vec<Result<PutOutcome, StoreError>> {
        let mut results: Vec<Option<Result<PutOutcome, StoreError>>> = Vec::new();
        let mut groups: Vec<Group> = Vec::new();
        let (mut inners, mut again) = (Vec::new(), Vec::new());
        for (index, mut put) in puts.into_iter().enumerate() {
            let Some(mut inner) = put.inner.take() else {
                results.push(Some(Err(StoreError::Closed)));
                inners.push(None);
                continue;
            };
            let (pool, durability) = (Arc::clone(&inner.pool), inner.options.durability);
            results.push(match inner.finish() {
                Ok(Finished::Kept) => Some(Ok(PutOutcome::Kept)),
                Ok(Finished::Writing(writing)) => {
                    Group::of(&mut groups, &pool, durability).add(index, writing);
                    None
                }
                Ok(Finished::Again(failed)) => {
                    again.push((index, failed));
                    None
                }
                Err(error) => Some(Err(error)),
            });
            inners.push(Some(inner));
        }
        for Group { pool, durability, indices, puts } in groups {
            let outcomes = pool.commit_puts(puts, durability);
            for (index, outcome) in indices.into_iter().zip(outcomes) {
                match (outcome, results.get_mut(index)) {
                    (Ok(outcome), Some(place)) => *place = Some(Ok(outcome)),
                    (Err(failed), _) => again.push((index, Some(failed))),
                    _ => {}
                }
            }
        }
        // All others have ended, so these may wait for whom they like.
        for (index, failed) in again {
            let inner = inners.get_mut(index).and_then(Option::as_mut);
            if let (Some(inner), Some(place)) = (inner, results.get_mut(index)) {
                *place = Some(inner.begin_again(failed));
            }
        }
        results.into_iter().map(|result| result.unwrap_or(Err(StoreError::Closed))).collect()
    }
}

/// Written puts whose records go together.
struct Group {
    pool: Arc<Pool>,
    durability: Durability,
    indices: Vec<usize>,
    puts: Vec<Result<Writing, StoreError>>,
}

impl Group {
    /// The group of a pool and durability.
    fn of<'a>(groups: &'a mut Vec<Self>, pool: &Arc<Pool>, durability: Durability) -> &'a mut Self {
        let same = |group: &Self| Arc::ptr_eq(&group.pool, pool) && group.durability == durability;
        let index = groups.iter().position(same).unwrap_or(groups.len());
        if index == groups.len() {
            let (pool, indices, puts) = (Arc::clone(pool), Vec::new(), Vec::new());
            groups.push(Self { pool, durability, indices, puts });
        }
        &mut groups[index]
    }

    fn add(&mut self, index: usize, writing: Writing) {
        self.indices.push(index);
        self.puts.push(Ok(writing));
    }
}

/// Starts checksums and writes; `None` leaves both to the host.
fn launch(
    pool: &Arc<Pool>,
    device: &Arc<Device>,
    stream: &Stream,
    writing: &Writing,
    source: &DeviceSource,
    ordered: bool,
) -> Option<Flight> {
    device.direct.as_ref()?;
    let mut plan = Plan::default();
    let record = writing.record();
    plan.write(places(record, writing), &source.spans(0))
        .and_then(|()| Launch::write(pool, device, stream, &plan, source, ordered))
        .inspect_err(|error| tracing::debug!(%error, "left to the host"))
        .ok()
}

/// A put whose data is written, or at least under way by the host's queues.
enum Finished {
    Kept,
    Writing(Writing),
    /// It is to begin again, and holds nothing: a drive has failed it, or the object that was to be kept is gone.
    Again(Option<PutFailed>),
}

impl Inner {
    fn ended(&mut self) -> bool {
        match &mut self.state {
            State::Kept(_) => true,
            State::Writing(data) => match &mut data.flight {
                Some(flight) => flight.ended(),
                None => self.before.query().unwrap_or(true),
            },
        }
    }

    fn finish(&mut self) -> Result<Finished, StoreError> {
        match std::mem::replace(&mut self.state, State::Kept(None)) {
            State::Kept(waits) => {
                match self.pool.keep(&self.key, waits, self.options.durability)? {
                    true => Ok(Finished::Kept),
                    false => Ok(Finished::Again(None)),
                }
            }
            State::Writing(data) => self.write(*data),
        }
    }

    fn write(&self, data: Data) -> Result<Finished, StoreError> {
        let Data { mut writing, flight } = data;
        let end = Instant::now() + patience(&self.pool);
        let arrived = match flight {
            None => Err(None),
            Some(mut flight) => {
                if !flight.wait(patience(&self.pool)) {
                    let data = Data { writing, flight: Some(flight) };
                    self.pool.reaper.keep(Box::new(data));
                    return Err(held::late());
                }
                flight.item(0).map_err(Some)
            }
        };
        let pin = self.options.pin;
        let done = match arrived {
            Ok(arrived) => {
                count(&self.pool.counters.device_puts, 1);
                writing.submit_header(arrived.sums, pin)
            }
            Err(failed) => self.write_by_host(&mut writing, failed, end),
        };
        Ok(match done {
            Ok(()) => Finished::Writing(writing),
            Err(error) => Finished::Again(Some(writing.give_up(error))),
        })
    }

    /// Puts it again, by the host. It may wait for other puts of the key, so nothing else may be held.
    fn begin_again(&self, failed: Option<PutFailed>) -> Result<PutOutcome, StoreError> {
        let (mut retry, mut failed) = (Retry::default(), failed);
        loop {
            if let Some(failed) = failed.take() {
                retry.again(&self.pool, failed)?;
            }
            let writing = match self.again(retry.avoid)? {
                Finished::Kept => return Ok(PutOutcome::Kept),
                Finished::Writing(writing) => writing,
                Finished::Again(why) => {
                    failed = why;
                    continue;
                }
            };
            let mut outcomes = self.pool.commit_puts(vec![Ok(writing)], self.options.durability);
            failed = match outcomes.pop() {
                Some(Err(failed)) => Some(failed),
                Some(Ok(outcome)) => return Ok(outcome),
                None => return Err(StoreError::Closed),
            };
        }
    }

    /// The GPU and the drives did not bring it to a good end: the host reads the payload and writes it.
    fn write_by_host(
        &self,
        writing: &mut Writing,
        failed: Option<Failed>,
        end: Instant,
    ) -> Result<(), StoreError> {
        let why = match &failed {
            Some(failed) => failed.error.chain(),
            None => "not started on the GPU".to_owned(),
        };
        self.device.fell_back(&self.pool, &why);
        // The payload is there once what was in the stream before has ended, and not earlier.
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.before.synchronize(left)?;
        writing.submit(&From::Device(&self.source()), self.options.pin)
    }

    fn source(&self) -> FromDevice<'_> {
        let deadline = self.pool.options.io_deadline;
        FromDevice { device: &self.device, source: &self.source, deadline }
    }

    /// One more try, by the host, on drives other than `avoid` (bit mask).
    fn again(&self, avoid: u64) -> Result<Finished, StoreError> {
        loop {
            let len = self.source.len();
            match self.pool.prepare_put(&self.key, len, &self.options, avoid)? {
                Begun::Kept(waits) => {
                    if self.pool.keep(&self.key, waits, self.options.durability)? {
                        return Ok(Finished::Kept);
                    }
                }
                Begun::Busy => self.pool.await_key(&self.key)?,
                Begun::Writing(writing) => return self.write(Data { writing, flight: None }),
            }
        }
    }
}

impl Pending for Data {
    fn ended(&mut self) -> bool {
        self.flight.as_mut().is_none_or(Flight::ended)
    }

    /// The put was given up.
    fn finish(self: Box<Self>) {
        self.writing.abandon(&StoreError::invalid("put on a stream", "a wait for its end", "none"));
    }
}

impl Drop for DevicePut {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        if let State::Writing(data) = inner.state {
            inner.pool.reaper.keep(data);
        }
    }
}
