//! The one list of all fields of `gcos.json`: names, units, ranges, defaults, meanings.
//!
//! The reader takes ranges and defaults from here, error messages and `docs/config.md` (by a test)
//! the names.

use super::KernelWay;

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number within a range, both ends included, and a multiple of `step`.
    Integer {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
        /// What the value must be a multiple of.
        step: u64,
        /// Value when the field is not given; `None` where it must be given or follows from others.
        default: Option<u64>,
    },
    /// `true` or `false`.
    Flag {
        /// Value when the field is not given.
        default: bool,
    },
    /// A list of texts.
    Texts,
    /// One text.
    Text {
        /// What it must be one of; empty where any text will do.
        choices: &'static [&'static str],
        /// Value when the field is not given.
        default: &'static str,
    },
}

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Path from the top, with dots.
    pub path: &'static str,
    /// Unit of the value, or what it is.
    pub unit: &'static str,
    /// What values it takes.
    pub kind: Kind,
}

const fn int(path: &'static str, unit: &'static str, range: [u64; 3], default: u64) -> Field {
    let [min, max, step] = range;
    Field { path, unit, kind: Kind::Integer { min, max, step, default: Some(default) } }
}

const fn required(path: &'static str, unit: &'static str, range: [u64; 3]) -> Field {
    let [min, max, step] = range;
    Field { path, unit, kind: Kind::Integer { min, max, step, default: None } }
}

const fn flag(path: &'static str, default: bool) -> Field {
    Field { path, unit: "true or false", kind: Kind::Flag { default } }
}

const fn text(
    path: &'static str,
    unit: &'static str,
    choices: &'static [&'static str],
    default: &'static str,
) -> Field {
    Field { path, unit, kind: Kind::Text { choices, default } }
}

/// What `kernel_path.force` may name; the empty text is the best way that works.
const WAYS: &[&str] =
    &["", KernelWay::CuFile.name(), KernelWay::IoUring.name(), KernelWay::Posix.name()];

/// Every field, in the order of the document.
pub const FIELDS: &[Field] = &[
    required("disk.number", "drives", [1, 64, 1]),
    Field { path: "disk.paths", unit: "drive paths", kind: Kind::Texts },
    int("disk.namespace_number", "namespaces", [1, 1024, 1], 1),
    int("disk.block_size", "bytes", [512, 4096, 512], 512),
    required("disk.capacity_bytes", "bytes", [1 << 20, 1 << 50, 4096]),
    int("disk.reserve_max_queue_pair_num", "queue pairs", [1, 65_535, 1], 64),
    int("namespace.cpu.qps", "queue pairs", [1, 65_535, 1], 2),
    int("namespace.cpu.queue_depth", "commands", [2, 65_536, 1], 128),
    flag("namespace.cpu.interrupts", false),
    int("namespace.gpu.num", "GPUs", [0, 64, 1], 0),
    int("namespace.gpu.qps", "queue pairs per GPU", [0, 65_535, 1], 0),
    int("namespace.gpu.queue_depth", "commands", [2, 4096, 1], 1024),
    flag("namespace.gpu.fallback", true),
    int("zone_chunk_size_kb.sb", "KiB", [4, 1024, 4], 128),
    int("zone_chunk_size_kb.meta", "KiB", [64, 65_536, 64], 512),
    int("zone_chunk_size_kb.data", "KiB", [256, 131_072, 64], 8192),
    int("pool.meta_percent", "percent", [1, 25, 1], 1),
    int("pool.high_watermark_percent", "percent", [1, 100, 1], 95),
    int("pool.low_watermark_percent", "percent", [1, 100, 1], 90),
    int("pool.relaxed_interval_ms", "milliseconds", [1, 60_000, 1], 100),
    int("pool.io_deadline_ms", "milliseconds", [10, 600_000, 1], 10_000),
    flag("pool.allow_missing", true),
    flag("pool.deallocate", true),
    flag("emulated.volatile_cache", false),
    flag("emulated.direct_io", true),
    int("emulated.workers", "threads", [0, 256, 1], 8),
    flag("kernel_path.use_cufile", true),
    flag("kernel_path.use_direct_io", true),
    text("kernel_path.force", "way", WAYS, ""),
    int("kernel_path.queue_depth", "requests", [1, 4096, 1], 256),
    int("kernel_path.workers", "threads", [1, 256, 1], 8),
    int("kernel_path.cufile_buffer_mib", "MiB per GPU", [0, 65_536, 1], 512),
    text("fallback.path", "file", &[], ""),
    int("fallback.capacity_bytes", "bytes", [0, 1 << 50, 4096], 0),
    int("fallback.max_errors", "errors", [0, 1_000_000, 1], 0),
    int("fallback.latency_multiple", "times", [0, 1_000_000, 1], 0),
];

/// The field at a path.
#[must_use]
pub fn field(path: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|f| f.path == path)
}

/// Names that may stand directly under `section` (`""` for the top), each once.
#[must_use]
pub fn names_under(section: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for field in FIELDS {
        let rest = match section {
            "" => Some(field.path),
            _ => field.path.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')),
        };
        if let Some(name) = rest.and_then(|rest| rest.split('.').next())
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_list_their_names_once() {
        assert_eq!(
            names_under(""),
            [
                "disk",
                "namespace",
                "zone_chunk_size_kb",
                "pool",
                "emulated",
                "kernel_path",
                "fallback"
            ]
        );
        assert_eq!(names_under("namespace"), ["cpu", "gpu"]);
        assert_eq!(names_under("namespace.cpu"), ["qps", "queue_depth", "interrupts"]);
        assert!(names_under("disk.number").is_empty());
    }

    #[test]
    fn defaults_are_within_their_ranges() {
        for field in FIELDS {
            if let Kind::Integer { min, max, step, default: Some(default) } = field.kind {
                assert!((min..=max).contains(&default) && default % step == 0, "{}", field.path);
            }
        }
    }

    #[test]
    fn texts_with_choices_default_to_one_of_them() {
        for field in FIELDS {
            if let Kind::Text { choices, default } = field.kind {
                assert!(choices.is_empty() || choices.contains(&default), "{}", field.path);
            }
        }
    }

    #[test]
    fn the_reference_has_a_row_for_every_field_with_its_default() {
        let text = include_str!("../../docs/config.md");
        for field in FIELDS {
            let cell = format!("| `{}` |", field.path);
            let row = text.lines().find(|line| line.starts_with(&cell));
            let row = row.unwrap_or_else(|| panic!("docs/config.md lacks {}", field.path));
            let default = match field.kind {
                Kind::Integer { default: Some(value), .. } => value.to_string(),
                Kind::Flag { default } => default.to_string(),
                Kind::Text { default, .. } => format!("`\"{default}\"`"),
                _ => continue,
            };
            assert!(row.replace(',', "").contains(&format!("| {default} |")), "{row}: {default}");
        }
    }
}
