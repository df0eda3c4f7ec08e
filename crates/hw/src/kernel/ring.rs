use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::cursor::{Cursor, Outcome};
use super::job::Spot;
use super::lead::Lead;
use super::{Batch, Carrier, Job, JobOp, Target};

mod refused;
mod slots;

use slots::{Slots, Work};

/// Pause before the kernel is asked again for what it had no resources for.
const PAUSE: Duration = Duration::from_micros(200);
/// Longest single wait in the kernel; whoever waits looks at its own deadline in between.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Time that dropping a ring waits for the kernel to give everything back.
const DROP_WAIT: Duration = Duration::from_secs(5);
/// Completions taken at a time.
const REAPED: usize = 64;
/// Marks what nobody waits for: the answers to cancellations.
const NOBODY: u64 = u64::MAX;

/// How to open a [`Ring`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingOptions {
    /// Jobs under way at most, 1 to 4096.
    pub depth: u32,
    /// Most bytes that one request asks the kernel for.
    pub most_bytes: usize,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self { depth: 256, most_bytes: usize::MAX }
    }
}

/// Carries jobs by an io_uring, without threads of its own: whoever submits enters the kernel to do so, once
/// for all that it has handed over, and one of those who wait looks after the completions of all.
pub struct Ring {
    target: Arc<Target>,
    /// Kept past the end where the kernel does not give back what it holds.
    ring: ManuallyDrop<IoUring>,
    /// What the kernel holds. Its lock is also that of the submission queue.
    slots: ManuallyDrop<Mutex<Slots>>,
    /// Whoever has it may look at the completion queue.
    lead: Lead,
    /// Whether the file is registered, as number 0.
    registered: bool,
    most_bytes: usize,
    drop_wait: Duration,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("path", &self.target.path())
            .field("slots", &*self.slots.lock())
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// Sets a ring up for `target`.
    ///
    /// # Errors
    /// In words why the kernel does not let, and what to do.
    pub fn open(target: Arc<Target>, options: RingOptions) -> Result<Self, String> {
        let depth = options.depth.clamp(1, 4096);
        let mut ring =
            IoUring::builder().dontfork().build(depth).map_err(|e| refused::setup(&e))?;
        refused::missing(&ring)?;
        refused::tried(&mut ring)?;
        let registered = ring.submitter().register_files(&[target.fd().as_raw_fd()]).is_ok();
        Ok(Self {
            target,
            ring: ManuallyDrop::new(ring),
            slots: ManuallyDrop::new(Mutex::new(Slots::new(depth as usize))),
            lead: Lead::default(),
            registered,
            most_bytes: options.most_bytes,
            drop_wait: DROP_WAIT,
        })
    }

