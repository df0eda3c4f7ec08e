//! Blocks go to the target and come back, by every way.

use std::sync::Arc;
use std::time::Duration;

use gcos_engine::{
    Engine, Extent, FileEngine, FileEngineError, FileOptions, IoErrorKind, KernelPath, Op, Request,
};
use gcos_hw::DmaSlice;
use gcos_hw::kernel::{Direct, Target, TargetOptions, host_space};

use crate::rig::{
    BOTH, Faults, SECOND, alloc, by, bytes, everywhere, fill, folder, image, open, target,
};

const MEDIUM: u64 = 64 << 20;
const LONG: Duration = Duration::from_secs(20);

fn request(op: Op, extents: &[(u64, u64)], segments: &[DmaSlice]) -> Request {
    let extent = |&(offset, len): &(u64, u64)| Extent { offset, len };
    let segments = segments.iter().cloned().collect();
    Request { op, extents: extents.iter().map(extent).collect(), segments, deadline: LONG }
}

/// Writes and reads back through segments that are cut anywhere.
fn round_trip(engine: &FileEngine) {
    let lba = u64::from(engine.geometry().lba_bytes);
    let total = (20 << 20) + 3 * lba as usize;
    let buffer = alloc(engine, total);
    let data = fill(&buffer.as_dma(), 5);
    // Larger than one transfer, small, and out of order.
    let extents = [(32 << 20, 17 << 20), (lba, 2 * lba), (8 << 20, (3 << 20) + lba)];
    engine.run(request(Op::Write { fua: false }, &extents, &[buffer.as_dma()])).unwrap();
    engine.run(Request::flush(LONG)).unwrap();
    let mut at = 0;
    for (offset, len) in extents {
        let back = alloc(engine, len as usize);
        engine.run(Request::read(offset, back.as_dma(), LONG)).unwrap();
        assert!(bytes(&back.as_dma()) == data[at..at + len as usize], "{len} bytes at {offset}");
        at += len as usize;
    }
    // Segments that begin and end anywhere, both ways.
    let cuts = [(0, 60), (4096, 4_000_004), (8 << 20, 100), (9 << 20, 300_000 - 60 - 100)];
    let back = alloc(engine, 12 << 20);
    let segments: Vec<_> = cuts.iter().map(|&(at, len)| back.slice(at, len).unwrap()).collect();
    let sum: usize = cuts.iter().map(|(_, len)| len).sum();
    let tail = sum.next_multiple_of(lba as usize) - sum;
    let segments: Vec<_> =
        segments.into_iter().chain([back.slice(11 << 20, tail).unwrap()]).collect();
    let len = (sum + tail) as u64;
    engine.run(request(Op::Read, &[(32 << 20, len)], &segments)).unwrap();
    let got: Vec<u8> = segments.iter().flat_map(bytes).collect();
    assert!(got == data[..len as usize]);
    engine.run(request(Op::Write { fua: true }, &[(0, len)], &segments)).unwrap();
    let again = alloc(engine, len as usize);
    engine.run(Request::read(0, again.as_dma(), LONG)).unwrap();
    assert!(bytes(&again.as_dma()) == got);
}

#[test]
fn what_is_written_is_read_back_by_every_way() {
    everywhere(MEDIUM, |engine| round_trip(engine));
}

#[test]
fn transfers_that_the_kernel_cuts_short_are_continued() {
    let folder = folder();
    for (path, most_bytes) in [(KernelPath::IoUring, 64 << 10), (KernelPath::Posix, 1 << 20)] {
        let target = target(&image(folder.path(), MEDIUM), Direct::Prefer);
        round_trip(&Faults::short(most_bytes).open(&target, by(path)));
    }
}

