//! The four superblock copies of one drive (format.md, section 2).

use gcos_layout::checksum::crc64;
use gcos_layout::media::{BLOCK_BYTES, FormatError, Superblock, ZoneMap};

use crate::disk::Disk;
use crate::findings::{Findings, Fix};
use crate::{CheckError, DiskError, FindingCode};

/// What stands at the place of one copy.
#[derive(Debug)]
enum Copy {
    Unreadable(DiskError),
    Bad(FormatError),
    Good { superblock: Box<Superblock>, raw: Vec<u8> },
}

impl Copy {
    fn good(&self) -> Option<(&Superblock, &[u8])> {
        match self {
            Self::Good { superblock, raw } => Some((superblock, raw)),
            _ => None,
        }
    }
}

/// The copies that count, and which others to rewrite from them.
#[derive(Debug)]
pub(crate) struct Quorum {
    /// What at least two copies say.
    pub(crate) superblock: Superblock,
    /// Their block, byte for byte.
    pub(crate) raw: Vec<u8>,
    /// Offsets of all copies.
    pub(crate) offsets: [u64; 4],
    /// Copies (0 to 3) that do not say the same and can be written.
    pub(crate) rewrite: Vec<usize>,
    /// Whether one copy alone says it.
    pub(crate) lone: bool,
}

/// Reads and compares the copies; `None` when no two agree and none of them is newest beyond doubt.
pub(crate) fn examine(
    disk: &Disk<'_>,
    position: usize,
    findings: &mut Findings,
) -> Result<Option<Quorum>, CheckError> {
    let capacity = disk.engine().geometry().capacity;
    let mut offsets = ZoneMap::copies(capacity);
    let mut copies = read_copies(disk, offsets)?;
    if let Some(stated) = other_capacity(&copies, capacity) {
        offsets = ZoneMap::copies(stated);
        copies = read_copies(disk, offsets)?;
    }
    let drive = Some(disk.name());
    if copies.iter().all(|copy| matches!(copy, Copy::Bad(FormatError::Magic { .. }))) {
        let detail = "nothing at any of the four places: not a pool member, or erased";
        findings.add(FindingCode::SuperblockMissing, Fix::None, drive, "superblock", detail);
        return Ok(None);
    }
    let Some(chosen) = choose(&copies) else {
        return Ok(alone(disk, position, &copies, offsets, findings));
    };
    let rewrite = compare(disk, position, &copies, &chosen, findings);
    let (superblock, raw) = chosen;
    check_parent(disk, &copies, &superblock, &raw, findings, position);
    check_capacity(disk, &superblock, findings);
    Ok(Some(Quorum { superblock, raw, offsets, rewrite, lone: false }))
}

/// No two copies agree: goes by the newest, if all that are valid are of one drive and one pool and no
/// other is as new.
fn alone(
    disk: &Disk<'_>,
    position: usize,
    copies: &[Copy; 4],
    offsets: [u64; 4],
    findings: &mut Findings,
) -> Option<Quorum> {
    let goods = || copies.iter().enumerate().filter_map(|(i, copy)| Some((i, copy.good()?)));
    let newest = goods().max_by_key(|(_, (sb, _))| sb.sequence).filter(|&(index, (best, _))| {
        goods().filter(|&(other, _)| other != index).all(|(_, (sb, _))| {
            sb.sequence < best.sequence
                && sb.pool_uuid == best.pool_uuid
                && sb.drive_index == best.drive_index
                && sb.members == best.members
                && sb.zones == best.zones
        })
    });
    let fix = if newest.is_some() { Fix::Successor(position) } else { Fix::None };
    note_all(disk, copies, fix, findings);
    let (code, name) = (FindingCode::SuperblockNoQuorum, Some(disk.name()));
    let Some((index, (superblock, raw))) = newest else {
        let detail =
            "no two copies agree, and none is newest beyond doubt; the drive is left alone";
        findings.add(code, fix, name, "superblock", detail);
        return None;
    };
    let detail = format!(
        "no two copies agree: the pool does not open. This check goes by copy {index}, sequence {}, \
         and a repair writes all four anew",
        superblock.sequence
    );
    findings.add(code, fix, name, "superblock", detail);
    check_capacity(disk, superblock, findings);
    let writable = |copy: &Copy| match copy {
        Copy::Unreadable(error) => error.is_damage(),
        _ => true,
    };
    let others = copies.iter().enumerate().filter(|&(i, copy)| i != index && writable(copy));
    Some(Quorum {
        superblock: superblock.clone(),
        raw: raw.to_vec(),
        offsets,
        rewrite: others.map(|(i, _)| i).collect(),
        lone: true,
    })
}

fn read_copies(disk: &Disk<'_>, offsets: [u64; 4]) -> Result<[Copy; 4], CheckError> {
    let [a, b, c, d] = offsets.map(|offset| read_copy(disk, offset));
    Ok([a?, b?, c?, d?])
}

fn read_copy(disk: &Disk<'_>, offset: u64) -> Result<Copy, CheckError> {
    let raw = match disk.read(offset, BLOCK_BYTES) {
        Ok(raw) => raw,
        Err(error) => return Ok(Copy::Unreadable(error)),
    };
    match Superblock::decode(&raw) {
        Ok(superblock) => Ok(Copy::Good { superblock: Box::new(superblock), raw }),
        Err(source @ FormatError::Version { .. }) => {
            Err(CheckError::Version { drive: disk.name().to_owned(), source })
        }
        Err(error) => Ok(Copy::Bad(error)),
    }
}