    /// What the kernel is to do next for a job.
    fn entry(&self, work: &mut Work, slot: u64) -> squeue::Entry {
        let offset = work.cursor.offset();
        let elements = work.cursor.elements();
        let (first, count) = (elements.first(), elements.len());
        macro_rules! on_file {
            (|$file:ident| $entry:expr) => {
                if self.registered {
                    let $file = Fixed(0);
                    $entry
                } else {
                    let $file = Fd(self.target.fd().as_raw_fd());
                    $entry
                }
            };
        }
        let (base, len, list) = match first {
            Some(element) => (element.iov_base.cast::<u8>(), element.iov_len, elements.as_ptr()),
            None => (std::ptr::null_mut(), 0, std::ptr::null()),
        };
        // One element of what fits 32 bits goes without a list.
        let single = u32::try_from(len).ok().filter(|_| count == 1);
        let entry = match (work.op, single) {
            (JobOp::Write { durable }, single) => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                on_file!(|file| match single {
                    Some(len) =>
                        opcode::Write::new(file, base, len).offset(offset).rw_flags(flags).build(),
                    None => opcode::Writev::new(file, list, count as u32)
                        .offset(offset)
                        .rw_flags(flags)
                        .build(),
                })
            }
            (JobOp::Read, Some(len)) => {
                on_file!(|file| opcode::Read::new(file, base, len).offset(offset).build())
            }
            (JobOp::Read, None) => {
                on_file!(|file| opcode::Readv::new(file, list, count as u32).offset(offset).build())
            }
            (JobOp::Sync | JobOp::Discard, _) => {
                on_file!(|file| opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build())
            }
        };
        entry.user_data(slot)
    }

    /// Puts a request into the submission queue. `slots` is what has its lock.
    fn push(&self, _slots: &mut Slots, entry: &squeue::Entry) -> bool {
        // SAFETY: nobody else uses the submission queue: the lock of the slots is held.
        let mut queue = unsafe { self.ring.submission_shared() };
        // SAFETY: what the request points at is in its slot, which is emptied when the kernel has
        // answered, and not before; the list of elements lies in the heap and does not move.
        unsafe { queue.push(entry) }.is_ok()
    }

    /// Puts the next request of a slot into the submission queue, or leaves it for later.
    fn ask(&self, slots: &mut Slots, slot: u64) {
        let Some(mut work) = slots.lend(slot) else { return };
        let entry = self.entry(&mut work, slot);
        slots.put_back(slot, work);
        if !self.push(slots, &entry) {
            slots.later.push_back(slot);
        }
    }

    /// Lets the kernel take what is in the submission queue.
    fn submit(&self) {
        loop {
            match self.ring.submitter().submit() {
                Ok(_) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // No resources at the moment: what is queued goes with the next call, and everybody
                // who waits calls.
                Err(_) => return,
            }
        }
    }

    /// Asks again for what is to be asked again and was not given up meanwhile, and lets the kernel take what
    /// it has not.
    fn resume(&self) {
        let mut given_up = Vec::new();
        let mut slots = self.slots.lock();
        for _ in 0..slots.later.len() {
            let Some(slot) = slots.later.pop_front() else { break };
            match slots.lend(slot) {
                Some(work) if work.batch.is_given_up() => {
                    slots.free(slot);
                    given_up.push((work, Err(io::Error::from_raw_os_error(libc::ECANCELED))));
                }
                Some(work) => {
                    slots.put_back(slot, work);
                    self.ask(&mut slots, slot);
                }
                None => {}
            }
        }
        let room = slots.room_for_others(given_up.len());
        // SAFETY: nobody else uses the submission queue: the lock of the slots is held.
        let left = unsafe { self.ring.submission_shared() }.len();
        drop(slots);
        tell(given_up, &room);
        if left > 0 {
            self.submit();
        }
    }

    /// Takes completions and tells their batches. Only for whoever has the lead. Whether some were to
    /// be asked again later.
    fn reap(&self) -> bool {
        let mut later = false;
        loop {
            let mut answers = SmallVec::<[(u64, i32); REAPED]>::new();
            {
                // SAFETY: only whoever has the lead looks at the completion queue.
                let queue = unsafe { self.ring.completion_shared() };
                answers.extend(queue.take(REAPED).map(|c| (c.user_data(), c.result())));
            }
            if answers.is_empty() {
                break;
            }
            let mut ended = SmallVec::<[(Work, io::Result<()>); 8]>::new();
            let mut slots = self.slots.lock();
            for (slot, answer) in answers.into_iter().filter(|(slot, _)| *slot != NOBODY) {
                match slots.lend(slot) {
                    Some(mut work) => match work.answered(answer) {
                        Outcome::Ended(result) => {
                            slots.free(slot);
                            ended.push((work, result));
                        }
                        how => {
                            later |= matches!(how, Outcome::Later);
                            slots.put_back(slot, work);
                            slots.later.push_back(slot);
                        }
                    },
                    None => tracing::error!(slot, "io_uring answered what was not asked"),
                }
            }
            let room = slots.room_for_others(ended.len());
            drop(slots);
            tell(ended, &room);
        }
        later
    }

    /// For whoever has the lead: takes what has completed; if nothing has, waits for it.
    fn look(&self, until: Instant, done: &impl Fn() -> bool) {
        let later = self.reap();
        if later {
            thread::sleep(PAUSE);
        }
        self.resume();
        if done() {
            return;
        }
        let left = until.saturating_duration_since(Instant::now()).min(LONGEST_WAIT);
        let time = Timespec::from(left);
        match self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time)) {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR) => {}
                // No resources, or too many completions: those are taken next.
                _ => thread::sleep(PAUSE),
            },
        }
        if self.reap() {
            thread::sleep(PAUSE);
        }
    }

    fn attend(&self, spot: &Arc<Spot>, until: Instant, done: impl Fn() -> bool) -> bool {
        self.lead.attend(spot, until, &done, |until| self.look(until, &done))
    }

    /// Asks the kernel to give up what `which` says.
    fn cancel_some(&self, which: impl Fn(&Batch) -> bool) {
        let mut slots = self.slots.lock();
        for slot in slots.all(&which) {
            let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(slot)).build();
            // Without room it is not asked: it goes on to its end.
            self.push(&mut slots, &entry.user_data(NOBODY));
        }
        drop(slots);
        self.submit();
    }

    /// Gives work a slot and puts it into the submission queue; without room it waits in line with `spot`.
    fn take(&self, work: &mut Option<Work>, spot: Option<&Arc<Spot>>) -> bool {
        let mut slots = self.slots.lock();
        match (slots.take(work), spot) {
            (Some(slot), _) => self.ask(&mut slots, slot),
            (None, Some(spot)) => slots.wait_for_room(spot),
            (None, None) => {}
        }
        work.is_none()
    }

    fn is_idle(&self) -> bool {
        self.slots.lock().is_empty()
    }
}

