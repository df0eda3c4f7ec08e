//! The file, the GPU, the library, and a pattern that tells every block from every other.

use std::error::Error;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos_cuda::cufile::{CuFile, CuFileHandle, UdevGap};
use gcos_cuda::{
    DeviceMemory, DeviceSlice, Gpu, GpuRange, MemoryOptions, PlayedCuFile, UnmappedMemory,
};
use gcos_engine::device::{CuFileUse, DeviceEngine, FileDeviceOptions, file_device};
use gcos_engine::{Engine, FileEngine, FileOptions, Request};
use gcos_hw::kernel::{Direct, Target, TargetOptions, host_space};
use serde_json::{Value, json};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// Time for one transfer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const MIB: usize = 1 << 20;
/// Bytes of one transfer of a measurement, and how many are under way.
pub(crate) const TRANSFER: usize = 8 * MIB;
pub(crate) const TOGETHER: usize = 8;

/// Everything that parts need.
pub(crate) struct Rig {
    pub(crate) gpu: Arc<Gpu>,
    pub(crate) memory: Arc<DeviceMemory>,
    /// Memory that only the GPU reaches: [`TOGETHER`] times [`TRANSFER`].
    pub(crate) plain: UnmappedMemory,
    pub(crate) file: Arc<FileEngine>,
    pub(crate) path: PathBuf,
    pub(crate) bytes: usize,
    pub(crate) cufile: Option<Arc<CuFile>>,
    pub(crate) handle: Option<Arc<CuFileHandle>>,
    pub(crate) played: Option<PlayedCuFile>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The bytes of the file from `offset` on: a word each, of its place and of `salt`.
pub(crate) fn pattern(offset: u64, len: usize, salt: u64) -> Vec<u8> {
    let word = |at: u64| {
        let mut x = (offset + at * 8).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt;
        x ^= x >> 29;
        x.wrapping_mul(0xBF58_476D_1CE4_E5B9).to_le_bytes()
    };
    (0..len as u64 / 8).flat_map(word).collect()
}

/// Compares, and says where the first difference is.
pub(crate) fn compare(what: &str, found: &[u8], wanted: &[u8]) -> Outcome<()> {
    if found == wanted {
        return Ok(());
    }
    let at = found.iter().zip(wanted).position(|(a, b)| a != b);
    Err(format!("{what}: wrong bytes, the first at {at:?} of {}", wanted.len()).into())
}

/// GB/s.
pub(crate) fn rate(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64().max(1e-9) / 1e9
}

impl Rig {
    pub(crate) fn new(args: &[String]) -> Outcome<(Self, Value)> {
        let has = |word: &str| args.iter().any(|arg| arg == word);
        let folder = args.first().ok_or("expected a folder")?;
        let mib: usize = args.last().and_then(|arg| arg.parse().ok()).unwrap_or(512);
        let bytes = mib.max(128) * MIB;
        let path = PathBuf::from(folder).join("gcos-file-path.img");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        gcos_hw::allocate(&file, bytes as u64)?;
        drop(file);

        let played = if has("played") { Some(PlayedCuFile::new()?) } else { None };
        let gpu = if played.is_some() { Gpu::played() } else { Gpu::open(0)? };
        let options = TargetOptions { direct: Direct::Require, read_only: false };
        let target = Target::open(&path, &options)?;
        let gap = UdevGap::of(target.fd());
        let space = host_space()?;
        let file = FileEngine::open(target, Arc::clone(&space), FileOptions::default())?;
        let options = MemoryOptions { window_bytes: 128 * MIB, ..MemoryOptions::default() };
        let memory = DeviceMemory::new(&gpu, &space, options)?;
        let plain = UnmappedMemory::new(&gpu, TOGETHER * TRANSFER)?;
        let mut rig =
            Self { gpu, memory, plain, file, path, bytes, cufile: None, handle: None, played };
        let mut told = json!({
            "gpu": rig.gpu.name(),
            "file_bytes": bytes,
            "way": format!("{:?}", rig.file.way()),
            "file_system": rig.file.target().file_system(),
            "memory": rig.memory.probe().to_string(),
            "udev_gap": gap.as_ref().map(ToString::to_string),
        });
        let cufile = rig.open_cufile(&mut told, gap.filter(|_| has("write-udev")));
        if let (Err(error), Value::Object(told)) = (cufile, &mut told) {
            told.insert("cufile_error".to_owned(), json!(error.to_string()));
        }
        Ok((rig, told))
    }

