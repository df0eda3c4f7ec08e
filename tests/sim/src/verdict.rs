//! What the checker says about the media of a history, and whether that is explained.

use std::sync::Arc;

use gcos_check::{CheckOptions, FindingCode, Report, Severity, check};
use gcos_emulator::Medium;
use gcos_engine::Engine;
use gcos_hw::DmaSpace;

use crate::memory::{BlockEngine, Blocks};
use crate::model::Excuse;
use crate::plan::Plan;

/// Engines over the media of a plan's drives, past every controller.
#[must_use]
pub fn engines(plan: &Plan, media: &[Arc<Medium>], dma: &Arc<DmaSpace>) -> Vec<Arc<dyn Engine>> {
    let drives = plan.drives.iter().zip(media).enumerate();
    drives
        .map(|(at, (kind, medium))| {
            let blocks: Arc<dyn Blocks> = Arc::clone(medium) as _;
            BlockEngine::over(format!("medium{at}"), blocks, kind.lba_bytes, dma)
        })
        .collect()
}

/// Checks the pool on these drives; nothing is written.
///
/// # Errors
/// The checker's own.
pub fn examine(drives: &[Arc<dyn Engine>], data: bool) -> Result<Report, String> {
    let options = CheckOptions { data, ..CheckOptions::default() };
    check(drives, &options, &mut |_| {}).map_err(|error| format!("the checker failed: {error}"))
}

/// Findings that are not explained by what happened to the drives. `crashed`: the pool was not closed in
/// order since.
#[must_use]
pub fn unexplained(report: &Report, excuse: Excuse, crashed: bool) -> Vec<String> {
    let explained = |code: FindingCode, severity: Severity| {
        use FindingCode as C;
        let superblock = matches!(
            code,
            C::SuperblockAhead
                | C::SuperblockStale
                | C::SuperblockDamaged
                | C::SuperblockUnreadable
                | C::SuperblockParent
        );
        let torn = matches!(code, C::JournalTail | C::JournalOlderBroken);
        // One of the two, by itself or because its writing was cut short.
        let checkpoint =
            matches!(code, C::CheckpointDamaged | C::CheckpointPageDamaged | C::CheckpointSumWrong);
        let lost = matches!(
            code,
            C::HeaderDamaged | C::HeaderMismatch | C::GrainDamaged | C::DataUnreadable
        );
        severity == Severity::Info
            || excuse >= Excuse::Journal
            || (excuse >= Excuse::Losses && lost)
            || (excuse >= Excuse::Errors && superblock)
            || (crashed && (superblock || torn || checkpoint))
    };
    let findings = report.findings.iter();
    findings
        .filter(|finding| !explained(finding.code, finding.severity))
        .map(|f| format!("{:?} {:?} {:?} {}: {}", f.severity, f.code, f.drive, f.what, f.detail))
        .collect()
}
