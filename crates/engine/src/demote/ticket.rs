use std::sync::Arc;
use std::time::Instant;

use super::latency::Class;
use super::shared::{Load, Shared};
use crate::{IoError, IoErrorKind, Op, Request, Ticket};

/// A request under way, to be carried out once more if its way is left.
#[derive(Debug)]
pub(super) struct Watched {
    shared: Arc<Shared>,
    inner: Option<Box<dyn Ticket>>,
    /// The way that it went.
    at: usize,
    /// For another try. `None` after that, and where there was no other way to begin with.
    request: Option<Request>,
    op: Op,
    load: Load,
    sent: Instant,
    /// When it was last known to be under way.
    running: Option<Instant>,
}

impl Watched {
    /// Sends a request the way that is in use, or one that comes after it.
    pub(super) fn send(shared: &Arc<Shared>, request: Request) -> Result<Self, IoError> {
        let (op, sent) = (request.op, Instant::now());
        let bytes = request.extents.iter().map(|extent| extent.len).sum();
        let load = Load::new(shared, bytes);
        let (at, inner, request) = start(shared, request)?;
        let shared = Arc::clone(shared);
        Ok(Self { shared, inner: Some(inner), at, request, op, load, sent, running: None })
    }

    /// Takes the result of the way. `None`: the request goes another way.
    fn ended(&mut self, result: Result<(), IoError>) -> Option<Result<(), IoError>> {
        let Err(error) = result else {
            self.succeeded();
            return Some(Ok(()));
        };
        self.shared.failed(self.at, &error);
        if error.kind == IoErrorKind::Invalid || self.shared.is_current(self.at) {
            return Some(Err(error));
        }
        // What has not ended in time may still be written into the read's memory, when nobody thinks of it any
        // more: a second read into the same memory would vouch for what is in it.
        let late = matches!(error.kind, IoErrorKind::Timeout | IoErrorKind::Unfinished);
        let loose = self.op == Op::Read && late;
        let again = self.request.take().filter(|_| !loose && self.shared.current().is_some());
        let Some(request) = again else {
            return Some(Err(self.shared.outward(self.at, error)));
        };
        tracing::debug!(%error, "carried out once more on another way");
        self.shared.retried();
        self.sent = Instant::now();
        match start(&self.shared, request) {
            Ok((at, inner, _)) => {
                (self.at, self.inner, self.running) = (at, Some(inner), None);
                None
            }
            // The first error is the one that says what may have happened to the drive.
            Err(second) => {
                tracing::debug!(error = %second, "not started there");
                Some(Err(self.shared.outward(self.at, error)))
            }
        }
    }

    fn succeeded(&mut self) {
        let class = |write, bytes| Class::new(write, bytes, self.load.ahead);
        // Only a request that was seen under way tells how long it took: one that had ended when its
        // sender came to look may have done so long before.
        let took = self.running.map(|at| at.duration_since(self.sent));
        match self.op {
            Op::Write { fua } => {
                if let (false, Some(road)) = (fua, self.shared.roads.get(self.at)) {
                    road.wrote(1);
                }
                if let Some(took) = took {
                    self.shared.took(self.at, class(true, self.load.bytes()), took);
                }
            }
            Op::Read => {
                if let Some(took) = took {
                    self.shared.took(self.at, class(false, self.load.bytes()), took);
                }
            }
            Op::Flush | Op::Deallocate => {}
        }
    }
}

/// Starts a request on the way in use. One that a way did not take is started on the next, if that way is
/// left for it. Returns the request for another try, if there may be one.
#[expect(clippy::type_complexity, reason = "used twice, above")]
fn start(
    shared: &Shared,
    request: Request,
) -> Result<(usize, Box<dyn Ticket>, Option<Request>), IoError> {
    let mut request = request;
    loop {
        let Some((at, road)) = shared.current() else { return Err(shared.refused(&request)) };
        let again = (shared.roads.len() > 1).then(|| request.clone());
        let error = match road.engine.submit(request) {
            Ok(ticket) => return Ok((at, ticket, again)),
            Err(error) => error,
        };
        shared.failed(at, &error);
        // Each turn leaves a way for a later one, so this ends.
        let later = shared.current().is_some_and(|(next, _)| next > at);
        request = match again {
            Some(request) if later && error.kind != IoErrorKind::Invalid => request,
            _ => return Err(shared.outward(at, error)),
        };
    }
}

impl Ticket for Watched {
    fn poll(&mut self) -> Option<Result<(), IoError>> {
        let result = self.inner.as_mut()?.poll();
        match result {
            None => {
                self.running = Some(Instant::now());
                None
            }
            Some(result) => {
                self.inner = None;
                self.ended(result)
            }
        }
    }

    fn wait(mut self: Box<Self>) -> Result<(), IoError> {
        loop {
            let Some(mut inner) = self.inner.take() else {
                let (name, detail) = (&self.shared.geometry.name, "its result was taken before");
                return Err(IoError::about(name, IoErrorKind::Invalid, self.op.name(), detail));
            };
            let result = match inner.poll() {
                Some(result) => result,
                None => {
                    let result = inner.wait();
                    self.running = Some(Instant::now());
                    result
                }
            };
            if let Some(result) = self.ended(result) {
                return result;
            }
        }
    }
}
