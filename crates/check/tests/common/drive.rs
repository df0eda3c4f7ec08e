use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use gcos_engine::{Ended, Engine, Geometry, IoError, IoErrorKind, Op, Request, Ticket};
use gcos_hw::{DmaMapper, DmaSlice, DmaSpace, HwError, SharedMemory};

#[derive(Debug)]
struct NoMapper;

impl DmaMapper for NoMapper {
    fn map(&self, _iova: u64, _memory: &Arc<SharedMemory>) -> Result<(), HwError> {
        Ok(())
    }
    fn unmap(&self, _iova: u64, _len: usize) -> Result<(), HwError> {
        Ok(())
    }
}

fn space() -> Arc<DmaSpace> {
    static SPACE: OnceLock<Arc<DmaSpace>> = OnceLock::new();
    let all = 0x1000_0000..0x1000_0000_0000;
    let new = || DmaSpace::new(Arc::new(NoMapper), std::slice::from_ref(&all)).unwrap();
    Arc::clone(SPACE.get_or_init(new))
}

/// A drive in memory that counts writes, may stop after some, and may have unreadable blocks.
#[derive(Debug)]
pub struct Memory {
    geometry: Geometry,
    dma: Arc<DmaSpace>,
    bytes: Mutex<Vec<u8>>,
    writes: AtomicU64,
    budget: AtomicU64,
    bad: Mutex<Vec<u64>>,
    /// Offsets and lengths of what was written since [`Memory::undo`].
    touched: Mutex<Vec<(usize, usize)>>,
}

impl Memory {
    pub fn new(name: &str, bytes: Vec<u8>) -> Arc<Self> {
        let geometry = Geometry {
            name: name.to_owned(),
            serial: "s".to_owned(),
            model: "m".to_owned(),
            capacity: bytes.len() as u64,
            lba_bytes: 512,
            max_transfer: 1 << 20,
            volatile_cache: true,
            deallocate: true,
        };
        Arc::new(Self {
            geometry,
            dma: space(),
            bytes: Mutex::new(bytes),
            writes: AtomicU64::new(0),
            budget: AtomicU64::new(u64::MAX),
            bad: Mutex::default(),
            touched: Mutex::default(),
        })
    }

    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// After so many writes the drive is gone.
    pub fn stop_after(&self, writes: u64) {
        self.budget.store(writes, Ordering::Relaxed);
    }

    pub fn image(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    pub fn load(&self, image: &[u8]) {
        self.bytes.lock().unwrap().copy_from_slice(image);
    }

    /// Puts back what the image has wherever something was written since the last call.
    pub fn undo(&self, image: &[u8]) {
        let mut bytes = self.bytes.lock().unwrap();
        for (at, len) in std::mem::take(&mut *self.touched.lock().unwrap()) {
            bytes[at..at + len].copy_from_slice(&image[at..at + len]);
        }
    }

    pub fn put(&self, offset: u64, bytes: &[u8]) {
        let at = offset as usize;
        self.bytes.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn flip(&self, offset: u64) {
        self.change(offset, 0x5a);
    }

    /// Changes the bits of a byte.
    pub fn change(&self, offset: u64, bits: u8) {
        self.bytes.lock().unwrap()[offset as usize] ^= bits;
        self.touched.lock().unwrap().push((offset as usize, 1));
    }

    /// Makes the block at an offset unreadable until it is written.
    pub fn spoil(&self, offset: u64) {
        self.bad.lock().unwrap().push(offset / 4096);
    }

    fn go(&self, request: &Request) -> Result<(), IoError> {
        let error = |kind, text: &str| request.error(&self.geometry, kind, text);
        if let Err(why) = request.check(&self.geometry) {
            return Err(error(IoErrorKind::Invalid, &why.to_string()));
        }
        let mut all = self.bytes.lock().unwrap();
        let mut bad = self.bad.lock().unwrap();
        if matches!(request.op, Op::Write { .. }) {
            self.writes.fetch_add(1, Ordering::Relaxed);
            if self.budget.load(Ordering::Relaxed) == 0 {
                return Err(error(IoErrorKind::Gone, "stopped"));
            }
            self.budget.fetch_sub(1, Ordering::Relaxed);
        }
        let mut data = Vec::new();
        if matches!(request.op, Op::Write { .. }) {
            data = request.segments.iter().flat_map(copy_out).collect();
        }
        for extent in &request.extents {
            let blocks = extent.offset / 4096..(extent.offset + extent.len).div_ceil(4096);
            let range = extent.offset as usize..(extent.offset + extent.len) as usize;
            match request.op {
                Op::Read if bad.iter().any(|b| blocks.contains(b)) => {
                    return Err(error(IoErrorKind::Media, "unrecovered read error"));
                }
                Op::Read => data.extend_from_slice(&all[range]),
                Op::Write { .. } => {
                    bad.retain(|b| !blocks.contains(b));
                    let rest = data.split_off(range.len());
                    self.touched.lock().unwrap().push((range.start, range.len()));
                    all[range].copy_from_slice(&data);
                    data = rest;
                }
                _ => {}
            }
        }
        if request.op == Op::Read {
            for segment in &request.segments {
                let rest = data.split_off(segment.len());
                segment.write(0, &data).unwrap();
                data = rest;
            }
        }
        Ok(())
    }
}

fn copy_out(segment: &DmaSlice) -> Vec<u8> {
    let mut bytes = vec![0; segment.len()];
    segment.read(0, &mut bytes).unwrap();
    bytes
}

impl Engine for Memory {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    fn dma(&self) -> &Arc<DmaSpace> {
        &self.dma
    }
    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        Ok(Ended::ticket(self.go(&request)))
    }
    fn shutdown(&self, _deadline: Duration) -> Result<(), IoError> {
        Ok(())
    }
}

pub fn images(drives: &[Arc<Memory>]) -> Vec<Vec<u8>> {
    drives.iter().map(|drive| drive.image()).collect()
}

pub fn restore(drives: &[Arc<Memory>], images: &[Vec<u8>]) {
    for (drive, image) in drives.iter().zip(images) {
        drive.load(image);
        drive.stop_after(u64::MAX);
    }
}
