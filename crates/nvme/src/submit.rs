//! Posting the commands of a request.

use std::sync::Arc;
use std::time::Duration;

use gcos_hw::DmaSlice;
use gcos_layout::nvme::{DataPointer, DsmRange, IoCommand, MAX_BLOCKS};

use crate::bounce::Bounce;
use crate::controller::{Controller, State};
use crate::counters::add;
use crate::inflight::{Command, Label, Request};
use crate::pair::{Inner, QueuePair};
use crate::pointer::{Fragments, Position, build_prp, build_sgl, build_short_prp, prp_can_express};
use crate::split::{Limits, Part, Plan};
use crate::{IoOp, IoRequest, NvmeError, Pending, PointerChoice};

/// How far posting got.
enum Posting {
    /// Everything is posted.
    All,
    /// The queue is full.
    Full,
    /// The queue takes no commands: a reset, a shutdown, or the end.
    Closed,
}

/// A request on its way into a queue.
struct Submission {
    nsid: u32,
    plan: Plan,
    request: Arc<Request>,
    /// Whether a command was posted, so that the request ends through its [`Pending`] only.
    started: bool,
}

impl Controller {
    /// Starts a request. Waits only while the queue is full or a reset runs, and then no longer than
    /// the request's timeout.
    ///
    /// # Errors
    /// [`NvmeError`] when the request does not fit, the controller is gone, or nothing of it could
    /// be posted in time. Nothing was started then. Once a part was started, errors come through the
    /// [`Pending`].
    pub fn submit(self: &Arc<Self>, request: IoRequest) -> Result<Pending, NvmeError> {
        let limits = self.check(&request)?;
        let deadline = self.now().saturating_add(request.timeout);
        let index = self.pair_of_thread();
        let mut submission = Submission {
            nsid: request.nsid,
            plan: Plan::new(request.op, request.ranges, limits),
            request: Request::new(request.segments, deadline),
            started: false,
        };
        let error = self.post_all(self.pair(index), &mut submission, deadline).err();
        let Submission { request, started, .. } = submission;
        match error {
            Some(error) if !started => Err(error),
            error => {
                request.end_posting(error);
                Ok(Pending::new(Arc::clone(self), request, index, deadline))
            }
        }
    }

    /// Submits and waits.
    ///
    /// # Errors
    /// As [`Controller::submit`] and [`Pending::wait`].
    pub fn run(self: &Arc<Self>, request: IoRequest) -> Result<(), NvmeError> {
        self.submit(request)?.wait()
    }

    fn post_all(
        &self,
        pair: &QueuePair,
        submission: &mut Submission,
        deadline: Duration,
    ) -> Result<(), NvmeError> {
        let mut spins = 0;
        let mut next_check = Duration::ZERO;
        loop {
            match self.post_some(pair, submission)? {
                Posting::All => return Ok(()),
                Posting::Full => {}
                Posting::Closed => self.check_closed(submission)?,
            }
            let now = self.now();
            if now >= deadline {
                let label = submission.label();
                return Err(label.timed_out(&self.core.device.name, "the queue had no room"));
            }
            if spins > 0 {
                self.look_after(pair, now, &mut next_check);
            }
            self.core.device.function.relax(spins);
            spins = spins.saturating_add(1);
        }
    }

    /// A closed queue opens again after a reset, unless a part of the request has been lost to it.
    fn check_closed(&self, submission: &Submission) -> Result<(), NvmeError> {
        match self.state() {
            State::Live => Ok(()),
            State::Resetting if !submission.started => Ok(()),
            State::Resetting => Err(submission.label().reset(&self.core.device.name)),
            State::ShutDown | State::Gone => Err(self.gone()),
        }
    }

    /// Posts as many commands as there is room for and rings the doorbell once.
    fn post_some(
        &self,
        pair: &QueuePair,
        submission: &mut Submission,
    ) -> Result<Posting, NvmeError> {
        let mut inner = pair.lock();
        if !inner.open || self.state() != State::Live {
            return Ok(Posting::Closed);
        }
        if inner.slots.next_free().is_none() {
            pair.reap(&mut inner, &self.core.device, &self.core.counters, &self.core.bounces);
        }
        let posted = inner.commands;
        let result = self.post_parts(&mut inner, submission);
        if inner.commands > posted {
            submission.started = true;
            inner.sq.ring_tail(&*self.core.device.function);
        }
        result
    }

    fn post_parts(
        &self,
        inner: &mut Inner,
        submission: &mut Submission,
    ) -> Result<Posting, NvmeError> {
        let Submission { nsid, plan, request, .. } = submission;
        let outcome = request.outcome.lock();
        while let Some(part) = plan.next() {
            let Some((slot, cid)) = inner.slots.next_free() else {
                return Ok(Posting::Full);
            };
            let (pointer, bounce) = self.data_pointer(inner, slot, &outcome.memory, &part, plan)?;
            let sqe = part.command.encode(cid, *nsid, pointer);
            let bounds = NvmeError::bounds(&self.core.device.name, "posting an I/O command");
            inner.sq.post_entry(&sqe).map_err(bounds)?;
            let opcode = part.command.opcode().name();
            let label = Label { opcode, nsid: *nsid, lba: part.slba };
            inner.slots.fill(Command::new(request, label, bounce));
            inner.commands += 1;
            inner.bytes += part.bytes as u64;
            plan.advance(&part, &outcome.memory);
        }
        Ok(Posting::All)
    }

