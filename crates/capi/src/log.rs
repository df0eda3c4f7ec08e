//! The log, given to a function of the caller.

use std::cell::Cell;
use std::ffi::c_void;
use std::fmt::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

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
/// Highest level that is wanted; 0 is none.
static LEVEL: AtomicI32 = AtomicI32::new(0);
static SINK: RwLock<Option<LogSink>> = RwLock::new(None);
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
        if IN_CALLBACK.try_with(|inside| inside.replace(true)).unwrap_or(true) {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let (target, line) = (c_string(event.metadata().target()), c_string(&line.whole()));
        if let Some(LogSink { callback, user }) = &*SINK.read() {
            let level = number(*event.metadata().level());
            // SAFETY: a function of C's as the header describes it; both texts are valid for the call.
            unsafe { callback(*user, level, target.as_ptr(), line.as_ptr()) };
        }
        let _ = IN_CALLBACK.try_with(|inside| inside.set(false));
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
/// process and in the place of one before; level 0 and a null pointer end it. When this returns, no call of the function
/// before is under way; GCOS_TIMEOUT when one goes on for 10 seconds, and nothing is changed. GCOS_BUSY when another part of the process takes the log of all Rust libraries.
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
        if IN_CALLBACK.try_with(Cell::get).unwrap_or(true) {
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
        let Some(mut current) = SINK.try_write_for(PATIENCE) else {
            let message = format!("the function before has not returned for {PATIENCE:?}");
            return Err(Failure::new(Status::Timeout, message));
        };
        LEVEL.store(level, Ordering::Relaxed);
        *current = sink;
        Ok(())
    })
}
