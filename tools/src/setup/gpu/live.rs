//! What GPUs do when they are asked: opened, written to, and seen to answer.

use std::sync::Arc;
use std::time::Duration;

use gcos::cuda::{
    Gpu, GpuError, Kernels, LaunchShape, Pinned, Probe, Rung, Stream, built_kernels, gpus,
    kernel_compiler,
};
use gcos::hw::pci::Sysfs;
use gcos::layout::gpu::{Batch, layout_hash};
use gcos::status::message_of;

use super::Check;

/// Longest wait for a GPU that does next to nothing.
const DEADLINE: Duration = Duration::from_secs(10);

/// Opens all GPUs, for as long as the checks take.
pub(super) fn checks(sysfs: &Sysfs) -> Vec<Check> {
    let check = Check::optional("gpu", "KV cache in GPU memory, and queues that a GPU drives");
    let opened = gpus().and_then(|count| (0..count).map(Gpu::open).collect::<Result<Vec<_>, _>>());
    let gpus = match opened {
        Ok(gpus) if gpus.is_empty() => {
            let cure = "none is needed; in a container, pass the GPU through";
            return vec![check.missing("the CUDA driver shows no GPU", cure), kernels(&[])];
        }
        Ok(gpus) => gpus,
        Err(error @ GpuError::NoDriver) => {
            let cure = "none is needed without a GPU; with one, install the NVIDIA driver";
            return vec![check.missing(message_of(&error), cure), kernels(&[])];
        }
        Err(error) => {
            let cure = "see that the driver works (nvidia-smi)";
            return vec![check.warn(message_of(&error), cure), kernels(&[])];
        }
    };
    vec![device(sysfs, check, &gpus), memory(&gpus), host_memory(&gpus), kernels(&gpus)]
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

fn device(sysfs: &Sysfs, check: Check, gpus: &[Arc<Gpu>]) -> Check {
    let mut found = Vec::new();
    let mut small = false;
    for gpu in gpus {
        let told = gpu.memory_info().and_then(|memory| Ok((memory, gpu.pci_address()?)));
        let (memory, place) = match told {
            Ok(told) => told,
            Err(error) => {
                return check.warn(message_of(&error), "see that the driver works (nvidia-smi)");
            }
        };
        let place = place.unwrap_or_default();
        let bar1 = bar1_bytes(sysfs, &place);
        small |= bar1.is_some_and(|bytes| bytes < memory.total_bytes);
        found.push(format!(
            "GPU {}: {} at {place}, CUDA {}, {} of {} free, BAR1 {}",
            gpu.ordinal(),
            gpu.name(),
            gpu.driver_version().unwrap_or_default(),
            gib(memory.free_bytes),
            gib(memory.total_bytes),
            bar1.map_or("unknown".to_owned(), gib),
        ));
    }
    let found = found.join("; ");
    match small {
        true => check.warn(
            format!("{found}: BAR1 is smaller than the memory, so windows into it are limited"),
            "switch on Above 4G Decoding and Resizable BAR in the firmware",
        ),
        false => check.ok(found),
    }
}

/// Length of the region through which the CPU and drives reach the memory: the largest of the six. Which one
/// it is depends on how long the addresses of those before it are.
fn bar1_bytes(sysfs: &Sysfs, place: &str) -> Option<u64> {
    let text = sysfs.text(format!("sys/bus/pci/devices/{place}/resource"))?;
    let length = |line: &str| {
        let mut words = line.split_whitespace();
        let mut number = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        let (start, end) = (number()?, number()?);
        (start > 0 && end > start).then(|| end - start + 1)
    };
    text.lines().take(6).filter_map(length).max()
}

fn memory(gpus: &[Arc<Gpu>]) -> Check {
    let check = Check::optional(
        "gpu_memory",
        "where blocks for a GPU lie: a window into its memory is best; without one, they go through host \
         memory",
    );
    let mut found = Vec::new();
    let mut cures = Vec::new();
    for gpu in gpus {
        match Probe::of(gpu) {
            Ok(probe) => {
                let place = format!("GPU {}: {}", gpu.ordinal(), probe.rung);
                found.push(format!("{place}; GPU and CPU see each other's stores"));
                if probe.rung == Rung::Staging {
                    let whys = probe.refusals.iter();
                    let whys = whys.map(|why| format!("{}: {}", why.rung.name(), why.reason));
                    cures.push(whys.collect::<Vec<_>>().join("; or "));
                }
            }
            Err(error) => {
                found.push(format!("GPU {}: none", gpu.ordinal()));
                cures.push(message_of(&error));
            }
        }
    }
    match cures.is_empty() {
        true => check.ok(found.join("; ")),
        false => {
            check.warn(found.join("; "), format!("mend what is refused: {}", cures.join("; ")))
        }
    }
}

/// The GPU stores to host memory, in the order of a stream.
fn try_host_memory(gpu: &Arc<Gpu>) -> Result<(), GpuError> {
    const WORD: u32 = 0x5AFE_C0DE;
    let pinned = Pinned::new(gpu, 1 << 16)?;
    let stream = Stream::new(gpu)?;
    stream.write_word(&pinned.slice(4096, 4)?, WORD)?;
    stream.synchronize(DEADLINE)?;
    let mut seen = [0; 4];
    let read = pinned.memory().read(4096, &mut seen);
    if read.is_ok() && u32::from_ne_bytes(seen) == WORD {
        return Ok(());
    }
    let reason = "the CPU does not see what the GPU stored to host memory".to_owned();
    Err(GpuError::Stream { ordinal: gpu.ordinal(), reason })
}

fn host_memory(gpus: &[Arc<Gpu>]) -> Check {
    let check =
        Check::optional("gpu_host_memory", "status words that a GPU writes and the host reads");
    for gpu in gpus {
        if let Err(error) = try_host_memory(gpu) {
            let cure = "raise the limit of locked memory (ulimit -l); the GPU reaches none without";
            return check.warn(message_of(&error), cure);
        }
    }
    check.ok("the GPU stores to host memory and the CPU sees it")
}

/// An empty batch: the kernel starts and ends.
fn try_kernels(gpu: &Arc<Gpu>) -> Result<(), GpuError> {
    let kernels = Kernels::load(gpu)?;
    let stream = Stream::new(gpu)?;
    let words = Pinned::new(gpu, 4096)?;
    let batch = Batch {
        abort: words.device_address(),
        done: words.device_address() + 64,
        statuses: words.device_address() + 128,
        budget_ns: 1_000_000_000,
        ..Batch::default()
    };
    let shape = LaunchShape { grid: 1, block: 32, shared_bytes: 0 };
    kernels.launch(&stream, "gcos_io", shape, &batch.to_bytes())?;
    stream.keep(words);
    stream.synchronize(DEADLINE)
}

fn kernels(gpus: &[Arc<Gpu>]) -> Check {
    let check = Check::optional(
        "gpu_kernels",
        "device code in this program, with which a GPU drives queues",
    );
    let built = built_kernels();
    if built.is_empty() {
        return check.missing(
            "built without them",
            "build where nvcc is found (GCOS_NVCC, CUDA_HOME, PATH, kernels/fetch-compiler)",
        );
    }
    let distinct = |of: fn(&gcos::cuda::BuiltKernel) -> &'static str| {
        let mut all: Vec<_> = built.iter().map(of).collect();
        all.sort_unstable();
        all.dedup();
        all.join(", ")
    };
    let found = format!(
        "{} for {}, compiled with CUDA {}, records {:016x}",
        distinct(|kernel| kernel.name),
        distinct(|kernel| kernel.target),
        kernel_compiler(),
        layout_hash(),
    );
    for gpu in gpus {
        if let Err(error) = try_kernels(gpu) {
            return check.warn(found, format!("GPU {}: {}", gpu.ordinal(), message_of(&error)));
        }
    }
    check.ok(if gpus.is_empty() { found } else { format!("{found}; loaded and run") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_of_a_gpus_memory_is_found_behind_short_and_long_addresses() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("sys/bus/pci/devices/0000:1b:00.0");
        std::fs::create_dir_all(&folder).unwrap();
        let sysfs = Sysfs::new(root.path());
        assert_eq!(bar1_bytes(&sysfs, "0000:1b:00.0"), None);
        let registers = "0x00000000f0000000 0x00000000f0ffffff 0x0000000000040200\n";
        let memory = "0x0000380000000000 0x0000383fffffffff 0x000000000014220c\n";
        let upper_half = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
        for text in [
            format!("{registers}{memory}{upper_half}"),
            format!("{registers}{upper_half}{memory}{upper_half}"),
        ] {
            std::fs::write(folder.join("resource"), text).unwrap();
            assert_eq!(bar1_bytes(&sysfs, "0000:1b:00.0"), Some(256 << 30));
        }
    }

    #[test]
    fn a_machine_without_a_gpu_is_told_so_and_what_is_built_in() {
        let checks = checks(&Sysfs::from_env());
        assert!(checks.iter().all(|check| !check.is_fatal()));
        assert_eq!(checks.first().map(|check| check.id), Some("gpu"));
        let kernels = checks.iter().find(|check| check.id == "gpu_kernels").unwrap();
        let expected = if built_kernels().is_empty() { "built without" } else { "gcos_io" };
        assert!(kernels.found.contains(expected), "{}", kernels.found);
    }
}
