//! Admin commands, each waited for with a deadline.

use std::sync::Arc;
use std::time::Duration;

use gcos_hw::DmaSlice;
use gcos_layout::nvme::{AdminCommand, DataPointer};

use crate::NvmeError;
use crate::bounce::BouncePool;
use crate::counters::Counters;
use crate::device::{ALL_ONES, CHECK_INTERVAL, Device, gone};
use crate::inflight::{Command, Label, Request, Segments};
use crate::pair::QueuePair;
use crate::pointer::{Fragments, Position, build_prp};

/// What an admin command needs: no controller state beyond the admin queue, so that it also works
/// while the controller is brought up or recovered.
#[derive(Clone, Copy)]
pub(crate) struct AdminPath<'a> {
    pub(crate) device: &'a Device,
    pub(crate) queue: &'a QueuePair,
    pub(crate) counters: &'a Counters,
    pub(crate) bounces: &'a BouncePool,
}

/// How an admin command failed to end.
#[derive(Debug)]
pub(crate) enum AdminError {
    /// It ended with an error, or could not be started.
    Ended(NvmeError),
    /// It is still in flight after its deadline; only a reset ends it.
    Hung(NvmeError),
}

impl AdminError {
    pub(crate) fn into_inner(self) -> NvmeError {
        match self {
            Self::Ended(error) | Self::Hung(error) => error,
        }
    }
}

impl AdminPath<'_> {
    /// Posts a command whose data, if any, lies in `data`.
    pub(crate) fn post(
        &self,
        command: AdminCommand,
        nsid: u32,
        data: Option<DmaSlice>,
    ) -> Result<Arc<Request>, NvmeError> {
        self.post_with(command, nsid, data, None)
    }

    /// As [`AdminPath::post`], with given PRP entries (Create I/O Queue takes the queue's base).
    fn post_with(
        &self,
        command: AdminCommand,
        nsid: u32,
        data: Option<DmaSlice>,
        base: Option<(u64, u64)>,
    ) -> Result<Arc<Request>, NvmeError> {
        let label = Label { opcode: command.opcode().name(), nsid, lba: 0 };
        let mut inner = self.queue.lock();
        if !inner.open {
            return Err(gone(&self.device.name, "its admin queue is closed"));
        }
        if inner.slots.next_free().is_none() {
            self.queue.reap(&mut inner, self.device, self.counters, self.bounces);
        }
        let Some((slot, cid)) = inner.slots.next_free() else {
            return Err(label.timed_out(&self.device.name, "the admin queue was full"));
        };
        let bounds = || NvmeError::bounds(&self.device.name, "posting an admin command");
        let pointer = match (base, &data) {
            (Some((prp1, prp2)), _) => DataPointer::Prp { prp1, prp2 },
            (None, None) => DataPointer::NONE,
            (None, Some(slice)) => {
                let slices = std::slice::from_ref(slice);
                let fragments = Fragments::new(slices, Position::default(), slice.len());
                build_prp(fragments, &inner.list_area(slot)).map_err(bounds())?
            }
        };
        let request = Request::new(data.into_iter().collect::<Segments>(), Duration::MAX);
        inner.sq.post_entry(&command.encode(cid, nsid, pointer)).map_err(bounds())?;
        inner.slots.fill(Command::new(&request, label, None));
        inner.sq.ring_tail(&*self.device.function);
        drop(inner);
        request.end_posting(None);
        Ok(request)
    }

    /// Posts a command and waits for it. Returns DW0 of the completion.
    pub(crate) fn run(
        &self,
        command: AdminCommand,
        nsid: u32,
        data: Option<DmaSlice>,
        timeout: Duration,
    ) -> Result<u32, AdminError> {
        let request = self.post(command, nsid, data).map_err(AdminError::Ended)?;
        self.wait(&request, command, nsid, timeout)
    }

    /// Creates an I/O queue at the given base address.
    pub(crate) fn create_queue(
        &self,
        command: AdminCommand,
        base: u64,
        timeout: Duration,
    ) -> Result<u32, AdminError> {
        let request =
            self.post_with(command, 0, None, Some((base, 0))).map_err(AdminError::Ended)?;
        self.wait(&request, command, 0, timeout)
    }

    /// Tells the controller the addresses of shadow doorbells and event indexes.
    pub(crate) fn configure_doorbells(
        &self,
        pages: (u64, u64),
        timeout: Duration,
    ) -> Result<u32, AdminError> {
        let command = AdminCommand::DoorbellBufferConfig;
        let request = self.post_with(command, 0, None, Some(pages)).map_err(AdminError::Ended)?;
        self.wait(&request, command, 0, timeout)
    }

    fn wait(
        &self,
        request: &Request,
        command: AdminCommand,
        nsid: u32,
        timeout: Duration,
    ) -> Result<u32, AdminError> {
        let function = &self.device.function;
        let label = Label { opcode: command.opcode().name(), nsid, lba: 0 };
        let began = function.now();
        let end = began.saturating_add(timeout);
        let mut next_look = began.saturating_add(CHECK_INTERVAL);
        let mut spins = 0;
        loop {
            self.queue.try_reap(self.device, self.counters, self.bounces);
            if request.is_done() {
                return request.take_result().map_err(AdminError::Ended);
            }
            let now = function.now();
            if now >= next_look {
                next_look = now.saturating_add(CHECK_INTERVAL);
                if let Some(error) = self.failure(request, label) {
                    return Err(AdminError::Hung(error));
                }
            }
            if now >= end {
                let error = label.timed_out(&self.device.name, "the controller did not answer");
                return Err(AdminError::Hung(error));
            }
            function.relax(spins);
            spins = spins.saturating_add(1);
        }
    }

    /// Why a command in flight will not be answered, if the controller has failed or gone.
    fn failure(&self, request: &Request, label: Label) -> Option<NvmeError> {
        let csts = self.device.csts();
        if csts.rdy() && !csts.cfs() {
            return None;
        }
        // A reset that another thread carries out looks the same. It closes the queue first and ends
        // the command before it opens the queue again.
        if !self.queue.lock().open || request.is_done() {
            return None;
        }
        Some(match csts.is_removed() {
            true => gone(&self.device.name, ALL_ONES),
            false => label.reset(&self.device.name),
        })
    }

    /// Runs a command that fills a structure of `N` bytes, and returns the structure.
    pub(crate) fn fetch<const N: usize>(
        &self,
        command: AdminCommand,
        nsid: u32,
        timeout: Duration,
    ) -> Result<[u8; N], AdminError> {
        let device = &self.device.name;
        let buffer = self
            .device
            .function
            .dma()
            .alloc(N)
            .map_err(NvmeError::platform(device, "allocating an admin buffer"))
            .map_err(AdminError::Ended)?;
        self.run(command, nsid, Some(buffer.as_dma()), timeout)?;
        let mut out = [0; N];
        buffer
            .as_dma()
            .read(0, &mut out)
            .map_err(NvmeError::bounds(device, "reading an admin buffer"))
            .map_err(AdminError::Ended)?;
        Ok(out)
    }
}
