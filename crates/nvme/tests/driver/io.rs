//! Moving blocks: many at once, split, in every shape of memory.

use std::collections::HashMap;
use std::sync::Arc;

use crate::common::{
    MEDIUM, alloc, bytes, config, open, options, pattern, read, request, threaded, write,
};
use gcos_emulator::{Action, Config, Rule, WriteCacheConfig};
use gcos_hw::DmaBuffer;
use gcos_layout::nvme::Status;
use gcos_nvme::{
    BlockRange, Completion, Controller, ErrorKind, IoOp, IoRequest, NvmeError, Options, Pending,
    PointerChoice,
};

const WRITE: IoOp = IoOp::Write { fua: false };

/// Random reads and writes, `depth` in flight, each read checked against what was written.
pub(crate) fn churn(
    controller: &Arc<Controller>,
    depth: usize,
    operations: usize,
    from: u64,
    blocks: u64,
) {
    let lba = controller.namespaces()[0].lba_bytes as usize;
    let mut rng = fastrand::Rng::with_seed(depth as u64);
    let mut versions: HashMap<u64, u64> = HashMap::new();
    let buffers: Vec<DmaBuffer> = (0..depth).map(|_| alloc(controller, lba)).collect();
    let mut slots: Vec<Option<(Pending, u64, bool)>> = (0..depth).map(|_| None).collect();
    for operation in 0..operations {
        let slot = operation % depth;
        finish(slots[slot].take(), &buffers[slot], &versions, lba);
        let busy: Vec<u64> = slots.iter().flatten().map(|s| s.1).collect();
        let Some(block) = (0..20).map(|_| from + rng.u64(0..blocks)).find(|b| !busy.contains(b))
        else {
            continue;
        };
        let writes = rng.bool() || !versions.contains_key(&block);
        if writes {
            let version = versions.entry(block).and_modify(|v| *v += 1).or_insert(1);
            buffers[slot].as_dma().write(0, &pattern(block, *version, lba)).unwrap();
        }
        let op = if writes { WRITE } else { IoOp::Read };
        let segments = vec![buffers[slot].as_dma()];
        let pending = controller.submit(request(op, block, 1, segments)).unwrap();
        slots[slot] = Some((pending, block, writes));
    }
    for (slot, buffer) in slots.into_iter().zip(&buffers) {
        finish(slot, buffer, &versions, lba);
    }
    for (&block, &version) in &versions {
        assert_eq!(read(controller, block, lba).unwrap(), pattern(block, version, lba));
    }
}

fn finish(
    slot: Option<(Pending, u64, bool)>,
    buffer: &DmaBuffer,
    versions: &HashMap<u64, u64>,
    lba: usize,
) {
    let Some((pending, block, writes)) = slot else { return };
    pending.wait().unwrap();
    if !writes {
        assert_eq!(bytes(&buffer.as_dma()), pattern(block, versions[&block], lba));
    }
}

#[test]
fn random_reads_and_writes_at_depth_32_are_right_at_both_block_sizes() {
    for lba_bytes in [512, 4096] {
        let (_emulator, controller) = open(config(lba_bytes), options());
        churn(&controller, 32, 2000, 0, 300);
        assert_eq!(controller.counters().spurious_completions, 0);
        assert_eq!(controller.counters().errors, 0);
    }
}

#[test]
fn small_queues_wrap_around_many_times() {
    for queue_depth in [2, 3, 5] {
        let (_emulator, controller) = open(config(4096), Options { queue_depth, ..options() });
        churn(&controller, 8, 500, 0, 100);
    }
}

#[test]
fn threads_share_queue_pairs_polled_and_with_interrupts() {
    for completion in [Completion::Polled, Completion::Interrupt] {
        let options = Options { io_queue_pairs: 2, completion, queue_depth: 16, ..options() };
        let (_emulator, controller) = open(threaded(4096), options);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let controller = &controller;
                scope.spawn(move || churn(controller, 6, 300, thread * 1000, 100));
            }
        });
        assert_eq!(controller.counters().errors, 0, "{completion:?}");
        assert_eq!(controller.counters().resets, 0, "{completion:?}");
    }
}

#[test]
fn queue_pairs_share_interrupt_vectors_where_there_are_few() {
    for interrupt_vectors in [1, 2, 3] {
        let config = Config { interrupt_vectors, ..threaded(4096) };
        let completion = Completion::Interrupt;
        let options = Options { io_queue_pairs: 4, completion, queue_depth: 16, ..options() };
        let (_emulator, controller) = open(config, options);
        std::thread::scope(|scope| {
            for thread in 0..6u64 {
                let controller = &controller;
                scope.spawn(move || churn(controller, 4, 200, thread * 1000, 100));
            }
        });
        assert_eq!(controller.counters().errors, 0, "{interrupt_vectors} vectors");
        assert_eq!(controller.counters().resets, 0, "{interrupt_vectors} vectors");
    }
}

