//! A drive of any size that keeps what is written to it, and makes the pages of one checkpoint up when they are
//! read: objects by the hundred million need no medium.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gcos_engine::{Ended, Engine, Extent, Geometry, IoError, IoErrorKind, Op, Request, Ticket};
use gcos_hw::DmaSpace;
use gcos_layout::media::{BLOCK_BYTES, CHECKPOINT_PAGE_BYTES};
use parking_lot::Mutex;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Makes page `n` of the checkpoint.
pub(crate) type MakePage = Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>;

struct Made {
    /// Bytes of the drive where the pages are.
    at: Range<u64>,
    make: MakePage,
}

/// Blocks that were written, and pages that are made.
pub(crate) struct SyntheticDrive {
    geometry: Geometry,
    dma: Arc<DmaSpace>,
    blocks: Mutex<HashMap<u64, Box<[u8]>>>,
    made: Mutex<Option<Made>>,
    making_ns: AtomicU64,
}

impl fmt::Debug for SyntheticDrive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyntheticDrive").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}

impl SyntheticDrive {
    pub(crate) fn new(bytes: u64, dma: Arc<DmaSpace>) -> Arc<Self> {
        let geometry = Geometry {
            name: "synthetic".to_owned(),
            serial: "0".to_owned(),
            model: "blocks that were written, pages that are made".to_owned(),
            capacity: bytes / BLOCK * BLOCK,
            lba_bytes: 4096,
            max_transfer: 1 << 20,
            volatile_cache: false,
            deallocate: false,
        };
        let (blocks, made, making_ns) = Default::default();
        Arc::new(Self { geometry, dma, blocks, made, making_ns })
    }

    /// From now on the pages of a checkpoint are from `offset` on, `pages` of them.
    pub(crate) fn make_pages(&self, offset: u64, pages: u32, make: MakePage) {
        let at = offset..offset + u64::from(pages) * CHECKPOINT_PAGE_BYTES as u64;
        *self.made.lock() = Some(Made { at, make });
    }

    /// Time spent in making pages, which no drive would need.
    pub(crate) fn making(&self) -> Duration {
        Duration::from_nanos(self.making_ns.load(Ordering::Relaxed))
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let mut blocks = self.blocks.lock();
        for (block, bytes) in (offset / BLOCK..).zip(bytes.chunks(BLOCK_BYTES)) {
            match bytes.iter().all(|&byte| byte == 0) {
                true => drop(blocks.remove(&block)),
                false => drop(blocks.insert(block, bytes.into())),
            }
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) {
        let made = self.made.lock();
        if let Some(Made { at, make }) = made.as_ref().filter(|made| made.at.contains(&offset)) {
            let begun = Instant::now();
            let page = CHECKPOINT_PAGE_BYTES as u64;
            for (n, out) in
                ((offset - at.start) / page..).zip(out.chunks_mut(CHECKPOINT_PAGE_BYTES))
            {
                assert!((offset - at.start).is_multiple_of(page), "the store reads whole pages");
                out.copy_from_slice(&make(n as u32)[..out.len()]);
            }
            let ns = begun.elapsed().as_nanos() as u64;
            self.making_ns.fetch_add(ns, Ordering::Relaxed);
            return;
        }
        let blocks = self.blocks.lock();
        for (block, out) in (offset / BLOCK..).zip(out.chunks_mut(BLOCK_BYTES)) {
            match blocks.get(&block) {
                Some(bytes) => out.copy_from_slice(bytes),
                None => out.fill(0),
            }
        }
    }

    fn carry_out(&self, request: &Request) -> Result<(), String> {
        let total = request.segments.iter().map(|segment| segment.len()).sum();
        let mut bytes = vec![0; total];
        let text = |error: gcos_hw::OutOfBounds| error.to_string();
        let mut at = 0;
        for segment in &request.segments {
            let part = &mut bytes[at..at + segment.len()];
            if let Op::Write { .. } = request.op {
                segment.read(0, part).map_err(text)?;
            }
            at += segment.len();
        }
        let mut at = 0;
        for &Extent { offset, len } in &request.extents {
            let part = &mut bytes[at..at + len as usize];
            match request.op {
                Op::Write { .. } => self.write(offset, part),
                _ => self.read(offset, part),
            }
            at += len as usize;
        }
        let mut at = 0;
        for segment in request.segments.iter().filter(|_| request.op == Op::Read) {
            segment.write(0, &bytes[at..at + segment.len()]).map_err(text)?;
            at += segment.len();
        }
        Ok(())
    }
}

impl Engine for SyntheticDrive {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    fn dma(&self) -> &Arc<DmaSpace> {
        &self.dma
    }
    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        let refuse = |detail| request.error(&self.geometry, IoErrorKind::Invalid, detail);
        request.check(&self.geometry).map_err(|error| refuse(error.to_string()))?;
        let result = match request.op {
            Op::Read | Op::Write { .. } => self.carry_out(&request).map_err(refuse),
            Op::Flush | Op::Deallocate => Ok(()),
        };
        Ok(Ended::ticket(result))
    }
    fn shutdown(&self, _: Duration) -> Result<(), IoError> {
        Ok(())
    }
}
