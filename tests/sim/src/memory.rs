//! A drive without a controller: blocks that answer at once. For what is no part of a history: laying a
//! pool out, checking it, and recovering one crash among very many.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use gcos_emulator::Medium;
use gcos_engine::{Ended, Engine, Extent, Geometry, IoError, IoErrorKind, Op, Request, Ticket};
use gcos_hw::{DmaSlice, DmaSpace};
use parking_lot::Mutex;

/// Bytes that an image is kept in pieces of.
pub const BLOCK: u64 = 4096;

/// Whole blocks that can be read and written.
pub trait Blocks: Send + Sync {
    /// Reads from an offset on.
    ///
    /// # Errors
    /// A range past the end.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), String>;
    /// Writes from an offset on, durably.
    ///
    /// # Errors
    /// A range past the end.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), String>;
    /// Size in bytes.
    fn bytes(&self) -> u64;
}

impl Blocks for Medium {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), String> {
        self.peek(offset, out).map_err(|error| error.to_string())
    }
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), String> {
        self.poke(offset, bytes).map_err(|error| error.to_string())
    }
    fn bytes(&self) -> u64 {
        self.len()
    }
}

/// Content of an image by block number; blocks that are not there are as in the base.
pub type Changed = BTreeMap<u64, Arc<[u8]>>;

/// A write to an image: its number, offset and bytes.
pub type Written = (usize, u64, Arc<[u8]>);

/// Writes to several images, in order.
pub type Log = Arc<Mutex<Vec<Written>>>;

/// An image over one that does not change. What is written to it goes to a log.
pub struct Image {
    number: usize,
    base: Arc<Vec<u8>>,
    changed: Mutex<Changed>,
    log: Log,
}

impl Image {
    /// The image of drive `number` that differs from its base in some blocks.
    #[must_use]
    pub fn new(number: usize, base: &Arc<Vec<u8>>, changed: Changed, log: &Log) -> Self {
        let (base, log) = (Arc::clone(base), Arc::clone(log));
        Self { number, base, changed: Mutex::new(changed), log }
    }
}

/// Writes bytes into an image's blocks.
pub fn apply(base: &[u8], changed: &mut Changed, offset: u64, bytes: &[u8]) {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done as u64;
        let (block, within) = (at / BLOCK, (at % BLOCK) as usize);
        let take = (BLOCK as usize - within).min(bytes.len() - done);
        let part = &bytes[done..done + take];
        let new: Arc<[u8]> = if take == BLOCK as usize {
            part.into()
        } else {
            let start = (block * BLOCK) as usize;
            let mut whole = match changed.get(&block) {
                Some(old) => old.to_vec(),
                None => base[start..start + BLOCK as usize].to_vec(),
            };
            whole[within..within + take].copy_from_slice(part);
            whole.into()
        };
        changed.insert(block, new);
        done += take;
    }
}

impl Blocks for Image {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), String> {
        let from = usize::try_from(offset).map_err(|error| error.to_string())?;
        let base = self.base.get(from..from + out.len()).ok_or("a range past the end")?;
        out.copy_from_slice(base);
        let end = offset + out.len() as u64;
        let changed = self.changed.lock();
        for (&block, bytes) in changed.range(offset / BLOCK..end.div_ceil(BLOCK)) {
            let start = (block * BLOCK).max(offset);
            let stop = ((block + 1) * BLOCK).min(end);
            let within = (start - block * BLOCK) as usize..(stop - block * BLOCK) as usize;
            out[(start - offset) as usize..(stop - offset) as usize]
                .copy_from_slice(&bytes[within]);
        }
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), String> {
        if offset + bytes.len() as u64 > self.bytes() {
            return Err("a range past the end".to_owned());
        }
        apply(&self.base, &mut self.changed.lock(), offset, bytes);
        self.log.lock().push((self.number, offset, bytes.into()));
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.base.len() as u64
    }
}

/// An engine over blocks.
pub struct BlockEngine {
    blocks: Arc<dyn Blocks>,
    dma: Arc<DmaSpace>,
    geometry: Geometry,
}

impl fmt::Debug for BlockEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockEngine").field("name", &self.geometry.name).finish_non_exhaustive()
    }
}

impl BlockEngine {
    /// An engine; all those of a pool take one space.
    #[must_use]
    pub fn over(
        name: String,
        blocks: Arc<dyn Blocks>,
        lba_bytes: u32,
        dma: &Arc<DmaSpace>,
    ) -> Arc<dyn Engine> {
        let geometry = Geometry {
            serial: name.clone(),
            name,
            model: "blocks in memory".to_owned(),
            capacity: blocks.bytes(),
            lba_bytes,
            max_transfer: 1 << 20,
            volatile_cache: false,
            deallocate: false,
        };
        Arc::new(Self { blocks, dma: Arc::clone(dma), geometry })
    }

    fn carry_out(&self, request: &Request) -> Result<(), String> {
        let write = match request.op {
            Op::Read => false,
            Op::Write { .. } => true,
            Op::Flush | Op::Deallocate => return Ok(()),
        };
        SCRATCH.with_borrow_mut(|scratch| {
            let total: usize = request.segments.iter().map(|segment| segment.len()).sum();
            if scratch.len() < total {
                scratch.resize(total, 0);
            }
            let bytes = scratch.get_mut(..total).unwrap_or_default();
            if write {
                gather(&request.segments, bytes)?;
            }
            let mut at = 0;
            for &Extent { offset, len } in &request.extents {
                let part = &mut bytes[at..at + len as usize];
                match write {
                    true => self.blocks.write(offset, part)?,
                    false => self.blocks.read(offset, part)?,
                }
                at += len as usize;
            }
            if write { Ok(()) } else { scatter(&request.segments, bytes) }
        })
    }
}

fn gather(segments: &[DmaSlice], mut bytes: &mut [u8]) -> Result<(), String> {
    for segment in segments {
        let (part, rest) = bytes.split_at_mut(segment.len());
        segment.read(0, part).map_err(|error| error.to_string())?;
        bytes = rest;
    }
    Ok(())
}

fn scatter(segments: &[DmaSlice], mut bytes: &[u8]) -> Result<(), String> {
    for segment in segments {
        let (part, rest) = bytes.split_at(segment.len());
        segment.write(0, part).map_err(|error| error.to_string())?;
        bytes = rest;
    }
    Ok(())
}

thread_local! {
    /// Bytes on their way between blocks and memory. The checker reads whole journals again and again: fresh
    /// memory for each would cost more than the copy.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Engine for BlockEngine {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    fn dma(&self) -> &Arc<DmaSpace> {
        &self.dma
    }
    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        let refuse = |detail| request.error(&self.geometry, IoErrorKind::Invalid, detail);
        request.check(&self.geometry).map_err(|error| refuse(error.to_string()))?;
        let result = self.carry_out(&request).map_err(refuse);
        Ok(Ended::ticket(result))
    }
    fn shutdown(&self, _: Duration) -> Result<(), IoError> {
        Ok(())
    }
}
