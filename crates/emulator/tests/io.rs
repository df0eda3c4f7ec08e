//! The NVM command set over real queues.

#[cfg(test)]
mod common;

use common::{Host, buffer, cc, prp, ram};
use gcos_emulator::{Config, Medium, Namespace, Run};
use gcos_layout::nvme::{DataPointer, DsmRange, IoCommand, SglDescriptor, Sqe, Status};

fn write(slba: u64, nlb: u32) -> IoCommand {
    IoCommand::Write { slba, nlb, fua: false }
}

fn read(slba: u64, nlb: u32) -> IoCommand {
    IoCommand::Read { slba, nlb, fua: false }
}

#[test]
fn what_is_written_is_read_back() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let on_file = || Config::new(Medium::file(file.path(), true).unwrap());
    let stepped = Config { run: Run::Stepped { seed: 5 }, ..ram(1 << 20) };
    let with_workers = Config { workers: Some(2), ..ram(1 << 20) };
    let cached = Config { write_cache: Some(Default::default()), ..ram(1 << 20) };
    for config in [ram(1 << 20), on_file(), stepped, with_workers, cached] {
        let mut host = Host::new(config);
        let mut queue = host.queue(1, 8);
        for lba in 0..20 {
            assert_eq!(host.fill(&mut queue, lba * 3, 2, lba as u8 + 1), Status::SUCCESS);
        }
        assert_eq!(host.flush(&mut queue), Status::SUCCESS);
        for lba in 0..20 {
            assert_eq!(host.block(&mut queue, lba * 3), lba as u8 + 1);
            assert_eq!(host.block(&mut queue, lba * 3 + 1), lba as u8 + 1);
            assert_eq!(host.block(&mut queue, lba * 3 + 2), 0);
        }
        let counts = host.emulator.counts();
        assert_eq!((counts.writes, counts.flushes, counts.reads), (20, 1, 60));
    }
}

#[test]
fn compare_write_zeroes_and_deallocate() {
    let mut host = Host::new(ram(1 << 20));
    let mut queue = host.queue(1, 8);
    let data = buffer(&*host.function, 8192).as_dma();
    data.fill(0, 8192, 7).unwrap();
    assert_eq!(host.fill(&mut queue, 4, 2, 7), Status::SUCCESS);
    let compare = IoCommand::Compare { slba: 4, nlb: 2, fua: false };
    assert_eq!(host.io(&mut queue, compare, prp(&data)), Status::SUCCESS);
    data.write(8191, &[6]).unwrap();
    assert_eq!(host.io(&mut queue, compare, prp(&data)), Status::COMPARE_FAILURE);

    let zeroes = IoCommand::WriteZeroes { slba: 5, nlb: 1, fua: false, deallocate: false };
    assert_eq!(host.io(&mut queue, zeroes, DataPointer::NONE), Status::SUCCESS);
    assert_eq!((host.block(&mut queue, 4), host.block(&mut queue, 5)), (7, 0));

    let put = |ranges: &[DsmRange]| {
        for (index, range) in ranges.iter().enumerate() {
            data.write(index * 16, &range.to_bytes()).unwrap();
        }
    };
    let dsm = |deallocate| IoCommand::DatasetManagement { ranges: 2, deallocate };
    put(&[DsmRange { cattr: 0, nlb: 1, slba: 4 }, DsmRange { cattr: 0, nlb: 2, slba: 255 }]);
    assert_eq!(host.io(&mut queue, dsm(true), prp(&data)), Status::LBA_OUT_OF_RANGE);
    assert_eq!(host.block(&mut queue, 4), 7, "nothing is deallocated when a range is wrong");
    put(&[DsmRange { cattr: 0, nlb: 1, slba: 4 }, DsmRange { cattr: 0, nlb: 1, slba: 255 }]);
    assert_eq!(host.io(&mut queue, dsm(false), prp(&data)), Status::SUCCESS);
    assert_eq!(host.block(&mut queue, 4), 7);
    assert_eq!(host.io(&mut queue, dsm(true), prp(&data)), Status::SUCCESS);
    assert_eq!(host.block(&mut queue, 4), 0);
    assert_eq!(host.emulator.counts().deallocates, 2);
}

