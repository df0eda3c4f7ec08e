//! Threads that carry out what was submitted.

use std::cell::Cell;
use std::fmt;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use gcos::Status;
use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;

use crate::batch::{Batch, Outcomes};
use crate::error::Failure;

thread_local! {
    /// Address of the crew that this thread belongs to; 0 for threads of others.
    static CREW: Cell<usize> = const { Cell::new(0) };
}

/// How the results of a batch are told.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// It is one item.
    One,
    /// A list.
    List,
}

/// Work with the future that tells of its end.
struct Job {
    future: Py<PyAny>,
    batch: Batch,
    shape: Shape,
}

#[derive(Debug)]
struct Running {
    jobs: Sender<Job>,
    waiting: Receiver<Job>,
    /// Disconnected when all threads have ended.
    ended: Receiver<()>,
}

/// The threads of one store. They start with the first job.
pub(crate) struct Crew {
    threads: usize,
    running: Mutex<Option<Running>>,
    /// What is left of a crew that takes no more jobs.
    ending: Mutex<Option<(Receiver<Job>, Receiver<()>)>>,
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Crew {
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads, running: Mutex::new(None), ending: Mutex::new(None) }
    }

    /// Hands a batch over; `future` is told of its end. Does not wait.
    pub(crate) fn submit(&self, py: Python<'_>, batch: Batch, shape: Shape) -> PyResult<Py<PyAny>> {
        let future = py.import(intern!(py, "gcos._future"))?.getattr(intern!(py, "Future"))?;
        let future = future.call0()?.unbind();
        let job = Job { future: future.clone_ref(py), batch, shape };
        // An exception is made of the failure once nothing is locked: that runs Python, and others may run
        // meanwhile.
        self.hand_over(job)?;
        Ok(future)
    }

    fn hand_over(&self, job: Job) -> Result<(), Failure> {
        let mut running = self.running.lock();
        let crew = match &mut *running {
            Some(crew) => crew,
            none => none.insert(self.start()?),
        };
        crew.jobs.send(job).map_err(|_| Failure::closed())
    }

    fn start(&self) -> Result<Running, Failure> {
        let (jobs, waiting) = unbounded::<Job>();
        let (alive, ended) = unbounded::<()>();
        let id = std::ptr::from_ref(self).addr();
        for number in 0..self.threads {
            let (waiting, alive) = (waiting.clone(), alive.clone());
            let thread = std::thread::Builder::new().name(format!("gcos-{number}"));
            let spawned = thread.spawn(move || {
                CREW.set(id);
                while let Ok(job) = waiting.recv() {
                    job.carry_out();
                }
                drop(alive);
            });
            if let Err(error) = spawned {
                let message = format!("thread {number} of the store could not be started: {error}");
                return Err(Failure::new(Status::OutOfMemory, message));
            }
        }
        Ok(Running { jobs, waiting, ended })
    }

    /// Whether the calling thread is one of these.
    pub(crate) fn is_mine(&self) -> bool {
        CREW.get() == std::ptr::from_ref(self).addr()
    }

    /// Takes no more jobs and waits for those there are. At `end` those that have not begun are given up.
    pub(crate) fn finish(&self, end: Option<Instant>) -> Result<(), Failure> {
        if self.is_mine() {
            return Err(Failure::invalid(
                "close() in a done callback would wait for the callback's own thread; expected a call from \
                 another thread",
            ));
        }
        if let Some(Running { jobs, waiting, ended }) = self.running.lock().take() {
            drop(jobs);
            *self.ending.lock() = Some((waiting, ended));
        }
        let Some((waiting, ended)) = self.ending.lock().clone() else { return Ok(()) };
        if !wait_for(&ended, end) {
            let given_up: Vec<Job> = waiting.try_iter().collect();
            let count = given_up.len();
            let _ = Python::try_attach(|py| given_up.into_iter().for_each(|job| job.give_up(py)));
            // What has just been left to itself has its chance to end.
            if !wait_for(&ended, Some(Instant::now() + Duration::from_millis(10))) {
                let message = format!(
                    "the store still works on what was submitted; {count} that had not begun were \
                     cancelled. Nothing was closed: call close() again"
                );
                return Err(Failure::new(Status::Timeout, message));
            }
        }
        *self.ending.lock() = None;
        Ok(())
    }

    /// Lets go of threads that belong to another process.
    pub(crate) fn forget(&mut self) {
        std::mem::forget(self.running.get_mut().take());
        std::mem::forget(self.ending.get_mut().take());
    }
}

/// Waits until all senders are gone; false at `end`.
fn wait_for(ended: &Receiver<()>, end: Option<Instant>) -> bool {
    let result = match end {
        Some(end) => ended.recv_deadline(end),
        None => ended.recv().map_err(|_| RecvTimeoutError::Disconnected),
    };
    matches!(result, Err(RecvTimeoutError::Disconnected))
}

impl Job {
    fn carry_out(self) {
        let begun = Python::try_attach(|py| {
            let told =
                self.future.bind(py).call_method0(intern!(py, "set_running_or_notify_cancel"));
            told.and_then(|told| told.extract::<bool>())
        });
        match begun {
            Some(Ok(true)) => {}
            // It was cancelled.
            Some(Ok(false)) => {
                let _ = Python::try_attach(|_| drop(self));
                return;
            }
            Some(Err(error)) => {
                let _ = Python::try_attach(|py| {
                    error.write_unraisable(py, Some(self.future.bind(py)));
                    drop(self);
                });
                return;
            }
            // The interpreter is gone: nobody waits, and its objects must not be touched.
            None => return std::mem::forget(self),
        }
        let Self { future, mut batch, shape } = self;
        let outcomes = batch.run();
        let mut rest = Some((future, batch));
        let told = Python::try_attach(|py| {
            let Some((future, batch)) = rest.take() else { return };
            // Buffers are free again before anybody hears of it.
            drop(batch);
            let future = future.bind(py);
            if let Err(error) = tell(future, outcomes, shape) {
                error.write_unraisable(py, Some(future));
            }
        });
        if told.is_none() {
            std::mem::forget(rest);
        }
    }

    fn give_up(self, py: Python<'_>) {
        let future = self.future.clone_ref(py);
        drop(self);
        let future = future.bind(py);
        let cancelled = future
            .call_method0(intern!(py, "cancel"))
            .and_then(|_| future.call_method0(intern!(py, "set_running_or_notify_cancel")));
        if let Err(error) = cancelled {
            error.write_unraisable(py, Some(future));
        }
    }
}

/// Sets the result; callbacks run in here.
fn tell(future: &Bound<'_, PyAny>, outcomes: Outcomes, shape: Shape) -> PyResult<()> {
    let py = future.py();
    let result = match shape {
        Shape::One => outcomes.one(py),
        Shape::List => outcomes.list(py),
    };
    match result {
        Ok(value) => future.call_method1(intern!(py, "set_result"), (value,))?,
        Err(error) => future.call_method1(intern!(py, "set_exception"), (error.into_value(py),))?,
    };
    Ok(())
}
