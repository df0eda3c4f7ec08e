//! From flags to what will be measured.

use std::path::{Path, PathBuf};

use gcos::config::{KernelWay, USE_DIRECT_IO};
use gcos::layout::media::MAX_PAYLOAD_BYTES;
use gcos::{Config, PathKind, units};
use serde_json::json;

use crate::args::BenchArgs;
use crate::failure::Failure;

/// Most memory that the ways which are measured in turn take together; larger combinations are left out.
const MEMORY: u64 = 512 << 20;

/// Most bytes of the medium that are touched, so that memory is not exhausted.
const SPAN: u64 = 512 << 20;

/// Least size of a file that is made for the run: a pool and some objects fit.
const LEAST_FILE: u64 = 16 << 20;

/// Capacity that the no-op engine claims to have.
const NOOP: u64 = 16 << 30;

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The engine that moves nothing.
    Noop,
    /// The software controller over memory.
    Ram,
    /// This file, made for the run.
    File(Way, PathBuf),
}

/// How a file is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By the driver of GCOS, with the software controller over it.
    Emulated,
    /// Through the kernel.
    Kernel(KernelWay),
}

impl Way {
    /// As it is typed.
    fn name(self) -> &'static str {
        match self {
            Self::Emulated => "emulated",
            Self::Kernel(way) => way.name(),
        }
    }
}

impl Target {
    /// What to call it beside others.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Ram => "emulated:ram",
            Self::File(way, _) => way.name(),
        }
    }

    /// The file that is made for it.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(_, file) => Some(file),
            _ => None,
        }
    }
}

/// One combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) size: usize,
    pub(super) depth: usize,
    pub(super) threads: usize,
}

impl Load {
    /// Device memory that it takes.
    fn bytes(self) -> u64 {
        self.size as u64 * self.depth as u64 * self.threads as u64
    }
}

/// A run.
#[derive(Debug)]
pub(super) struct Plan {
    /// What is measured, one or several; several are all files.
    pub(super) targets: Vec<Target>,
    pub(super) capacity: u64,
    pub(super) loads: Vec<Load>,
    /// Combinations that were left out.
    pub(super) left_out: usize,
    pub(super) seconds: f64,
    /// Bytes of the medium that are touched.
    pub(super) span: u64,
}

impl Plan {
    pub(super) fn new(args: &BenchArgs) -> Result<Self, Failure> {
        if args.file_size < LEAST_FILE || !args.file_size.is_multiple_of(4096) {
            let size = units::exact(args.file_size);
            let text =
                format!("--file-size: expected a multiple of 4 KiB from 16 MiB on, got {size}");
            return Err(Failure::usage(text));
        }
        let (targets, capacity) = targets(&args.path, args.file_size)?;
        if !(0.01..=3600.0).contains(&args.seconds) {
            let text = format!("--seconds: expected 0.01 to 3600, got {}", args.seconds);
            return Err(Failure::usage(text));
        }
        let span = capacity.min(SPAN);
        for &size in &args.size {
            if size == 0 || size % 4096 != 0 || size > u64::from(MAX_PAYLOAD_BYTES) {
                let size = units::exact(size);
                let text = format!("--size: expected multiples of 4 KiB up to 1 GiB, got {size}");
                return Err(Failure::usage(text));
            }
        }
        let all = combinations(args);
        let of_all = |load: &Load| load.bytes().saturating_mul(targets.len() as u64);
        let fits = |load: &&Load| of_all(load) <= MEMORY && load.bytes() * 4 <= capacity * 3;
        let loads: Vec<_> = all.iter().filter(fits).copied().collect();
        if loads.is_empty() {
            return Err(Failure::usage("every combination needs more memory than 512 MiB"));
        }
        let left_out = all.len() - loads.len();
        Ok(Self { targets, capacity, loads, left_out, seconds: args.seconds, span })
    }

