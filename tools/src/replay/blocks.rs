//! Memory of one worker: where its blocks are while they are fetched and stored.

use std::time::{Duration, Instant};

use gcos::engine::device::{DeviceBuffer, Gpu, Stream};
use gcos::hw::{DmaBuffer, DmaSlice};
use gcos::store::{DeviceRun, LayerSink};
use gcos::{Lookup, PutOptions, PutOutcome, Sink, Source, Store, StoreError};

use super::worker::Plan;
use crate::failure::Failure;

/// Bytes of a page of the GPU's memory, where blocks are fetched in layers.
const PAGE_BYTES: usize = 16 << 10;
/// Layers on their way ahead of the one that is awaited, and that one.
const PREFETCH: usize = 2;

/// What came of each block, and the time that the store took.
pub(crate) type Timed<T> = (Vec<Result<T, StoreError>>, Duration);

/// Memory for a batch of blocks.
#[derive(Debug)]
pub(crate) enum Blocks {
    Host(DmaBuffer),
    Gpu(Box<GpuBlocks>),
}

impl Blocks {
    pub(crate) fn new(store: &Store, plan: &Plan) -> Result<Self, Failure> {
        match &plan.gpu {
            None => Ok(Self::Host(store.buffer(plan.block_bytes * plan.batch)?)),
            Some(gpu) => Ok(Self::Gpu(Box::new(GpuBlocks::new(store, plan, gpu)?))),
        }
    }

    /// Fetches blocks to the places from the first on.
    pub(crate) fn fetch(
        &mut self,
        store: &Store,
        plan: &Plan,
        keys: &[&[u8]],
    ) -> Result<Timed<Lookup>, Failure> {
        match self {
            Self::Host(buffer) => {
                let segments = segments(buffer, plan, keys.len())?;
                let sinks = keys.iter().zip(segments.chunks(1));
                let items = sinks.map(|(key, segment)| (*key, Sink::Segments(segment))).collect();
                let start = Instant::now();
                Ok((store.get_many(items), start.elapsed()))
            }
            Self::Gpu(blocks) => blocks.fetch(store, keys),
        }
    }

    /// Stores the blocks at the places from the first on.
    pub(crate) fn store(
        &mut self,
        store: &Store,
        plan: &Plan,
        keys: &[&[u8]],
    ) -> Result<Timed<PutOutcome>, Failure> {
        let options = PutOptions { durability: plan.durability, ..PutOptions::default() };
        match self {
            Self::Host(buffer) => {
                let segments = segments(buffer, plan, keys.len())?;
                let sources = keys.iter().zip(segments.chunks(1));
                let items: Vec<_> =
                    sources.map(|(key, segment)| (*key, Source::Segments(segment))).collect();
                let start = Instant::now();
                Ok((store.put_many(&items, &options), start.elapsed()))
            }
            Self::Gpu(blocks) => blocks.store(store, keys, &options),
        }
    }

    /// The bytes at the first `count` places, one block after the other.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&[u8], Failure> {
        match self {
            Self::Host(buffer) => Ok(buffer.bytes_mut()?),
            Self::Gpu(blocks) => blocks.read(count),
        }
    }

    /// Has `fill` write the blocks at the first `count` places.
    pub(crate) fn fill(
        &mut self,
        count: usize,
        plan: &Plan,
        mut fill: impl FnMut(usize, &mut [u8]),
    ) -> Result<(), Failure> {
        let mut each = |bytes: &mut [u8]| {
            let blocks = bytes.chunks_mut(plan.block_bytes).take(count);
            blocks.enumerate().for_each(|(index, block)| fill(index, block));
        };
        match self {
            Self::Host(buffer) => each(buffer.bytes_mut()?),
            Self::Gpu(blocks) => {
                each(&mut blocks.host);
                blocks.write(count)?;
            }
        }
        Ok(())
    }
}

/// The first `count` blocks of a buffer, lent to I/O.
fn segments(buffer: &DmaBuffer, plan: &Plan, count: usize) -> Result<Vec<DmaSlice>, Failure> {
    let len = plan.block_bytes;
    let slices = (0..count).map(|index| buffer.slice(index * len, len));
    Ok(slices.collect::<Result<_, _>>()?)
}

/// Blocks in the memory of a GPU: one after the other; or in pages, which lie the other way round.
#[derive(Debug)]
pub(crate) struct GpuBlocks {
    stream: Stream,
    buffer: DeviceBuffer,
    block_bytes: usize,
    /// `None` to fetch each block whole.
    layers: Option<usize>,
    page_bytes: usize,
    /// Pages of all blocks.
    pages: usize,
    /// The blocks as the host fills and compares them.
    host: Vec<u8>,
}

/// A failure of a GPU.
pub(crate) fn gpu_failure(error: &gcos::engine::device::GpuError) -> Failure {
    Failure::chain("gpu", error)
}

