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
    /// The admin queue takes no commands: a reset is under way, or the controller is at its end.
    Closed(NvmeError),
}

impl AdminError {
    pub(crate) fn into_inner(self) -> NvmeError {
        match self {
            Self::Ended(error) | Self::Hung(error) | Self::Closed(error) => error,
        }
    }
}

/// An admin command to post.
struct Order {
    command: AdminCommand,
    nsid: u32,
    data: Option<DmaSlice>,
    /// PRP entries of commands that take addresses of something else than data.
    addresses: Option<(u64, u64)>,
}

impl Order {
    fn label(&self) -> Label {
        Label { opcode: self.command.opcode().name(), nsid: self.nsid, lba: 0 }
    }
}

impl AdminPath<'_> {
    /// Posts an Asynchronous Event Request, which ends when the controller has something to tell.
    /// `None` when the queue is full.
    pub(crate) fn post_event_request(&self) -> Result<Option<Arc<Request>>, AdminError> {
        let command = AdminCommand::AsyncEventRequest;
        self.post(&Order { command, nsid: 0, data: None, addresses: None })
    }

    /// Posts a command; `None` when the queue is full.
    fn post(&self, order: &Order) -> Result<Option<Arc<Request>>, AdminError> {
        let mut inner = self.queue.lock();
        if !inner.open {
            return Err(AdminError::Closed(gone(&self.device.name, "its admin queue is closed")));
        }
        if inner.slots.next_free().is_none() {
            self.queue.reap(&mut inner, self.device, self.counters, self.bounces);
        }
        let Some((slot, cid)) = inner.slots.next_free() else { return Ok(None) };
        let bounds = || {
            let bounds = NvmeError::bounds(&self.device.name, "posting an admin command");
            move |out| AdminError::Ended(bounds(out))
        };
        let pointer = match (order.addresses, &order.data) {
            (Some((prp1, prp2)), _) => DataPointer::Prp { prp1, prp2 },
            (None, None) => DataPointer::NONE,
            (None, Some(slice)) => {
                let slices = std::slice::from_ref(slice);
                let fragments = Fragments::new(slices, Position::default(), slice.len());
                build_prp(fragments, &inner.list_area(slot)).map_err(bounds())?
            }
        };
        let segments = order.data.iter().cloned().collect::<Segments>();
        let request = Request::new(segments, Duration::MAX);
        let entry = order.command.encode(cid, order.nsid, pointer);
        inner.sq.post_entry(&entry).map_err(bounds())?;
        inner.slots.fill(Command::new(&request, order.label(), None));
        inner.sq.ring_tail(&*self.device.function);
        drop(inner);
        request.end_posting(None);
        Ok(Some(request))
    }

    /// Posts a command and waits for it. Returns DW0 of the completion. Waits for room in the queue,
    /// too, where others have filled it.
    pub(crate) fn run(
        &self,
        command: AdminCommand,
        nsid: u32,
        data: Option<DmaSlice>,
        timeout: Duration,
    ) -> Result<u32, AdminError> {
        self.carry_out(&Order { command, nsid, data, addresses: None }, timeout)
    }

    /// Creates an I/O queue at the given base address.
    pub(crate) fn create_queue(
        &self,
        command: AdminCommand,
        base: u64,
        timeout: Duration,
    ) -> Result<u32, AdminError> {
        let addresses = Some((base, 0));
        self.carry_out(&Order { command, nsid: 0, data: None, addresses }, timeout)
    }

    /// Tells the controller the addresses of shadow doorbells and event indexes.
    pub(crate) fn configure_doorbells(
        &self,
        pages: (u64, u64),
        timeout: Duration,
    ) -> Result<u32, AdminError> {
        let command = AdminCommand::DoorbellBufferConfig;
        self.carry_out(&Order { command, nsid: 0, data: None, addresses: Some(pages) }, timeout)
    }

    fn carry_out(&self, order: &Order, timeout: Duration) -> Result<u32, AdminError> {
        let function = &self.device.function;
        let label = order.label();
        let mut request = self.post(order)?;
        let began = function.now();
        let end = began.saturating_add(timeout);
        let mut next_look = began.saturating_add(CHECK_INTERVAL);
        let mut spins = 0;
        loop {
            self.queue.try_reap(self.device, self.counters, self.bounces);
            match &request {
                Some(request) if request.is_done() => {
                    return request.take_result().map_err(AdminError::Ended);
                }
                Some(_) => {}
                None => request = self.post(order)?,
            }
            let now = function.now();
            if now >= next_look {
                next_look = now.saturating_add(CHECK_INTERVAL);
                let is_done = || request.as_ref().is_some_and(|request| request.is_done());
                if let Some(error) = self.failure(is_done, label) {
                    return Err(AdminError::Hung(error));
                }
            }
            if now >= end {
                let timed_out = |how| label.timed_out(&self.device.name, how);
                return Err(match request {
                    Some(_) => AdminError::Hung(timed_out("the controller did not answer")),
                    // Those who filled the queue find out why.
                    None => AdminError::Ended(timed_out("the admin queue had no room")),
                });
            }
            function.relax(spins);
            spins = spins.saturating_add(1);
        }
    }

    /// Why a command will not be answered, if the controller has failed or gone.
    fn failure(&self, is_done: impl Fn() -> bool, label: Label) -> Option<NvmeError> {
        let csts = self.device.csts();
        if csts.rdy() && !csts.cfs() {
            return None;
        }
        // A reset that another thread carries out looks the same. It closes the queue first and ends
        // the command before it opens the queue again.
        if !self.queue.lock().open || is_done() {
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
