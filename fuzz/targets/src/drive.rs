//! A drive in memory that can be hostile, broken, and copied at no cost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gcos_engine::{
    Ended, Engine, Geometry, IoError, IoErrorKind, Op, Request, RequestError, Ticket,
};
use gcos_hw::{DmaMapper, DmaSpace, HwError, SharedMemory};
use parking_lot::Mutex;

const BLOCK: usize = 4096;

#[derive(Debug)]
struct Unmapped;

impl DmaMapper for Unmapped {
    fn map(&self, _iova: u64, _memory: &Arc<SharedMemory>) -> Result<(), HwError> {
        Ok(())
    }
    fn unmap(&self, _iova: u64, _len: usize) -> Result<(), HwError> {
        Ok(())
    }
}

/// An address space for drives in memory: no device looks at the addresses.
#[must_use]
pub fn space() -> Arc<DmaSpace> {
    let usable = 0x10_0000..0x100_0000_0000;
    DmaSpace::new(Arc::new(Unmapped), std::slice::from_ref(&usable)).unwrap()
}

#[derive(Debug, Default)]
struct Medium {
    base: Arc<Vec<u8>>,
    changed: BTreeMap<u64, Box<[u8]>>,
    unreadable: BTreeSet<u64>,
}

impl Medium {
    fn block(&self, number: u64) -> &[u8] {
        let at = number as usize * BLOCK;
        self.changed.get(&number).map_or(&self.base[at..at + BLOCK], |block| block)
    }

    fn block_mut(&mut self, number: u64) -> &mut [u8] {
        let at = number as usize * BLOCK;
        let base = &self.base;
        self.changed.entry(number).or_insert_with(|| base[at..at + BLOCK].into())
    }

    /// The parts of a range in each block: (block, offset in it, offset in the range, length).
    fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done as u64;
            let within = (at % BLOCK as u64) as usize;
            let part = (BLOCK - within).min(len - done);
            let from = done;
            done += part;
            (part > 0).then_some((at / BLOCK as u64, within, from, part))
        })
    }
}

/// A drive in memory over a base that is never changed, so that a fresh one costs nothing.
#[derive(Debug)]
pub struct Drive {
    medium: Mutex<Medium>,
    dma: Arc<DmaSpace>,
    geometry: Geometry,
}

impl Drive {
    /// A drive that holds `base`, whole blocks.
    #[must_use]
    pub fn new(name: &str, base: Arc<Vec<u8>>, dma: Arc<DmaSpace>) -> Arc<Self> {
        let geometry = Geometry {
            name: name.to_owned(),
            serial: "memory".to_owned(),
            model: "drive in memory".to_owned(),
            capacity: base.len() as u64,
            lba_bytes: 512,
            max_transfer: 1 << 20,
            volatile_cache: true,
            deallocate: true,
        };
        let medium = Mutex::new(Medium { base, ..Medium::default() });
        Arc::new(Self { medium, dma, geometry })
    }

    /// The drive as the store and the checker take it.
    #[must_use]
    pub fn engine(self: &Arc<Self>) -> Arc<dyn Engine> {
        Arc::clone(self) as _
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.geometry.capacity as usize
    }

    /// Whether it holds nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes as they are now; the range lies on the drive.
    #[must_use]
    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let medium = self.medium.lock();
        let mut out = vec![0; len];
        for (block, within, from, part) in Medium::parts(offset, len) {
            out[from..from + part].copy_from_slice(&medium.block(block)[within..within + part]);
        }
        out
    }

    /// Changes bytes, past any engine; the range lies on the drive.
    pub fn put(&self, offset: u64, bytes: &[u8]) {
        let mut medium = self.medium.lock();
        for (block, within, from, part) in Medium::parts(offset, bytes.len()) {
            medium.block_mut(block)[within..within + part]
                .copy_from_slice(&bytes[from..from + part]);
        }
    }

    /// The block at `offset` cannot be read until it is written.
    pub fn spoil(&self, offset: u64) {
        self.medium.lock().unreadable.insert(offset / BLOCK as u64);
    }

    /// Reads extents into segments, of which there are as many bytes, block by block.
    fn read(&self, request: &Request) -> Option<()> {
        let medium = self.medium.lock();
        let mut segments = request.segments.iter();
        let mut to = segments.next()?;
        let mut filled = 0;
        for extent in &request.extents {
            for (block, within, _, part) in Medium::parts(extent.offset, extent.len as usize) {
                if medium.unreadable.contains(&block) {
                    return None;
                }
                let mut rest = &medium.block(block)[within..within + part];
                while !rest.is_empty() {
                    if filled == to.len() {
                        (to, filled) = (segments.next()?, 0);
                    }
                    let (now, later) = rest.split_at(rest.len().min(to.len() - filled));
                    to.write(filled, now).ok()?;
                    (filled, rest) = (filled + now.len(), later);
                }
            }
        }
        Some(())
    }

    fn execute(&self, request: &Request) -> Option<()> {
        match request.op {
            Op::Flush => {}
            Op::Deallocate => {
                for extent in &request.extents {
                    // What is deallocated reads as anything: the first block changes, which is enough
                    // to notice, and cheap.
                    let first = extent.len.min(BLOCK as u64) as usize;
                    self.put(extent.offset, &[0xdd; BLOCK][..first]);
                }
            }
            Op::Read => return self.read(request),
            Op::Write { .. } => {
                let mut data = Vec::new();
                for segment in &request.segments {
                    let at = data.len();
                    data.resize(at + segment.len(), 0);
                    segment.read(0, &mut data[at..]).ok()?;
                }
                let mut rest = data.as_slice();
                for extent in &request.extents {
                    let (part, after) = rest.split_at(extent.len as usize);
                    self.put(extent.offset, part);
                    let blocks = extent.offset / BLOCK as u64
                        ..(extent.offset + extent.len).div_ceil(BLOCK as u64);
                    self.medium.lock().unreadable.retain(|block| !blocks.contains(block));
                    rest = after;
                }
            }
        }
        Some(())
    }
}

impl Engine for Drive {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    fn dma(&self) -> &Arc<DmaSpace> {
        &self.dma
    }
    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        let checked: Result<(), RequestError> = request.check(&self.geometry);
        // Whatever the medium says, nobody may ask for what is not there.
        assert!(checked.is_ok(), "a request that does not fit the drive: {checked:?}");
        let done = self.execute(&request);
        let error = || request.error(&self.geometry, IoErrorKind::Media, "Unrecovered Read Error");
        Ok(Ended::ticket(done.ok_or_else(error)))
    }
    fn shutdown(&self, _deadline: Duration) -> Result<(), IoError> {
        Ok(())
    }
}
