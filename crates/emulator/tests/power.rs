//! Power cuts: what was flushed stays, the rest is old or new, never anything else.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[cfg(test)]
mod common;

use std::sync::{Arc, Mutex};

use common::{Host, Queue, buffer, prp, ram};
use gcos_emulator::{
    Action, Config, Emulator, FaultPlan, Medium, MediumEvent, Observer, Rule, Run, WriteCacheConfig,
};
use gcos_layout::nvme::{DataPointer, IoCommand, Status};

const BLOCKS: u64 = 64;

fn cached(seed: u64) -> Config {
    let cache = WriteCacheConfig { capacity_bytes: 32 * 4096, seed };
    Config { write_cache: Some(cache), run: Run::Stepped { seed }, ..ram(BLOCKS * 4096) }
}

/// A block as the medium has it: its byte, if it is filled with one.
fn on_medium(medium: &Medium, lba: u64) -> Option<u8> {
    let mut block = [0; 4096];
    medium.peek(lba * 4096, &mut block).unwrap();
    block.iter().all(|byte| *byte == block[0]).then_some(block[0])
}

fn revive(host: &mut Host) -> Queue {
    host.emulator.power_on();
    host.reset();
    host.queue(1, 8)
}

/// Values that a block may have after a cut: the last flushed one and every one since.
#[derive(Clone)]
struct Versions(Vec<u8>);

impl Versions {
    fn flushed(&mut self) {
        self.0.drain(..self.0.len() - 1);
    }
}

#[test]
fn random_work_survives_power_cuts_as_promised() {
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut host = Host::new(cached(seed));
        let mut queue = host.queue(1, 8);
        let mut model = vec![Versions(vec![0]); BLOCKS as usize];
        for step in 1..=120u8 {
            let nlb = rng.u32(1..=2);
            let slba = rng.u64(0..=BLOCKS - u64::from(nlb));
            let touched = slba as usize..slba as usize + nlb as usize;
            match rng.u8(0..20) {
                0 | 1 => {
                    assert_eq!(host.flush(&mut queue), Status::SUCCESS);
                    model.iter_mut().for_each(Versions::flushed);
                }
                2..5 => {
                    host.fill_fua(&mut queue, slba, nlb, step, true);
                    model[touched].fill(Versions(vec![step]));
                }
                5 | 6 => {
                    let zeroes =
                        IoCommand::WriteZeroes { slba, nlb, fua: false, deallocate: false };
                    assert_eq!(host.io(&mut queue, zeroes, DataPointer::NONE), Status::SUCCESS);
                    model[touched].iter_mut().for_each(|block| block.0.push(0));
                }
                7 => {
                    host.emulator.power_cut(rng.u64(..));
                    assert!(host.csts().is_removed());
                    for (lba, block) in model.iter_mut().enumerate() {
                        let now = on_medium(host.emulator.medium(), lba as u64).expect("torn");
                        assert!(block.0.contains(&now), "block {lba}: {now} not in {:?}", block.0);
                        block.0 = vec![now];
                    }
                    queue = revive(&mut host);
                }
                _ => {
                    assert_eq!(host.fill(&mut queue, slba, nlb, step), Status::SUCCESS);
                    model[touched].iter_mut().for_each(|block| block.0.push(step));
                }
            }
            let lba = rng.u64(0..BLOCKS);
            let expected = *model[lba as usize].0.last().unwrap();
            assert_eq!(host.block(&mut queue, lba), expected, "seed {seed} step {step}");
        }
    }
}

#[test]
fn unflushed_blocks_really_get_lost_and_really_survive() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..20 {
        let mut host = Host::new(cached(seed));
        let mut queue = host.queue(1, 8);
        for lba in 0..10 {
            host.fill(&mut queue, lba, 1, 9);
        }
        host.emulator.power_cut(seed);
        for lba in 0..10 {
            match on_medium(host.emulator.medium(), lba) {
                Some(9) => kept += 1,
                _ => lost += 1,
            }
        }
    }
    assert!(lost > 50 && kept > 50, "{lost} lost, {kept} kept");
}

#[test]
fn a_write_with_fua_is_never_undone_by_an_older_one() {
    for seed in 0..50 {
        let mut host = Host::new(cached(seed));
        let mut queue = host.queue(1, 8);
        host.fill(&mut queue, 4, 2, 1);
        host.fill_fua(&mut queue, 4, 1, 2, true);
        host.emulator.power_cut(seed);
        assert_eq!(on_medium(host.emulator.medium(), 4), Some(2));
        assert!(matches!(on_medium(host.emulator.medium(), 5), Some(0 | 1)));
    }
}

#[test]
fn a_drive_that_lies_about_flushes_is_found_out() {
    let lost = (0..20).any(|seed| {
        let mut host = Host::new(cached(seed));
        host.emulator.faults().add(Rule::io(Action::Lie).opcode(0x00));
        host.emulator.faults().add(Rule::io(Action::IgnoreFua));
        let mut queue = host.queue(1, 8);
        host.fill_fua(&mut queue, 0, 2, 7, true);
        assert_eq!(host.flush(&mut queue), Status::SUCCESS);
        host.emulator.power_cut(seed);
        on_medium(host.emulator.medium(), 0) != Some(7)
    });
    assert!(lost);
}

