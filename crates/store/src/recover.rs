//! Opening a pool: from superblocks, checkpoints and journals to an index.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use gcos_engine::{Engine, IoErrorKind, Request};
use gcos_layout::media::{
    BLOCK_BYTES, CHECKPOINT_PAGE_BYTES, CheckpointHeader, DriveState, MAX_EPOCH, MAX_SEQUENCE,
    PackedPage, Record, RemoveRecord, Superblock, Uuid, VERSION_MINOR,
};
use smallvec::SmallVec;

use crate::alloc::Allocator;
use crate::canary::{self, Canary};
use crate::drive::{BlockIo, Drive, read_superblock, truncated};
use crate::index::{Id, Index, Parts};
use crate::journal::{Item, Journal, Start, Writer, start_of};
use crate::pool::{Member, Pool};
use crate::ring::Ring;
use crate::staging::Staging;
use crate::state::{Space, State};
use crate::{OpenOptions, RecoveryReport, StoreError, checkpoint, turns};

/// Checkpoint pages read at a time, in flight together.
const READ_DEPTH: usize = 16;
/// Bits of a generation that count within an epoch.
const GENERATION_BITS: u32 = 40;
/// More than one run counts anything up.
const RUN_ROOM: u64 = 1 << GENERATION_BITS;

/// A drive whose superblock has been read.
struct Found {
    io: BlockIo,
    superblock: Superblock,
    /// Copies (bit mask) that do not hold it.
    stale: u8,
}

/// What was read from one drive's meta zone.
#[derive(Default)]
struct Loaded {
    removes: Vec<RemoveRecord>,
    records: u64,
    hole: bool,
    older_used: bool,
    /// Time spent on the checkpoint, and on the journal.
    checkpoint: Duration,
    journal: Duration,
}

