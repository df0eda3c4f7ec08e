//! What goes wrong in the kernel, between it and the drive, and when it does not answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_engine::{Engine, Extent, FileEngine, IoErrorKind, Op, Request};
use gcos_hw::HwError;
use gcos_hw::kernel::{Direct, JobOp, Target};

use crate::rig::{
    BOTH, Fault, Faults, SECOND, Undo, alloc, by, bytes, fill, folder, image, open, run, target,
};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(60);
const EIO: i32 = 5;

fn is_read(op: JobOp) -> bool {
    op == JobOp::Read
}

fn is_sync(op: JobOp) -> bool {
    op == JobOp::Sync
}

fn is_write(op: JobOp) -> bool {
    matches!(op, JobOp::Write { .. })
}

fn is_durable(op: JobOp) -> bool {
    op == JobOp::Write { durable: true }
}

fn is_discard(op: JobOp) -> bool {
    op == JobOp::Discard
}

/// Runs a test by every way, on a file, with faults in between.
fn each(test: impl Fn(&Arc<Faults>, &Arc<Target>, &Arc<FileEngine>)) {
    let folder = folder();
    for path in BOTH {
        for direct in [Direct::Prefer, Direct::Never] {
            let target = target(&image(folder.path(), 1 << 20), direct);
            let faults = Faults::new();
            test(&faults, &target, &faults.open(&target, by(path)));
        }
    }
}

fn read(engine: &FileEngine, offset: u64) -> Result<Vec<u8>, IoErrorKind> {
    let page = alloc(engine, 4096);
    let ended = engine.run(Request::read(offset, page.as_dma(), LONG));
    ended.map(|()| bytes(&page.as_dma())).map_err(|error| error.kind)
}

fn write(engine: &FileEngine, offset: u64, seed: u64, fua: bool) -> Result<Vec<u8>, IoErrorKind> {
    let page = alloc(engine, 4096);
    let data = fill(&page.as_dma(), seed);
    let ended = engine.run(Request::write(offset, page.as_dma(), fua, LONG));
    ended.map(|()| data).map_err(|error| error.kind)
}

fn flush(engine: &FileEngine) -> Result<(), IoErrorKind> {
    engine.run(Request::flush(LONG)).map_err(|error| error.kind)
}

#[test]
fn an_error_on_read_is_that_of_its_request_alone() {
    each(|faults, _, engine| {
        let data = write(engine, 8192, 1, true).unwrap();
        faults.add(is_read, Fault::Fails(EIO), 1);
        let page = alloc(engine, 4096);
        let error = engine.run(Request::read(8192, page.as_dma(), LONG)).unwrap_err();
        assert_eq!((error.kind, error.op, error.offset), (IoErrorKind::Media, "read", 8192));
        assert!(error.to_string().contains("dmesg"), "{error}");
        assert_eq!(read(engine, 8192).unwrap(), data);
        flush(engine).unwrap();
        write(engine, 8192, 2, true).unwrap();
        engine.shutdown(SECOND).unwrap();
    });
}

#[test]
fn an_fsync_that_failed_once_is_never_believed_again() {
    for durable_write in [false, true] {
        each(|faults, target, engine| {
            let data = write(engine, 0, 1, false).unwrap();
            let which = if durable_write { is_durable } else { is_sync };
            faults.add(which, Fault::Fails(EIO), 1);
            let failed =
                if durable_write { write(engine, 4096, 2, true).map(drop) } else { flush(engine) };
            assert_eq!(failed.unwrap_err(), IoErrorKind::Media);
            // The kernel would say that all is well.
            assert_eq!(flush(engine).unwrap_err(), IoErrorKind::Device);
            assert_eq!(write(engine, 8192, 3, true).unwrap_err(), IoErrorKind::Device);
            let words = engine.run(Request::flush(LONG)).unwrap_err().to_string();
            assert!(words.contains("an earlier fsync or durable write failed"), "{words}");
            // Neither by another way to the same target.
            let other = open(target, by(gcos_engine::KernelPath::Posix));
            assert_eq!(flush(&other).unwrap_err(), IoErrorKind::Device);
            assert_eq!(read(engine, 0).unwrap(), data);
            write(engine, 8192, 4, false).unwrap();
            assert_eq!(engine.shutdown(SECOND).unwrap_err().kind, IoErrorKind::Device);
        });
    }
}

#[test]
fn a_flush_that_ends_well_after_another_one_failed_is_not_believed() {
    each(|faults, target, engine| {
        if !target.is_direct() {
            // There is one at a time there.
            return;
        }
        faults.add(is_sync, Fault::Hold, 1);
        let held = engine.submit(Request::flush(LONG)).unwrap();
        assert_eq!(faults.held(), 1);
        faults.add(is_sync, Fault::Fails(EIO), 1);
        assert_eq!(flush(engine).unwrap_err(), IoErrorKind::Media);
        faults.let_go(target);
        assert_eq!(held.wait().unwrap_err().kind, IoErrorKind::Device);
    });
}