#[test]
fn power_can_be_cut_at_any_write_and_tears_it() {
    let mut outcomes = std::collections::HashSet::new();
    for seed in 0..40 {
        for write_cache in [None, Some(WriteCacheConfig::default())] {
            let faults = FaultPlan { cut_at_write: 3, cut_seed: seed, ..FaultPlan::default() };
            let mut host = Host::new(Config { faults, write_cache, ..ram(BLOCKS * 4096) });
            let mut queue = host.queue(1, 8);
            host.fill(&mut queue, 0, 1, 1);
            assert_eq!(host.flush(&mut queue), Status::SUCCESS);
            host.fill_fua(&mut queue, 1, 1, 2, true);
            let data = buffer(&*host.function, 8192).as_dma();
            data.fill(0, 8192, 3).unwrap();
            let write = IoCommand::Write { slba: 2, nlb: 2, fua: false };
            host.submit(&mut queue, write.encode(1, 1, prp(&data)));
            host.wait("power cut", || host.csts().is_removed());
            assert!(host.peek(&mut queue).is_none(), "never acknowledged");
            let medium = host.emulator.medium().clone();
            assert_eq!((on_medium(&medium, 0), on_medium(&medium, 1)), (Some(1), Some(2)));
            outcomes.insert((on_medium(&medium, 2), on_medium(&medium, 3)));
            let mut queue = revive(&mut host);
            assert_eq!(host.fill(&mut queue, 0, 1, 4), Status::SUCCESS, "the cut is spent");
        }
    }
    let (old, new) = (Some(0), Some(3));
    assert_eq!(outcomes, [(old, old), (old, new), (new, old), (new, new)].into());
}

#[test]
fn a_rule_can_cut_power_after_a_command() {
    let mut host = Host::new(ram(BLOCKS * 4096));
    let mut queue = host.queue(1, 8);
    host.emulator.faults().add(Rule::io(Action::PowerCut { seed: 1 }).blocks(5..6));
    let data = buffer(&*host.function, 4096).as_dma();
    data.fill(0, 4096, 6).unwrap();
    let write = IoCommand::Write { slba: 5, nlb: 1, fua: false };
    host.submit(&mut queue, write.encode(1, 1, prp(&data)));
    host.wait("power cut", || !host.emulator.is_present());
    assert!(host.peek(&mut queue).is_none());
    assert_eq!(on_medium(host.emulator.medium(), 5), Some(6));
}

#[test]
fn the_next_controller_finds_the_medium_as_it_was() {
    let medium = Medium::ram(BLOCKS * 4096).unwrap();
    let config = || Config {
        write_cache: Some(WriteCacheConfig::default()),
        ..Config::new(Arc::clone(&medium))
    };
    let mut host = Host::new(config());
    let mut queue = host.queue(1, 8);
    host.fill(&mut queue, 0, 1, 1);
    host.flush(&mut queue);
    host.fill(&mut queue, 1, 1, 2);
    drop(queue);
    drop(host);
    // Dropping is not a power cut: what was acknowledged is there.
    let mut host = Host::over(Emulator::new(config()).unwrap());
    host.reset();
    let mut queue = host.queue(1, 8);
    assert_eq!((host.block(&mut queue, 0), host.block(&mut queue, 1)), (1, 2));
}

#[test]
fn the_observer_sees_every_change_in_order() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let observer: Observer = Arc::new(move |event| {
        let line = match event {
            MediumEvent::Write { offset, data, fua } => {
                format!("write {offset} {} {} {fua}", data.len(), data[0])
            }
            MediumEvent::Zero { offset, len, deallocate } => {
                format!("zero {offset} {len} {deallocate}")
            }
            MediumEvent::Flush => "flush".to_owned(),
        };
        record.lock().unwrap().push(line);
    });
    let mut host = Host::new(Config { observer: Some(observer), ..ram(BLOCKS * 4096) });
    let mut queue = host.queue(1, 8);
    host.fill(&mut queue, 2, 2, 5);
    host.flush(&mut queue);
    host.fill_fua(&mut queue, 1, 1, 6, true);
    let zeroes = IoCommand::WriteZeroes { slba: 3, nlb: 1, fua: false, deallocate: false };
    host.io(&mut queue, zeroes, DataPointer::NONE);
    let expected =
        ["write 8192 8192 5 false", "flush", "write 4096 4096 6 true", "zero 12288 4096 false"];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
fn unsafe_shutdowns_are_counted() {
    let mut host = Host::new(ram(BLOCKS * 4096));
    host.emulator.power_cut(0);
    revive(&mut host);
    let data = buffer(&*host.function, 512).as_dma();
    let get = gcos_layout::nvme::AdminCommand::GetLogPage {
        lid: 2,
        bytes: 512,
        offset: 0,
        retain_event: false,
    };
    assert!(host.admin(get, 0, prp(&data)).status().is_success());
    let mut bytes = [0; 512];
    data.read(0, &mut bytes).unwrap();
    let smart = gcos_layout::nvme::SmartLog::decode(&bytes);
    assert_eq!((smart.power_cycles, smart.unsafe_shutdowns), (2, 1));
}
