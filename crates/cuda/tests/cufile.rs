//! cuFile, with a stand-in for its library over memory of a GPU that host threads play.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_cuda::cufile::{
    Batch, BatchOp, BufferBudget, CuFile, CuFileError, CuFileHandle, CuFileMode, CuFileStream,
};
use gcos_cuda::{
    CuFileCount, CuFileFault, ForeignMemory, Gpu, GpuRange, PlayedCuFile, Stream, UnmappedMemory,
};

const SECONDS: Duration = Duration::from_secs(10);

/// A file that goes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("gcos-cufile-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn open(&self) -> OwnedFd {
        let file: File = OpenOptions::new().read(true).write(true).open(&self.0).unwrap();
        file.into()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn sample(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u8(..)).collect()
}

struct Rig {
    played: PlayedCuFile,
    cufile: Arc<CuFile>,
    gpu: Arc<Gpu>,
    memory: UnmappedMemory,
}

fn rig() -> Rig {
    let played = PlayedCuFile::new().unwrap();
    let cufile = CuFile::open_at(played.path()).unwrap();
    let gpu = Gpu::played();
    let memory = UnmappedMemory::new(&gpu, 2 << 20).unwrap();
    Rig { played, cufile, gpu, memory }
}

#[test]
fn the_driver_is_opened_once_and_closed_with_its_last_user() {
    let Rig { played, cufile, .. } = rig();
    let again = CuFile::open_at(played.path()).unwrap();
    assert!(Arc::ptr_eq(&cufile, &again));
    assert_eq!(played.count(CuFileCount::Opened), 1);
    assert_eq!(
        (cufile.version().as_deref(), cufile.mode()),
        (Some("1.15"), CuFileMode::Compatibility)
    );
    assert!(cufile.properties().allow_compatibility);
    assert_eq!(cufile.properties().max_direct_io_bytes, 16 << 20);
    drop((cufile, again));
    assert_eq!(played.count(CuFileCount::Opened), 0);
    played.fault(CuFileFault::NvidiaFs, 2).unwrap();
    let direct = CuFile::open_at(played.path()).unwrap();
    assert_eq!((direct.mode(), direct.properties().nvidia_fs.0), (CuFileMode::Direct, 2));
}

#[test]
fn a_driver_that_does_not_open_and_a_file_without_udev_say_what_to_do() {
    let Rig { played, cufile, .. } = rig();
    drop(cufile);
    played.fault(CuFileFault::Open, 5001).unwrap();
    let error = CuFile::open_at(played.path()).unwrap_err();
    assert_eq!(error.code().unwrap().name(), "CU_FILE_DRIVER_NOT_INITIALIZED");
    assert!(error.to_string().contains("allow_compat_mode"), "{error}");
    played.fault(CuFileFault::Open, 0).unwrap();

    let cufile = CuFile::open_at(played.path()).unwrap();
    let file = Scratch::new("udev", &[0; 4096]);
    played.fault(CuFileFault::Register, 5027).unwrap();
    let error = CuFileHandle::register(&cufile, file.open()).unwrap_err();
    assert_eq!(error.code().unwrap().number(), 5027);
    assert!(error.to_string().contains("/run/udev"), "{error}");
    played.fault(CuFileFault::Register, 5008).unwrap();
    let error = CuFileHandle::register(&cufile, file.open()).unwrap_err();
    assert!(matches!(error, CuFileError::Call { .. }), "{error}");
    assert!(error.to_string().contains("ext4"), "{error}");
}

#[test]
fn bytes_go_from_memory_to_a_file_and_back_through_short_transfers() {
    let Rig { played, cufile, memory, .. } = rig();
    let bytes = sample(64 << 10, 1);
    let file = Scratch::new("round", &[0; 128 << 10]);
    let handle = CuFileHandle::register(&cufile, file.open()).unwrap();
    played.fault(CuFileFault::Short, 12 << 10).unwrap();
    memory.copy_in(0, &bytes).unwrap();
    handle.write(&memory.slice(0, bytes.len()).unwrap(), 32 << 10, None).unwrap();
    assert_eq!(std::fs::read(&file.0).unwrap()[32 << 10..96 << 10], bytes);
    let back = memory.slice(1 << 20, bytes.len()).unwrap();
    assert_eq!(handle.read(&back, 32 << 10, None).unwrap(), bytes.len());
    let mut out = vec![0; bytes.len()];
    back.copy_out(0, &mut out).unwrap();
    assert_eq!(out, bytes);
    assert!(played.count(CuFileCount::Writes) >= 6, "short writes were gone on with");
    // Odd places are the library's business in reads.
    let odd = memory.slice(1_500_001, 777).unwrap();
    assert_eq!(handle.read(&odd, (32 << 10) + 13, None).unwrap(), 777);
    let mut out = vec![0; 777];
    odd.copy_out(0, &mut out).unwrap();
    assert_eq!(out, bytes[13..790]);
    // The file ends inside.
    assert_eq!(handle.read(&back, 100 << 10, None).unwrap(), 28 << 10);
    assert_eq!(handle.read(&back, 1 << 20, None).unwrap(), 0);
}

