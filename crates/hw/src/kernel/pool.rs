use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::cursor::{Cursor, Outcome};
use super::{Batch, Carrier, Job, JobOp, Target};
use crate::file::to_off;

/// Pause before a call is made again that the kernel had no resources for.
const PAUSE: Duration = Duration::from_micros(200);
/// Time after which a thread without work ends.
const IDLE: Duration = Duration::from_secs(10);
/// Time that dropping a pool waits for its threads, which may be in the kernel.
const DROP_WAIT: Duration = Duration::from_secs(5);

/// How to open a [`Pool`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolOptions {
    /// Threads at most; they are started as there is work for them.
    pub workers: usize,
    /// Jobs under way at most, those that wait for a thread included.
    pub depth: usize,
    /// Most bytes that one call asks the kernel for.
    pub most_bytes: usize,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { workers: 8, depth: 256, most_bytes: usize::MAX }
    }
}

/// Carries jobs by threads with preadv2 and pwritev2.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: Arc<Target>,
    options: PoolOptions,
    state: Mutex<State>,
    /// Work has come, or the end.
    work: Condvar,
    /// Something has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Jobs that threads have in hand.
    running: usize,
    workers: usize,
    idle: usize,
    closed: bool,
    /// Those that have not ended when last looked at.
    threads: Vec<thread::JoinHandle<()>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queued = self.queue.len();
        f.debug_struct("State")
            .field("queued", &queued)
            .field("running", &self.running)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool over `target`, without threads yet.
    #[must_use]
    pub fn open(target: Arc<Target>, options: PoolOptions) -> Self {
        let (state, work, ended) = (Mutex::default(), Condvar::new(), Condvar::new());
        Self { shared: Arc::new(Shared { target, options, state, work, ended }) }
    }
}

impl Carrier for Pool {
    fn start(&self, job: Job, until: Instant) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        while state.queue.len() + state.running >= self.shared.options.depth.max(1) {
            if self.shared.ended.wait_until(&mut state, until).timed_out() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        if state.idle <= state.queue.len() && state.workers < self.shared.options.workers.max(1) {
            let shared = Arc::clone(&self.shared);
            let name = thread::Builder::new().name("gcos-posix".to_owned());
            match name.spawn(move || shared.serve()) {
                Ok(thread) => {
                    state.workers += 1;
                    state.threads.retain(|thread| !thread.is_finished());
                    state.threads.push(thread);
                }
                // Those that there are will do.
                Err(_) if state.workers > 0 => {}
                Err(error) => return Err(error),
            }
        }
        state.queue.push_back(job);
        self.shared.work.notify_one();
        Ok(())
    }

    fn go(&self) {}

    fn poll(&self) {}

    fn wait(&self, batch: &Arc<Batch>, until: Instant) -> bool {
        while !batch.is_finished() {
            if Instant::now() >= until {
                return false;
            }
            let seen = batch.spot().seen();
            if !batch.is_finished() {
                batch.spot().wait(seen, until);
            }
        }
        true
    }

    fn cancel(&self, batch: &Arc<Batch>) {
        batch.give_up();
        let mut state = self.shared.state.lock();
        let (mine, others) = std::mem::take(&mut state.queue)
            .into_iter()
            .partition::<VecDeque<_>, _>(|job| Arc::ptr_eq(&job.batch, batch));
        state.queue = others;
        drop(state);
        for job in mine {
            job.batch.end(job.op, Err(io::Error::from_raw_os_error(libc::ECANCELED)));
        }
        self.shared.ended.notify_all();
    }

    fn drain(&self, until: Instant) -> bool {
        let mut state = self.shared.state.lock();
        while !state.queue.is_empty() || state.running > 0 {
            if self.shared.ended.wait_until(&mut state, until).timed_out() {
                return false;
            }
        }
        true
    }
}

