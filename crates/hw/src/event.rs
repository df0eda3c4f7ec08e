use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::HwError;

/// An event counter (Linux `eventfd`): what VFIO and the software controller signal interrupts by.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A non-blocking event with count 0, closed on exec.
    ///
    /// # Errors
    /// [`HwError::Os`] when the process has no file descriptor left.
    pub fn new() -> Result<Self, HwError> {
        // SAFETY: no pointers; the returned descriptor is checked and then owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(HwError::last_os("eventfd"));
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds one to the count and wakes waiters.
    pub fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: 8 readable bytes. EAGAIN (count full) still leaves the event signalled.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes the count without waiting: whether it was signalled since the last call.
    #[must_use]
    pub fn take(&self) -> bool {
        let mut count = [0u8; 8];
        // SAFETY: 8 writable bytes; non-blocking.
        let got = unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        got == 8
    }

    /// Waits until signalled or until `timeout` passed, and takes the count: whether it was
    /// signalled. An interrupted wait may return early with `false`.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().min(i32::MAX as u64) as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: one valid pollfd and a valid timespec; no signal mask.
        let ready = unsafe { libc::ppoll(&mut poll, 1, &timeout, std::ptr::null()) };
        ready > 0 && self.take()
    }

    /// Waits until this or the other event is signalled, or `timeout` has passed: whether either may
    /// be. Takes no count.
    #[must_use]
    pub(crate) fn wait_or(&self, other: &EventFd, timeout: Duration) -> bool {
        let poll = |event: &EventFd| libc::pollfd {
            fd: event.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let mut polls = [poll(self), poll(other)];
        let milliseconds = timeout.as_millis().min(i32::MAX as u128) as libc::c_int;
        // SAFETY: two valid pollfds.
        unsafe { libc::poll(polls.as_mut_ptr(), 2, milliseconds) > 0 }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_counted_once_and_waits_end() {
        let event = EventFd::new().unwrap();
        assert!(!event.take());
        assert!(!event.wait(Duration::from_millis(1)));
        event.signal();
        event.signal();
        assert!(event.wait(Duration::from_secs(5)));
        assert!(!event.take());
    }
}