#[test]
fn errors_of_the_system_and_of_cufile_are_told_apart() {
    let Rig { played, cufile, memory, .. } = rig();
    let file = Scratch::new("errors", &[0; 8192]);
    let handle = CuFileHandle::register(&cufile, file.open()).unwrap();
    let page = memory.slice(0, 4096).unwrap();
    played.fault(CuFileFault::WriteErrno, 28).unwrap();
    let error = handle.write(&page, 0, None).unwrap_err();
    assert_eq!(error.os().unwrap().kind(), std::io::ErrorKind::StorageFull);
    played.fault(CuFileFault::ReadCode, 5044).unwrap();
    let error = handle.read(&page, 4096, None).unwrap_err();
    assert_eq!(error.code().unwrap().name(), "CU_FILE_IO_ERROR");
    let error = handle.read(&page, u64::MAX - 5, None).unwrap_err();
    assert!(matches!(error, CuFileError::Invalid { .. }), "{error}");
}

#[test]
fn memory_is_registered_as_far_as_the_budget_allows_and_given_back() {
    let Rig { played, cufile, gpu, memory } = rig();
    let budget = BufferBudget::of_mib(3);
    let registered = cufile.register_buffer(&memory, &budget).unwrap();
    assert_eq!((budget.used_bytes(), played.count(CuFileCount::Buffers)), (2 << 20, 1));
    let more = UnmappedMemory::new(&gpu, 2 << 20).unwrap();
    let error = cufile.register_buffer(&more, &budget).unwrap_err();
    assert!(matches!(error, CuFileError::Budget { used: 2_097_152, .. }), "{error}");

    // Through the registration: base and offset.
    let bytes = sample(8192, 2);
    let file = Scratch::new("registered", &bytes);
    let handle = CuFileHandle::register(&cufile, file.open()).unwrap();
    let part = memory.slice(12_288, 8192).unwrap();
    assert_eq!(handle.read(&part, 0, Some(&registered)).unwrap(), 8192);
    let mut out = vec![0; 8192];
    part.copy_out(0, &mut out).unwrap();
    assert_eq!(out, bytes);
    let error = handle.read(&more, 0, Some(&registered)).unwrap_err();
    assert!(matches!(error, CuFileError::Invalid { .. }), "{error}");

    // The memory stays until the registration is gone.
    let address = memory.device_address();
    drop((memory, part));
    assert!(ForeignMemory::check(&gpu, address, 4096).is_ok());
    drop(registered);
    assert!(ForeignMemory::check(&gpu, address, 4096).is_err());
    assert_eq!((budget.used_bytes(), played.count(CuFileCount::Buffers)), (0, 0));

    played.fault(CuFileFault::BufRegister, 5036).unwrap();
    let error = cufile.register_buffer(&more, &budget).unwrap_err();
    assert!(error.to_string().contains("BAR1"), "{error}");
    assert_eq!(budget.used_bytes(), 0, "a refusal costs nothing");
}