    fn open_cufile(&mut self, told: &mut Value, gap: Option<UdevGap>) -> Outcome<()> {
        let cufile = match &self.played {
            Some(played) => CuFile::open_at(played.path())?,
            None => CuFile::open()?,
        };
        if let Value::Object(told) = told {
            told.insert(
                "cufile".to_owned(),
                json!({
                    "library": cufile.path(),
                    "version": cufile.version(),
                    "mode": cufile.mode().name(),
                    "properties": format!("{:?}", cufile.properties()),
                }),
            );
        }
        self.cufile = Some(Arc::clone(&cufile));
        let register = || {
            let file = self.file.target().fd().try_clone_to_owned()?;
            Ok::<_, Box<dyn Error>>(CuFileHandle::register(&cufile, file)?)
        };
        let handle = match (register(), gap) {
            (Ok(handle), _) => handle,
            (Err(error), None) => return Err(error),
            (Err(error), Some(gap)) => {
                if let Value::Object(told) = told {
                    told.insert("refused_without_udev".to_owned(), json!(error.to_string()));
                }
                if let Some(folder) = gap.record.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                std::fs::write(&gap.record, gap.lines.join("\n") + "\n")?;
                register()?
            }
        };
        self.handle = Some(handle);
        Ok(())
    }

    pub(crate) fn handle(&self) -> Outcome<&Arc<CuFileHandle>> {
        Ok(self.handle.as_ref().ok_or("cuFile does not take the file")?)
    }

    pub(crate) fn device(&self, cufile: CuFileUse) -> Outcome<Arc<dyn DeviceEngine>> {
        let library = self.played.as_ref().map(|played| played.path().to_owned());
        let options = FileDeviceOptions { cufile, library, ..FileDeviceOptions::default() };
        Ok(file_device(&self.file, &self.memory, &options)?)
    }

    /// Parts of the file for transfers, round and round.
    pub(crate) fn offset(&self, number: usize) -> u64 {
        let slots = self.bytes / TRANSFER;
        ((number % slots) * TRANSFER) as u64
    }

    /// Part `number` of the memory that only the GPU reaches.
    pub(crate) fn plain_part(&self, number: usize) -> Outcome<UnmappedMemory> {
        Ok(self.plain.slice(number % TOGETHER * TRANSFER, TRANSFER)?)
    }

    /// Buffers that drives reach, each of [`TRANSFER`] bytes.
    pub(crate) fn buffers(&self) -> Outcome<Vec<DeviceSlice>> {
        let one = || Ok(self.memory.alloc(TRANSFER, 4096)?.as_slice());
        (0..TOGETHER).map(|_| one()).collect()
    }

    /// Writes the pattern to the whole file from host memory, and reads it back: the rates of the disk, the way
    /// that cuFile's compatibility mode cannot be faster than.
    pub(crate) fn disk(&self) -> Outcome<Value> {
        let buffers: Vec<_> =
            (0..TOGETHER).map(|_| self.file.dma().alloc(TRANSFER)).collect::<Result<_, _>>()?;
        let count = self.bytes / TRANSFER;
        let mut moving = Duration::ZERO;
        for first in (0..count).step_by(TOGETHER) {
            let round: Vec<_> = (first..count.min(first + TOGETHER)).collect();
            for (&number, buffer) in round.iter().zip(&buffers) {
                buffer.as_dma().write(0, &pattern(self.offset(number), TRANSFER, 0))?;
            }
            let start = Instant::now();
            let tickets = round.iter().zip(&buffers).map(|(&number, buffer)| {
                let (offset, dma) = (self.offset(number), buffer.as_dma());
                self.file.submit(Request::write(offset, dma, false, DEADLINE))
            });
            for ticket in tickets.collect::<Result<Vec<_>, _>>()? {
                ticket.wait()?;
            }
            moving += start.elapsed();
        }
        let start = Instant::now();
        self.file.run(Request::flush(DEADLINE))?;
        let flush = start.elapsed();
        Ok(json!({
            "write_gb_s": rate(count * TRANSFER, moving),
            "flush_s": flush.as_secs_f64(),
            "read_gb_s": self.disk_read()?,
        }))
    }

    /// The rate of reads to host memory.
    pub(crate) fn disk_read(&self) -> Outcome<f64> {
        let count = self.bytes / TRANSFER;
        let buffers: Vec<_> =
            (0..TOGETHER).map(|_| self.file.dma().alloc(TRANSFER)).collect::<Result<_, _>>()?;
        let start = Instant::now();
        let mut tickets = std::collections::VecDeque::new();
        for number in 0..count {
            if tickets.len() == TOGETHER {
                let oldest: Option<Box<dyn gcos_engine::Ticket>> = tickets.pop_front();
                oldest.ok_or("no ticket")?.wait()?;
            }
            let dma = buffers[number % TOGETHER].as_dma();
            let read = Request::read(self.offset(number), dma, DEADLINE);
            tickets.push_back(self.file.submit(read)?);
        }
        for ticket in tickets {
            ticket.wait()?;
        }
        Ok(rate(count * TRANSFER, start.elapsed()))
    }
}

/// Length of what a GPU reaches, for messages.
pub(crate) fn described(memory: &impl GpuRange) -> String {
    format!("{} bytes at {:#x}", memory.len(), memory.device_address())
}