/// The capacity that the copies state, if it puts them at other places than the drive's does.
fn other_capacity(copies: &[Copy; 4], capacity: u64) -> Option<u64> {
    let stated = match choose(copies) {
        Some((superblock, _)) => superblock.zones.capacity,
        None => copies.iter().find_map(|copy| Some(copy.good()?.0.zones.capacity))?,
    };
    (ZoneMap::copies(stated) != ZoneMap::copies(capacity)).then_some(stated)
}

/// The highest sequence of which two copies are equal.
fn choose(copies: &[Copy; 4]) -> Option<(Superblock, Vec<u8>)> {
    let goods: Vec<_> = copies.iter().filter_map(Copy::good).collect();
    let twice = |raw: &[u8]| goods.iter().filter(|(_, other)| *other == raw).count() >= 2;
    let best = goods.iter().filter(|(_, raw)| twice(raw)).max_by_key(|(sb, _)| sb.sequence)?;
    Some((best.0.clone(), best.1.to_vec()))
}

/// Notes every copy that is not what the quorum says; tells those to rewrite.
fn compare(
    disk: &Disk<'_>,
    position: usize,
    copies: &[Copy; 4],
    (superblock, raw): &(Superblock, Vec<u8>),
    findings: &mut Findings,
) -> Vec<usize> {
    let mut rewrite = Vec::new();
    for (index, copy) in copies.iter().enumerate() {
        let Some((code, detail, writable)) = differs(copy, superblock, raw) else { continue };
        let fix = if writable { Fix::Copies(position) } else { Fix::None };
        findings.add(code, fix, Some(disk.name()), format!("superblock copy {index}"), detail);
        if writable {
            rewrite.push(index);
        }
    }
    rewrite
}

fn differs(
    copy: &Copy,
    superblock: &Superblock,
    raw: &[u8],
) -> Option<(FindingCode, String, bool)> {
    match copy {
        Copy::Unreadable(error) => {
            Some((FindingCode::SuperblockUnreadable, error.text(), error.is_damage()))
        }
        Copy::Bad(error) => Some((FindingCode::SuperblockDamaged, error.to_string(), true)),
        Copy::Good { raw: other, .. } if other.as_slice() == raw => None,
        Copy::Good { superblock: other, .. } => {
            let code = match other.sequence.cmp(&superblock.sequence) {
                std::cmp::Ordering::Less => FindingCode::SuperblockStale,
                std::cmp::Ordering::Equal => FindingCode::SuperblockConflict,
                std::cmp::Ordering::Greater => FindingCode::SuperblockAhead,
            };
            let (got, expected) = (other.sequence, superblock.sequence);
            Some((code, format!("sequence {got}, the copies that count have {expected}"), true))
        }
    }
}

/// Without a quorum: what is wrong with each copy by itself.
fn note_all(disk: &Disk<'_>, copies: &[Copy; 4], fix: Fix, findings: &mut Findings) {
    for (index, copy) in copies.iter().enumerate() {
        let (code, detail) = match copy {
            Copy::Unreadable(error) => (FindingCode::SuperblockUnreadable, error.text()),
            Copy::Bad(error) => (FindingCode::SuperblockDamaged, error.to_string()),
            Copy::Good { .. } => continue,
        };
        let what = format!("superblock copy {index}");
        findings.add(code, fix, Some(disk.name()), what, detail);
    }
}

/// The chain of updates, as far as copies one sequence apart are still on the drive.
fn check_parent(
    disk: &Disk<'_>,
    copies: &[Copy; 4],
    superblock: &Superblock,
    raw: &[u8],
    findings: &mut Findings,
    position: usize,
) {
    let identity = crc64(raw);
    let mut note = |detail: String, fix| {
        let code = FindingCode::SuperblockParent;
        findings.add(code, fix, Some(disk.name()), "superblock", detail);
    };
    if superblock.sequence <= 1 && superblock.parent != 0 {
        note(format!("parent {:#018x} at sequence 1, expected 0", superblock.parent), Fix::None);
    }
    for (other, its_raw) in copies.iter().filter_map(Copy::good) {
        let (got, expected) = if other.sequence.checked_add(1) == Some(superblock.sequence) {
            (superblock.parent, crc64(its_raw))
        } else if superblock.sequence.checked_add(1) == Some(other.sequence) {
            (other.parent, identity)
        } else {
            continue;
        };
        if got != expected {
            let detail = format!("parent {got:#018x}, the update before is {expected:#018x}");
            note(detail, Fix::Copies(position));
        }
    }
}

fn check_capacity(disk: &Disk<'_>, superblock: &Superblock, findings: &mut Findings) {
    let geometry = disk.engine().geometry();
    let (used, has) = (superblock.zones.capacity, geometry.capacity / 4096 * 4096);
    let code = match has.cmp(&used) {
        std::cmp::Ordering::Less => Some(FindingCode::CapacityShrunk),
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => Some(FindingCode::CapacityGrown),
    };
    let drive = Some(disk.name());
    if let Some(code) = code {
        let detail = format!("the drive has {has} bytes, the pool uses {used} of it");
        findings.add(code, Fix::None, drive, "superblock", detail);
    }
    if geometry.lba_bytes != superblock.lba_bytes {
        let (has, had) = (geometry.lba_bytes, superblock.lba_bytes);
        let detail = format!("logical blocks of {has} bytes, {had} when it was formatted");
        findings.add(FindingCode::BlockSizeDiffers, Fix::None, drive, "superblock", detail);
    }
}
