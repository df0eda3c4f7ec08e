use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gcos_engine::Engine;

use crate::disk::Disk;
use crate::drive::{Drive, uuid_text};
use crate::findings::{Findings, Fix};
use crate::metadata::Metadata;
use crate::objects::{Object, Objects, Orphans};
use crate::pool::Pool;
use crate::{
    CheckError, CheckOptions, DriveReport, FindingCode, Phase, Progress, Report, data, headers,
    metadata, repair, superblock,
};

/// Checks the pool on these drives, and repairs it if asked to. The drives must not be in use by a
/// store meanwhile.
///
/// # Errors
/// [`CheckError`]: no drives, a newer format, no memory for I/O, or a write of a repair failed.
/// Whatever is wrong with the pool itself is a finding in the report.
pub fn check(
    drives: &[Arc<dyn Engine>],
    options: &CheckOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, CheckError> {
    if drives.is_empty() {
        return Err(CheckError::NoDrives);
    }
    let findings = Findings::new(options.dry_run);
    let mut run = Run { options, progress, findings, report: report(drives) };
    let members = run.superblocks(drives)?;
    if let Some(pool) = Pool::assemble(members, &mut run.findings) {
        run.pool(pool)?;
    }
    let Run { mut findings, mut report, .. } = run;
    report.actions = findings.take_actions();
    (report.findings, report.counts) = findings.finish();
    Ok(report)
}

fn report(drives: &[Arc<dyn Engine>]) -> Report {
    let entry = |engine: &Arc<dyn Engine>| DriveReport {
        name: engine.geometry().name.clone(),
        index: None,
        uuid: None,
        checkpoint: 0,
        journal_end: 0,
    };
    Report { drives: drives.iter().map(entry).collect(), ..Report::default() }
}

/// One check under way.
struct Run<'r> {
    options: &'r CheckOptions,
    progress: &'r mut dyn FnMut(Progress),
    findings: Findings,
    report: Report,
}

