//! From the document to a [`Config`]: field by field, then the rules between fields.

use gcos_layout::media::ZoneMap;

use super::kernel::{Fallback, KernelPaths, KernelWay};
use super::path::PathKind;
use super::problem::ConfigError;
use super::reader::{Reader, Section};
use super::tree::Node;
use super::{Config, CpuQueues, Disk, Emulated, GpuQueues, Namespace, Pool, ZoneChunkSizeKb};

pub(super) fn parse(text: &str, name: &str) -> Result<Config, ConfigError> {
    let node: Node = serde_json::from_str(text).map_err(|source| ConfigError::Syntax {
        name: name.to_owned(),
        line: source.line(),
        column: source.column(),
        source,
    })?;
    let mut reader = Reader::default();
    let config = config(&mut reader, &node);
    if reader.problems.is_empty() {
        return Ok(config);
    }
    Err(ConfigError::Invalid { name: name.to_owned(), problems: reader.problems })
}

fn config(r: &mut Reader, node: &Node) -> Config {
    let top = r.top(node);
    let config = Config {
        disk: disk(r, &top),
        namespace: namespace(r, &top),
        zone_chunk_size_kb: zones(r, &top),
        pool: pool(r, &top),
        emulated: emulated(r, &top),
        kernel_path: kernel_path(r, &top),
        fallback: fallback(r, &top),
        overrides: Vec::new(),
    };
    check_spill(r, &config);
    check_queues(r, &config);
    check_watermarks(r, &config.pool);
    check_zones(r, &config);
    r.problems.extend(config.impossible_ways());
    config
}

fn disk(r: &mut Reader, top: &Section<'_>) -> Disk {
    let s = &r.section(top, "disk");
    let disk = Disk {
        number: r.integer(s, "number"),
        paths: r.texts(s, "paths"),
        namespace_number: r.integer32(s, "namespace_number"),
        block_size: r.integer32(s, "block_size"),
        capacity_bytes: r.integer(s, "capacity_bytes"),
        reserve_max_queue_pair_num: r.integer32(s, "reserve_max_queue_pair_num"),
    };
    if !matches!(disk.block_size, 512 | 4096) && !r.has_problem("disk.block_size") {
        let message = format!("expected 512 or 4096 (bytes), got {}", disk.block_size);
        r.problem("disk.block_size", message);
    }
    let paths = disk.paths.len();
    let number_is_good = s.has("number") && !r.has_problem("disk.number");
    if s.has("paths") && paths == 0 && !r.has_problem("disk.paths") {
        r.problem("disk.paths", "names no drive; expected at least one");
    } else if s.has("paths") && number_is_good && disk.number != paths as u64 {
        let number = disk.number;
        let message = format!("is {number}, and disk.paths has {paths} entries; expected the same");
        r.problem("disk.number", message);
    }
    check_paths(r, &disk);
    disk
}

fn check_paths(r: &mut Reader, disk: &Disk) {
    for (index, text) in disk.paths.iter().enumerate() {
        let at = format!("disk.paths[{index}]");
        match PathKind::parse(text) {
            Err(error) => r.problem(&at, error.to_string()),
            Ok(PathKind::EmulatedRam(bytes)) => {
                if bytes < disk.capacity_bytes {
                    let wanted = disk.capacity_bytes;
                    let message = format!(
                        "holds {bytes} bytes and disk.capacity_bytes asks for {wanted} of each drive"
                    );
                    r.problem(&at, message);
                }
            }
            Ok(_) if disk.paths.iter().take(index).any(|earlier| earlier == text) => {
                r.problem(&at, format!("{text:?} is given more than once"));
            }
            Ok(_) => {}
        }
    }
}

fn namespace(r: &mut Reader, top: &Section<'_>) -> Namespace {
    let s = &r.section(top, "namespace");
    let cpu = &r.section(s, "cpu");
    let gpu = &r.section(s, "gpu");
    Namespace {
        cpu: CpuQueues {
            qps: r.integer32(cpu, "qps"),
            queue_depth: r.integer32(cpu, "queue_depth"),
            interrupts: r.flag(cpu, "interrupts"),
        },
        gpu: GpuQueues {
            num: r.integer32(gpu, "num"),
            qps: r.integer32(gpu, "qps"),
            queue_depth: r.integer32(gpu, "queue_depth"),
            fallback: r.flag(gpu, "fallback"),
        },
    }
}

fn zones(r: &mut Reader, top: &Section<'_>) -> ZoneChunkSizeKb {
    let s = &r.section(top, "zone_chunk_size_kb");
    ZoneChunkSizeKb {
        sb: r.integer32(s, "sb"),
        meta: r.integer32(s, "meta"),
        data: r.integer32(s, "data"),
    }
}