    /// Whether objects are measured, too: not where a target has none, or its data is not the host's.
    pub(super) fn has_objects(&self) -> bool {
        let without = |target: &Target| {
            matches!(target, Target::Noop | Target::File(Way::Kernel(KernelWay::CuFile), _))
        };
        !self.targets.iter().any(without)
    }

    /// The configuration of a pool on a target; `None` for the no-op engine.
    pub(super) fn config(&self, target: &Target) -> Result<Option<Config>, Failure> {
        let (path, force) = match target {
            Target::Noop => return Ok(None),
            Target::Ram => (PathKind::EmulatedRam(self.capacity), ""),
            Target::File(Way::Emulated, file) => (PathKind::EmulatedFile(file.clone()), ""),
            Target::File(Way::Kernel(way), file) => (PathKind::Kernel(file.clone()), way.name()),
        };
        // cuFile moves data of a GPU.
        let gpus = u32::from(force == KernelWay::CuFile.name());
        let threads = self.loads.iter().map(|load| load.threads).max().unwrap_or(1).min(64);
        let depth = self.loads.iter().map(|load| load.depth).max().unwrap_or(1);
        // Deallocating takes memory images apart; what would be measured then is the kernel handing
        // out fresh pages.
        let config = json!({
            "pool": { "deallocate": false },
            "disk": { "number": 1, "paths": [path.to_string()], "capacity_bytes": self.capacity,
                "block_size": 4096, "reserve_max_queue_pair_num": threads },
            "namespace": {
                "cpu": { "qps": threads, "queue_depth": (2 * depth).clamp(64, 1024) },
                "gpu": { "num": gpus, "fallback": false },
            },
            "kernel_path": { "force": force },
        });
        let config = Config::parse(&config.to_string(), "--path")?;
        // Whether there is direct I/O is a matter of the machine; the way is that of the command line.
        let variable =
            |name: &str| (name == USE_DIRECT_IO).then(|| std::env::var_os(name)).flatten();
        Ok(Some(config.override_with(variable)?))
    }
}

const KINDS: &str =
    "emulated:ram:SIZE, emulated:FILE, cufile:FILE, io_uring:FILE, posix:FILE or noop";

/// What is to be measured. Several files get names of their own: no file has two owners.
fn targets(texts: &[String], file_bytes: u64) -> Result<(Vec<Target>, u64), Failure> {
    let mut targets = Vec::new();
    let mut capacity = file_bytes;
    for text in texts {
        let (target, bytes) = target(text, file_bytes)?;
        if targets.contains(&target) {
            return Err(Failure::usage(format!("--path: {text} is given more than once")));
        }
        targets.push(target);
        capacity = bytes;
    }
    if targets.len() > 1 {
        for target in &mut targets {
            let Target::File(way, file) = target else {
                let text = "--path: only files can be compared: emulated:FILE, cufile:FILE, \
                            io_uring:FILE, posix:FILE";
                return Err(Failure::usage(text));
            };
            let mut name = file.clone().into_os_string();
            name.push(format!(".{}", way.name()));
            *file = name.into();
        }
    }
    for file in targets.iter().filter_map(Target::file) {
        absent(file)?;
    }
    Ok((targets, capacity))
}

fn target(text: &str, file_bytes: u64) -> Result<(Target, u64), Failure> {
    if text == "noop" {
        return Ok((Target::Noop, NOOP));
    }
    let kernel = |way: KernelWay| {
        let file = text.strip_prefix(way.name())?.strip_prefix(':')?;
        (!file.is_empty()).then(|| Target::File(Way::Kernel(way), file.into()))
    };
    if let Some(target) = KernelWay::ALL.into_iter().find_map(kernel) {
        return Ok((target, file_bytes));
    }
    match PathKind::parse(text) {
        Ok(PathKind::EmulatedRam(bytes)) => Ok((Target::Ram, bytes)),
        Ok(PathKind::EmulatedFile(file)) => Ok((Target::File(Way::Emulated, file), file_bytes)),
        Ok(other) => Err(Failure::usage(format!("--path: expected {KINDS}, got {other}"))),
        Err(error) => Err(Failure::usage(format!("--path: {error}"))),
    }
}

