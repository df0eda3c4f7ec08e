use std::sync::Arc;
use std::time::Duration;

use gcos_layout::gpu::{ChecksumBatch, Grain, GrainRun};

use super::memory::named;
use super::scratch::HEAD_BYTES;
use super::{Flight, Memory, Ops, crc};
use crate::{GpuError, Stream};

pub(super) const KERNEL: &str = "gcos_checksum";
/// Threads of a block, and those on a played GPU: `kChecksumThreads` in `kernels/gcos/checksum.h`.
pub(super) const THREADS: u32 = 256;
pub(super) const PLAYED: u32 = 64;

/// Longer grains are summed up in parts, by several blocks.
const PART_BYTES: u32 = 128 << 10;
/// Most runs of one launch.
const MOST_RUNS: u64 = 1 << 24;

/// A run of the bytes of a grain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Index into the memory that is handed over.
    pub memory: u32,
    /// Offset in it in bytes, of any alignment.
    pub offset: u64,
    /// Bytes, 1 or more.
    pub bytes: u32,
    /// Number of the grain, from 0; runs of a grain stand one after the other, grains in order.
    pub grain: u32,
}

/// Parts of the grains in the order of the kernel's sums, and the descriptors.
#[derive(Debug, Default)]
struct Plan {
    runs: Vec<GrainRun>,
    parts: Vec<Grain>,
    /// Number of parts and of bytes of each grain.
    grains: Vec<(u32, u64)>,
    /// The last length asked about, and the checksum of as many zeros.
    zeros: (u64, u32),
}

impl Plan {
    fn zeros(&mut self, bytes: u64) -> u32 {
        if self.zeros.0 != bytes {
            self.zeros = (bytes, crc::of_zeros(bytes));
        }
        self.zeros.1
    }

    /// Adds a run to the grain that was begun last.
    fn add(&mut self, mut address: u64, mut bytes: u32) {
        while bytes > 0 {
            let room = self.parts.last().map_or(0, |part| PART_BYTES - part.bytes);
            if room == 0 {
                self.begin_part();
                continue;
            }
            let now = bytes.min(room);
            if let (Some(part), Some(grain)) = (self.parts.last_mut(), self.grains.last_mut()) {
                self.runs.push(GrainRun { address, offset: part.bytes, bytes: now });
                part.run_count += 1;
                part.bytes += now;
                grain.1 += u64::from(now);
            }
            address += u64::from(now);
            bytes -= now;
        }
    }

    fn begin_part(&mut self) {
        self.parts.push(Grain { first_run: self.runs.len() as u32, ..Grain::default() });
        if let Some(grain) = self.grains.last_mut() {
            grain.0 += 1;
        }
    }

    fn begin_grain(&mut self) {
        self.end_grain();
        self.grains.push((0, 0));
        self.begin_part();
    }

    /// A grain of one part is given its checksum by the kernel.
    fn end_grain(&mut self) {
        if let Some(&(1, bytes)) = self.grains.last() {
            let seed = self.zeros(bytes);
            if let Some(part) = self.parts.last_mut() {
                part.seed = seed;
            }
        }
    }
}

