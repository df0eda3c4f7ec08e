use crate::{IoError, IoErrorKind};

/// Whether a device is there at all.
#[derive(Debug)]
pub(super) struct GoneRule {
    on: bool,
}

impl GoneRule {
    pub(super) fn new(on: bool) -> Self {
        Self { on }
    }

    /// Says, in words, when an error means that the device is gone.
    pub(super) fn failed(&self, error: &IoError) -> Option<String> {
        (self.on && error.kind == IoErrorKind::Gone).then(|| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_device_that_is_gone_is_gone() {
        let error = |kind| IoError::about("nvme0", kind, "read", "no answer from a reset");
        let said = GoneRule::new(true).failed(&error(IoErrorKind::Gone)).unwrap();
        assert!(said.contains("no answer from a reset"), "{said}");
        for kind in [IoErrorKind::Media, IoErrorKind::Device, IoErrorKind::Timeout] {
            assert_eq!(GoneRule::new(true).failed(&error(kind)), None, "{kind:?}");
        }
        assert_eq!(GoneRule::new(false).failed(&error(IoErrorKind::Gone)), None, "off");
    }
}