#[test]
fn large_transfers_are_split_by_mdts_and_end_once() {
    let (_emulator, controller) = open(Config { mdts: 8192, ..config(512) }, options());
    let data: Vec<u8> = (0..2048).flat_map(|lba| pattern(lba, 1, 512)).collect();
    write(&controller, 40, &data).unwrap();
    assert_eq!(controller.counters().commands, 128);
    assert_eq!(read(&controller, 40, data.len()).unwrap(), data);
    assert_eq!(read(&controller, 41, 512).unwrap(), pattern(1, 1, 512));
}

#[test]
fn one_bad_part_fails_the_whole_request_with_its_block() {
    let (emulator, controller) = open(Config { mdts: 8192, ..config(4096) }, options());
    let status = Action::Status { sct: 2, sc: 0x81, dnr: true };
    emulator.faults().add(Rule::io(status).opcode(0x02).blocks(7..8));
    let error = read(&controller, 0, 64 << 10).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Media);
    assert_eq!(error.status().map(Status::code), Some(Status::UNRECOVERED_READ_ERROR));
    assert!(matches!(error, NvmeError::Command { lba: 6, opcode: "Read", .. }), "{error}");
    assert_eq!(controller.counters().errors, 1);
}

#[test]
fn a_chained_prp_list_describes_a_transfer_of_many_pages() {
    let options = Options { max_transfer: 8 << 20, ..options() };
    let (_emulator, controller) = open(Config { mdts: 0, ..config(4096) }, options);
    assert_eq!(controller.max_transfer(), 8 << 20);
    // From an offset within a page: 2049 entries, four pages of list.
    let buffer = alloc(&controller, (8 << 20) + 4096);
    let data: Vec<u8> = (0..2048).flat_map(|lba| pattern(lba, 2, 4096)).collect();
    let slice = buffer.slice(1028, 8 << 20).unwrap();
    slice.write(0, &data).unwrap();
    controller.run(request(WRITE, 0, 2048, vec![slice.clone()])).unwrap();
    assert_eq!(controller.counters().commands, 1);
    slice.fill(0, slice.len(), 0).unwrap();
    controller.run(request(IoOp::Read, 0, 2048, vec![slice.clone()])).unwrap();
    assert!(bytes(&slice) == data);
}

/// Fragments of odd lengths at odd places: no PRP list can express them.
fn scattered(controller: &Controller) -> (DmaBuffer, Vec<(usize, usize)>) {
    let pieces = vec![(100, 516), (5000, 2044), (9000, 1536), (12_000, 12_288), (40_000, 4)];
    let total: usize = pieces.iter().map(|p| p.1).sum();
    assert_eq!(total, 16_388);
    let mut pieces = pieces;
    pieces[4].1 = 4096 * 5 - (total - 4);
    (alloc(controller, 64 << 10), pieces)
}

fn scattered_round_trip(controller: &Arc<Controller>) {
    let (buffer, pieces) = scattered(controller);
    let segments: Vec<_> = pieces.iter().map(|&(at, len)| buffer.slice(at, len).unwrap()).collect();
    let data: Vec<u8> = (0..5).flat_map(|lba| pattern(lba, 9, 4096)).collect();
    let mut at = 0;
    for segment in &segments {
        segment.write(0, &data[at..at + segment.len()]).unwrap();
        at += segment.len();
    }
    controller.run(request(WRITE, 11, 5, segments.clone())).unwrap();
    assert_eq!(read(controller, 11, data.len()).unwrap(), data);
    let whole = buffer.as_dma();
    whole.fill(0, whole.len(), 0xEE).unwrap();
    controller.run(request(IoOp::Read, 11, 5, segments.clone())).unwrap();
    let got: Vec<u8> = segments.iter().flat_map(bytes).collect();
    assert_eq!(got, data);
    let touched = |i: usize| pieces.iter().any(|&(at, len)| (at..at + len).contains(&i));
    let all = bytes(&whole);
    assert!((0..all.len()).all(|i| touched(i) || all[i] == 0xEE), "nothing else was written");
}

#[test]
fn scattered_memory_goes_through_sgls_where_there_are_some() {
    for data_pointer in [PointerChoice::Auto, PointerChoice::Sgl] {
        let (_emulator, controller) = open(config(4096), Options { data_pointer, ..options() });
        scattered_round_trip(&controller);
        assert_eq!(controller.counters().bounces, 0);
    }
}