#[test]
fn through_the_page_cache_one_asks_for_durability_at_a_time() {
    each(|faults, target, engine| {
        if target.is_direct() {
            return;
        }
        faults.add(is_sync, Fault::Hold, 1);
        let held = engine.submit(Request::flush(LONG)).unwrap();
        let error = engine.submit(Request::flush(SHORT)).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Timeout);
        faults.let_go(target);
        held.wait().unwrap();
        flush(engine).unwrap();
    });
}

#[test]
fn a_read_that_is_not_answered_ends_at_its_deadline_and_keeps_its_memory() {
    each(|faults, target, engine| {
        let mut page = engine.dma().alloc(4096).unwrap();
        faults.add(is_read, Fault::Hold, 2);
        let begun = Instant::now();
        let error = engine.run(Request::read(0, page.as_dma(), SHORT)).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Unfinished, "{error}");
        assert!(begun.elapsed() >= SHORT && begun.elapsed() < LONG / 2);
        let mut ticket = engine.submit(Request::read(0, page.as_dma(), SHORT)).unwrap();
        let polled = loop {
            match ticket.poll() {
                None => std::thread::yield_now(),
                Some(result) => break result,
            }
        };
        assert_eq!(polled.unwrap_err().kind, IoErrorKind::Unfinished);
        drop(ticket);
        assert!(matches!(page.bytes_mut(), Err(HwError::Busy { .. })));
        // Nothing is in doubt: changes go on.
        write(engine, 0, 7, true).unwrap();
        faults.let_go(target);
        page.bytes_mut().unwrap();
        engine.shutdown(SECOND).unwrap();
    });
}

#[test]
fn while_the_kernel_holds_a_write_that_was_given_up_nothing_is_changed() {
    each(|faults, target, engine| {
        let before = write(engine, 8192, 1, true).unwrap();
        faults.add(is_write, Fault::Hold, 1);
        let mut page = engine.dma().alloc(4096).unwrap();
        let late = fill(&page.as_dma(), 2);
        let error = engine.run(Request::write(0, page.as_dma(), false, SHORT)).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Unfinished);
        assert!(matches!(page.bytes_mut(), Err(HwError::Busy { .. })));
        let other = open(target, by(gcos_engine::KernelPath::Posix));
        for engine in [engine, &other] {
            // Elsewhere, too: where it was may belong to somebody else by then.
            assert_eq!(write(engine, 65_536, 3, false).unwrap_err(), IoErrorKind::Device);
            assert_eq!(write(engine, 0, 3, true).unwrap_err(), IoErrorKind::Device);
            assert_eq!(flush(engine).unwrap_err(), IoErrorKind::Device);
            let extent = Extent { offset: 0, len: 4096 };
            let error = engine.run(Request::deallocate([extent], LONG)).unwrap_err();
            assert_eq!(error.kind, IoErrorKind::Device);
            assert!(error.to_string().contains("may carry it out at any time"), "{error}");
            assert_eq!(read(engine, 8192).unwrap(), before);
        }
        faults.let_go(target);
        page.bytes_mut().unwrap();
        assert_eq!(read(engine, 0).unwrap(), late, "it was carried out late");
        let after = write(engine, 0, 4, true).unwrap();
        assert_eq!(read(&other, 0).unwrap(), after);
        engine.shutdown(SECOND).unwrap();
    });
}

#[test]
fn a_deallocation_that_was_given_up_keeps_changes_away_too() {
    each(|faults, target, engine| {
        write(engine, 0, 1, true).unwrap();
        faults.add(is_discard, Fault::Hold, 1);
        let extent = Extent { offset: 0, len: 4096 };
        let error = engine.run(Request::deallocate([extent], SHORT)).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Unfinished);
        assert_eq!(write(engine, 0, 2, true).unwrap_err(), IoErrorKind::Device);
        faults.let_go(target);
        let data = write(engine, 0, 3, true).unwrap();
        assert_eq!(read(engine, 0).unwrap(), data);
    });
}

#[test]
fn a_write_waits_for_one_to_the_same_blocks_whose_ticket_was_dropped() {
    each(|faults, target, engine| {
        faults.add(is_write, Fault::Hold, 1);
        let page = alloc(engine, 4096);
        fill(&page.as_dma(), 1);
        drop(engine.submit(Request::write(0, page.as_dma(), false, LONG)).unwrap());
        // Elsewhere it goes on.
        write(engine, 4096, 2, false).unwrap();
        let error = engine.submit(Request::write(0, page.as_dma(), false, SHORT)).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Timeout);
        let data = std::thread::scope(|scope| {
            let second = scope.spawn(|| write(engine, 0, 3, true).unwrap());
            std::thread::sleep(SHORT);
            assert!(!second.is_finished());
            faults.let_go(target);
            second.join().unwrap()
        });
        assert_eq!(read(engine, 0).unwrap(), data);
    });
}

