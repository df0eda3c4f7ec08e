//! Objects' data: headers and grains (format.md, section 5).

mod plan;
mod stream;
mod verdict;

use crate::findings::{Findings, Fix};
use crate::metadata::key_text;
use crate::objects::{Object, Objects};
use crate::pool::Pool;
use crate::{CheckError, FindingCode, Phase, Progress};

use plan::Segment;
use verdict::{Verdict, Verifier};

/// Reads and verifies every object that is complete and `wanted`. Damaged ones are marked as dropped. Returns the
/// number of bytes read.
pub(crate) fn verify(
    pool: &Pool<'_>,
    objects: &mut Objects,
    wanted: &dyn Fn(&Object) -> bool,
    findings: &mut Findings,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, CheckError> {
    let order = plan::order(objects, wanted);
    let total = plan::total_bytes(objects, wanted);
    let (mut done, mut bad) = (0, Vec::new());
    let mut verifier: Option<Verifier<'_>> = None;
    let list = &objects.list;
    let mut conclude = |verifier: Option<Verifier<'_>>| {
        let Some(verifier) = verifier else { return };
        if let Some(damage) = note(&verifier, pool, findings) {
            bad.push((verifier.index(), damage));
        }
    };
    let reads = plan::reads(pool, list, &order);
    stream::run(pool, reads, |segment: &Segment, bytes| {
        if verifier.as_ref().is_none_or(|v| v.index() != segment.object) {
            let object = list.get(segment.object);
            let next = object.map(|o| Verifier::new(segment.object, &o.record, &pool.uuid));
            conclude(std::mem::replace(&mut verifier, next));
        }
        if let Some(verifier) = &mut verifier {
            verifier.take(segment, bytes);
        }
        done += segment.len as u64;
        progress(Progress { phase: Phase::Data, done, total });
    })?;
    conclude(verifier.take());
    for (index, damage) in bad {
        if let Some(object) = objects.list.get_mut(index) {
            object.dropped |= damage;
            object.unread |= !damage;
        }
    }
    Ok(done)
}

/// Notes what is wrong with an object, if anything; tells whether it is damaged beyond doubt.
fn note(verifier: &Verifier<'_>, pool: &Pool<'_>, findings: &mut Findings) -> Option<bool> {
    let (code, detail, damage) = match verifier.verdict() {
        Verdict::Good => return None,
        Verdict::Header(detail) => (FindingCode::HeaderDamaged, detail, true),
        Verdict::Mismatch(field) => {
            let detail = format!("{field} is not what the record says");
            (FindingCode::HeaderMismatch, detail, true)
        }
        Verdict::Grains { first, count } => {
            let detail = format!("{count} grains do not fit their checksums, first grain {first}");
            (FindingCode::GrainDamaged, detail, true)
        }
        Verdict::Unreadable { detail, damage } => (FindingCode::DataUnreadable, detail, damage),
    };
    let record = verifier.record();
    let drive = pool.drive(record.head.drive);
    let fix = match drive {
        Some(drive) if damage => Fix::Checkpoint(drive.position),
        _ => Fix::None,
    };
    findings.add(code, fix, drive.map(|d| d.name()), key_text(&record.key), detail);
    Some(damage)
}