/// Opens the pool that these drives, in any order, belong to.
pub(crate) fn open(
    drives: Vec<Arc<dyn Engine>>,
    options: OpenOptions,
) -> Result<(Pool, RecoveryReport), StoreError> {
    let begun = turns::now();
    options.check()?;
    let spill = spill_engine(&drives, &options)?;
    let first = drives.first().ok_or_else(|| StoreError::invalid("drives", "at least one", 0))?;
    let staging = Staging::new(Arc::clone(first.dma()));
    let mut report = RecoveryReport::default();
    let found = find_members(drives, &staging, &options, &mut report)?;
    let epoch = found.iter().flatten().map(|f| f.superblock.epoch).max().unwrap_or(0) + 1;
    let uuid = found.iter().flatten().next().map_or([0; 16], |f| f.superblock.pool_uuid);

    let mut index = Index::default();
    let mut losers = Vec::new();
    let mut removes = Vec::new();
    let mut members = Vec::with_capacity(found.len());
    for (number, found) in found.into_iter().enumerate() {
        let number = u8::try_from(number).unwrap_or(u8::MAX);
        let Some(found) = found else {
            members.push(None);
            continue;
        };
        let (member, loaded) = load(found, epoch, &mut index, &mut losers)?;
        report.journal_records += loaded.records;
        report.checkpoint_micros += micros(loaded.checkpoint);
        report.journal_micros += micros(loaded.journal);
        removes.extend(loaded.removes.into_iter().map(|remove| (number, remove)));
        if loaded.hole {
            report.journal_holes.push(number);
        }
        if loaded.older_used {
            report.older_checkpoint_used.push(number);
        }
        members.push(Some(member));
    }
    // Removes come last, so that the order of the drives does not matter.
    for (number, remove) in removes {
        let found = index.find(&remove.key).filter(|_| !canary::on(Canary::RemoveIgnored));
        let Some(id) = found else { continue };
        let Some(entry) = index.entry(id) else { continue };
        let (generation, drive) = (entry.generation, entry.head().drive);
        if generation <= remove.generation {
            if drive != number {
                losers.push((drive, RemoveRecord { key: remove.key, generation }));
            }
            index.doom(id);
            index.free(id);
        }
    }
    let settling = turns::now();
    // The oldest first.
    let mut order: Vec<(u64, Id)> = index.live().map(|(id, e)| (e.generation, id)).collect();
    order.sort_unstable();
    let highest = order.last().map_or(0, |&(generation, _)| generation);
    if let Some(member) = members.iter().flatten().next() {
        check_room(&member.drive.io, "highest generation", highest, (1 << 63) - RUN_ROOM)?;
    }
    // Unique also if this epoch was used before, by drives that are missing now.
    let next_generation = (epoch << GENERATION_BITS).max(highest) + 1;
    let state = settle(index, order, &members, &mut losers, &mut report);
    report.space_micros = micros(turns::now() - settling);
    report.objects = state.index.len() as u64;
    let is_spill = |member: &&Member| {
        spill.as_ref().is_some_and(|spill| Arc::ptr_eq(spill, &member.drive.io.engine))
    };
    let spill = members.iter().flatten().find(is_spill).map_or(0, |m| 1 << m.drive.index);
    let pool = Pool::new(uuid, members, state, staging, options, next_generation, spill);
    for member in pool.present() {
        member.drive.update_superblock(|superblock| {
            superblock.epoch = epoch;
            superblock.clean = false;
            superblock.state = DriveState::Ready;
        })?;
    }
    bury(&pool, losers)?;
    report.micros = micros(turns::now() - begun);
    Ok((pool, report))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The drive that is for spill, if one is.
fn spill_engine(
    drives: &[Arc<dyn Engine>],
    options: &OpenOptions,
) -> Result<Option<Arc<dyn Engine>>, StoreError> {
    let Some(at) = options.spill else { return Ok(None) };
    match drives.get(at) {
        Some(drive) if drives.len() > 1 => Ok(Some(Arc::clone(drive))),
        _ => {
            let expected = "the position of one of several drives given";
            Err(StoreError::invalid("spill", expected, format!("{at} of {}", drives.len())))
        }
    }
}

/// Reads all superblocks and puts the drives in the order of the pool.
fn find_members(
    drives: Vec<Arc<dyn Engine>>,
    staging: &Arc<Staging>,
    options: &OpenOptions,
    report: &mut RecoveryReport,
) -> Result<Vec<Option<Found>>, StoreError> {
    let mut found: Vec<Found> = Vec::with_capacity(drives.len());
    let several = drives.len() > 1;
    for engine in drives {
        let staging = Arc::clone(staging);
        let io = BlockIo { engine, staging, deadline: options.io_deadline };
        let copies = match read_superblock(&io, options.capacity) {
            Ok(copies) => copies,
            // A drive that does not answer is as good as missing.
            Err(error @ StoreError::Io(_)) if options.allow_missing && several => {
                tracing::warn!(drive = io.name(), %error, "drive left out");
                continue;
            }
            Err(error) => return Err(error),
        };
        report.superblock_copies_repaired += u64::from(copies.stale.count_ones());
        check_openable(&io, &copies.superblock)?;
        found.push(Found { io, superblock: copies.superblock, stale: copies.stale });
    }
    let unopenable = |io: &BlockIo, reason: String| StoreError::Unopenable {
        drive: io.name().to_owned(),
        reason,
    };
    let Some(Found { io: a, superblock: reference, .. }) = found.first() else {
        return Err(StoreError::invalid("drives", "at least one that answers", 0));
    };
    for Found { io: b, superblock, .. } in &found {
        if superblock.pool_uuid != reference.pool_uuid {
            return Err(StoreError::MixedPools {
                a: a.name().to_owned(),
                pool_a: uuid::Uuid::from_bytes(reference.pool_uuid).to_string(),
                b: b.name().to_owned(),
                pool_b: uuid::Uuid::from_bytes(superblock.pool_uuid).to_string(),
            });
        }
        if superblock.members != reference.members {
            let reason = "its list of the pool's drives differs from the others'".to_owned();
            return Err(unopenable(b, reason));
        }
    }
    if found.iter().all(|f| f.superblock.state == DriveState::Formatting) {
        let reason = "formatting was cut short; format it again".to_owned();
        return Err(unopenable(a, reason));
    }
    report.clean = found.iter().all(|f| f.superblock.clean);
    let mut ordered: Vec<Option<Found>> = reference.members.iter().map(|_| None).collect();
    for one in found {
        let index = usize::from(one.superblock.drive_index);
        match ordered.get_mut(index) {
            Some(place @ None) => *place = Some(one),
            _ => return Err(unopenable(&one.io, format!("it is drive {index}, given twice"))),
        }
    }
    for (index, _) in ordered.iter().enumerate().filter(|(_, f)| f.is_none()) {
        report.missing_drives.push(u8::try_from(index).unwrap_or(u8::MAX));
    }
    if !report.missing_drives.is_empty() {
        let present = ordered.iter().flatten().next().map(|f| f.io.name().to_owned());
        let reason = format!("drives {:?} of the pool are missing", report.missing_drives);
        if !options.allow_missing {
            return Err(StoreError::Unopenable { drive: present.unwrap_or_default(), reason });
        }
        tracing::warn!(reason, "pool opened without some drives: their objects are misses");
    }
    Ok(ordered)
}

fn check_openable(io: &BlockIo, superblock: &Superblock) -> Result<(), StoreError> {
    if superblock.version.1 > VERSION_MINOR {
        let (major, minor) = superblock.version;
        let reason = format!(
            "its format version {major}.{minor} may be read but not written by this build; use a \
             newer one"
        );
        return Err(StoreError::Unopenable { drive: io.name().to_owned(), reason });
    }
    check_room(io, "superblock sequence", superblock.sequence, MAX_SEQUENCE - RUN_ROOM)?;
    check_room(io, "epoch", superblock.epoch, MAX_EPOCH - 1)?;
    if superblock.zones.capacity > io.engine.geometry().capacity {
        return Err(truncated(io, superblock.zones.capacity));
    }
    Ok(())
}

/// Refuses a number found on a drive from which this run could count past what the format allows:
/// what it writes then could not be read again.
fn check_room(io: &BlockIo, what: &str, found: u64, most: u64) -> Result<(), StoreError> {
    if found <= most {
        return Ok(());
    }
    Err(StoreError::Unopenable {
        drive: io.name().to_owned(),
        reason: format!("its {what} is {found}, and no use leads there; format it again"),
    })
}

/// Reads one drive's metadata into the index. Objects that lose to a newer one of their key on another
/// drive go to `losers`.
fn load(
    found: Found,
    epoch: u64,
    index: &mut Index,
    losers: &mut Vec<(u8, RemoveRecord)>,
) -> Result<(Member, Loaded), StoreError> {
    let drive_uuid = found.superblock.drive_uuid();
    let drive = Drive::new(found.io, found.superblock, found.stale);
    let ring = drive.zones.journal_blocks();
    let origin = Start { sequence: 1, position: ring, previous: 0 };
    let mut loaded = Loaded::default();
    let begun = turns::now();

    let (headers, damaged) = read_headers(&drive, &drive_uuid)?;
    let mut number = 0;
    let mut newest = origin;
    let mut older = origin;
    for (position, header) in headers.iter().enumerate() {
        if !load_checkpoint(&drive, header, index, losers)? {
            loaded.older_used = true;
            continue;
        }
        number = header.number;
        newest = start_of(header, ring);
        older = match headers.get(position + 1) {
            Some(before) => behind(newest, start_of(before, ring), ring),
            None => newest,
        };
        break;
    }
    // A drive that was never checkpointed has two blocks of zeros there, and its journal from frame 1.
    // Format leaves the sequence at 2; each open adds one to it and to the epoch; so more than that is a
    // close in order, which wrote a checkpoint.
    let closed = {
        let superblock = drive.superblock.lock();
        superblock.sequence > superblock.epoch.saturating_add(2)
    };
    if number == 0 && (damaged || closed || !headers.is_empty()) {
        return Err(StoreError::Unopenable {
            drive: drive.io.name().to_owned(),
            reason: "both checkpoints are damaged, so it is not known what it holds; `gcos fsck --repair` \
                     rebuilds it from what is left (`--dry-run` tells first what that is), or open the \
                     pool without this drive"
                .to_owned(),
        });
    }
    let read = turns::now();
    let next = replay(&drive, &drive_uuid, newest, index, losers, &mut loaded)?;
    (loaded.checkpoint, loaded.journal) = (read - begun, turns::now() - read);
    let most = MAX_SEQUENCE - RUN_ROOM;
    check_room(&drive.io, "journal sequence", next.sequence, most)?;
    check_room(&drive.io, "checkpoint number", number, most)?;
    let writer = Writer::new(&drive.zones, next, newest, older, number);
    let journal = Journal::new(writer, drive_uuid, epoch, &drive.zones);
    Ok((Member::new(drive, journal), loaded))
}

/// The older start, counted on the same scale as the newer one.
fn behind(newest: Start, older: Start, ring: u64) -> Start {
    let distance = match older.sequence == newest.sequence {
        true => 0,
        false => match (newest.position + ring - older.position) % ring {
            0 => ring,
            distance => distance,
        },
    };
    Start { position: newest.position - distance, ..older }
}

/// The checkpoint headers that are valid, the highest number first, and whether an area holds something
/// else than a header or zeros.
fn read_headers(drive: &Drive, uuid: &Uuid) -> Result<(Vec<CheckpointHeader>, bool), StoreError> {
    let mut headers = Vec::new();
    let mut damaged = false;
    let name = drive.io.name();
    for area in 0..2 {
        let block = match drive.io.read(drive.zones.checkpoint_offset(area), BLOCK_BYTES) {
            Ok(block) => block,
            Err(error) if error.io_kind() == Some(IoErrorKind::Media) => {
                tracing::error!(drive = name, area, %error, "checkpoint header unreadable");
                damaged = true;
                continue;
            }
            Err(error) => return Err(error),
        };
        match CheckpointHeader::decode(&block, uuid) {
            Ok(header) if header.number % 2 == area && header.number > 0 => headers.push(header),
            _ if block.iter().all(|&byte| byte == 0) => {}
            other => {
                tracing::error!(drive = name, area, found = ?other, "no checkpoint header");
                damaged = true;
            }
        }
    }
    headers.sort_by_key(|header| std::cmp::Reverse(header.number));
    Ok((headers, damaged))
}

/// Adds a checkpoint's objects to the index. `false`, and nothing added, when it does not verify.
fn load_checkpoint(
    drive: &Drive,
    header: &CheckpointHeader,
    index: &mut Index,
    losers: &mut Vec<(u8, RemoveRecord)>,
) -> Result<bool, StoreError> {
    let area = drive.zones.checkpoint_offset(header.number) + BLOCK_BYTES as u64;
    let room = (drive.zones.checkpoint_bytes - BLOCK_BYTES as u64) / CHECKPOINT_PAGE_BYTES as u64;
    if u64::from(header.pages) > room {
        return Ok(false);
    }
    // Two passes over the pages would cost twice the reading; instead the records of all pages are kept, as
    // they lie there, until the last one has verified.
    let mut pages = Vec::with_capacity(header.pages as usize);
    let mut reads = VecDeque::with_capacity(READ_DEPTH);
    let mut asked = 0..header.pages;
    let mut bytes = vec![0; CHECKPOINT_PAGE_BYTES];
    loop {
        while reads.len() < READ_DEPTH
            && let Some(page) = asked.next()
        {
            let lease = drive.io.staging.take(CHECKPOINT_PAGE_BYTES)?;
            let slice = lease.slice(0, CHECKPOINT_PAGE_BYTES)?;
            let at = area + u64::from(page) * CHECKPOINT_PAGE_BYTES as u64;
            let read = Request::read(at, slice.clone(), drive.io.deadline);
            reads.push_back((page, drive.io.engine.submit(read)?, slice, lease));
        }
        let Some((page, ticket, slice, _lease)) = reads.pop_front() else { break };
        if let Err(error) = ticket.wait() {
            tracing::error!(drive = drive.io.name(), page, %error, "checkpoint unreadable");
            return match error.kind {
                IoErrorKind::Media => Ok(false),
                _ => Err(error.into()),
            };
        }
        slice.read(0, &mut bytes)?;
        match PackedPage::verify(&bytes, header.number, page) {
            Ok(page) => pages.push(page),
            Err(_) if canary::on(Canary::TornCheckpoint) => {}
            Err(error) => {
                tracing::error!(drive = drive.io.name(), page, %error, "checkpoint damaged");
                return Ok(false);
            }
        }
    }
    let sum = CheckpointHeader::sum_pages(pages.iter().map(|page| page.checksum));
    let records: u64 = pages.iter().map(|page| u64::from(page.count())).sum();
    let whole = sum == header.pages_checksum && records == header.records;
    if !whole && !canary::on(Canary::TornCheckpoint) {
        tracing::error!(drive = drive.io.name(), "checkpoint pages do not belong together");
        return Ok(false);
    }
    index.reserve(usize::try_from(records).unwrap_or(0));
    for page in pages {
        for view in page.records() {
            admit(drive, &Parts::from(view), index, losers);
        }
    }
    Ok(true)
}

/// Enters an object that a record on `drive` names, unless a newer one of its key is there.
fn admit(
    drive: &Drive,
    object: &Parts<'_>,
    index: &mut Index,
    losers: &mut Vec<(u8, RemoveRecord)>,
) {
    if object.head.drive != drive.index {
        let key = object.key.escape_ascii();
        tracing::error!(drive = drive.io.name(), %key, "record of another drive's object skipped");
        return;
    }
    let mut lose = |drive: u8, generation| {
        losers.push((drive, RemoveRecord { key: object.key.to_vec(), generation }));
    };
    let hash = index.hash(object.key);
    if let Some(old) = index.find_hashed(hash, object.key) {
        let Some(entry) = index.entry(old) else { return };
        let (generation, drive) = (entry.generation, entry.head().drive);
        if generation >= object.generation && !canary::on(Canary::GenerationIgnored) {
            // The same record twice (checkpoint and journal) is the usual case.
            if generation > object.generation && drive != object.head.drive {
                lose(object.head.drive, object.generation);
            }
            return;
        }
        if drive != object.head.drive {
            lose(drive, generation);
        }
        index.doom(old);
        index.free(old);
    }
    if let Err(error) = index.enter(hash, object) {
        tracing::error!(%error, "unusable record skipped");
    }
}

/// Applies the journal from `start` on and tells where the next frame goes.
fn replay(
    drive: &Drive,
    uuid: &Uuid,
    start: Start,
    index: &mut Index,
    losers: &mut Vec<(u8, RemoveRecord)>,
    loaded: &mut Loaded,
) -> Result<Start, StoreError> {
    let mut ring = Ring::new(drive);
    let blocks = drive.zones.journal_blocks();
    let mut next = start;
    let mut epoch = 0;
    while next.position < start.position + blocks {
        let Some((frame, position)) = ring.expected(uuid, &next, epoch)? else { break };
        for record in frame.records {
            loaded.records += 1;
            match record {
                Record::Put(put) => admit(drive, &Parts::from(&put), index, losers),
                Record::Remove(remove) => loaded.removes.push(remove),
            }
        }
        epoch = frame.epoch;
        next = Start {
            sequence: next.sequence + 1,
            position: position + frame.blocks as u64,
            previous: frame.checksum,
        };
    }
    // After a clean close nothing lies behind the newest checkpoint.
    if loaded.older_used || !drive.superblock.lock().clean {
        loaded.hole = ring.erase_later(uuid, next.sequence, next.sequence == 1)?;
    }
    if loaded.hole {
        tracing::error!(
            drive = drive.io.name(),
            sequence = next.sequence,
            "journal damaged: records from here on are lost, their objects are misses"
        );
    }
    Ok(next)
}

/// Gives every object its space. Of objects that overlap the newest stays. `order`: all, the oldest first.
fn settle(
    mut index: Index,
    mut order: Vec<(u64, Id)>,
    members: &[Option<Member>],
    losers: &mut Vec<(u8, RemoveRecord)>,
    report: &mut RecoveryReport,
) -> State {
    let mut spaces = vacant(members);
    // Where nothing overlaps it is all the same who claims first, and the order in which objects lie in
    // memory is much faster than that of their age.
    if !index.live().all(|(id, _)| claim(&mut spaces, &index, id).is_ok()) {
        spaces = vacant(members);
        let mut dropped = HashSet::new();
        // Newest first: whoever is in the way of an object is newer than it.
        for &(_, id) in order.iter().rev() {
            if claim(&mut spaces, &index, id).is_ok() {
                continue;
            }
            report.overlapping_dropped += 1;
            if let Some(entry) = index.entry(id) {
                let key = entry.key().to_vec();
                tracing::warn!(key = %key.escape_ascii(), "object dropped: its space is taken");
                let generation = entry.generation;
                losers.push((entry.head().drive, RemoveRecord { key, generation }));
            }
            dropped.insert(id);
            index.doom(id);
            index.free(id);
        }
        order.retain(|(_, id)| !dropped.contains(id));
    }
    for space in spaces.iter_mut().flatten() {
        space.alloc.settle();
    }
    let payload_bytes = index.live().map(|(_, entry)| u64::from(entry.payload_len())).sum();
    index.order(order.iter().map(|&(_, id)| id));
    let mut state = State::new(index, spaces);
    state.payload_bytes = payload_bytes;
    state
}

/// The space of each drive, with nothing in it.
fn vacant(members: &[Option<Member>]) -> Vec<Option<Space>> {
    let space = |member: &Option<Member>| {
        let zones = &member.as_ref()?.drive.zones;
        Some(Space {
            alloc: Allocator::new(zones.data_chunks(), zones.chunk_blocks()),
            doomed_blocks: 0,
            meta_used: 0,
            // Objects that come and go while a checkpoint is written may both be in it.
            meta_capacity: checkpoint::record_capacity(zones) / 8 * 7,
        })
    };
    members.iter().map(space).collect()
}

/// Takes the slots of an object on the drives that are present; all or none.
fn claim(spaces: &mut [Option<Space>], index: &Index, id: Id) -> Result<(), ()> {
    let entry = index.entry(id).ok_or(())?;
    let shape = entry.shape().map_err(|_| ())?;
    let key_len = entry.key().len();
    let head = (entry.head(), shape.head_blocks(key_len));
    let pieces = entry.pieces().enumerate().map(|(i, place)| (place, shape.piece_blocks(i)));
    let mut done: SmallVec<[_; 8]> = SmallVec::new();
    for (place, blocks) in pieces.chain([head]) {
        let Some(space) = spaces.get_mut(usize::from(place.drive)).map(Option::as_mut) else {
            release(spaces, &done);
            return Err(());
        };
        // A drive that is missing keeps its part of the object to itself.
        let Some(space) = space else { continue };
        let claimed = match space.alloc.class(blocks) {
            Some(class) => space.alloc.claim(place.chunk, place.block, class, id).is_ok(),
            None => false,
        };
        if !claimed && !canary::on(Canary::OverlapAccepted) {
            release(spaces, &done);
            return Err(());
        }
        done.push(place);
    }
    if let Some(Some(space)) = spaces.get_mut(usize::from(entry.head().drive)) {
        space.meta_used += Record::put_len(key_len, shape.pieces()) as u64;
    }
    Ok(())
}

fn release(spaces: &mut [Option<Space>], places: &[gcos_layout::media::Location]) {
    for place in places {
        if let Some(Some(space)) = spaces.get_mut(usize::from(place.drive)) {
            space.alloc.give(place.chunk, place.block);
        }
    }
}

/// Records that objects which lost are gone, so that they do not come back when the winner is removed.
fn bury(pool: &Pool, losers: Vec<(u8, RemoveRecord)>) -> Result<(), StoreError> {
    let mut drives = 0;
    for (drive, record) in losers {
        let Some(member) = pool.member(drive) else { continue };
        member.journal.enqueue(Item {
            record: Record::Remove(record),
            flush: 0,
            entry: None,
            make_live: false,
            release: SmallVec::new(),
            waiter: None,
        });
        drives |= 1 << drive;
    }
    pool.write_journals(drives)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_that_is_a_whole_lap_older_is_a_whole_lap_behind() {
        let ring = 64;
        let at = |sequence, position| Start { sequence, position, previous: 0 };
        let behind = |newest, older| behind(newest, older, ring).position;
        assert_eq!(behind(at(9, ring + 5), at(9, ring + 5)), ring + 5, "the same frame");
        assert_eq!(behind(at(9, ring + 5), at(3, ring + 5)), 5, "the same block, a lap ago");
        assert_eq!(behind(at(9, ring + 5), at(3, ring + 2)), ring + 2);
        assert_eq!(behind(at(9, ring + 5), at(3, ring + 9)), 9, "past the end of the ring");
    }
}
