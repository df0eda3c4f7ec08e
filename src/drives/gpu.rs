//! GPUs of a configuration: their memory, and engines between them and the drives.

use std::sync::Arc;

use gcos_cuda::{DeviceMemory, Gpu, GpuError, MemoryOptions};
use gcos_engine::device::{CuFileUse, DeviceEngine, FileDeviceOptions, HostDriven, file_device};
use gcos_engine::{Engine, FileEngine, GpuQueueEngine, GpuQueueOptions, HostQueueEngine};
use gcos_hw::DmaSpace;
use parking_lot::Mutex;

use super::{Drive, DriveChoice, OpenError};
use crate::config::{Config, KernelWay};
use crate::status::message_of;

/// GPUs that were opened, before there are drives.
#[derive(Debug, Default)]
pub(super) struct Gpus {
    open: Vec<Arc<Gpu>>,
    refused: Vec<String>,
}

/// What became of GPUs once there are drives.
#[derive(Debug, Default)]
pub(super) struct Attached {
    pub(super) memories: Vec<Arc<DeviceMemory>>,
    pub(super) refused: Vec<String>,
}

impl Gpus {
    /// Opens GPUs 0 to `namespace.gpu.num`. One that cannot be had is an error, unless
    /// `namespace.gpu.fallback` lets the pool do without.
    pub(super) fn open(config: &Config) -> Result<Self, OpenError> {
        let mut gpus = Self::default();
        for ordinal in 0..config.namespace.gpu.num as usize {
            match Gpu::open(ordinal) {
                Ok(gpu) => gpus.open.push(gpu),
                Err(error) => gpus.without(config, ordinal, &error)?,
            }
        }
        Ok(gpus)
    }

    #[cfg(test)]
    pub(super) fn of(open: Vec<Arc<Gpu>>) -> Self {
        Self { open, refused: Vec::new() }
    }

    /// Goes on without a GPU, if that is allowed.
    fn without(
        &mut self,
        config: &Config,
        gpu: usize,
        error: &(dyn std::error::Error + 'static),
    ) -> Result<(), OpenError> {
        let reason = message_of(error);
        if config.kernel_path.force == Some(KernelWay::CuFile) {
            let by = config.source_of("kernel_path.force");
            let reason = format!("{reason} ({by} forces cufile, which needs it)");
            return Err(OpenError::Gpu { gpu, reason });
        }
        if !config.namespace.gpu.fallback {
            return Err(OpenError::Gpu { gpu, reason });
        }
        tracing::warn!(gpu, reason, "the pool is opened without this GPU (namespace.gpu.fallback)");
        self.refused.push(format!("GPU {gpu}: {reason}"));
        Ok(())
    }

    /// Queue pairs that each drive must lend.
    pub(super) fn queue_pairs(&self, config: &Config) -> u16 {
        let pairs = self.open.len() * config.namespace.gpu.qps as usize;
        u16::try_from(pairs).unwrap_or(u16::MAX)
    }

    /// Takes memory of each GPU and lets each drive reach it: by queues that the GPU drives, or by the
    /// host's where those cannot be had and `namespace.gpu.fallback` allows it.
    pub(super) fn attach(
        mut self,
        config: &Config,
        dma: &Arc<DmaSpace>,
        drives: &[Drive],
        choices: &mut [DriveChoice],
    ) -> Result<Attached, OpenError> {
        let memories = Arc::new(Memories { dma: Arc::clone(dma), made: Mutex::default() });
        for gpu in std::mem::take(&mut self.open) {
            match memories.of(&gpu) {
                Ok(memory) => {
                    for (drive, choice) in drives.iter().zip(choices.iter_mut()) {
                        let path = match drive {
                            Drive::Queues(drive) => {
                                let device = engine(config, drive, &memory, &mut self.refused)?;
                                let path = device.path().to_string();
                                drive.attach(device);
                                path
                            }
                            Drive::File(drive, attached) => {
                                let device = file(config, drive, &memory)?;
                                let path = device.path().to_string();
                                attached.attach(device);
                                path
                            }
                        };
                        let (drive, gpu) = (&choice.path, gpu.ordinal());
                        tracing::info!(drive, gpu, path, "a GPU reaches the drive");
                        choice.gpus.push(format!("GPU {gpu}: {path}"));
                    }
                }
                Err(error) => self.without(config, gpu.ordinal(), &error)?,
            }
        }
        for drive in drives {
            if let Drive::File(file, attached) = drive {
                attached.make_others(later(config, file, &memories));
            }
        }
        let memories = memories.made.lock().clone();
        Ok(Attached { memories, refused: self.refused })
    }
}

/// Memory of each GPU, reached by all drives.
#[derive(Debug)]
struct Memories {
    dma: Arc<DmaSpace>,
    made: Mutex<Vec<Arc<DeviceMemory>>>,
}

impl Memories {
    fn of(&self, gpu: &Arc<Gpu>) -> Result<Arc<DeviceMemory>, GpuError> {
        let mut made = self.made.lock();
        if let Some(memory) = made.iter().find(|memory| memory.gpu().same(gpu)) {
            return Ok(Arc::clone(memory));
        }
        let memory = DeviceMemory::new(gpu, &self.dma, MemoryOptions::default())?;
        made.push(Arc::clone(&memory));
        Ok(memory)
    }
}

/// What makes the way between a block device or file and a GPU that the configuration does not name.
fn later(
    config: &Config,
    file: &Arc<FileEngine>,
    memories: &Arc<Memories>,
) -> impl Fn(&Arc<Gpu>) -> Option<Arc<dyn DeviceEngine>> + Send + Sync + 'static {
    let (file, memories, options) = (Arc::clone(file), Arc::clone(memories), options(config));
    move |gpu| {
        let memory = memories.of(gpu).map_err(|error| message_of(&error));
        let made = memory.and_then(|memory| {
            file_device(&file, &memory, &options).map_err(|error| message_of(&error))
        });
        let (drive, gpu) = (&file.geometry().name, gpu.ordinal());
        match made {
            Ok(device) => {
                let path = device.path().to_string();
                tracing::info!(drive, gpu, path, "a GPU reaches the drive");
                Some(device)
            }
            Err(reason) => {
                tracing::warn!(
                    drive,
                    gpu,
                    reason,
                    "the GPU reaches the drive by way of the processor"
                );
                None
            }
        }
    }
}