/// Tells batches of work that has ended, and those who wait for room of theirs.
fn tell(ended: impl IntoIterator<Item = (Work, io::Result<()>)>, room: &[Arc<Spot>]) {
    for (work, result) in ended {
        let Work { op, batch, memory, .. } = work;
        // Given back before anybody hears of the end.
        drop(memory);
        batch.end(op, result);
    }
    room.iter().for_each(|spot| spot.call());
}

impl Carrier for Ring {
    fn start(&self, job: Job, until: Instant) -> io::Result<()> {
        if job.op == JobOp::Discard {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut work = Some(Work::new(job, self.most_bytes).map_err(io::Error::other)?);
        if self.take(&mut work, None) {
            return Ok(());
        }
        let spot = Arc::<Spot>::default();
        let taken = loop {
            // What nobody has submitted makes no room.
            self.submit();
            self.poll();
            if self.take(&mut work, Some(&spot)) {
                break true;
            }
            let room = || self.slots.lock().has_room();
            if !self.attend(&spot, until, room) {
                break false;
            }
            if self.take(&mut work, None) {
                break true;
            }
        };
        self.slots.lock().leave_room(&spot);
        if taken { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    fn go(&self) {
        self.submit();
    }

    fn poll(&self) {
        self.lead.try_look(|| {
            self.reap();
            self.resume();
        });
    }

    fn wait(&self, batch: &Arc<Batch>, until: Instant) -> bool {
        self.attend(batch.spot(), until, || batch.is_finished())
    }

    fn cancel(&self, batch: &Arc<Batch>) {
        batch.give_up();
        self.cancel_some(|other| std::ptr::eq(other, &raw const **batch));
        self.poll();
    }

    fn drain(&self, until: Instant) -> bool {
        self.attend(&Arc::default(), until, || self.is_idle())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.slots.lock().all(|batch| {
            batch.give_up();
            true
        });
        self.cancel_some(|_| true);
        if self.drain(Instant::now() + self.drop_wait) {
            // The kernel takes a ring apart later, when nobody waits. The file goes now, so that it can
            // be had again at once.
            if self.registered
                && let Err(error) = self.ring.submitter().unregister_files()
            {
                tracing::debug!(%error, "the file was not unregistered");
            }
            // SAFETY: this is the end of the ring, and the kernel holds nothing: the slots are empty.
            unsafe {
                ManuallyDrop::drop(&mut self.ring);
                ManuallyDrop::drop(&mut self.slots);
            }
            return;
        }
        // The kernel may write into that memory at any time, and to the target: better both stay lent for
        // good than that they become somebody else's.
        std::mem::forget(Arc::clone(&self.target));
        let path = self.target.path().display();
        let slots = self.slots.lock();
        tracing::error!(%path, ?slots, "the kernel does not give memory back: it is lost");
    }
}

#[cfg(test)]
mod tests;