/// What is measured is overwritten: only a file that is not there yet will do.
fn absent(file: &Path) -> Result<(), Failure> {
    if file.exists() {
        let text = format!("{} exists and would be overwritten; name a new file", file.display());
        return Err(Failure::new("occupied", text));
    }
    Ok(())
}

fn combinations(args: &BenchArgs) -> Vec<Load> {
    let mut loads = Vec::new();
    for &size in &args.size {
        for &threads in &args.threads {
            for &depth in &args.qd {
                let (depth, threads) = (depth.into(), threads.into());
                loads.push(Load { size: size as usize, depth, threads });
            }
        }
    }
    loads
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn plan(flags: &[&str]) -> Result<Plan, Failure> {
        let all = ["gcos", "bench"].iter().chain(flags);
        let Command::Bench(args) = Cli::try_parse_from(all).unwrap().command else { panic!() };
        Plan::new(&args)
    }

    #[test]
    fn combinations_that_need_too_much_memory_are_left_out() {
        let plan = plan(&["--size", "4KiB,32MiB", "--qd", "1,32", "--threads", "1"]).unwrap();
        assert_eq!(plan.loads.len() + plan.left_out, 4);
        assert_eq!(plan.left_out, 1);
        assert!(plan.config(&plan.targets[0]).unwrap().is_some());
    }

    #[test]
    fn ways_that_are_measured_in_turn_have_memory_at_the_same_time() {
        let left_out = |paths: &str| {
            let flags = ["--size", "4KiB,32MiB", "--qd", "8", "--threads", "1", "--path", paths];
            plan(&flags).unwrap().left_out
        };
        assert_eq!(left_out("posix:/no/a,io_uring:/no/a"), 0);
        assert_eq!(left_out("posix:/no/a,io_uring:/no/a,emulated:/no/a"), 1);
    }

    #[test]
    fn unusable_flags_are_refused() {
        for bad in [
            ["--size", "4097"],
            ["--seconds", "0"],
            ["--path", "/dev/nvme0n1"],
            ["--path", "emulated:/"],
            ["--path", "emulated:ram:3"],
            ["--file-size", "8MiB"],
            ["--file-size", "16777217"],
            ["--path", "posix:"],
            ["--path", "posix:/no/a,posix:/no/a"],
            ["--path", "posix:/no/a,noop"],
        ] {
            assert!(plan(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ways_that_are_compared_have_files_of_their_own() {
        let paths = ["--path", "emulated:/no/a,io_uring:/no/a", "cufile:/no/a", "posix:/no/a"];
        let plan = plan(&paths).unwrap();
        let names: Vec<_> = plan.targets.iter().map(Target::name).collect();
        assert_eq!(names, ["emulated", "io_uring", "cufile", "posix"]);
        let files: Vec<_> = plan.targets.iter().map(|target| target.file().unwrap()).collect();
        let named = ["/no/a.emulated", "/no/a.io_uring", "/no/a.cufile", "/no/a.posix"];
        assert_eq!(files, named.map(Path::new));
        let forced = [None, Some(KernelWay::IoUring), Some(KernelWay::CuFile)];
        for (target, forced) in plan.targets.iter().zip(forced) {
            let config = plan.config(target).unwrap().unwrap();
            assert_eq!(config.kernel_path.force, forced);
            assert_eq!(config.namespace.gpu.num == 1, forced == Some(KernelWay::CuFile));
        }
        let alone = super::targets(&["posix:/no/a".to_owned()], 1 << 30).unwrap().0;
        assert_eq!(alone[0].file(), Some(Path::new("/no/a")));
    }
}
