//! The log, given to a function of the caller.
//!
//! Whoever logs may hold locks that the function, which may call the library, waits for: a thread of its own hands the
//! lines over, and nobody who logs waits for it.

use std::cell::Cell;
use std::ffi::{CString, c_void};
use std::fmt::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use gcos::Status;
use parking_lot::RwLock;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, Subscriber};
use tracing::{Event, Level, Metadata};

use crate::call::{Failure, c_string, guard};
use crate::types::{
    GCOS_LOG_DEBUG, GCOS_LOG_ERROR, GCOS_LOG_INFO, GCOS_LOG_TRACE, GCOS_LOG_WARN,
    gcos_log_callback, gcos_status,
};

/// How long the end of the function before is awaited.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long lines that were logged already are waited for.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How often they are looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Lines that wait for the function; more are left out.
const WAITING: usize = 1024;

/// Highest level that is wanted; 0 is none.
static LEVEL: AtomicI32 = AtomicI32::new(0);
/// The way of this process, or of its parent; never freed. Null before the log is first given to anybody.
static WAY: AtomicPtr<LogWay> = AtomicPtr::new(std::ptr::null_mut());
/// Whether the process' log is ours: found out once.
static OURS: OnceLock<bool> = OnceLock::new();

thread_local! {
    /// Whether this thread is in the callback.
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

#[derive(Debug, Clone, Copy)]
struct LogSink {
    callback:
        unsafe extern "C" fn(*mut c_void, i32, *const std::ffi::c_char, *const std::ffi::c_char),
    user: *mut c_void,
}

// SAFETY: the header asks for a function and a pointer that may be used from any thread.
unsafe impl Send for LogSink {}
// SAFETY: as above.
unsafe impl Sync for LogSink {}

/// From those who log to the function. A child process gets one of its own, so that no lock that a thread of the
/// parent held is ever waited for, and a thread that is there.
#[derive(Debug)]
struct LogWay {
    process: u32,
    lines: SyncSender<LogLine>,
    sink: RwLock<Option<LogSink>>,
    /// Lines that were queued, and how many of them have been dealt with.
    queued: AtomicU64,
    done: AtomicU64,
    /// Lines that were left out since that was last said.
    left_out: AtomicU64,
}

#[derive(Debug)]
struct LogLine {
    level: i32,
    target: CString,
    text: CString,
}

impl LogWay {
    fn current() -> Option<&'static Self> {
        // SAFETY: null, or a way that was leaked and is only shared since.
        unsafe { WAY.load(Ordering::Acquire).as_ref() }
    }

    /// The way of this process, begun where there is none; a child's begins with the function that its parent had.
    fn own() -> Option<&'static Self> {
        let process = std::process::id();
        loop {
            let found = Self::current();
            if let Some(way) = found.filter(|way| way.process == process) {
                return Some(way);
            }
            let sink = found.and_then(|way| way.sink.try_read().and_then(|sink| *sink));
            let (lines, receiver) = sync_channel(WAITING);
            let made = Box::into_raw(Box::new(Self {
                process,
                lines,
                sink: RwLock::new(sink),
                queued: AtomicU64::new(0),
                done: AtomicU64::new(0),
                left_out: AtomicU64::new(0),
            }));
            let before =
                found.map_or(std::ptr::null_mut(), |found| std::ptr::from_ref(found).cast_mut());
            let order = (Ordering::AcqRel, Ordering::Acquire);
            if WAY.compare_exchange(before, made, order.0, order.1).is_err() {
                // SAFETY: it was made just now and nobody else has seen it.
                drop(unsafe { Box::from_raw(made) });
                continue;
            }
            // SAFETY: it was leaked above and is only shared since.
            let way: &'static Self = unsafe { &*made };
            let thread = std::thread::Builder::new().name("gcos-log".to_owned());
            if thread.spawn(move || way.hand_over(&receiver)).is_err() {
                // Nobody takes the lines of this one: the next call begins another.
                let _ = WAY.compare_exchange(made, before, order.0, order.1);
                return None;
            }
            return Some(way);
        }
    }

    fn queue(&self, line: LogLine) {
        match self.lines.try_send(line) {
            Ok(()) => self.queued.fetch_add(1, Ordering::AcqRel),
            Err(_) => self.left_out.fetch_add(1, Ordering::AcqRel),
        };
    }

    fn hand_over(&self, lines: &Receiver<LogLine>) {
        let _ = IN_CALLBACK.try_with(|inside| inside.set(true));
        while let Ok(line) = lines.recv() {
            self.give(&line);
            // Lines are left out while others wait: one that waited is behind them.
            let left_out = self.left_out.swap(0, Ordering::AcqRel);
            if left_out > 0 {
                let text = format!("{left_out} lines were left out: the log is taken too slowly");
                let (target, text) = (c_string(module_path!()), c_string(&text));
                self.give(&LogLine { level: GCOS_LOG_WARN, target, text });
            }
            self.done.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Calls the function, unless it wants no such line (any more).
    fn give(&self, line: &LogLine) {
        let sink = self.sink.read();
        if let Some(LogSink { callback, user }) = &*sink
            && line.level <= LEVEL.load(Ordering::Relaxed)
        {
            // SAFETY: a function of C's as the header describes it; both texts are valid for the call.
            unsafe { callback(*user, line.level, line.target.as_ptr(), line.text.as_ptr()) };
        }
    }

    /// Waits, not for long, until what has been logged is handed over.
    fn flush(&self) {
        let (begun, queued) = (Instant::now(), self.queued.load(Ordering::Acquire));
        while self.done.load(Ordering::Acquire) < queued && begun.elapsed() < LAST_LINES {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// Waits, not for long, until what has been logged is handed over; a program may end after this call.
pub(crate) fn flush() {
    let own = LogWay::current().filter(|way| way.process == std::process::id());
    if let Some(way) = own.filter(|_| !in_callback()) {
        way.flush();
    }
}

fn in_callback() -> bool {
    IN_CALLBACK.try_with(Cell::get).unwrap_or(true)
}

fn number(level: Level) -> i32 {
    match level {
        Level::ERROR => GCOS_LOG_ERROR,
        Level::WARN => GCOS_LOG_WARN,
        Level::INFO => GCOS_LOG_INFO,
        Level::DEBUG => GCOS_LOG_DEBUG,
        Level::TRACE => GCOS_LOG_TRACE,
    }
}

struct ToCallback;

impl Subscriber for ToCallback {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The level may change at any time.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        number(*metadata.level()) <= LEVEL.load(Ordering::Relaxed)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        // What the function itself makes the library log would never end.
        if in_callback() {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let level = number(*event.metadata().level());
        let (target, text) = (c_string(event.metadata().target()), c_string(&line.whole()));
        if let Some(way) = LogWay::own() {
            way.queue(LogLine { level, target, text });
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The words of an event, then its fields.
#[derive(Debug, Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn whole(self) -> String {
        self.message + &self.fields
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            name => {
                let _ = write!(self.fields, " {name}={value}");
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// Gives the log of the library, up to this level (GCOS_LOG_ERROR to GCOS_LOG_TRACE), to a function, for the whole
/// process and in the place of one before; level 0 and a null pointer end it. The function is called from a thread of
/// the library's, one line at a time, soon after the line was logged; it may call the library, but for gcos_set_log, and
/// what that logs is left out. When it is slow and more than 1024 lines wait, lines are left out, and it is told how
/// many. gcos_open, gcos_close and this wait for it to get the lines so far, 1 second at most. When this returns,
/// no call of the function before is under way, and none follows; GCOS_TIMEOUT when one goes on for 10 seconds, and
/// nothing is changed. GCOS_BUSY when another part of the process takes the log of all Rust libraries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gcos_set_log(
    level: i32,
    callback: gcos_log_callback,
    user: *mut c_void,
) -> gcos_status {
    guard(|| {
        if !(0..=GCOS_LOG_TRACE).contains(&level) {
            return Err(Failure::invalid("level", "0, or GCOS_LOG_ERROR to GCOS_LOG_TRACE", level));
        }
        if callback.is_none() && level != 0 {
            return Err(Failure::invalid("callback", "a function", "a null pointer"));
        }
        if in_callback() {
            let message = "gcos_set_log was called from the function that gets the log";
            return Err(Failure::new(Status::InvalidArgument, message));
        }
        let sink = callback.filter(|_| level != 0).map(|callback| LogSink { callback, user });
        if sink.is_some() {
            let ours = || tracing::subscriber::set_global_default(ToCallback).is_ok();
            if !OURS.get_or_init(ours) {
                let message = "another part of this process takes the log already";
                return Err(Failure::new(Status::Busy, message));
            }
        }
        if sink.is_none() && LogWay::current().is_none() {
            return Ok(());
        }
        let Some(way) = LogWay::own() else {
            return Err(Failure::new(Status::OutOfMemory, "no thread for the log"));
        };
        way.flush();
        let Some(mut current) = way.sink.try_write_for(PATIENCE) else {
            let message = format!("the function before has not returned for {PATIENCE:?}");
            return Err(Failure::new(Status::Timeout, message));
        };
        LEVEL.store(level, Ordering::Relaxed);
        *current = sink;
        Ok(())
    })
}