impl Shared {
    /// One thread: job after job until the pool is closed.
    fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            let Some(job) = state.queue.pop_front() else {
                if state.closed {
                    break;
                }
                state.idle += 1;
                let idled = self.work.wait_for(&mut state, IDLE).timed_out();
                state.idle -= 1;
                if idled && state.queue.is_empty() {
                    break;
                }
                continue;
            };
            state.running += 1;
            drop(state);
            let result = self.carry(&job);
            let Job { op, batch, memory, .. } = job;
            // Given back before anybody hears of the end.
            drop(memory);
            batch.end(op, result);
            drop(batch);
            state = self.state.lock();
            state.running -= 1;
            self.ended.notify_all();
        }
        state.workers -= 1;
        self.ended.notify_all();
    }

    fn carry(&self, job: &Job) -> io::Result<()> {
        match job.op {
            JobOp::Sync => return self.target.sync(),
            JobOp::Discard => return self.target.discard(job.offset, job.len),
            JobOp::Read | JobOp::Write { .. } => {}
        }
        let mut cursor = Cursor::new(job, self.options.most_bytes).map_err(io::Error::other)?;
        loop {
            let result = self.call(job.op, &mut cursor)?;
            match cursor.answer(job.op, result) {
                Outcome::Ended(result) => return result,
                Outcome::Again | Outcome::Later if job.batch.is_given_up() => {
                    return Err(io::Error::from_raw_os_error(libc::ECANCELED));
                }
                Outcome::Again => {}
                Outcome::Later => thread::sleep(PAUSE),
            }
        }
    }

    /// One call for the rest of a job: bytes moved, or the error number.
    fn call(&self, op: JobOp, cursor: &mut Cursor) -> io::Result<Result<usize, i32>> {
        let (fd, offset) = (self.target.fd().as_raw_fd(), to_off(cursor.offset())?);
        let elements = cursor.elements();
        let count = elements.len() as libc::c_int;
        // SAFETY: each element lies in memory that the job keeps alive over the call, checked when the
        // cursor was made; the kernel only copies from or to it.
        let moved = unsafe {
            match op {
                JobOp::Write { durable } => {
                    let flags = if durable { libc::RWF_DSYNC } else { 0 };
                    libc::pwritev2(fd, elements.as_ptr(), count, offset, flags)
                }
                _ => libc::preadv2(fd, elements.as_ptr(), count, offset, 0),
            }
        };
        Ok(match usize::try_from(moved) {
            Ok(moved) => Ok(moved),
            Err(_) => Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let until = Instant::now() + DROP_WAIT;
        let mut state = self.shared.state.lock();
        state.closed = true;
        let queued = std::mem::take(&mut state.queue);
        drop(state);
        self.shared.work.notify_all();
        for job in queued {
            job.batch.give_up();
            job.batch.end(job.op, Err(io::Error::from_raw_os_error(libc::ECANCELED)));
        }
        let mut state = self.shared.state.lock();
        while state.workers > 0 {
            if self.shared.ended.wait_until(&mut state, until).timed_out() {
                // They hold what they work on, and end with it.
                let (threads, path) = (state.workers, self.shared.target.path().display());
                tracing::error!(threads, %path, "threads are left behind in the kernel");
                return;
            }
        }
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        // They have nothing left to do but to let go of the target, which can be had again then.
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the pool has panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DmaBuffer;
    use crate::kernel::{Direct, TargetOptions, host_space};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    fn open(path: &std::path::Path, options: PoolOptions) -> Pool {
        let direct = TargetOptions { direct: Direct::Prefer, ..TargetOptions::default() };
        Pool::open(Target::open(path, &direct).unwrap(), options)
    }

    fn job(op: JobOp, offset: u64, buffer: &DmaBuffer, batch: &Arc<Batch>) -> Job {
        let memory = std::iter::once(buffer.as_dma()).collect();
        Job { op, offset, len: buffer.len() as u64, memory, batch: Arc::clone(batch) }
    }

    #[test]
    fn a_file_can_be_had_again_as_soon_as_its_pool_is_dropped() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let buffer = host_space().unwrap().alloc(4096).unwrap();
        for _ in 0..100 {
            let pool = open(file.path(), PoolOptions { workers: 3, ..PoolOptions::default() });
            let batch = Batch::new(8, None);
            for i in 0..8 {
                pool.start(job(JobOp::Read, i * 4096, &buffer, &batch), soon()).unwrap();
            }
            assert!(pool.wait(&batch, soon()));
            drop(pool);
            // As another program would: without patience.
            file.as_file().try_lock().unwrap();
            file.as_file().unlock().unwrap();
        }
    }

    #[test]
    fn what_waits_for_a_thread_can_be_given_up_and_a_full_pool_says_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let pool = open(file.path(), PoolOptions { depth: 2, ..PoolOptions::default() });
        let buffer = host_space().unwrap().alloc(4096).unwrap();
        // As if every thread were in the kernel.
        pool.shared.state.lock().running = 1;
        pool.shared.state.lock().workers = usize::MAX;
        let batch = Batch::new(1, None);
        pool.start(job(JobOp::Read, 0, &buffer, &batch), soon()).unwrap();
        let late = Instant::now() + Duration::from_millis(20);
        let refused = pool.start(job(JobOp::Read, 0, &buffer, &Batch::new(1, None)), late);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(!pool.wait(&batch, Instant::now() + Duration::from_millis(20)));
        pool.cancel(&batch);
        assert!(batch.is_finished());
        assert_eq!(batch.take_error().unwrap().raw_os_error(), Some(libc::ECANCELED));
        pool.shared.state.lock().running = 0;
        pool.shared.state.lock().workers = 0;
        assert!(pool.drain(soon()));
    }
}