    /// Describes a command's data: PRP entries, an SGL, or either of a bounce buffer.
    fn data_pointer(
        &self,
        inner: &Inner,
        slot: usize,
        segments: &[DmaSlice],
        part: &Part,
        plan: &Plan,
    ) -> Result<(DataPointer, Option<Box<Bounce>>), NvmeError> {
        let area = inner.list_area(slot);
        let device = &self.core.device.name;
        let bounds = || NvmeError::bounds(device, "writing a data pointer");
        if matches!(part.command, IoCommand::DatasetManagement { .. }) {
            // The ranges take the page that a PRP list would.
            for (index, range) in plan.dsm_ranges().enumerate() {
                area.write(index * DsmRange::BYTES, &range.to_bytes()).map_err(bounds())?;
            }
            return Ok((DataPointer::Prp { prp1: area.iova(), prp2: 0 }, None));
        }
        if part.bytes == 0 {
            return Ok((DataPointer::NONE, None));
        }
        let fragments = Fragments::new(segments, part.at, part.bytes);
        let prefer_sgl = self.options.data_pointer == PointerChoice::Sgl;
        if !prefer_sgl && let Some(pointer) = build_short_prp(fragments.clone()) {
            return Ok((pointer, None));
        }
        let prp = prp_can_express(fragments.clone());
        if prp && !prefer_sgl {
            return Ok((build_prp(fragments, &area).map_err(bounds())?, None));
        }
        if self.facts.sgl
            && let Some(pointer) = build_sgl(fragments.clone(), &area)
        {
            return Ok((pointer, None));
        }
        if prp {
            return Ok((build_prp(fragments, &area).map_err(bounds())?, None));
        }
        let read = matches!(part.command, IoCommand::Read { .. });
        let bounce = self.core.bounces.take(device, segments, part.at, part.bytes, read)?;
        add(&self.core.counters.bounces, 1);
        let slice = bounce.slice();
        let fragments =
            Fragments::new(std::slice::from_ref(&slice), Position::default(), part.bytes);
        Ok((build_prp(fragments, &area).map_err(bounds())?, Some(bounce)))
    }

    /// Checks a request against its namespace and the controller's abilities.
    fn check(&self, request: &IoRequest) -> Result<Limits, NvmeError> {
        let invalid = |what, expected: String, got: u64| NvmeError::Invalid {
            device: Arc::clone(&self.core.device.name),
            what,
            expected,
            got,
        };
        let Some(namespace) = self.namespace(request.nsid) else {
            return Err(invalid("namespace", "an active one".into(), request.nsid.into()));
        };
        if let Some(reason) = &namespace.unusable {
            return Err(NvmeError::Namespace {
                device: Arc::clone(&self.core.device.name),
                nsid: request.nsid,
                reason: Arc::clone(reason),
            });
        }
        let oncs = self.facts.identity.oncs;
        let supported = match request.op {
            IoOp::Compare => oncs.compare(),
            IoOp::WriteZeroes { .. } => oncs.write_zeroes(),
            IoOp::Deallocate => oncs.dataset_management(),
            IoOp::Read | IoOp::Write { .. } | IoOp::Flush => true,
        };
        if !supported {
            return Err(NvmeError::Unsupported {
                device: Arc::clone(&self.core.device.name),
                what: "ONCS",
                expected: format!("support of {:?}", request.op),
                got: oncs.0.into(),
            });
        }
        let mut blocks = 0u64;
        for range in &request.ranges {
            let end = range.slba.checked_add(range.blocks);
            if range.blocks == 0 || end.is_none_or(|end| end > namespace.blocks) {
                let expected = format!("1 block or more within {} blocks", namespace.blocks);
                return Err(invalid("block range", expected, range.slba));
            }
            blocks = blocks.saturating_add(range.blocks);
        }
        if (blocks == 0) != (request.op == IoOp::Flush) {
            return Err(invalid("blocks", "some, but none for a flush".into(), blocks));
        }
        let mut bytes = 0u64;
        for segment in &request.segments {
            if segment.iova() % 4 != 0 || segment.len() % 4 != 0 {
                let expected = "address and length in multiples of 4".into();
                return Err(invalid("segment", expected, segment.iova()));
            }
            bytes += segment.len() as u64;
        }
        let lba_bytes = namespace.lba_bytes;
        let data = if request.op.has_data() { blocks } else { 0 };
        if data.checked_mul(lba_bytes.into()) != Some(bytes) {
            let expected = format!("{data} blocks of {lba_bytes} bytes");
            return Err(invalid("bytes of segments", expected, bytes));
        }
        // At least 1: a namespace with larger blocks is not usable.
        let most = self.facts.max_transfer / lba_bytes as usize;
        Ok(Limits { lba_bytes, blocks: (most as u64).min(MAX_BLOCKS.into()) as u32 })
    }
}

impl Submission {
    fn label(&self) -> Label {
        let part = self.plan.next();
        let opcode = part.map_or("I/O", |part| part.command.opcode().name());
        Label { opcode, nsid: self.nsid, lba: part.map_or(0, |part| part.slba) }
    }
}
