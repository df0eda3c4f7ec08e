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
    /// Whether it cannot exist, or is damaged.
    pub(crate) dropped: bool,
    pub(crate) taken: Taken,
}

/// All objects, newest first.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) list: Vec<Object>,
    /// (a, b): the metadata of drive a holds an object that only a remove on drive b undoes.
    pub(crate) undone: BTreeSet<(u8, u8)>,
}

/// What all drives say of one key.
#[derive(Debug, Default)]
struct Joined {
    best: Option<(PutRecord, u8)>,
    holders: Vec<u8>,
    removed: Option<(u64, u8)>,
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
}

impl Objects {
    /// Joins the drives' records, consuming them.
    pub(crate) fn join(metadata: &mut BTreeMap<u8, Metadata>) -> Self {
        let mut joined: HashMap<Vec<u8>, Joined> = HashMap::new();
        for (&drive, metadata) in metadata {
            for (key, state) in std::mem::take(&mut metadata.keys) {
                joined.entry(key).or_default().add(state, drive);
            }
        }
        let mut objects = Self::default();
        for Joined { best, holders, removed } in joined.into_values() {
            let Some((record, source)) = best else { continue };
            match removed {
                Some((generation, by)) if generation >= record.generation => {
                    let victims = holders.into_iter().filter(|&drive| drive != by);
                    objects.undone.extend(victims.map(|drive| (drive, by)));
                }
                _ => {
                    let supersedes = holders.into_iter().filter(|&d| d != source).collect();
                    let taken = Taken::default();
                    let object = Object { record, source, supersedes, dropped: false, taken };
                    objects.list.push(object);
                }
            }
        }
        objects.list.sort_by(|a, b| {
            let (a, b) = (&a.record, &b.record);
            b.generation.cmp(&a.generation).then_with(|| a.key.cmp(&b.key))
        });
        objects
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
        self.list.first().map_or(0, |object| object.record.generation >> 40)
    }

    /// Pairs (a, b) of drives: before drive b's metadata forgets what it no longer needs, drive a's
    /// must have forgotten the objects that this kept down.
    pub(crate) fn order(&self) -> BTreeSet<(u8, u8)> {
        let mut pairs = self.undone.clone();
        for object in self.list.iter().filter(|object| object.dropped) {
            pairs.extend(object.supersedes.iter().map(|&drive| (drive, object.source)));
        }
        pairs
    }
}
