//! Several reads in flight, finished in order.

use std::collections::{BTreeMap, VecDeque};

use gcos_engine::{Request, Ticket};
use gcos_hw::{DmaBuffer, DmaSlice};

use super::plan::{Read, Segment};
use crate::disk::TRANSFER_BYTES;
use crate::pool::Pool;
use crate::{CheckError, DiskError};

/// Reads in flight, over all drives.
const DEPTH: usize = 16;

/// A read that was started, or could not be.
struct Flight {
    read: Read,
    buffer: DmaBuffer,
    segment: DmaSlice,
    ticket: Result<Box<dyn Ticket>, DiskError>,
}

/// Carries out the reads and hands each segment's bytes, or why there are none, to `sink`, in order.
pub(super) fn run(
    pool: &Pool<'_>,
    mut reads: impl Iterator<Item = Read>,
    mut sink: impl FnMut(&Segment, Result<&[u8], &DiskError>),
) -> Result<(), CheckError> {
    let mut spare: BTreeMap<u8, Vec<DmaBuffer>> = BTreeMap::new();
    let mut flights = VecDeque::new();
    let mut bytes = vec![0; TRANSFER_BYTES];
    loop {
        while flights.len() < DEPTH {
            let Some(read) = reads.next() else { break };
            if let Some(flight) = start(pool, read, &mut spare)? {
                flights.push_back(flight);
            }
        }
        let Some(Flight { read, buffer, segment, ticket }) = flights.pop_front() else {
            return Ok(());
        };
        let result = ticket.and_then(|ticket| Ok(ticket.wait()?));
        let out = bytes.get_mut(..read.len).unwrap_or_default();
        match result.and_then(|()| Ok(segment.read(0, out)?)) {
            Ok(()) => deliver(&read, out, &mut sink),
            Err(_) => one_by_one(pool, &read, &mut sink),
        }
        drop(segment);
        spare.entry(read.drive).or_default().push(buffer);
    }
}

fn start(
    pool: &Pool<'_>,
    read: Read,
    spare: &mut BTreeMap<u8, Vec<DmaBuffer>>,
) -> Result<Option<Flight>, CheckError> {
    let Some(drive) = pool.drive(read.drive) else { return Ok(None) };
    let engine = drive.disk.engine();
    let fail = |source: DiskError| {
        let (drive, what) = (drive.name().to_owned(), "allocating i/o memory");
        CheckError::Disk { drive, what, source: Box::new(source) }
    };
    let buffer = match spare.get_mut(&read.drive).and_then(Vec::pop) {
        Some(buffer) => buffer,
        None => engine.dma().alloc(TRANSFER_BYTES).map_err(|error| fail(error.into()))?,
    };
    let segment = buffer.slice(0, read.len).map_err(|error| fail(error.into()))?;
    let request = Request::read(read.offset, segment.clone(), drive.disk.deadline());
    let ticket = engine.submit(request).map_err(DiskError::from);
    Ok(Some(Flight { read, buffer, segment, ticket }))
}

fn deliver(read: &Read, bytes: &[u8], sink: &mut impl FnMut(&Segment, Result<&[u8], &DiskError>)) {
    for segment in &read.segments {
        let from = (segment.offset - read.offset) as usize;
        sink(segment, Ok(bytes.get(from..from + segment.len).unwrap_or_default()));
    }
}

/// A failed read says nothing of its segments but one: each is read by itself.
fn one_by_one(
    pool: &Pool<'_>,
    read: &Read,
    sink: &mut impl FnMut(&Segment, Result<&[u8], &DiskError>),
) {
    let Some(drive) = pool.drive(read.drive) else { return };
    for segment in &read.segments {
        match drive.disk.read(segment.offset, segment.len) {
            Ok(bytes) => sink(segment, Ok(&bytes)),
            Err(error) => sink(segment, Err(&error)),
        }
    }
}