#[test]
fn every_block_command_stays_in_its_namespace() {
    let namespaces = vec![
        Namespace { lba_bytes: 4096, bytes: 64 << 10 },
        Namespace { lba_bytes: 512, bytes: 64 << 10 },
    ];
    let mut host = Host::new(Config { namespaces, ..ram(128 << 10) });
    let mut queue = host.queue(1, 8);
    let data = buffer(&*host.function, 8192).as_dma();
    data.fill(0, 8192, 9).unwrap();
    let mut run = |nsid, command: IoCommand| {
        data.fill(0, 8192, 9).unwrap();
        let cid = host.cid();
        host.run(&mut queue, command.encode(cid, nsid, prp(&data))).status().code()
    };
    assert_eq!(run(1, write(14, 2)), Status::SUCCESS);
    assert_eq!(run(1, write(15, 2)), Status::LBA_OUT_OF_RANGE);
    assert_eq!(run(1, read(u64::MAX, 2)), Status::LBA_OUT_OF_RANGE);
    assert_eq!(run(2, read(127, 1)), Status::SUCCESS);
    assert_eq!(run(2, read(128, 1)), Status::LBA_OUT_OF_RANGE);
    let zeroes = IoCommand::WriteZeroes { slba: 127, nlb: 2, fua: false, deallocate: false };
    assert_eq!(run(2, zeroes), Status::LBA_OUT_OF_RANGE);
    for nsid in [0, 3, u32::MAX] {
        assert_eq!(run(nsid, read(0, 1)), Status::INVALID_NAMESPACE);
    }
    assert_eq!(run(3, IoCommand::Flush), Status::INVALID_NAMESPACE);
    assert_eq!(run(u32::MAX, IoCommand::Flush), Status::SUCCESS);
    // Blocks of 512 bytes lie behind the first namespace.
    assert_eq!(run(2, write(1, 1)), Status::SUCCESS);
    let mut byte = [0; 3];
    host.emulator.medium().peek((64 << 10) + 511, &mut byte).unwrap();
    assert_eq!(byte, [0, 9, 9]);
}

#[test]
fn fields_that_are_not_supported_are_refused() {
    let mut host = Host::new(Config { mdts: 8192, sgl: false, ..ram(1 << 20) });
    let mut queue = host.queue(1, 8);
    let data = buffer(&*host.function, 16384).as_dma();
    assert_eq!(host.io(&mut queue, read(0, 2), prp(&data)), Status::SUCCESS);
    assert_eq!(host.io(&mut queue, read(0, 3), prp(&data)), Status::INVALID_FIELD);
    let sgl = DataPointer::Sgl(SglDescriptor::data(data.iova(), 4096));
    assert_eq!(host.io(&mut queue, read(0, 1), sgl), Status::INVALID_FIELD);
    let mut run = |sqe: Sqe| host.run(&mut queue, sqe).status().code();
    assert_eq!(run(Sqe::new(0x7F, 1)), Status::INVALID_OPCODE);
    let fused = read(0, 1).encode(2, 1, prp(&data)).with_fuse(1);
    assert_eq!(run(fused), Status::INVALID_FIELD);
    let reserved = read(0, 1).encode(3, 1, prp(&data)).with_psdt(3);
    assert_eq!(run(reserved), Status::INVALID_FIELD);
}

