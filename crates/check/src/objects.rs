//! The objects of the pool: all drives' records joined (format.md, sections 6 and 8).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gcos_layout::media::PutRecord;

use crate::FindingCode;
use crate::findings::{Findings, Fix};
use crate::metadata::{KeyState, Metadata, key_text};
use crate::pool::Pool;
use crate::space::{Space, Taken};

/// An object that the metadata holds.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) record: PutRecord,
    /// Drive whose metadata holds it.
    pub(crate) source: u8,
    /// Other drives whose metadata holds older objects of the key.
    pub(crate) supersedes: Vec<u8>,
    /// Whether it cannot exist, is damaged, or may be outdated.
    pub(crate) dropped: bool,
    /// Whether no record tells of it, only its own header.
    pub(crate) unproven: bool,
    /// Whether part of it could not be read, for a reason other than damage.
    pub(crate) unread: bool,
    pub(crate) taken: Taken,
}

/// Objects by their headers alone, and what to do with them.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    pub(crate) records: Vec<PutRecord>,
    /// Whether they count.
    pub(crate) salvage: bool,
}

/// All objects: those on record first, and of them the newest.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) list: Vec<Object>,
    /// (a, b): the metadata of drive a holds an object that only a remove on drive b undoes.
    pub(crate) undone: BTreeSet<(u8, u8)>,
    /// Objects that only their headers tell of, less those that are known to be gone.
    pub(crate) unproven: u64,
}

/// What all drives say of one key.
#[derive(Debug, Default)]
struct Joined {
    best: Option<(PutRecord, u8)>,
    holders: Vec<u8>,
    removed: Option<(u64, u8)>,
    /// The newest object that only its header tells of.
    orphan: Option<PutRecord>,
}

impl Joined {
    fn add(&mut self, state: KeyState, drive: u8) {
        if let Some(removed) = state.removed
            && self.removed.is_none_or(|(highest, _)| removed > highest)
        {
            self.removed = Some((removed, drive));
        }
        if let Some(put) = state.put {
            self.holders.push(drive);
            if self.best.as_ref().is_none_or(|(best, _)| put.generation > best.generation) {
                self.best = Some((put, drive));
            }
        }
    }

    /// Takes the newest object that only its header tells of, unless it is known to be gone: removed,
    /// replaced, or (where the drive's own metadata knows an older one) never acknowledged.
    fn orphan(&mut self) -> Option<PutRecord> {
        let orphan = self.orphan.take()?;
        let removed = self.removed.is_some_and(|(removed, _)| removed >= orphan.generation);
        let known = self.best.as_ref().is_some_and(|(best, drive)| {
            best.generation >= orphan.generation || *drive == orphan.head.drive
        });
        (!removed && !known).then_some(orphan)
    }
}

impl Objects {
    /// Joins the drives' records, consuming them.
    pub(crate) fn join(metadata: &mut BTreeMap<u8, Metadata>, orphans: Orphans) -> Self {
        let mut joined: HashMap<Vec<u8>, Joined> = HashMap::new();
        for (&drive, metadata) in metadata {
            for (key, state) in std::mem::take(&mut metadata.keys) {
                joined.entry(key).or_default().add(state, drive);
            }
        }
        for record in orphans.records {
            let joined = joined.entry(record.key.clone()).or_default();
            if joined.orphan.as_ref().is_none_or(|o| o.generation < record.generation) {
                joined.orphan = Some(record);
            }
        }
        let mut objects = Self::default();
        for joined in joined.into_values() {
            objects.enter(joined, orphans.salvage);
        }
        objects.sort();
        objects
    }

