use std::sync::Arc;
use std::time::Instant;

use gcos_hw::kernel::{Batch, Carrier};

use super::bounce::Bounce;
use super::engine::Shared;
use super::words;
use crate::{IoError, IoErrorKind, Op, Request, Ticket};

/// A request that the kernel works on.
#[derive(Debug)]
pub(super) struct FileTicket {
    shared: Arc<Shared>,
    carrier: Arc<dyn Carrier>,
    batch: Arc<Batch>,
    /// Without its memory, which the kernel's part of it holds.
    request: Request,
    bounces: Vec<Bounce>,
    until: Instant,
    /// Whether whoever asked has had an answer.
    answered: bool,
}

impl FileTicket {
    pub(super) fn new(
        shared: &Arc<Shared>,
        carrier: &Arc<dyn Carrier>,
        batch: Arc<Batch>,
        mut request: Request,
        bounces: Vec<Bounce>,
        until: Instant,
    ) -> Self {
        request.segments.clear();
        Self {
            shared: Arc::clone(shared),
            carrier: Arc::clone(carrier),
            batch,
            request,
            bounces,
            until,
            answered: false,
        }
    }

    fn error(&self, kind: IoErrorKind, detail: impl Into<String>) -> IoError {
        self.request.error(&self.shared.geometry, kind, detail)
    }

    /// The answer once the batch is finished.
    fn answer(&mut self) -> Result<(), IoError> {
        self.answered = true;
        if let Some(error) = self.batch.take_error() {
            if self.request.op == Op::Deallocate && self.shared.refuses_discard(&error) {
                return Ok(());
            }
            let failed = self.error(words::kind(&error), words::of(&error));
            return Err(IoError { source: Some(error.into()), ..failed });
        }
        // Another one may have failed meanwhile, and have been told what this one was not.
        if matches!(self.request.op, Op::Flush | Op::Write { fua: true })
            && let Some(reason) = self.shared.distrusted()
        {
            return Err(self.error(IoErrorKind::Device, reason));
        }
        if self.request.op == Op::Read {
            let copied = self.bounces.iter().try_for_each(Bounce::copy_out);
            copied.map_err(|error| self.error(IoErrorKind::Invalid, error.to_string()))?;
        }
        Ok(())
    }

    /// The answer when the deadline has passed first.
    fn give_up(&mut self) -> Result<(), IoError> {
        self.answered = true;
        self.carrier.cancel(&self.batch);
        self.let_loose(true);
        let detail = format!(
            "not done within {:?} and given up; as long as the kernel holds it, its memory stays lent",
            self.request.deadline
        );
        Err(self.error(IoErrorKind::Unfinished, detail))
    }

    /// Nobody waits for it any more: from now on a change may be made at any time.
    fn let_loose(&self, given_up: bool) {
        let changes = matches!(self.request.op, Op::Write { .. } | Op::Deallocate);
        if changes && !self.batch.is_finished() {
            let extents = &self.request.extents;
            self.shared.let_loose(&self.batch, &self.carrier, extents, given_up);
        }
    }
}

impl Ticket for FileTicket {
    fn poll(&mut self) -> Option<Result<(), IoError>> {
        if !self.batch.is_finished() {
            self.carrier.poll();
        }
        if self.batch.is_finished() {
            return Some(self.answer());
        }
        (Instant::now() >= self.until).then(|| self.give_up())
    }

    fn wait(mut self: Box<Self>) -> Result<(), IoError> {
        if self.carrier.wait(&self.batch, self.until) { self.answer() } else { self.give_up() }
    }
}

impl Drop for FileTicket {
    fn drop(&mut self) {
        if !self.answered {
            self.let_loose(false);
        }
    }
}
