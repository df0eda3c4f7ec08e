//! The fault plan: each action does what it says, to the commands that it names and no others.

#[cfg(test)]
mod common;

use std::time::Duration;

use common::{Host, Queue, buffer, prp, ram};
use gcos_emulator::{Action, Config, FaultPlan, Rule, Run};
use gcos_layout::nvme::{DataPointer, IoCommand, Register, Status};

const WRITE: u8 = 1;
const READ: u8 = 2;

fn bed() -> (Host, Queue) {
    let mut host = Host::new(ram(1 << 20));
    let queue = host.queue(1, 8);
    (host, queue)
}

fn flush(cid: u16) -> gcos_layout::nvme::Sqe {
    IoCommand::Flush.encode(cid, 1, DataPointer::NONE)
}

#[test]
fn a_status_ends_the_command_that_is_then_not_carried_out() {
    let (mut host, mut queue) = bed();
    let fault = Action::Status { sct: 2, sc: 0x80, dnr: true };
    let id = host.emulator.faults().add(Rule::io(fault).opcode(WRITE).blocks(4..6).times(2));
    assert_eq!(host.fill(&mut queue, 2, 2, 1), Status::SUCCESS);
    assert_eq!(host.fill(&mut queue, 3, 2, 2), Status::WRITE_FAULT);
    assert_eq!(host.block(&mut queue, 3), 1);
    assert_eq!(host.fill(&mut queue, 5, 1, 2), Status::WRITE_FAULT);
    assert_eq!(host.fill(&mut queue, 5, 1, 3), Status::SUCCESS);
    assert_eq!(host.emulator.faults().applied(id), Some(2));
    let admin = Action::Status { sct: 0, sc: 6, dnr: false };
    host.emulator.faults().add(Rule::admin(admin).times(1));
    let queue = Queue::new(&*host.function, 2, 4);
    assert_eq!(host.create_cq(&queue, None), Status::INTERNAL_ERROR);
    assert_eq!(host.create_cq(&queue, None), Status::SUCCESS);
}

#[test]
fn a_delay_is_kept_on_either_clock() {
    for run in [Run::Threads, Run::Stepped { seed: 3 }] {
        let mut host = Host::new(Config { run, ..ram(1 << 20) });
        let mut queue = host.queue(1, 8);
        let delay = Duration::from_millis(30);
        host.emulator.faults().add(Rule::io(Action::Delay(delay)).times(1));
        let start = host.function.now();
        host.submit(&mut queue, flush(1));
        host.submit(&mut queue, flush(2));
        assert_eq!(host.reap(&mut queue).cid(), 2, "others overtake it");
        assert!(host.function.now() - start < delay);
        assert_eq!(host.reap(&mut queue).cid(), 1);
        assert!(host.function.now() - start >= delay);
    }
}

#[test]
fn completions_get_lost_doubled_and_mislabelled() {
    let (mut host, mut queue) = bed();
    let faults = host.emulator.clone();
    let faults = faults.faults();
    faults.add(Rule::io(Action::LoseCompletion).opcode(WRITE).times(1));
    let data = buffer(&*host.function, 4096).as_dma();
    data.fill(0, 4096, 8).unwrap();
    let write = IoCommand::Write { slba: 1, nlb: 1, fua: false };
    host.submit(&mut queue, write.encode(10, 1, prp(&data)));
    assert_eq!(host.block(&mut queue, 1), 8, "carried out all the same");
    faults.add(Rule::io(Action::DuplicateCompletion).times(1));
    host.submit(&mut queue, flush(11));
    assert_eq!((host.reap(&mut queue).cid(), host.reap(&mut queue).cid()), (11, 11));
    faults.add(Rule::io(Action::WrongCommandId(0x100)).times(1));
    host.submit(&mut queue, flush(12));
    assert_eq!(host.reap(&mut queue).cid(), 12 ^ 0x100);
    // The entry of the lost completion is free again: the queue takes a full load.
    for cid in 0..7 {
        host.submit(&mut queue, flush(cid));
    }
    let seen: Vec<u16> = (0..7).map(|_| host.reap(&mut queue).cid()).collect();
    assert_eq!(seen, (0..7).collect::<Vec<_>>());
}

fn differing_bits(block: &[u8], byte: u8) -> u32 {
    block.iter().map(|b| (b ^ byte).count_ones()).sum()
}

#[test]
fn corruption_on_reading_leaves_the_medium_alone() {
    let (mut host, mut queue) = bed();
    host.fill(&mut queue, 0, 1, 0x55);
    host.emulator.faults().add(Rule::io(Action::CorruptRead { bits: 1 }).opcode(READ).times(1));
    let first = host.read(&mut queue, 0, 1).unwrap();
    assert_eq!(differing_bits(&first, 0x55), 1);
    assert_eq!(host.block(&mut queue, 0), 0x55);
}

#[test]
fn bit_rot_stays() {
    for write_cache in [None, Some(Default::default())] {
        let mut host = Host::new(Config { write_cache, ..ram(1 << 20) });
        let mut queue = host.queue(1, 8);
        host.emulator.faults().add(Rule::io(Action::BitRot).opcode(WRITE).times(1));
        assert_eq!(host.fill(&mut queue, 3, 1, 0x55), Status::SUCCESS);
        for _ in 0..2 {
            let block = host.read(&mut queue, 3, 1).unwrap();
            assert_eq!(differing_bits(&block, 0x55), 1);
        }
    }
}

