//! Recovery of one drive's metadata: the checkpoint that counts, then the journal (section 8).

use std::collections::HashMap;

use gcos_layout::media::{CheckpointHeader, PutRecord, Record};

use crate::area::{Area, AreaState};
use crate::drive::Drive;
use crate::findings::{Findings, Fix};
use crate::journal::{Place, Ring, Scan};
use crate::{FindingCode, Severity, salvage};

/// What one drive says of one key.
#[derive(Debug, Default)]
pub(crate) struct KeyState {
    /// The object, unless it is removed.
    pub(crate) put: Option<PutRecord>,
    /// Highest generation removed.
    pub(crate) removed: Option<u64>,
}

/// What one drive's metadata says, and what a repair needs to know of it.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) keys: HashMap<Vec<u8>, KeyState>,
    /// Number of the checkpoint that counts, 0 for none.
    pub(crate) active: u64,
    /// Highest number in any header.
    pub(crate) highest: u64,
    /// End of the journal.
    pub(crate) end: Place,
    /// Above the sequence of every frame in the ring, and not below the end's.
    pub(crate) next_sequence: u64,
    /// Ring blocks that a repair overwrites with zeros, once nothing in the ring counts.
    pub(crate) wipe: Vec<u64>,
    /// Latest epoch of any frame.
    pub(crate) epoch: u64,
    /// Set when no checkpoint counts and the journal does not start at its beginning.
    pub(crate) lost: Option<Lost>,
    /// Something could not be read for a reason other than damage.
    pub(crate) unreachable: Option<String>,
}

/// How a drive's metadata was lost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lost {
    /// Whether what is left tells everything all the same.
    pub(crate) complete: bool,
    /// Area that a repair must leave for last.
    pub(crate) keep: u64,
}

/// The areas' headers, then what counts of them.
#[derive(Debug)]
struct Checkpoints {
    states: [AreaState; 2],
    active: Option<CheckpointHeader>,
    older: Option<CheckpointHeader>,
    records: Vec<PutRecord>,
}

/// Reads a drive's checkpoints and journal.
pub(crate) fn recover(drive: &Drive<'_>, findings: &mut Findings) -> Metadata {
    let checkpoints = read_checkpoints(drive, findings);
    let mut keys = HashMap::new();
    let mut enter = |record| apply(&mut keys, record, drive, findings);
    checkpoints.records.into_iter().map(Record::Put).for_each(&mut enter);
    let from = checkpoints.active.as_ref().map_or(Place::FIRST, Place::after);
    let mut ring = Ring::new(drive);
    let end = ring.walk(from, &mut enter);
    let scan = ring.scan();
    let [zero, one] = &checkpoints.states;
    let mut metadata = Metadata {
        keys,
        active: checkpoints.active.map_or(0, |header| header.number),
        highest: zero.number.max(one.number),
        end,
        next_sequence: end.sequence,
        wipe: scan.unreadable.clone(),
        epoch: scan.epoch.max(end.epoch),
        lost: None,
        unreachable: None,
    };
    if checkpoints.active.is_none() {
        judge_without(drive, &checkpoints.states, &scan, &mut ring, &mut metadata, findings);
    }
    // A frame of the sequence expected that does not name the one before it is no hole and no part of the
    // journal: the store writes the next frame over it.
    if scan.highest.is_some_and(|(highest, _)| highest > metadata.end.sequence) {
        // Frames behind a hole: each verifies by itself, and what they remove must not come back.
        let behind = ring.records_from(metadata.end.sequence + 1);
        behind.into_iter().for_each(|r| apply(&mut metadata.keys, r, drive, findings));
    }
    if let (Some(active), Some(older)) = (checkpoints.active, checkpoints.older) {
        check_older(drive, &mut ring, &active, &older, &end, findings);
    }
    judge_end(drive, &checkpoints.states, &scan, &mut ring, &mut metadata, findings);
    let [zero, one] = checkpoints.states;
    metadata.unreachable = ring.unreachable.or(zero.unreachable).or(one.unreachable);
    metadata
}

/// The checkpoint with the highest number that verifies; the other one is verified as well.
fn read_checkpoints(drive: &Drive<'_>, findings: &mut Findings) -> Checkpoints {
    let areas = [Area::new(drive, 0), Area::new(drive, 1)];
    let mut states = [areas[0].header(findings), areas[1].header(findings)];
    let number = |state: &AreaState| state.header.map_or(0, |header| header.number);
    let order = if number(&states[0]) > number(&states[1]) { [0, 1] } else { [1, 0] };
    let (mut active, mut older, mut records) = (None, None, Vec::new());
    for index in order {
        let (Some(area), Some(state)) = (areas.get(index), states.get_mut(index)) else { continue };
        let Some(header) = state.header else { continue };
        if active.is_some() {
            older = area.pages(&header, state, findings, |_| ()).then_some(header);
        } else if area.pages(&header, state, findings, |record| records.push(record)) {
            active = Some(header);
        } else {
            records.clear();
        }
    }
    Checkpoints { states, active, older, records }
}

