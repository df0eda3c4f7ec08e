//! Bytes that are written are the bytes that are read.

use std::collections::HashMap;

use gcos_hw::PAGE_BYTES;
use gcos_nvme::{IoOp, Options};

use crate::outcome::ensure;
use crate::rig::Rig;
use crate::{Stop, Target};

const MIB: u64 = 1 << 20;

pub(super) fn what_is_written_is_read_at_every_size(target: &Target) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let window = rig.window(4 * MIB)?;
    let per_command = (rig.controller.max_transfer() / rig.lba) as u64;
    let most = window.blocks.min(8 * MIB / rig.lba as u64);
    let mut sizes = vec![1, 2, 3, 7, 8, 9, 16, 17, 31, 64, 65, 127, 257, 1000];
    // Around what one command moves, and more than two of it.
    sizes.extend([per_command - 1, per_command, per_command + 1, 2 * per_command + 3, most]);
    sizes.retain(|&size| (1..=most).contains(&size));
    for (version, blocks) in (1..).zip(sizes) {
        let last = window.slba + window.blocks - blocks;
        for slba in [window.slba, last] {
            rig.write(slba, blocks, version)?;
            rig.verify(slba, blocks, version)?;
        }
        // A large write read in small pieces.
        rig.verify(last + blocks - 1, 1, version)?;
        rig.verify(last + blocks / 2, 1, version)?;
    }
    Ok(())
}

pub(super) fn what_is_written_is_read_at_every_alignment_of_memory(
    target: &Target,
) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let window = rig.window(MIB)?;
    let len = 64 << 10;
    let blocks = (len / rig.lba) as u64;
    let buffer = rig.alloc(len + 2 * PAGE_BYTES)?;
    let offsets = [4, 8, 512, 516, 2048, 4092, 4096, 4100];
    for (version, offset) in (100..).zip(offsets) {
        let memory = buffer.slice(offset, len)?;
        rig.fill(&memory, window.slba, version)?;
        rig.run(IoOp::Write { fua: false }, window.slba, blocks, vec![memory])?;
        rig.verify(window.slba, blocks, version)?;
        // Read to the same alignment; what lies around is not touched.
        buffer.as_dma().fill(0, buffer.len(), 0xEE)?;
        let memory = buffer.slice(offset, len)?;
        rig.run(IoOp::Read, window.slba, blocks, vec![memory.clone()])?;
        rig.compare(&memory, window.slba, version)?;
        let mut edge = [0; 4];
        for at in [offset - 4, offset + len] {
            buffer.as_dma().read(at, &mut edge)?;
            ensure!(edge == [0xEE; 4], "a read at offset {offset} wrote around its memory");
        }
    }
    Ok(())
}

pub(super) fn random_writes_and_reads_at_queue_depth_32_keep_every_block(
    target: &Target,
) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let window = rig.window(MIB)?;
    mixed(&rig, window.slba, window.blocks.min(2048), target.seed, 12)
}

/// Rounds of 32 requests at once on different blocks, half of them writes; each read is compared with
/// the last version written, and in the end every block is.
fn mixed(rig: &Rig, slba: u64, blocks: u64, seed: u64, rounds: u64) -> Result<(), Stop> {
    const DEPTH: u64 = 32;
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut versions: HashMap<u64, u64> = HashMap::new();
    let buffer = rig.alloc(DEPTH as usize * rig.lba)?;
    for round in 1..=rounds {
        let mut under_way = Vec::new();
        // Each takes a block of its own share, so that no two of a round meet.
        let share = blocks / DEPTH;
        for i in 0..DEPTH {
            let lba = slba + i * share + rng.u64(0..share);
            let memory = buffer.slice(i as usize * rig.lba, rig.lba)?;
            let op = match versions.get(&lba) {
                Some(_) if rng.bool() => IoOp::Read,
                _ => {
                    rig.fill(&memory, lba, round)?;
                    versions.insert(lba, round);
                    IoOp::Write { fua: false }
                }
            };
            under_way.push((lba, op, memory.clone(), rig.submit(op, lba, 1, vec![memory])?));
        }
        for (lba, op, memory, pending) in under_way {
            pending.wait()?;
            if op == IoOp::Read {
                rig.compare(&memory, lba, versions.get(&lba).copied().unwrap_or(0))?;
            }
        }
    }
    versions.into_iter().try_for_each(|(lba, version)| rig.verify(lba, 1, version))
}

pub(super) fn queue_pairs_of_several_threads_do_not_disturb_each_other(
    target: &Target,
) -> Result<(), Stop> {
    const THREADS: u64 = 4;
    let options = Options { io_queue_pairs: THREADS as u16, ..target.options.clone() };
    let rig = match Rig::open_with(target, options) {
        Ok(rig) => rig,
        Err(Stop::Failed(why)) if why.contains("grants") => return Err(Stop::NotOffered(why)),
        Err(stop) => return Err(stop),
    };
    let window = rig.window(MIB)?;
    let share = window.blocks.min(2048) / THREADS;
    std::thread::scope(|scope| {
        let rig = &rig;
        let threads: Vec<_> = (0..THREADS)
            .map(|i| {
                let (slba, seed) = (window.slba + i * share, target.seed + i);
                scope.spawn(move || mixed(rig, slba, share, seed, 6))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => Err(Stop::failed("a thread panicked")),
        })
    })
}

pub(super) fn a_queue_that_is_full_takes_the_rest_when_there_is_room(
    target: &Target,
) -> Result<(), Stop> {
    let options = Options { queue_depth: 2, max_transfer: PAGE_BYTES, ..target.options.clone() };
    let rig = Rig::open_with(target, options)?;
    let window = rig.window(MIB)?;
    let blocks = (64 * PAGE_BYTES / rig.lba) as u64;
    let before = rig.controller.counters().commands;
    rig.write(window.slba, blocks, 900)?;
    let commands = rig.controller.counters().commands - before;
    ensure!(commands >= 64, "64 transfers went as {commands} commands");
    rig.verify(window.slba, blocks, 900)
}
