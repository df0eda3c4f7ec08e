use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vfio_bindings::bindings::vfio as sys;

use super::{cure, ioctl};
use crate::{EventFd, HwError};

/// How vectors are switched: by the device's file.
pub(super) trait Router {
    /// Routes vectors `start..` to events.
    fn route(&self, start: usize, events: &[Option<&EventFd>]) -> io::Result<()>;
    /// Switches all vectors off.
    fn silence(&self) -> io::Result<()>;
}

impl Router for BorrowedFd<'_> {
    fn route(&self, start: usize, events: &[Option<&EventFd>]) -> io::Result<()> {
        let start = u32::try_from(start).unwrap_or(u32::MAX);
        ioctl::route_interrupts(*self, sys::VFIO_PCI_MSIX_IRQ_INDEX, start, events)
    }

    fn silence(&self) -> io::Result<()> {
        ioctl::silence_interrupts(*self, sys::VFIO_PCI_MSIX_IRQ_INDEX)
    }
}

/// MSI-X vectors of a device, each routed to an event when first asked for.
///
/// Older kernels (before 6.5), and some platforms, cannot add a vector to those that are on: all are
/// switched off and on again then, and every event is signalled once, since an interrupt in between
/// would have been lost.
#[derive(Debug)]
pub(super) struct Interrupts {
    /// MSI-X table size.
    total: u16,
    /// Vectors that are switched on, from 0.
    enabled: usize,
    events: Vec<Option<Arc<EventFd>>>,
}

impl Interrupts {
    pub(super) fn new(total: u32) -> Self {
        let total = u16::try_from(total).unwrap_or(u16::MAX);
        Self { total, enabled: 0, events: Vec::new() }
    }

    pub(super) fn total(&self) -> u16 {
        self.total
    }

    /// The event of a vector. When it cannot be had, the others work as before.
    pub(super) fn event(
        &mut self,
        router: &impl Router,
        vector: u16,
    ) -> Result<Arc<EventFd>, HwError> {
        if vector >= self.total {
            return Err(HwError::Invalid {
                what: "MSI-X vector",
                expected: "a vector within the drive's MSI-X table",
                got: vector.into(),
            });
        }
        let at = usize::from(vector);
        if let Some(Some(event)) = self.events.get(at) {
            return Ok(Arc::clone(event));
        }
        let event = Arc::new(EventFd::new()?);
        let before = self.events.len();
        self.events.resize(before.max(at + 1), None);
        self.events[at] = Some(Arc::clone(&event));
        if let Err(error) = self.route(router, at) {
            self.events[at] = None;
            self.events.truncate(before);
            let what = format!("routing MSI-X vector {vector} ({})", cure::interrupts(&error));
            return Err(HwError::Os { what, source: error });
        }
        Ok(event)
    }

    fn route(&mut self, router: &impl Router, at: usize) -> io::Result<()> {
        let events: Vec<_> = self.events.iter().map(Option::as_deref).collect();
        let old = self.enabled;
        if old > 0 {
            let added = router.route(at, &events[at..=at]);
            let cannot_add = |e: &io::Error| at >= old && e.raw_os_error() == Some(libc::EINVAL);
            if !added.as_ref().is_err_and(cannot_add) {
                self.enabled = if added.is_ok() { old.max(at + 1) } else { old };
                return added;
            }
            router.silence()?;
            self.enabled = 0;
        }
        let routed = router.route(0, &events);
        match &routed {
            Ok(()) => self.enabled = events.len(),
            // Those that were on go on.
            Err(_) if old > 0 => match router.route(0, &events[..old]) {
                Ok(()) => self.enabled = old,
                Err(error) => tracing::error!(%error, "interrupts stay off"),
            },
            Err(_) => {}
        }
        self.signal_all();
        routed
    }

    /// Wakes everyone who waits for an interrupt.
    pub(super) fn signal_all(&self) {
        self.events.iter().flatten().for_each(|event| event.signal());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A kernel with so many vectors, which can add to those that are on or not.
    #[derive(Debug)]
    struct Kernel {
        most: usize,
        adds: bool,
        /// Whether each vector is routed; empty while all are off.
        on: RefCell<Vec<bool>>,
    }

    impl Router for Kernel {
        fn route(&self, start: usize, events: &[Option<&EventFd>]) -> io::Result<()> {
            let (mut on, end) = (self.on.borrow_mut(), start + events.len());
            if !on.is_empty() && end > on.len() && !self.adds {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            if end > self.most {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            let len = on.len().max(end);
            on.resize(len, false);
            events.iter().zip(start..).for_each(|(event, at)| on[at] = event.is_some());
            Ok(())
        }

        fn silence(&self) -> io::Result<()> {
            self.on.borrow_mut().clear();
            Ok(())
        }
    }

    #[test]
    fn a_vector_that_cannot_be_had_leaves_the_others_on() {
        for adds in [false, true] {
            let kernel = Kernel { most: 4, adds, on: RefCell::default() };
            let mut interrupts = Interrupts::new(64);
            let first = interrupts.event(&kernel, 0).unwrap();
            interrupts.event(&kernel, 2).unwrap();
            assert!(interrupts.event(&kernel, 40).is_err());
            assert_eq!(*kernel.on.borrow(), [true, false, true], "adds: {adds}");
            // Nor does it stand in the way of later ones.
            interrupts.event(&kernel, 3).unwrap();
            interrupts.event(&kernel, 1).unwrap();
            assert_eq!(*kernel.on.borrow(), [true; 4], "adds: {adds}");
            assert!(Arc::ptr_eq(&first, &interrupts.event(&kernel, 0).unwrap()));
            // An interrupt may have been lost while they were off: look.
            assert!(first.take());
        }
    }

    #[test]
    fn vectors_are_added_without_an_interruption_where_the_kernel_can() {
        let kernel = Kernel { most: 64, adds: true, on: RefCell::default() };
        let mut interrupts = Interrupts::new(64);
        let first = interrupts.event(&kernel, 0).unwrap();
        assert!(first.take(), "signalled when switched on");
        interrupts.event(&kernel, 9).unwrap();
        assert!(!first.take());
        assert!(interrupts.event(&kernel, 64).is_err());
    }
}
