//! Queues in memory that the caller gives, and in the controller's own.

use std::sync::Arc;

use crate::common::{bytes, config, open, options, pattern, read, refused, threaded, write};
use crate::io::churn;
use gcos_emulator::{AddressSpace, Config, Emulator};
use gcos_hw::{DmaBuffer, DmaSlice, SharedMemory};
use gcos_layout::nvme::{Cmbmsc, Register};
use gcos_nvme::{Cmb, Controller, ErrorKind, NvmeError, Options, QueueMemory};

/// What is around the given memory.
const AROUND: u8 = 0xEE;

/// A window of `bytes` between two pages that nobody may touch, in memory as a device would lend it.
fn window(space: &AddressSpace, bytes: usize) -> (DmaBuffer, DmaSlice) {
    let bytes = bytes.next_multiple_of(4096);
    let memory = Arc::new(SharedMemory::anonymous(bytes + 2 * 4096).unwrap());
    memory.fill(0, memory.len(), AROUND).unwrap();
    let buffer = space.dma.adopt(memory).unwrap();
    let slice = buffer.slice(4096, bytes).unwrap();
    (buffer, slice)
}

fn is_untouched_around(buffer: &DmaBuffer) -> bool {
    let mut page = [0; 4096];
    let mut untouched = true;
    for at in [0, buffer.len() - 4096] {
        buffer.as_dma().read(at, &mut page).unwrap();
        untouched &= page == [AROUND; 4096];
    }
    untouched
}

fn works(controller: &Arc<Controller>) {
    churn(controller, 16, 300, 0, 200);
    let data: Vec<u8> = (0..300).flat_map(|lba| pattern(lba, 4, 4096)).collect();
    write(controller, 500, &data).unwrap();
    assert!(read(controller, 500, data.len()).unwrap() == data);
}

#[test]
fn queues_and_lists_lie_in_given_memory_and_nowhere_else() {
    for (all, io_queue_pairs, queue_depth) in
        [(false, 1, 64), (true, 1, 64), (true, 3, 5), (false, 2, 255)]
    {
        let space = AddressSpace::new().unwrap();
        let given = |memory| match all {
            true => QueueMemory::GivenForAll(memory),
            false => QueueMemory::Given(memory),
        };
        let mut options = Options { io_queue_pairs, queue_depth, ..options() };
        let (small, slice) = window(&space, 4096);
        options.queue_memory = given(slice);
        // The controller's own limit is less than what the options allow.
        options.max_transfer = 1 << 20;
        let need = options.queue_memory_bytes();
        let (buffer, slice) = window(&space, need);
        options.queue_memory = given(slice.clone());
        drop(small);
        let config = Config { space: Some(space.clone()), ..config(4096) };
        let emulator = Emulator::new(config).unwrap();
        let mapped = space.table.len();
        let controller = Controller::open(emulator.function(), options.clone()).unwrap();
        let own = if all { 0 } else { 3 };
        assert_eq!(space.table.len(), mapped + own, "only admin queues and lists are elsewhere");
        works(&controller);
        controller.reset().unwrap();
        works(&controller);
        assert!(is_untouched_around(&buffer));
        let used = bytes(&slice).iter().filter(|&&byte| byte != AROUND).count();
        assert!(used > queue_depth as usize * 16 * usize::from(io_queue_pairs), "{used}");
        drop(buffer);
        drop(slice);
        drop(options);
        assert_eq!(space.table.len(), mapped + own, "kept as long as the queues");
        drop(controller);
        assert_eq!(space.table.len(), mapped - 1, "and no longer");
    }
}

#[test]
fn given_memory_that_is_too_small_is_refused_with_the_bytes_that_are_needed() {
    for all in [false, true] {
        let space = AddressSpace::new().unwrap();
        let given = |memory| match all {
            true => QueueMemory::GivenForAll(memory),
            false => QueueMemory::Given(memory),
        };
        let mut options = Options { io_queue_pairs: 2, max_transfer: 1 << 20, ..options() };
        options.queue_memory = given(window(&space, 4096).1);
        let need = options.queue_memory_bytes();
        options.queue_memory = given(window(&space, need - 4096).1);
        let config = || Config { space: Some(space.clone()), ..config(4096) };
        let error = refused(config(), options.clone());
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(&format!("{need} bytes or more")), "{error}");
        let (_buffer, slice) = window(&space, need + 4096);
        options.queue_memory = given(slice.slice(64, need).unwrap());
        let error = refused(config(), options.clone());
        assert!(error.to_string().contains("multiple of 4096"), "{error}");
        options.queue_memory = given(slice.slice(0, need).unwrap());
        works(&open(config(), options).1);
    }
}

