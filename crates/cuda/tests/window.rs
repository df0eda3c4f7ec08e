//! GPU memory through its window. Needs an NVIDIA GPU and the Vulkan loader: feature `gpu`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails fails its test")]

use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gcos_cuda::{Gpu, GpuError, VramWindow, gpus};
use gcos_emulator::{AddressSpace, Config, Emulator, Medium};
use gcos_hw::DmaSlice;
use gcos_nvme::{BlockRange, Controller, IoOp, IoRequest, Options, QueueMemory};

const MIB: usize = 1 << 20;

/// One test at a time: they compare how much memory the GPU has left.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gpu() -> Arc<Gpu> {
    assert!(gpus().unwrap() > 0, "no GPU");
    Gpu::open(0).unwrap()
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

#[test]
fn the_cpu_and_the_gpu_see_each_others_stores() {
    let _alone = alone();
    let window = VramWindow::new(&gpu(), 64 * MIB).unwrap();
    assert_eq!(window.len(), 64 * MIB);
    let data = bytes(1, 4096);
    for at in [0, 4096 + 12, 64 * MIB - 4096] {
        window.copy_in(at, &data).unwrap();
        let mut back = vec![0; data.len()];
        window.memory().read(at, &mut back).unwrap();
        assert!(back == data, "the CPU sees something else at {at}");
        let other = bytes(at as u64 + 2, 4096);
        window.memory().write(at, &other).unwrap();
        window.copy_out(at, &mut back).unwrap();
        assert!(back == other, "the GPU sees something else at {at}");
    }
    assert!(matches!(window.copy_in(64 * MIB, &[0]), Err(GpuError::OutOfBounds { .. })));
    assert!(window.copy_out(usize::MAX, &mut [0; 2]).is_err());
}

/// Flags of the mapping that holds an address, and what is mapped.
fn mapping(address: usize) -> (String, String) {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut found, mut what) = (false, String::new());
    for line in maps.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let bound = |text: &str| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = range
            && let (Some(start), Some(end)) = (bound(start), bound(end))
        {
            found = (start..end).contains(&address);
            what = line.to_owned();
        } else if found && let Some(flags) = line.strip_prefix("VmFlags:") {
            return (flags.to_owned(), what);
        }
    }
    panic!("{address:#x} is not mapped");
}

#[test]
fn the_window_is_a_mapping_of_the_device_and_of_no_host_memory() {
    let _alone = alone();
    let gpu = gpu();
    let window = VramWindow::new(&gpu, 2 * MIB).unwrap();
    let (flags, what) = mapping(window.cpu_address());
    println!("{}: {what}:{flags}", gpu.name());
    assert!(what.contains("/dev/nvidia"), "{what}");
    for flag in ["pf", "io"] {
        assert!(flags.split_whitespace().any(|f| f == flag), "{flag}: {flags}");
    }
}

fn run(controller: &Arc<Controller>, op: IoOp, slba: u64, memory: DmaSlice) {
    let blocks = memory.len() as u64 / 4096;
    let request = IoRequest {
        nsid: 1,
        op,
        ranges: [BlockRange { slba, blocks }].into_iter().collect(),
        segments: [memory].into_iter().collect(),
        timeout: Duration::from_secs(10),
    };
    controller.run(request).unwrap();
}

#[test]
fn a_drive_moves_data_between_its_medium_and_the_gpu_with_all_queues_in_vram() {
    let _alone = alone();
    let space = AddressSpace::new().unwrap();
    let config =
        Config { space: Some(space.clone()), ..Config::new(Medium::ram(64 << 20).unwrap()) };
    let emulator = Emulator::new(config).unwrap();
    let window = VramWindow::new(&gpu(), 64 * MIB).unwrap();
    let vram = space.dma.adopt(Arc::clone(window.memory())).unwrap();
    let mut options = Options { queue_depth: 32, max_transfer: MIB, ..Options::default() };
    options.queue_memory = QueueMemory::GivenForAll(vram.slice(0, 32 * MIB).unwrap());
    assert!(options.queue_memory_bytes() <= 32 * MIB);
    window.copy_in(0, &vec![0xEE; 32 * MIB]).unwrap();
    let controller = Controller::open(emulator.function(), options).unwrap();
    for (round, len) in (0u64..).zip([4096, 12_288, 65_536, MIB, 3 * MIB + 4096]) {
        let data = bytes(100 + round, len);
        window.copy_in(32 * MIB, &data).unwrap();
        run(&controller, IoOp::Write { fua: false }, 8, vram.slice(32 * MIB, len).unwrap());
        let at = 40 * MIB + 512 * round as usize;
        run(&controller, IoOp::Read, 8, vram.slice(at, len).unwrap());
        let mut back = vec![0; len];
        window.copy_out(at, &mut back).unwrap();
        assert!(back == data, "{len} bytes came back different");
    }
    // The admin submission queue's first entries are where they were placed: in VRAM.
    let mut queues = vec![0; 4096];
    window.copy_out(0, &mut queues).unwrap();
    assert!(queues.iter().any(|&byte| byte != 0xEE), "no queue was written to");
    controller.shutdown(None).unwrap();
}

#[test]
fn gpu_memory_lives_as_long_as_a_slice_of_it_and_no_longer() {
    let _alone = alone();
    let gpu = gpu();
    let free = || gpu.memory_info().unwrap().free_bytes;
    let space = AddressSpace::new().unwrap();
    let one = 1_u64 << 30;
    // What the first window of a process costs beside its memory stays.
    drop(VramWindow::new(&gpu, 2 * MIB).unwrap());
    let before = free();
    let window = VramWindow::new(&gpu, one as usize).unwrap();
    let slice = {
        let vram = space.dma.adopt(Arc::clone(window.memory())).unwrap();
        vram.slice(4096, 4096).unwrap()
    };
    drop(window);
    assert!(before - free() >= one, "freed while a slice lives");
    slice.write(0, &[7; 64]).unwrap();
    let mut back = [0; 64];
    slice.read(0, &mut back).unwrap();
    assert_eq!(back, [7; 64]);
    drop(slice);
    assert!(before - free() < one / 2, "not freed: {} bytes", before - free());
}

#[test]
fn windows_come_and_go_and_too_large_a_one_is_refused_by_name() {
    let _alone = alone();
    let gpu = gpu();
    for _ in 0..20 {
        drop(VramWindow::new(&gpu, 32 * MIB).unwrap());
    }
    match VramWindow::new(&gpu, 1 << 42) {
        Err(GpuError::Cuda { source, .. }) => assert_eq!(source.name, "CUDA_ERROR_OUT_OF_MEMORY"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(VramWindow::new(&gpu, 0), Err(GpuError::Invalid { .. })));
}
