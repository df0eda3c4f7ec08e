//! Asynchronous events: posted, recorded, acknowledged by reading the log page, posted again.

use std::sync::Arc;

use gcos_layout::nvme::{
    AdminCommand, AsyncEvent, AsyncEventConfig, AsyncEventType, Feature, LogPage, NSID_ALL,
    SmartLog,
};
use parking_lot::Mutex;

use crate::admin::AdminError;
use crate::controller::{Controller, State};
use crate::counters::add;
use crate::inflight::Request;

/// Asynchronous Event Requests kept posted, where the controller takes so many.
const POSTED: u16 = 4;

/// What the controller has reported about itself since opening.
#[derive(Debug, Clone, Copy, Default)]
pub struct Health {
    /// Asynchronous events so far.
    pub events: u64,
    /// The last one.
    pub last_event: Option<AsyncEvent>,
    /// The SMART / health log as read after the last SMART event.
    pub smart: Option<SmartLog>,
}

/// Posted requests and what came of earlier ones.
#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<EventState>);

#[derive(Debug, Default)]
struct EventState {
    posted: Vec<Arc<Request>>,
    /// Requests that are to be posted when the queue has room.
    owed: usize,
    health: Health,
}

impl Controller {
    /// What asynchronous events have told, after looking for new ones.
    #[must_use]
    pub fn health(&self) -> Health {
        self.poll_events();
        self.events.0.lock().health
    }

    /// Enables SMART events and posts event requests. Without events everything else works, so
    /// failures are logged only.
    pub(crate) fn arm_events(&self) {
        let config = AsyncEventConfig::default().with_critical_warnings(0x1F);
        let feature = Feature::AsyncEventConfig(config);
        let command = AdminCommand::SetFeatures { feature, save: false };
        if let Err(error) = self.core.path().run(command, 0, None, self.options.admin_timeout) {
            let error = error.into_inner();
            tracing::warn!(device = %self.name(), %error, "asynchronous events stay as they were");
        }
        let mut state = self.events.0.lock();
        // A reset has ended all but those that were posted since, by whoever was handling an event.
        state.posted.retain(|request| !request.is_done());
        let wanted = usize::from(self.facts.identity.async_event_limit.min(POSTED));
        state.owed = wanted.saturating_sub(state.posted.len());
        self.post_event_requests(&mut state);
    }

    fn post_event_requests(&self, state: &mut EventState) {
        while state.owed > 0 {
            match self.core.path().post_event_request() {
                Ok(Some(request)) => state.posted.push(request),
                // The next look at events tries again; after a reset all are posted anew.
                Ok(None) => return,
                Err(error) => {
                    let error = error.into_inner();
                    tracing::debug!(%error, "asynchronous event request not posted");
                }
            }
            state.owed -= 1;
        }
    }

    /// Handles events that have arrived, unless another thread is doing so.
    pub fn poll_events(&self) {
        if self.state() != State::Live {
            return;
        }
        self.core.reap(&self.core.admin);
        let Some(mut state) = self.events.0.try_lock() else { return };
        let mut hung = None;
        // Those that have ended by now: a controller that reports without end keeps nobody here.
        let ended: Vec<_> = state.posted.extract_if(.., |request| request.is_done()).collect();
        for request in ended {
            match request.take_result() {
                Ok(dw0) => hung = hung.or(self.handle_event(&mut state, AsyncEvent(dw0)).err()),
                Err(error) => tracing::debug!(%error, "asynchronous event request ended"),
            }
        }
        self.post_event_requests(&mut state);
        drop(state);
        if let Some(AdminError::Hung(error)) = hung {
            self.reset_because(&error.to_string());
        }
    }

    fn handle_event(&self, state: &mut EventState, event: AsyncEvent) -> Result<(), AdminError> {
        add(&self.core.counters.events, 1);
        state.health.events += 1;
        state.health.last_event = Some(event);
        tracing::warn!(
            device = %self.name(), kind = ?event.kind(), info = event.info(),
            log_page = event.log_page(), "asynchronous event"
        );
        let result = self.acknowledge(state, event);
        state.owed += 1;
        self.post_event_requests(state);
        result
    }

    /// Reads the event's log page, which lets the controller report such events again.
    fn acknowledge(&self, state: &mut EventState, event: AsyncEvent) -> Result<(), AdminError> {
        let timeout = self.options.admin_timeout;
        let lid = event.log_page();
        let read = |bytes| AdminCommand::GetLogPage { lid, bytes, offset: 0, retain_event: false };
        match LogPage::from_lid(lid) {
            Some(LogPage::Error) => {
                self.core.path().fetch::<64>(read(64), NSID_ALL, timeout).map(drop)
            }
            Some(_) => {
                let data = self.core.path().fetch::<512>(read(512), NSID_ALL, timeout)?;
                if event.kind() == AsyncEventType::Smart && lid == LogPage::Smart as u8 {
                    let smart = SmartLog::decode(&data);
                    tracing::warn!(
                        device = %self.name(), warning = smart.critical_warning.0,
                        temperature_kelvin = smart.temperature, spare = smart.available_spare,
                        "SMART / health status"
                    );
                    state.health.smart = Some(smart);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }
}
