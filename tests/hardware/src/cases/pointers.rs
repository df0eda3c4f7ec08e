//! The ways to describe memory to a controller.

use gcos_hw::{DmaBuffer, DmaSlice, PAGE_BYTES};
use gcos_nvme::{IoOp, Options, PointerChoice};

use crate::outcome::ensure;
use crate::rig::{Rig, bytes};
use crate::{Stop, Target};

const MIB: u64 = 1 << 20;

/// Writes from pieces of memory, reads into others, and compares as one string of bytes.
fn through(
    rig: &Rig,
    slba: u64,
    version: u64,
    pieces: &[DmaSlice],
    others: &[DmaSlice],
) -> Result<(), Stop> {
    let len: usize = pieces.iter().map(DmaSlice::len).sum();
    let blocks = (len / rig.lba) as u64;
    let expected = rig.pattern(len, slba, version);
    let mut at = 0;
    for piece in pieces {
        piece.write(0, &expected[at..at + piece.len()])?;
        at += piece.len();
    }
    rig.run(IoOp::Write { fua: false }, slba, blocks, pieces.to_vec())?;
    rig.verify(slba, blocks, version)?;
    others.iter().try_for_each(|other| other.fill(0, other.len(), 0xEE))?;
    rig.run(IoOp::Read, slba, blocks, others.to_vec())?;
    let mut got = Vec::with_capacity(len);
    for other in others {
        got.extend(bytes(other)?);
    }
    let differs = got.iter().zip(&expected).position(|(a, b)| a != b);
    ensure!(differs.is_none() && got.len() == len, "byte {differs:?} of {len} is wrong");
    Ok(())
}

/// Every second page of a buffer, last first.
fn scattered(buffer: &DmaBuffer, pages: usize) -> Result<Vec<DmaSlice>, Stop> {
    let slice = |page: usize| Ok(buffer.slice(page * 2 * PAGE_BYTES, PAGE_BYTES)?);
    (0..pages).rev().map(slice).collect()
}

/// A buffer cut into pieces whose lengths are random multiples of 4, with gaps between.
fn odd(buffer: &DmaBuffer, len: usize, rng: &mut fastrand::Rng) -> Result<Vec<DmaSlice>, Stop> {
    let (mut pieces, mut at, mut left) = (Vec::new(), 4, len);
    while left > 0 {
        let take = (4 * rng.usize(1..3000)).min(left);
        pieces.push(buffer.slice(at, take)?);
        at += take + 4 * rng.usize(0..8);
        left -= take;
    }
    Ok(pieces)
}

pub(super) fn scattered_pages_are_one_transfer(target: &Target) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let window = rig.window(2 * MIB)?;
    let most = (window.blocks as usize * rig.lba / PAGE_BYTES).min(600);
    // One page, two (no list), a list, and a list with more than a page of entries behind it.
    for (version, pages) in (200..).zip([1, 2, 3, 33, most]) {
        let (one, other) = (rig.alloc(2 * pages * PAGE_BYTES)?, rig.alloc(2 * pages * PAGE_BYTES)?);
        let (pieces, others) = (scattered(&one, pages)?, scattered(&other, pages)?);
        through(&rig, window.slba, version, &pieces, &others)?;
    }
    ensure!(rig.controller.counters().bounces == 0, "whole pages went through a bounce buffer");
    Ok(())
}

pub(super) fn scattered_memory_of_odd_sizes_is_one_transfer(target: &Target) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    odd_sizes(&rig, target, 300)
}

fn odd_sizes(rig: &Rig, target: &Target, first: u64) -> Result<(), Stop> {
    let window = rig.window(MIB)?;
    let mut rng = fastrand::Rng::with_seed(target.seed ^ first);
    for (version, pages) in (first..).zip([1, 2, 5, 16, 100]) {
        let len = pages * PAGE_BYTES;
        // A piece of 4 bytes may be followed by a gap of 28.
        let (one, other) = (rig.alloc(9 * len + PAGE_BYTES)?, rig.alloc(9 * len + PAGE_BYTES)?);
        let (pieces, others) = (odd(&one, len, &mut rng)?, odd(&other, len, &mut rng)?);
        through(rig, window.slba, version, &pieces, &others)?;
    }
    Ok(())
}

pub(super) fn sgls_describe_what_prps_cannot(target: &Target) -> Result<(), Stop> {
    let options = Options { data_pointer: PointerChoice::Sgl, ..target.options.clone() };
    let rig = match Rig::open_with(target, options) {
        Ok(rig) => rig,
        Err(Stop::Failed(why)) if why.contains("SGLS") => return Err(Stop::NotOffered(why)),
        Err(stop) => return Err(stop),
    };
    odd_sizes(&rig, target, 400)?;
    let counters = rig.controller.counters();
    ensure!(counters.bounces == 0, "{} commands were bounced", counters.bounces);
    Ok(())
}

pub(super) fn prps_alone_move_the_same_bytes(target: &Target) -> Result<(), Stop> {
    let options = Options { data_pointer: PointerChoice::Prp, ..target.options.clone() };
    let rig = Rig::open_with(target, options)?;
    odd_sizes(&rig, target, 500)?;
    ensure!(rig.controller.counters().bounces > 0, "PRPs cannot express such memory");
    Ok(())
}