#[test]
fn a_shutdown_that_the_kernel_holds_up_ends_at_its_deadline() {
    each(|faults, target, engine| {
        faults.add(is_read, Fault::Hold, 1);
        let page = alloc(engine, 4096);
        let ticket = engine.submit(Request::read(0, page.as_dma(), LONG)).unwrap();
        let error = engine.shutdown(SHORT).unwrap_err();
        assert_eq!((error.kind, error.op), (IoErrorKind::Timeout, "shutdown"));
        faults.let_go(target);
        ticket.wait().unwrap();
        // Nothing was made durable by that one, so the next has it all to do.
        faults.add(is_sync, Fault::Fails(EIO), 1);
        assert_eq!(engine.shutdown(SECOND).unwrap_err().kind, IoErrorKind::Media);
        assert_eq!(engine.shutdown(SECOND).unwrap_err().kind, IoErrorKind::Device);
    });
}

#[test]
fn what_the_kernel_never_got_says_nothing_of_durability() {
    for which in [is_sync, is_durable] {
        each(|faults, _, engine| {
            faults.add(which, Fault::Refused, 1);
            let refused = if which(JobOp::Sync) {
                flush(engine)
            } else {
                write(engine, 0, 1, true).map(drop)
            };
            assert_eq!(refused.unwrap_err(), IoErrorKind::Timeout);
            flush(engine).unwrap();
            write(engine, 0, 2, true).unwrap();
            engine.shutdown(SECOND).unwrap();
        });
    }
}

#[test]
fn another_way_learns_of_the_end_of_what_was_given_up_on_one_that_nobody_uses() {
    each(|faults, target, engine| {
        faults.add(is_write, Fault::Unread, 1);
        let page = alloc(engine, 4096);
        let late = fill(&page.as_dma(), 1);
        let error = engine.run(Request::write(0, page.as_dma(), false, SHORT)).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Unfinished);
        let other = open(target, by(gcos_engine::KernelPath::Posix));
        assert_eq!(write(&other, 0, 2, true).unwrap_err(), IoErrorKind::Device);
        faults.answer();
        assert_eq!(flush(&other), Ok(()));
        assert_eq!(read(&other, 0).unwrap(), late);
        write(&other, 0, 2, true).unwrap();
    });
}

#[test]
fn another_way_learns_of_the_end_of_a_flush_on_one_that_nobody_uses() {
    each(|faults, target, engine| {
        faults.add(is_sync, Fault::Unread, 1);
        let error = engine.run(Request::flush(SHORT)).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Unfinished);
        faults.answer();
        let other = open(target, by(gcos_engine::KernelPath::Posix));
        other.run(Request::flush(SECOND)).unwrap();
    });
}

#[test]
fn a_deadline_past_all_time_is_no_matter() {
    each(|_, _, engine| {
        let page = alloc(engine, 4096);
        engine.run(Request::read(0, page.as_dma(), Duration::MAX)).unwrap();
        engine.run(Request::flush(Duration::MAX)).unwrap();
        engine.shutdown(Duration::MAX).unwrap();
    });
}

#[test]
fn one_part_that_fails_fails_the_request_and_the_others_end() {
    each(|faults, _, engine| {
        let buffer = alloc(engine, 64 << 10);
        let extents = (0..16).map(|i| Extent { offset: i * 8192, len: 4096 }).collect();
        let segments = std::iter::once(buffer.as_dma()).collect();
        faults.add(is_write, Fault::Fails(EIO), 1);
        let op = Op::Write { fua: false };
        let error = engine.run(Request { op, extents, segments, deadline: LONG }).unwrap_err();
        assert_eq!((error.kind, error.len), (IoErrorKind::Media, 64 << 10));
        engine.shutdown(SECOND).unwrap();
    });
}

#[test]
fn a_full_file_system_fails_the_write_with_what_to_do_and_nothing_else() {
    let folder = folder();
    let at = folder.path().to_str().unwrap().to_owned();
    if run("mount", &["-t", "tmpfs", "-o", "size=1m", "gcos-test", &at]).is_none() {
        eprintln!("nothing can be mounted here: nothing was tested");
        return;
    }
    let _undo = Undo("umount", vec!["--lazy".to_owned(), at]);
    for path in BOTH {
        // Four times the room that there is.
        let target = target(&image(folder.path(), 4 << 20), Direct::Prefer);
        let engine = open(&target, by(path));
        let data = write(&engine, 0, 1, true).unwrap();
        let buffer = alloc(&engine, 2 << 20);
        for fua in [false, true] {
            let write = Request::write(1 << 20, buffer.as_dma(), fua, LONG);
            let error = engine.run(write).unwrap_err();
            assert_eq!(error.kind, IoErrorKind::Device, "{error}");
            assert!(error.to_string().contains("fallocate"), "{error}");
        }
        assert_eq!(read(&engine, 0).unwrap(), data);
        drop(engine);
    }
}
