//! Changes to the pool, as an input asks for them, and the checksums put right afterwards.

use std::sync::Arc;

use gcos_engine::Engine;
use gcos_layout::checksum::crc32c;
use gcos_layout::media::{BLOCK_BYTES, CheckpointHeader, MAX_FRAME_BLOCKS};

use super::base::{Base, BaseDrive, DRIVE_BYTES, DRIVES, Place};
use crate::drive::{Drive, space};
use crate::input::Input;
use crate::media::seal;

/// Most changes that one input makes.
const MOST: usize = 48;

/// What was changed, as far as it matters to what may come back.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// Changes of any kind.
    pub(crate) count: usize,
    /// Bytes that were changed without regard to what they are.
    pub(crate) raw_bytes: usize,
    /// Checksums were put right.
    pub(crate) sealed: bool,
    /// Object headers were forged.
    pub(crate) forged: bool,
}

impl Changed {
    /// Whether the checksums still prove that what a get returns was put under its key: nobody who
    /// knows how they are computed has touched an object. Of other changes CRC-32 finds every one of
    /// up to 32 bits in a row.
    pub(crate) fn proves_payloads(&self) -> bool {
        !self.forged && (self.raw_bytes == 0 || (self.raw_bytes <= 4 && self.count == 1))
    }
}

/// A fresh copy of the pool with the changes of an input.
pub(crate) fn changed(base: &Base, input: &mut Input<'_>) -> (Vec<Arc<Drive>>, Changed) {
    let dma = space();
    let drives: Vec<_> = (0..DRIVES)
        .map(|i| {
            Drive::new(&format!("drive{i}"), Arc::clone(&base.drives[i].bytes), Arc::clone(&dma))
        })
        .collect();
    let mut changed = Changed { sealed: input.u8() & 1 == 1, ..Changed::default() };
    let mut next: Vec<_> = base.drives.iter().map(|drive| drive.next).collect();
    while !input.is_empty() && changed.count < MOST {
        let which = input.u8();
        let index = usize::from(which >> 7) % DRIVES;
        let (drive, about) = (&drives[index], &base.drives[index]);
        change(which & 0x7f, drive, about, &mut next[index], &mut changed, input);
        changed.count += 1;
    }
    if changed.sealed {
        for (drive, about) in drives.iter().zip(&base.drives) {
            seal_all(drive, about);
        }
    }
    (drives, changed)
}

fn change(
    which: u8,
    drive: &Drive,
    about: &BaseDrive,
    next: &mut (u64, u64, u32),
    changed: &mut Changed,
    input: &mut Input<'_>,
) {
    match which % 10 {
        0 => {
            let copies = input.u8();
            let (at, bytes) = patch(input, BLOCK_BYTES);
            for (i, offset) in about.superblock.zones.superblock_offsets().into_iter().enumerate() {
                if copies >> i & 1 == 1 {
                    drive.put(offset + at, bytes);
                }
            }
        }
        1 => patch_one(drive, &about.checkpoints(), input),
        2 => patch_one(drive, &about.pages.concat(), input),
        3 => patch_one(drive, &about.frames, input),
        4 => {
            patch_one(drive, &about.headers, input);
            changed.forged |= changed.sealed;
            changed.raw_bytes += BLOCK_BYTES;
        }
        5 => {
            let (at, bytes) = patch(input, DRIVE_BYTES);
            drive.put(at, bytes);
            changed.raw_bytes += bytes.len();
        }
        6 => drive.spoil(offset(input, DRIVE_BYTES)),
        7 => append_frame(drive, about, next, input),
        8 => {
            let (from, to) = (offset(input, DRIVE_BYTES), offset(input, DRIVE_BYTES));
            let block = |at: u64| at / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
            drive.put(block(to), &drive.bytes(block(from), BLOCK_BYTES));
        }
        _ => {
            let at = offset(input, DRIVE_BYTES);
            let len = usize::from(input.u16()).min(DRIVE_BYTES - at as usize);
            drive.put(at, &vec![0; len]);
        }
    }
}

fn offset(input: &mut Input<'_>, len: usize) -> u64 {
    u64::from(input.u32()) % len as u64
}

/// A place within `len` bytes and up to 16 bytes for it.
fn patch<'a>(input: &mut Input<'a>, len: usize) -> (u64, &'a [u8]) {
    let at = if len > usize::from(u16::MAX) { offset(input, len) } else { input.below(len) as u64 };
    let take = usize::from(input.u8() % 16) + 1;
    (at, input.take(take.min(len - at as usize)))
}

fn patch_one(drive: &Drive, places: &[Place], input: &mut Input<'_>) {
    let place = places.get(usize::from(input.u8()).checked_rem(places.len()).unwrap_or(0));
    let Some(place) = place else { return };
    // Fields lie in front: the first block is as likely as all the rest.
    let len = if input.u8() & 1 == 0 { BLOCK_BYTES.min(place.len) } else { place.len };
    let (at, bytes) = patch(input, len);
    drive.put(place.offset + at, bytes);
}

