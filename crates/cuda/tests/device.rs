//! A real GPU keeps to what `suite` says, and more. Needs an NVIDIA GPU: feature `gpu`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a step that fails fails its test"
)]

mod suite;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::sys;
use gcos_cuda::{
    DeviceMemory, ForeignMemory, Gpu, GpuError, Kernels, LaunchShape, MemoryOptions, Pinned, Rung,
    Stream, VramWindow, built_kernels,
};
use gcos_emulator::AddressSpace;
use gcos_hw::SharedMemory;
use gcos_layout::gpu::Batch;

const SOON: Duration = Duration::from_secs(20);

/// One test at a time: they compare how much memory the GPU has left.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> (MutexGuard<'static, ()>, Arc<Gpu>) {
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    (guard, Gpu::open(0).unwrap())
}

macro_rules! suite {
    ($($name:ident $(($($more:expr),+))?;)+) => {$(
        #[test]
        fn $name() {
            let (_alone, gpu) = alone();
            suite::$name(&gpu $(, $($more),+)?);
        }
    )+};
}

suite! {
    copies_of_a_stream_are_done_in_order;
    a_copy_of_unequal_or_foreign_ends_is_refused(None);
    a_stream_waits_for_an_event_of_another;
    a_word_is_seen_after_the_work_before_it;
    a_function_of_the_host_runs_in_its_turn;
    gates_of_a_stream_open_in_order_and_by_being_dropped;
    memory_in_use_by_a_stream_is_not_given_to_others;
    what_is_kept_is_dropped_when_the_stream_has_passed;
    a_borrowed_stream_is_the_same_stream;
    an_allocation_is_aligned_and_reached_by_gpu_and_drives(Rung::Window);
    memory_grows_by_windows_up_to_its_bound;
    memory_is_free_when_no_slice_has_it_not_even_a_drives;
    the_probe_says_what_works_and_why_the_rest_does_not(Rung::Window);
    memory_of_others_is_checked;
    too_much_memory_is_refused_by_name;
    a_kernel_is_launched_with_its_record;
    a_launch_without_sense_is_refused;
    kernels_do_not_spill;
}

#[test]
fn memory_in_host_memory_keeps_to_the_same_rules() {
    let (_alone, gpu) = alone();
    suite::an_allocation_is_aligned_and_reached_by_gpu_and_drives(&gpu, Rung::Staging);
}

