//! `gcos.Store`.

use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "played")]
use gcos::cuda::{Gpu, PlayedOptions};
use gcos::metrics::MetricsServer as Server;
use gcos::{Access, Durability, IfExists, PutOptions, Sink, StoreError};
#[cfg(feature = "played")]
use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use serde::Serialize;

use crate::batch::{Batch, Item, Outcomes, Task};
use crate::buffer::{Buffer, DeviceBuffer, Registration, gpu_of};
use crate::config::Config;
use crate::crew::Shape;
use crate::error::{Failure, wrong_type};
use crate::handle::{Handle, abandon};
use crate::keys::{KeyIterator, key, keys, prefix};
use crate::metrics::MetricsServer;
use crate::numbers;
use crate::region::{Place, Region, Use};

/// Most threads for what is submitted.
const MOST_THREADS: usize = 256;

/// A pool that is open. It may be used by many threads at once; calls that move data let others run meanwhile.
///
/// A key is bytes or str (UTF-8), at most 1,024 bytes; an object has 1 byte to 1 GiB. Memory that a call was handed
/// must not be changed (put) or looked at (get) before the call, or its future, has ended.
#[pyclass(frozen, weakref, module = "gcos", name = "Store")]
#[derive(Debug)]
pub(crate) struct Store {
    handle: Arc<Handle>,
}

impl Drop for Store {
    fn drop(&mut self) {
        let handle = &self.handle;
        if Python::try_attach(|py| py.detach(|| abandon(handle))).is_none() {
            abandon(handle);
        }
    }
}

/// Lets the store have a GPU with this number that host threads play, if the module was built for it. For tests.
#[pyfunction]
pub(crate) fn play_gpu(
    store: &Store,
    #[pyo3(from_py_with = numbers::device)] device: usize,
) -> PyResult<()> {
    let access = store.handle.access()?;
    #[cfg(feature = "played")]
    {
        static PLAYED: Mutex<Vec<Arc<Gpu>>> = Mutex::new(Vec::new());
        let mut played = PLAYED.lock();
        let known = played.iter().find(|gpu| gpu.ordinal() == device).cloned();
        let gpu = known.unwrap_or_else(|| {
            let options = PlayedOptions { ordinal: device, ..PlayedOptions::default() };
            let gpu = Gpu::played_with(options);
            played.push(Arc::clone(&gpu));
            gpu
        });
        access.add_gpu(gpu);
        Ok(())
    }
    #[cfg(not(feature = "played"))]
    {
        let _ = (access, device);
        let message = "this module was built without the feature `played`";
        Err(Failure::new(gcos::Status::Unsupported, message).into())
    }
}

/// Makes a record of `gcos._records` from what Rust knows.
fn record<'py>(
    py: Python<'py>,
    class: &str,
    value: &impl Serialize,
) -> PyResult<Bound<'py, PyAny>> {
    let text = serde_json::to_string(value).map_err(|error| {
        Failure::new(gcos::Status::Internal, format!("a record cannot be written: {error}"))
    })?;
    py.import("gcos._records")?.getattr("load")?.call1((class, text))
}

fn put_options(durability: &str, if_exists: &str, ttl: Option<f64>) -> Result<PutOptions, Failure> {
    let durability = match durability {
        "sync" => Durability::Sync,
        "relaxed" => Durability::Relaxed,
        other => {
            let message = format!("durability: expected \"sync\" or \"relaxed\", got {other:?}");
            return Err(Failure::invalid(message));
        }
    };
    let if_exists = match if_exists {
        "replace" => IfExists::Replace,
        "keep" => IfExists::Keep,
        other => {
            let message = format!("if_exists: expected \"replace\" or \"keep\", got {other:?}");
            return Err(Failure::invalid(message));
        }
    };
    let ttl = match ttl {
        None => None,
        Some(seconds) => {
            let ttl = Duration::try_from_secs_f64(seconds).ok().filter(|ttl| !ttl.is_zero());
            let message = || format!("ttl: expected seconds, more than 0, got {seconds}");
            Some(ttl.ok_or_else(|| Failure::invalid(message()))?)
        }
    };
    Ok(PutOptions { durability, if_exists, ttl, pin: false })
}

