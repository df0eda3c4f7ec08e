use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use gcos_engine::device::{DeviceEngine, Gpu};
use gcos_engine::{Ended, Engine, Geometry, IoError, IoErrorKind, Op, Request, Ticket};
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

/// A drive in memory. With a volatile cache, writes are lost at a power cut unless flushed.
#[derive(Debug)]
pub(crate) struct MemDrive {
    medium: Mutex<Vec<u8>>,
    cache: Mutex<BTreeMap<u64, Vec<u8>>>,
    dma: Arc<DmaSpace>,
    pub(crate) volatile: AtomicBool,
    name: String,
    /// Writes until the power goes; negative: never.
    pub(crate) writes_left: AtomicI64,
    pub(crate) gone: AtomicBool,
    /// Writes fail with a media error while set.
    pub(crate) fail_writes: AtomicBool,
    pub(crate) fail_flushes: AtomicBool,
    /// Blocks that cannot be read.
    pub(crate) unreadable: Mutex<BTreeSet<u64>>,
    pub(crate) writes: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) deallocated: Mutex<Vec<(u64, u64)>>,
    /// What a GPU finds.
    pub(crate) device: Mutex<Option<Arc<dyn DeviceEngine>>>,
}

impl MemDrive {
    pub(crate) fn several(count: usize, bytes: usize) -> Vec<Arc<Self>> {
        let usable = 0x10_0000..0x100_0000_0000;
        let dma = DmaSpace::new(Arc::new(Unmapped), std::slice::from_ref(&usable)).unwrap();
        (0..count).map(|i| Self::new(format!("mem{i}"), bytes, Arc::clone(&dma))).collect()
    }

    fn new(name: String, bytes: usize, dma: Arc<DmaSpace>) -> Arc<Self> {
        Arc::new(Self {
            medium: Mutex::new(vec![0; bytes]),
            cache: Mutex::default(),
            dma,
            volatile: AtomicBool::new(true),
            name,
            writes_left: AtomicI64::new(-1),
            gone: AtomicBool::new(false),
            fail_writes: AtomicBool::new(false),
            fail_flushes: AtomicBool::new(false),
            unreadable: Mutex::default(),
            writes: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            deallocated: Mutex::default(),
            device: Mutex::default(),
        })
    }

    pub(crate) fn engine(self: &Arc<Self>) -> Arc<dyn Engine> {
        let geometry = Geometry {
            name: self.name.clone(),
            serial: "mem".to_owned(),
            model: "drive in memory".to_owned(),
            capacity: self.medium.lock().len() as u64,
            lba_bytes: 512,
            max_transfer: 1 << 20,
            volatile_cache: self.volatile.load(Ordering::Relaxed),
            deallocate: true,
        };
        Arc::new(MemEngine { drive: Arc::clone(self), geometry })
    }

    /// The power goes: of what was not flushed, each block survives or not by the seed. Then it comes
    /// back.
    pub(crate) fn power_cycle(&self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let keep = rng.f32();
        let mut medium = self.medium.lock();
        for (block, bytes) in std::mem::take(&mut *self.cache.lock()) {
            if rng.f32() < keep {
                let at = block as usize * BLOCK;
                medium[at..at + BLOCK].copy_from_slice(&bytes);
            }
        }
        self.gone.store(false, Ordering::SeqCst);
        self.writes_left.store(-1, Ordering::SeqCst);
    }

    /// Changes bytes on the medium, cache included.
    pub(crate) fn corrupt(&self, offset: u64, with: u8) {
        self.write_back();
        self.medium.lock()[offset as usize] ^= with;
    }

    pub(crate) fn snapshot(&self) -> Vec<u8> {
        self.write_back();
        self.medium.lock().clone()
    }

    pub(crate) fn restore(&self, bytes: &[u8]) {
        self.cache.lock().clear();
        *self.medium.lock() = bytes.to_vec();
    }

    fn write_back(&self) {
        let mut medium = self.medium.lock();
        for (block, bytes) in std::mem::take(&mut *self.cache.lock()) {
            let at = block as usize * BLOCK;
            medium[at..at + BLOCK].copy_from_slice(&bytes);
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), &'static str> {
        let (medium, cache) = (self.medium.lock(), self.cache.lock());
        for (i, part) in out.chunks_mut(BLOCK).enumerate() {
            let block = offset / BLOCK as u64 + i as u64;
            if self.unreadable.lock().contains(&block) {
                return Err("Unrecovered Read Error");
            }
            match cache.get(&block) {
                Some(bytes) => part.copy_from_slice(bytes),
                None => part.copy_from_slice(&medium[block as usize * BLOCK..][..BLOCK]),
            }
        }
        Ok(())
    }