#[test]
fn sgls_and_prp_lists_reach_a_whole_mebibyte() {
    let mut host = Host::new(ram(4 << 20));
    let mut queue = host.queue(1, 8);
    let data = buffer(&*host.function, 1 << 20).as_dma();
    let bytes: Vec<u8> =
        (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    data.write(0, &bytes).unwrap();
    let sgl = DataPointer::Sgl(SglDescriptor::data(data.iova(), 1 << 20));
    assert_eq!(host.io(&mut queue, write(3, 256), sgl), Status::SUCCESS);

    let back = buffer(&*host.function, (1 << 20) + 4096).as_dma();
    let list = buffer(&*host.function, 4096).as_dma();
    // An offset in the first page makes 257 pages of it.
    for page in 1..=256u64 {
        let entry = back.iova() + page * 4096;
        list.write((page as usize - 1) * 8, &entry.to_le_bytes()).unwrap();
    }
    let prps = DataPointer::Prp { prp1: back.iova() + 512, prp2: list.iova() };
    assert_eq!(host.io(&mut queue, read(3, 256), prps), Status::SUCCESS);
    let mut out = vec![0; 1 << 20];
    back.read(512, &mut out).unwrap();
    assert!(out == bytes);
}

#[test]
fn addresses_that_are_not_mapped_end_with_a_transfer_error() {
    let mut host = Host::new(ram(1 << 20));
    let mut queue = host.queue(1, 8);
    let data = buffer(&*host.function, 8192).as_dma();
    data.fill(0, 8192, 3).unwrap();
    let (start, end) = (data.iova(), data.iova() + 8192);
    let mut run = |command: IoCommand, prp1: u64, prp2: u64| {
        host.io(&mut queue, command, DataPointer::Prp { prp1, prp2 })
    };
    // A guard page follows each buffer.
    assert_eq!(run(read(0, 1), end, 0), Status::DATA_TRANSFER_ERROR);
    assert_eq!(run(read(0, 2), end - 4096, end), Status::DATA_TRANSFER_ERROR);
    assert_eq!(run(write(0, 1), 0x7fff_0000_0000, 0), Status::DATA_TRANSFER_ERROR);
    assert_eq!(run(write(0, 3), start, end), Status::DATA_TRANSFER_ERROR, "list not mapped");
    assert_eq!(run(read(0, 1), start + 2, 0), Status::INVALID_PRP_OFFSET);
    assert_eq!(run(read(0, 2), start, start + 12), Status::INVALID_PRP_OFFSET);
    let mut out = vec![0; 8192];
    data.read(0, &mut out).unwrap();
    assert!(out.iter().all(|byte| *byte == 3), "a failed read touches nothing");
    assert_eq!(host.block(&mut queue, 0), 0, "a failed write writes nothing");
}

#[test]
fn queues_wrap_and_phases_alternate() {
    let mut host = Host::new(ram(1 << 20));
    let mut queue = host.queue(1, 3);
    for round in 0..20u16 {
        let cqe = host.run(&mut queue, IoCommand::Flush.encode(round, 1, DataPointer::NONE));
        assert_eq!(cqe.status(), Status::SUCCESS);
        assert_eq!(u32::from(cqe.sqhd()), u32::from(round + 1) % 3);
    }
}

#[test]
fn a_full_completion_queue_holds_commands_back() {
    let mut host = Host::new(ram(1 << 20));
    let cq = common::Queue::new(&*host.function, 1, 3);
    let mut queue = common::Queue::new(&*host.function, 1, 16);
    assert_eq!(host.create_cq(&cq, None), Status::SUCCESS);
    assert_eq!(host.create_sq(&queue, 1), Status::SUCCESS);
    (queue.cq, queue.phase) = (cq.cq.clone(), true);
    for cid in 0..10 {
        host.put(&mut queue, IoCommand::Flush.encode(cid, 1, DataPointer::NONE));
    }
    host.ring(&queue);
    queue.entries = 3;
    host.idle(std::time::Duration::from_millis(20));
    let mut seen = Vec::new();
    while let Some(cqe) = host.peek(&mut queue) {
        seen.push(cqe.cid());
    }
    assert_eq!(seen, [0, 1], "one entry of the queue always stays free");
    host.ring_head(&queue);
    while seen.len() < 10 {
        seen.push(host.reap(&mut queue).cid());
    }
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
}

#[test]
fn doorbells_may_be_rung_by_plain_stores_at_any_stride() {
    use std::sync::atomic::Ordering;
    let mut host = Host::new(Config { doorbell_stride: 64, ..ram(1 << 20) });
    let mut queue = host.queue(2, 8);
    let doorbells = host.emulator.doorbells();
    for cid in 0..30 {
        host.put(&mut queue, IoCommand::Flush.encode(cid, 1, DataPointer::NONE));
        doorbells.store_u32(4 * 64, queue.tail, Ordering::Release).unwrap();
        let mut cqe = None;
        host.wait("completion", || {
            cqe = host.peek(&mut queue);
            cqe.is_some()
        });
        assert_eq!(cqe.unwrap().cid(), cid);
        doorbells.store_u32(5 * 64, queue.head, Ordering::Release).unwrap();
        // Long enough for the controller to fall asleep.
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
}

#[test]
fn lent_doorbells_are_at_their_registers_and_noticed_at_once_while_the_controller_looks() {
    use std::sync::atomic::Ordering;
    use std::sync::{Arc, Weak};
    use std::time::{Duration, Instant};

    use gcos_hw::{DoorbellHolder, DoorbellMemory};

    #[derive(Debug)]
    struct Holder;
    impl DoorbellHolder for Holder {
        fn let_go(&self, _: Duration) -> bool {
            true
        }
    }

    let holder = Arc::new(Holder);
    let holder: Weak<Holder> = Arc::downgrade(&holder);
    let mut host = Host::new(Config { spin: Duration::from_secs(3600), ..ram(1 << 20) });
    let mut queue = host.queue(1, 8);
    let lent = host.function.lend_doorbells(holder).unwrap();
    assert_eq!((lent.first, lent.kind), (0x1000, DoorbellMemory::Memory));
    let ring = |register: usize, value| {
        lent.memory.store_u32(register - lent.first, value, Ordering::Release).unwrap();
    };
    let mut fastest = Duration::MAX;
    for cid in 0..200 {
        host.put(&mut queue, IoCommand::Flush.encode(cid, 1, DataPointer::NONE));
        // Long after it would have fallen asleep by default.
        std::thread::sleep(Duration::from_micros(100));
        let start = Instant::now();
        ring(0x1008, queue.tail);
        host.wait("completion", || host.peek(&mut queue).is_some());
        fastest = fastest.min(start.elapsed());
        ring(0x100C, queue.head);
    }
    assert!(fastest < Duration::from_micros(200), "asleep: {fastest:?}");
}

#[test]
fn larger_memory_pages_are_used_for_prps() {
    let mut host = Host::disabled(ram(1 << 20));
    host.enable(cc().with_mps(1));
    let mut queue = host.queue(1, 8);
    let data = buffer(&*host.function, 65536).as_dma();
    data.fill(0, 65536, 5).unwrap();
    let aligned = data.iova().next_multiple_of(8192);
    // 12 KiB from an 8 KiB boundary: one page and a half, so PRP2 is a page and no list.
    let two = DataPointer::Prp { prp1: aligned, prp2: aligned + 8192 };
    assert_eq!(host.io(&mut queue, write(0, 3), two), Status::SUCCESS);
    let wrong = DataPointer::Prp { prp1: aligned, prp2: aligned + 4096 };
    assert_eq!(host.io(&mut queue, write(0, 3), wrong), Status::INVALID_PRP_OFFSET);
    let mut out = vec![0; 3 * 4096];
    host.emulator.medium().peek(0, &mut out).unwrap();
    assert!(out.iter().all(|byte| *byte == 5));
}
