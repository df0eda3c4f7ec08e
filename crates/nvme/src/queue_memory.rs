//! Where queues and PRP lists lie, and how given memory is divided among them.

use std::sync::Arc;

use gcos_hw::{DmaSlice, PAGE_BYTES};
use gcos_layout::nvme::{CQE_BYTES, SQE_BYTES};

use crate::device::Device;
use crate::options::ADMIN_ENTRIES;
use crate::pointer::list_pages;
use crate::{Cmb, NvmeError, Options};

/// Where the memory of queues (submission and completion queues, PRP lists) comes from.
///
/// Given memory may be a window into a device, such as a GPU's memory behind its BAR: uncached or
/// write-combined, slow to read. The driver writes to it in aligned pieces of 8 bytes or more, reads
/// nothing but completion entries, and every such store comes before the doorbell that tells of it
/// (see [`gcos_hw::Function::write32`]). It belongs to the controller until the
/// [`crate::Controller`] is dropped, and nobody else may write to it. Its content before does not
/// matter.
#[derive(Debug, Clone, Default)]
pub enum QueueMemory {
    /// Host memory of the function's address space, allocated as needed.
    #[default]
    Host,
    /// The I/O queues in this memory, of [`Options::queue_memory_bytes`] or more, beginning on a page
    /// boundary; the admin queues in host memory.
    Given(DmaSlice),
    /// The admin queues as well.
    GivenForAll(DmaSlice),
}

impl QueueMemory {
    fn given(&self) -> Option<&DmaSlice> {
        match self {
            Self::Host => None,
            Self::Given(memory) | Self::GivenForAll(memory) => Some(memory),
        }
    }

    fn has_admin(&self) -> bool {
        matches!(self, Self::GivenForAll(_))
    }
}

impl PartialEq for QueueMemory {
    /// Whether it is the same memory, not whether it holds the same bytes.
    fn eq(&self, other: &Self) -> bool {
        let same = match (self.given(), other.given()) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                let ((memory_a, offset_a), (memory_b, offset_b)) = (a.memory(), b.memory());
                std::ptr::eq(memory_a, memory_b) && offset_a == offset_b && a.len() == b.len()
            }
            _ => false,
        };
        same && self.has_admin() == other.has_admin()
    }
}

impl Eq for QueueMemory {}

impl Options {
    /// Bytes that [`QueueMemory::Given`] or [`QueueMemory::GivenForAll`] memory must have for these
    /// options. On a controller whose largest transfer (MDTS) is less than
    /// [`Options::max_transfer`], less may do.
    #[must_use]
    pub fn queue_memory_bytes(&self) -> usize {
        self.queue_memory_bytes_at(self.max_transfer)
    }

    /// The same for transfers of so many bytes.
    pub(crate) fn queue_memory_bytes_at(&self, max_transfer: usize) -> usize {
        let in_cmb = self.cmb == Cmb::SubmissionQueues;
        let pair = pair_bytes(self.queue_depth, list_pages(max_transfer), in_cmb);
        let admin = match self.queue_memory.has_admin() {
            true => pair_bytes(ADMIN_ENTRIES, 1, false),
            false => 0,
        };
        pair.saturating_mul(self.io_queue_pairs.into()).saturating_add(admin)
    }
}

/// Bytes of one queue pair: its queues and its lists, each in whole pages.
fn pair_bytes(entries: u32, list_pages: usize, sq_elsewhere: bool) -> usize {
    let sq = if sq_elsewhere { 0 } else { pages(entries as usize * SQE_BYTES) };
    let cq = pages(entries as usize * CQE_BYTES);
    let lists = (entries.saturating_sub(1) as usize).saturating_mul(list_pages * PAGE_BYTES);
    lists.saturating_add(sq + cq)
}

/// Bytes of a submission queue, in whole pages.
pub(crate) fn sq_bytes(entries: u32) -> usize {
    pages(entries as usize * SQE_BYTES)
}

fn pages(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE_BYTES)
}

/// Gives out queue memory piece by piece.
#[derive(Debug)]
pub(crate) struct Carver {
    /// Given memory; `None` to allocate host memory.
    memory: Option<DmaSlice>,
    what: &'static str,
    /// Bytes of it that are given out.
    used: usize,
    /// Bytes needed in all, for the message.
    need: usize,
}

