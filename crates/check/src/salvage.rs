//! What is known of a drive on which no checkpoint counts and whose journal does not start at its
//! beginning.
//!
//! The journal is a ring: what is left of it usually reaches far back, and what its last frames say is
//! as true as ever. Older objects are known from checkpoint pages, each of which verifies by itself,
//! if it is known that the frames that are left begin before that checkpoint ended. An object that
//! neither names may have been removed long ago; its header alone proves nothing.

use gcos_layout::checksum::crc32c;
use gcos_layout::media::{
    BLOCK_BYTES, CHECKPOINT_PAGE_BYTES, CheckpointHeader, CheckpointPage, MAX_SEQUENCE, PutRecord,
    Record, Uuid,
};

use crate::area::{page_offset, pages_in};
use crate::drive::Drive;
use crate::journal::{Chain, Place};

/// What the pages of one area prove.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    /// Objects that existed when the checkpoint was taken; the journal's last frames say which of them
    /// have gone since.
    pub(crate) records: Vec<PutRecord>,
    /// Whether that is all of them.
    pub(crate) complete: bool,
    /// Highest number of a checkpoint that left traces here.
    pub(crate) number: u64,
    /// Whether the area's header block holds zeros.
    pub(crate) blank: bool,
}

/// Reads one area for proof. Damage in it is known already.
pub(crate) fn prove(drive: &Drive<'_>, area: u64, chain: &Chain) -> Proof {
    let offset = drive.zones().checkpoint_offset(area);
    let front = drive.disk.read(page_offset(offset, 0), CHECKPOINT_PAGE_BYTES).unwrap_or_default();
    let of_pages = number_of(&front);
    let mut proof = Proof { number: of_pages.unwrap_or(0), ..Proof::default() };
    let Ok(block) = drive.disk.read(offset, BLOCK_BYTES) else { return proof };
    proof.blank = block.iter().all(|&byte| byte == 0);
    let Some(header) = resealed(&block, &drive.uuid()).filter(|_| !proof.blank) else {
        return proof;
    };
    proof.number = proof.number.max(header.number);
    if !starts_in(&header, chain) {
        return proof;
    }
    // The number that is in the pages is under their checksums, so it counts if the header's is wrong;
    // then the header must fit the pages otherwise.
    let number = match of_pages {
        Some(number) if number % 2 == area && number > 0 => number,
        Some(_) => return proof,
        None => header.number,
    };
    let read = read_pages(drive, offset, number, &header);
    proof.complete = read.complete;
    if number == header.number && number % 2 == area || read.complete {
        proof.records = read.records;
    } else {
        proof.complete = false;
    }
    proof
}

/// The header's fields, with what is the same in every header of the drive put right. Nothing says yet
/// that they are true.
fn resealed(block: &[u8], uuid: &Uuid) -> Option<CheckpointHeader> {
    let mut block = block.to_vec();
    block.get_mut(..8)?.copy_from_slice(b"GCOSCKPT");
    block.get_mut(12..16)?.copy_from_slice(&(CHECKPOINT_PAGE_BYTES as u32).to_le_bytes());
    block.get_mut(16..32)?.copy_from_slice(uuid);
    let checksum = crc32c(block.get(12..)?);
    block.get_mut(8..12)?.copy_from_slice(&checksum.to_le_bytes());
    CheckpointHeader::decode(&block, uuid).ok()
}

/// The number of the checkpoint that the first page belongs to, if it verifies.
fn number_of(page: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(page.get(8..16)?.try_into().ok()?);
    let verified = CheckpointPage::decode(page, number, 0).is_ok();
    (verified && number <= MAX_SEQUENCE).then_some(number)
}

/// Whether the frames that are left begin at or before the first that the checkpoint needs. Of the
/// three things that the header says of that frame, two are enough: a frame's sequence and checksum
/// are no accident.
fn starts_in(header: &CheckpointHeader, chain: &Chain) -> bool {
    let stated = Place::after(header);
    chain.places.iter().any(|place| {
        let equal = [
            place.sequence == stated.sequence,
            place.block == stated.block,
            place.previous == stated.previous,
        ];
        equal.iter().filter(|&&equal| equal).count() >= 2
    })
}

#[derive(Debug, Default)]
struct Pages {
    records: Vec<PutRecord>,
    complete: bool,
}

/// The pages that verify, and whether they are exactly those that the header means.
fn read_pages(drive: &Drive<'_>, area: u64, number: u64, header: &CheckpointHeader) -> Pages {
    let mut pages = Pages::default();
    let most = u32::try_from(pages_in(drive.zones().checkpoint_bytes)).unwrap_or(u32::MAX);
    let mut checksums = Vec::new();
    for page in 0..header.pages.min(most) {
        let read = drive.disk.read(page_offset(area, page), CHECKPOINT_PAGE_BYTES);
        let decoded = read.ok().and_then(|bytes| CheckpointPage::decode(&bytes, number, page).ok());
        if let Some(decoded) = decoded {
            checksums.push(decoded.checksum);
            pages.records.extend(decoded.records);
        }
    }
    pages.complete = checksums.len() == header.pages as usize
        && CheckpointHeader::sum_pages(checksums) == header.pages_checksum
        && pages.records.len() as u64 == header.records;
    pages
}

/// The chain's records and what the better of the two areas proves.
#[derive(Debug)]
pub(crate) struct Salvage {
    pub(crate) records: Vec<Record>,
    pub(crate) end: Place,
    /// Area that a repair must leave for last.
    pub(crate) keep: u64,
    /// Highest number of a checkpoint that left traces.
    pub(crate) number: u64,
    /// Whether nothing is missing.
    pub(crate) complete: bool,
}

/// Puts together what is known. One area only is used, which a repair overwrites last: so a repair that
/// is cut short finds as much again.
pub(crate) fn salvage(drive: &Drive<'_>, chain: Chain) -> Salvage {
    let proofs = [prove(drive, 0, &chain), prove(drive, 1, &chain)];
    let [zero, one] = &proofs;
    let value = |proof: &Proof| (proof.complete, proof.records.len(), !proof.blank);
    // A header of zeros beside one that is damaged must be written first, or both were zeros for a
    // moment: the sign of a drive that never held anything.
    let keep = match (zero.blank, one.blank) {
        (true, false) => 1,
        (false, true) => 0,
        _ => u64::from(value(one) > value(zero)),
    };
    let number = zero.number.max(one.number);
    let end = chain.end().unwrap_or(Place::FIRST);
    let [zero, one] = proofs;
    let proof = if keep == 0 { zero } else { one };
    let mut records: Vec<_> = proof.records.into_iter().map(Record::Put).collect();
    records.extend(chain.records);
    Salvage { records, end, keep, number, complete: proof.complete }
}
