//! The two ways to drive a controller: threads on real time, or single steps on simulated time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use fastrand::Rng;
use parking_lot::Mutex;

use crate::EmulatorError;
use crate::controller::{BATCH, Controller};
use crate::medium::Scratch;
use crate::queue::{Command, Sq};

/// How long the controller's thread looks for work without giving its processor to others.
const SPIN_ALONE: Duration = Duration::from_micros(15);
/// How often doorbells are looked at that somebody rings by plain stores.
const FOREIGN_POLL: Duration = Duration::from_millis(1);
/// Commands that wait for a worker.
const WORK_QUEUE: usize = 1024;

/// The threads of a controller; dropping stops and joins them.
#[derive(Debug)]
pub(crate) struct Threads {
    stop: Arc<AtomicBool>,
    controller: Arc<Controller>,
    /// Whether doorbells may be rung without a call.
    foreign: Arc<AtomicBool>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(crate) fn start(
        controller: &Arc<Controller>,
        workers: usize,
        spin: Duration,
    ) -> Result<Self, EmulatorError> {
        let mut threads = Self {
            stop: Arc::new(AtomicBool::new(false)),
            controller: Arc::clone(controller),
            foreign: Arc::new(AtomicBool::new(false)),
            handles: Vec::with_capacity(workers + 1),
        };
        let (send, receive) = crossbeam_channel::bounded(WORK_QUEUE);
        for index in 0..workers {
            let (shared, receive) = (Arc::clone(controller), receive.clone());
            threads.spawn(format!("nvme-io-{index}"), move || work(&shared, &receive))?;
        }
        let driver = Driver {
            controller: Arc::clone(controller),
            stop: Arc::clone(&threads.stop),
            foreign: Arc::clone(&threads.foreign),
            workers: (workers > 0).then_some(send),
            sqs: Vec::new(),
            version: usize::MAX,
            scratch: Scratch::default(),
            spin,
        };
        threads.spawn("nvme-controller".to_owned(), move || driver.run())?;
        if let Some(handle) = threads.handles.last() {
            controller.waker.attach(handle.thread().clone());
        }
        Ok(threads)
    }

    fn spawn(
        &mut self,
        name: String,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), EmulatorError> {
        let handle = std::thread::Builder::new().name(name).spawn(body);
        self.handles.push(handle.map_err(EmulatorError::Thread)?);
        Ok(())
    }

    /// From now on doorbells are also looked at when nobody calls.
    pub(crate) fn watch_doorbells(&self) {
        self.foreign.store(true, Ordering::SeqCst);
        self.controller.waker.wake();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for handle in &self.handles {
            handle.thread().unpark();
        }
        let own = std::thread::current().id();
        for handle in self.handles.drain(..).filter(|handle| handle.thread().id() != own) {
            if handle.join().is_err() {
                tracing::error!("a thread of the software controller panicked");
            }
        }
    }
}

/// A worker: carries commands out until the controller's thread is gone.
fn work(controller: &Controller, commands: &Receiver<Command>) {
    let mut scratch = Scratch::default();
    while let Ok(command) = commands.recv() {
        controller.run(command, &mut scratch);
    }
}

/// The controller's own thread.
struct Driver {
    controller: Arc<Controller>,
    stop: Arc<AtomicBool>,
    foreign: Arc<AtomicBool>,
    workers: Option<Sender<Command>>,
    sqs: Vec<Arc<Sq>>,
    version: usize,
    scratch: Scratch,
    /// How long it looks for work before it sleeps.
    spin: Duration,
}

impl Driver {
    fn run(mut self) {
        let mut idle_since: Option<Instant> = None;
        while !self.stop.load(Ordering::SeqCst) {
            if self.poll() {
                idle_since = None;
                continue;
            }
            let idle = idle_since.get_or_insert_with(Instant::now).elapsed();
            if idle < self.spin {
                // After a while politely: the host may need this processor.
                if idle < SPIN_ALONE {
                    std::hint::spin_loop()
                } else {
                    std::thread::yield_now()
                }
                continue;
            }
            self.sleep();
        }
    }

    fn sleep(&self) {
        let due = self.controller.next_due();
        let timer = due.map(|due| due.saturating_sub(self.controller.clock.now()));
        // An event that found the admin completion queue full is tried again.
        let waits = self.foreign.load(Ordering::SeqCst)
            || self.controller.report_due.load(Ordering::SeqCst);
        let poll = waits.then_some(FOREIGN_POLL);
        let timeout = [timer, poll].into_iter().flatten().min();
        self.controller.waker.sleep(timeout, || {
            let controller = &self.controller;
            self.stop.load(Ordering::SeqCst)
                || controller.registers_changed.load(Ordering::SeqCst)
                || self.version != controller.queues_version.load(Ordering::SeqCst)
                || self.sqs.iter().any(|sq| controller.can_fetch(sq))
        });
    }

