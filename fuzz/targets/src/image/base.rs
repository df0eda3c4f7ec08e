//! A pool as the store writes it, and where its structures lie.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use gcos_layout::checksum::crc32c;
use gcos_layout::media::{
    BLOCK_BYTES, CHECKPOINT_PAGE_BYTES, CheckpointHeader, JournalFrame, Location, ObjectHeader,
    Superblock, ZoneChunks,
};
use gcos_store::{Durability, FormatOptions, IfExists, OpenOptions, PutOptions, Store, format};

use crate::drive::{Drive, space};

/// Length of each drive.
pub(crate) const DRIVE_BYTES: usize = 6 << 20;
/// Drives of the pool.
pub(crate) const DRIVES: usize = 2;

/// A run of bytes on a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

/// One drive of the pool.
#[derive(Debug)]
pub(crate) struct BaseDrive {
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) superblock: Superblock,
    pub(crate) frames: Vec<Place>,
    /// Pages of each checkpoint area.
    pub(crate) pages: [Vec<Place>; 2],
    /// Headers of objects.
    pub(crate) headers: Vec<Place>,
    /// What the next frame has: sequence, place in the ring, previous.
    pub(crate) next: (u64, u64, u32),
}

impl BaseDrive {
    /// Header blocks of the two checkpoint areas.
    pub(crate) fn checkpoints(&self) -> [Place; 2] {
        [0, 1].map(|area| Place {
            offset: self.superblock.zones.checkpoint_offset(area),
            len: BLOCK_BYTES,
        })
    }
}

/// A pool that was in use when the power went.
#[derive(Debug)]
pub struct Base {
    pub(crate) drives: Vec<BaseDrive>,
    /// Every payload that a key was ever given.
    pub(crate) payloads: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
}

impl Base {
    /// The pool that all inputs change.
    #[must_use]
    pub fn get() -> &'static Self {
        static BASE: OnceLock<Base> = OnceLock::new();
        BASE.get_or_init(Self::write)
    }

    /// Structures of one kind, as they lie on the first drive: seeds for the targets that take one
    /// structure.
    #[must_use]
    pub fn structures(&self) -> Vec<(&'static str, Vec<u8>)> {
        let drive = &self.drives[0];
        let bytes = |place: &Place| {
            drive.bytes[place.offset as usize..place.offset as usize + place.len].to_vec()
        };
        let mut out = vec![("superblock", drive.bytes[..BLOCK_BYTES].to_vec())];
        out.extend(drive.checkpoints().iter().map(|place| ("checkpoint header", bytes(place))));
        out.extend(drive.pages.iter().flatten().map(|place| ("checkpoint page", bytes(place))));
        out.extend(drive.frames.iter().map(|place| ("journal frame", bytes(place))));
        out.extend(drive.headers.iter().map(|place| ("object header", bytes(place))));
        out
    }

    fn write() -> Self {
        let dma = space();
        let empty = Arc::new(vec![0; DRIVE_BYTES]);
        let drives: Vec<_> = (0..DRIVES)
            .map(|i| Drive::new(&format!("drive{i}"), Arc::clone(&empty), Arc::clone(&dma)))
            .collect();
        let engines: Vec<_> = drives.iter().map(Drive::engine).collect();
        let chunks = ZoneChunks { superblock: 4096, meta: 65_536, data: 256 << 10 };
        let options = FormatOptions { chunks, ..FormatOptions::default() };
        format(&engines, &options).unwrap();
        let options = OpenOptions { background: false, ..OpenOptions::default() };
        let store = Store::open(engines, options).unwrap();
        let mut payloads = BTreeMap::<Vec<u8>, Vec<Vec<u8>>>::new();
        let mut put = |key: &[u8], len: usize| {
            let versions = payloads.entry(key.to_vec()).or_default();
            let seed = key.len() as u64 * 1000 + versions.len() as u64;
            let mut payload = vec![0; len];
            fastrand::Rng::with_seed(seed).fill(&mut payload);
            let options = PutOptions { if_exists: IfExists::Replace, ..PutOptions::default() };
            store.put(key, payload.as_slice(), &options).unwrap();
            versions.push(payload);
        };
        put(b"one", 5000);
        put(b"", 1);
        put(&[b'k'; 300], 70_000);
        store.checkpoint().unwrap();
        put(b"large, over both drives", 2_200_000);
        put(b"one", 130_000);
        put(b"gone", 9000);
        store.checkpoint().unwrap();
        put(b"after", 4096);
        put(b"over chunks", 600_000);
        assert!(store.remove(b"gone", Durability::Sync).unwrap());
        put(b"one", 300);
        drop(store);
        let drives = drives.iter().map(|drive| locate(&drive.bytes(0, DRIVE_BYTES))).collect();
        Self { drives, payloads }
    }
}

/// Finds the structures on a drive by what they say of each other.
fn locate(bytes: &[u8]) -> BaseDrive {
    let at = |place: &Place| &bytes[place.offset as usize..place.offset as usize + place.len];
    let superblock = Superblock::decode(bytes).unwrap();
    let (zones, uuid) = (superblock.zones, superblock.drive_uuid());
    let mut frames = Vec::new();
    let mut next = (1, 0, 0);
    let ring = zones.journal_offset();
    while let Ok(frame) =
        JournalFrame::decode(&bytes[(ring + next.1 * BLOCK_BYTES as u64) as usize..], &uuid)
        && frame.sequence == next.0
    {
        let len = frame.blocks * BLOCK_BYTES;
        frames.push(Place { offset: ring + next.1 * BLOCK_BYTES as u64, len });
        next = (next.0 + 1, next.1 + frame.blocks as u64, frame.checksum);
    }
    assert!(frames.len() > 3, "too few frames to make anything of");
    let pages = [0, 1].map(|area| {
        let start = zones.checkpoint_offset(area);
        let header = CheckpointHeader::decode(&bytes[start as usize..], &uuid).unwrap();
        let page = |i: u32| Place {
            offset: start + (BLOCK_BYTES + i as usize * CHECKPOINT_PAGE_BYTES) as u64,
            len: CHECKPOINT_PAGE_BYTES,
        };
        (0..header.pages).map(page).collect::<Vec<_>>()
    });
    let mut headers = Vec::new();
    for chunk in 0..zones.data_chunks() {
        for block in 0..zones.chunk_blocks() {
            let offset = zones.data_offset(chunk, block).unwrap();
            let Ok((header, _)) = ObjectHeader::decode(&bytes[offset as usize..]) else { continue };
            let here = Location { drive: header.head.drive, chunk, block: block as u16 };
            assert_eq!(header.head, here);
            let len = header.shape.header_blocks(header.key.len()) as usize * BLOCK_BYTES;
            headers.push(Place { offset, len });
        }
    }
    assert!(headers.iter().all(|place| crc32c(&at(place)[12..]) != 0));
    BaseDrive { bytes: Arc::new(bytes.to_vec()), superblock, frames, pages, headers, next }
}
