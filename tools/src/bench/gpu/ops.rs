//! Checksums and copies in the memory of the GPU.

use gcos::cuda::ops::{Direction, Memory, ObjectLayout, PageLayout, Run, Table};
use gcos::engine::device::DeviceSlice;

use super::{Bench, Figure, SOON, WORKSPACE, failed};
use crate::failure::Failure;
use crate::meter::Meter;

/// Rows that [`measure`] gives.
pub(super) const FIGURES: usize = 6;

/// What a checksum must keep up with: ten drives of 14 GB/s each.
const NEED: u64 = 140_000_000_000;
const GRAIN: u32 = 64 << 10;
const LAYERS: u32 = 32;
/// Bytes of a token in one plane of a layer: 8 heads of 128 elements of 2 bytes.
const TOKEN: u32 = 2048;
const BLOCK_TOKENS: u32 = 16;
/// Launches that go together, so that their own cost is not what is measured.
const TOGETHER: usize = 4;

const COPY: &str = "device copy";

/// Checksums beside what is needed; copies to and from pages beside the GPU's own copy of as many bytes.
pub(super) fn measure(bench: &Bench, meter: &Meter) -> Result<Vec<Figure>, Failure> {
    let space = bench.memory.alloc(WORKSPACE, 4096).map_err(failed)?.as_slice();
    bench.stream.fill(&space, 0x5a).map_err(failed)?;
    let mut figures = Vec::new();
    for grains in [1, (WORKSPACE / 2) as u32 / GRAIN] {
        figures.push(checksum(bench, &space, grains)?);
        meter.add(1);
    }
    let pages = half(&space, 0)?;
    let objects = half(&space, WORKSPACE / 2)?;
    for tokens in [256, 2048] {
        for direction in [Direction::Gather, Direction::Scatter] {
            figures.push(paged(bench, (&pages, &objects), tokens, direction)?);
            meter.add(1);
        }
    }
    Ok(figures)
}

fn half(space: &DeviceSlice, offset: usize) -> Result<DeviceSlice, Failure> {
    space.slice(offset, WORKSPACE / 2).map_err(failed)
}

fn checksum(bench: &Bench, space: &DeviceSlice, grains: u32) -> Result<Figure, Failure> {
    let run = |grain: u32| Run {
        memory: 0,
        offset: u64::from(grain) * u64::from(GRAIN),
        bytes: GRAIN,
        grain,
    };
    let runs: Vec<Run> = (0..grains).map(run).collect();
    let mut expected = None;
    let ours = || {
        let memories = vec![Memory::of(space)];
        let ticket = bench.ops.checksum(&bench.stream, memories, &runs).map_err(failed)?;
        let sums = ticket.wait(SOON).map_err(failed)?;
        let first = *expected
            .get_or_insert_with(|| gcos::layout::checksum::crc32c(&vec![0x5a; GRAIN as usize]));
        if sums.iter().any(|&sum| sum != first) {
            return Err(Failure::new("gpu", "the GPU computes other checksums than the processor"));
        }
        Ok(u64::from(grains) * u64::from(GRAIN))
    };
    // Not a measurement: the need, as a rate.
    let need = || {
        std::thread::sleep(std::time::Duration::from_millis(1));
        Ok(NEED / 1000)
    };
    let what = if grains == 1 { "checksum of a grain" } else { "checksum of many grains" };
    let mut figure =
        bench.figure((what.to_owned(), GRAIN as usize, grains as usize), "need", ours, need)?;
    figure.beside_bytes_per_second = NEED as f64;
    figure.ratio = figure.bytes_per_second / NEED as f64;
    Ok(figure)
}

fn paged(
    bench: &Bench,
    (pages, objects): (&DeviceSlice, &DeviceSlice),
    tokens: u32,
    direction: Direction,
) -> Result<Figure, Failure> {
    let layer_bytes = pages.len() / LAYERS as usize;
    let blocks = (layer_bytes / (2 * BLOCK_TOKENS * TOKEN) as usize) as u32;
    let layout = PageLayout::planes_first(blocks, BLOCK_TOKENS, TOKEN);
    let layer = |index: u32| pages.slice(index as usize * layer_bytes, layer_bytes);
    let layers = (0..LAYERS).map(|index| layer(index).map(|slice| Memory::of(&slice)));
    let layers = layers.collect::<Result<_, _>>().map_err(failed)?;
    let kv = bench.ops.paged_kv(&bench.memory, layers, layout).map_err(failed)?;
    let mut order: Vec<u32> = (0..blocks).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut order);
    // Where engines have it: on the GPU.
    let table = bench.memory.alloc(order.len() * 4, 256).map_err(failed)?.as_slice();
    let entries: Vec<u8> = order.iter().flat_map(|block| block.to_le_bytes()).collect();
    table.copy_in(0, &entries).map_err(failed)?;
    let at = ObjectLayout::planes_first(&layout, LAYERS, tokens);
    let bytes = (LAYERS * 2 * tokens * TOKEN) as usize;
    let objects_in_all = objects.len() / bytes;
    let per_object = (tokens / BLOCK_TOKENS) as usize;
    let object = |turn: usize| objects.slice(turn % objects_in_all * bytes, bytes).map_err(failed);
    let all = (bytes * TOGETHER) as u64;
    let mut turn = 0;
    let ours = || {
        for _ in 0..TOGETHER {
            turn += 1;
            let first = turn * per_object % (order.len() - per_object + 1);
            let blocks = table.slice(first * 4, per_object * 4).map_err(failed)?;
            let table = Table::DeviceBlocks { blocks: Memory::of(&blocks), first_slot: 0 };
            let object = (Memory::of(&object(turn)?), at);
            let ticket = bench.ops.paged(&bench.stream, direction, &kv, table, object, tokens);
            drop(ticket.map_err(failed)?);
        }
        bench.stream.synchronize(SOON).map_err(failed)?;
        Ok(all)
    };
    let mut turn = 0;
    let theirs = || {
        for _ in 0..TOGETHER {
            turn += 1;
            let from = pages.slice(turn % objects_in_all * bytes, bytes).map_err(failed)?;
            bench.stream.copy(&from, &object(turn)?).map_err(failed)?;
        }
        bench.stream.synchronize(SOON).map_err(failed)?;
        Ok(all)
    };
    let what = match direction {
        Direction::Gather => "pages of 16 tokens to an object",
        Direction::Scatter => "an object to pages of 16 tokens",
    };
    bench.figure((what.to_owned(), bytes, TOGETHER), COPY, ours, theirs)
}