#[test]
fn the_geometry_is_that_of_the_target() {
    everywhere(MEDIUM, |engine| {
        let (geometry, target) = (engine.geometry(), engine.target());
        assert_eq!(geometry.name, target.path().display().to_string());
        assert_eq!((geometry.capacity, geometry.lba_bytes), (MEDIUM, target.lba_bytes()));
        assert!(geometry.volatile_cache);
        let cached = engine.reason().contains("page cache");
        assert_eq!(cached, !target.is_direct(), "{}", engine.reason());
        assert_eq!(
            engine.reason().contains("POSIX was asked for"),
            engine.path() == KernelPath::Posix
        );
    });
}

#[test]
fn deallocated_blocks_of_a_file_read_as_zeros_and_the_others_stay() {
    everywhere(MEDIUM, |engine| {
        let buffer = alloc(engine, 1 << 20);
        let data = fill(&buffer.as_dma(), 1);
        engine.run(Request::write(0, buffer.as_dma(), false, LONG)).unwrap();
        let extents = (0..100).map(|i| Extent { offset: i * 8192, len: 4096 });
        engine.run(Request::deallocate(extents, LONG)).unwrap();
        engine.run(Request::read(0, buffer.as_dma(), LONG)).unwrap();
        let got = bytes(&buffer.as_dma());
        assert!(got[4096..8192] == data[4096..8192] && got[819_200..] == data[819_200..]);
        if !engine.target().is_block_device() {
            assert!(got[16_384..20_480].iter().all(|&byte| byte == 0));
        }
    });
}

#[test]
fn many_tickets_are_polled_to_their_end_and_dropped_ones_end_too() {
    everywhere(MEDIUM, |engine| {
        let buffers: Vec<_> = (0..300).map(|_| alloc(engine, 4096)).collect();
        let data: Vec<_> =
            buffers.iter().enumerate().map(|(i, b)| fill(&b.as_dma(), i as u64)).collect();
        let write = |i: usize| {
            let fua = i.is_multiple_of(64);
            engine.submit(Request::write(i as u64 * 4096, buffers[i].as_dma(), fua, LONG)).unwrap()
        };
        let mut tickets: Vec<_> = (0..300).map(write).collect();
        // Nobody waits for these; a later write of the same blocks does.
        tickets.truncate(250);
        let end = std::time::Instant::now() + LONG;
        while !tickets.is_empty() {
            assert!(std::time::Instant::now() < end, "{} tickets never ended", tickets.len());
            tickets.retain_mut(|ticket| ticket.poll().transpose().unwrap().is_none());
        }
        for i in 250..300 {
            write(i).wait().unwrap();
        }
        buffers.iter().for_each(|b| b.as_dma().fill(0, 4096, 0).unwrap());
        let reads = buffers.iter().enumerate();
        let reads = reads.map(|(i, b)| Request::read(i as u64 * 4096, b.as_dma(), LONG));
        let tickets: Vec<_> = reads.map(|read| engine.submit(read).unwrap()).collect();
        // Waited for from the last to the first.
        tickets.into_iter().rev().for_each(|ticket| ticket.wait().unwrap());
        assert!(buffers.iter().zip(&data).all(|(b, data)| bytes(&b.as_dma()) == *data));
    });
}

#[test]
fn many_threads_share_an_engine_that_takes_few_at_a_time() {
    let folder = folder();
    for path in BOTH {
        let target = target(&image(folder.path(), MEDIUM), Direct::Prefer);
        let engine = open(&target, FileOptions { depth: 2, workers: 2, ..by(path) });
        std::thread::scope(|scope| {
            for thread in 0..6u64 {
                let engine = &engine;
                scope.spawn(move || {
                    for round in 0..15 {
                        let at = (thread << 20) + round * 65_536;
                        let buffer = alloc(engine, 65_536);
                        let data = fill(&buffer.as_dma(), at);
                        let fua = round % 5 == 0;
                        engine.run(Request::write(at, buffer.as_dma(), fua, LONG)).unwrap();
                        buffer.as_dma().fill(0, 65_536, 0).unwrap();
                        engine.run(Request::read(at, buffer.as_dma(), LONG)).unwrap();
                        assert!(bytes(&buffer.as_dma()) == data);
                        engine.run(Request::flush(LONG)).unwrap();
                    }
                });
            }
        });
    }
}