/// Writes one more frame, of records whose every field the input chooses.
fn append_frame(
    drive: &Drive,
    about: &BaseDrive,
    next: &mut (u64, u64, u32),
    input: &mut Input<'_>,
) {
    let mut body = Vec::new();
    let mut count = 0u16;
    for _ in 0..input.u8() % 8 + 1 {
        body.extend(record(input));
        count += 1;
    }
    let len = (48 + body.len()).next_multiple_of(BLOCK_BYTES);
    let blocks = (len / BLOCK_BYTES).min(MAX_FRAME_BLOCKS);
    let (zones, uuid) = (&about.superblock.zones, about.superblock.drive_uuid());
    if next.1 + blocks as u64 > zones.journal_blocks() {
        return;
    }
    let mut frame = vec![0; blocks * BLOCK_BYTES];
    frame[..4].copy_from_slice(b"GJFR");
    frame[8..16].copy_from_slice(&next.0.to_le_bytes());
    frame[16..24].copy_from_slice(&about.superblock.epoch.to_le_bytes());
    frame[24..28].copy_from_slice(&next.2.to_le_bytes());
    frame[28..30].copy_from_slice(&(blocks as u16).to_le_bytes());
    frame[30..32].copy_from_slice(&count.to_le_bytes());
    frame[32..36].copy_from_slice(&(body.len() as u32).to_le_bytes());
    frame[40..48].copy_from_slice(&uuid[..8]);
    let fits = body.len().min(frame.len() - 48);
    frame[48..48 + fits].copy_from_slice(&body[..fits]);
    seal(&mut frame, 4, 8);
    drive.put(zones.journal_offset() + next.1 * BLOCK_BYTES as u64, &frame);
    *next = (next.0 + 1, next.1 + blocks as u64, crc32c(&frame[8..]));
}

fn record(input: &mut Input<'_>) -> Vec<u8> {
    let flags = input.u8();
    let key = match flags >> 1 & 3 {
        0 => b"one".to_vec(),
        1 => b"after".to_vec(),
        2 => vec![b'x'; usize::from(input.u8())],
        _ => input.take(usize::from(flags >> 4)).to_vec(),
    };
    // Mostly such that it counts.
    let generation = match input.u8() {
        byte @ 0..=127 => (1 << 40) + u64::from(byte),
        128..=191 => u64::from(input.u32()) << 31,
        _ => input.u64(),
    };
    let put = flags & 1 == 0;
    let pieces = if put && input.u8() & 3 == 0 { input.u16() % 300 } else { 0 };
    let len = 36 + 6 * usize::from(pieces) + key.len();
    let mut record = vec![0; 36];
    record[..2].copy_from_slice(&(len as u16).to_le_bytes());
    record[2] = if put { 1 } else { 2 };
    record[8..16].copy_from_slice(&generation.to_le_bytes());
    record[16..18].copy_from_slice(&(key.len() as u16).to_le_bytes());
    if put {
        record[4..8].copy_from_slice(&input.u32().to_le_bytes());
        record[18..20].copy_from_slice(&pieces.to_le_bytes());
        let payload = if input.u8() & 1 == 0 { u32::from(input.u16()) } else { input.u32() };
        record[20..24].copy_from_slice(&payload.to_le_bytes());
        let piece = if pieces > 0 { input.u16() } else { 0 };
        record[28..30].copy_from_slice(&piece.to_le_bytes());
        let head = location(input);
        record[30..36].copy_from_slice(&head);
        for _ in 0..pieces {
            record.extend(location(input));
        }
    }
    record.extend(key);
    record
}

/// Mostly one that exists.
fn location(input: &mut Input<'_>) -> [u8; 6] {
    let (flags, chunk, block) = (input.u8(), input.u8(), input.u8());
    match flags {
        0..=239 => [flags & 1, chunk % 16, 0, 0, block % 64, 0],
        _ => [flags, chunk, block, chunk, block, flags],
    }
}

/// Puts every checksum right, from the inside out.
fn seal_all(drive: &Drive, about: &BaseDrive) {
    let mut roots = Vec::new();
    for place in &about.headers {
        let mut header = drive.bytes(place.offset, place.len);
        let before = crc32c(&about.bytes[place.offset as usize + 12..][..place.len - 12]);
        seal(&mut header, 8, 12);
        drive.put(place.offset, &header);
        roots.push((before.to_le_bytes(), header[8..12].to_vec()));
    }
    for (place, header) in about.pages.iter().zip(about.checkpoints()) {
        let mut sums = Vec::new();
        for page in place {
            let mut bytes = drive.bytes(page.offset, page.len);
            replace(&mut bytes, &roots);
            seal(&mut bytes, 4, 8);
            drive.put(page.offset, &bytes);
            sums.push(crc32c(&bytes[8..]));
        }
        let mut block = drive.bytes(header.offset, header.len);
        block[72..76].copy_from_slice(&CheckpointHeader::sum_pages(sums).to_le_bytes());
        seal(&mut block, 8, 12);
        drive.put(header.offset, &block);
    }
    let mut previous = None;
    for place in &about.frames {
        let mut frame = drive.bytes(place.offset, place.len);
        replace(&mut frame, &roots);
        if let Some(previous) = previous {
            frame[24..28].copy_from_slice(&u32::to_le_bytes(previous));
        }
        seal(&mut frame, 4, 8);
        previous = Some(crc32c(&frame[8..]));
        drive.put(place.offset, &frame);
    }
    for offset in about.superblock.zones.superblock_offsets() {
        let mut block = drive.bytes(offset, BLOCK_BYTES);
        seal(&mut block, 8, 12);
        drive.put(offset, &block);
    }
    assert_eq!(drive.geometry().capacity as usize, about.bytes.len());
}

/// Records name the checksum of their header.
fn replace(bytes: &mut [u8], roots: &[([u8; 4], Vec<u8>)]) {
    for (before, after) in roots.iter().filter(|(before, after)| before[..] != after[..]) {
        for at in 0..bytes.len() - 4 {
            if bytes[at..at + 4] == before[..] {
                bytes[at..at + 4].copy_from_slice(after);
            }
        }
    }
}
