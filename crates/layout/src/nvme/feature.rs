use super::CommandError;

/// Feature identifier (Base, section 5.27.1, Figure 316), those that GCOS uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FeatureId {
    /// Temperature Threshold.
    TemperatureThreshold = 0x04,
    /// Volatile Write Cache.
    VolatileWriteCache = 0x06,
    /// Number of Queues.
    NumberOfQueues = 0x07,
    /// Asynchronous Event Configuration.
    AsyncEventConfig = 0x0B,
}

impl FeatureId {
    /// From the FID field.
    ///
    /// # Errors
    /// [`CommandError::Field`] for a feature that is not used here.
    pub fn from_fid(fid: u8) -> Result<Self, CommandError> {
        match fid {
            0x04 => Ok(Self::TemperatureThreshold),
            0x06 => Ok(Self::VolatileWriteCache),
            0x07 => Ok(Self::NumberOfQueues),
            0x0B => Ok(Self::AsyncEventConfig),
            _ => Err(CommandError::Field {
                field: "FID",
                value: fid.into(),
                expected: "feature 04h, 06h, 07h or 0Bh",
            }),
        }
    }
}

/// Numbers of I/O queues, as plain counts (stored 0's based).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QueueCounts {
    /// I/O submission queues, 1..=65536.
    pub sq: u32,
    /// I/O completion queues, 1..=65536.
    pub cq: u32,
}

/// Which asynchronous events the controller may report (Base, Figure 326).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AsyncEventConfig(pub u32);

fields!(pub AsyncEventConfig(u32) {
    /// SMART / health critical warnings, by the bits of the SMART log's critical warning.
    critical_warnings, with_critical_warnings: u8 = 7:0;
    /// Namespace attribute notices.
    namespace_notices, with_namespace_notices: bool = 8:8;
    /// Firmware activation notices.
    firmware_notices, with_firmware_notices: bool = 9:9;
});

/// A feature with its value: CDW11 of Set Features, DW0 of Get Features' completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Temperature Threshold (Base, Figure 319).
    TemperatureThreshold {
        /// TMPTH in kelvin.
        kelvin: u16,
        /// TMPSEL: sensor, 0 is the composite temperature.
        sensor: u8,
        /// THSEL: 0 over temperature, 1 under temperature.
        under: bool,
    },
    /// Volatile Write Cache (Base, Figure 322).
    VolatileWriteCache {
        /// WCE: the cache is used.
        enabled: bool,
    },
    /// Number of Queues (Base, Figures 323 and 324): asked for, or granted.
    NumberOfQueues(QueueCounts),
    /// Asynchronous Event Configuration.
    AsyncEventConfig(AsyncEventConfig),
}

fields!(Threshold(u32) {
    /// TMPTH.
    tmpth, with_tmpth: u16 = 15:0;
    /// TMPSEL.
    tmpsel, with_tmpsel: u8 = 19:16;
    /// THSEL.
    thsel, with_thsel: u8 = 21:20;
});

#[derive(Clone, Copy)]
struct Threshold(u32);

impl Feature {
    /// Which feature it is.
    #[must_use]
    pub fn id(&self) -> FeatureId {
        match self {
            Self::TemperatureThreshold { .. } => FeatureId::TemperatureThreshold,
            Self::VolatileWriteCache { .. } => FeatureId::VolatileWriteCache,
            Self::NumberOfQueues(_) => FeatureId::NumberOfQueues,
            Self::AsyncEventConfig(_) => FeatureId::AsyncEventConfig,
        }
    }

    /// The value as a dword.
    #[must_use]
    pub fn to_dword(&self) -> u32 {
        match *self {
            Self::TemperatureThreshold { kelvin, sensor, under } => {
                Threshold(0).with_tmpth(kelvin).with_tmpsel(sensor).with_thsel(under.into()).0
            }
            Self::VolatileWriteCache { enabled } => enabled.into(),
            Self::NumberOfQueues(QueueCounts { sq, cq }) => {
                sq.saturating_sub(1) & 0xFFFF | cq.saturating_sub(1) << 16
            }
            Self::AsyncEventConfig(config) => config.0,
        }
    }

    /// From a value as a dword.
    #[must_use]
    pub fn from_dword(id: FeatureId, dword: u32) -> Self {
        match id {
            FeatureId::TemperatureThreshold => Self::TemperatureThreshold {
                kelvin: Threshold(dword).tmpth(),
                sensor: Threshold(dword).tmpsel(),
                under: Threshold(dword).thsel() == 1,
            },
            FeatureId::VolatileWriteCache => Self::VolatileWriteCache { enabled: dword & 1 != 0 },
            FeatureId::NumberOfQueues => {
                let counts = QueueCounts { sq: (dword & 0xFFFF) + 1, cq: (dword >> 16) + 1 };
                Self::NumberOfQueues(counts)
            }
            FeatureId::AsyncEventConfig => Self::AsyncEventConfig(AsyncEventConfig(dword)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [Feature; 4] {
        [
            Feature::TemperatureThreshold { kelvin: 343, sensor: 2, under: true },
            Feature::VolatileWriteCache { enabled: true },
            Feature::NumberOfQueues(QueueCounts { sq: 9, cq: 17 }),
            Feature::AsyncEventConfig(AsyncEventConfig(0x0300).with_critical_warnings(0x1F)),
        ]
    }

    #[test]
    fn features_round_trip() {
        for feature in all() {
            assert_eq!(Feature::from_dword(feature.id(), feature.to_dword()), feature);
            assert_eq!(FeatureId::from_fid(feature.id() as u8), Ok(feature.id()));
        }
        assert!(FeatureId::from_fid(0x0A).is_err());
    }

    #[test]
    fn queue_numbers_are_stored_zeroes_based() {
        let feature = Feature::NumberOfQueues(QueueCounts { sq: 1, cq: 65_536 });
        assert_eq!(feature.to_dword(), 0xFFFF_0000);
    }

    #[test]
    fn a_change_of_any_defined_byte_shows() {
        let bytes = [3, 1, 4, 2];
        for (feature, bytes) in all().into_iter().zip(bytes) {
            for byte in 0..bytes {
                let bad = feature.to_dword() ^ 0xFF << (byte * 8);
                assert_ne!(Feature::from_dword(feature.id(), bad), feature, "byte {byte}");
            }
        }
    }
}
