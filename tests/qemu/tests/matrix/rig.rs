//! Machines with drives of every shape, on sparse images in a folder that goes with the test.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gcos_hardware_tests::{Summary, Target, Window};
use gcos_hw::DmaSlice;
use gcos_nvme::{BlockRange, Controller, IoOp, IoRequest, NvmeError, Options};
use gcos_qemu_tests::machine::Machine;
use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;

/// Deadline of requests that should work: software emulation on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of QEMU, and the images that they name.
pub(crate) struct Shape {
    folder: TempDir,
    arguments: Vec<String>,
}

impl Shape {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), arguments: Vec::new() }
    }

    pub(crate) fn arg(mut self, option: &str, value: &str) -> Self {
        self.arguments.extend([option.to_owned(), value.to_owned()]);
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An image of so many bytes, and a drive of that name; `options` are those of `-drive`.
    pub(crate) fn drive(self, name: &str, bytes: u64, options: &str) -> Self {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(bytes).unwrap();
        let file = path.display();
        let value = format!("id={name},file={file},format=raw,if=none,discard=unmap{options}");
        self.arg("-drive", &value)
    }

    pub(crate) fn device(self, value: &str) -> Self {
        self.arg("-device", value)
    }

    /// A controller with one namespace of 64 MiB; `options` are those of the controller, which then
    /// has the namespace's as well.
    pub(crate) fn simple(options: &str) -> Self {
        Self::new()
            .drive("one", 64 * MIB, "")
            .device(&format!("nvme,id=nvme0,serial=QTEST,drive=one{options}"))
    }

    /// A controller, and one namespace of 64 MiB with options of its own.
    pub(crate) fn namespace(controller: &str, namespace: &str) -> Self {
        Self::new()
            .drive("one", 64 * MIB, "")
            .device(&format!("nvme,id=nvme0,serial=QTEST{controller}"))
            .device(&format!("nvme-ns,drive=one,bus=nvme0{namespace}"))
    }

    pub(crate) fn start(&self) -> Machine {
        Machine::start(&self.arguments).unwrap()
    }
}

pub(crate) fn options() -> Options {
    Options { queue_depth: 64, ..Options::default() }
}

pub(crate) fn open(machine: &Machine, options: Options) -> Arc<Controller> {
    Controller::open(machine.function(0).unwrap(), options).unwrap()
}

/// What the suite is to run on: the whole of a namespace but its first and last 4 MiB.
pub(crate) fn target(machine: &Machine, index: usize, lba: u64) -> Target {
    let window = Window { slba: 4 * MIB / lba, blocks: 56 * MIB / lba };
    let function = machine.function(index).unwrap();
    Target {
        options: options(),
        window: Some(window),
        timeout: PATIENCE,
        ..Target::read_only(function)
    }
}

/// Runs the suite; every case must pass but those named, which must not be offered.
pub(crate) fn suite(target: &Target, lacking: &[&str]) -> Summary {
    let summary = gcos_hardware_tests::run(target, |_, _, _| {});
    assert!(summary.is_good(), "{summary}");
    let not_offered: Vec<_> = summary.not_offered.iter().map(|(name, _)| *name).collect();
    assert_eq!(not_offered, lacking, "{:?}", summary.not_offered);
    summary
}

pub(crate) fn request(op: IoOp, slba: u64, blocks: u64, segments: Vec<DmaSlice>) -> IoRequest {
    let ranges = (blocks > 0).then_some(BlockRange { slba, blocks }).into_iter().collect();
    IoRequest { nsid: 1, op, ranges, segments: segments.into(), timeout: PATIENCE }
}

/// Writes a block of 4 KiB (at a multiple of it) filled with one byte.
pub(crate) fn write(controller: &Arc<Controller>, page: u64, byte: u8) -> Result<(), NvmeError> {
    let (slba, blocks) = page_of(controller, page);
    let buffer = controller.dma().alloc(4096).unwrap();
    buffer.as_dma().fill(0, 4096, byte).unwrap();
    controller.run(request(IoOp::Write { fua: false }, slba, blocks, vec![buffer.as_dma()]))
}

/// Reads such a block: its byte, if all are the same.
pub(crate) fn read(controller: &Arc<Controller>, page: u64) -> Result<Option<u8>, NvmeError> {
    let (slba, blocks) = page_of(controller, page);
    let buffer = controller.dma().alloc(4096).unwrap();
    controller.run(request(IoOp::Read, slba, blocks, vec![buffer.as_dma()]))?;
    let mut bytes = vec![0; 4096];
    buffer.as_dma().read(0, &mut bytes).unwrap();
    Ok(bytes.iter().all(|byte| *byte == bytes[0]).then_some(bytes[0]))
}

fn page_of(controller: &Controller, page: u64) -> (u64, u64) {
    let blocks = 4096 / u64::from(controller.namespaces()[0].lba_bytes);
    (page * blocks, blocks)
}

/// That the controller does what it is told.
pub(crate) fn works(controller: &Arc<Controller>) {
    for byte in [0x3C, 0xC3] {
        write(controller, 100, byte).unwrap();
        assert_eq!(read(controller, 100).unwrap(), Some(byte));
    }
}
