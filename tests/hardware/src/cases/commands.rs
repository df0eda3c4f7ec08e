//! Commands beside Read and Write.

use gcos_layout::nvme::Status;
use gcos_nvme::IoOp;

use crate::outcome::ensure;
use crate::rig::Rig;
use crate::{Stop, Target};

const KIB: u64 = 1 << 10;

pub(super) fn a_flush_completes_after_writes(target: &Target) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let window = rig.window(64 * KIB)?;
    rig.write(window.slba, 4, 600)?;
    rig.run(IoOp::Flush, 0, 0, Vec::new())?;
    rig.verify(window.slba, 4, 600)
}

pub(super) fn a_write_with_fua_is_read_back(target: &Target) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let window = rig.window(64 * KIB)?;
    rig.write_as(IoOp::Write { fua: true }, window.slba, 9, 610)?;
    rig.verify(window.slba, 9, 610)
}

pub(super) fn compare_tells_equal_from_different(target: &Target) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let window = rig.window(64 * KIB)?;
    if !rig.controller.identity().oncs.compare() {
        return Err(Stop::not_offered("ONCS has no Compare"));
    }
    rig.write(window.slba, 16, 620)?;
    rig.write_as(IoOp::Compare, window.slba, 16, 620)?;
    let buffer = rig.alloc(16 * rig.lba)?;
    let memory = buffer.as_dma();
    for at in [0, rig.lba, buffer.len() - 1] {
        rig.fill(&memory, window.slba, 620)?;
        let mut byte = [0];
        memory.read(at, &mut byte)?;
        memory.write(at, &[byte[0] ^ 1])?;
        match rig.run(IoOp::Compare, window.slba, 16, vec![memory.clone()]) {
            Err(error) if error.status().map(Status::code) == Some(Status::COMPARE_FAILURE) => {}
            other => {
                let why = format!("byte {at} differs, yet Compare gave {other:?}");
                return Err(Stop::failed(why));
            }
        }
    }
    rig.verify(window.slba, 16, 620)
}

pub(super) fn write_zeroes_clears_its_blocks_and_no_others(target: &Target) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let window = rig.window(1024 * KIB)?;
    if !rig.controller.identity().oncs.write_zeroes() {
        return Err(Stop::not_offered("ONCS has no Write Zeroes"));
    }
    for (version, deallocate) in [(630, false), (631, true)] {
        rig.write(window.slba, 200, version)?;
        rig.run(IoOp::WriteZeroes { deallocate }, window.slba + 3, 150, Vec::new())?;
        let cleared = rig.read(window.slba + 3, 150)?;
        ensure!(cleared.iter().all(|&byte| byte == 0), "blocks are not zeros");
        rig.verify(window.slba, 3, version)?;
        rig.verify(window.slba + 153, 47, version)?;
    }
    Ok(())
}

pub(super) fn deallocate_spares_the_blocks_around(target: &Target) -> Result<(), Stop> {
    let rig = Rig::open(target)?;
    let window = rig.window(1024 * KIB)?;
    if !rig.controller.identity().oncs.dataset_management() {
        return Err(Stop::not_offered("ONCS has no Dataset Management"));
    }
    rig.write(window.slba, 256, 640)?;
    let mut request = rig.request(IoOp::Deallocate, window.slba + 8, 64, Vec::new());
    let second = rig.request(IoOp::Deallocate, window.slba + 128, 16, Vec::new());
    request.ranges.extend(second.ranges);
    rig.controller.run(request)?;
    for (at, blocks) in [(0, 8), (72, 56), (144, 112)] {
        rig.verify(window.slba + at, blocks, 640)?;
    }
    // What a deallocated block reads as is the controller's business; it can be read and written.
    rig.read(window.slba + 8, 64)?;
    rig.write(window.slba + 8, 64, 641)?;
    rig.verify(window.slba + 8, 64, 641)
}