    /// Enters what counts of one key.
    fn enter(&mut self, mut joined: Joined, salvage: bool) {
        let orphan = joined.orphan();
        self.unproven += u64::from(orphan.is_some());
        let Joined { best, holders, removed, .. } = joined;
        if let (Some((generation, by)), Some((record, _))) = (removed, &best)
            && generation >= record.generation
        {
            let victims = holders.iter().filter(|&&drive| drive != by);
            self.undone.extend(victims.map(|&drive| (drive, by)));
        }
        let best = best.filter(|(record, _)| removed.is_none_or(|(g, _)| g < record.generation));
        let new = |record: PutRecord, source, unproven, outdated| Object {
            record,
            source,
            supersedes: holders.iter().copied().filter(|&drive| drive != source).collect(),
            dropped: outdated,
            unproven,
            unread: false,
            taken: Taken::default(),
        };
        match (best, orphan) {
            (None, None) => {}
            (_, Some(orphan)) if salvage => {
                let source = orphan.head.drive;
                self.list.push(new(orphan, source, true, false));
            }
            // A newer object was on the drive that has lost its metadata: it may have been acknowledged.
            (Some((record, source)), Some(orphan)) => {
                // Forgotten before the lost drive has metadata again, or it would be back.
                let older = holders.iter().map(|&drive| (drive, orphan.head.drive));
                self.undone.extend(older);
                self.list.push(new(record, source, false, true));
            }
            (Some((record, source)), None) => self.list.push(new(record, source, false, false)),
            (None, Some(_)) => {}
        }
    }

    /// Those on record first, and of them the newest.
    fn sort(&mut self) {
        self.list.sort_by(|a, b| {
            let order = a.unproven.cmp(&b.unproven);
            let (a, b) = (&a.record, &b.record);
            order.then(b.generation.cmp(&a.generation)).then_with(|| a.key.cmp(&b.key))
        });
    }

    /// Finds the objects that cannot exist: wrong places, and of overlapping ones the older.
    pub(crate) fn place(&mut self, pool: &Pool<'_>, findings: &mut Findings) {
        let mut space = Space::default();
        let mut before = None;
        for object in &mut self.list {
            let record = &object.record;
            let Some(drive) = pool.drive(object.source) else { continue };
            let (name, what) = (Some(drive.name()), || key_text(&record.key));
            let fix = Fix::Checkpoint(drive.position);
            if object.dropped {
                let detail = "a newer object of the key was on a drive that has lost its metadata";
                findings.add(FindingCode::ObjectOutdated, fix, name, what(), detail);
                continue;
            }
            if before.replace(record.generation) == Some(record.generation) {
                let detail = format!("generation {} is another object's too", record.generation);
                let code = FindingCode::GenerationDuplicate;
                findings.add(code, Fix::None, name, what(), detail);
            }
            if record.head.drive != object.source {
                let detail = format!("its head is on drive {}", record.head.drive);
                findings.add(FindingCode::HeadWrongDrive, fix, name, what(), detail);
                object.dropped = true;
                continue;
            }
            match space.take(record, pool) {
                Ok(taken) => object.taken = taken,
                Err(why) => {
                    findings.add(why.code, fix, name, what(), why.detail);
                    object.dropped = true;
                }
            }
            if object.taken.incomplete {
                let detail = "part of it lies on a missing drive";
                findings.add(FindingCode::ObjectIncomplete, Fix::None, name, what(), detail);
            }
        }
    }

    /// Objects that exist, as far as is known.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Object> {
        self.list.iter().filter(|object| !object.dropped)
    }

    /// The latest epoch that a generation names.
    pub(crate) fn epoch(&self) -> u64 {
        self.list.iter().map(|object| object.record.generation >> 40).max().unwrap_or(0)
    }

    /// Pairs (a, b) of drives: before drive b's metadata forgets what it no longer needs, drive a's
    /// must have forgotten the objects that this kept down.
    pub(crate) fn order(&self) -> BTreeSet<(u8, u8)> {
        let mut pairs = self.undone.clone();
        for object in self.list.iter().filter(|object| object.dropped && !object.unproven) {
            pairs.extend(object.supersedes.iter().map(|&drive| (drive, object.source)));
        }
        pairs
    }
}
