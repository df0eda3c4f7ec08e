//! In which order what is read.

use std::collections::{BTreeMap, VecDeque};

use gcos_layout::media::{BLOCK_BYTES, GRAIN_BYTES, Location};

use crate::disk::TRANSFER_BYTES;
use crate::objects::{Object, Objects};
use crate::pool::Pool;
use crate::space::parts;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Payload bytes of one segment: whole grains.
const SEGMENT_BYTES: u32 = 8 * GRAIN_BYTES;
/// Bytes between two segments that are read and thrown away rather than start another read.
const GAP_BYTES: u64 = 65_536;
/// Objects of one drive that are read before the next drive's turn, so that all drives are busy and
/// neighbours still share a read.
const TURN: usize = 16;

/// Part of an object that is contiguous and verified at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    /// Index in the list of objects.
    pub(super) object: usize,
    /// The first grain in it, `None` for the header.
    pub(super) grain: Option<u32>,
    pub(super) drive: u8,
    /// On the drive, in bytes.
    pub(super) offset: u64,
    /// Whole blocks, in bytes.
    pub(super) len: usize,
    /// Bytes of it that count.
    pub(super) used: usize,
}

/// One read: segments in order, all on one drive.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) drive: u8,
    pub(super) offset: u64,
    pub(super) len: usize,
    pub(super) segments: Vec<Segment>,
}

impl Read {
    fn new(segment: Segment) -> Self {
        let Segment { drive, offset, len, .. } = segment;
        Self { drive, offset, len, segments: vec![segment] }
    }

    /// Adds a segment that lies a little further on; `false` when it does not.
    fn add(&mut self, segment: Segment) -> bool {
        let end = self.offset + self.len as u64;
        let near = segment.offset >= end && segment.offset - end <= GAP_BYTES;
        if !near || segment.drive != self.drive {
            return false;
        }
        let len = (segment.offset - self.offset) as usize + segment.len;
        if len > TRANSFER_BYTES {
            return false;
        }
        self.len = len;
        self.segments.push(segment);
        true
    }
}

fn readable(object: &Object, wanted: &dyn Fn(&Object) -> bool) -> bool {
    !object.dropped && !object.taken.incomplete && wanted(object)
}

/// Bytes that will be read, gaps not counted.
pub(super) fn total_bytes(objects: &Objects, wanted: &dyn Fn(&Object) -> bool) -> u64 {
    let bytes = |object: &Object| -> u64 {
        parts(&object.record).map(|part| u64::from(part.blocks) * BLOCK).sum()
    };
    objects.list.iter().filter(|object| readable(object, wanted)).map(bytes).sum()
}

/// Indices of the objects to read, along each drive, the drives in turn.
pub(super) fn order(objects: &Objects, wanted: &dyn Fn(&Object) -> bool) -> Vec<usize> {
    let mut drives: BTreeMap<u8, Vec<(Location, usize)>> = BTreeMap::new();
    for (index, object) in objects.list.iter().enumerate().filter(|(_, o)| readable(o, wanted)) {
        drives.entry(object.record.head.drive).or_default().push((object.record.head, index));
    }
    let mut queues: VecDeque<_> = drives
        .into_values()
        .map(|mut queue| {
            queue.sort_unstable();
            queue.into_iter()
        })
        .collect();
    let mut order = Vec::new();
    while let Some(mut queue) = queues.pop_front() {
        let before = order.len();
        order.extend(queue.by_ref().take(TURN).map(|(_, index)| index));
        if order.len() > before {
            queues.push_back(queue);
        }
    }
    order
}

/// The segments of an object: header, tail, pieces.
fn segments(index: usize, object: &Object, pool: &Pool<'_>) -> Vec<Segment> {
    let (record, mut out) = (&object.record, Vec::new());
    let offset =
        |at: Location| pool.drive(at.drive)?.zones().data_offset(at.chunk, at.block.into());
    let Some(head) = offset(record.head) else { return out };
    let header = u64::from(record.shape.header_blocks(record.key.len())) * BLOCK;
    let (drive, len) = (record.head.drive, header as usize);
    out.push(Segment { object: index, grain: None, drive, offset: head, len, used: len });
    let piece_grains = u32::from(record.shape.piece_grains());
    let count = record.pieces.len() as u32;
    cut(&mut out, drive, head + header, record.shape.tail_len(), count * piece_grains);
    for (i, &at) in (0u32..).zip(&record.pieces) {
        let Some(start) = offset(at) else { continue };
        cut(&mut out, at.drive, start, record.shape.piece_len(i as usize), i * piece_grains);
    }
    for segment in &mut out {
        segment.object = index;
    }
    out
}

/// Cuts a contiguous run of payload into segments.
fn cut(out: &mut Vec<Segment>, drive: u8, offset: u64, bytes: u32, grain: u32) {
    let mut at = 0;
    while at < bytes {
        let used = (bytes - at).min(SEGMENT_BYTES) as usize;
        out.push(Segment {
            object: 0,
            grain: Some(grain + at / GRAIN_BYTES),
            drive,
            offset: offset + u64::from(at),
            len: used.next_multiple_of(BLOCK_BYTES),
            used,
        });
        at += used as u32;
    }
}

/// All reads, made as they are asked for.
pub(super) fn reads<'p>(
    pool: &'p Pool<'_>,
    list: &'p [Object],
    order: &'p [usize],
) -> impl Iterator<Item = Read> + 'p {
    let mut segments = order
        .iter()
        .filter_map(move |&index| Some(segments(index, list.get(index)?, pool)))
        .flatten()
        .peekable();
    std::iter::from_fn(move || {
        let mut read = Read::new(segments.next()?);
        while segments.next_if(|&segment| read.add(segment)).is_some() {}
        Some(read)
    })
}
