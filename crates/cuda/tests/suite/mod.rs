//! What holds on every GPU, a real one or one that host threads play. Each function is a test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gcos_cuda::{
    DeviceMemory, DeviceSlice, ForeignMemory, Gpu, GpuError, GpuRange, Kernels, LaunchShape,
    MemoryOptions, Pinned, Probe, Rung, Stream, VramWindow, built_kernels,
};
use gcos_emulator::AddressSpace;
use gcos_layout::gpu::{Batch, Command, QueuePair, Share, outcome};

pub(crate) const MIB: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

pub(crate) fn memory(gpu: &Arc<Gpu>) -> Arc<DeviceMemory> {
    memory_of(gpu, Rung::ALL.to_vec())
}

pub(crate) fn memory_of(gpu: &Arc<Gpu>, rungs: Vec<Rung>) -> Arc<DeviceMemory> {
    let options = MemoryOptions { window_bytes: 8 * MIB, most_windows: 3, rungs };
    DeviceMemory::new(gpu, &AddressSpace::new().unwrap().dma, options).unwrap()
}

pub(crate) fn copies_of_a_stream_are_done_in_order(gpu: &Arc<Gpu>) {
    let memory = memory(gpu);
    let stream = Stream::new(gpu).unwrap();
    let len = MIB + 12;
    let host = Pinned::new(gpu, 2 * len).unwrap();
    let (first, second) = (memory.alloc(len, 4096).unwrap(), memory.alloc(len, 4096).unwrap());
    let data = bytes(1, len);
    host.memory().write(0, &data).unwrap();
    stream.fill(&*second, 0xEE).unwrap();
    stream.copy(&host.slice(0, len).unwrap(), &*first).unwrap();
    stream.copy(&*first, &*second).unwrap();
    // What follows does not change what was copied before.
    stream.fill(&*first, 0x11).unwrap();
    stream.copy(&*second, &host.slice(len, len).unwrap()).unwrap();
    stream.synchronize(SOON).unwrap();
    let mut back = vec![0; len];
    host.memory().read(len, &mut back).unwrap();
    assert!(back == data);
    first.copy_out(0, &mut back).unwrap();
    assert!(back.iter().all(|&byte| byte == 0x11));
    assert!(stream.query().unwrap());
}

pub(crate) fn a_copy_of_unequal_or_foreign_ends_is_refused(
    gpu: &Arc<Gpu>,
    other: Option<&Arc<Gpu>>,
) {
    let memory = memory(gpu);
    let stream = Stream::new(gpu).unwrap();
    let a = memory.alloc(4096, 1).unwrap();
    let short = a.slice(0, 4095).unwrap();
    assert!(matches!(stream.copy(&*a, &short), Err(GpuError::Invalid { .. })));
    if let Some(other) = other {
        let elsewhere = Pinned::new(other, 4096).unwrap().as_slice();
        let error = stream.copy(&elsewhere, &*a).unwrap_err();
        assert!(error.to_string().contains("the stream's GPU"), "{error}");
    }
    assert!(a.slice(4000, 97).is_err());
    assert!(matches!(a.copy_in(4096, &[1]), Err(GpuError::OutOfBounds { .. })));
    assert!(a.copy_out(usize::MAX, &mut [0; 2]).is_err());
}

pub(crate) fn a_stream_waits_for_an_event_of_another(gpu: &Arc<Gpu>) {
    let (one, two) = (Stream::new(gpu).unwrap(), Stream::new(gpu).unwrap());
    let host = Pinned::new(gpu, 4096).unwrap();
    let gate = one.gate().unwrap();
    let event = one.record().unwrap();
    two.wait(&event).unwrap();
    two.write_word(&host.slice(8, 4).unwrap(), 77).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    assert!(!event.query().unwrap());
    assert!(!two.query().unwrap());
    assert_eq!(host.memory().load_u32(8, Ordering::Acquire), Ok(0));
    gate.open();
    event.synchronize(SOON).unwrap();
    two.synchronize(SOON).unwrap();
    assert_eq!(host.memory().load_u32(8, Ordering::Acquire), Ok(77));
}

