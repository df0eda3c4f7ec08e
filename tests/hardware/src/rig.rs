//! A controller that a case has brought up, and blocks that say where they belong.

use std::sync::Arc;
use std::time::Duration;

use gcos_hw::{DmaBuffer, DmaSlice};
use gcos_nvme::{BlockRange, Controller, IoOp, IoRequest, NvmeError, Options, Pending};

use crate::outcome::ensure;
use crate::{Stop, Target, Window};

/// A controller, one of its namespaces, and the deadline of requests.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) controller: Arc<Controller>,
    pub(crate) nsid: u32,
    /// Bytes of a logical block.
    pub(crate) lba: usize,
    /// Logical blocks of the namespace.
    pub(crate) blocks: u64,
    window: Option<Window>,
    timeout: Duration,
}

impl Rig {
    pub(crate) fn open(target: &Target) -> Result<Self, Stop> {
        Self::open_with(target, target.options.clone())
    }

    pub(crate) fn open_with(target: &Target, options: Options) -> Result<Self, Stop> {
        let controller = Controller::open(Arc::clone(&target.function), options)?;
        let Some(namespace) = controller.namespace(target.nsid) else {
            let active: Vec<_> = controller.namespaces().iter().map(|n| n.nsid).collect();
            let nsid = target.nsid;
            return Err(Stop::failed(format!("namespace {nsid} is not one of {active:?}")));
        };
        let (lba, blocks) = (namespace.lba_bytes as usize, namespace.blocks);
        ensure!(matches!(lba, 512 | 4096), "blocks of {lba} bytes, expected 512 or 4096");
        let (nsid, window, timeout) = (target.nsid, target.window, target.timeout);
        let rig = Self { controller, nsid, lba, blocks, window, timeout };
        if let Some(Window { slba, blocks }) = window {
            let end = slba.checked_add(blocks);
            let page = (4096 / rig.lba) as u64;
            let whole = slba.is_multiple_of(page) && blocks.is_multiple_of(page);
            ensure!(
                whole && blocks > 0 && end.is_some_and(|end| end <= rig.blocks),
                "the window of {blocks} blocks from {slba} is not of whole 4 KiB pages within the \
                 {} blocks of the namespace",
                rig.blocks
            );
        }
        Ok(rig)
    }

    /// The window, of at least so many bytes.
    pub(crate) fn window(&self, bytes: u64) -> Result<Window, Stop> {
        match self.window {
            None => Err(Stop::not_offered("nothing may be overwritten")),
            Some(window) if window.blocks * (self.lba as u64) < bytes => {
                Err(Stop::not_offered(format!("it needs a window of {bytes} bytes")))
            }
            Some(window) => Ok(window),
        }
    }

    pub(crate) fn alloc(&self, len: usize) -> Result<DmaBuffer, Stop> {
        Ok(self.controller.dma().alloc(len)?)
    }

    pub(crate) fn request(
        &self,
        op: IoOp,
        slba: u64,
        blocks: u64,
        segments: Vec<DmaSlice>,
    ) -> IoRequest {
        let ranges = (blocks > 0).then_some(BlockRange { slba, blocks }).into_iter().collect();
        let segments = segments.into();
        IoRequest { nsid: self.nsid, op, ranges, segments, timeout: self.timeout }
    }

    /// Carries out an operation on consecutive blocks; `blocks` is 0 for a flush.
    pub(crate) fn run(
        &self,
        op: IoOp,
        slba: u64,
        blocks: u64,
        segments: Vec<DmaSlice>,
    ) -> Result<(), NvmeError> {
        self.controller.run(self.request(op, slba, blocks, segments))
    }

    pub(crate) fn submit(
        &self,
        op: IoOp,
        slba: u64,
        blocks: u64,
        segments: Vec<DmaSlice>,
    ) -> Result<Pending, NvmeError> {
        self.controller.submit(self.request(op, slba, blocks, segments))
    }

