//! Disks that fail, crawl and hang under a controller that works.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_layout::nvme::Status;
use gcos_nvme::{Controller, ErrorKind, IoOp, NvmeError, Options};
use gcos_qemu_tests::machine::Machine;
use serde_json::json;

use crate::rig::{MIB, PATIENCE, Shape, open, options, read, request, works, write};

/// Page whose sectors fail.
const BAD: u64 = 50;

/// A controller whose disk fails what touches page 50 (or any flush).
fn failing(kind: &str) -> Shape {
    let shape = Shape::new();
    let rules = shape.path("rules");
    let place = if kind == "flush" { String::new() } else { format!("sector = \"{}\"\n", 8 * BAD) };
    let rule =
        format!("[inject-error]\nevent = \"none\"\niotype = \"{kind}\"\nerrno = \"5\"\n{place}");
    fs::write(&rules, rule).unwrap();
    let image = shape.path("image");
    fs::File::create(&image).unwrap().set_len(64 * MIB).unwrap();
    let file = format!("blkdebug:{}:{}", rules.display(), image.display());
    shape
        .arg("-drive", &format!("id=one,file={file},format=raw,if=none"))
        .device("nvme,id=nvme0,serial=QTEST,drive=one")
}

fn fails_with(result: Result<(), NvmeError>, status: Status, name: &str) -> NvmeError {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Media, "{error}");
    assert_eq!(error.status().map(Status::code), Some(status), "{error}");
    assert!(error.to_string().contains(name), "{error}");
    error
}

#[test]
fn a_block_that_cannot_be_read_is_an_unrecovered_read_error_of_that_block() {
    let machine = failing("read").start();
    let controller = open(&machine, options());
    let result = read(&controller, BAD).map(drop);
    let error = fails_with(result, Status::UNRECOVERED_READ_ERROR, "Unrecovered Read Error");
    assert!(error.to_string().contains(&format!("LBA {}", 8 * BAD)), "{error}");
    assert_eq!(read(&controller, BAD - 1).unwrap(), Some(0));
    works(&controller);
    assert_eq!((controller.counters().errors, controller.counters().resets), (1, 0));
}

#[test]
fn a_block_that_cannot_be_written_is_a_write_fault() {
    let machine = failing("write").start();
    let controller = open(&machine, options());
    fails_with(write(&controller, BAD, 1), Status::WRITE_FAULT, "Write Fault");
    works(&controller);
}

#[test]
fn a_flush_that_fails_is_a_write_fault() {
    let machine = failing("flush").start();
    let controller = open(&machine, options());
    assert!(controller.volatile_cache());
    let flush = || controller.run(request(IoOp::Flush, 0, 0, Vec::new()));
    // Without a write before there is nothing to flush, and the disk is not asked.
    write(&controller, 0, 1).unwrap();
    fails_with(flush(), Status::WRITE_FAULT, "Write Fault");
    works(&controller);
}

#[test]
fn a_slow_disk_takes_its_time_and_nothing_is_given_up() {
    let machine = Shape::new()
        .drive("one", 64 * MIB, ",throttling.iops-total=200")
        .device("nvme,id=nvme0,serial=QTEST,drive=one")
        .start();
    let controller = open(&machine, options());
    let began = Instant::now();
    let buffers: Vec<_> = (0..48).map(|_| controller.dma().alloc(4096).unwrap()).collect();
    let pending: Vec<_> = buffers
        .iter()
        .zip(0..)
        .map(|(b, page)| {
            controller.submit(request(IoOp::Read, page * 8, 8, vec![b.as_dma()])).unwrap()
        })
        .collect();
    pending.into_iter().for_each(|pending| pending.wait().unwrap());
    // 200 a second, after a burst of a tenth of a second.
    assert!(began.elapsed() > Duration::from_millis(100), "{:?}", began.elapsed());
    let counters = controller.counters();
    assert_eq!((counters.errors, counters.aborts, counters.resets), (0, 0, 0));
}

/// Lets the disk move this many bytes a second; 0 for as many as it can.
fn limit(machine: &Machine, bps: u64) {
    let arguments = json!({
        "device": "one", "bps": bps, "bps_rd": 0, "bps_wr": 0,
        "iops": 0, "iops_rd": 0, "iops_wr": 0,
    });
    machine.qmp().execute("block_set_io_throttle", arguments).unwrap();
}

/// Eight writes, of which some hang: each ends once, late ones within deadline, abort and reset.
fn hang(controller: &Arc<Controller>) -> Vec<NvmeError> {
    let timeout = Duration::from_millis(200);
    let buffers: Vec<_> = (0..8).map(|_| controller.dma().alloc(4096).unwrap()).collect();
    let began = Instant::now();
    let pending: Vec<_> = buffers
        .iter()
        .zip(0..)
        .map(|(buffer, page)| {
            let write = IoOp::Write { fua: false };
            let request = request(write, 8 * page, 8, vec![buffer.as_dma()]);
            controller.submit(gcos_nvme::IoRequest { timeout, ..request }).unwrap()
        })
        .collect();
    let results: Vec<_> = pending.into_iter().map(gcos_nvme::Pending::wait).collect();
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    for mut buffer in buffers {
        assert!(buffer.bytes_mut().is_ok(), "the memory came back with the result");
    }
    results.into_iter().filter_map(Result::err).collect()
}

#[test]
fn a_hung_disk_leads_to_abort_then_reset_then_one_error_each_and_the_drive_works_again() {
    let machine = Shape::simple("").start();
    let abort_timeout = Duration::from_millis(100);
    let controller = open(&machine, Options { abort_timeout, ..options() });
    works(&controller);
    for round in 1..=3 {
        limit(&machine, 1);
        let errors = hang(&controller);
        assert!(!errors.is_empty(), "nothing hung");
        for error in &errors {
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        }
        limit(&machine, 0);
        works(&controller);
        let counters = controller.counters();
        assert!(counters.aborts >= round, "{counters:?}");
        assert_eq!((counters.resets, counters.leaked_commands), (round, 0));
    }
}