    /// One round over everything: whether there was anything to do.
    fn poll(&mut self) -> bool {
        let controller = Arc::clone(&self.controller);
        let mut worked = controller.service();
        while let Some(command) = controller.take_due() {
            worked = true;
            self.dispatch(command);
        }
        if controller.report_due.load(Ordering::Relaxed) {
            controller.report();
        }
        self.refresh();
        for index in 0..self.sqs.len() {
            let Some(sq) = self.sqs.get(index).cloned() else { break };
            let (workers, scratch) = (&self.workers, &mut self.scratch);
            let fetched = controller
                .fetch(&sq, BATCH, |command| dispatch(&controller, workers, scratch, command));
            worked |= fetched > 0;
        }
        worked
    }

    fn dispatch(&mut self, command: Command) {
        dispatch(&self.controller, &self.workers, &mut self.scratch, command);
    }

    /// Takes over the list of queues when it has changed.
    fn refresh(&mut self) {
        let version = self.controller.queues_version.load(Ordering::SeqCst);
        if version != self.version {
            self.version = version;
            self.sqs = self.controller.queues.read().sqs.iter().flatten().cloned().collect();
        }
    }
}

/// Admin commands are carried out in place; I/O commands by a worker where there are any.
fn dispatch(
    controller: &Controller,
    workers: &Option<Sender<Command>>,
    scratch: &mut Scratch,
    command: Command,
) {
    match workers {
        Some(workers) if !command.is_admin() => {
            if workers.send(command).is_err() {
                tracing::error!("no worker is left to carry out commands");
            }
        }
        _ => controller.run(command, scratch),
    }
}

/// Drives a controller one step at a time, the order of steps drawn from a seed.
#[derive(Debug)]
pub(crate) struct Stepper(Mutex<State>);

#[derive(Debug)]
struct State {
    rng: Rng,
    scratch: Scratch,
    /// Steps in a row that found nothing to do.
    idle: u32,
}

/// What a step does.
enum Step {
    Fetch(Arc<Sq>),
    Execute(usize),
    Complete(usize),
}

impl Stepper {
    pub(crate) fn new(seed: u64) -> Self {
        let rng = Rng::with_seed(seed);
        Self(Mutex::new(State { rng, scratch: Scratch::default(), idle: 0 }))
    }

    pub(crate) fn step(&self, controller: &Controller) {
        let mut state = self.0.lock();
        controller.clock.advance(Duration::from_nanos(state.rng.u64(1..=2000)));
        if controller.service() {
            state.idle = 0;
            return;
        }
        while let Some(command) = controller.take_due() {
            controller.parked.lock().ready.push(command);
        }
        if controller.report_due.load(Ordering::Relaxed) {
            controller.report();
        }
        let Some(step) = state.choose(controller) else {
            // Nothing to do: time passes faster the longer that lasts, so that waits end.
            let pause = Duration::from_micros(1) * (1 << state.idle.min(12));
            controller.clock.advance(pause);
            state.idle += 1;
            return;
        };
        state.idle = 0;
        state.take(step, controller);
    }
}

impl State {
    fn choose(&mut self, controller: &Controller) -> Option<Step> {
        let sqs: Vec<_> = {
            let queues = controller.queues.read();
            queues.sqs.iter().flatten().filter(|sq| controller.can_fetch(sq)).cloned().collect()
        };
        let (ready, done) = {
            let parked = controller.parked.lock();
            (parked.ready.len(), parked.done.len())
        };
        let total = sqs.len() + ready + done;
        if total == 0 {
            return None;
        }
        let pick = self.rng.usize(0..total);
        Some(match pick.checked_sub(sqs.len()) {
            None => Step::Fetch(Arc::clone(sqs.get(pick)?)),
            Some(pick) if pick < ready => Step::Execute(pick),
            Some(pick) => Step::Complete(pick - ready),
        })
    }

    fn take(&mut self, step: Step, controller: &Controller) {
        match step {
            Step::Fetch(sq) => {
                controller.fetch(&sq, 1, |command| controller.parked.lock().ready.push(command));
            }
            Step::Execute(index) => {
                let command = take(&mut controller.parked.lock().ready, index);
                let ended = command.and_then(|it| controller.execute(it, &mut self.scratch));
                controller.parked.lock().done.extend(ended);
            }
            Step::Complete(index) => {
                let ended = take(&mut controller.parked.lock().done, index);
                if let Some((command, outcome)) = ended {
                    controller.complete(command, outcome);
                }
            }
        }
    }
}

/// Takes what was chosen, unless another thread has cut power since.
fn take<T>(parked: &mut Vec<T>, index: usize) -> Option<T> {
    (index < parked.len()).then(|| parked.swap_remove(index))
}