    /// Writes blocks of a version.
    pub(crate) fn write(&self, slba: u64, blocks: u64, version: u64) -> Result<(), Stop> {
        self.write_as(IoOp::Write { fua: false }, slba, blocks, version)
    }

    pub(crate) fn write_as(
        &self,
        op: IoOp,
        slba: u64,
        blocks: u64,
        version: u64,
    ) -> Result<(), Stop> {
        let buffer = self.alloc(self.lba * blocks as usize)?;
        self.fill(&buffer.as_dma(), slba, version)?;
        Ok(self.run(op, slba, blocks, vec![buffer.as_dma()])?)
    }

    /// Reads blocks and compares them with a version of them.
    pub(crate) fn verify(&self, slba: u64, blocks: u64, version: u64) -> Result<(), Stop> {
        let buffer = self.alloc(self.lba * blocks as usize)?;
        buffer.as_dma().fill(0, buffer.len(), 0xEE)?;
        self.run(IoOp::Read, slba, blocks, vec![buffer.as_dma()])?;
        self.compare(&buffer.as_dma(), slba, version)
    }

    /// Reads blocks as they are.
    pub(crate) fn read(&self, slba: u64, blocks: u64) -> Result<Vec<u8>, Stop> {
        let buffer = self.alloc(self.lba * blocks as usize)?;
        self.run(IoOp::Read, slba, blocks, vec![buffer.as_dma()])?;
        bytes(&buffer.as_dma())
    }

    /// Puts into memory what the blocks from `slba` on hold in this version.
    pub(crate) fn fill(&self, memory: &DmaSlice, slba: u64, version: u64) -> Result<(), Stop> {
        Ok(memory.write(0, &self.pattern(memory.len(), slba, version))?)
    }

    pub(crate) fn pattern(&self, len: usize, slba: u64, version: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(len);
        for slba in slba..slba + (len / self.lba) as u64 {
            block(&mut out, self.lba, slba, version);
        }
        out
    }

    /// Compares memory with what the blocks hold in this version, and says which block differs.
    pub(crate) fn compare(&self, memory: &DmaSlice, slba: u64, version: u64) -> Result<(), Stop> {
        let (got, expected) = (bytes(memory)?, self.pattern(memory.len(), slba, version));
        if got == expected {
            return Ok(());
        }
        let blocks = got.chunks(self.lba).zip(expected.chunks(self.lba)).zip(slba..);
        for ((got, expected), lba) in blocks {
            let differs = got.iter().zip(expected).position(|(a, b)| a != b);
            if let Some(at) = differs {
                let (got, expected) = (&got[at & !7..][..8], &expected[at & !7..][..8]);
                return Err(Stop::failed(format!(
                    "block {lba} of version {version}, byte {at}: expected {expected:02x?}, \
                     found {got:02x?}"
                )));
            }
        }
        Err(Stop::failed("memory of another length than its blocks"))
    }
}

/// The bytes of a slice.
pub(crate) fn bytes(slice: &DmaSlice) -> Result<Vec<u8>, Stop> {
    let mut out = vec![0; slice.len()];
    slice.read(0, &mut out)?;
    Ok(out)
}

/// Appends a block: every word of it depends on the block, the version and its place.
fn block(out: &mut Vec<u8>, lba_bytes: usize, slba: u64, version: u64) {
    let mut word = (slba ^ version.rotate_left(40)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for _ in 0..lba_bytes / 8 {
        out.extend_from_slice(&word.to_le_bytes());
        word = word.wrapping_add(0xD1B5_4A32_D192_ED03).rotate_left(9);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_other_places_and_versions_differ_everywhere() {
        let of = |slba, version| {
            let mut out = Vec::new();
            block(&mut out, 512, slba, version);
            out
        };
        for (slba, version) in [(1, 0), (0, 1), (512, 0), (0, 512)] {
            let (one, other) = (of(0, 0), of(slba, version));
            assert!(one.chunks(8).zip(other.chunks(8)).all(|(a, b)| a != b), "{slba} {version}");
        }
        assert_eq!(of(7, 8), of(7, 8));
    }
}