impl GpuBlocks {
    fn new(store: &Store, plan: &Plan, gpu: &std::sync::Arc<Gpu>) -> Result<Self, Failure> {
        let page_bytes = if plan.layers.is_some() { PAGE_BYTES } else { plan.block_bytes };
        let pages = plan.block_bytes.div_ceil(page_bytes) * plan.batch;
        Ok(Self {
            stream: Stream::new(gpu).map_err(|error| gpu_failure(&error))?,
            buffer: store.device_buffer(gpu, pages * page_bytes)?,
            block_bytes: plan.block_bytes,
            layers: plan.layers,
            page_bytes,
            pages,
            host: vec![0; plan.block_bytes * plan.batch],
        })
    }

    /// Where part of a block lies: offset and length of each piece in the buffer.
    fn pieces(&self, block: usize, from: usize, to: usize) -> Vec<(usize, usize)> {
        let first_page = block * self.block_bytes.div_ceil(self.page_bytes);
        let mut pieces = Vec::new();
        let mut at = from;
        while at < to {
            let (page, offset) = (first_page + at / self.page_bytes, at % self.page_bytes);
            let place = if self.layers.is_some() { self.pages - 1 - page } else { page };
            let take = (self.page_bytes - offset).min(to - at);
            pieces.push((place * self.page_bytes + offset, take));
            at += take;
        }
        pieces
    }

    fn run(&self, block: usize, from: usize, to: usize) -> Result<DeviceRun, Failure> {
        let pieces = self.pieces(block, from, to).into_iter();
        let slices = pieces.map(|(at, len)| self.buffer.slice(at, len));
        slices.collect::<Result<DeviceRun, _>>().map_err(|error| gpu_failure(&error))
    }

    fn fetch(&self, store: &Store, keys: &[&[u8]]) -> Result<Timed<Lookup>, Failure> {
        let Some(layers) = self.layers else {
            let runs = (0..keys.len()).map(|block| self.run(block, 0, self.block_bytes));
            let runs = runs.collect::<Result<Vec<_>, _>>()?;
            let start = Instant::now();
            let gets = store.get_on(&self.stream, keys.iter().copied().zip(runs))?;
            return Ok((gets.wait(), start.elapsed()));
        };
        let mut sinks = Vec::with_capacity(layers);
        for layer in 0..layers {
            let edge = |layer: usize| layer * self.block_bytes / layers;
            let (from, to) = (edge(layer), edge(layer + 1));
            let offset = u32::try_from(from).unwrap_or(u32::MAX);
            let mut sink = LayerSink::default();
            for block in (0..keys.len()).filter(|_| from < to) {
                sink = sink.part(block, offset, self.run(block, from, to)?);
            }
            sinks.push(sink);
        }
        let start = Instant::now();
        let mut results: Vec<Option<Result<Lookup, StoreError>>> = vec![];
        results.resize_with(keys.len(), || None);
        for layer in store.get_layers(&self.stream, keys, sinks, PREFETCH)? {
            for (place, result) in results.iter_mut().zip(layer.results) {
                // The first layer of a block that is no hit speaks for the block.
                match place {
                    Some(Ok(Lookup::Hit(_))) | None => *place = Some(result),
                    Some(_) => {}
                }
            }
        }
        let time = start.elapsed();
        let missing = || Err(StoreError::Closed);
        Ok((results.into_iter().map(|result| result.unwrap_or_else(missing)).collect(), time))
    }

    fn store(
        &self,
        store: &Store,
        keys: &[&[u8]],
        options: &PutOptions,
    ) -> Result<Timed<PutOutcome>, Failure> {
        let runs = (0..keys.len()).map(|block| self.run(block, 0, self.block_bytes));
        let runs = runs.collect::<Result<Vec<_>, _>>()?;
        let start = Instant::now();
        let items = keys.iter().copied().zip(runs);
        let results = store.put_many_on(&self.stream, items, options);
        Ok((results, start.elapsed()))
    }

    /// Copies the first `count` blocks to the host.
    fn read(&mut self, count: usize) -> Result<&[u8], Failure> {
        let mut raw = vec![0; self.buffer.len()];
        self.buffer.copy_out(0, &mut raw).map_err(|error| gpu_failure(&error))?;
        let len = self.block_bytes;
        for block in 0..count {
            let mut at = block * len;
            for (from, take) in self.pieces(block, 0, len) {
                let piece = raw.get(from..from + take).unwrap_or_default();
                if let Some(to) = self.host.get_mut(at..at + take) {
                    to.copy_from_slice(piece);
                }
                at += take;
            }
        }
        Ok(&self.host)
    }

    /// Copies the first `count` blocks to the GPU.
    fn write(&self, count: usize) -> Result<(), Failure> {
        let len = self.block_bytes;
        for block in 0..count {
            let mut at = block * len;
            for (to, take) in self.pieces(block, 0, len) {
                let piece = self.host.get(at..at + take).unwrap_or_default();
                self.buffer.copy_in(to, piece).map_err(|error| gpu_failure(&error))?;
                at += take;
            }
        }
        Ok(())
    }
}