#[test]
fn submission_queues_lie_in_the_controller_memory_buffer() {
    let config = Config { cmb_bytes: 128 << 10, ..config(4096) };
    let options =
        Options { cmb: Cmb::SubmissionQueues, io_queue_pairs: 2, queue_depth: 1000, ..options() };
    let (emulator, controller) = open(config, options.clone());
    let cmb = Arc::clone(emulator.cmb().unwrap());
    // Which queue this thread uses depends on how many threads there were.
    let used = || {
        let mut all = vec![0; cmb.len()];
        cmb.read(0, &mut all).unwrap();
        all.iter().filter(|&&byte| byte != 0).count()
    };
    assert_eq!(used(), 0);
    works(&controller);
    assert!(used() > 300 * 8, "commands were posted there");
    controller.reset().unwrap();
    works(&controller);
    let control = || Cmbmsc(emulator.function().read64(Register::Cmbmsc.offset()));
    assert!(control().cmse() && control().cba() > 1 << 32);
    drop(controller);
    assert_eq!(control(), Cmbmsc(0), "hidden again");
    works(&Controller::open(emulator.function(), options).unwrap());
}

#[test]
fn a_controller_memory_buffer_and_given_memory_go_together() {
    let space = AddressSpace::new().unwrap();
    let mut options = Options { cmb: Cmb::SubmissionQueues, max_transfer: 1 << 20, ..options() };
    let all = QueueMemory::GivenForAll(window(&space, 4096).1);
    let need = Options { queue_memory: all, ..options.clone() }.queue_memory_bytes();
    let (buffer, slice) = window(&space, need);
    options.queue_memory = QueueMemory::GivenForAll(slice);
    let config = Config { cmb_bytes: 8192, space: Some(space), ..config(4096) };
    let (_emulator, controller) = open(config, options);
    works(&controller);
    assert!(is_untouched_around(&buffer));
}

#[test]
fn a_controller_memory_buffer_that_is_missing_or_too_small_is_refused() {
    let options = Options { cmb: Cmb::SubmissionQueues, io_queue_pairs: 2, ..options() };
    let error = refused(config(4096), options.clone());
    assert!(matches!(error, NvmeError::Unsupported { what: "CAP.CMBS", .. }), "{error}");
    let small = Config { cmb_bytes: 4096, ..config(4096) };
    let error = refused(small, options.clone());
    assert!(error.to_string().contains("controller memory buffer"), "{error}");
    assert!(error.to_string().contains("8192 bytes or more"), "{error}");
}

#[test]
fn two_controllers_divide_one_window_and_reset_without_touching_each_other() {
    let space = AddressSpace::new().unwrap();
    let mut options = Options { io_queue_pairs: 2, max_transfer: 64 << 10, ..options() };
    options.queue_memory = QueueMemory::GivenForAll(window(&space, 4096).1);
    let need = options.queue_memory_bytes();
    let (buffer, slice) = window(&space, 2 * need);
    // What somebody left there, phase tags and all.
    slice.fill(0, slice.len(), 0xFF).unwrap();
    let drive = |at| {
        let config =
            Config { space: Some(space.clone()), serial: format!("HALF-{at}"), ..threaded(4096) };
        let queue_memory = QueueMemory::GivenForAll(slice.slice(at, need).unwrap());
        open(config, Options { queue_memory, ..options.clone() })
    };
    let drives = [drive(0), drive(need)];
    std::thread::scope(|scope| {
        for (_, controller) in &drives {
            scope.spawn(|| {
                for round in 1..=3 {
                    works(controller);
                    // Old entries of all phases are there now.
                    controller.reset().unwrap();
                    let counters = controller.counters();
                    let seen = (counters.resets, counters.errors, counters.spurious_completions);
                    assert_eq!(seen, (round, 0, 0));
                }
            });
        }
    });
    assert!(is_untouched_around(&buffer));
}

#[test]
fn queues_in_the_memory_buffer_end_with_the_function_they_belong_to() {
    let config = Config { cmb_bytes: 128 << 10, ..threaded(4096) };
    let options = Options { cmb: Cmb::SubmissionQueues, ..options() };
    let (emulator, controller) = open(config, options.clone());
    works(&controller);
    emulator.remove();
    // As the platform does when it takes a function away.
    let cmb = Arc::clone(emulator.cmb().unwrap());
    cmb.fill(0, cmb.len(), 0xFF).unwrap();
    assert_eq!(read(&controller, 0, 4096).unwrap_err().kind(), ErrorKind::Gone);
    drop(controller);
    emulator.power_on();
    assert_eq!(Cmbmsc(emulator.function().read64(Register::Cmbmsc.offset())), Cmbmsc(0));
    works(&Controller::open(emulator.function(), options).unwrap());
}
