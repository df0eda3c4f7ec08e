//! Checksums and copies by the GPU against those by the CPU: on a played GPU, or with the feature `gpu` alone
//! on a real one.
#![cfg(any(feature = "played", feature = "gpu"))]
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use gcos_cuda::ops::{Copy, Direction, Memory, ObjectLayout, Ops, PageLayout, Run, Table};
use gcos_cuda::{DeviceMemory, DeviceSlice, Gpu, GpuError, Kernels, MemoryOptions, Pinned, Stream};
use gcos_emulator::AddressSpace;
use gcos_layout::checksum::crc32c;
use proptest::prelude::*;

const SOON: Duration = Duration::from_secs(60);

/// What every test needs, made once.
struct World {
    ops: Arc<Ops>,
    stream: Stream,
    memory: Arc<DeviceMemory>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    #[cfg(feature = "played")]
    let gpu = Gpu::played();
    #[cfg(not(feature = "played"))]
    let gpu = Gpu::open(0).unwrap();
    World {
        ops: Ops::new(&Kernels::load(&gpu).unwrap()).unwrap(),
        stream: Stream::new(&gpu).unwrap(),
        memory: memory_of(&gpu),
    }
});

fn memory_of(gpu: &Arc<Gpu>) -> Arc<DeviceMemory> {
    let options = MemoryOptions { window_bytes: 8 << 20, ..MemoryOptions::default() };
    DeviceMemory::new(gpu, &AddressSpace::new().unwrap().dma, options).unwrap()
}

/// Device memory that holds these bytes.
fn device(bytes: &[u8]) -> DeviceSlice {
    let buffer = WORLD.memory.alloc(bytes.len().max(1), 256).unwrap().as_slice();
    buffer.copy_in(0, bytes).unwrap();
    buffer
}

