//! Block devices and files as targets of the kernel's path, on this machine.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a step that fails fails its test; what was not tested is said"
)]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use gcos_hw::kernel::{Direct, KernelError, Target, TargetOptions};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn file(folder: &Path, bytes: u64) -> PathBuf {
    let path = folder.join("image");
    File::create(&path).unwrap().set_len(bytes).unwrap();
    path
}

fn with(direct: Direct) -> TargetOptions {
    TargetOptions { direct, ..TargetOptions::default() }
}

fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A loop device over a file, which only root has, and not in every container.
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn new(image: &Path) -> Option<Self> {
        let path = run("losetup", &["--find", "--show", image.to_str()?]);
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            eprintln!("no loop devices here: nothing was tested");
            return None;
        };
        Some(Self { path: path.into() })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["--detach", self.path.to_str().unwrap()]);
    }
}

#[test]
fn a_file_has_its_size_in_whole_blocks_and_what_lies_below() {
    let folder = folder();
    let path = file(folder.path(), (1 << 20) + 100);
    let target = Target::open(&path, &with(Direct::Never)).unwrap();
    assert_eq!((target.capacity(), target.lba_bytes()), (1 << 20, 512));
    assert!(!target.is_direct() && !target.is_block_device() && !target.file_system().is_empty());
    assert_eq!((target.serial(), target.model()), ("", ""));
    drop(target);
    let target = Target::open(&path, &with(Direct::Prefer)).unwrap();
    assert!([512, 4096].contains(&target.lba_bytes()));
    assert_eq!(
        target.capacity(),
        ((1 << 20) + 100) / u64::from(target.lba_bytes()) * u64::from(target.lba_bytes())
    );
}

#[test]
fn a_file_belongs_to_one_at_a_time_and_readers_share_it() {
    let folder = folder();
    let path = file(folder.path(), 1 << 20);
    let read_only = TargetOptions { direct: Direct::Prefer, read_only: true };
    let owner = Target::open(&path, &with(Direct::Prefer)).unwrap();
    for options in [with(Direct::Prefer), read_only] {
        let error = Target::open(&path, &options).unwrap_err();
        assert!(matches!(error, KernelError::InUse { .. }), "{error}");
    }
    drop(owner);
    let readers =
        [Target::open(&path, &read_only).unwrap(), Target::open(&path, &read_only).unwrap()];
    assert!(readers.iter().all(|reader| reader.is_read_only()));
    assert!(Target::open(&path, &with(Direct::Prefer)).is_err());
}

#[test]
fn what_is_no_storage_is_refused_by_its_kind() {
    let folder = folder();
    let fifo = folder.path().join("fifo");
    run("mkfifo", &[fifo.to_str().unwrap()]).unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, kind) in [
        (folder.path(), "a directory"),
        (&fifo, "a FIFO"),
        (Path::new("/dev/null"), "a character device"),
        (&socket, "a socket"),
    ] {
        let error = Target::open(path, &TargetOptions::default()).unwrap_err();
        assert!(error.to_string().contains(&format!("found {kind}")), "{error}");
    }
    let error = Target::open(&folder.path().join("none"), &TargetOptions::default()).unwrap_err();
    assert!(matches!(error, KernelError::Os { what: "find it", .. }), "{error}");
    let error = Target::open(&file(folder.path(), 100), &with(Direct::Never)).unwrap_err();
    assert!(error.to_string().contains("at least one block, found 100 bytes"), "{error}");
}

#[test]
fn a_file_system_without_direct_io_is_named() {
    // procfs takes no O_DIRECT, and has files that can be read alone.
    let read_only = |direct| TargetOptions { direct, read_only: true };
    let path = Path::new("/proc/self/maps");
    let error = Target::open(path, &read_only(Direct::Require)).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, KernelError::NoDirect { .. }), "{text}");
    assert!(text.contains("number 0x9fa0") && text.contains("ext4"), "{text}");
}

#[test]
fn tmpfs_is_either_direct_or_named() {
    let Ok(mut file) = tempfile::NamedTempFile::new_in("/dev/shm") else {
        eprintln!("no /dev/shm here: nothing was tested");
        return;
    };
    file.write_all(&[0; 8192]).unwrap();
    // Linux 6.6 and later take O_DIRECT on tmpfs.
    match Target::open(file.path(), &with(Direct::Require)) {
        Ok(target) => assert!(target.is_direct()),
        Err(KernelError::NoDirect { file_system, .. }) => assert_eq!(file_system, "tmpfs"),
        Err(error) => panic!("{error}"),
    }
    let target = Target::open(file.path(), &with(Direct::Prefer)).unwrap();
    assert_eq!((target.file_system(), target.capacity()), ("tmpfs", 8192));
}

#[test]
fn a_block_device_is_had_alone() {
    let folder = folder();
    let image = file(folder.path(), 8 << 20);
    let Some(device) = Loop::new(&image) else { return };
    let target = Target::open(&device.path, &TargetOptions::default()).unwrap();
    assert!(target.is_block_device() && target.is_direct() && target.file_system().is_empty());
    assert_eq!((target.capacity(), target.lba_bytes()), (8 << 20, 512));
    let error = Target::open(&device.path, &TargetOptions::default()).unwrap_err();
    assert!(error.to_string().contains("another program has it open"), "{error}");
    target.discard(1 << 20, 1 << 20).unwrap();
    target.sync().unwrap();
}

#[test]
fn a_mounted_block_device_is_refused_with_its_mount_point() {
    let folder = folder();
    let image = file(folder.path(), 16 << 20);
    let Some(device) = Loop::new(&image) else { return };
    let at = folder.path().join("mounted here");
    fs::create_dir(&at).unwrap();
    let (device_path, at_path) = (device.path.to_str().unwrap(), at.to_str().unwrap());
    let mounted =
        run("mkfs.ext4", &["-q", device_path]).and_then(|_| run("mount", &[device_path, at_path]));
    if mounted.is_none() {
        eprintln!("nothing can be mounted here: nothing was tested");
        return;
    }
    let error = Target::open(&device.path, &TargetOptions::default());
    run("umount", &[at_path]).unwrap();
    let text = error.unwrap_err().to_string();
    assert!(text.contains(&format!("is mounted at {at_path}")), "{text}");
    Target::open(&device.path, &TargetOptions::default()).unwrap();
}
