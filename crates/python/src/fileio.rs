//! Files of anybody and GPU memory: what `gcos.fileio` and `gcos.ops` call.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use gcos::engine::device::Gpu;
use gcos::fileio::{GdsFileIo, GdsOptions, Transferred};
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::error::Failure;
use crate::{foreign, numbers};

/// GPUs that were asked for, by number.
static GPUS: LazyLock<Mutex<Vec<Arc<Gpu>>>> = LazyLock::new(Mutex::default);

fn gpu(number: usize) -> Result<Arc<Gpu>, Failure> {
    let mut gpus = GPUS.lock();
    if let Some(gpu) = gpus.iter().find(|gpu| gpu.ordinal() == number) {
        return Ok(Arc::clone(gpu));
    }
    let gpu = Gpu::open(number)?;
    gpus.push(Arc::clone(&gpu));
    Ok(gpu)
}

/// Moves bytes between files and the memory of one GPU. Use `gcos.fileio.GdsFileIO`.
#[pyclass(frozen, module = "gcos._gcos", name = "FileIo")]
#[derive(Debug)]
pub(crate) struct FileIo {
    process: u32,
    inner: GdsFileIo,
}

/// Bytes, how they went, and why not better: what a transfer tells.
type Told = (u64, &'static str, Option<String>);

fn tell(done: Transferred) -> Told {
    (done.bytes, done.mode.name(), done.fallback)
}

impl FileIo {
    fn check(&self) -> Result<(), Failure> {
        let now = std::process::id();
        if now == self.process {
            return Ok(());
        }
        let opened_by = self.process;
        Err(gcos::AccessError::Forked { opened_by, now }.into())
    }
}

#[pymethods]
impl FileIo {
    #[new]
    #[pyo3(signature = (device, enable_gds, staging_bytes, durable))]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = numbers::device)] device: usize,
        enable_gds: bool,
        #[pyo3(from_py_with = numbers::size)] staging_bytes: usize,
        durable: bool,
    ) -> PyResult<Self> {
        let inner = py.detach(|| {
            let gpu = gpu(device)?;
            let options =
                GdsOptions { enable_gds, staging_bytes, durable, ..GdsOptions::default() };
            Ok::<_, Failure>(GdsFileIo::new(&gpu, options))
        })?;
        Ok(Self { process: std::process::id(), inner })
    }

    /// "gds_direct", "compatibility" or "staging".
    fn mode(&self) -> &'static str {
        self.inner.storage_mode().name()
    }

    /// Why cuFile is not used; empty where it is.
    fn reason(&self) -> &str {
        self.inner.reason()
    }

    /// Writes GPU memory to a file.
    fn write(
        &self,
        py: Python<'_>,
        path: PathBuf,
        #[pyo3(from_py_with = numbers::ptr)] address: u64,
        #[pyo3(from_py_with = numbers::size)] size: usize,
        #[pyo3(from_py_with = numbers::file_offset)] offset: u64,
        #[pyo3(from_py_with = numbers::stream)] stream: u64,
    ) -> PyResult<Told> {
        self.check()?;
        Ok(py.detach(|| {
            let stream = foreign::stream(self.inner.gpu(), stream)?;
            let done = self.inner.write_to_file(&path, address, size, offset, &stream, None);
            done.map(tell).map_err(Failure::from)
        })?)
    }

    /// Reads a file to GPU memory.
    fn read(
        &self,
        py: Python<'_>,
        path: PathBuf,
        #[pyo3(from_py_with = numbers::ptr)] address: u64,
        #[pyo3(from_py_with = numbers::size)] size: usize,
        #[pyo3(from_py_with = numbers::file_offset)] offset: u64,
        #[pyo3(from_py_with = numbers::stream)] stream: u64,
    ) -> PyResult<Told> {
        self.check()?;
        Ok(py.detach(|| {
            let stream = foreign::stream(self.inner.gpu(), stream)?;
            let done = self.inner.read_file(&path, address, size, offset, &stream, None);
            done.map(tell).map_err(Failure::from)
        })?)
    }
}