    /// Block by block, so that a power cut tears a write.
    fn write(&self, offset: u64, bytes: &[u8], fua: bool) -> Result<(), &'static str> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        for (i, part) in bytes.chunks(BLOCK).enumerate() {
            if self.writes_left.load(Ordering::SeqCst) >= 0
                && self.writes_left.fetch_sub(1, Ordering::SeqCst) <= 0
            {
                self.gone.store(true, Ordering::SeqCst);
                return Err("power lost");
            }
            let block = offset / BLOCK as u64 + i as u64;
            if fua || !self.volatile.load(Ordering::Relaxed) {
                self.cache.lock().remove(&block);
                self.medium.lock()[block as usize * BLOCK..][..BLOCK].copy_from_slice(part);
            } else {
                self.cache.lock().insert(block, part.to_vec());
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct MemEngine {
    drive: Arc<MemDrive>,
    geometry: Geometry,
}

impl MemEngine {
    fn execute(&self, request: &Request) -> Result<(), (IoErrorKind, &'static str)> {
        let drive = &self.drive;
        if drive.gone.load(Ordering::SeqCst) {
            return Err((IoErrorKind::Gone, "removed"));
        }
        match request.op {
            Op::Flush => {
                drive.flushes.fetch_add(1, Ordering::Relaxed);
                if drive.fail_flushes.load(Ordering::Relaxed) {
                    return Err((IoErrorKind::Media, "Write Fault"));
                }
                drive.write_back();
            }
            Op::Deallocate => {
                for extent in &request.extents {
                    drive.deallocated.lock().push((extent.offset, extent.len));
                    // Whatever was there is lost at once, even if the hint comes too late.
                    drive.write_back();
                    let range = extent.offset as usize..(extent.offset + extent.len) as usize;
                    drive.medium.lock()[range].fill(0xdd);
                }
            }
            Op::Read | Op::Write { .. } => return self.transfer(request),
        }
        Ok(())
    }

    fn transfer(&self, request: &Request) -> Result<(), (IoErrorKind, &'static str)> {
        let total: usize = request.segments.iter().map(|s| s.len()).sum();
        let mut data = vec![0; total];
        let gone = |e| (IoErrorKind::Gone, e);
        if let Op::Write { fua } = request.op {
            if self.drive.fail_writes.load(Ordering::Relaxed) {
                return Err((IoErrorKind::Media, "Write Fault"));
            }
            let mut at = 0;
            for segment in &request.segments {
                segment.read(0, &mut data[at..at + segment.len()]).unwrap();
                at += segment.len();
            }
            let mut at = 0;
            for extent in &request.extents {
                let part = &data[at..at + extent.len as usize];
                self.drive.write(extent.offset, part, fua).map_err(gone)?;
                at += extent.len as usize;
            }
            return Ok(());
        }
        let mut at = 0;
        for extent in &request.extents {
            let part = &mut data[at..at + extent.len as usize];
            self.drive.read(extent.offset, part).map_err(|e| (IoErrorKind::Media, e))?;
            at += extent.len as usize;
        }
        let mut at = 0;
        for segment in &request.segments {
            segment.write(0, &data[at..at + segment.len()]).unwrap();
            at += segment.len();
        }
        Ok(())
    }
}

impl Engine for MemEngine {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    fn dma(&self) -> &Arc<DmaSpace> {
        &self.drive.dma
    }
    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        request.check(&self.geometry).unwrap();
        let result = self.execute(&request);
        let result = result.map_err(|(kind, detail)| request.error(&self.geometry, kind, detail));
        Ok(Ended::ticket(result))
    }
    fn device(&self, gpu: &Arc<Gpu>) -> Option<Arc<dyn DeviceEngine>> {
        self.drive.device.lock().clone().filter(|engine| engine.gpu().same(gpu))
    }
    fn shutdown(&self, _deadline: Duration) -> Result<(), IoError> {
        self.drive.write_back();
        Ok(())
    }
}
