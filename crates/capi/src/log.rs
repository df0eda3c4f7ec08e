//! The log, given to a function of the caller.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use gcos::log::{self, LevelFilter, Line, Sink};

use crate::call::{Failure, c_string, guard};
use crate::types::{
    GCOS_LOG_DEBUG, GCOS_LOG_ERROR, GCOS_LOG_INFO, GCOS_LOG_TRACE, GCOS_LOG_WARN,
    gcos_log_callback, gcos_status,
};

/// Levels, each with its number in C.
const LEVELS: &[(i32, LevelFilter)] = &[
    (0, LevelFilter::OFF),
    (GCOS_LOG_ERROR, LevelFilter::ERROR),
    (GCOS_LOG_WARN, LevelFilter::WARN),
    (GCOS_LOG_INFO, LevelFilter::INFO),
    (GCOS_LOG_DEBUG, LevelFilter::DEBUG),
    (GCOS_LOG_TRACE, LevelFilter::TRACE),
];

struct ToCallback {
    callback: unsafe extern "C" fn(*mut c_void, i32, *const c_char, *const c_char),
    user: *mut c_void,
    /// Highest number of a level that it asked for.
    most: i32,
}

// SAFETY: the header asks for a function and a pointer that may be used from any thread.
unsafe impl Send for ToCallback {}
// SAFETY: as above.
unsafe impl Sync for ToCallback {}

impl Sink for ToCallback {
    fn take(&self, line: &Line) {
        let Some((level, _)) = LEVELS.iter().find(|(_, level)| *level == line.level) else {
            return;
        };
        // Lines for the function before, which wanted more, may be left.
        if *level <= self.most {
            let (target, text) = (c_string(line.target), c_string(&line.text));
            // SAFETY: a function of C's as the header describes it; both texts are valid for the call.
            unsafe { (self.callback)(self.user, *level, target.as_ptr(), text.as_ptr()) };
        }
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
        let Some((most, level)) = LEVELS.iter().find(|(number, _)| *number == level) else {
            return Err(Failure::invalid("level", "0, or GCOS_LOG_ERROR to GCOS_LOG_TRACE", level));
        };
        if callback.is_none() && *most != 0 {
            return Err(Failure::invalid("callback", "a function", "a null pointer"));
        }
        let callback = callback.filter(|_| *most != 0);
        let sink =
            callback.map(|callback| Arc::new(ToCallback { callback, user, most: *most }) as _);
        Ok(log::set(*level, sink)?)
    })
}