#[test]
fn a_refused_io_uring_is_said_and_posix_does_its_work() {
    let folder = folder();
    let target = target(&image(folder.path(), MEDIUM), Direct::Prefer);
    let faults = Faults::without_ring("forbidden here");
    let engine = faults.open(&target, FileOptions::default());
    assert_eq!(engine.path(), KernelPath::Posix);
    assert!(engine.reason().contains("forbidden here") && engine.way().reason == engine.reason());
    round_trip(&engine);
    let seam = crate::rig::Seam(faults);
    let forced = by(KernelPath::IoUring);
    let error = FileEngine::open_with(target, host_space().unwrap(), forced, &seam).unwrap_err();
    assert!(matches!(error, FileEngineError::Forced { path: KernelPath::IoUring, .. }), "{error}");
    assert!(error.to_string().contains("forbidden here"), "{error}");
}

#[test]
fn options_that_do_not_fit_are_refused_with_what_would() {
    let folder = folder();
    let target = target(&image(folder.path(), 1 << 20), Direct::Prefer);
    let refused = |options: FileOptions| {
        let error = FileEngine::open(Arc::clone(&target), host_space().unwrap(), options);
        error.unwrap_err().to_string()
    };
    let base = FileOptions::default();
    let long = refused(FileOptions { capacity: Some(2 << 20), ..base.clone() });
    assert!(long.contains("within the 1048576 bytes that there are") && long.contains("truncate"));
    assert!(refused(FileOptions { capacity: Some(0), ..base.clone() }).contains("got 0"));
    assert!(refused(FileOptions { capacity: Some(5000), ..base.clone() }).contains("got 5000"));
    assert!(refused(FileOptions { lba_bytes: Some(1024), ..base.clone() }).contains("4096"));
    assert!(refused(FileOptions { depth: 0, ..base.clone() }).contains("1 to 4096, got 0"));
    assert!(refused(FileOptions { workers: 257, ..base.clone() }).contains("1 to 256, got 257"));
    let fits = FileOptions { capacity: Some(8192), lba_bytes: Some(4096), ..base };
    let engine = open(&target, fits);
    assert_eq!((engine.geometry().capacity, engine.geometry().lba_bytes), (8192, 4096));
    let page = alloc(&engine, 4096);
    engine.run(Request::read(4096, page.as_dma(), LONG)).unwrap();
    let error = engine.run(Request::read(8192, page.as_dma(), LONG)).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Invalid);
    let error = engine.run(Request::read(512, page.as_dma(), LONG)).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Invalid);
}

#[test]
fn a_target_for_reading_alone_is_not_changed() {
    let folder = folder();
    let options = TargetOptions { direct: Direct::Prefer, read_only: true };
    let target = Target::open(&image(folder.path(), 1 << 20), &options).unwrap();
    for path in BOTH {
        let engine = open(&target, by(path));
        let page = alloc(&engine, 4096);
        engine.run(Request::read(0, page.as_dma(), LONG)).unwrap();
        engine.run(Request::flush(LONG)).unwrap();
        let extent = Extent { offset: 0, len: 4096 };
        for change in
            [Request::write(0, page.as_dma(), false, LONG), Request::deallocate([extent], LONG)]
        {
            let error = engine.run(change).unwrap_err();
            assert_eq!(error.kind, IoErrorKind::Device, "{error}");
        }
        engine.shutdown(SECOND).unwrap();
    }
}

#[test]
fn after_shutdown_requests_fail_and_shutdown_is_idempotent() {
    everywhere(1 << 20, |engine| {
        engine.shutdown(SECOND).unwrap();
        engine.shutdown(SECOND).unwrap();
        let page = alloc(engine, 4096);
        let error = engine.run(Request::read(0, page.as_dma(), SECOND)).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Gone);
        assert_eq!(engine.run(Request::flush(SECOND)).unwrap_err().kind, IoErrorKind::Gone);
    });
}
