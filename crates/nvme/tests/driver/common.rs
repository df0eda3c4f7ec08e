//! A driver on a software controller, and I/O with bytes that name their block.

use std::sync::Arc;
use std::time::Duration;

use gcos_emulator::{Config, Emulator, Medium, Namespace, Run};
use gcos_hw::{DmaBuffer, DmaSlice};
use gcos_nvme::{BlockRange, Controller, IoOp, IoRequest, NvmeError, Options};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MEDIUM: u64 = 32 << 20;

/// A stepped controller configuration with one namespace of the given block size.
pub(crate) fn config(lba_bytes: u32) -> Config {
    Config {
        namespaces: vec![Namespace { lba_bytes, bytes: MEDIUM }],
        run: Run::Stepped { seed: 7 },
        serial: "SERIAL-7".to_owned(),
        ..Config::new(Medium::ram(MEDIUM).unwrap())
    }
}

/// Threads instead of steps.
pub(crate) fn threaded(lba_bytes: u32) -> Config {
    Config { run: Run::Threads, ..config(lba_bytes) }
}

pub(crate) fn options() -> Options {
    Options { queue_depth: 64, ..Options::default() }
}

pub(crate) fn open(config: Config, options: Options) -> (Arc<Emulator>, Arc<Controller>) {
    let emulator = Emulator::new(config).unwrap();
    let controller = Controller::open(emulator.function(), options).unwrap();
    (emulator, controller)
}

pub(crate) fn refused(config: Config, options: Options) -> NvmeError {
    let emulator = Emulator::new(config).unwrap();
    Controller::open(emulator.function(), options).unwrap_err()
}

pub(crate) fn request(op: IoOp, slba: u64, blocks: u64, segments: Vec<DmaSlice>) -> IoRequest {
    let ranges = std::iter::once(BlockRange { slba, blocks }).collect();
    IoRequest { nsid: 1, op, ranges, segments: segments.into(), timeout: SECOND }
}

/// What block `lba` holds in generation `version`.
pub(crate) fn pattern(lba: u64, version: u64, lba_bytes: usize) -> Vec<u8> {
    let words = (0..lba_bytes as u64 / 8).map(|i| (lba << 20) ^ (version << 52) ^ i);
    words.flat_map(u64::to_le_bytes).collect()
}

pub(crate) fn alloc(controller: &Controller, len: usize) -> DmaBuffer {
    controller.dma().alloc(len).unwrap()
}

pub(crate) fn bytes(slice: &DmaSlice) -> Vec<u8> {
    let mut out = vec![0; slice.len()];
    slice.read(0, &mut out).unwrap();
    out
}

/// Writes blocks through a buffer of its own.
pub(crate) fn write(controller: &Arc<Controller>, slba: u64, data: &[u8]) -> Result<(), NvmeError> {
    let buffer = alloc(controller, data.len());
    buffer.as_dma().write(0, data).unwrap();
    let lba = u64::from(controller.namespaces()[0].lba_bytes);
    let blocks = data.len() as u64 / lba;
    let op = IoOp::Write { fua: false };
    controller.run(request(op, slba, blocks, vec![buffer.as_dma()]))
}

/// Reads blocks through a buffer of its own.
pub(crate) fn read(
    controller: &Arc<Controller>,
    slba: u64,
    len: usize,
) -> Result<Vec<u8>, NvmeError> {
    let buffer = alloc(controller, len);
    let lba = u64::from(controller.namespaces()[0].lba_bytes);
    controller.run(request(IoOp::Read, slba, len as u64 / lba, vec![buffer.as_dma()]))?;
    Ok(bytes(&buffer.as_dma()))
}
