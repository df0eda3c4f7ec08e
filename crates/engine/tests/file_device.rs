//! Engines between a file and a GPU: cuFile, and pinned host memory, with a stand-in for cuFile's library and a
//! GPU that host threads play.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_cuda::cufile::CuFileMode;
use gcos_cuda::{
    CuFileCount, CuFileFault, DeviceMemory, Gpu, MemoryOptions, PlayedCuFile, PlayedOptions, Stream,
};
use gcos_engine::device::{
    Attached, CuFileUse, DeviceEngine, DeviceTransfer, Driver, FileDeviceOptions, file_device,
};
use gcos_engine::{
    Engine, Extent, FileEngine, FileOptions, IoError, IoErrorKind, KernelPath, Op, Request,
};
use gcos_hw::kernel::{Direct, Target, TargetOptions, host_space};

const SECONDS: Duration = Duration::from_secs(20);
const FILE_BYTES: usize = 16 << 20;

struct Rig {
    played: PlayedCuFile,
    gpu: Arc<Gpu>,
    memory: Arc<DeviceMemory>,
    file: Arc<FileEngine>,
    path: PathBuf,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn rig(name: &str) -> Rig {
    rig_with(name, PlayedOptions::default())
}

fn rig_with(name: &str, options: PlayedOptions) -> Rig {
    let name = format!("gcos-file-device-{}-{name}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, vec![0; FILE_BYTES]).unwrap();
    let target = TargetOptions { direct: Direct::Prefer, read_only: false };
    let target = Target::open(&path, &target).unwrap();
    assert!(target.is_direct(), "the folder for temporary files takes no direct I/O");
    let space = host_space().unwrap();
    let options_ = FileOptions { force: Some(KernelPath::Posix), ..FileOptions::default() };
    let file = FileEngine::open(target, Arc::clone(&space), options_).unwrap();
    let gpu = Gpu::played_with(options);
    let windows = MemoryOptions { window_bytes: 32 << 20, ..MemoryOptions::default() };
    let memory = DeviceMemory::new(&gpu, &space, windows).unwrap();
    Rig { played: PlayedCuFile::new().unwrap(), gpu, memory, file, path }
}

impl Rig {
    fn options(&self, cufile: CuFileUse) -> FileDeviceOptions {
        let library = Some(self.played.path().to_owned());
        FileDeviceOptions { cufile, library, workers: 4, ..FileDeviceOptions::default() }
    }

    fn device(&self, cufile: CuFileUse) -> Arc<dyn DeviceEngine> {
        file_device(&self.file, &self.memory, &self.options(cufile)).unwrap()
    }

    fn on_disk(&self, offset: usize, len: usize) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()[offset..offset + len].to_vec()
    }
}

fn sample(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u8(..)).collect()
}

fn go(device: &dyn DeviceEngine, stream: &Stream, transfer: DeviceTransfer) -> Result<(), IoError> {
    go_within(device, stream, transfer, SECONDS)
}

fn go_within(
    device: &dyn DeviceEngine,
    stream: &Stream,
    transfer: DeviceTransfer,
    deadline: Duration,
) -> Result<(), IoError> {
    device.start(stream, vec![transfer], deadline).unwrap().wait().pop().unwrap()
}

