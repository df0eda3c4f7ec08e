//! What the controller remembers about itself: features, events, error log, SMART data.

use std::collections::VecDeque;

use gcos_hw::SharedMemory;
use gcos_layout::nvme::{
    AsyncEvent, AsyncEventConfig, CriticalWarning, ErrorLogEntry, QueueCounts, SmartLog,
};

use crate::queue::Command;
use crate::storage::MediumCounts;

/// Outstanding Asynchronous Event Requests (AERL).
pub(crate) const AER_LIMIT: usize = 4;
/// Entries of the error log (ELPE).
pub(crate) const ERROR_LOG_ENTRIES: usize = 64;
/// Default over temperature threshold and warning temperature in kelvin.
pub(crate) const WARNING_KELVIN: u16 = 343;
/// Critical temperature in kelvin.
pub(crate) const CRITICAL_KELVIN: u16 = 353;
/// Temperature after power on in kelvin.
const AMBIENT_KELVIN: u16 = 310;
/// Events kept for a host that has no request outstanding.
const PENDING_LIMIT: usize = 64;

/// Feature values; reset gives the defaults back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Features {
    pub(crate) over_kelvin: u16,
    pub(crate) under_kelvin: u16,
    pub(crate) events: AsyncEventConfig,
    /// Queues granted; `None` until asked for.
    pub(crate) queues: Option<QueueCounts>,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            over_kelvin: WARNING_KELVIN,
            under_kelvin: 0,
            events: AsyncEventConfig::default(),
            queues: None,
        }
    }
}

/// Counters over the life of the controller.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Life {
    pub(crate) power_cycles: u64,
    pub(crate) unsafe_shutdowns: u64,
    pub(crate) media_errors: u64,
    pub(crate) errors: u64,
}

#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) features: Features,
    pub(crate) life: Life,
    /// Newest first.
    pub(crate) error_log: VecDeque<ErrorLogEntry>,
    kelvin: u16,
    /// Warnings that were injected; the temperature bit is computed.
    injected: CriticalWarning,
    /// Asynchronous Event Requests that wait.
    pub(crate) requests: VecDeque<Command>,
    /// Events that wait for a request.
    events: VecDeque<AsyncEvent>,
    /// Event types that were reported and whose log page was not read since (bit per type).
    silenced: u8,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self {
            features: Features::default(),
            life: Life { power_cycles: 1, ..Life::default() },
            error_log: VecDeque::new(),
            kelvin: AMBIENT_KELVIN,
            injected: CriticalWarning::default(),
            requests: VecDeque::new(),
            events: VecDeque::new(),
            silenced: 0,
        }
    }

    /// As after a controller reset: requests are gone, features are at their defaults.
    pub(crate) fn reset(&mut self) {
        self.features = Features::default();
        self.requests.clear();
        self.events.clear();
        self.silenced = 0;
    }

    /// Queues an event unless its type waits for the host to read the log page.
    pub(crate) fn raise(&mut self, event: AsyncEvent) {
        let bit = 1 << event.event_type();
        if self.silenced & bit == 0 && self.events.len() < PENDING_LIMIT {
            self.silenced |= bit;
            self.events.push_back(event);
        }
    }

    /// An event with the request that it ends, when there is one of each and the completion queue
    /// has room.
    pub(crate) fn next_report(
        &mut self,
        doorbells: &SharedMemory,
    ) -> Option<(Command, AsyncEvent)> {
        if self.events.is_empty() || !self.requests.front_mut()?.claim(doorbells) {
            return None;
        }
        Some((self.requests.pop_front()?, self.events.pop_front()?))
    }

    /// Whether an event waits although a request is there (the completion queue was full).
    pub(crate) fn is_report_due(&self) -> bool {
        !self.events.is_empty() && !self.requests.is_empty()
    }

    /// Reading a log page lets events that refer to it be reported again.
    pub(crate) fn log_was_read(&mut self, lid: u8) {
        match lid {
            1 => self.silenced &= !1,
            2 => self.silenced &= !2,
            _ => {}
        }
    }

    /// Takes an Asynchronous Event Request: whether there was room.
    pub(crate) fn request(&mut self, mut command: Command) -> Result<(), Command> {
        if self.requests.len() >= AER_LIMIT {
            return Err(command);
        }
        // It may wait for ever and must not hold a completion entry meanwhile.
        command.release();
        self.requests.push_back(command);
        Ok(())
    }

    /// The request with that identifier, for Abort.
    pub(crate) fn take_request(&mut self, cid: u16) -> Option<Command> {
        let at = self.requests.iter().position(|request| request.sqe.cid() == cid)?;
        self.requests.remove(at)
    }

    pub(crate) fn log_error(&mut self, entry: ErrorLogEntry) {
        self.life.errors += 1;
        if entry.status.sct() == gcos_layout::nvme::Status::SCT_MEDIA {
            self.life.media_errors += 1;
        }
        self.error_log.truncate(ERROR_LOG_ENTRIES - 1);
        self.error_log.push_front(ErrorLogEntry { count: self.life.errors, ..entry });
    }

    pub(crate) fn set_temperature(&mut self, kelvin: u16) {
        let before = self.warning();
        self.kelvin = kelvin;
        self.report_new(before);
    }

    pub(crate) fn set_warning(&mut self, warning: CriticalWarning) {
        let before = self.warning();
        self.injected = warning;
        self.report_new(before);
    }

    /// Called when a threshold changed, too: the temperature may be beyond the new one.
    pub(crate) fn report_new(&mut self, before: CriticalWarning) {
        let news = self.warning().0 & !before.0 & self.features.events.critical_warnings();
        for bit in (0..8).filter(|bit| news & (1 << bit) != 0) {
            self.raise(AsyncEvent::smart(match bit {
                0 => AsyncEvent::SMART_SPARE,
                1 => AsyncEvent::SMART_TEMPERATURE,
                _ => AsyncEvent::SMART_RELIABILITY,
            }));
        }
    }

    /// Critical warnings that hold now.
    pub(crate) fn warning(&self) -> CriticalWarning {
        let beyond =
            self.kelvin >= self.features.over_kelvin || self.kelvin <= self.features.under_kelvin;
        self.injected.with_temperature(self.injected.temperature() || beyond)
    }

    pub(crate) fn smart(&self, counts: MediumCounts) -> SmartLog {
        // A unit is 1000 blocks of 512 bytes, rounded up.
        let units = |bytes: u64| u128::from(bytes.div_ceil(512_000));
        let spare = if self.injected.spare() { 5 } else { 100 };
        SmartLog {
            critical_warning: self.warning(),
            temperature: self.kelvin,
            available_spare: spare,
            available_spare_threshold: 10,
            data_units_read: units(counts.bytes_read),
            data_units_written: units(counts.bytes_written),
            host_reads: counts.reads.into(),
            host_writes: counts.writes.into(),
            power_cycles: self.life.power_cycles.into(),
            unsafe_shutdowns: self.life.unsafe_shutdowns.into(),
            media_errors: self.life.media_errors.into(),
            error_entries: self.life.errors.into(),
            sensors: [self.kelvin, 0, 0, 0, 0, 0, 0, 0],
            ..SmartLog::default()
        }
    }
}