/// The best way between a drive and a GPU that can be had.
fn engine(
    config: &Config,
    drive: &Arc<HostQueueEngine>,
    memory: &Arc<DeviceMemory>,
    refused: &mut Vec<String>,
) -> Result<Arc<dyn DeviceEngine>, OpenError> {
    let wanted = &config.namespace.gpu;
    let ordinal = memory.gpu().ordinal();
    let failed = |reason| OpenError::Gpu { gpu: ordinal, reason };
    let mut why = Vec::new();
    if wanted.qps > 0 {
        let options = GpuQueueOptions {
            queue_pairs: u16::try_from(wanted.qps).unwrap_or(u16::MAX),
            queue_depth: wanted.queue_depth,
            ..GpuQueueOptions::default()
        };
        match GpuQueueEngine::new(drive.controller(), drive.nsid(), memory, options) {
            Ok(engine) => return Ok(Arc::new(engine)),
            Err(error) if !wanted.fallback => return Err(failed(message_of(&error))),
            Err(error) => {
                let reason = message_of(&error);
                tracing::warn!(gpu = ordinal, reason, "the host drives this GPU's transfers");
                refused.push(format!("GPU {ordinal}: {reason}"));
                why.push(reason);
            }
        }
    } else {
        why.push("namespace.gpu.qps is 0".to_owned());
    }
    let gone = |error: &(dyn std::error::Error + 'static)| failed(message_of(error));
    // An engine of its own over the same controller: it must not hold the one that it is attached to.
    let host = HostQueueEngine::new(Arc::clone(drive.controller()), drive.nsid());
    let host = host.map_err(|error| gone(&error))?;
    let host = HostDriven::with_reasons(Arc::new(host), Arc::clone(memory), why);
    Ok(Arc::new(host.map_err(|error| gone(&error))?))
}

/// What is allowed between block devices or files and GPUs.
fn options(config: &Config) -> FileDeviceOptions {
    let wanted = &config.kernel_path;
    let cufile = match (wanted.force, wanted.use_cufile) {
        (Some(KernelWay::CuFile), _) => CuFileUse::Require,
        (Some(_), _) | (None, false) => CuFileUse::Never,
        (None, true) => CuFileUse::Prefer,
    };
    let buffer = u64::from(wanted.cufile_buffer_mib);
    FileDeviceOptions { cufile, cufile_buffer_mib: buffer, ..FileDeviceOptions::default() }
}

/// The best way between a block device or file and a GPU that is allowed.
fn file(
    config: &Config,
    drive: &Arc<FileEngine>,
    memory: &Arc<DeviceMemory>,
) -> Result<Arc<dyn DeviceEngine>, OpenError> {
    let options = options(config);
    file_device(drive, memory, &options).map_err(|error| match options.cufile {
        CuFileUse::Require => OpenError::ForcedCuFile {
            path: drive.geometry().name.clone(),
            by: config.source_of("kernel_path.force"),
            gpu: memory.gpu().ordinal(),
            source: Box::new(error),
        },
        _ => OpenError::Gpu { gpu: memory.gpu().ordinal(), reason: message_of(&error) },
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;
    use crate::drives::open_with;
    use gcos_cuda::Stream;
    use gcos_engine::device::{DeviceTransfer, Driver};

    fn config(gpu: &str) -> Config {
        let text = format!(
            r#"{{
                "disk": {{
                    "number": 2,
                    "paths": ["emulated:ram:64MiB", "emulated:ram:64MiB"],
                    "capacity_bytes": 67108864
                }},
                "namespace": {{ "gpu": {gpu} }}
            }}"#
        );
        Config::parse(&text, "test").unwrap()
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_or_left_out() {
        // More than any machine has.
        let config = |fallback| config(&format!(r#"{{ "num": 64, "fallback": {fallback} }}"#));
        let error = crate::drives::open_drives(&config(false), false).unwrap_err();
        let OpenError::Gpu { .. } = &error else { panic!("{error}") };
        assert!(error.to_string().contains("namespace.gpu.fallback"), "{error}");
        let drives = crate::drives::open_drives(&config(true), false).unwrap();
        assert_eq!(drives.gpus.len() + drives.gpus_refused.len(), 64);
        assert!(!drives.gpus_refused.is_empty());
    }

    #[test]
    fn every_drive_reaches_every_gpu_and_the_path_says_how() {
        let seconds = Duration::from_secs(10);
        for (qps, expected) in
            [(2, Driver::Gpu { queue_pairs: 2, queue_depth: 64 }), (0, Driver::Host)]
        {
            let config = config(&format!(r#"{{ "num": 1, "qps": {qps}, "queue_depth": 64 }}"#));
            let gpu = Gpu::played();
            let drives = open_with(&config, false, Gpus::of(vec![Arc::clone(&gpu)])).unwrap();
            assert_eq!((drives.gpus.len(), drives.gpus_refused.len()), (1, 0));
            let stream = Stream::new(&gpu).unwrap();
            for drive in &drives.engines {
                let device = drive.device(&gpu).unwrap();
                assert_eq!(device.path().driver, expected, "{}", device.path());
                let memory = drives.gpus[0].alloc(8192, 4096).unwrap();
                memory.copy_in(0, &[9; 8192]).unwrap();
                let write = vec![DeviceTransfer::write(4096, memory.as_slice(), false)];
                for result in device.start(&stream, write, seconds).unwrap().wait() {
                    result.unwrap();
                }
                drive.shutdown(seconds).unwrap();
            }
        }
    }

    #[test]
    fn a_file_and_a_gpu_reach_each_other_through_the_host_and_cufile_is_not_forced_where_it_is_not()
    {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pool.img").display().to_string();
        let config = |more: &str| {
            let text = format!(
                r#"{{
                    "disk": {{
                        "number": 2, "paths": [{file:?}, "emulated:ram:64MiB"],
                        "capacity_bytes": 67108864
                    }},
                    "namespace": {{ "gpu": {{ "num": 1 }} }},
                    "kernel_path": {{ "use_direct_io": false{more} }}
                }}"#
            );
            Config::parse(&text, "test").unwrap()
        };
        let gpu = Gpu::played();
        let gpus = || Gpus::of(vec![Arc::clone(&gpu)]);
        let error = open_with(&config(r#", "force": "cufile""#), true, gpus()).unwrap_err();
        assert!(matches!(error, OpenError::ForcedCuFile { .. }), "{error}");
        assert!(!folder.path().join("pool.img").exists(), "what was made for it is gone");
        // A GPU that is asked for later goes the same way.
        let drives = open_with(&config(r#", "use_cufile": false"#), true, Gpus::default()).unwrap();
        let device = drives.engines[0].device(&gpu).unwrap();
        assert!(device.path().to_string().contains("pinned host memory"), "{}", device.path());
        assert!(Arc::ptr_eq(&device, &drives.engines[0].device(&gpu).unwrap()));
        assert!(drives.engines[1].device(&gpu).is_none(), "it reaches the GPU's memory itself");
        drop((device, drives));
        std::fs::remove_file(folder.path().join("pool.img")).unwrap();
        let drives = open_with(&config(r#", "use_cufile": false"#), true, gpus()).unwrap();
        let words = &drives.choices[0].gpus[0];
        assert!(words.contains("cuFile is switched off"), "{words}");
        let stream = Stream::new(&gpu).unwrap();
        let seconds = Duration::from_secs(10);
        for drive in &drives.engines {
            let device = drive.device(&gpu).unwrap();
            let memory = drives.gpus[0].alloc(8192, 4096).unwrap();
            memory.copy_in(0, &[7; 8192]).unwrap();
            let write = vec![DeviceTransfer::write(4096, memory.as_slice(), false)];
            device.start(&stream, write, seconds).unwrap().wait().remove(0).unwrap();
            memory.copy_in(0, &[0; 8192]).unwrap();
            let read = vec![DeviceTransfer::read(4096, memory.as_slice())];
            device.start(&stream, read, seconds).unwrap().wait().remove(0).unwrap();
            let mut back = vec![0; 8192];
            memory.copy_out(0, &mut back).unwrap();
            assert_eq!(back, [7; 8192]);
            drive.shutdown(seconds).unwrap();
        }
    }
}
