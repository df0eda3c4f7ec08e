use super::bits::{put_at, u16_at, u32_at, u128_at};

/// Critical warnings of the SMART log (Base, Figure 207, byte 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CriticalWarning(pub u8);

fields!(pub CriticalWarning(u8) {
    /// Spare below threshold.
    spare, with_spare: bool = 0:0;
    /// Temperature beyond a threshold.
    temperature, with_temperature: bool = 1:1;
    /// Reliability degraded by media or internal errors.
    reliability, with_reliability: bool = 2:2;
    /// The medium is read only.
    read_only, with_read_only: bool = 3:3;
    /// The backup of volatile memory has failed.
    backup_failed, with_backup_failed: bool = 4:4;
});

/// SMART / Health Information log, 512 bytes (Base, section 5.16.1.3, Figure 207).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SmartLog {
    /// Critical warnings.
    pub critical_warning: CriticalWarning,
    /// Composite temperature in kelvin.
    pub temperature: u16,
    /// Available spare in percent.
    pub available_spare: u8,
    /// Available spare threshold in percent.
    pub available_spare_threshold: u8,
    /// Percentage of life used; may exceed 100.
    pub percentage_used: u8,
    /// Data units read, each 1000 blocks of 512 bytes.
    pub data_units_read: u128,
    /// Data units written.
    pub data_units_written: u128,
    /// Read commands.
    pub host_reads: u128,
    /// Write commands.
    pub host_writes: u128,
    /// Busy time in minutes.
    pub busy_minutes: u128,
    /// Power cycles.
    pub power_cycles: u128,
    /// Power-on hours.
    pub power_on_hours: u128,
    /// Shutdowns without notification.
    pub unsafe_shutdowns: u128,
    /// Media and data integrity errors.
    pub media_errors: u128,
    /// Error log entries over the controller's life.
    pub error_entries: u128,
    /// Minutes at or above the warning temperature.
    pub warning_minutes: u32,
    /// Minutes at or above the critical temperature.
    pub critical_minutes: u32,
    /// Temperature sensors in kelvin, 0 for those that are not there.
    pub sensors: [u16; 8],
}

impl SmartLog {
    /// Size in bytes.
    pub const BYTES: usize = 512;

    /// As transferred.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0] = self.critical_warning.0;
        put_at(&mut out, 1, &self.temperature.to_le_bytes());
        out[3] = self.available_spare;
        out[4] = self.available_spare_threshold;
        out[5] = self.percentage_used;
        for (index, counter) in self.counters().into_iter().enumerate() {
            put_at(&mut out, 32 + index * 16, &counter.to_le_bytes());
        }
        put_at(&mut out, 192, &self.warning_minutes.to_le_bytes());
        put_at(&mut out, 196, &self.critical_minutes.to_le_bytes());
        for (index, sensor) in self.sensors.iter().enumerate() {
            put_at(&mut out, 200 + index * 2, &sensor.to_le_bytes());
        }
        out
    }

    /// The 128-bit counters in the order of the log.
    fn counters(&self) -> [u128; 10] {
        [
            self.data_units_read,
            self.data_units_written,
            self.host_reads,
            self.host_writes,
            self.busy_minutes,
            self.power_cycles,
            self.power_on_hours,
            self.unsafe_shutdowns,
            self.media_errors,
            self.error_entries,
        ]
    }

    /// From what was transferred.
    #[must_use]
    pub fn decode(data: &[u8; Self::BYTES]) -> Self {
        let counter = |index: usize| u128_at(data, 32 + index * 16);
        Self {
            critical_warning: CriticalWarning(data[0]),
            temperature: u16_at(data, 1),
            available_spare: data[3],
            available_spare_threshold: data[4],
            percentage_used: data[5],
            data_units_read: counter(0),
            data_units_written: counter(1),
            host_reads: counter(2),
            host_writes: counter(3),
            busy_minutes: counter(4),
            power_cycles: counter(5),
            power_on_hours: counter(6),
            unsafe_shutdowns: counter(7),
            media_errors: counter(8),
            error_entries: counter(9),
            warning_minutes: u32_at(data, 192),
            critical_minutes: u32_at(data, 196),
            sensors: std::array::from_fn(|i| u16_at(data, 200 + i * 2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::bits::{bytes_at, each_corrupt_byte_shows};

    #[test]
    fn log_round_trips_and_each_used_byte_matters() {
        let log = SmartLog {
            critical_warning: CriticalWarning::default().with_temperature(true),
            temperature: 320,
            available_spare: 100,
            available_spare_threshold: 10,
            percentage_used: 3,
            data_units_read: 1 << 100,
            data_units_written: 2,
            host_reads: 3,
            host_writes: 4,
            busy_minutes: 5,
            power_cycles: 6,
            power_on_hours: 7,
            unsafe_shutdowns: 8,
            media_errors: 9,
            error_entries: 10,
            warning_minutes: 11,
            critical_minutes: 12,
            sensors: [1, 2, 3, 4, 5, 6, 7, 8],
        };
        assert_eq!(SmartLog::decode(&log.encode()), log);
        each_corrupt_byte_shows(&log.encode(), (0..6).chain(32..216), |b| {
            SmartLog::decode(&bytes_at(b, 0))
        });
    }
}