#[test]
fn bytes_go_between_file_and_gpu_by_every_way_whatever_the_pieces() {
    let rig = rig("round");
    let stream = Stream::new(&rig.gpu).unwrap();
    for (seed, way, driver) in [
        (1, CuFileUse::Require, Driver::CuFile(CuFileMode::Compatibility)),
        (2, CuFileUse::Never, Driver::Staged),
    ] {
        let device = rig.device(way);
        assert_eq!(device.path().driver, driver, "{}", device.path());
        let bytes = sample(5 << 20, seed);
        let buffer = rig.memory.alloc(6 << 20, 4096).unwrap();
        buffer.copy_in(0, &bytes).unwrap();
        let all = buffer.slice(0, bytes.len()).unwrap();
        go(&*device, &stream, DeviceTransfer::write(8192, all, true)).unwrap();
        assert!(rig.on_disk(8192, bytes.len()) == bytes, "{way:?}: written");

        // Two extents out of order, into pieces of memory that are no pages.
        let into = rig.memory.alloc(1 << 20, 4096).unwrap();
        let read = DeviceTransfer {
            op: Op::Read,
            extents: [
                Extent { offset: 8192 + (1 << 20), len: 12_288 },
                Extent { offset: 8192, len: 4096 },
            ]
            .into_iter()
            .collect(),
            segments: [(100, 8000), (20_000, 8384)]
                .into_iter()
                .map(|(offset, len)| into.slice(offset, len).unwrap())
                .collect(),
        };
        go(&*device, &stream, read).unwrap();
        let (mut first, mut second) = (vec![0; 8000], vec![0; 8384]);
        into.copy_out(100, &mut first).unwrap();
        into.copy_out(20_000, &mut second).unwrap();
        let mut wanted = bytes[1 << 20..][..12_288].to_vec();
        wanted.extend(&bytes[..4096]);
        assert!([first, second].concat() == wanted, "{way:?}: read");
        device.shutdown(SECONDS).unwrap();
    }
    assert!(rig.played.count(CuFileCount::Writes) >= 5, "cuFile wrote");
}

#[test]
fn the_way_that_is_taken_and_why_no_better_one_is_said() {
    let rig = rig("ways");
    let text = |device: Arc<dyn DeviceEngine>| device.path().to_string();
    assert!(text(rig.device(CuFileUse::Prefer)).starts_with("by cuFile, compatibility"));
    assert!(
        text(rig.device(CuFileUse::Never)).contains("not better, since cuFile is switched off")
    );
    rig.played.fault(CuFileFault::Register, 5027).unwrap();
    let device = rig.device(CuFileUse::Prefer);
    assert_eq!(device.path().driver, Driver::Staged);
    assert!(device.path().to_string().contains("/run/udev"), "{}", device.path());
    let error = file_device(&rig.file, &rig.memory, &rig.options(CuFileUse::Require)).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Invalid);
    assert!(error.to_string().contains("5027"), "{error}");
    let nowhere = Some(PathBuf::from("/nowhere/libcufile.so.0"));
    let options = FileDeviceOptions { library: nowhere, ..FileDeviceOptions::default() };
    let device = file_device(&rig.file, &rig.memory, &options).unwrap();
    assert!(device.path().to_string().contains("/nowhere"), "{}", device.path());

    // Without windows the GPU's memory for drives is host memory, which needs nothing in between.
    let bare = rig_with("bare", PlayedOptions { windows: false, ..PlayedOptions::default() });
    let device = bare.device(CuFileUse::Prefer);
    assert_eq!(device.path().driver, Driver::Host, "{}", device.path());
    let stream = Stream::new(&bare.gpu).unwrap();
    let buffer = bare.memory.alloc(8192, 4096).unwrap();
    buffer.copy_in(0, &[7; 8192]).unwrap();
    go(&*device, &stream, DeviceTransfer::write(0, buffer.as_slice(), true)).unwrap();
    assert_eq!(bare.on_disk(0, 8192), [7; 8192]);
}

#[test]
fn transfers_wait_for_their_stream_and_the_stream_waits_for_them() {
    let rig = rig("order");
    for way in [CuFileUse::Require, CuFileUse::Never] {
        let device = rig.device(way);
        let stream = Stream::new(&rig.gpu).unwrap();
        let bytes = sample(2 << 20, 7);
        let (source, buffer, back) = (
            rig.memory.alloc(2 << 20, 4096).unwrap(),
            rig.memory.alloc(2 << 20, 4096).unwrap(),
            rig.memory.alloc(2 << 20, 4096).unwrap(),
        );
        source.copy_in(0, &bytes).unwrap();
        let gate = stream.gate().unwrap();
        stream.copy(&source.as_slice(), &buffer.as_slice()).unwrap();
        let write = vec![DeviceTransfer::write(0, buffer.as_slice(), false)];
        let mut written = device.start(&stream, write, SECONDS).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(written.poll().is_none(), "{way:?}: begun too early");
        gate.open();
        written.settle();
        stream.fill(&buffer.as_slice(), 0).unwrap();
        let read = vec![DeviceTransfer::read(0, buffer.as_slice())];
        let mut read = device.start(&stream, read, SECONDS).unwrap();
        read.settle();
        stream.copy(&buffer.as_slice(), &back.as_slice()).unwrap();
        for result in written.wait().into_iter().chain(read.wait()) {
            result.unwrap();
        }
        stream.synchronize(SECONDS).unwrap();
        let mut out = vec![0; bytes.len()];
        back.copy_out(0, &mut out).unwrap();
        assert!(out == bytes, "{way:?}");
        // For the next way.
        std::fs::write(&rig.path, vec![0; FILE_BYTES]).unwrap();
    }
}