/// The number of a stream: a number, or an object that has one (torch.cuda.Stream).
fn stream_of(stream: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u64>> {
    let Some(stream) = stream.filter(|stream| !stream.is_none()) else { return Ok(None) };
    match stream.getattr_opt(intern!(stream.py(), "cuda_stream"))? {
        Some(number) => numbers::stream(&number).map(Some),
        None => numbers::stream(stream).map(Some),
    }
}

impl Store {
    fn batch(
        &self,
        task: Task,
        items: Vec<Item>,
        stream: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Batch> {
        Ok(Batch {
            handle: Arc::clone(&self.handle),
            access: Some(self.handle.access()?),
            task,
            items,
            stream: stream_of(stream)?,
            _stream: stream.map(|stream| stream.clone().unbind()),
        })
    }

    fn one(
        &self,
        task: Task,
        name: &Bound<'_, PyAny>,
        buffer: &Bound<'_, PyAny>,
        stream: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Batch> {
        let item = Item { key: key(name)?, regions: Region::all_of(buffer, purpose(task))? };
        self.batch(task, vec![item], stream)
    }

    fn several(
        &self,
        task: Task,
        names: &Bound<'_, PyAny>,
        buffers: &Bound<'_, PyAny>,
        stream: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Batch> {
        let names = keys(names)?;
        let buffers: Vec<Bound<'_, PyAny>> = buffers
            .try_iter()
            .map_err(|_| wrong_type("buffers", "a list of buffers", buffers))?
            .collect::<PyResult<_>>()?;
        if names.len() != buffers.len() {
            let (keys, buffers) = (names.len(), buffers.len());
            let message =
                format!("expected one buffer for each key, got {keys} keys and {buffers} buffers");
            return Err(Failure::invalid(message).into());
        }
        let items = names
            .into_iter()
            .zip(&buffers)
            .map(|(key, buffer)| Ok(Item { key, regions: Region::all_of(buffer, purpose(task))? }));
        self.batch(task, items.collect::<PyResult<_>>()?, stream)
    }

    fn submit(&self, py: Python<'_>, batch: Batch, shape: Shape) -> PyResult<Py<PyAny>> {
        self.handle.crew.submit(py, batch, shape)
    }
}

fn purpose(task: Task) -> Use {
    match task {
        Task::Put(_) => Use::Source,
        Task::Get(_) => Use::Sink,
    }
}

fn run(py: Python<'_>, mut batch: Batch) -> Outcomes {
    py.detach(|| batch.run())
}

#[pymethods]
impl Store {
    /// Opens the pool of a configuration: a gcos.Config, a dict, the path of a file, or None for the file that
    /// GCOS_CONFIG names, else gcos.json.
    ///
    /// With `create`, files that are missing are made, and drives that hold nothing are formatted; nothing is ever
    /// erased. Pools of memory alone (emulated:ram) need no `create`. `threads` carry out what is submitted.
    #[staticmethod]
    #[pyo3(signature = (config = None, *, create = false, threads = 4))]
    fn open(
        py: Python<'_>,
        config: Option<&Bound<'_, PyAny>>,
        create: bool,
        #[pyo3(from_py_with = numbers::threads)] threads: usize,
    ) -> PyResult<Self> {
        if !(1..=MOST_THREADS).contains(&threads) {
            let message = format!("threads: expected 1 to {MOST_THREADS}, got {threads}");
            return Err(Failure::invalid(message).into());
        }
        let config = Config::of(config)?;
        let access = py.detach(|| Access::open(&config, create)).map_err(Failure::from)?;
        Ok(Self { handle: Handle::new(access, threads) })
    }

    /// Stores an object. False when the key exists and `if_exists` is "keep".
    ///
    /// `data` is a buffer, a tensor, or a list of them that are stored one behind the other. With `durability`
    /// "sync" (the default) the object survives a loss of power when this returns; "relaxed" ones of the last
    /// moments may be lost. `ttl` is its lifetime in seconds. `stream` is for memory of a GPU: the put comes after
    /// the work before it in that stream (default: the current one of torch, else the default stream).
    #[pyo3(signature = (key, data, *, durability = "sync", if_exists = "replace", ttl = None, stream = None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn put(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
        durability: &str,
        if_exists: &str,
        #[pyo3(from_py_with = numbers::ttl)] ttl: Option<f64>,
        stream: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let task = Task::Put(put_options(durability, if_exists, ttl)?);
        run(py, self.one(task, key, data, stream)?).one(py)
    }

    /// The bytes of an object, or None if it is not there.
    #[pyo3(signature = (key))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = key)] key: Vec<u8>,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let access = self.handle.access()?;
        loop {
            // A miss is counted by the get itself.
            let len = access.store().info(&key).map_or(1, |info| info.len as usize);
            let mut read = None;
            let bytes = PyBytes::new_with(py, len, |bytes| {
                read = Some(py.detach(|| access.get(&key, Sink::Bytes(bytes))));
                Ok(())
            })?;
            match read {
                Some(Ok(lookup)) => return Ok(lookup.is_hit().then_some(bytes)),
                // Replaced by an object of another length since its length was asked for.
                Some(Err(StoreError::WrongSize { .. })) => continue,
                Some(Err(error)) => return Err(Failure::from(error).into()),
                None => return Err(Failure::internal("a get").into()),
            }
        }
    }

    /// Reads an object into memory; False if it is not there, and the memory then holds anything.
    ///
    /// Without `offset` the memory has exactly the length of the object (ask `info`); with it, as many bytes as the
    /// memory has are read from there on. `stream`: as for put; the memory may be used when this returns.
    #[pyo3(signature = (key, buf, *, offset = None, stream = None))]
    fn get_into(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        buf: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = numbers::offset)] offset: Option<u32>,
        stream: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        run(py, self.one(Task::Get(offset), key, buf, stream)?).one(py)
    }

    /// Stores several objects with their I/O overlapping. For each, in order: True, False (kept), or an exception
    /// (not raised). An item of `bufs` may itself be a list: segments, stored one behind the other.
    #[pyo3(signature = (keys, bufs, *, durability = "sync", if_exists = "replace", ttl = None, stream = None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn put_many(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        bufs: &Bound<'_, PyAny>,
        durability: &str,
        if_exists: &str,
        #[pyo3(from_py_with = numbers::ttl)] ttl: Option<f64>,
        stream: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let task = Task::Put(put_options(durability, if_exists, ttl)?);
        run(py, self.several(task, keys, bufs, stream)?).list(py)
    }

    /// Reads several objects with their I/O overlapping. For each, in order: True, False (not there), or an
    /// exception (not raised). An item of `bufs` may itself be a list: segments, filled one behind the other.
    #[pyo3(signature = (keys, bufs, *, stream = None))]
    fn get_many(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        bufs: &Bound<'_, PyAny>,
        stream: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        run(py, self.several(Task::Get(None), keys, bufs, stream)?).list(py)
    }

    /// As put, by a thread of the store: returns a gcos.Future at once.
    #[pyo3(signature = (key, data, *, durability = "sync", if_exists = "replace", ttl = None, stream = None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn submit_put(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
        durability: &str,
        if_exists: &str,
        #[pyo3(from_py_with = numbers::ttl)] ttl: Option<f64>,
        stream: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let task = Task::Put(put_options(durability, if_exists, ttl)?);
        self.submit(py, self.one(task, key, data, stream)?, Shape::One)
    }

    /// As get_into, by a thread of the store: returns a gcos.Future at once.
    #[pyo3(signature = (key, buf, *, offset = None, stream = None))]
    fn submit_get_into(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        buf: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = numbers::offset)] offset: Option<u32>,
        stream: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        self.submit(py, self.one(Task::Get(offset), key, buf, stream)?, Shape::One)
    }

    /// As put_many, by a thread of the store: returns a gcos.Future at once.
    #[pyo3(signature = (keys, bufs, *, durability = "sync", if_exists = "replace", ttl = None, stream = None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn submit_put_many(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        bufs: &Bound<'_, PyAny>,
        durability: &str,
        if_exists: &str,
        #[pyo3(from_py_with = numbers::ttl)] ttl: Option<f64>,
        stream: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let task = Task::Put(put_options(durability, if_exists, ttl)?);
        self.submit(py, self.several(task, keys, bufs, stream)?, Shape::List)
    }

    /// As get_many, by a thread of the store: returns a gcos.Future at once.
    #[pyo3(signature = (keys, bufs, *, stream = None))]
    fn submit_get_many(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        bufs: &Bound<'_, PyAny>,
        stream: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        self.submit(py, self.several(Task::Get(None), keys, bufs, stream)?, Shape::List)
    }

    /// Lets the drives reach memory of the caller: I/O with the whole pages (4,096 bytes) inside it is without a copy
    /// from then on. The object is kept alive until the registration is closed.
    fn register(&self, py: Python<'_>, buf: &Bound<'_, PyAny>) -> PyResult<Registration> {
        let access = self.handle.access()?;
        let region = Region::of(buf, Use::Sink)?;
        let Place::Host(range) = &region.place else {
            return Err(Failure::invalid(
                "register: expected memory of the host; for a GPU use device_buffer",
            )
            .into());
        };
        let pages = range.whole_pages().ok_or_else(|| {
            Failure::invalid(format!(
                "register: expected memory with at least one whole page (4096 bytes, aligned), got {} bytes \
                 at {:#x}",
                range.len(),
                range.address()
            ))
        })?;
        let memory = pages.lend(Arc::new(region)).map_err(Failure::from)?;
        let registered = py.detach(|| access.register(memory)).map_err(Failure::from)?;
        Ok(Registration::new(&self.handle, registered))
    }

    /// New memory that the drives reach: I/O with it is without a copy.
    fn buffer(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = numbers::nbytes)] nbytes: usize,
    ) -> PyResult<Buffer> {
        let access = self.handle.access()?;
        if nbytes == 0 || nbytes > isize::MAX as usize / 2 {
            return Err(
                Failure::invalid("nbytes: expected at least 1, and what fits in memory").into()
            );
        }
        let memory = py.detach(|| access.store().buffer(nbytes)).map_err(Failure::from)?;
        Ok(Buffer::new(&self.handle, memory))
    }

    /// New memory of a GPU ("cuda:N") that the drives reach.
    fn device_buffer(
        &self,
        py: Python<'_>,
        device: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = numbers::nbytes)] nbytes: usize,
    ) -> PyResult<DeviceBuffer> {
        let number = gpu_of(device)?;
        if nbytes == 0 {
            return Err(Failure::invalid("nbytes: expected at least 1").into());
        }
        let access = self.handle.access()?;
        let memory = py.detach(|| {
            let gpu = access.gpu(number)?;
            access.store().device_buffer(&gpu, nbytes).map_err(Failure::from)
        })?;
        Ok(DeviceBuffer::new(&self.handle, number, memory))
    }

    /// Whether an object is there. A get may still miss, if a drive fails or the object is damaged.
    fn contains(&self, #[pyo3(from_py_with = key)] key: Vec<u8>) -> PyResult<bool> {
        Ok(self.handle.access()?.store().contains(&key))
    }

    fn __contains__(&self, #[pyo3(from_py_with = key)] key: Vec<u8>) -> PyResult<bool> {
        self.contains(key)
    }

    /// How many keys from the start of the list are there without a gap.
    fn prefix(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = keys)] keys: Vec<Vec<u8>>,
    ) -> PyResult<usize> {
        let access = self.handle.access()?;
        Ok(py.detach(|| {
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            access.store().prefix(&keys)
        }))
    }

    /// What is known of an object without reading it, or None.
    fn info<'py>(
        &self,
        py: Python<'py>,
        #[pyo3(from_py_with = key)] key: Vec<u8>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(info) = self.handle.access()?.store().info(&key) else { return Ok(None) };
        let class = py.import(intern!(py, "gcos._records"))?.getattr(intern!(py, "ObjectInfo"))?;
        let drives: Vec<u32> = info.drives.into_iter().map(u32::from).collect();
        let made = class.call1((info.len, info.generation, info.expires_at, info.pins, drives))?;
        Ok(Some(made))
    }

    /// Protects an object from eviction until as many calls of unpin. False when it is not there.
    fn pin(&self, #[pyo3(from_py_with = key)] key: Vec<u8>) -> PyResult<bool> {
        Ok(self.handle.access()?.store().pin(&key))
    }

    /// Takes one pin back. False when the object is not there or not pinned.
    fn unpin(&self, #[pyo3(from_py_with = key)] key: Vec<u8>) -> PyResult<bool> {
        Ok(self.handle.access()?.store().unpin(&key))
    }

    /// Marks an object as just used. False when it is not there.
    fn touch(&self, #[pyo3(from_py_with = key)] key: Vec<u8>) -> PyResult<bool> {
        Ok(self.handle.access()?.store().touch(&key))
    }

    /// Removes an object, pinned or not; durably when this returns. False when it is not there.
    fn remove(&self, py: Python<'_>, #[pyo3(from_py_with = key)] key: Vec<u8>) -> PyResult<bool> {
        let access = self.handle.access()?;
        let removed = py.detach(|| access.store().remove(&key, Durability::Sync));
        Ok(removed.map_err(Failure::from)?)
    }

    /// Goes over (key, length) of the objects whose keys start with `prefix`, in the order of keys, behind the key
    /// `after` if it is given. Looks at every object: for people and tools, not for serving.
    #[pyo3(signature = (prefix = None, *, after = None))]
    fn keys(
        &self,
        prefix: Option<&Bound<'_, PyAny>>,
        after: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<KeyIterator> {
        self.handle.access()?;
        let prefix = self::prefix(prefix)?;
        let after = after.filter(|after| !after.is_none()).map(key).transpose()?;
        Ok(KeyIterator::new(&self.handle, prefix, after))
    }

    /// Counters and gauges, a gcos.Stats.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let access = self.handle.access()?;
        let stats = py.detach(|| access.store().stats());
        record(py, "Stats", &stats)
    }

    /// What happened since the last call of this, or since the store was opened, a gcos.IntervalStats.
    fn interval_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let access = self.handle.access()?;
        let stats = py.detach(|| access.interval_stats());
        record(py, "IntervalStats", &stats)
    }

    /// All figures in the text format of Prometheus; docs/metrics.md lists them.
    fn metrics_text(&self, py: Python<'_>) -> PyResult<String> {
        let access = self.handle.access()?;
        Ok(py.detach(|| access.metrics_text()))
    }

    /// Serves the figures to Prometheus at http://`address`/metrics, until what is returned is closed. Port 0 is any
    /// that is free.
    #[pyo3(signature = (address = "127.0.0.1:0"))]
    fn serve_metrics(&self, py: Python<'_>, address: &str) -> PyResult<MetricsServer> {
        let access = self.handle.access()?;
        let started = py.detach(|| Server::start(&access, address)).map_err(Failure::from)?;
        Ok(MetricsServer::new(started))
    }

    /// What is known of each drive, a list of gcos.DriveInfo.
    fn drives<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let access = self.handle.access()?;
        let drives = py.detach(|| access.store().drives());
        record(py, "DriveInfo", &drives)
    }

    /// Identity and size of the pool, a gcos.PoolInfo.
    #[getter]
    fn pool<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        record(py, "PoolInfo", &self.handle.access()?.store().pool())
    }

    /// What opening found, a gcos.RecoveryReport.
    #[getter]
    fn recovery<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        record(py, "RecoveryReport", self.handle.access()?.store().recovery())
    }

    /// Whether it takes no more calls.
    #[getter]
    fn closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Makes everything durable that was stored or removed so far.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let access = self.handle.access()?;
        Ok(py.detach(|| access.store().flush()).map_err(Failure::from)?)
    }

    /// Writes a checkpoint of every drive, so that the next open has little to replay.
    fn checkpoint(&self, py: Python<'_>) -> PyResult<()> {
        let access = self.handle.access()?;
        Ok(py.detach(|| access.store().checkpoint()).map_err(Failure::from)?)
    }

    /// Takes no more calls, waits for those under way and for what was submitted, and closes the pool in order.
    ///
    /// What has not begun after `timeout` seconds is cancelled; if something that has begun does not end, nothing is
    /// closed, gcos.Timeout is raised, and this may be called again. A store that is closed stays so.
    #[pyo3(signature = (*, timeout = 60.0))]
    fn close(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = numbers::timeout)] timeout: f64,
    ) -> PyResult<()> {
        let patience = Duration::try_from_secs_f64(timeout).map_err(|_| {
            Failure::invalid(format!("timeout: expected seconds, 0 or more, got {timeout}"))
        })?;
        Ok(py.detach(|| self.handle.close(patience))?)
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.close(py, 60.0)
    }

    fn __repr__(&self) -> String {
        match self.handle.access() {
            Ok(access) => format!("gcos.Store(paths={:?})", access.config().disk.paths),
            Err(_) => "gcos.Store(closed)".to_owned(),
        }
    }
}
