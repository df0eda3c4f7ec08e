//! What is around every call: no unwinding into C, a status, a message.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use gcos::Status;
use gcos::status::{Classify, message_of};

use crate::types::gcos_status;

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn invalid(what: &str, expected: &str, got: impl std::fmt::Display) -> Self {
        Self::new(Status::InvalidArgument, format!("{what}: expected {expected}, got {got}"))
    }
}

impl<E: Classify> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error.status(), message_of(&error))
    }
}

thread_local! {
    static LAST: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// Keeps the message for [`gcos_last_error`]. In a thread that is ending there is nowhere to keep it.
fn keep(message: Option<CString>) {
    let _ = LAST.try_with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = message;
        }
    });
}

/// A text as C wants it: what follows a zero byte is lost.
pub(crate) fn c_string(text: &str) -> CString {
    let text = text.split('\0').next().unwrap_or_default();
    CString::new(text).unwrap_or_default()
}

/// Does a call: everything that is called from C goes through here.
pub(crate) fn guard(call: impl FnOnce() -> Result<(), Failure>) -> gcos_status {
    let failure = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => {
            keep(None);
            return Status::Ok.code();
        }
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = words(panic.as_ref());
            Failure::new(Status::Internal, format!("a fault of the library: {text}"))
        }
    };
    keep(Some(c_string(&failure.message)));
    failure.status.code()
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("no words")
}

/// The version of the library, such as "0.1.0". Static.
#[unsafe(no_mangle)]
pub extern "C" fn gcos_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => c"",
        };
    VERSION.as_ptr()
}

/// Why the last call of this thread failed, what was expected and what to do; empty if it did not fail. Valid
/// until the thread's next call.
#[unsafe(no_mangle)]
pub extern "C" fn gcos_last_error() -> *const c_char {
    let kept = LAST.try_with(|last| {
        last.try_borrow().ok().and_then(|last| last.as_ref().map(|text| text.as_ptr()))
    });
    kept.ok().flatten().unwrap_or(c"".as_ptr())
}

/// The name of a status, such as "no_such_key"; "unknown" for a number that is none. Static.
#[unsafe(no_mangle)]
pub extern "C" fn gcos_status_name(status: gcos_status) -> *const c_char {
    let name = match Status::from_code(status) {
        Some(Status::Ok) => c"ok",
        Some(Status::InvalidArgument) => c"invalid_argument",
        Some(Status::Config) => c"config",
        Some(Status::NotAPool) => c"not_a_pool",
        Some(Status::Busy) => c"busy",
        Some(Status::MissingDrive) => c"missing_drive",
        Some(Status::NoSuchKey) => c"no_such_key",
        Some(Status::Full) => c"full",
        Some(Status::WrongSize) => c"wrong_size",
        Some(Status::Io) => c"io",
        Some(Status::Timeout) => c"timeout",
        Some(Status::Closed) => c"closed",
        Some(Status::OutOfMemory) => c"out_of_memory",
        Some(Status::Gpu) => c"gpu",
        Some(Status::Unsupported) => c"unsupported",
        Some(Status::Forked) => c"forked",
        Some(Status::Internal) => c"internal",
        _ => c"unknown",
    };
    name.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> String {
        // SAFETY: the text is valid until this thread's next call.
        unsafe { CStr::from_ptr(gcos_last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_is_a_status_and_a_message_and_the_next_call_is_as_ever() {
        let status = guard(|| panic!("wanted {}", 7));
        assert_eq!(status, Status::Internal.code());
        assert!(last().contains("wanted 7"), "{}", last());
        assert_eq!(guard(|| Ok(())), 0);
        assert_eq!(last(), "");
        let with_zero = || Err(Failure::new(Status::Io, "before\0after"));
        assert_eq!(guard(with_zero), Status::Io.code());
        assert_eq!(last(), "before");
    }

    #[test]
    fn every_status_has_its_name() {
        for status in Status::ALL {
            // SAFETY: the text is static.
            let name = unsafe { CStr::from_ptr(gcos_status_name(status.code())) };
            assert_eq!(name.to_str().unwrap(), status.name());
        }
        // SAFETY: as above.
        assert_eq!(unsafe { CStr::from_ptr(gcos_status_name(7)) }, c"unknown");
    }
}