#[test]
fn misdirected_writes_land_elsewhere_in_the_namespace() {
    let (mut host, mut queue) = bed();
    host.emulator.faults().add(Rule::io(Action::Misdirect { blocks: 5 }).opcode(WRITE).times(1));
    assert_eq!(host.fill(&mut queue, 10, 2, 1), Status::SUCCESS);
    let at: Vec<u8> = [10, 11, 15, 16].map(|lba| host.block(&mut queue, lba)).to_vec();
    assert_eq!(at, [0, 0, 1, 1]);
    host.emulator.faults().add(Rule::io(Action::Misdirect { blocks: -3 }).opcode(WRITE).times(1));
    assert_eq!(host.fill(&mut queue, 1, 1, 2), Status::SUCCESS);
    assert_eq!(host.block(&mut queue, 254), 2, "wraps inside the namespace");
}

#[test]
fn lies_are_acknowledged_and_not_carried_out() {
    let (mut host, mut queue) = bed();
    host.emulator.faults().add(Rule::io(Action::Lie).times(2));
    assert_eq!(host.fill(&mut queue, 0, 1, 1), Status::SUCCESS);
    assert_eq!(host.flush(&mut queue), Status::SUCCESS);
    assert_eq!(host.block(&mut queue, 0), 0);
    assert_eq!(host.emulator.counts().flushes, 0);
}

#[test]
fn a_stuck_controller_recovers_by_reset() {
    let (mut host, mut queue) = bed();
    host.emulator.faults().add(Rule::io(Action::Stick).times(1));
    host.submit(&mut queue, flush(1));
    host.submit(&mut queue, flush(2));
    host.idle(Duration::from_millis(10));
    assert!(host.peek(&mut queue).is_none());
    assert!(host.csts().rdy() && !host.csts().cfs(), "it looks healthy");
    host.reset();
    let mut queue = host.queue(1, 8);
    assert_eq!(host.flush(&mut queue), Status::SUCCESS);
}

#[test]
fn a_fatal_status_stops_everything_until_reset() {
    let (mut host, mut queue) = bed();
    host.emulator.faults().add(Rule::io(Action::Fatal).after(1).times(1));
    assert_eq!(host.flush(&mut queue), Status::SUCCESS);
    host.submit(&mut queue, flush(2));
    host.wait("CFS", || host.csts().cfs());
    host.idle(Duration::from_millis(5));
    assert!(host.peek(&mut queue).is_none());
    host.reset();
    assert!(!host.csts().cfs());
    host.emulator.fail();
    assert!(host.csts().cfs());
}

#[test]
fn a_removed_function_reads_as_ones_and_comes_back_as_new() {
    let (mut host, mut queue) = bed();
    host.fill(&mut queue, 0, 1, 7);
    host.emulator.faults().add(Rule::io(Action::Remove).times(1));
    host.submit(&mut queue, flush(1));
    host.wait("removal", || host.csts().is_removed());
    assert_eq!(host.function.read64(0), u64::MAX);
    host.function.write32(Register::Cc.offset(), 0);
    host.submit(&mut queue, flush(2));
    host.idle(Duration::from_millis(5));
    assert!(host.peek(&mut queue).is_none());
    host.emulator.power_on();
    assert_eq!((host.csts().0, host.function.read32(Register::Cc.offset())), (0, 0));
    host.reset();
    let mut queue = host.queue(1, 8);
    assert_eq!(host.block(&mut queue, 0), 7, "what was written stays");
}

#[test]
fn removal_by_hand_stops_running_commands() {
    for _ in 0..20 {
        let mut host = Host::new(Config { workers: Some(2), ..ram(16 << 20) });
        let mut queue = host.queue(1, 64);
        let mut data = buffer(&*host.function, 1 << 20);
        let sgl = gcos_layout::nvme::SglDescriptor::data(data.as_dma().iova(), 1 << 20);
        for cid in 0..40 {
            let read = IoCommand::Read { slba: 0, nlb: 256, fua: false };
            host.put(&mut queue, read.encode(cid, 1, DataPointer::Sgl(sgl)));
        }
        host.ring(&queue);
        host.emulator.remove();
        data.bytes_mut().unwrap().fill(0xEE);
        std::thread::sleep(Duration::from_millis(1));
        assert!(data.bytes_mut().unwrap().iter().all(|byte| *byte == 0xEE));
    }
}

#[test]
fn faults_from_the_configuration_are_there_from_the_start() {
    let rules = vec![Rule::admin(Action::Status { sct: 0, sc: 6, dnr: false }).times(1)];
    let faults = FaultPlan { rules, ..FaultPlan::default() };
    let mut host = Host::new(Config { faults, ..ram(1 << 20) });
    let queue = Queue::new(&*host.function, 1, 4);
    assert_eq!(host.create_cq(&queue, None), Status::INTERNAL_ERROR);
    host.emulator.faults().clear();
    assert_eq!(host.create_cq(&queue, None), Status::SUCCESS);
}