#[test]
fn scattered_memory_is_bounced_where_there_are_no_sgls() {
    for (sgl, data_pointer) in [(false, PointerChoice::Auto), (true, PointerChoice::Prp)] {
        let (_emulator, controller) =
            open(Config { sgl, ..config(4096) }, Options { data_pointer, ..options() });
        scattered_round_trip(&controller);
        assert_eq!(controller.counters().bounces, 2);
        assert_eq!(controller.counters().errors, 0);
    }
}

#[test]
fn more_fragments_than_a_list_has_room_for_go_another_way() {
    // A page of list holds 256 descriptors: 300 pages have to be PRP entries, 1,000 pieces of a page
    // have to be bounced.
    for (pieces, bytes, gap, bounces) in [(300, 4096, 8192, 0), (1000, 128, 132, 2)] {
        let options = Options { data_pointer: PointerChoice::Sgl, ..options() };
        let (_emulator, controller) = open(Config { mdts: 2 << 20, ..config(512) }, options);
        let buffer = alloc(&controller, pieces * gap);
        let segments: Vec<_> = (0..pieces).map(|i| buffer.slice(i * gap, bytes).unwrap()).collect();
        let blocks = (pieces * bytes / 512) as u64;
        let data: Vec<u8> = (0..blocks).flat_map(|lba| pattern(lba, 6, 512)).collect();
        for (segment, part) in segments.iter().zip(data.chunks(bytes)) {
            segment.write(0, part).unwrap();
        }
        controller.run(request(WRITE, 3, blocks, segments.clone())).unwrap();
        assert!(read(&controller, 3, data.len()).unwrap() == data);
        segments.iter().for_each(|segment| segment.fill(0, bytes, 0).unwrap());
        controller.run(request(IoOp::Read, 3, blocks, segments.clone())).unwrap();
        let got: Vec<u8> = segments.iter().flat_map(self::bytes).collect();
        assert!(got == data);
        assert_eq!(controller.counters().bounces, bounces);
    }
}

#[test]
fn an_sgl_longer_than_a_page_is_one_segment() {
    // Three pages of list: room for 768 descriptors.
    let options = Options { data_pointer: PointerChoice::Sgl, max_transfer: 5 << 20, ..options() };
    let (_emulator, controller) = open(Config { mdts: 0, ..config(512) }, options);
    let buffer = alloc(&controller, 700 * 1024);
    let segments: Vec<_> = (0..700).map(|i| buffer.slice(i * 1024 + 4, 512).unwrap()).collect();
    for (lba, segment) in segments.iter().enumerate() {
        segment.write(0, &pattern(lba as u64, 8, 512)).unwrap();
    }
    controller.run(request(WRITE, 0, 700, segments)).unwrap();
    for lba in [0, 255, 256, 257, 511, 512, 699] {
        assert_eq!(read(&controller, lba, 512).unwrap(), pattern(lba, 8, 512));
    }
    assert_eq!(controller.counters().bounces, 0);
}

#[test]
fn optional_commands_that_are_not_offered_are_refused_before_they_are_posted() {
    let (_emulator, controller) =
        open(Config { optional_commands: false, ..config(4096) }, options());
    let buffer = alloc(&controller, 4096);
    for (op, segments) in [
        (IoOp::Compare, vec![buffer.as_dma()]),
        (IoOp::WriteZeroes { deallocate: true }, vec![]),
        (IoOp::Deallocate, vec![]),
    ] {
        let error = controller.run(request(op, 0, 1, segments)).unwrap_err();
        assert!(matches!(error, NvmeError::Unsupported { what: "ONCS", .. }), "{error}");
    }
    assert_eq!(controller.counters().commands, 0);
    write(&controller, 1, &pattern(1, 1, 4096)).unwrap();
}

#[test]
fn pages_anywhere_need_no_bounce() {
    let (_emulator, controller) = open(Config { sgl: false, ..config(4096) }, options());
    let buffer = alloc(&controller, 64 * 4096);
    let pages: Vec<_> = (0..32).rev().map(|i| buffer.slice(i * 8192, 4096).unwrap()).collect();
    for (lba, page) in pages.iter().enumerate() {
        page.write(0, &pattern(lba as u64, 3, 4096)).unwrap();
    }
    controller.run(request(WRITE, 0, 32, pages.clone())).unwrap();
    for lba in 0..32 {
        assert_eq!(read(&controller, lba, 4096).unwrap(), pattern(lba, 3, 4096));
    }
    assert_eq!(controller.counters().bounces, 0);
}