#[test]
fn what_cufile_fails_is_done_through_host_memory_and_after_some_failures_all_is() {
    let rig = rig("left");
    let stream = Stream::new(&rig.gpu).unwrap();
    let buffer = rig.memory.alloc(1 << 20, 4096).unwrap();
    buffer.copy_in(0, &sample(1 << 20, 3)).unwrap();
    let write = || DeviceTransfer::write(4096, buffer.as_slice(), true);
    let (preferred, required) = (rig.device(CuFileUse::Prefer), rig.device(CuFileUse::Require));
    rig.played.fault(CuFileFault::WriteCode, 5030).unwrap();
    for failures in 1..=3 {
        go(&*preferred, &stream, write()).unwrap();
        assert_eq!(rig.on_disk(4096, 1 << 20), sample(1 << 20, 3));
        let left = preferred.path().driver == Driver::Staged;
        assert_eq!(left, failures == 3, "{}", preferred.path());
    }
    assert!(
        preferred.path().to_string().contains("CU_FILE_INTERNAL_ERROR"),
        "{}",
        preferred.path()
    );
    for _ in 0..4 {
        let error = go(&*required, &stream, write()).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Device);
        assert!(error.to_string().contains("5030"), "{error}");
    }
    assert!(matches!(required.path().driver, Driver::CuFile(_)), "asked for, never left");
    rig.played.fault(CuFileFault::WriteCode, 0).unwrap();
    go(&*required, &stream, write()).unwrap();
    // Once left, left for good: nobody has promised that it works again.
    let before = rig.played.count(CuFileCount::Writes);
    go(&*preferred, &stream, write()).unwrap();
    assert_eq!(rig.played.count(CuFileCount::Writes), before);
}

#[test]
fn an_error_of_the_drive_is_that_requests_alone_and_not_tried_again() {
    let rig = rig("eio");
    let device = rig.device(CuFileUse::Prefer);
    let stream = Stream::new(&rig.gpu).unwrap();
    let buffer = rig.memory.alloc(8192, 4096).unwrap();
    rig.played.fault(CuFileFault::ReadErrno, 5).unwrap();
    for _ in 0..5 {
        let read = DeviceTransfer::read(0, buffer.as_slice());
        let error = go(&*device, &stream, read).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Media, "{error}");
    }
    rig.played.fault(CuFileFault::ReadErrno, 0).unwrap();
    go(&*device, &stream, DeviceTransfer::read(0, buffer.as_slice())).unwrap();
    assert!(matches!(device.path().driver, Driver::CuFile(_)), "{}", device.path());
    // What cuFile moves short is gone on with.
    rig.played.fault(CuFileFault::Short, 4096).unwrap();
    buffer.copy_in(0, &[5; 8192]).unwrap();
    go(&*device, &stream, DeviceTransfer::write(0, buffer.as_slice(), false)).unwrap();
    assert_eq!(rig.on_disk(0, 8192), [5; 8192]);
}