impl Carver {
    /// Host memory.
    pub(crate) fn host() -> Self {
        Self { memory: None, what: "queue memory", used: 0, need: 0 }
    }

    /// `memory`, of which `need` bytes will be taken in all.
    pub(crate) fn of(what: &'static str, memory: DmaSlice, need: usize) -> Self {
        Self { memory: Some(memory), what, used: 0, need }
    }

    /// What the options ask for: memory of the admin queues, memory of the I/O queues. `None` where
    /// the I/O queues go on in the memory of the admin queues.
    pub(crate) fn from_options(options: &Options) -> (Self, Option<Self>) {
        let need = options.queue_memory_bytes();
        let of = |memory: &DmaSlice| Self::of("queue memory", memory.clone(), need);
        match &options.queue_memory {
            QueueMemory::Host => (Self::host(), None),
            QueueMemory::Given(memory) => (Self::host(), Some(of(memory))),
            QueueMemory::GivenForAll(memory) => (of(memory), None),
        }
    }

    /// Corrects what is needed in all.
    pub(crate) fn set_need(&mut self, need: usize) {
        self.need = need;
    }

    /// `len` bytes from a page boundary on.
    pub(crate) fn take(&mut self, device: &Device, len: usize) -> Result<DmaSlice, NvmeError> {
        let Some(memory) = &self.memory else {
            let failed = NvmeError::platform(&device.name, "allocating queue memory");
            return device.function.dma().alloc(len).map(|buffer| buffer.as_dma()).map_err(failed);
        };
        let invalid = |expected: String, got| NvmeError::Invalid {
            device: Arc::clone(&device.name),
            what: self.what,
            expected,
            got,
        };
        if !memory.iova().is_multiple_of(PAGE_BYTES as u64) {
            let expected = format!("an I/O virtual address that is a multiple of {PAGE_BYTES}");
            return Err(invalid(expected, memory.iova()));
        }
        let slice = memory.slice(self.used, len).map_err(|_| {
            let expected =
                format!("{} bytes or more for all queues, as the options are", self.need);
            invalid(expected, memory.len() as u64)
        })?;
        self.used = self.used.saturating_add(pages(len));
        Ok(slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_device::{device, space};

    #[test]
    fn pieces_begin_on_pages_and_do_not_overlap() {
        let space = space();
        let memory = space.alloc(8 * PAGE_BYTES).unwrap().as_dma();
        let device = device(Arc::clone(&space));
        let mut carver = Carver::of("queue memory", memory.clone(), 12_345);
        let lens = [1, 4096, 4097, 100];
        let pieces: Vec<_> = lens.iter().map(|&len| carver.take(&device, len).unwrap()).collect();
        let offsets: Vec<_> = pieces.iter().map(|p| (p.iova() - memory.iova()) / 4096).collect();
        assert_eq!(offsets, [0, 1, 2, 4]);
        let error = carver.take(&device, 3 * PAGE_BYTES + 1).unwrap_err().to_string();
        assert!(error.contains("12345 bytes or more") && error.contains("got 32768"), "{error}");
        carver.take(&device, 3 * PAGE_BYTES).unwrap();
        assert!(carver.take(&device, 1).is_err());
        let odd = memory.slice(512, 4096).unwrap();
        let error = Carver::of("queue memory", odd, 0).take(&device, 64).unwrap_err();
        assert!(error.to_string().contains("multiple of 4096"), "{error}");
    }

    #[test]
    fn memory_is_equal_when_it_is_the_same() {
        let space = space();
        let (a, b) = (space.alloc(8192).unwrap().as_dma(), space.alloc(8192).unwrap().as_dma());
        assert_eq!(QueueMemory::Given(a.clone()), QueueMemory::Given(a.clone()));
        assert_ne!(QueueMemory::Given(a.clone()), QueueMemory::GivenForAll(a.clone()));
        assert_ne!(QueueMemory::Given(a.clone()), QueueMemory::Given(a.slice(0, 4096).unwrap()));
        assert_ne!(QueueMemory::Given(a.clone()), QueueMemory::Given(b));
        assert_ne!(QueueMemory::Given(a), QueueMemory::Host);
    }
}
