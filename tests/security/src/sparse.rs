use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gcos_engine::{Ended, Engine, Geometry, IoError, IoErrorKind, Op, Request, Ticket};
use gcos_hw::DmaSpace;

const BLOCK: usize = 4096;

/// A drive that claims any capacity and holds zeros but for what was put there.
#[derive(Debug)]
pub struct Sparse {
    blocks: Mutex<BTreeMap<u64, Vec<u8>>>,
    dma: Arc<DmaSpace>,
    geometry: Geometry,
}

impl Sparse {
    /// A drive of zeros.
    #[must_use]
    pub fn new(capacity: u64, dma: Arc<DmaSpace>) -> Arc<Self> {
        let geometry = Geometry {
            name: "sparse".to_owned(),
            serial: "sparse".to_owned(),
            model: "a drive that claims a lot".to_owned(),
            capacity,
            lba_bytes: 4096,
            max_transfer: 1 << 20,
            volatile_cache: false,
            deallocate: false,
        };
        Arc::new(Self { blocks: Mutex::default(), dma, geometry })
    }

    /// Puts a block at a multiple of 4096.
    pub fn put(&self, offset: u64, block: &[u8]) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.insert(offset / BLOCK as u64, block.to_vec());
    }

    /// The memory that this drive itself takes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).len() * 2 * BLOCK
    }

    fn transfer(&self, request: &Request) -> Option<()> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut numbers = request.extents.iter().flat_map(|extent| {
            let first = extent.offset / BLOCK as u64;
            first..first + extent.len / BLOCK as u64
        });
        for segment in &request.segments {
            for at in (0..segment.len()).step_by(BLOCK) {
                let number = numbers.next()?;
                let mut bytes = vec![0; BLOCK];
                match request.op {
                    Op::Write { .. } => {
                        segment.read(at, &mut bytes).ok()?;
                        blocks.insert(number, bytes);
                    }
                    _ => match blocks.get(&number) {
                        Some(block) => segment.write(at, block).ok()?,
                        None => segment.fill(at, BLOCK, 0).ok()?,
                    },
                }
            }
        }
        Some(())
    }
}

impl Engine for Sparse {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    fn dma(&self) -> &Arc<DmaSpace> {
        &self.dma
    }
    fn submit(&self, request: Request) -> Result<Box<dyn Ticket>, IoError> {
        let kind = IoErrorKind::Media;
        request
            .check(&self.geometry)
            .map_err(|error| request.error(&self.geometry, kind, error.to_string()))?;
        let done = self.transfer(&request);
        let error = || request.error(&self.geometry, kind, "segments that are no whole blocks");
        Ok(Ended::ticket(done.ok_or_else(error)))
    }
    fn shutdown(&self, _deadline: Duration) -> Result<(), IoError> {
        Ok(())
    }
}
