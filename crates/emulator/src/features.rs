//! Set Features and Get Features.

use gcos_layout::nvme::{Feature, FeatureId, QueueCounts, Status};

use crate::controller::Controller;
use crate::health::Features;

/// Get Features SEL values.
const SELECT_CURRENT: u8 = 0;
const SELECT_CAPABILITIES: u8 = 3;
/// Capability of every feature here: changeable, neither saveable nor per namespace.
const CHANGEABLE: u32 = 1 << 2;
/// A number of queues that is stored like this is reserved (Base, Figure 323).
const RESERVED_COUNT: u32 = 65_536;

fn invalid_field() -> Status {
    Status::INVALID_FIELD.with_dnr(true)
}

impl Controller {
    /// Queue pairs that the host may create.
    pub(crate) fn granted(&self) -> QueueCounts {
        let most = u32::from(self.limits.max_queue_pairs);
        self.health.lock().features.queues.unwrap_or(QueueCounts { sq: most, cq: most })
    }

    pub(crate) fn set_feature(
        &self,
        feature: Feature,
        save: bool,
        raw: u32,
    ) -> Result<u32, Status> {
        if save {
            return Err(Status::FEATURE_NOT_SAVEABLE.with_dnr(true));
        }
        match feature {
            Feature::NumberOfQueues(asked) => self.set_queue_counts(asked),
            Feature::VolatileWriteCache { enabled } => {
                if !self.storage.is_volatile() {
                    return Err(invalid_field());
                }
                self.storage.set_cache_enabled(enabled).map_err(|error| {
                    tracing::error!(%error, "write cache could not be emptied");
                    Status::INTERNAL_ERROR
                })?;
                Ok(0)
            }
            Feature::TemperatureThreshold { kelvin, sensor, .. } => {
                // Sensor 0 is the composite, 1 the only one there is, 15 stands for all.
                let under = match raw >> 20 & 0x3 {
                    0 => false,
                    1 => true,
                    _ => return Err(invalid_field()),
                };
                if !matches!(sensor, 0 | 1 | 15) {
                    return Err(invalid_field());
                }
                let mut health = self.health.lock();
                let before = health.warning();
                match under {
                    true => health.features.under_kelvin = kelvin,
                    false => health.features.over_kelvin = kelvin,
                }
                health.report_new(before);
                drop(health);
                self.report();
                Ok(0)
            }
            Feature::AsyncEventConfig(config) => {
                self.health.lock().features.events = config;
                Ok(0)
            }
        }
    }

    /// Queues are counted once, before the first one is created (Base, section 5.27.1.5).
    fn set_queue_counts(&self, asked: QueueCounts) -> Result<u32, Status> {
        if asked.sq == RESERVED_COUNT || asked.cq == RESERVED_COUNT {
            return Err(invalid_field());
        }
        let any_queue = {
            let queues = self.queues.read();
            queues.sqs.iter().skip(1).any(Option::is_some)
                || queues.cqs.iter().skip(1).any(Option::is_some)
        };
        if any_queue {
            return Err(Status::SEQUENCE_ERROR.with_dnr(true));
        }
        let most = u32::from(self.limits.max_queue_pairs);
        let granted = QueueCounts { sq: asked.sq.min(most), cq: asked.cq.min(most) };
        self.health.lock().features.queues = Some(granted);
        Ok(Feature::NumberOfQueues(granted).to_dword())
    }

    pub(crate) fn get_feature(&self, id: FeatureId, select: u8, cdw11: u32) -> Result<u32, Status> {
        if select == SELECT_CAPABILITIES {
            return Ok(CHANGEABLE);
        }
        if select > SELECT_CAPABILITIES {
            return Err(invalid_field());
        }
        let current = select == SELECT_CURRENT;
        let features = if current { self.health.lock().features } else { Features::default() };
        Ok(match id {
            FeatureId::NumberOfQueues => {
                let most = u32::from(self.limits.max_queue_pairs);
                let counts = features.queues.unwrap_or(QueueCounts { sq: most, cq: most });
                Feature::NumberOfQueues(counts).to_dword()
            }
            FeatureId::VolatileWriteCache => {
                if !self.storage.is_volatile() {
                    return Err(invalid_field());
                }
                u32::from(!current || self.storage.cache_enabled())
            }
            FeatureId::AsyncEventConfig => features.events.0,
            FeatureId::TemperatureThreshold => match (cdw11 >> 16 & 0xF, cdw11 >> 20 & 0x3) {
                (0 | 1, 0) => features.over_kelvin.into(),
                (0 | 1, 1) => features.under_kelvin.into(),
                _ => return Err(invalid_field()),
            },
        })
    }
}
