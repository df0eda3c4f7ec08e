//! Reading objects, whole or in part, and proving that what was read is what was put.

use std::collections::VecDeque;

use gcos_engine::{Extent, IoErrorKind, Op, Request, Ticket};
use gcos_layout::checksum::crc32c;
use gcos_layout::media::{BLOCK_BYTES, GRAIN_BYTES, Location, ObjectHeader, Shape};
use smallvec::SmallVec;

use crate::memory::Sink;
use crate::object::{Object, Range, Verdict, check_grains};
use crate::payload::{Into, Segments, grains_of, unit_bytes};
use crate::pool::{Pool, count};
use crate::put::check_key;
use crate::staging::Lease;
use crate::{Lookup, MissReason, StoreError};

/// Payload units of one object in flight.
const WINDOW: usize = 32;

/// How a get began.
pub(crate) enum Begun<'a> {
    Miss(MissReason),
    Reading(Box<Reading<'a>>),
}

/// A contiguous stretch of payload, to be read by one request.
#[derive(Debug, Clone, Copy)]
struct Unit {
    piece: Option<usize>,
    payload_offset: u32,
    /// Offset from the start of the piece or tail.
    offset: u32,
    len: u32,
}

/// A request under way.
struct InFlight {
    unit: Unit,
    drive: u8,
    ticket: Option<Box<dyn Ticket>>,
    /// The payload, padded to blocks.
    segments: Segments,
    /// Bytes at the start of the unit that go to the target directly.
    direct: usize,
    _lease: Option<Lease>,
}

/// A get between its first read and its verdict.
pub(crate) struct Reading<'a> {
    pool: &'a Pool,
    object: Object,
    key: Vec<u8>,
    /// Wanted bytes.
    offset: u32,
    len: u32,
    sink: Into<'a>,
    header: Option<(Box<dyn Ticket>, Lease)>,
    /// The first unit of the tail, read together with the header.
    units: VecDeque<Unit>,
    in_flight: VecDeque<InFlight>,
    /// Drive of the last request that was submitted.
    culprit: u8,
}

impl Pool {
    /// Looks a key up and submits the first reads.
    pub(crate) fn begin_get<'a>(
        &'a self,
        key: &[u8],
        range: Range,
        sink: Sink<'a>,
    ) -> Result<Begun<'a>, StoreError> {
        self.check_open()?;
        check_key(key)?;
        let target = sink.len();
        let object = match self.find_and_hold(key, range, target)? {
            Ok(object) => object,
            Err(reason) => return Ok(Begun::Miss(reason)),
        };
        let offset = range.offset();
        let mut reading = Box::new(Reading {
            pool: self,
            key: key.to_vec(),
            offset,
            len: u32::try_from(target).unwrap_or(u32::MAX),
            sink: Into::new(sink),
            header: None,
            units: units(&object.shape, offset, target),
            in_flight: VecDeque::new(),
            culprit: object.head.drive,
            object,
        });
        match reading.start() {
            Ok(()) => Ok(Begun::Reading(reading)),
            Err(error) => {
                // What was submitted ends here, and the hold with it.
                let (_, verdict) = reading.finish_with(Err(error));
                Ok(Begun::Miss(self.reason(verdict)))
            }
        }
    }

    /// Ends a get: counts it, and drops an object that is damaged.
    pub(crate) fn conclude(&self, reading: Reading<'_>, retry: bool) -> Result<Lookup, StoreError> {
        let (object, key, range) = (reading.object.clone(), reading.key.clone(), reading.offset);
        let len = reading.len;
        let (sink, mut verdict) = reading.finish_with(Ok(()));
        if retry && matches!(verdict, Verdict::Damaged { .. }) {
            tracing::warn!(key = %key.escape_ascii(), ?verdict, "object damaged, reading it again");
            verdict = self.read_again(&object, key.clone(), range, len, sink);
        }
        match verdict {
            Verdict::Good => {
                count(&self.counters.hits, 1);
                count(&self.counters.get_bytes, len.into());
                Ok(Lookup::Hit(object.info))
            }
            bad => {
                if matches!(bad, Verdict::Damaged { .. }) {
                    self.drop_damaged(&key, object.generation);
                }
                Ok(Lookup::Miss(self.reason(bad)))
            }
        }
    }

    /// Reads `len` bytes at `offset` of an object that was found before, under a hold of its own.
    pub(crate) fn read_again(
        &self,
        object: &Object,
        key: Vec<u8>,
        offset: u32,
        len: u32,
        sink: Into<'_>,
    ) -> Verdict {
        if let Err(verdict) = self.hold_again(object) {
            return verdict;
        }
        let mut again = Reading {
            pool: self,
            object: object.clone(),
            key,
            offset,
            len,
            sink,
            header: None,
            units: units(&object.shape, offset, len.into()),
            in_flight: VecDeque::new(),
            culprit: object.head.drive,
        };
        let started = again.start();
        again.finish_with(started).1
    }
}

