/// Result of an Asynchronous Event Request: DW0 of its completion (Base, section 5.2.1, Figure 146).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AsyncEvent(pub u32);

fields!(pub AsyncEvent(u32) {
    /// AET as stored. See [`AsyncEvent::kind`].
    event_type, with_event_type: u8 = 2:0;
    /// AEI: what happened, by type.
    info, with_info: u8 = 15:8;
    /// LID: log page that tells more; reading it re-enables the event.
    log_page, with_log_page: u8 = 23:16;
});

/// Asynchronous event type (Base, Figure 146).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AsyncEventType {
    /// 0h: error status.
    Error,
    /// 1h: SMART / health status.
    Smart,
    /// 2h: notice.
    Notice,
    /// 6h: specific to the I/O command set.
    Io,
    /// 7h: vendor specific.
    Vendor,
    /// Another type, as stored.
    Other(u8),
}

impl AsyncEvent {
    /// SMART information: NVM subsystem reliability (Base, Figure 148).
    pub const SMART_RELIABILITY: u8 = 0;
    /// SMART information: temperature threshold.
    pub const SMART_TEMPERATURE: u8 = 1;
    /// SMART information: spare below threshold.
    pub const SMART_SPARE: u8 = 2;

    /// The event's type.
    #[must_use]
    pub fn kind(self) -> AsyncEventType {
        match self.event_type() {
            0 => AsyncEventType::Error,
            1 => AsyncEventType::Smart,
            2 => AsyncEventType::Notice,
            6 => AsyncEventType::Io,
            7 => AsyncEventType::Vendor,
            other => AsyncEventType::Other(other),
        }
    }

    /// A SMART / health event with the given information.
    #[must_use]
    pub fn smart(info: u8) -> Self {
        Self::default().with_event_type(1).with_info(info).with_log_page(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_figure_says() {
        let event = AsyncEvent::smart(AsyncEvent::SMART_TEMPERATURE);
        assert_eq!(event.0, 0x0002_0101);
        assert_eq!(event.kind(), AsyncEventType::Smart);
        for byte in [0, 1, 2] {
            assert_ne!(AsyncEvent(event.0 ^ 0xFF << (byte * 8)), event);
        }
    }
}
