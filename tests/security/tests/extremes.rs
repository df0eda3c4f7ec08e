//! Numbers from outside at the ends of their ranges: sizes and offsets are checked, never wrapped.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::sync::Arc;
use std::time::Duration;

use gcos_engine::{Engine, Extent, Geometry, Op, Request};
use gcos_hw::{DmaSpace, SharedMemory};
use gcos_layout::media::{Shape, SlotClass, ZoneChunks, ZoneMap};
use gcos_security_tests::Counted;

/// The ends of every width, and their neighbours.
fn corners() -> Vec<u64> {
    let mut corners = vec![0, 1, 3, 4, 511, 512, 513, 4095, 4096, 4097];
    for bits in [16, 20, 30, 31, 32, 33, 40, 48, 51, 52, 56, 62, 63] {
        let power = 1u64 << bits;
        corners.extend([power - 4096, power - 1, power, power + 1, power + 4096]);
    }
    corners.extend([u64::MAX - 8192, u64::MAX - 4095, u64::MAX - 511, u64::MAX - 1, u64::MAX]);
    corners
}

fn space() -> Arc<DmaSpace> {
    Counted::space().unwrap().1
}

fn geometry(capacity: u64, lba_bytes: u32) -> Geometry {
    Geometry {
        name: "drive".to_owned(),
        serial: String::new(),
        model: String::new(),
        capacity,
        lba_bytes,
        max_transfer: 1 << 20,
        volatile_cache: false,
        deallocate: true,
    }
}

#[test]
fn an_extent_is_taken_if_and_only_if_it_lies_on_the_drive() {
    for capacity in [0, 4096, 1 << 40, u64::MAX / 4096 * 4096, u64::MAX] {
        for lba_bytes in [512, 4096] {
            let drive = geometry(capacity, lba_bytes);
            for offset in corners() {
                for len in corners() {
                    let request = Request {
                        op: Op::Deallocate,
                        extents: std::iter::once(Extent { offset, len }).collect(),
                        segments: std::iter::empty().collect(),
                        deadline: Duration::from_secs(1),
                    };
                    let lba = u128::from(lba_bytes);
                    let (at, length) = (u128::from(offset), u128::from(len));
                    let fits = length > 0
                        && at % lba == 0
                        && length % lba == 0
                        && at + length <= u128::from(capacity);
                    let taken = request.check(&drive).is_ok();
                    assert_eq!(taken, fits, "{len} bytes at {offset} of {capacity}");
                }
            }
        }
    }
}

#[test]
fn extents_whose_lengths_overflow_together_are_no_few_bytes() {
    let drive = geometry(u64::MAX / 4096 * 4096, 4096);
    let half = Extent { offset: 0, len: 1 << 63 };
    let memory = space().alloc(4096).unwrap();
    let request = Request {
        op: Op::Read,
        // 2^64 + 4096 bytes: wrapped it is what the memory has.
        extents: [half, half, Extent { offset: 0, len: 4096 }].into_iter().collect(),
        segments: std::iter::once(memory.as_dma()).collect(),
        deadline: Duration::from_secs(1),
    };
    assert!(request.check(&drive).is_err());
}

#[test]
fn memory_is_reached_within_its_bounds_only() {
    let memory = SharedMemory::anonymous(8192).unwrap();
    let buffer = space().alloc(8192).unwrap();
    let slice = buffer.slice(4096, 4000).unwrap();
    for offset in corners().into_iter().map(|corner| corner as usize) {
        for len in corners().into_iter().map(|corner| corner as usize) {
            let inside = |size: usize| offset.checked_add(len).is_some_and(|end| end <= size);
            assert_eq!(memory.fill(offset, len, 1).is_ok(), inside(8192), "{len} at {offset}");
            assert_eq!(buffer.slice(offset, len).is_ok(), inside(8192), "{len} at {offset}");
            assert_eq!(slice.slice(offset, len).is_ok(), inside(4000), "{len} at {offset}");
            assert_eq!(slice.fill(offset, len, 2).is_ok(), inside(4000), "{len} at {offset}");
            let copied = memory.copy_from(0, &memory, offset, len);
            assert_eq!(copied.is_ok(), inside(8192) && len <= 8192);
        }
        let word = offset.is_multiple_of(4) && offset < 8192;
        let order = std::sync::atomic::Ordering::Relaxed;
        assert_eq!(memory.load_u32(offset, order).is_ok(), word, "{offset}");
        let wide = offset.is_multiple_of(8) && offset < 8192;
        assert_eq!(memory.store_u64(offset, 7, order).is_ok(), wide, "{offset}");
    }
    let mut first = [9; 4096];
    buffer.as_dma().read(0, &mut first).unwrap();
    assert!(first.iter().all(|byte| *byte == 0), "a slice reached what is before it");
}

