use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vfio_bindings::bindings::vfio as sys;

use super::{cure, ioctl};
use crate::{EventFd, HwError};

/// MSI-X vectors of a device, each routed to an event when first asked for.
///
/// Kernels before 6.6 cannot add a vector to those that are on: all are switched off and on again
/// then, and every event is signalled once, since an interrupt in between would have been lost.
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

    /// The event of a vector, routed by the device behind `fd`.
    pub(super) fn event(
        &mut self,
        fd: BorrowedFd<'_>,
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
        self.events.resize(self.events.len().max(at + 1), None);
        self.events[at] = Some(Arc::clone(&event));
        if let Err(error) = self.route(fd, at) {
            self.events[at] = None;
            let what = format!("routing MSI-X vector {vector} ({})", cure::interrupts(&error));
            return Err(HwError::Os { what, source: error });
        }
        Ok(event)
    }

    fn route(&mut self, fd: BorrowedFd<'_>, at: usize) -> io::Result<()> {
        let index = sys::VFIO_PCI_MSIX_IRQ_INDEX;
        if at < self.enabled {
            return ioctl::route_interrupts(fd, index, at as u32, &[self.events[at].as_deref()]);
        }
        if self.enabled > 0 {
            ioctl::silence_interrupts(fd, index)?;
            self.enabled = 0;
        }
        let events: Vec<_> = self.events.iter().map(Option::as_deref).collect();
        ioctl::route_interrupts(fd, index, 0, &events)?;
        self.enabled = events.len();
        self.signal_all();
        Ok(())
    }

    /// Wakes everyone who waits for an interrupt.
    pub(super) fn signal_all(&self) {
        self.events.iter().flatten().for_each(|event| event.signal());
    }
}
