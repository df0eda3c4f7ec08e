//! Files and GPU memory of anybody, with a stand-in for cuFile's library and a GPU that host threads play.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gcos_cuda::{
    CuFileCount, CuFileFault, Gpu, GpuRange, Pinned, PinnedSlice, PlayedCuFile, Stream,
    UnmappedMemory,
};
use gcos_engine::fileio::{
    FileIoError, GdsFileIo, GdsOptions, StorageMode, Transferred, gpu_file_read, gpu_file_write,
};

struct Rig {
    played: PlayedCuFile,
    gpu: Arc<Gpu>,
    memory: UnmappedMemory,
    stream: Stream,
    folder: PathBuf,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn rig(name: &str) -> Rig {
    let folder = std::env::temp_dir().join(format!("gcos-fileio-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let gpu = Gpu::played();
    let memory = UnmappedMemory::new(&gpu, 4 << 20).unwrap();
    let stream = Stream::new(&gpu).unwrap();
    Rig { played: PlayedCuFile::new().unwrap(), gpu, memory, stream, folder }
}

impl Rig {
    fn io(&self, enable_gds: bool) -> GdsFileIo {
        let library = Some(self.played.path().to_owned());
        let options = GdsOptions {
            enable_gds,
            library,
            staging_bytes: 64 << 10,
            deadline: Duration::from_secs(10),
            durable: true,
        };
        GdsFileIo::new(&self.gpu, options)
    }

    fn path(&self) -> PathBuf {
        self.folder.join("data.bin")
    }

    fn write(&self, io: &GdsFileIo, at: usize, size: usize, offset: u64) -> Transferred {
        let address = self.memory.device_address() + at as u64;
        io.write_to_file(&self.path(), address, size, offset, &self.stream, None).unwrap()
    }

    fn read(
        &self,
        io: &GdsFileIo,
        at: usize,
        size: usize,
        offset: u64,
    ) -> Result<Transferred, FileIoError> {
        let address = self.memory.device_address() + at as u64;
        io.read_file(&self.path(), address, size, offset, &self.stream, None)
    }

    fn bytes(&self, at: usize, size: usize) -> Vec<u8> {
        let mut out = vec![0; size];
        self.memory.copy_out(at, &mut out).unwrap();
        out
    }
}

fn sample(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u8(..)).collect()
}

#[test]
fn bytes_go_to_a_file_and_back_at_any_offset_size_and_address_in_both_modes() {
    let rig = rig("round");
    let bytes = sample(1 << 20, 1);
    rig.memory.copy_in(0, &bytes).unwrap();
    for enable_gds in [true, false] {
        let io = rig.io(enable_gds);
        let best = if enable_gds { StorageMode::Compatibility } else { StorageMode::Staging };
        assert_eq!(io.storage_mode(), best, "{}", io.reason());
        for (at, size, offset) in [
            (0, 1 << 20, 0),
            (3, 8192, 4096),
            (0, 1, 0),
            (17, 4095, 1),
            (1, 300_001, 12_345),
            (512, 4096, 4095),
            (0, 5000, 8192),
        ] {
            let whole = offset % 4096 == 0 && size % 4096 == 0;
            let mode = if whole { best } else { StorageMode::Staging };
            let old = std::fs::read(rig.path()).unwrap_or_default();
            let done = rig.write(&io, at, size, offset);
            assert_eq!((done.bytes, done.mode), (size as u64, mode), "{at} {size} {offset}");
            assert_eq!(done.fallback.is_some(), enable_gds && !whole, "{done:?}");
            let now = std::fs::read(rig.path()).unwrap();
            let (from, to) = (offset as usize, offset as usize + size);
            assert!(now[from..to] == bytes[at..at + size], "{at} {size} {offset}: written");
            let mut wanted = old.clone();
            wanted.resize(now.len(), 0);
            wanted[from..to].copy_from_slice(&bytes[at..at + size]);
            assert!(now == wanted, "{at} {size} {offset}: other bytes have changed");
            assert_eq!(now.len(), old.len().max(to), "{at} {size} {offset}: length");
            let into = (2 << 20) + at;
            assert_eq!(rig.read(&io, into, size, offset).unwrap().mode, mode);
            assert!(rig.bytes(into, size) == bytes[at..at + size], "{at} {size} {offset}: read");
        }
        std::fs::remove_file(rig.path()).unwrap();
    }
    // By way of a link, the file is made where that leads to.
    let place = rig.folder.join("place");
    std::fs::create_dir(&place).unwrap();
    std::os::unix::fs::symlink(place.join("data.bin"), rig.path()).unwrap();
    rig.write(&rig.io(false), 0, 5000, 0);
    assert!(std::fs::read(place.join("data.bin")).unwrap() == bytes[..5000]);
    assert!(rig.played.count(CuFileCount::Writes) > 0);
    assert_eq!(rig.played.count(CuFileCount::Handles), 0, "all are given back");
}

#[test]
fn each_transfer_that_cufile_fails_goes_through_host_memory_and_says_so() {
    let rig = rig("fallback");
    let io = rig.io(true);
    let bytes = sample(64 << 10, 2);
    rig.memory.copy_in(0, &bytes).unwrap();
    for (fault, value, word) in [
        (CuFileFault::Register, 5027, "udev"),
        (CuFileFault::WriteCode, 5030, "CU_FILE_INTERNAL_ERROR"),
        (CuFileFault::WriteErrno, 22, "cuFileWrite"),
    ] {
        rig.played.fault(fault, value).unwrap();
        let done = rig.write(&io, 0, bytes.len(), 0);
        assert_eq!(done.mode, StorageMode::Staging);
        assert!(done.fallback.as_ref().unwrap().contains(word), "{done:?}");
        assert_eq!(std::fs::read(rig.path()).unwrap(), bytes);
        std::fs::remove_file(rig.path()).unwrap();
        rig.played.fault(fault, 0).unwrap();
        assert_eq!(rig.write(&io, 0, bytes.len(), 0).mode, StorageMode::Compatibility);
    }
    rig.played.fault(CuFileFault::ReadCode, 5011).unwrap();
    let done = rig.read(&io, 1 << 20, bytes.len(), 0).unwrap();
    assert_eq!(done.mode, StorageMode::Staging);
    assert_eq!(rig.bytes(1 << 20, bytes.len()), bytes);
}

#[test]
fn errors_of_the_drive_are_not_hidden_by_another_try() {
    let rig = rig("drive");
    let io = rig.io(true);
    rig.write(&io, 0, 8192, 0);
    rig.played.fault(CuFileFault::WriteErrno, 28).unwrap();
    let address = rig.memory.device_address();
    let error = io.write_to_file(&rig.path(), address, 4096, 0, &rig.stream, None).unwrap_err();
    assert!(matches!(error, FileIoError::NoRoom { .. }), "{error}");
    rig.played.fault(CuFileFault::ReadErrno, 5).unwrap();
    let error = rig.read(&io, 0, 4096, 0).unwrap_err();
    let FileIoError::Io { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.raw_os_error(), Some(5));
}

#[test]
fn arguments_that_do_not_fit_are_refused_with_what_was_expected() {
    let rig = rig("refused");
    let io = rig.io(true);
    let source = |error: &FileIoError| std::error::Error::source(error).unwrap().to_string();
    let write = |path: &Path, address, size, offset, stream: &Stream| {
        io.write_to_file(path, address, size, offset, stream, None).unwrap_err()
    };
    let (path, address) = (rig.path(), rig.memory.device_address());
    // Host memory, another GPU's, a range past its end, nothing.
    let host = [0_u8; 64];
    let error = write(&path, host.as_ptr() as u64, 64, 0, &rig.stream);
    assert!(source(&error).contains("host memory"), "{error}: {}", source(&error));
    let other = Gpu::played();
    let theirs = UnmappedMemory::new(&other, 4096).unwrap();
    let error = write(&path, theirs.device_address(), 4096, 0, &rig.stream);
    assert!(source(&error).contains("another played one"), "{}", source(&error));
    let error = write(&path, address, (4 << 20) + 1, 0, &rig.stream);
    assert!(source(&error).contains("inside one allocation"), "{}", source(&error));
    let error = write(&path, address, 0, 0, &rig.stream);
    assert!(source(&error).contains("1 byte or more"), "{}", source(&error));
    let error = write(&path, address, 4096, u64::MAX - 4095, &rig.stream);
    assert!(matches!(error, FileIoError::Invalid { .. }), "{error}");
    let error = write(&path, address, 4096, 0, &Stream::new(&other).unwrap());
    assert!(error.to_string().contains("GPU of the stream"), "{error}");
    assert!(!path.exists(), "a file was made for a transfer that was refused");
    // Pipes, without waiting for their other end; folders, and what is not there.
    let fifo = rig.folder.join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let error = write(&fifo, address, 4096, 0, &rig.stream);
    assert!(matches!(error, FileIoError::NotAFile { .. }), "{error}");
    let error = write(&rig.folder, address, 4096, 0, &rig.stream);
    assert!(matches!(error, FileIoError::NotAFile { .. }), "{error}");
    let error = write(&rig.folder.join("no/such"), address, 4096, 0, &rig.stream);
    assert!(matches!(error, FileIoError::Open { .. }), "{error}");
    let error = rig.read(&io, 0, 4096, 0).unwrap_err();
    assert!(matches!(error, FileIoError::Open { purpose: "reading", .. }), "{error}");
    // Past the end.
    std::fs::write(&path, [1; 5000]).unwrap();
    for (size, offset) in [(5001, 0), (4096, 4096), (1, 5000)] {
        let error = rig.read(&io, 0, size, offset).unwrap_err();
        assert!(matches!(error, FileIoError::PastEnd { len: 5000, .. }), "{error}");
    }
    rig.read(&io, 0, 904, 4096).unwrap();
    assert_eq!(rig.bytes(0, 904), [1; 904]);
}

#[test]
fn host_memory_of_the_caller_is_used_if_it_fits() {
    let rig = rig("given");
    let io = rig.io(false);
    let bytes = sample(100_000, 4);
    rig.memory.copy_in(0, &bytes).unwrap();
    let pinned = Pinned::new(&rig.gpu, 32 << 10).unwrap();
    let address = rig.memory.device_address();
    let given = pinned.as_slice();
    let write = |staging: &PinnedSlice| {
        io.write_to_file(&rig.path(), address, bytes.len(), 0, &rig.stream, Some(staging))
    };
    write(&given).unwrap();
    assert_eq!(std::fs::read(rig.path()).unwrap(), bytes);
    let mut used = vec![0; 4096];
    pinned.memory().read(0, &mut used).unwrap();
    assert!(bytes.windows(64).any(|window| window == &used[..64]), "it was not used");
    let error = write(&given.slice(0, 4096).unwrap()).unwrap_err();
    assert!(error.to_string().contains("host memory for a transfer"), "{error}");
    let other = Pinned::new(&Gpu::played(), 32 << 10).unwrap();
    assert!(write(&other.as_slice()).is_err(), "another GPU's");
}

#[test]
fn a_transfer_comes_after_the_work_before_it_in_the_stream_or_not_at_all() {
    let rig = rig("order");
    let io = rig.io(true);
    let bytes = sample(1 << 20, 5);
    rig.memory.copy_in(1 << 20, &bytes).unwrap();
    let (from, to) =
        (rig.memory.slice(1 << 20, 1 << 20).unwrap(), rig.memory.slice(0, 1 << 20).unwrap());
    for _ in 0..8 {
        rig.stream.fill(&to, 0).unwrap();
        rig.stream.copy(&from, &to).unwrap();
        rig.write(&io, 0, 1 << 20, 0);
        assert!(std::fs::read(rig.path()).unwrap() == bytes);
    }
    std::fs::remove_file(rig.path()).unwrap();
    let library = Some(rig.played.path().to_owned());
    let deadline = Duration::from_millis(20);
    let hasty = GdsFileIo::new(&rig.gpu, GdsOptions { library, deadline, ..GdsOptions::default() });
    let gate = rig.stream.gate().unwrap();
    let address = rig.memory.device_address();
    let error = hasty.write_to_file(&rig.path(), address, 4096, 0, &rig.stream, None).unwrap_err();
    assert!(matches!(error, FileIoError::Gpu { .. }), "{error}");
    assert!(!rig.path().exists());
    gate.open();
}

#[test]
fn the_pair_of_functions_moves_bytes_with_whatever_there_is() {
    let rig = rig("pair");
    let bytes = sample(70_000, 6);
    rig.memory.copy_in(0, &bytes).unwrap();
    let (gpu, path, address) = (&rig.gpu, rig.path(), rig.memory.device_address());
    let wrote = gpu_file_write(gpu, &path, address, bytes.len(), 7, &rig.stream).unwrap();
    let back = address + (1 << 20);
    let read = gpu_file_read(gpu, &path, back, bytes.len(), 7, &rig.stream).unwrap();
    assert_eq!((wrote.bytes, read.bytes), (70_000, 70_000));
    assert_eq!(rig.bytes(1 << 20, 70_000), bytes);
}