/// The units that cover `len` wanted bytes at `offset`, in whole grains.
fn units(shape: &Shape, offset: u32, len: u64) -> VecDeque<Unit> {
    let start = offset / GRAIN_BYTES * GRAIN_BYTES;
    let end = (u64::from(offset) + len).next_multiple_of(GRAIN_BYTES.into());
    let end = u32::try_from(end.min(shape.payload_len().into())).unwrap_or(u32::MAX);
    let (unit, mut out) = (unit_bytes(shape.payload_len()), VecDeque::new());
    for part in shape.parts(start, end - start) {
        let mut done = 0;
        while done < part.len {
            let take = (part.len - done).min(unit);
            out.push_back(Unit {
                piece: part.piece,
                payload_offset: part.payload_offset + done,
                offset: part.offset + done,
                len: take,
            });
            done += take;
        }
    }
    out
}

impl Reading<'_> {
    fn header_bytes(&self) -> u32 {
        self.object.header_bytes(&self.key)
    }

    fn start(&mut self) -> Result<(), StoreError> {
        // The start of the tail lies behind the header: one request reads both.
        let first = match self.units.iter().position(|u| u.piece.is_none() && u.offset == 0) {
            Some(index) => self.units.remove(index),
            None => None,
        };
        self.submit_header(first)?;
        while self.in_flight.len() < WINDOW && !self.units.is_empty() {
            self.submit_next()?;
        }
        Ok(())
    }

    fn submit_header(&mut self, unit: Option<Unit>) -> Result<(), StoreError> {
        let front = self.header_bytes() as usize;
        let head = self.object.head;
        let (segments, direct, lease) = self.target(front, unit)?;
        let lease = lease.ok_or(StoreError::Closed)?;
        let ticket = self.submit(head, 0, segments.clone())?;
        if let Some(unit) = unit {
            let mut payload = Segments::new();
            let mut skip = front;
            for segment in segments {
                let cut = skip.min(segment.len());
                skip -= cut;
                if cut < segment.len() {
                    payload.push(segment.slice(cut, segment.len() - cut)?);
                }
            }
            let (drive, ticket) = (head.drive, None);
            self.in_flight.push_front(InFlight {
                unit,
                drive,
                ticket,
                segments: payload,
                direct,
                _lease: None,
            });
        }
        self.header = Some((ticket, lease));
        Ok(())
    }

    fn submit_next(&mut self) -> Result<(), StoreError> {
        let Some(unit) = self.units.pop_front() else { return Ok(()) };
        let (slot, at) = self.object.place(&self.key, unit.piece, unit.offset)?;
        let (segments, direct, lease) = self.target(0, Some(unit))?;
        let ticket = Some(self.submit(slot, at, segments.clone())?);
        self.in_flight.push_back(InFlight {
            unit,
            drive: slot.drive,
            ticket,
            segments,
            direct,
            _lease: lease,
        });
        Ok(())
    }

    /// Memory for a request: `front` staged bytes, then the unit padded to blocks, as much of it as
    /// possible in the target itself. Tells how much.
    fn target(
        &self,
        front: usize,
        unit: Option<Unit>,
    ) -> Result<(Segments, usize, Option<Lease>), StoreError> {
        let len = unit.map_or(0, |u| u.len as usize);
        let padded = len.next_multiple_of(BLOCK_BYTES);
        let (direct, inside) = match unit {
            Some(unit) if self.wanted(unit) == (0, unit.len) => {
                let at = (unit.payload_offset - self.offset) as usize;
                let whole = len / BLOCK_BYTES * BLOCK_BYTES;
                match self.sink.direct(at, whole) {
                    Some(segments) => (segments, whole),
                    None => (Segments::new(), 0),
                }
            }
            _ => (Segments::new(), 0),
        };
        let staged = front + padded - inside;
        if staged == 0 {
            return Ok((direct, inside, None));
        }
        let lease = self.pool.staging.take(staged)?;
        let mut segments = Segments::new();
        if inside == 0 {
            segments.push(lease.slice(0, staged)?);
        } else {
            if front > 0 {
                segments.push(lease.slice(0, front)?);
            }
            segments.extend(direct);
            if padded > inside {
                segments.push(lease.slice(front, padded - inside)?);
            }
        }
        Ok((segments, inside, Some(lease)))
    }

    /// Which bytes of a unit are wanted: start and length within the unit.
    fn wanted(&self, unit: Unit) -> (u32, u32) {
        let start = self.offset.max(unit.payload_offset);
        let end = self.offset.saturating_add(self.len).min(unit.payload_offset + unit.len);
        (start - unit.payload_offset.min(start), end.saturating_sub(start))
    }

    fn submit(
        &mut self,
        slot: Location,
        at: u64,
        segments: Segments,
    ) -> Result<Box<dyn Ticket>, StoreError> {
        // Until it is known better, what goes wrong is this drive's.
        self.culprit = slot.drive;
        let drive = self.pool.drive(slot.drive).ok_or(StoreError::Closed)?;
        let len = segments.iter().map(|s| s.len() as u64).sum();
        let extents = SmallVec::from_buf([Extent { offset: drive.offset(slot, at)?, len }]);
        let deadline = self.pool.options.io_deadline;
        Ok(drive.io.engine.submit(Request { op: Op::Read, extents, segments, deadline })?)
    }

    /// Waits for everything, verifies and delivers it, and ends the hold on the object. The target is
    /// given back for another try.
    fn finish_with<'s>(mut self, started: Result<(), StoreError>) -> (Into<'s>, Verdict)
    where
        Self: 's,
    {
        let mut verdict = match started {
            Ok(()) => self.verify().unwrap_or_else(|verdict| verdict),
            Err(error) => self.pool.verdict(self.culprit, &error),
        };
        // Whatever the verdict: nothing may write to the target after this, or whoever asked has to know that.
        let header = self.header.take().map(|(ticket, lease)| (ticket, Some(lease)));
        let parts = self.in_flight.drain(..).filter_map(|part| Some((part.ticket?, part._lease)));
        for (ticket, _lease) in header.into_iter().chain(parts) {
            if let Err(error) = ticket.wait()
                && error.kind == IoErrorKind::Unfinished
            {
                verdict = Verdict::Unfinished { detail: error.to_string() };
            }
        }
        // No drive knows of plain memory: what comes late lands in staging memory.
        let verdict = verdict.settled(matches!(self.sink, Into::Bytes(_)));
        self.pool.unhold(&self.object);
        (std::mem::replace(&mut self.sink, Into::Bytes(&mut [])), verdict)
    }

    fn verify(&mut self) -> Result<Verdict, Verdict> {
        let header = self.read_header()?;
        while let Some(mut part) = self.in_flight.pop_front() {
            let waited = part.ticket.take().map_or(Ok(()), Ticket::wait);
            waited.map_err(|error| self.pool.verdict(part.drive, &error.into()))?;
            self.verify_unit(&part, &header)?;
            if !self.units.is_empty() {
                let next = self.submit_next();
                next.map_err(|error| self.pool.verdict(self.culprit, &error))?;
            }
        }
        Ok(Verdict::Good)
    }

    fn read_header(&mut self) -> Result<ObjectHeader, Verdict> {
        let drive = self.object.head.drive;
        let Some((ticket, lease)) = self.header.take() else {
            return Err(Verdict::Damaged { drive, detail: "no header".to_owned() });
        };
        ticket.wait().map_err(|error| self.pool.verdict(drive, &error.into()))?;
        let mut bytes = vec![0; self.header_bytes() as usize];
        let copied = lease.slice(0, bytes.len()).and_then(|s| Ok(s.read(0, &mut bytes)?));
        copied.map_err(|error| self.pool.verdict(drive, &error))?;
        // The tail's first unit may lie behind it in the same lease.
        if let Some(part) = self.in_flight.front_mut()
            && part.unit.piece.is_none()
            && part.ticket.is_none()
        {
            part._lease = Some(lease);
        }
        self.object.header(&self.key, &bytes)
    }

    /// Checks the grains of a unit and copies what is wanted and not yet there to the target.
    fn verify_unit(&mut self, part: &InFlight, header: &ObjectHeader) -> Result<(), Verdict> {
        let unit = part.unit;
        let (start, len) = self.wanted(unit);
        let at = (unit.payload_offset + start).saturating_sub(self.offset) as usize;
        let mut grains = Vec::with_capacity(17);
        let whole = (start, len) == (0, unit.len);
        let checked = if whole && let Some(target) = self.sink.bytes_mut(at, len as usize) {
            // Plain memory: copy first and check the copy, in one pass over the staged bytes.
            let copied = copy_out(&part.segments, target);
            grains.extend(target.chunks(GRAIN_BYTES as usize).map(crc32c));
            copied
        } else {
            grains_of(&part.segments, unit.len as usize, &mut grains)
        };
        checked.map_err(|error| self.pool.verdict(part.drive, &error))?;
        let first = (unit.payload_offset / GRAIN_BYTES) as usize;
        check_grains(header, first, &grains, part.drive)?;
        let staged = if whole { part.direct } else { 0 };
        let plain = whole && matches!(self.sink, Into::Bytes(_));
        if !plain && staged < len as usize {
            let from = start as usize + staged;
            let rest = len as usize - staged;
            let copied = self.sink.copy_in(at + staged, &part.segments, from, rest);
            copied.map_err(|error| self.pool.verdict(part.drive, &error))?;
        }
        count(&self.pool.counters.staged_bytes, u64::from(len) - staged as u64);
        Ok(())
    }
}

/// Copies the start of the segments to plain memory.
fn copy_out(segments: &Segments, target: &mut [u8]) -> Result<(), StoreError> {
    let mut left = target;
    for segment in segments {
        let take = left.len().min(segment.len());
        let (now, later) = left.split_at_mut(take);
        segment.read(0, now)?;
        left = later;
    }
    Ok(())
}