#[test]
fn a_batch_tells_of_each_transfer_and_holds_its_memory() {
    let Rig { played, cufile, gpu, memory } = rig();
    let bytes = sample(64 << 10, 3);
    let file = Scratch::new("batch", &bytes);
    let handle = CuFileHandle::register(&cufile, file.open()).unwrap();
    let mut batch = Batch::new(&cufile, &gpu, 16).unwrap();
    let read = |tag: u64| {
        let into = memory.slice(tag as usize * 4096, 4096).unwrap();
        BatchOp::read(tag, &handle, &into, (15 - tag) * 4096, None).unwrap()
    };
    batch.submit((0..16).map(read).collect()).unwrap();
    let error = batch.submit(vec![read(0)]).unwrap_err();
    assert!(matches!(error, CuFileError::Invalid { .. }), "no room: {error}");
    let mut seen: Vec<_> = batch.poll(16, SECONDS).unwrap();
    seen.sort_by_key(|done| done.tag);
    assert_eq!(seen.len(), 16);
    for (tag, done) in seen.into_iter().enumerate() {
        assert_eq!((done.tag, done.result.unwrap()), (tag as u64, 4096));
        let mut out = vec![0; 4096];
        memory.copy_out(tag * 4096, &mut out).unwrap();
        assert_eq!(out, bytes[(15 - tag) * 4096..][..4096]);
    }
    played.fault(CuFileFault::ReadErrno, 5).unwrap();
    batch.submit(vec![read(7)]).unwrap();
    let done = batch.poll(1, SECONDS).unwrap().pop().unwrap();
    assert_eq!(done.result.unwrap_err().os().unwrap().raw_os_error(), Some(5));
    played.fault(CuFileFault::ReadErrno, 0).unwrap();

    // What does not end is cancelled when the batch goes, and then its memory.
    played.fault(CuFileFault::BatchStuck, 1).unwrap();
    let own = UnmappedMemory::new(&gpu, 2 << 20).unwrap();
    let address = own.device_address();
    batch.submit(vec![BatchOp::read(1, &handle, &own, 0, None).unwrap()]).unwrap();
    drop(own);
    assert!(batch.poll(1, Duration::from_millis(1)).unwrap().is_empty());
    assert!(ForeignMemory::check(&gpu, address, 4096).is_ok(), "held while under way");
    drop(batch);
    assert!(ForeignMemory::check(&gpu, address, 4096).is_err());
    assert_eq!(played.count(CuFileCount::Batches), 0);
    assert!(Batch::new(&cufile, &gpu, 129).is_err(), "more than the driver allows");
}

#[test]
fn transfers_of_a_stream_come_in_its_order() {
    let Rig { played, cufile, gpu, memory } = rig();
    let bytes = sample(1 << 16, 4);
    let file = Scratch::new("stream", &vec![0; 1 << 16]);
    let handle = CuFileHandle::register(&cufile, file.open()).unwrap();
    let stream = Stream::new(&gpu).unwrap();
    let known = CuFileStream::register(&cufile, &stream).unwrap();
    memory.copy_in(1 << 20, &bytes).unwrap();
    let (source, staged) =
        (memory.slice(1 << 20, 1 << 16).unwrap(), memory.slice(0, 1 << 16).unwrap());
    let back = memory.slice(1 << 19, 1 << 16).unwrap();
    // Held back: nothing may be written yet.
    let gate = stream.gate().unwrap();
    stream.copy(&source, &staged).unwrap();
    let written = known.write(&handle, &staged, 0, None).unwrap();
    let read = known.read(&handle, &back, 0, None).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(written.poll().is_none() && read.poll().is_none());
    assert_eq!(played.count(CuFileCount::Writes), 0);
    gate.open();
    assert_eq!(written.wait(SECONDS).unwrap(), 1 << 16);
    assert_eq!(read.wait(SECONDS).unwrap(), 1 << 16);
    let mut out = vec![0; 1 << 16];
    back.copy_out(0, &mut out).unwrap();
    assert_eq!(out, bytes);

    played.fault(CuFileFault::ReadCode, 5044).unwrap();
    let error = known.read(&handle, &back, 0, None).unwrap().wait(SECONDS).unwrap_err();
    assert_eq!(error.code().unwrap().number(), 5044);
    played.fault(CuFileFault::ReadCode, 0).unwrap();
    played.fault(CuFileFault::DelayUs, 200_000).unwrap();
    let late = known.read(&handle, &back, 0, None).unwrap();
    let start = Instant::now();
    let error = late.wait(Duration::from_millis(10)).unwrap_err();
    assert!(matches!(error, CuFileError::TimedOut { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_millis(150));
    assert_eq!(late.wait(SECONDS).unwrap(), 1 << 16, "it went on");
    drop(known);
    assert_eq!(played.count(CuFileCount::Streams), 0);
}

#[test]
fn an_old_library_reads_and_writes_and_says_what_it_lacks() {
    let played = PlayedCuFile::old().unwrap();
    let cufile = CuFile::open_at(played.path()).unwrap();
    let gpu = Gpu::played();
    let memory = UnmappedMemory::new(&gpu, 4096).unwrap();
    let file = Scratch::new("old", &[7; 4096]);
    let handle = CuFileHandle::register(&cufile, file.open()).unwrap();
    assert_eq!(handle.read(&memory.slice(0, 4096).unwrap(), 0, None).unwrap(), 4096);
    let error = Batch::new(&cufile, &gpu, 1).unwrap_err();
    assert!(matches!(error, CuFileError::TooOld { .. }), "{error}");
    let stream = Stream::new(&gpu).unwrap();
    let error = CuFileStream::register(&cufile, &stream).unwrap_err();
    assert!(error.to_string().contains("1.7"), "{error}");
}