#[test]
fn several_ranges_make_one_request() {
    let (_emulator, controller) = open(config(512), options());
    let buffer = alloc(&controller, 4096);
    let data: Vec<u8> = (0..8).flat_map(|lba| pattern(lba, 4, 512)).collect();
    buffer.as_dma().write(0, &data).unwrap();
    let range = |slba, blocks| BlockRange { slba, blocks };
    let ranges = [range(100, 3), range(7, 1), range(900, 4)].into_iter().collect();
    let one = IoRequest { ranges, ..request(WRITE, 0, 1, vec![buffer.as_dma()]) };
    controller.run(one).unwrap();
    assert_eq!(read(&controller, 100, 1536).unwrap(), data[..1536]);
    assert_eq!(read(&controller, 7, 512).unwrap(), data[1536..2048]);
    assert_eq!(read(&controller, 900, 2048).unwrap(), data[2048..]);
}

#[test]
fn commands_without_data_do_what_they_say() {
    let config = Config { write_cache: Some(WriteCacheConfig::default()), ..config(4096) };
    let (emulator, controller) = open(config, options());
    write(&controller, 5, &pattern(5, 1, 4096)).unwrap();
    controller.run(request(IoOp::WriteZeroes { deallocate: false }, 5, 1, vec![])).unwrap();
    assert_eq!(read(&controller, 5, 4096).unwrap(), [0; 4096]);
    write(&controller, 6, &pattern(6, 1, 4096)).unwrap();
    assert!(emulator.dirty_bytes() > 0);
    let flush = IoRequest { ranges: Default::default(), ..request(IoOp::Flush, 0, 1, vec![]) };
    controller.run(flush).unwrap();
    assert_eq!(emulator.dirty_bytes(), 0);
    let ranges = (0..600).map(|i| BlockRange { slba: i * 2, blocks: 1 }).collect();
    let commands = controller.counters().commands;
    controller.run(IoRequest { ranges, ..request(IoOp::Deallocate, 0, 1, vec![]) }).unwrap();
    assert_eq!(controller.counters().commands - commands, 3);
    assert_eq!(read(&controller, 6, 4096).unwrap(), [0; 4096]);
}

#[test]
fn compare_tells_equal_from_different() {
    let (_emulator, controller) = open(config(4096), options());
    let buffer = alloc(&controller, 4096);
    buffer.as_dma().write(0, &pattern(1, 1, 4096)).unwrap();
    write(&controller, 1, &pattern(1, 1, 4096)).unwrap();
    controller.run(request(IoOp::Compare, 1, 1, vec![buffer.as_dma()])).unwrap();
    let error = controller.run(request(IoOp::Compare, 2, 1, vec![buffer.as_dma()])).unwrap_err();
    assert_eq!(error.status().map(Status::code), Some(Status::COMPARE_FAILURE));
}

#[test]
fn requests_that_do_not_fit_are_refused_and_start_nothing() {
    let (_emulator, controller) = open(config(4096), options());
    let buffer = alloc(&controller, 8192);
    let page = buffer.slice(0, 4096).unwrap();
    let odd = buffer.slice(2, 4096).unwrap();
    let end = MEDIUM / 4096;
    let bad = [
        request(IoOp::Read, end, 1, vec![page.clone()]),
        request(IoOp::Read, u64::MAX, 2, vec![page.clone()]),
        request(IoOp::Read, 0, 0, vec![]),
        request(IoOp::Read, 0, 2, vec![page.clone()]),
        request(IoOp::Read, 0, 1, vec![odd]),
        request(IoOp::Flush, 0, 1, vec![]),
        request(IoOp::Deallocate, 0, 1, vec![page.clone()]),
        IoRequest { nsid: 2, ..request(IoOp::Read, 0, 1, vec![page]) },
    ];
    for request in bad {
        let error = controller.run(request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert_eq!(controller.counters().commands, 0);
}

#[test]
fn a_result_is_given_once() {
    let (_emulator, controller) = open(config(4096), options());
    let mut buffer = alloc(&controller, 4096);
    let segments = vec![buffer.as_dma()];
    let mut pending = controller.submit(request(IoOp::Read, 0, 1, segments)).unwrap();
    let mut spins = 0;
    let result = loop {
        match pending.poll() {
            Some(result) => break result,
            None => controller.function().relax(spins),
        }
        spins += 1;
        assert!(spins < 10_000);
    };
    result.unwrap();
    assert!(buffer.bytes_mut().is_ok(), "memory is given back before the ticket goes");
    assert!(pending.poll().unwrap().is_err());
}
