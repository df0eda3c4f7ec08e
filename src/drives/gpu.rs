//! GPUs of a configuration: their memory, and engines between them and the drives.

use std::sync::Arc;

use gcos_cuda::{DeviceMemory, Gpu, MemoryOptions};
use gcos_engine::device::{DeviceEngine, HostDriven};
use gcos_engine::{Engine, GpuQueueEngine, GpuQueueOptions, HostQueueEngine};
use gcos_hw::DmaSpace;

use super::{OpenError, chain};
use crate::config::Config;

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
        let reason = chain(error);
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
        drives: &[Arc<HostQueueEngine>],
    ) -> Result<Attached, OpenError> {
        let mut memories = Vec::new();
        for gpu in std::mem::take(&mut self.open) {
            match DeviceMemory::new(&gpu, dma, MemoryOptions::default()) {
                Ok(memory) => {
                    for drive in drives {
                        let device = engine(config, drive, &memory, &mut self.refused)?;
                        tracing::info!(
                            drive = drive.geometry().name,
                            gpu = gpu.ordinal(),
                            path = %device.path(),
                            "a GPU reaches the drive"
                        );
                        drive.attach(device);
                    }
                    memories.push(memory);
                }
                Err(error) => self.without(config, gpu.ordinal(), &error)?,
            }
        }
        Ok(Attached { memories, refused: self.refused })
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
            Err(error) if !wanted.fallback => return Err(failed(chain(&error))),
            Err(error) => {
                let reason = chain(&error);
                tracing::warn!(gpu = ordinal, reason, "the host drives this GPU's transfers");
                refused.push(format!("GPU {ordinal}: {reason}"));
                why.push(reason);
            }
        }
    } else {
        why.push("namespace.gpu.qps is 0".to_owned());
    }
    let gone = |error: &(dyn std::error::Error + 'static)| failed(chain(error));
    // An engine of its own over the same controller: it must not hold the one that it is attached to.
    let host = HostQueueEngine::new(Arc::clone(drive.controller()), drive.nsid());
    let host = host.map_err(|error| gone(&error))?;
    let host = HostDriven::with_reasons(Arc::new(host), Arc::clone(memory), why);
    Ok(Arc::new(host.map_err(|error| gone(&error))?))
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
}