impl Ops {
    /// Launches CRC-32C sums of grains, each the concatenation of its runs, of any length and alignment.
    /// The bytes are those that lie there in the order of the stream; nobody writes them meanwhile.
    ///
    /// # Errors
    /// [`GpuError::Invalid`] for runs out of order, an empty one, or memory of another GPU,
    /// [`GpuError::OutOfBounds`] for a run past the end of its memory, [`GpuError::Cuda`].
    pub fn checksum(
        &self,
        stream: &Stream,
        memories: Vec<Memory>,
        runs: &[Run],
    ) -> Result<ChecksumTicket, GpuError> {
        memories.iter().try_for_each(|memory| memory.is_of(self.gpu()))?;
        let plan = self.plan(&memories, runs)?;
        if plan.parts.is_empty() {
            return Ok(ChecksumTicket { flight: None, sums_at: 0, plan });
        }
        let mut bytes =
            Vec::with_capacity(plan.runs.len() * GrainRun::BYTES + plan.parts.len() * Grain::BYTES);
        plan.runs.iter().for_each(|run| run.put(&mut bytes));
        let grains_at = HEAD_BYTES + bytes.len();
        plan.parts.iter().for_each(|part| part.put(&mut bytes));
        let sums_at = HEAD_BYTES + bytes.len();
        let lease = Arc::new(self.pool.take(&bytes, plan.parts.len() * 4)?);
        let batch = ChecksumBatch {
            runs: lease.address(HEAD_BYTES)?,
            grains: lease.address(grains_at)?,
            sums: lease.address(sums_at)?,
            grain_count: plan.parts.len() as u32,
            reserved: 0,
        };
        let blocks = batch.grain_count.min(self.checksum.most_blocks);
        let shape = (self.checksum, blocks);
        let flight = self.launch(stream, KERNEL, shape, &batch.to_bytes(), (lease, memories))?;
        Ok(ChecksumTicket { flight: Some(flight), sums_at, plan })
    }

    fn plan(&self, memories: &[Memory], runs: &[Run]) -> Result<Plan, GpuError> {
        // Each run is cut where parts end.
        let cuts = runs.iter().map(|run| u64::from(run.bytes / PART_BYTES) + 1).sum::<u64>();
        if cuts > MOST_RUNS {
            return Err(self.invalid("runs of checksums", "at most 2^24", cuts));
        }
        let mut plan = Plan { runs: Vec::with_capacity(runs.len()), ..Plan::default() };
        for run in runs {
            let memory = named(self.gpu(), memories, run.memory)?;
            let address = memory.at(run.offset, u64::from(run.bytes))?;
            if run.bytes == 0 {
                return Err(self.invalid("bytes of a run of a grain", "1 or more", 0));
            }
            let next = plan.grains.len() as u32;
            if run.grain == next {
                plan.begin_grain();
            } else if run.grain + 1 != next {
                let expected = "the grain of the run before, or the next one, from 0 on";
                return Err(self.invalid("grain of a run", expected, u64::from(run.grain)));
            }
            plan.add(address, run.bytes);
        }
        plan.end_grain();
        Ok(plan)
    }
}

/// Checksums under way. Dropping it does not stop them; the memory stays held until they have ended.
#[derive(Debug)]
#[must_use = "the checksums are known only by asking"]
pub struct ChecksumTicket {
    flight: Option<Flight>,
    sums_at: usize,
    plan: Plan,
}

impl ChecksumTicket {
    /// The checksums, one for each grain, once they are there. Never waits.
    pub fn poll(&mut self) -> Option<Result<Vec<u32>, GpuError>> {
        let Some(flight) = &mut self.flight else { return Some(Ok(Vec::new())) };
        match flight.ended() {
            Ok(false) => None,
            Ok(true) => Some(self.sums()),
            Err(error) => Some(Err(error)),
        }
    }

    /// Asks until the checksums are there.
    ///
    /// # Errors
    /// [`GpuError::TimedOut`] when they are not within `deadline`, [`GpuError::Cuda`] or
    /// [`GpuError::Stream`] when work on the GPU failed.
    pub fn wait(mut self, deadline: Duration) -> Result<Vec<u32>, GpuError> {
        if let Some(flight) = &mut self.flight {
            flight.wait(deadline)?;
        }
        self.sums()
    }

    /// Joins the parts.
    fn sums(&self) -> Result<Vec<u32>, GpuError> {
        let Some(flight) = &self.flight else { return Ok(Vec::new()) };
        let sums = flight.lease().words(self.sums_at, self.plan.parts.len())?;
        let mut parts = self.plan.parts.iter().zip(sums);
        let grains = self.plan.grains.iter().map(|&(count, bytes)| {
            let mut joined = 0;
            for (part, sum) in parts.by_ref().take(count as usize) {
                joined = crc::join(joined, sum, u64::from(part.bytes));
            }
            if count == 1 { joined } else { joined ^ crc::of_zeros(bytes) }
        });
        Ok(grains.collect())
    }
}