fn found(slice: &DeviceSlice) -> Vec<u8> {
    let mut bytes = vec![0; slice.len()];
    slice.copy_out(0, &mut bytes).unwrap();
    bytes
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Lengths around those at which kernels change their ways.
fn length() -> impl Strategy<Value = u32> {
    prop_oneof![1..40_u32, (1..200_u32).prop_map(|n| n * 16), 1000..1100_u32, 1..9000_u32]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn checksums_of_any_runs_are_those_of_the_cpu(
        grains in prop::collection::vec(
            prop::collection::vec((0..40_u64, length()), 1..6), 1..6),
        seed: u64,
    ) {
        let (mut runs, mut at) = (Vec::new(), 0);
        for (grain, lengths) in grains.iter().enumerate() {
            for &(gap, bytes) in lengths {
                at += gap;
                runs.push(Run { memory: 0, offset: at, bytes, grain: grain as u32 });
                at += u64::from(bytes);
            }
        }
        let bytes = noise(seed, at as usize);
        let memories = vec![Memory::of(&device(&bytes))];
        let ticket = WORLD.ops.checksum(&WORLD.stream, memories, &runs).unwrap();
        let expected: Vec<u32> = (0..grains.len() as u32)
            .map(|grain| {
                let parts = runs.iter().filter(|run| run.grain == grain);
                crc32c(&parts.flat_map(|run| bytes_of(&bytes, run)).collect::<Vec<u8>>())
            })
            .collect();
        prop_assert_eq!(ticket.wait(SOON).unwrap(), expected);
    }

    #[test]
    fn copies_of_any_alignment_write_what_they_should_and_nothing_else(
        list in prop::collection::vec((0..20_u64, 0..20_u64, length()), 1..12),
        seed: u64,
    ) {
        let (mut from, mut to, mut copies) = (0, 0, Vec::new());
        for &(skip_from, skip_to, bytes) in &list {
            (from, to) = (from + skip_from, to + skip_to);
            copies.push(Copy {
                source: 0,
                source_offset: from,
                target: 1,
                target_offset: to,
                bytes: u64::from(bytes),
            });
            (from, to) = (from + u64::from(bytes), to + u64::from(bytes));
        }
        let bytes = noise(seed, from as usize);
        let mut expected = vec![0xee; to as usize];
        for copy in &copies {
            let part = &bytes[copy.source_offset as usize..][..copy.bytes as usize];
            expected[copy.target_offset as usize..][..part.len()].copy_from_slice(part);
        }
        let (source, target) = (device(&bytes), device(&vec![0xee; to as usize]));
        let memories = vec![Memory::of(&source), Memory::of(&target)];
        WORLD.ops.copy(&WORLD.stream, memories, &copies).unwrap().wait(SOON).unwrap();
        prop_assert!(found(&target) == expected);
    }

    #[test]
    fn an_object_goes_to_pages_and_back(
        form in 0..4_usize,
        tokens in 1..70_u32,
        layers in 1..4_u32,
        piece in prop_oneof![1..20_u32, Just(256), (1..40_u32).prop_map(|n| n * 16)],
        (slots, layers_first, seed) in any::<(bool, bool, u64)>(),
        first_slot in 0..16_u32,
    ) {
        let blocks = 12;
        let layout = match form {
            0 => PageLayout::planes_first(blocks, 16, piece),
            1 => PageLayout::blocks_first(blocks, 16, piece),
            2 => PageLayout::heads_first(blocks, 16, 3, piece),
            _ => PageLayout::one_plane(blocks, 16, piece),
        };
        let mut random = fastrand::Rng::with_seed(seed);
        let mut order: Vec<u32> = (0..blocks).collect();
        random.shuffle(&mut order);
        let slot_of = |token: u32| {
            let place = token + first_slot;
            i64::from(order[place as usize / 16] * 16 + place % 16)
        };
        let slot_table: Vec<i64> = (0..tokens).map(slot_of).collect();
        let table = || if slots {
            Table::Slots(&slot_table)
        } else {
            Table::Blocks { blocks: &order, first_slot }
        };
        let extent = layout.extent().unwrap() as usize;
        let pages: Vec<_> = (0..layers).map(|_| device(&vec![0x11; extent])).collect();
        let kv = WORLD.ops.paged_kv(&WORLD.memory, pages.iter().map(Memory::of).collect(), layout).unwrap();
        let at = if layers_first {
            ObjectLayout::layers_first(&layout, tokens)
        } else {
            ObjectLayout::planes_first(&layout, layers, tokens)
        };
        let len = u64::from(layers * layout.planes * tokens) * layout.token_bytes();
        let bytes = noise(seed, len as usize);
        let (object, back) = (device(&bytes), device(&vec![0; bytes.len()]));
        let go = |direction, object: &DeviceSlice| {
            let object = (Memory::of(object), at);
            WORLD.ops.paged(&WORLD.stream, direction, &kv, table(), object, tokens).unwrap()
        };
        go(Direction::Scatter, &object).wait(SOON).unwrap();
        go(Direction::Gather, &back).wait(SOON).unwrap();
        prop_assert!(found(&back) == bytes, "what came back is something else");
        // Where each byte lies, by the definition of the layouts.
        for (layer, page) in pages.iter().enumerate() {
            let mut expected = vec![0x11; extent];
            for (plane, part, token) in pieces(&layout, tokens) {
                let slot = slot_table[token as usize] as u64;
                let from = layer as u64 * at.layer_stride + plane * at.plane_stride
                    + part * at.part_stride + token * at.token_stride;
                let to = plane * layout.plane_stride + part * layout.part_stride
                    + slot / 16 * layout.block_stride + slot % 16 * layout.token_stride;
                let piece = &bytes[from as usize..][..layout.part_bytes as usize];
                expected[to as usize..][..piece.len()].copy_from_slice(piece);
            }
            prop_assert!(found(page) == expected, "layer {layer} has other bytes");
        }
    }
}

fn bytes_of<'a>(bytes: &'a [u8], run: &Run) -> impl Iterator<Item = u8> + 'a {
    bytes[run.offset as usize..][..run.bytes as usize].iter().copied()
}