fn pool(r: &mut Reader, top: &Section<'_>) -> Pool {
    let s = &r.section(top, "pool");
    Pool {
        meta_percent: r.integer32(s, "meta_percent"),
        high_watermark_percent: r.integer32(s, "high_watermark_percent"),
        low_watermark_percent: r.integer32(s, "low_watermark_percent"),
        relaxed_interval_ms: r.integer32(s, "relaxed_interval_ms"),
        io_deadline_ms: r.integer32(s, "io_deadline_ms"),
        allow_missing: r.flag(s, "allow_missing"),
        deallocate: r.flag(s, "deallocate"),
    }
}

fn emulated(r: &mut Reader, top: &Section<'_>) -> Emulated {
    let s = &r.section(top, "emulated");
    Emulated {
        volatile_cache: r.flag(s, "volatile_cache"),
        direct_io: r.flag(s, "direct_io"),
        workers: r.integer32(s, "workers"),
    }
}

fn kernel_path(r: &mut Reader, top: &Section<'_>) -> KernelPaths {
    let s = &r.section(top, "kernel_path");
    KernelPaths {
        use_cufile: r.flag(s, "use_cufile"),
        use_direct_io: r.flag(s, "use_direct_io"),
        force: KernelWay::named(&r.text(s, "force")),
        queue_depth: r.integer32(s, "queue_depth"),
        workers: r.integer32(s, "workers"),
        cufile_buffer_mib: r.integer32(s, "cufile_buffer_mib"),
    }
}

fn fallback(r: &mut Reader, top: &Section<'_>) -> Fallback {
    let s = &r.section(top, "fallback");
    let fallback = Fallback {
        path: r.text(s, "path"),
        capacity_bytes: r.integer(s, "capacity_bytes"),
        max_errors: r.integer32(s, "max_errors"),
        latency_multiple: r.integer32(s, "latency_multiple"),
    };
    match (fallback.path.is_empty(), fallback.capacity_bytes) {
        (true, 1..) => r.problem(
            "fallback.path",
            "missing; fallback.capacity_bytes says how much of it to use",
        ),
        (false, 0) if !r.has_problem("fallback.capacity_bytes") => {
            r.problem(
                "fallback.capacity_bytes",
                "missing; expected how many bytes of fallback.path to use",
            );
        }
        _ => {}
    }
    fallback
}

/// Where objects go that have no other place must be a drive of its own, and not one that is driven by
/// queues.
fn check_spill(r: &mut Reader, config: &Config) {
    let path = &config.fallback.path;
    if path.is_empty() {
        return;
    }
    if !matches!(PathKind::parse(path), Ok(PathKind::Kernel(_))) {
        let message = format!("expected a plain file or a block device, got {path:?}");
        r.problem("fallback.path", message);
    } else if config.disk.paths.contains(path) {
        r.problem("fallback.path", format!("{path:?} is in disk.paths, too"));
    }
}

fn check_queues(r: &mut Reader, config: &Config) {
    let Namespace { cpu, gpu } = &config.namespace;
    let wanted = u64::from(cpu.qps) + u64::from(gpu.num) * u64::from(gpu.qps);
    let reserved = u64::from(config.disk.reserve_max_queue_pair_num);
    if wanted > reserved {
        let message = format!(
            "is {reserved}, and cpu.qps {} + gpu.num {} x gpu.qps {} = {wanted} queue pairs are \
             asked for; raise it or ask for fewer",
            cpu.qps, gpu.num, gpu.qps
        );
        r.problem("disk.reserve_max_queue_pair_num", message);
    }
}

fn check_watermarks(r: &mut Reader, pool: &Pool) {
    let (low, high) = (pool.low_watermark_percent, pool.high_watermark_percent);
    if low > high {
        let message = format!("is {low}, above pool.high_watermark_percent ({high})");
        r.problem("pool.low_watermark_percent", message);
    }
}

/// Whether the zones fit the drive; only asked when the sizes by themselves are right.
fn check_zones(r: &mut Reader, config: &Config) {
    let sizes = |path: &str| {
        path.starts_with("zone_chunk_size_kb")
            || path == "disk.capacity_bytes"
            || path == "pool.meta_percent"
    };
    if r.problems.iter().any(|problem| sizes(&problem.path)) {
        return;
    }
    let (capacity, percent) = (config.disk.capacity_bytes, config.pool.meta_percent);
    if let Err(error) = ZoneMap::plan(capacity, config.zone_chunks(), percent) {
        r.problem("disk.capacity_bytes", error.to_string());
    }
}
