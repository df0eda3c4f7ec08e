//! Puts and gets of several objects: what both the calls that wait and those that do not amount to.

mod device;
mod host;
mod overlap;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use gcos::{Access, Lookup, MissReason, PutOptions, PutOutcome};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::error::Failure;
use crate::handle::Handle;
use crate::region::{Place, Region};

/// Whether each object was stored, or read.
type Outcome = Result<bool, Failure>;

/// What is done with each of the items.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Task {
    Put(PutOptions),
    /// Whole, or from an offset on.
    Get(Option<u32>),
}

/// An object and its memory, segments in order.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) key: Vec<u8>,
    pub(crate) regions: Vec<Region>,
}

impl Item {
    /// The GPU that all of it is on, `None` for the host.
    fn gpu(&self) -> Result<Option<usize>, Failure> {
        let place = |region: &Region| match region.place {
            Place::Host(_) => None,
            Place::Cuda { gpu, .. } => Some(gpu),
        };
        let mut places = self.regions.iter().map(place);
        let first = places.next().flatten();
        if places.any(|other| other != first) {
            return Err(Failure::invalid(
                "segments of one object lie on different devices; expected all of them on one",
            ));
        }
        Ok(first)
    }
}

/// Work on several objects. It holds all that it needs, so that it can go to another thread.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) handle: Arc<Handle>,
    pub(crate) access: Option<Arc<Access>>,
    pub(crate) task: Task,
    pub(crate) items: Vec<Item>,
    /// Number of the stream that was asked for.
    pub(crate) stream: Option<u64>,
    /// The object that it was taken from.
    pub(crate) _stream: Option<Py<PyAny>>,
}

/// What a batch has come to, an outcome for each item, in order.
#[derive(Debug)]
pub(crate) struct Outcomes(Vec<Outcome>);

impl Outcomes {
    /// The outcome of a batch of one.
    pub(crate) fn one(mut self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let outcome = self.0.pop().unwrap_or_else(|| Err(Failure::internal("the call")));
        Ok(outcome?.into_pyobject(py)?.to_owned().into_any().unbind())
    }

    /// A list with True, False or an exception for each.
    pub(crate) fn list(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let list = PyList::empty(py);
        for outcome in self.0 {
            match outcome {
                Ok(done) => list.append(done)?,
                Err(failure) => list.append(failure.instance(py)?)?,
            }
        }
        Ok(list.into_any().unbind())
    }
}

impl Batch {
    /// Carries it out. Does not need the interpreter, and waits for drives.
    pub(crate) fn run(&mut self) -> Outcomes {
        let count = self.items.len();
        let outcomes = catch_unwind(AssertUnwindSafe(|| self.carry_out()));
        // What it was opened with is let go of here: a close waits for that.
        self.access = None;
        let failed = || Err(Failure::internal("a put or get"));
        Outcomes(outcomes.unwrap_or_else(|_| (0..count).map(|_| failed()).collect()))
    }

    fn carry_out(&mut self) -> Vec<Outcome> {
        let Some(access) = self.access.take() else {
            return self.items.iter().map(|_| Err(Failure::closed())).collect();
        };
        let mut outcomes: Vec<Option<Outcome>> = self.items.iter().map(|_| None).collect();
        let mut host = Vec::new();
        let mut devices: BTreeMap<usize, Vec<(usize, &mut Item)>> = BTreeMap::new();
        let shared = match self.task {
            Task::Get(_) => overlap::overlapping(&self.items),
            Task::Put(_) => vec![false; self.items.len()],
        };
        for ((at, item), shared) in self.items.iter_mut().enumerate().zip(shared) {
            match item.gpu() {
                _ if shared => {
                    let message =
                        "the memory of two items overlaps; expected memory of its own for each";
                    set(&mut outcomes, at, Err(Failure::invalid(message)));
                }
                Ok(None) => host.push((at, item)),
                Ok(Some(gpu)) => devices.entry(gpu).or_default().push((at, item)),
                Err(failure) => set(&mut outcomes, at, Err(failure)),
            }
        }
        if !host.is_empty() {
            let moved = host::carry_out(&access, &self.handle.reached, self.task, &mut host);
            for ((at, _), outcome) in host.iter().zip(moved) {
                set(&mut outcomes, *at, outcome);
            }
        }
        for (gpu, mut items) in devices {
            let reached = &self.handle.reached;
            let moved =
                device::carry_out(&access, reached, self.task, gpu, self.stream, &mut items);
            for ((at, _), outcome) in items.iter().zip(moved) {
                set(&mut outcomes, *at, outcome);
            }
        }
        let missing = || Err(Failure::internal("a put or get"));
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect()
    }
}

fn set(outcomes: &mut [Option<Outcome>], at: usize, outcome: Outcome) {
    if let Some(place) = outcomes.get_mut(at) {
        *place = Some(outcome);
    }
}

fn of_put<E: Into<Failure>>(result: Result<PutOutcome, E>) -> Outcome {
    result.map(|outcome| outcome == PutOutcome::Stored).map_err(Into::into)
}

/// A miss is no exception, but where the memory given may still be written to, the caller has to know.
fn of_get<E: Into<Failure>>(result: Result<Lookup, E>) -> Outcome {
    match result.map_err(Into::into)? {
        Lookup::Hit(_) => Ok(true),
        Lookup::Miss(reason @ MissReason::Unfinished { .. }) => Err(reason.into()),
        Lookup::Miss(_) => Ok(false),
    }
}