#[test]
fn buffers_of_impossible_lengths_are_refused() {
    let space = space();
    for len in corners().into_iter().map(|corner| corner as usize).filter(|len| *len > 1 << 43) {
        assert!(space.alloc(len).is_err(), "{len} bytes");
    }
    assert!(space.alloc(0).is_err());
}

#[test]
fn a_map_of_zones_that_is_accepted_keeps_everything_on_the_drive_and_apart() {
    let mut accepted = 0;
    for capacity in corners() {
        for (superblock, meta, data) in [
            (4096, 65_536, 256 << 10),
            (128 << 10, 512 << 10, 8 << 20),
            (1 << 20, 64 << 20, 128 << 20),
            (0, 0, 0),
            (u32::MAX, u32::MAX, u32::MAX),
        ] {
            let chunks = ZoneChunks { superblock, meta, data };
            for percent in [0, 1, 25, 100, u32::MAX] {
                let Ok(planned) = ZoneMap::plan(capacity, chunks, percent) else { continue };
                accepted += 1;
                assert_apart(&planned);
            }
            for bytes in corners() {
                let stated =
                    ZoneMap { chunks, capacity, checkpoint_bytes: bytes, journal_bytes: 1 << 20 };
                let other = ZoneMap { checkpoint_bytes: 5 << 16, journal_bytes: bytes, ..stated };
                for map in [stated, other] {
                    if map.check().is_ok() {
                        accepted += 1;
                        assert_apart(&map);
                    }
                }
            }
        }
    }
    assert!(accepted > 100, "{accepted} maps are not enough to say anything");
}

fn assert_apart(map: &ZoneMap) {
    let wide = |n: u64| u128::from(n);
    let journal_end = wide(map.journal_offset()) + wide(map.journal_bytes);
    let copies = map.superblock_offsets();
    assert!(journal_end <= wide(copies[1]), "{map:?}");
    let data = wide(map.chunks.data.into());
    let last = map.data_chunks() - 1;
    for chunk in [0, last / 3, last / 2, last] {
        let start = wide(map.data_offset(chunk, 0).unwrap());
        assert!(start >= journal_end && start + data <= wide(map.capacity), "{map:?}");
        for copy in copies.map(wide) {
            assert!(copy + 4096 <= start || start + data <= copy, "{map:?}");
        }
    }
    assert_eq!(map.data_offset(last + 1, 0), None);
    assert_eq!(map.data_offset(0, map.chunk_blocks()), None);
    assert_eq!(map.data_offset(u32::MAX, 0), None);
}

#[test]
fn shapes_of_any_numbers_are_refused_or_add_up() {
    let small: Vec<u32> = corners().into_iter().filter_map(|n| u32::try_from(n).ok()).collect();
    for &payload in &small {
        for &other in &small {
            let (pieces, grains) = (other as u16, (other >> 7) as u16);
            if let Ok(shape) = Shape::from_fields(payload, pieces, grains) {
                let pieces: u64 = (0..shape.pieces()).map(|i| u64::from(shape.piece_len(i))).sum();
                assert_eq!(pieces + u64::from(shape.tail_len()), u64::from(payload));
                let parts: u64 = shape.parts(other, payload).map(|part| u64::from(part.len)).sum();
                assert_eq!(parts, u64::from(payload.saturating_sub(other)));
            }
            for drives in [0, 1, 64, usize::MAX] {
                for key in [0, 1024, usize::from(u16::MAX)] {
                    if let Ok(shape) = Shape::choose(payload, key, other.max(65_536), drives) {
                        assert!(shape.head_bytes(key) <= u64::from(other.max(65_536)));
                    }
                }
            }
            if let Some(class) = SlotClass::for_blocks(payload, other) {
                assert!(class.slot_blocks(other) >= payload);
            }
        }
    }
}

#[test]
fn requests_at_the_end_of_a_drive_of_any_size_are_not_taken_for_ones_at_its_start() {
    for capacity in [1u64 << 52, 1 << 63, u64::MAX / 4096 * 4096] {
        let drive = gcos_security_tests::Sparse::new(capacity, space());
        let memory = drive.dma().alloc(8192).unwrap();
        memory.as_dma().fill(0, 8192, 7).unwrap();
        let deadline = Duration::from_secs(1);
        let engine: Arc<dyn Engine> = drive;
        let last = capacity - 4096;
        let one = memory.slice(0, 4096).unwrap();
        engine.run(Request::write(last, one, false, deadline)).unwrap();
        assert!(engine.run(Request::write(last, memory.as_dma(), false, deadline)).is_err());
        let back = memory.slice(4096, 4096).unwrap();
        engine.run(Request::read(0, back.clone(), deadline)).unwrap();
        let mut bytes = [1; 4096];
        back.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 4096], "block 0 was written");
    }
}