pub(crate) fn a_word_is_seen_after_the_work_before_it(gpu: &Arc<Gpu>) {
    let memory = memory(gpu);
    let stream = Stream::new(gpu).unwrap();
    let host = Pinned::new(gpu, 2 * MIB).unwrap();
    let word = host.slice(2 * MIB - 4, 4).unwrap();
    let device = memory.alloc(MIB, 1).unwrap();
    for round in 1..50_u32 {
        stream.fill(&*device, round as u8).unwrap();
        stream.copy(&*device, &host.slice(0, MIB).unwrap()).unwrap();
        stream.write_word(&word, round).unwrap();
        let start = Instant::now();
        while host.memory().load_u32(2 * MIB - 4, Ordering::Acquire).unwrap() != round {
            assert!(start.elapsed() < SOON);
        }
        let mut last = [0; 16];
        host.memory().read(MIB - 16, &mut last).unwrap();
        assert_eq!(last, [round as u8; 16]);
    }
    assert!(stream.write_word(&host.slice(2, 4).unwrap(), 1).is_err());
    assert!(stream.write_word(&host.slice(4, 8).unwrap(), 1).is_err());
}

pub(crate) fn a_function_of_the_host_runs_in_its_turn(gpu: &Arc<Gpu>) {
    let stream = Stream::new(gpu).unwrap();
    let host = Pinned::new(gpu, 4096).unwrap();
    let seen = Arc::new(AtomicU32::new(0));
    stream.write_word(&host.slice(0, 4).unwrap(), 5).unwrap();
    let (memory, told) = (Arc::clone(host.memory()), Arc::clone(&seen));
    let f = move || told.store(memory.load_u32(0, Ordering::Acquire).unwrap(), Ordering::Release);
    stream.host(Box::new(f)).unwrap();
    stream.write_word(&host.slice(0, 4).unwrap(), 6).unwrap();
    stream.synchronize(SOON).unwrap();
    assert_eq!(seen.load(Ordering::Acquire), 5);
}

pub(crate) fn gates_of_a_stream_open_in_order_and_by_being_dropped(gpu: &Arc<Gpu>) {
    let stream = Stream::new(gpu).unwrap();
    let host = Pinned::new(gpu, 4096).unwrap();
    let word = |index: usize| host.slice(4 * index, 4).unwrap();
    let value = |index: usize| host.memory().load_u32(4 * index, Ordering::Acquire).unwrap();
    let first = stream.gate().unwrap();
    stream.write_word(&word(0), 1).unwrap();
    let second = stream.gate().unwrap();
    stream.write_word(&word(1), 1).unwrap();
    second.open();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!((value(0), value(1)), (0, 0), "the stream has passed a closed gate");
    drop(first);
    stream.synchronize(SOON).unwrap();
    assert_eq!((value(0), value(1)), (1, 1));
    let third = stream.gate().unwrap();
    stream.write_word(&word(2), 1).unwrap();
    let late = stream.synchronize(Duration::from_millis(30));
    assert!(matches!(late, Err(GpuError::TimedOut { .. })), "{late:?}");
    assert_eq!(value(2), 0);
    third.open();
    stream.synchronize(SOON).unwrap();
    assert_eq!(value(2), 1);
}

pub(crate) fn memory_in_use_by_a_stream_is_not_given_to_others(gpu: &Arc<Gpu>) {
    let memory = memory(gpu);
    let stream = Stream::new(gpu).unwrap();
    let host = Pinned::new(gpu, MIB).unwrap();
    let data = bytes(3, MIB);
    host.memory().write(0, &data).unwrap();
    let gate = stream.gate().unwrap();
    let buffer = memory.alloc(MIB, 1).unwrap();
    let address = buffer.device_address();
    stream.copy(&host.as_slice(), &*buffer).unwrap();
    drop((buffer, host));
    let others: Vec<_> = (0..7).map(|_| memory.alloc(MIB, 1).unwrap()).collect();
    for other in &others {
        assert_ne!(other.device_address(), address, "memory of a copy under way was given out");
    }
    assert_eq!(memory.stats().allocations, 8);
    gate.open();
    stream.synchronize(SOON).unwrap();
    assert_eq!(memory.stats().allocations, 7);
    let again = memory.alloc(MIB, 1).unwrap();
    assert_eq!(again.device_address(), address);
    let mut back = vec![0; MIB];
    again.copy_out(0, &mut back).unwrap();
    assert!(back == data, "the copy did not end before its memory did");
}

pub(crate) fn what_is_kept_is_dropped_when_the_stream_has_passed(gpu: &Arc<Gpu>) {
    let stream = Stream::new(gpu).unwrap();
    let gate = stream.gate().unwrap();
    let held = Arc::new(());
    stream.keep(Arc::clone(&held));
    // A stream that was dropped goes on.
    let event = stream.record().unwrap();
    drop(stream);
    assert_eq!(Arc::strong_count(&held), 2);
    gate.open();
    event.synchronize(SOON).unwrap();
    let start = Instant::now();
    while Arc::strong_count(&held) > 1 {
        assert!(start.elapsed() < SOON);
        // Whoever uses a stream looks after what is over.
        Stream::new(gpu).unwrap().synchronize(SOON).unwrap();
    }
}