fn pieces(layout: &PageLayout, tokens: u32) -> impl Iterator<Item = (u64, u64, u64)> {
    let (planes, parts) = (u64::from(layout.planes), u64::from(layout.parts));
    (0..planes).flat_map(move |plane| {
        (0..parts)
            .flat_map(move |part| (0..u64::from(tokens)).map(move |token| (plane, part, token)))
    })
}

#[test]
fn a_grain_of_many_parts_has_the_checksum_of_the_whole() {
    let bytes = noise(9, (1 << 20) + 4321);
    let memory = device(&bytes);
    let (first, second) = (700_001, bytes.len() as u32 - 700_001);
    let run = |offset, bytes, grain| Run { memory: 0, offset, bytes, grain };
    let runs =
        [run(0, first, 0), run(u64::from(first), second, 0), run(5, 131_072, 1), run(9, 1, 2)];
    let ticket = WORLD.ops.checksum(&WORLD.stream, vec![Memory::of(&memory)], &runs).unwrap();
    let expected = [crc32c(&bytes), crc32c(&bytes[5..131_077]), crc32c(&bytes[9..10])];
    assert_eq!(ticket.wait(SOON).unwrap(), expected);
}

#[test]
fn runs_without_sense_are_refused_before_anything_is_launched() {
    let (ops, stream) = (&WORLD.ops, &WORLD.stream);
    let memory = device(&[0; 100]);
    let run = |memory, offset, bytes, grain| Run { memory, offset, bytes, grain };
    let refusal = |runs: &[Run]| {
        ops.checksum(stream, vec![Memory::of(&memory)], runs).unwrap_err().to_string()
    };
    assert!(refusal(&[run(1, 0, 1, 0)]).contains("an index into the memory"));
    assert!(refusal(&[run(0, 0, 0, 0)]).contains("1 or more"));
    assert!(refusal(&[run(0, 0, 1, 1)]).contains("from 0 on"));
    assert!(refusal(&[run(0, 0, 1, 0), run(0, 0, 1, 2)]).contains("the next one"));
    let past = ops.checksum(stream, vec![Memory::of(&memory)], &[run(0, 1, 100, 0)]);
    assert!(matches!(past, Err(GpuError::OutOfBounds { .. })));
    let endless = ops.checksum(stream, vec![Memory::of(&memory)], &[run(0, u64::MAX, 2, 0)]);
    assert!(matches!(endless, Err(GpuError::OutOfBounds { .. })));
    let copy = Copy { source: 0, source_offset: 0, target: 0, target_offset: 50, bytes: 51 };
    let past = ops.copy(stream, vec![Memory::of(&memory)], &[copy]);
    assert!(matches!(past, Err(GpuError::OutOfBounds { .. })));
    assert_eq!(ops.checksum(stream, Vec::new(), &[]).unwrap().wait(SOON).unwrap(), [0; 0]);
    ops.copy(stream, Vec::new(), &[]).unwrap().wait(SOON).unwrap();
}