impl Run<'_> {
    fn superblocks<'a>(
        &mut self,
        drives: &'a [Arc<dyn Engine>],
    ) -> Result<Vec<Drive<'a>>, CheckError> {
        let (mut members, total) = (Vec::new(), drives.len() as u64);
        for (position, engine) in drives.iter().enumerate() {
            let disk = Disk::new(engine, self.options.io_deadline, self.options.dry_run).map_err(
                |source| {
                    let (drive, what) = (engine.geometry().name.clone(), "allocating i/o memory");
                    CheckError::Disk { drive, what, source: Box::new(source) }
                },
            )?;
            if let Some(quorum) = superblock::examine(&disk, position, &mut self.findings)? {
                members.push(Drive::new(position, disk, quorum));
            }
            self.step(Phase::Superblocks, position as u64 + 1, total);
        }
        Ok(members)
    }

    fn step(&mut self, phase: Phase, done: u64, total: u64) {
        (self.progress)(Progress { phase, done, total });
    }

    fn pool(&mut self, mut pool: Pool<'_>) -> Result<(), CheckError> {
        self.report.pool_uuid = Some(uuid_text(&pool.uuid));
        self.report.missing.clone_from(&pool.missing);
        for drive in pool.drives.values() {
            if let Some(entry) = self.report.drives.get_mut(drive.position) {
                entry.index = Some(drive.index().into());
                entry.uuid = Some(uuid_text(&drive.uuid()));
            }
        }
        if !pool.ready {
            return Ok(());
        }
        let mut metadata = self.metadata(&mut pool);
        let lost: BTreeSet<u8> =
            metadata.iter().filter(|(_, m)| m.lost.is_some()).map(|(&drive, _)| drive).collect();
        let orphans = self.orphans(&pool, &metadata);
        let mut objects = Objects::join(&mut metadata, orphans);
        self.report.unproven = objects.unproven;
        let total = objects.list.len() as u64;
        self.step(Phase::Objects, 0, total);
        objects.place(&pool, &mut self.findings);
        self.step(Phase::Objects, total, total);
        let epoch = metadata.values().map(|m| m.epoch).max().unwrap_or(0).max(objects.epoch());
        self.epochs(&pool, epoch);
        // What comes back without a checkpoint comes back only if all of it verifies.
        let all = self.options.data;
        let rebuilt = self.options.repair && !lost.is_empty();
        if all || rebuilt {
            let (findings, progress) = (&mut self.findings, &mut *self.progress);
            let wanted = |object: &Object| all || lost.contains(&object.source);
            let read = data::verify(&pool, &mut objects, &wanted, findings, progress)?;
            self.report.data_bytes_read = read;
        }
        self.freeze_unread(&mut pool, &lost, &objects);
        if self.options.repair {
            self.repair(&mut pool, &metadata, &objects, epoch)?;
        }
        self.count(&objects);
        Ok(())
    }

    /// Looks for objects of which only the headers are left, on drives that have lost part of their
    /// metadata, when a repair or the data are asked for.
    fn orphans(&mut self, pool: &Pool<'_>, metadata: &BTreeMap<u8, Metadata>) -> Orphans {
        let mut orphans = Orphans { salvage: self.options.salvage, ..Orphans::default() };
        let incomplete = |m: &&Metadata| m.lost.is_some_and(|lost| !lost.complete);
        if !self.options.repair && !self.options.data {
            return orphans;
        }
        let epoch = metadata.values().map(|m| m.epoch).max().unwrap_or(0).max(pool.epoch());
        for (&index, _) in metadata.iter().filter(|(_, m)| incomplete(m)) {
            let Some(drive) = pool.drive(index) else { continue };
            let found = headers::scan(drive, &pool.uuid, epoch, &mut *self.progress);
            let known = metadata.get(&index).map_or(0, |m| m.keys.len());
            let mut detail = format!(
                "{} object headers in the data zone, {known} keys on record; the rest may have been \
                 removed or replaced long ago and is left out unless it is asked for",
                found.records.len()
            );
            if found.more {
                detail += "; more than its checkpoint areas hold";
            }
            if found.unreadable > 0 {
                detail += &format!("; {} blocks cannot be read", found.unreadable);
            }
            let fix = Fix::Checkpoint(drive.position);
            let (code, name) = (FindingCode::ObjectsUnproven, Some(drive.name()));
            self.findings.add(code, fix, name, "data zone", detail);
            orphans.records.extend(found.records);
        }
        orphans
    }

    /// A drive whose objects could not be read just now is not rebuilt without them.
    fn freeze_unread(&self, pool: &mut Pool<'_>, lost: &BTreeSet<u8>, objects: &Objects) {
        let unread = objects.live().filter(|o| o.unread && lost.contains(&o.source));
        for index in unread.map(|object| object.source).collect::<BTreeSet<u8>>() {
            if let Some(drive) = pool.drives.get_mut(&index).filter(|d| d.frozen.is_none()) {
                let why = "objects on it could not be read, though not for damage; try again";
                drive.frozen = Some(why.to_owned());
            }
        }
    }

    fn metadata(&mut self, pool: &mut Pool<'_>) -> BTreeMap<u8, Metadata> {
        let (mut all, total) = (BTreeMap::new(), pool.drives.len() as u64);
        for (done, (&index, drive)) in (1..).zip(&mut pool.drives) {
            let metadata = metadata::recover(drive, &mut self.findings);
            if drive.frozen.is_none() {
                drive.frozen.clone_from(&metadata.unreachable);
            }
            if let Some(entry) = self.report.drives.get_mut(drive.position) {
                entry.checkpoint = metadata.active;
                entry.journal_end = metadata.end.sequence;
            }
            all.insert(index, metadata);
            self.step(Phase::Metadata, done, total);
        }
        all
    }

    /// Superblocks must know of every epoch in which anything was written: the next one would
    /// otherwise be one that was used before.
    fn epochs(&mut self, pool: &Pool<'_>, epoch: u64) {
        let known = pool.epoch();
        if epoch <= known {
            return;
        }
        let detail = format!("frames or objects of epoch {epoch}, the superblocks know of {known}");
        for drive in pool.drives.values() {
            let (fix, name) = (Fix::Successor(drive.position), Some(drive.name()));
            let code = FindingCode::EpochBehind;
            self.findings.add(code, fix, name, "superblock", detail.clone());
        }
    }

    fn repair(
        &mut self,
        pool: &mut Pool<'_>,
        metadata: &BTreeMap<u8, Metadata>,
        objects: &Objects,
        epoch: u64,
    ) -> Result<(), CheckError> {
        let findings = &mut self.findings;
        repair::superblocks(pool, findings)?;
        repair::successors(pool, epoch, findings)?;
        repair::checkpoints(pool, metadata, objects, findings, &mut *self.progress)
    }

    fn count(&mut self, objects: &Objects) {
        let report = &mut self.report;
        report.dropped = objects.list.iter().filter(|object| object.dropped).count() as u64;
        for object in objects.live() {
            report.objects += 1;
            report.payload_bytes += u64::from(object.record.shape.payload_len());
            report.used_bytes += object.taken.bytes;
        }
    }
}