pub(crate) fn a_borrowed_stream_is_the_same_stream(gpu: &Arc<Gpu>) {
    let stream = Stream::new(gpu).unwrap();
    // SAFETY: `stream` lives to the end of the test.
    let borrowed = unsafe { Stream::borrow(gpu, stream.raw()) }.unwrap();
    assert_eq!(borrowed.raw(), stream.raw());
    let gate = stream.gate().unwrap();
    assert!(!borrowed.query().unwrap());
    gate.open();
    borrowed.synchronize(SOON).unwrap();
    // SAFETY: the default stream always lives.
    let default = unsafe { Stream::borrow(gpu, 0) }.unwrap();
    assert_eq!(default.raw(), Stream::default(gpu).unwrap().raw());
    // SAFETY: nothing is done with it.
    let per_thread = unsafe { Stream::borrow(gpu, 2) }.unwrap_err().to_string();
    assert!(per_thread.contains("each thread"), "{per_thread}");
    let host = Pinned::new(gpu, 4096).unwrap();
    default.write_word(&host.slice(0, 4).unwrap(), 9).unwrap();
    default.synchronize(SOON).unwrap();
    assert_eq!(host.memory().load_u32(0, Ordering::Acquire), Ok(9));
}

pub(crate) fn an_allocation_is_aligned_and_reached_by_gpu_and_drives(gpu: &Arc<Gpu>, rung: Rung) {
    let memory = memory_of(gpu, vec![rung]);
    assert_eq!(memory.rung(), rung);
    let mut rng = fastrand::Rng::with_seed(9);
    let mut alive = Vec::new();
    for round in 0..60_u64 {
        let (len, align) = (rng.usize(1..300_000), 1_usize << rng.u32(0..=21));
        let buffer = match memory.alloc(len, align) {
            Ok(buffer) => buffer,
            Err(GpuError::NoRoom { .. }) => {
                alive.truncate(alive.len() / 2);
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(buffer.device_address().is_multiple_of(align as u64));
        assert!(buffer.dma().iova().is_multiple_of(align.min(4096) as u64));
        assert_eq!((buffer.len(), buffer.dma().len()), (len, len));
        let data = bytes(round, len);
        buffer.copy_in(0, &data).unwrap();
        alive.push((buffer, data));
    }
    for (buffer, data) in &alive {
        let at = data.len() / 3;
        let mut back = vec![0; data.len() - at];
        buffer.slice(at, back.len()).unwrap().copy_out(0, &mut back).unwrap();
        assert!(back == data[at..], "the GPU sees something else");
        // What drives see is what the CPU sees: a window is slow to read, so little of it.
        let mut few = [0; 64];
        let few = &mut few[..64.min(data.len())];
        buffer.dma().read(0, few).unwrap();
        assert!(*few == data[..few.len()], "drives would see something else");
    }
    drop(alive);
    let stats = memory.stats();
    assert_eq!((stats.used_bytes, stats.allocations), (0, 0));
    assert_eq!(stats.largest_free_bytes, 8 * MIB);
}

pub(crate) fn memory_grows_by_windows_up_to_its_bound(gpu: &Arc<Gpu>) {
    let memory = memory(gpu);
    assert_eq!(memory.stats().windows, 1);
    let first = memory.alloc(6 * MIB, 4096).unwrap();
    let second = memory.alloc(6 * MIB, 4096).unwrap();
    assert_eq!((memory.stats().windows, memory.stats().window_bytes), (2, 16 * MIB));
    let third = memory.alloc(8 * MIB, 2 * MIB).unwrap();
    let error = memory.alloc(4 * MIB, 1).unwrap_err();
    assert!(matches!(error, GpuError::NoRoom { .. }), "{error}");
    assert!(error.to_string().contains("3 windows"), "{error}");
    drop(second);
    let again = memory.alloc(4 * MIB, 1).unwrap();
    drop((first, third, again));
    for (len, align) in [(0, 1), (usize::MAX, 1), (4096, 3), (4096, 4 * MIB), (4096, 0)] {
        let error = memory.alloc(len, align).unwrap_err();
        assert!(matches!(error, GpuError::Invalid { .. }), "{len} {align}: {error}");
    }
    // An allocation larger than a window gets one of its own, within the bound.
    let large = memory_of(gpu, Rung::ALL.to_vec());
    assert_eq!(large.alloc(15 * MIB, 4096).unwrap().len(), 15 * MIB);
    assert_eq!(large.stats().window_bytes, 24 * MIB);
    assert!(large.alloc(25 * MIB, 4096).is_err());
}

pub(crate) fn memory_is_free_when_no_slice_has_it_not_even_a_drives(gpu: &Arc<Gpu>) {
    let memory = memory(gpu);
    let buffer = memory.alloc(MIB, 4096).unwrap();
    let (address, part) = (buffer.device_address(), buffer.slice(4096, 4096).unwrap());
    // What a command would hold.
    let segment = part.dma().slice(0, 512).unwrap();
    drop(buffer);
    assert_eq!(memory.stats().allocations, 1);
    drop(part);
    assert_eq!(memory.stats().allocations, 1, "freed under a drive");
    assert_ne!(memory.alloc(MIB, 4096).unwrap().device_address(), address);
    // It outlives the allocator, too.
    drop(memory);
    segment.write(0, &[7; 512]).unwrap();
    let mut back = [0; 512];
    segment.read(0, &mut back).unwrap();
    assert_eq!(back, [7; 512]);
}

pub(crate) fn the_probe_says_what_works_and_why_the_rest_does_not(gpu: &Arc<Gpu>, expected: Rung) {
    let probe = Probe::of(gpu).unwrap();
    assert_eq!(probe.rung, expected, "{probe}");
    let refused: Vec<_> = probe.refusals.iter().map(|refusal| refusal.rung).collect();
    assert!(refused.iter().all(|&rung| rung < expected), "{probe}");
    for refusal in &probe.refusals {
        assert!(refusal.reason.len() > 10, "{probe}");
    }
    let space = AddressSpace::new().unwrap().dma;
    let options = MemoryOptions { rungs: vec![Rung::GdrCopy], ..MemoryOptions::default() };
    let error = DeviceMemory::new(gpu, &space, options).unwrap_err();
    assert!(error.to_string().contains("gdrcopy"), "{error}");
}

fn foreign_error(gpu: &Arc<Gpu>, address: u64, len: usize) -> String {
    match ForeignMemory::check(gpu, address, len) {
        Err(error @ GpuError::Foreign { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn memory_of_others_is_checked(gpu: &Arc<Gpu>) {
    let window = VramWindow::new(gpu, 2 * MIB).unwrap();
    let (address, len) = (window.device_address(), window.len());
    let whole = ForeignMemory::check(gpu, address, len).unwrap();
    assert_eq!((whole.address(), whole.len()), (address, len));
    let part = ForeignMemory::check(gpu, address + 100, len - 100).unwrap();
    assert_eq!(part.slice(28, 4).unwrap().device_address(), address + 128);
    assert!(part.slice(0, len).is_err());
    // Copies work on it.
    let stream = Stream::new(gpu).unwrap();
    let host = Pinned::new(gpu, 4096).unwrap();
    host.memory().write(0, &bytes(4, 4096)).unwrap();
    stream.copy(&host.as_slice(), &whole.slice(4096, 4096).unwrap()).unwrap();
    stream.synchronize(SOON).unwrap();
    let mut back = vec![0; 4096];
    window.copy_out(4096, &mut back).unwrap();
    assert!(back == bytes(4, 4096));

    let past = foreign_error(gpu, address + 4096, len);
    assert!(
        past.contains("inside one allocation") && past.contains(&(len - 4096).to_string()),
        "{past}"
    );
    assert!(foreign_error(gpu, address, 0).contains("1 byte or more"));
    assert!(foreign_error(gpu, u64::MAX - 10, 100).contains("address space"));
    let pinned = foreign_error(gpu, host.device_address(), 64);
    assert!(pinned.contains("it is host memory"), "{pinned}");
    let plain = vec![0_u8; 4096];
    let plain = foreign_error(gpu, plain.as_ptr() as u64, 64);
    assert!(plain.contains("ordinary host memory"), "{plain}");
    let odd = ForeignMemory::check_aligned(gpu, address + 100, 64, 16).unwrap_err().to_string();
    assert!(odd.contains("multiple of 16") && odd.contains("4 past"), "{odd}");
    ForeignMemory::check_aligned(gpu, address + 112, 64, 16).unwrap();
    drop(window);
    let freed = foreign_error(gpu, address, 64);
    assert!(freed.contains("freed"), "{freed}");
}

pub(crate) fn too_much_memory_is_refused_by_name(gpu: &Arc<Gpu>) {
    for len in [1 << 42, 1 << 50] {
        match VramWindow::new(gpu, len) {
            Err(GpuError::Cuda { source, .. }) => {
                assert_eq!(source.name, "CUDA_ERROR_OUT_OF_MEMORY");
            }
            other => panic!("{other:?}"),
        }
    }
    let before = gpu.memory_info().unwrap();
    let window = VramWindow::new(gpu, 64 * MIB).unwrap();
    let with = gpu.memory_info().unwrap();
    assert_eq!(with.total_bytes, before.total_bytes);
    assert!(with.free_bytes + 64 * MIB as u64 <= before.free_bytes);
    drop(window);
}

/// Puts a record at an offset and tells its address.
fn place(memory: &DeviceSlice, offset: usize, record: &[u8]) -> u64 {
    memory.copy_in(offset, record).unwrap();
    memory.device_address() + offset as u64
}

/// A pair that is out of use ends each of its commands at once, so the kernel runs without a drive.
pub(crate) fn a_kernel_is_launched_with_its_record(gpu: &Arc<Gpu>) {
    const COMMANDS: usize = 40;
    let memory = memory(gpu);
    let kernels = Kernels::load(gpu).unwrap();
    let stream = Stream::new(gpu).unwrap();
    let records = memory.alloc(64 << 10, 4096).unwrap();
    let host = Pinned::new(gpu, 4096).unwrap();
    let pair = QueuePair {
        entries: 64,
        lba_shift: 12,
        broken: outcome::TIMED_OUT,
        ..QueuePair::default()
    };
    let pair = place(&records, 0, &pair.to_bytes());
    let share = Share { queue_pair: pair, first: 0, count: COMMANDS as u32 };
    let command = Command { opcode: 2, bytes: 4096, ..Command::default() };
    let commands: Vec<u8> = (0..COMMANDS).flat_map(|_| command.to_bytes()).collect();
    let batch = Batch {
        shares: place(&records, 4096, &share.to_bytes()),
        commands: place(&records, 8192, &commands),
        segments: records.device_address() + (32 << 10),
        statuses: host.device_address(),
        abort: host.device_address() + 2048,
        done: host.device_address() + 2052,
        budget_ns: 5_000_000_000,
        share_count: 1,
        command_count: COMMANDS as u32,
        ..Batch::default()
    };
    let shape = LaunchShape { grid: 1, block: 64, shared_bytes: 0 };
    kernels.launch(&stream, "gcos_io", shape, &batch.to_bytes()).unwrap();
    stream.keep((records, host.clone()));
    stream.synchronize(SOON).unwrap();
    assert_eq!(host.memory().load_u32(2052, Ordering::Acquire), Ok(1));
    for index in 0..COMMANDS {
        let word = host.memory().load_u32(4 * index, Ordering::Acquire).unwrap();
        let kind = (word & !outcome::DONE) >> outcome::KIND_SHIFT;
        assert!(word & outcome::DONE != 0, "{index}: {word:#x}");
        assert_eq!(kind, outcome::NOT_STARTED, "{index}: {word:#x}");
    }
}

pub(crate) fn a_launch_without_sense_is_refused(gpu: &Arc<Gpu>) {
    let kernels = Kernels::load(gpu).unwrap();
    let stream = Stream::new(gpu).unwrap();
    let batch = Batch::default().to_bytes();
    for (grid, block) in [(0, 32), (1, 0), (1, 1025), (u32::MAX, 32)] {
        let shape = LaunchShape { grid, block, shared_bytes: 0 };
        let error = kernels.launch(&stream, "gcos_io", shape, &batch).unwrap_err();
        assert!(matches!(error, GpuError::Invalid { .. }), "{error}");
    }
    let shape = LaunchShape { grid: 1, block: 32, shared_bytes: 0 };
    assert!(kernels.launch(&stream, "gcos_io", shape, &[0; 7]).is_err());
    stream.synchronize(SOON).unwrap();
    // These may be found out at once or by the stream.
    for (name, params) in [("gcos_nothing", batch.as_slice()), ("gcos_io", &[0; 8])] {
        let stream = Stream::new(gpu).unwrap();
        let launched = kernels.launch(&stream, name, shape, params);
        let error = launched.and_then(|()| stream.synchronize(SOON)).unwrap_err();
        println!("{error}");
    }
}

pub(crate) fn kernels_do_not_spill(_: &Arc<Gpu>) {
    for kernel in built_kernels() {
        assert_eq!(kernel.spilled_bytes, 0, "{kernel:?}");
        assert!(kernel.registers > 0, "{kernel:?}");
    }
}