#[test]
fn a_table_that_names_what_is_not_there_is_refused_or_leaves_its_tokens_out() {
    let (ops, stream) = (&WORLD.ops, &WORLD.stream);
    let layout = PageLayout::planes_first(4, 16, 32);
    let page = device(&noise(1, layout.extent().unwrap() as usize));
    let kv = ops.paged_kv(&WORLD.memory, vec![Memory::of(&page)], layout).unwrap();
    let at = ObjectLayout::layers_first(&layout, 32);
    let target = device(&[0xee; 2 * 32 * 32]);
    let gather = |table| {
        let object = (Memory::of(&target), at);
        ops.paged(stream, Direction::Gather, &kv, table, object, 32)
    };
    let refusal = |table| gather(table).unwrap_err().to_string();
    assert!(refusal(Table::Blocks { blocks: &[1, 4], first_slot: 0 }).contains("got 4"));
    assert!(refusal(Table::Blocks { blocks: &[1, 2], first_slot: 1 }).contains("every token"));
    assert!(refusal(Table::Blocks { blocks: &[1, 2], first_slot: 16 }).contains("less than"));
    assert!(refusal(Table::Slots(&[-1; 32])).contains("0 or more"));
    assert!(refusal(Table::Slots(&[64; 32])).contains("got 64"));
    assert!(refusal(Table::Slots(&[0; 31])).contains("every token"));
    assert_eq!(found(&target), [0xee; 2 * 32 * 32], "a refused copy wrote something");

    // Where only the kernel sees the table, it does the rest and says so.
    let on_device = |blocks: [u32; 2]| {
        let bytes: Vec<u8> = blocks.iter().flat_map(|block| block.to_le_bytes()).collect();
        Table::DeviceBlocks { blocks: Memory::of(&device(&bytes)), first_slot: 0 }
    };
    let error = gather(on_device([3, 1 << 31])).unwrap().wait(SOON).unwrap_err();
    assert!(error.to_string().contains("left out"), "{error}");
    let (pages, got) = (found(&page), found(&target));
    for plane in 0..2 {
        let from = plane * 4 * 16 * 32 + 3 * 16 * 32;
        let to = plane * 32 * 32;
        assert!(got[to..to + 16 * 32] == pages[from..from + 16 * 32], "tokens that are there");
        assert!(got[to + 16 * 32..to + 32 * 32].iter().all(|&b| b == 0xee), "tokens that are not");
    }
    gather(on_device([3, 2])).unwrap().wait(SOON).unwrap();
    let short = device(&[0; 2 * 32 * 32 - 1]);
    let object = (Memory::of(&short), at);
    let table = Table::Blocks { blocks: &[0, 1], first_slot: 0 };
    let error = ops.paged(stream, Direction::Scatter, &kv, table, object, 32).unwrap_err();
    assert!(error.to_string().contains("bytes of an object"), "{error}");
    assert!(ops.paged_kv(&WORLD.memory, vec![Memory::of(&short)], layout).is_err());
}

#[test]
fn dropped_tickets_keep_their_memory_until_the_work_has_ended() {
    let (ops, stream) = (&WORLD.ops, &WORLD.stream);
    let memory = memory_of(ops.gpu());
    let gate = stream.gate().unwrap();
    let bytes = noise(4, 100_000);
    let target = device(&vec![0; bytes.len()]);
    {
        let source = memory.alloc(bytes.len(), 4096).unwrap();
        source.copy_in(0, &bytes).unwrap();
        let memories = vec![Memory::of(&source.as_slice()), Memory::of(&target)];
        let copy = Copy {
            source: 0,
            source_offset: 0,
            target: 1,
            target_offset: 0,
            bytes: bytes.len() as u64,
        };
        let _ = ops.copy(stream, memories, &[copy]).unwrap();
    }
    assert!(memory.stats().used_bytes >= bytes.len(), "memory in use was given back");
    let mut ticket = ops
        .checksum(
            stream,
            vec![Memory::of(&target)],
            &[Run { memory: 0, offset: 0, bytes: bytes.len() as u32, grain: 0 }],
        )
        .unwrap();
    assert!(ticket.poll().is_none(), "it cannot have begun");
    drop(gate);
    assert_eq!(ticket.wait(SOON).unwrap(), [crc32c(&bytes)]);
    stream.synchronize(SOON).unwrap();
    assert_eq!(memory.stats().used_bytes, 0, "memory is kept after its use");
}

#[test]
fn an_operation_that_does_not_end_in_time_says_so() {
    let (ops, gpu) = (&WORLD.ops, WORLD.ops.gpu());
    let stream = Stream::new(gpu).unwrap();
    let gate = stream.gate().unwrap();
    let pinned = Pinned::new(gpu, 4096).unwrap().as_slice();
    let run = Run { memory: 0, offset: 0, bytes: 4096, grain: 0 };
    let launch = || ops.checksum(&stream, vec![Memory::of(&pinned)], &[run]).unwrap();
    let (early, late) = (launch(), launch());
    let error = early.wait(Duration::from_millis(20)).unwrap_err();
    assert!(matches!(error, GpuError::TimedOut { .. }), "{error}");
    drop(gate);
    assert_eq!(late.wait(SOON).unwrap(), [crc32c(&[0; 4096])]);
}
