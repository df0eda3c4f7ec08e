//! Commands per second beside the ceiling of the same emulated controller in the same boot. Only the
//! ratios mean anything.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_hw::{FileIo, MemoryRange, PAGE_BYTES, SharedMemory};
use gcos_layout::nvme::{DataPointer, IoCommand};
use gcos_nvme::{Completion, IoOp, Options, ShadowDoorbells};

use crate::drive::{Drive, bound};
use crate::raw::{NSID, Raw, ring_bytes};
use crate::report::{Report, Trouble, ensure, failed};

/// How long each figure is measured.
const TIME: Duration = Duration::from_millis(300);
/// Rounds; the best counts, since whatever else runs can only take away.
const ROUNDS: usize = 3;
const ENTRIES: u32 = 64;
/// Ways of the driver.
const WAYS: [(&str, Completion, ShadowDoorbells); 3] = [
    ("polled", Completion::Polled, ShadowDoorbells::Off),
    ("polled, shadow doorbells", Completion::Polled, ShadowDoorbells::On),
    ("by interrupts", Completion::Interrupt, ShadowDoorbells::Off),
];

/// When a bare loop rings the submission doorbell. The driver rings it for each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doorbell {
    EachCommand,
    /// Once for all commands that were posted since.
    EachBatch,
}

/// Commands per second of bare loops.
#[derive(Debug, Clone, Copy, Default)]
struct Ceiling {
    each: f64,
    batch: f64,
}

pub(crate) fn run(report: &mut Report) {
    let mut kernel = 0.0;
    report.case("the kernel's driver reads", || {
        kernel = best(through_the_kernel)?;
        Ok(())
    });
    let mut figures = Vec::new();
    for depth in [1u16, 32] {
        let mut ceiling = Ceiling::default();
        report.case(&format!("a bare loop reads at depth {depth}"), || {
            let drive = Drive::first(Completion::Polled)?;
            ceiling.each = best(|| bare(&drive, depth, Doorbell::EachCommand))?;
            ceiling.batch = best(|| bare(&drive, depth, Doorbell::EachBatch))?;
            Ok(())
        });
        for (label, completion, shadow_doorbells) in WAYS {
            report.case(&format!("the driver reads at depth {depth}, {label}"), || {
                let options = Options { completion, shadow_doorbells, ..Options::default() };
                let drive = Drive::with(bound()?, |_| Ok(options))?;
                let rate = best(|| driven(&drive, depth.into()))?;
                figures.push((depth, label, rate, ceiling));
                Ok(())
            });
        }
    }
    for (depth, label, rate, ceiling) in &figures {
        let Ceiling { each, batch } = ceiling;
        report.note(format!(
            "depth {depth:2}, {label:24}: {rate:7.0} commands/s; bare loop {each:7.0}: {:3.0} %; with a \
             doorbell for each batch {batch:7.0}: {:3.0} %",
            100.0 * rate / each,
            100.0 * rate / batch,
        ));
    }
    if let Some((_, _, rate, _)) = figures.iter().find(|(depth, ..)| *depth == 1) {
        let ratio = 100.0 * rate / kernel;
        report.note(format!(
            "depth  1, the kernel's driver with O_DIRECT: {kernel:7.0} commands/s; ours polled is \
             {ratio:.0} % of it"
        ));
    }
}

fn best(mut measure: impl FnMut() -> Result<f64, Trouble>) -> Result<f64, Trouble> {
    let mut best = 0.0f64;
    for _ in 0..ROUNDS {
        best = best.max(measure()?);
    }
    Ok(best)
}

fn rate(count: u32, start: Instant) -> f64 {
    f64::from(count) / start.elapsed().as_secs_f64()
}

/// Posts a prepared entry, rings, looks at the phase bit: what QEMU can do at most.
fn bare(drive: &Drive, depth: u16, doorbell: Doorbell) -> Result<f64, Trouble> {
    let rings = drive.alloc(ring_bytes(ENTRIES))?;
    let data = drive.alloc(usize::from(depth) * PAGE_BYTES)?;
    let mut raw = Raw::new(&drive.controller, &rings.as_dma(), ENTRIES)?;
    let nlb = (PAGE_BYTES as u64 / drive.lba_bytes()) as u32;
    let entries: Vec<_> = (0..depth)
        .map(|cid| {
            let prp1 = data.as_dma().iova() + u64::from(cid) * PAGE_BYTES as u64;
            let slba = u64::from(cid) * u64::from(nlb);
            let read = IoCommand::Read { slba, nlb, fua: false };
            read.encode(cid, NSID, DataPointer::Prp { prp1, prp2: 0 })
        })
        .collect();
    let start = Instant::now();
    for entry in &entries {
        raw.post_entry(entry)?;
    }
    raw.ring();
    let (mut count, mut idle) = (0u32, 0u32);
    while start.elapsed() < TIME {
        let mut reaped = 0;
        while let Some(cqe) = raw.reap() {
            let Some(entry) = entries.get(usize::from(cqe.cid())) else {
                return failed("a completion for a command that was never posted");
            };
            ensure(cqe.status().is_success(), || cqe.status().to_string())?;
            raw.post_entry(entry)?;
            if doorbell == Doorbell::EachCommand {
                raw.ring();
            }
            reaped += 1;
        }
        match reaped {
            0 => {
                // As the driver waits: the emulated controller needs a processor, too.
                gcos_hw::relax_spinning(idle);
                idle += 1;
            }
            _ => {
                idle = 0;
                count += reaped;
                raw.ring_head();
                if doorbell == Doorbell::EachBatch {
                    raw.ring();
                }
            }
        }
    }
    let rate = rate(count, start);
    for _ in 0..depth {
        raw.wait()?;
    }
    Ok(rate)
}

/// The same through the driver.
fn driven(drive: &Drive, depth: usize) -> Result<f64, Trouble> {
    let data = drive.alloc(depth * PAGE_BYTES)?;
    let mut reads = VecDeque::new();
    let start = Instant::now();
    let mut count = 0u32;
    while start.elapsed() < TIME {
        let slot = reads.len().min(depth - 1);
        let memory = data.slice(slot * PAGE_BYTES, PAGE_BYTES)?;
        let offset = (slot * PAGE_BYTES) as u64;
        reads.push_back(drive.controller.submit(drive.request(IoOp::Read, offset, memory))?);
        if reads.len() == depth
            && let Some(read) = reads.pop_front()
        {
            read.wait()?;
            count += 1;
        }
    }
    let rate = rate(count, start);
    for read in reads {
        read.wait()?;
    }
    Ok(rate)
}

/// The kernel's own driver, one read at a time.
fn through_the_kernel() -> Result<f64, Trouble> {
    let file = FileIo::open(Path::new("/dev/nvme0n1"), true)?;
    ensure(file.is_direct(), || "the kernel does not bypass its cache".into())?;
    let memory = Arc::new(SharedMemory::anonymous(PAGE_BYTES)?);
    let range = [MemoryRange { memory, offset: 0, len: PAGE_BYTES }];
    let start = Instant::now();
    let mut count = 0u32;
    while start.elapsed() < TIME {
        file.read_at(&range, u64::from(count % 1024) * PAGE_BYTES as u64)?;
        count += 1;
    }
    Ok(rate(count, start))
}
