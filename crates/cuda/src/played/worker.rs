use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use parking_lot::{Condvar, Mutex};

use crate::GpuError;

/// What a stream is given to do. It says what went wrong.
type Job = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// The thread of one stream. It ends after the last job when the stream is gone.
#[derive(Debug)]
pub(crate) struct Worker {
    id: u64,
    jobs: Mutex<Jobs>,
    progress: Arc<Progress>,
}

#[derive(Debug)]
struct Jobs {
    given: u64,
    sender: mpsc::Sender<Job>,
}

#[derive(Debug, Default)]
struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    done: u64,
    /// The first failure: it stays, as on a real GPU.
    failure: Option<String>,
}

/// A point in a stream: after so many jobs.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    progress: Arc<Progress>,
    after: u64,
}

impl Worker {
    pub(crate) fn start(ordinal: usize) -> Result<Arc<Self>, GpuError> {
        // Away from the numbers that mean something else to CUDA.
        static NEXT: AtomicU64 = AtomicU64::new(0x1000);
        Self::start_as(NEXT.fetch_add(1, Ordering::Relaxed), ordinal)
    }

    /// The default stream has the number 0.
    pub(crate) fn start_default(ordinal: usize) -> Result<Arc<Self>, GpuError> {
        Self::start_as(0, ordinal)
    }

    fn start_as(id: u64, ordinal: usize) -> Result<Arc<Self>, GpuError> {
        let (sender, receiver) = mpsc::channel();
        let progress = Arc::new(Progress::default());
        let told = Arc::clone(&progress);
        let thread = thread::Builder::new().name(format!("gcos-played-{id}"));
        let started = thread.spawn(move || run(&receiver, &told));
        started.map_err(|error| GpuError::Stream {
            ordinal,
            reason: format!("no thread for a stream of a played GPU: {error}"),
        })?;
        Ok(Arc::new(Self { id, jobs: Mutex::new(Jobs { given: 0, sender }), progress }))
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn submit(&self, job: impl FnOnce() -> Result<(), String> + Send + 'static) {
        let mut jobs = self.jobs.lock();
        // The receiver lives as long as the sender: the thread ends when there is no sender.
        if jobs.sender.send(Box::new(job)).is_ok() {
            jobs.given += 1;
        }
    }

    /// This point of the stream.
    pub(crate) fn mark(&self) -> Mark {
        let after = self.jobs.lock().given;
        Mark { progress: Arc::clone(&self.progress), after }
    }
}

fn run(jobs: &mpsc::Receiver<Job>, progress: &Progress) {
    while let Ok(job) = jobs.recv() {
        let failed = progress.state.lock().failure.is_some();
        // After a failure nothing runs any more; what the job holds is dropped.
        let result = if failed {
            Ok(())
        } else {
            catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| Err("a job panicked".to_owned()))
        };
        let mut state = progress.state.lock();
        state.done += 1;
        if let (Err(failure), None) = (result, &state.failure) {
            state.failure = Some(failure);
        }
        progress.changed.notify_all();
    }
}

impl Mark {
    /// Whether the stream has passed it.
    pub(crate) fn query(&self, ordinal: usize) -> Result<bool, GpuError> {
        let state = self.progress.state.lock();
        match &state.failure {
            Some(reason) => Err(GpuError::Stream { ordinal, reason: reason.clone() }),
            None => Ok(state.done >= self.after),
        }
    }

    /// Waits, in another stream's thread, until the stream has passed it. It ends: each stream's thread
    /// goes on, and a kernel gives up by the clock.
    pub(crate) fn wait(&self) -> Result<(), String> {
        let mut state = self.progress.state.lock();
        while state.done < self.after {
            self.progress.changed.wait(&mut state);
        }
        match &state.failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }
}