#[test]
fn a_transfer_past_its_deadline_is_given_up_and_what_cufile_does_later_hurts_nobody() {
    let rig = rig("late");
    let device = rig.device(CuFileUse::Prefer);
    let stream = Stream::new(&rig.gpu).unwrap();
    let buffer = rig.memory.alloc(4096, 4096).unwrap();
    buffer.copy_in(0, &[1; 4096]).unwrap();
    rig.played.fault(CuFileFault::DelayUs, 600_000).unwrap();
    let start = Instant::now();
    let write = DeviceTransfer::write(0, buffer.as_slice(), false);
    let error = go_within(&*device, &stream, write, Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Unfinished, "{error}");
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    rig.played.fault(CuFileFault::DelayUs, 0).unwrap();
    // What is written late is what there was, not what the memory has become.
    buffer.copy_in(0, &[9; 4096]).unwrap();
    drop(buffer);

    // Until the late write has ended nothing else is written, whichever way it would go.
    let mut own = rig.file.dma().alloc(4096).unwrap();
    own.bytes_mut().unwrap().fill(2);
    let write = || Request::write(0, own.as_dma(), true, SECONDS);
    assert_eq!(rig.file.run(write()).unwrap_err().kind, IoErrorKind::Device);
    let other = rig.memory.alloc(4096, 4096).unwrap();
    let refused = DeviceTransfer::write(8192, other.as_slice(), false);
    assert_eq!(go(&*device, &stream, refused).unwrap_err().kind, IoErrorKind::Device);
    go(&*device, &stream, DeviceTransfer::read(8192, other.as_slice())).unwrap();
    drop(other);
    while rig.on_disk(0, 1) != [1] {
        assert!(start.elapsed() < SECONDS, "the late write never came");
        std::thread::sleep(Duration::from_millis(5));
    }
    while rig.file.run(write()).is_err() {
        assert!(start.elapsed() < SECONDS, "writes are refused for good");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(rig.on_disk(0, 4096), [2; 4096]);

    // A read that comes late comes to nobody: the memory may have other uses by then.
    rig.played.fault(CuFileFault::DelayUs, 300_000).unwrap();
    let into = rig.memory.alloc(4096, 4096).unwrap();
    into.copy_in(0, &[3; 4096]).unwrap();
    let reads = rig.played.count(CuFileCount::Reads);
    let read = DeviceTransfer::read(0, into.as_slice());
    let error = go_within(&*device, &stream, read, Duration::from_millis(30)).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Timeout, "{error}");
    while rig.played.count(CuFileCount::Reads) == reads {
        assert!(start.elapsed() < SECONDS, "the late read never came");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(50));
    let mut out = [0; 4096];
    into.copy_out(0, &mut out).unwrap();
    assert_eq!(out, [3; 4096]);
}

#[test]
fn a_read_is_unfinished_while_the_gpu_may_still_copy_it_and_a_write_is_late() {
    let rig = rig("slow-gpu");
    let device = rig.device(CuFileUse::Never);
    let stream = Stream::new(&rig.gpu).unwrap();
    let buffer = rig.memory.alloc(3 << 20, 4096).unwrap();
    let within = Duration::from_millis(300);
    let read = || DeviceTransfer::read(0, buffer.as_slice());
    let stall = rig.gpu.stall_copies().unwrap();
    let error = go_within(&*device, &stream, read(), within).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Unfinished, "{error}");
    let write = DeviceTransfer::write(0, buffer.as_slice(), false);
    let error = go_within(&*device, &stream, write, within).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Timeout, "{error}");
    drop(stall);
    go(&*device, &stream, read()).unwrap();
}

#[test]
fn many_streams_share_little_host_memory() {
    let rig = rig("shared");
    let options = FileDeviceOptions { staging_bytes: 2 << 20, ..rig.options(CuFileUse::Never) };
    let device = file_device(&rig.file, &rig.memory, &options).unwrap();
    let bytes = sample(FILE_BYTES, 9);
    std::fs::write(&rig.path, &bytes).unwrap();
    let parts: Vec<_> = (0..4)
        .map(|part| {
            let stream = Stream::new(&rig.gpu).unwrap();
            let buffer = rig.memory.alloc(4 << 20, 4096).unwrap();
            let read = vec![DeviceTransfer::read(part * (4 << 20), buffer.as_slice())];
            let ticket = device.start(&stream, read, SECONDS).unwrap();
            (stream, buffer, ticket)
        })
        .collect();
    for (part, (_stream, buffer, ticket)) in parts.into_iter().enumerate() {
        ticket.wait().pop().unwrap().unwrap();
        let mut out = vec![0; 4 << 20];
        buffer.copy_out(0, &mut out).unwrap();
        assert!(out == bytes[part << 22..][..4 << 20], "part {part}");
    }
}