/// Applies a record as section 6 says: in any order, any number of times.
fn apply(
    keys: &mut HashMap<Vec<u8>, KeyState>,
    record: Record,
    drive: &Drive<'_>,
    findings: &mut Findings,
) {
    match record {
        Record::Put(put) => {
            let state = keys.entry(put.key.clone()).or_default();
            if state.removed.is_some_and(|removed| removed >= put.generation) {
                return;
            }
            match &state.put {
                Some(present) if present.generation > put.generation => {}
                Some(present) if present.generation == put.generation => {
                    if *present != put {
                        let (what, detail) = (key_text(&put.key), "two objects of one generation");
                        let (code, name) = (FindingCode::GenerationDuplicate, Some(drive.name()));
                        findings.add(code, Fix::Checkpoint(drive.position), name, what, detail);
                    }
                }
                _ => state.put = Some(put),
            }
        }
        Record::Remove(remove) => {
            let state = keys.entry(remove.key).or_default();
            state.removed = state.removed.max(Some(remove.generation));
            if state.put.as_ref().is_some_and(|put| put.generation <= remove.generation) {
                state.put = None;
            }
        }
    }
}

/// No checkpoint counts. The journal alone tells everything only if it still has its first frame.
fn judge_without(
    drive: &Drive<'_>,
    states: &[AreaState; 2],
    scan: &Scan,
    ring: &mut Ring<'_, '_>,
    metadata: &mut Metadata,
    findings: &mut Findings,
) {
    let fix = Fix::Checkpoint(drive.position);
    let damaged = findings.awaits(fix)
        || states.iter().any(|s| s.unreachable.is_some())
        || had_checkpoint(drive);
    let complete = metadata.end.sequence > 1;
    if !damaged && (complete || scan.highest.is_none()) {
        return;
    }
    let (code, name) = (FindingCode::CheckpointNone, Some(drive.name()));
    if complete {
        let detail = "the journal is complete from its first frame on";
        findings.add_as(Severity::Warning, code, fix, name, "checkpoints", detail);
        return;
    }
    let found = salvage::salvage(drive, ring.chain());
    metadata.keys.clear();
    found.records.into_iter().for_each(|r| apply(&mut metadata.keys, r, drive, findings));
    metadata.end = found.end;
    metadata.highest = metadata.highest.max(found.number);
    metadata.lost = Some(Lost { complete: found.complete, keep: found.keep });
    let known = metadata.keys.values().filter(|state| state.put.is_some()).count();
    let detail = match found.complete {
        true => format!(
            "no checkpoint is valid; the pages of one and the journal still tell all {known} objects, \
             and a repair writes them anew"
        ),
        false => format!(
            "no checkpoint is valid and the journal does not start at its first frame: {known} objects \
             are still known, and a repair keeps those of them that verify"
        ),
    };
    findings.add(code, fix, name, "checkpoints", detail);
}

/// Whether the drive must have had a checkpoint: each open and each close in order adds one to the
/// superblock's sequence, which format leaves at 2; each open also adds one to the epoch (or more);
/// and a close writes a checkpoint.
fn had_checkpoint(drive: &Drive<'_>) -> bool {
    let superblock = drive.superblock();
    superblock.sequence > superblock.epoch.saturating_add(2)
}

/// The journal must lead from the older checkpoint over the start of the newer one to the same end.
fn check_older(
    drive: &Drive<'_>,
    ring: &mut Ring<'_, '_>,
    active: &CheckpointHeader,
    older: &CheckpointHeader,
    end: &Place,
    findings: &mut Findings,
) {
    let reached = ring.walk(Place::after(older), |_| ());
    if (reached.sequence, reached.block) != (end.sequence, end.block) {
        let detail = format!(
            "the journal leads from it to frame {} only; checkpoint {} starts at {} and ends at {}",
            reached.sequence, active.number, active.journal_sequence, end.sequence
        );
        Area::new(drive, older.number % 2).no_stand_in(detail, findings);
    }
}

/// What stands at and behind the end of the journal.
fn judge_end(
    drive: &Drive<'_>,
    states: &[AreaState; 2],
    scan: &Scan,
    ring: &mut Ring<'_, '_>,
    metadata: &mut Metadata,
    findings: &mut Findings,
) {
    let (name, end) = (Some(drive.name()), metadata.end);
    let fix = Fix::Checkpoint(drive.position);
    if !scan.unreadable.is_empty() {
        let detail = format!("{} blocks of the ring cannot be read", scan.unreadable.len());
        findings.add(FindingCode::JournalUnreadable, fix, name, "journal", detail);
    }
    let needed = states.iter().filter_map(|s| s.header).map(|h| h.journal_sequence).max();
    let highest = scan.highest.map_or(0, |(sequence, _)| sequence);
    let known = highest.max(needed.map_or(0, |sequence| sequence.saturating_sub(1)));
    metadata.next_sequence = end.sequence.max(known.saturating_add(1));
    if known > end.sequence || needed.is_some_and(|sequence| sequence > end.sequence) {
        let detail = format!(
            "ends before frame {} (ring block {}), frames up to {known} were written: opening the pool \
             forgets what they say, a repair keeps what is left of it",
            end.sequence, end.block
        );
        findings.add(FindingCode::JournalHole, fix, name, "journal", detail);
    }
    if let Some((block, epoch)) = ring.torn_at(&end) {
        let detail = format!("ring block {block}: not acknowledged if a crash tore it");
        // Whoever closed the pool in the frame's own epoch had seen it written.
        let superblock = drive.superblock();
        let closed = superblock.clean && epoch >= superblock.epoch;
        let severity = if closed { Severity::Error } else { Severity::Info };
        findings.add_as(severity, FindingCode::JournalTail, fix, name, "journal", detail);
        metadata.wipe.push(block);
    }
}

/// A key for messages: its text if it is short and printable, else its first bytes.
pub(crate) fn key_text(key: &[u8]) -> String {
    let shown = key.get(..64.min(key.len())).unwrap_or_default();
    let more = if key.len() > shown.len() { "…" } else { "" };
    format!("object \"{}\"{more}", shown.escape_ascii())
}
