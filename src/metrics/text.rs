use std::fmt::Write;

use gcos_store::DriveHealth;

use super::Metric;
use super::histogram::Snapshot;
use super::measures::Op;
use super::table::{self, OF_STATS, values_of};
use crate::Access;

impl Access {
    /// All figures of the pool in the text format of Prometheus, version 0.0.4.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        let (store, measures) = (self.store(), &self.measures);
        let mut text = Text::default();
        text.head(&table::POOL_INFO);
        let uuid = store.pool().pool_uuid;
        text.sample(table::POOL_INFO.name, &[("pool", &uuid), ("version", crate::version())], 1);
        for (metric, value) in OF_STATS.iter().zip(values_of(&store.stats())) {
            text.head(metric);
            text.sample(metric.name, &[], value);
        }
        self.drives(&mut text);
        text.head(&table::CALL_SECONDS);
        for &op in Op::ALL {
            text.histogram(table::CALL_SECONDS.name, ("op", op.name()), &measures.latency(op));
        }
        text.head(&table::CALL_BYTES);
        for &op in Op::ALL {
            text.sample(table::CALL_BYTES.name, &[("op", op.name())], measures.bytes(op));
        }
        let directions = [("read", true), ("write", false)]
            .map(|(name, reads)| (name, measures.direction(reads)));
        text.head(&table::CALLS_UNDER_WAY);
        for (name, direction) in &directions {
            let labels = [("direction", *name)];
            text.sample(table::CALLS_UNDER_WAY.name, &labels, direction.calls);
        }
        text.head(&table::BUSY_SECONDS);
        for (name, direction) in &directions {
            let labels = [("direction", *name)];
            text.sample(table::BUSY_SECONDS.name, &labels, direction.busy.as_secs_f64());
        }
        text.0
    }

    fn drives(&self, text: &mut Text) {
        let drives = self.store().drives();
        let index: Vec<_> = drives.iter().map(|drive| drive.index.to_string()).collect();
        let each = || drives.iter().zip(index.iter().map(String::as_str));
        text.head(&table::DRIVE_UP);
        for (drive, index) in each() {
            let up = u64::from(drive.health == DriveHealth::Online);
            let labels = [
                ("drive", index),
                ("name", drive.name.as_str()),
                ("way", drive.way.as_str()),
                ("health", health(drive.health)),
            ];
            text.sample(table::DRIVE_UP.name, &labels, up);
        }
        text.each(&table::DRIVE_SPILL, each().map(|(d, index)| (index, u64::from(d.spill))));
        text.each(&table::DRIVE_USED_BYTES, each().map(|(d, index)| (index, d.used_bytes)));
        text.each(&table::DRIVE_CAPACITY_BYTES, each().map(|(d, index)| (index, d.capacity_bytes)));
        text.each(&table::DRIVE_DEMOTIONS, each().map(|(d, index)| (index, d.demotions)));
        text.each(&table::DRIVE_REQUESTS, each().map(|(d, i)| (i, d.requests_under_way)));
        text.each(&table::DRIVE_BYTES, each().map(|(d, i)| (i, d.bytes_under_way)));
    }
}

fn health(health: DriveHealth) -> &'static str {
    match health {
        DriveHealth::Online => "online",
        DriveHealth::ReadOnly => "read_only",
        DriveHealth::Demoted => "demoted",
        DriveHealth::Gone => "gone",
        DriveHealth::Missing => "missing",
        _ => "unknown",
    }
}

/// The text as it grows. Writing to a string does not fail.
#[derive(Debug, Default)]
struct Text(String);

impl Text {
    fn head(&mut self, metric: &Metric) {
        let Metric { name, kind, help } = metric;
        let kind = kind.name();
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", escaped(value));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn each<'a>(&mut self, metric: &Metric, drives: impl Iterator<Item = (&'a str, u64)>) {
        self.head(metric);
        for (index, value) in drives {
            self.sample(metric.name, &[("drive", index)], value);
        }
    }

    fn histogram(&mut self, name: &str, label: (&str, &str), snapshot: &Snapshot) {
        let bucket = format!("{name}_bucket");
        for (bound, count) in snapshot.cumulative() {
            self.sample(&bucket, &[label, ("le", &bound.to_string())], count);
        }
        self.sample(&bucket, &[label, ("le", "+Inf")], snapshot.count());
        self.sample(&format!("{name}_sum"), &[label], snapshot.seconds());
        self.sample(&format!("{name}_count"), &[label], snapshot.count());
    }
}

/// A value of a label as it is written.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_labels_are_escaped() {
        let mut text = Text::default();
        text.sample("m", &[("a", "x\\y\"z\nw"), ("b", "")], 7);
        assert_eq!(text.0, "m{a=\"x\\\\y\\\"z\\nw\",b=\"\"} 7\n");
    }
}