#[test]
fn an_engine_finds_what_was_attached_to_it_and_shuts_it_down_first() {
    let rig = rig("attached");
    let engine = Attached::new(Arc::clone(&rig.file) as Arc<dyn Engine>);
    assert!(engine.device(&rig.gpu).is_none());
    engine.attach(rig.device(CuFileUse::Prefer));
    assert!(engine.device(&Gpu::played()).is_none(), "another GPU");
    let device = engine.device(&rig.gpu).unwrap();
    assert_eq!(engine.geometry(), rig.file.geometry());
    assert_eq!(engine.way(), rig.file.way());
    engine.shutdown(SECONDS).unwrap();
    let stream = Stream::new(&rig.gpu).unwrap();
    let buffer = rig.memory.alloc(4096, 4096).unwrap();
    let read = vec![DeviceTransfer::read(0, buffer.as_slice())];
    let error = device.start(&stream, read, SECONDS).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Gone);
    assert_eq!(rig.played.count(CuFileCount::Handles), 1);
    drop((engine, device));
    assert_eq!(rig.played.count(CuFileCount::Handles), 0, "the file was not let go of");
}

#[test]
fn a_file_is_nobody_elses_while_a_write_of_cufile_may_still_reach_it() {
    let (mut rig, elsewhere) = (rig("stuck"), rig("stuck-elsewhere"));
    let device = rig.device(CuFileUse::Prefer);
    let stream = Stream::new(&rig.gpu).unwrap();
    let buffer = rig.memory.alloc(4096, 4096).unwrap();
    buffer.copy_in(0, &[1; 4096]).unwrap();
    // Longer than the end of the engine waits for its threads.
    rig.played.fault(CuFileFault::DelayUs, 3_500_000).unwrap();
    let write = DeviceTransfer::write(0, buffer.as_slice(), false);
    let error = go_within(&*device, &stream, write, Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Unfinished, "{error}");
    drop(device);
    drop(std::mem::replace(&mut rig.file, Arc::clone(&elsewhere.file)));
    let start = Instant::now();
    let file = std::fs::File::open(&rig.path).unwrap();
    while file.try_lock().is_err() {
        assert!(start.elapsed() < SECONDS, "the file is kept for good");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(rig.on_disk(0, 4096), [1; 4096], "the write may come at any time");
}

#[test]
fn cufile_whose_calls_do_not_come_back_is_left() {
    let rig = rig("hanging");
    let device = rig.device(CuFileUse::Prefer);
    let stream = Stream::new(&rig.gpu).unwrap();
    let buffer = rig.memory.alloc(4096, 4096).unwrap();
    let read = || DeviceTransfer::read(0, buffer.as_slice());
    // Without a call in the way it is the deadline that was too short.
    for _ in 0..5 {
        assert!(go_within(&*device, &stream, read(), Duration::ZERO).is_err());
    }
    assert!(matches!(device.path().driver, Driver::CuFile(_)), "{}", device.path());
    rig.played.fault(CuFileFault::DelayUs, 1_000_000).unwrap();
    for late in 1..=3 {
        let error = go_within(&*device, &stream, read(), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind, IoErrorKind::Timeout, "{error}");
        assert_eq!(device.path().driver == Driver::Staged, late == 3, "{}", device.path());
    }
    assert!(device.path().to_string().contains("do not come back"), "{}", device.path());
    go(&*device, &stream, read()).unwrap();
}

#[test]
fn cufile_that_gets_no_memory_is_a_reason_to_go_another_way() {
    let options = PlayedOptions { memory_bytes: 80 << 20, ..PlayedOptions::default() };
    let rig = rig_with("little", options);
    let many = |cufile| FileDeviceOptions { workers: 128, ..rig.options(cufile) };
    let device = file_device(&rig.file, &rig.memory, &many(CuFileUse::Prefer)).unwrap();
    assert_eq!(device.path().driver, Driver::Staged, "{}", device.path());
    assert!(device.path().to_string().contains("OUT_OF_MEMORY"), "{}", device.path());
    let error = file_device(&rig.file, &rig.memory, &many(CuFileUse::Require)).unwrap_err();
    assert_eq!(error.kind, IoErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("OUT_OF_MEMORY"), "{error}");
}