#[test]
fn a_gpu_tells_what_it_is() {
    let (_alone, gpu) = alone();
    let memory = gpu.memory_info().unwrap();
    let (version, place) = (gpu.driver_version().unwrap(), gpu.pci_address().unwrap().unwrap());
    println!("{}: CUDA {version}, {place}, {memory:?}", gpu.name());
    assert!(memory.free_bytes > 1 << 30 && memory.free_bytes <= memory.total_bytes);
    assert_eq!(place.split([':', '.']).count(), 4, "{place}");
    assert!(gpu.same(&Gpu::open(0).unwrap()) && !gpu.is_played());
    match Gpu::open(64) {
        Err(GpuError::NoGpu { ordinal: 64, count }) => assert!(count > 0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn kernels_need_what_the_compiler_said() {
    let (_alone, gpu) = alone();
    let kernels = Kernels::load(&gpu).unwrap();
    for built in built_kernels().iter().filter(|kernel| kernel.target == "sm_90") {
        let found = kernels.attributes(built.name, 256).unwrap().unwrap();
        println!("{}: {found:?}", built.name);
        assert_eq!(found.registers, built.registers, "{}", built.name);
        assert_eq!(found.local_bytes, 0, "{}", built.name);
        assert!(found.blocks_per_multiprocessor > 0 && found.multiprocessors > 0);
    }
    let error = kernels.attributes("gcos_nothing", 32).unwrap_err().to_string();
    assert!(error.contains("gcos_nothing") && error.contains("gcos_io"), "{error}");
}

#[test]
fn host_memory_is_registered_as_it_is_and_once() {
    let (_alone, gpu) = alone();
    let path = format!("/dev/shm/gcos-registered-{}", std::process::id());
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    file.set_len(4 << 20).unwrap();
    let of_file = SharedMemory::of_file(&file, 0, 4 << 20).unwrap();
    for memory in [of_file, SharedMemory::anonymous(4 << 20).unwrap()] {
        let memory = Arc::new(memory);
        let pinned = Pinned::register(&gpu, Arc::clone(&memory)).unwrap();
        let stream = Stream::new(&gpu).unwrap();
        stream.fill(&pinned.slice(4096, 8192).unwrap(), 0xC3).unwrap();
        stream.synchronize(SOON).unwrap();
        let mut seen = [0; 3];
        for (at, expected) in [(4095, [0, 0xC3, 0xC3]), (12_286, [0xC3, 0xC3, 0])] {
            memory.read(at, &mut seen).unwrap();
            assert_eq!(seen, expected);
        }
        let again = Pinned::register(&gpu, Arc::clone(&memory)).unwrap_err().to_string();
        assert!(again.contains("registered already"), "{again}");
        drop(pinned);
        drop(Pinned::register(&gpu, memory).unwrap());
    }
}

/// The GPU's own BAR stands for a drive's here: it is the one that there is.
#[test]
fn registers_of_a_device_are_reached_or_the_cure_is_told() {
    let (_alone, gpu) = alone();
    let window = VramWindow::new(&gpu, 2 << 20).unwrap();
    match Pinned::register_registers(&gpu, Arc::clone(window.memory())) {
        Ok(pinned) => {
            println!("registered at {:#x}", pinned.device_address());
            let stream = Stream::new(&gpu).unwrap();
            stream.write_word(&pinned.slice(64, 4).unwrap(), 0x1234_5678).unwrap();
            stream.synchronize(SOON).unwrap();
            let seen = window.memory().load_u32(64, Ordering::Acquire);
            assert_eq!(seen, Ok(0x1234_5678));
        }
        Err(error @ GpuError::NotReachable { .. }) => {
            let text = error.to_string();
            println!("{text}: {:?}", std::error::Error::source(&error));
            assert!(
                text.contains("CAP_SYS_ADMIN") && text.contains("PeerMappingOverride=1"),
                "{text}"
            );
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn memory_and_streams_of_another_context_are_refused_and_it_stays_current() {
    let (_alone, gpu) = alone();
    let (mut context, mut address) = (std::ptr::null_mut(), 0);
    let mut stream = std::ptr::null_mut();
    // SAFETY: a context of its own on device 0, current in this thread until it is popped; the pointers are
    // to live values.
    unsafe {
        sys::cuCtxCreate_v2(&mut context, 0, 0).result().unwrap();
        sys::cuMemAlloc_v2(&mut address, 1 << 20).result().unwrap();
        sys::cuStreamCreate(&mut stream, 1).result().unwrap();
        sys::cuCtxPopCurrent_v2(&mut context).result().unwrap();
    }
    let error = ForeignMemory::check(&gpu, address, 4096).unwrap_err().to_string();
    assert!(error.contains("another context"), "{error}");
    // SAFETY: the stream lives until the context is destroyed below.
    let error = unsafe { Stream::borrow(&gpu, stream as u64) }.unwrap_err().to_string();
    assert!(error.contains("primary context"), "{error}");
    // What is current in a thread stays so, whatever is done here with another GPU's context.
    for wanted in [context, std::ptr::null_mut()] {
        let mut current = std::ptr::null_mut();
        // SAFETY: the context lives; the pointer is to a live value.
        unsafe { sys::cuCtxSetCurrent(wanted) }.result().unwrap();
        drop(Stream::new(&Gpu::open(0).unwrap()).unwrap());
        suite::copies_of_a_stream_are_done_in_order(&gpu);
        // SAFETY: as above.
        unsafe { sys::cuCtxGetCurrent(&mut current) }.result().unwrap();
        assert_eq!(current, wanted);
    }
    // SAFETY: nothing of the context is used any more.
    unsafe { sys::cuCtxDestroy_v2(context) }.result().unwrap();
}

/// Runs one of the tests below, which do nothing by themselves, in a process of its own.
fn child(test: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads", "1"]);
    command.env(CHILD, test).stdout(Stdio::piped()).spawn().unwrap()
}

const CHILD: &str = "GCOS_TEST_CHILD";

fn is_child(test: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|child| child == test)
}

#[test]
fn child_that_holds_memory_until_it_is_killed() {
    if !is_child("child_that_holds_memory_until_it_is_killed") {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let space = AddressSpace::new().unwrap();
    let options = MemoryOptions { window_bytes: 2 << 30, ..MemoryOptions::default() };
    let memory = DeviceMemory::new(&gpu, &space.dma, options).unwrap();
    let all = memory.alloc(2 << 30, 4096).unwrap();
    let stream = Stream::new(&gpu).unwrap();
    let _closed = stream.gate().unwrap();
    stream.fill(&*all, 1).unwrap();
    println!("\nholding");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn memory_of_a_killed_process_comes_back() {
    let (_alone, gpu) = alone();
    let free = || gpu.memory_info().unwrap().free_bytes;
    let before = free();
    let mut process = child("child_that_holds_memory_until_it_is_killed");
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "holding"), "the child failed");
    assert!(before - free() >= 2 << 30, "the child holds nothing");
    process.kill().unwrap();
    process.wait().unwrap();
    let start = Instant::now();
    while before - free().min(before) > 64 << 20 {
        assert!(start.elapsed() < SOON, "{} bytes are missing", before - free());
    }
    println!("back after {:?}", start.elapsed());
}

#[test]
fn child_whose_kernel_goes_wrong() {
    if !is_child("child_whose_kernel_goes_wrong") {
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let kernels = Kernels::load(&gpu).unwrap();
    let memory = suite::memory(&gpu);
    let stream = Stream::new(&gpu).unwrap();
    let held = Arc::new(());
    let batch = Batch { share_count: 1, command_count: 1, shares: 64, ..Batch::default() };
    let shape = LaunchShape { grid: 1, block: 32, shared_bytes: 0 };
    kernels.launch(&stream, "gcos_io", shape, &batch.to_bytes()).unwrap();
    stream.keep((memory.alloc(4096, 1).unwrap(), Arc::clone(&held)));
    let error = stream.synchronize(SOON).unwrap_err();
    assert!(gcos_text(&error).contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{error:?}");
    // All that follows fails in the same way, and nothing hangs.
    assert!(memory.alloc(4096, 1).unwrap().copy_in(0, &[1]).is_err());
    assert!(Stream::new(&gpu).is_err());
    assert_eq!(Arc::strong_count(&held), 1, "what the stream used is kept for ever");
    println!("\nfailed as it should");
}

fn gcos_text(error: &dyn std::error::Error) -> String {
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

#[test]
fn a_kernel_that_goes_wrong_is_told_and_nothing_hangs() {
    let (_alone, gpu) = alone();
    let output = child("child_whose_kernel_goes_wrong").wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("failed as it should"), "{text}");
    // Other processes' contexts are not touched.
    suite::a_kernel_is_launched_with_its_record(&gpu);
}

/// Prints what calls cost; the bounds are far off, to find out a call that blocks.
#[test]
fn calls_cost_what_they_should() {
    let (_alone, gpu) = alone();
    let each = |what: &str, times: u32, most: Duration, f: &mut dyn FnMut()| {
        f();
        let start = Instant::now();
        (0..times).for_each(|_| f());
        let cost = start.elapsed() / times;
        println!("{what}: {cost:?}");
        assert!(cost < most, "{what}: {cost:?}");
    };
    let ms = Duration::from_millis;
    each("window of 64 MiB", 5, ms(500), &mut || drop(VramWindow::new(&gpu, 64 << 20).unwrap()));
    each("pinned 64 KiB", 20, ms(50), &mut || drop(Pinned::new(&gpu, 64 << 10).unwrap()));
    let memory = suite::memory(&gpu);
    let stream = Stream::new(&gpu).unwrap();
    let kernels = Kernels::load(&gpu).unwrap();
    let shape = LaunchShape { grid: 1, block: 32, shared_bytes: 0 };
    let host = Pinned::new(&gpu, 4 << 20).unwrap();
    let empty = Batch {
        abort: host.device_address(),
        done: host.device_address() + 4,
        statuses: host.device_address() + 8,
        ..Batch::default()
    };
    let empty = empty.to_bytes();
    each("launch of gcos_io and its end", 200, ms(5), &mut || {
        kernels.launch(&stream, "gcos_io", shape, &empty).unwrap();
        stream.synchronize(SOON).unwrap();
    });
    each("launch of gcos_io", 200, ms(5), &mut || {
        kernels.launch(&stream, "gcos_io", shape, &empty).unwrap();
    });
    stream.synchronize(SOON).unwrap();
    each("allocation of 64 KiB", 1000, ms(5), &mut || drop(memory.alloc(64 << 10, 4096).unwrap()));
    let device = memory.alloc(4 << 20, 4096).unwrap();
    let bytes = vec![7; 4 << 20];
    let mut back = vec![0; 4 << 20];
    each("copy_in of 4 MiB", 10, ms(100), &mut || device.copy_in(0, &bytes).unwrap());
    each("copy_out of 4 MiB", 10, ms(100), &mut || device.copy_out(0, &mut back).unwrap());
    each("copy_out of 64 bytes", 100, ms(5), &mut || device.copy_out(0, &mut back[..64]).unwrap());
    let (from, to) = (host.slice(0, 4096).unwrap(), device.slice(0, 4096).unwrap());
    each("stream copy of 4 KiB, given", 200, ms(5), &mut || stream.copy(&from, &to).unwrap());
    stream.synchronize(SOON).unwrap();
    each("record and ask an event", 200, ms(5), &mut || {
        stream.record().unwrap().query().unwrap();
    });
    each("gate, opened, and its end", 100, ms(5), &mut || {
        stream.gate().unwrap().open();
        stream.synchronize(SOON).unwrap();
    });
}
