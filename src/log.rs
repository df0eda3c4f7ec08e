//! The log of the library, line by line, for those who hand it to programs in other languages. Programs in Rust take
//! it by a `tracing` subscriber of their own.
//!
//! Whoever logs may hold locks that the [`Sink`] waits for: a thread of its own hands the lines over, and nobody who
//! logs waits for it. A child process gets a queue, its locks and a thread of its own with the first line that it
//! logs: it waits for nothing that a thread of its parent held.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_utils::atomic::AtomicCell;
use parking_lot::RwLock;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, Subscriber};
use tracing::{Event, Metadata, dispatcher};

pub use tracing::Level;
pub use tracing::level_filters::LevelFilter;

use crate::status::{Classify, Status};

/// How long a call of the sink before is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long lines that were logged already are waited for.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Lines that wait for the sink; more are left out.
const WAITING: usize = 1024;

/// What is wanted.
static LEVEL: AtomicCell<LevelFilter> = AtomicCell::new(LevelFilter::OFF);
/// The way of this process, or of its parent; never freed. None before the log is first given to anybody.
static WAY: AtomicCell<Option<&'static Way>> = AtomicCell::new(None);

// Anything larger would be behind a lock, which may be held when a process forks.
const _: () = assert!(
    AtomicCell::<LevelFilter>::is_lock_free() && AtomicCell::<Option<&'static Way>>::is_lock_free()
);

thread_local! {
    /// Whether this is a thread that hands lines over.
    static HANDS_OVER: Cell<bool> = const { Cell::new(false) };
}

/// A line of the log.
#[derive(Debug)]
pub struct Line {
    /// How much it matters.
    pub level: Level,
    /// Where it comes from: a module of Rust, such as `gcos_store::recovery`.
    pub target: &'static str,
    /// The words, then the fields as ` name=value`.
    pub text: String,
}

/// What takes the lines of the log.
pub trait Sink: Send + Sync {
    /// Takes a line. It is called from a thread of this module's, one line at a time, and may take its time and call
    /// the library; what that thread logs itself is left out, as it would never end.
    fn take(&self, line: &Line);
}

/// Why the log stays with whom it was given to before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A sink gave it to another.
    #[error("the log cannot be given to another from the function that gets it")]
    Within,
    /// There is a `tracing` subscriber that is not this one.
    #[error("another part of this process takes the log already")]
    Taken,
    /// The sink before is in a call that does not end.
    #[error("the function before has not returned for {:?}", PATIENCE)]
    Slow,
}

impl Classify for LogError {
    fn status(&self) -> Status {
        match self {
            Self::Within => Status::InvalidArgument,
            Self::Taken => Status::Busy,
            Self::Slow => Status::Timeout,
        }
    }
}

/// Gives the log up to this level to a sink, for the whole process and in the place of one before; `None` ends it.
/// Waits for the one before to get the lines so far, 1 second at most. When this returns, no call of that one is under
/// way, and none follows. When more than 1024 lines wait for the sink, lines are left out, and it is told how many
/// by a line of [`Level::WARN`], unless only worse is wanted.
///
/// # Errors
/// [`LogError`]; nothing was changed then. A call of the sink before is waited for 10 seconds at most.
pub fn set(level: LevelFilter, sink: Option<Arc<dyn Sink>>) -> Result<(), LogError> {
    if hands_over() {
        return Err(LogError::Within);
    }
    if sink.is_some() && !is_ours() {
        return Err(LogError::Taken);
    }
    let way = Way::own();
    way.flush();
    let mut current = way.sink.try_write_for(PATIENCE).ok_or(LogError::Slow)?;
    LEVEL.store(level);
    *current = sink;
    Ok(())
}

/// Chooses another level. Lines that were logged before are handed over still.
pub fn set_level(level: LevelFilter) {
    LEVEL.store(level);
}

/// Waits until the sink has got what was logged, 1 second at most; a program may end after this call.
pub fn flush() {
    let own = WAY.load().filter(|way| way.process == std::process::id());
    if let Some(way) = own.filter(|_| !hands_over()) {
        way.flush();
    }
}

fn hands_over() -> bool {
    HANDS_OVER.try_with(Cell::get).unwrap_or(true)
}

/// Takes the log of the process, unless somebody else has it.
fn is_ours() -> bool {
    let ours = || dispatcher::get_default(|current| current.is::<ToSink>());
    // Looked at once more: another thread may have been quicker.
    ours() || tracing::subscriber::set_global_default(ToSink).is_ok() || ours()
}

/// From those who log to the sink.
struct Way {
    process: u32,
    sink: RwLock<Option<Arc<dyn Sink>>>,
    /// Locks of the standard library: others keep who waits in a table of the process, which a fork may cut off.
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Line>,
    /// Lines that were put in, and how many of them have been dealt with.
    queued: u64,
    done: u64,
    /// Lines that were left out since that was last said.
    left_out: u64,
    /// Whether there is a thread that takes them out.
    served: bool,
}

impl PartialEq for Way {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Way {}

impl Way {
    /// The way of this process, begun where there is none; a child's begins with the sink that its parent had.
    fn own() -> &'static Self {
        let process = std::process::id();
        loop {
            let found = WAY.load();
            if let Some(way) = found.filter(|way| way.process == process) {
                return way;
            }
            let sink = found.and_then(|way| way.sink.try_read()?.clone());
            let (sink, queue) = (RwLock::new(sink), Mutex::default());
            let made = Self { process, sink, queue, changed: Condvar::new() };
            // The loser of a race leaves one behind, which is small and happens once.
            let _ = WAY.compare_exchange(found, Some(Box::leak(Box::new(made))));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&'static self, line: Line) {
        let mut queue = self.lock();
        if !queue.served {
            // Without one, the next line tries again.
            let thread = std::thread::Builder::new().name("gcos-log".to_owned());
            queue.served = thread.spawn(move || self.hand_over()).is_ok();
        }
        if queue.lines.len() < WAITING {
            queue.lines.push_back(line);
            queue.queued += 1;
            self.changed.notify_all();
        } else {
            queue.left_out += 1;
        }
    }

    fn next(&self) -> Line {
        let mut queue = self.lock();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                return line;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn hand_over(&self) {
        let _ = HANDS_OVER.try_with(|hands_over| hands_over.set(true));
        loop {
            self.give(&self.next());
            // Lines are left out while others wait: one that waited is behind them.
            let left_out = std::mem::take(&mut self.lock().left_out);
            if left_out > 0 && Level::WARN <= LEVEL.load() {
                let text = format!("{left_out} lines were left out: the log is taken too slowly");
                self.give(&Line { level: Level::WARN, target: module_path!(), text });
            }
            self.lock().done += 1;
            self.changed.notify_all();
        }
    }

    fn give(&self, line: &Line) {
        if let Some(sink) = &*self.sink.read() {
            sink.take(line);
        }
    }

    fn flush(&self) {
        let queue = self.lock();
        let queued = queue.queued;
        drop(self.changed.wait_timeout_while(queue, LAST_LINES, |queue| queue.done < queued));
    }
}

struct ToSink;

impl Subscriber for ToSink {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The level may change at any time.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= LEVEL.load()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if hands_over() {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let (metadata, text) = (event.metadata(), text.message + &text.fields);
        Way::own().put(Line { level: *metadata.level(), target: metadata.target(), text });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The words of an event, then its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
