use std::sync::Arc;

use smallvec::SmallVec;

use super::shared::Shared;
use super::way::Mark;
use crate::{IoError, IoErrorKind, Request, Ticket};

/// A flush of all ways on which something may not be durable.
#[derive(Debug)]
pub(super) struct Flushes {
    shared: Arc<Shared>,
    request: Request,
    parts: SmallVec<[Part; 2]>,
    /// The first that failed.
    failed: Option<IoError>,
}

#[derive(Debug)]
struct Part {
    at: usize,
    mark: Mark,
    /// `None` once it has ended.
    ticket: Option<Box<dyn Ticket>>,
}

impl Flushes {
    pub(super) fn send(shared: &Arc<Shared>, request: &Request) -> Result<Self, IoError> {
        if let Some(loss) = shared.loss(request) {
            return Err(loss);
        }
        let Some((current, _)) = shared.current() else { return Err(shared.refused(request)) };
        let (parts, failed) = (SmallVec::new(), None);
        let mut flushes =
            Self { shared: Arc::clone(shared), request: request.clone(), parts, failed };
        for (at, road) in shared.roads.iter().enumerate() {
            let mark = road.mark();
            if at != current && !mark.dirty {
                continue;
            }
            match road.engine.submit(request.clone()) {
                Ok(ticket) => flushes.parts.push(Part { at, mark, ticket: Some(ticket) }),
                Err(error) => flushes.ended(at, mark, Err(error)),
            }
        }
        match (flushes.parts.is_empty(), flushes.failed.take()) {
            (true, Some(error)) => Err(error),
            (_, failed) => Ok(Self { failed, ..flushes }),
        }
    }

    /// Takes the result of one way.
    fn ended(&mut self, at: usize, mark: Mark, result: Result<(), IoError>) {
        let Some(road) = self.shared.roads.get(at) else { return };
        let Err(error) = result else {
            road.flushed(mark);
            return;
        };
        self.shared.failed(at, &error);
        let lost = error.kind != IoErrorKind::Invalid && road.not_flushed(mark, &error);
        // A way that was left, and on which nothing had to be made durable, has nothing to say.
        let moot = !mark.dirty && !self.shared.is_current(at) && self.shared.current().is_some();
        if lost || !moot {
            self.failed.get_or_insert_with(|| self.shared.outward(at, error));
        }
    }

    /// Another flush that failed meanwhile may have been told what this one was not.
    fn result(&mut self) -> Result<(), IoError> {
        let failed = self.failed.take().or_else(|| self.shared.loss(&self.request));
        failed.map_or(Ok(()), Err)
    }
}

impl Ticket for Flushes {
    fn poll(&mut self) -> Option<Result<(), IoError>> {
        for index in 0..self.parts.len() {
            let Some(part) = self.parts.get_mut(index) else { break };
            let (at, mark) = (part.at, part.mark);
            let Some(ticket) = &mut part.ticket else { continue };
            let result = ticket.poll()?;
            part.ticket = None;
            self.ended(at, mark, result);
        }
        Some(self.result())
    }

    fn wait(mut self: Box<Self>) -> Result<(), IoError> {
        for Part { at, mark, ticket } in std::mem::take(&mut self.parts) {
            if let Some(ticket) = ticket {
                self.ended(at, mark, ticket.wait());
            }
        }
        self.result()
    }
}
