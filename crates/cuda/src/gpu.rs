use std::sync::Arc;

use cudarc::driver::{DriverError, result, sys};
use parking_lot::Mutex;

use crate::bounce::Bounce;
use crate::context::Context;
use crate::gdr::Gdr;
#[cfg(feature = "played")]
use crate::played::Played;
use crate::vulkan::VulkanGpu;
use crate::{CudaCall, GpuError};

/// Oldest version of CUDA that a driver must offer, as [`Gpu::driver_version`] counts: 12.0.
const NEEDED_VERSION: i32 = 12_000;

/// A GPU: a real one, with its primary context retained, the one that PyTorch and others use; or one that
/// host threads play.
#[derive(Debug)]
pub struct Gpu {
    kind: Kind,
    ordinal: usize,
    name: String,
    uuid: [u8; 16],
}

/// What is behind a [`Gpu`].
#[derive(Debug)]
pub(crate) enum Kind {
    /// A GPU behind the CUDA driver.
    Cuda(Cuda),
    /// Host threads over host memory.
    #[cfg(feature = "played")]
    Played(Played),
}

/// A GPU behind the CUDA driver.
#[derive(Debug)]
pub(crate) struct Cuda {
    // Before the context, which it needs to end.
    pub(crate) bounce: Bounce,
    pub(crate) context: Arc<Context>,
    driver_version: i32,
    vulkan: Mutex<Option<Arc<VulkanGpu>>>,
    gdr: Mutex<Option<Arc<Gdr>>>,
}

/// How much memory a GPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Bytes that nobody has.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// CUDA's way to write a version: 13000 is 13.0.
pub(crate) fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Finds out whether there is a CUDA driver that is new enough, without linking to it. Gives its version.
fn load() -> Result<i32, GpuError> {
    // SAFETY: loading libcuda.so.1 runs its initialisers, which is what every CUDA program does.
    if !unsafe { sys::is_culib_present() } {
        return Err(GpuError::NoDriver);
    }
    let mut version = 0;
    // SAFETY: CUDA writes one int; the call is in every driver and wants no initialisation.
    let result = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
    result.map_err(|error| GpuError::cuda(0, "cuDriverGetVersion", error))?;
    new_enough(version)
}

/// An older driver lacks calls that are made here: found out before the first of them.
fn new_enough(version: i32) -> Result<i32, GpuError> {
    if version < NEEDED_VERSION {
        return Err(GpuError::DriverTooOld {
            found: version_text(version),
            needed: version_text(NEEDED_VERSION),
        });
    }
    Ok(version)
}

/// How many GPUs the driver shows.
///
/// # Errors
/// [`GpuError::NoDriver`], [`GpuError::DriverTooOld`], or [`GpuError::Cuda`] when the driver does not
/// start.
pub fn gpus() -> Result<usize, GpuError> {
    load()?;
    match result::init() {
        Ok(()) => {}
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => return Ok(0),
        Err(error) => return Err(GpuError::cuda(0, "cuInit", error)),
    }
    let count = result::device::get_count();
    let count = count.map_err(|error| GpuError::cuda(0, "cuDeviceGetCount", error))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

impl Gpu {
    /// Opens the GPU with this number, as CUDA counts them.
    ///
    /// # Errors
    /// [`GpuError::NoDriver`], [`GpuError::DriverTooOld`], [`GpuError::NoGpu`], [`GpuError::Cuda`].
    pub fn open(ordinal: usize) -> Result<Arc<Self>, GpuError> {
        let count = gpus()?;
        if ordinal >= count {
            return Err(GpuError::NoGpu { ordinal, count });
        }
        let driver_version = load()?;
        let fail = |call| move |error: DriverError| GpuError::cuda(ordinal, call, error);
        let context = Context::retain(ordinal)?;
        let device = context.device();
        let name = result::device::get_name(device).map_err(fail("cuDeviceGetName"))?;
        let uuid = result::device::get_uuid(device).map_err(fail("cuDeviceGetUuid"))?;
        let uuid = uuid.bytes.map(|byte| byte as u8);
        let bounce = Bounce::new(Arc::clone(&context), ordinal);
        let (vulkan, gdr) = (Mutex::new(None), Mutex::new(None));
        let kind = Kind::Cuda(Cuda { bounce, context, driver_version, vulkan, gdr });
        Ok(Arc::new(Self { kind, ordinal, name, uuid }))
    }

    /// A GPU that host threads play, with the default memory and all that a real one may offer: its memory
    /// is host memory, a device address is a CPU address, and its kernels are the C++ build of the same
    /// sources. For tests where there is no GPU.
    #[cfg(feature = "played")]
    #[must_use]
    pub fn played() -> Arc<Self> {
        Self::played_with(crate::PlayedOptions::default())
    }

    /// As [`Gpu::played`], with choices.
    #[cfg(feature = "played")]
    #[must_use]
    pub fn played_with(options: crate::PlayedOptions) -> Arc<Self> {
        let ordinal = options.ordinal;
        let uuid = [u8::try_from(ordinal).unwrap_or(u8::MAX); 16];
        let kind = Kind::Played(Played::new(options));
        Arc::new(Self { kind, ordinal, name: "played by host threads".to_owned(), uuid })
    }

    /// Holds up the copies of a played GPU, as a GPU that is stuck would; none for a real one.
    #[cfg(feature = "played")]
    #[must_use]
    pub fn stall_copies(&self) -> Option<crate::PlayedStall> {
        match &self.kind {
            Kind::Played(played) => Some(played.stall()),
            Kind::Cuda(_) => None,
        }
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }

    fn cuda(&self) -> Option<&Cuda> {
        match &self.kind {
            Kind::Cuda(cuda) => Some(cuda),
            #[cfg(feature = "played")]
            Kind::Played(_) => None,
        }
    }

    /// The GPU as Vulkan sees it, found when it is first needed.
    pub(crate) fn vulkan(&self) -> Result<Arc<VulkanGpu>, String> {
        let Some(cuda) = self.cuda() else {
            return Err("a played GPU is none of Vulkan's".to_owned());
        };
        let mut vulkan = cuda.vulkan.lock();
        match &*vulkan {
            Some(gpu) => Ok(Arc::clone(gpu)),
            None => Ok(Arc::clone(vulkan.insert(VulkanGpu::open(self.uuid)?))),
        }
    }

    /// GDRCopy, asked for when it is first needed.
    pub(crate) fn gdr(&self) -> Result<Arc<Gdr>, String> {
        let Some(cuda) = self.cuda() else { return Err("a played GPU has no GDRCopy".to_owned()) };
        let mut gdr = cuda.gdr.lock();
        match &*gdr {
            Some(gdr) => Ok(Arc::clone(gdr)),
            None => Ok(Arc::clone(gdr.insert(Gdr::open()?))),
        }
    }

    /// Its number.
    #[must_use]
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Its name, such as `NVIDIA H200`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What Vulkan knows it by, too.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// Whether host threads play it.
    #[must_use]
    pub fn is_played(&self) -> bool {
        self.cuda().is_none()
    }

    /// Whether the two stand for the same GPU: memory and streams of one work with the other. Each played
    /// GPU is one of its own.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Cuda(_), Kind::Cuda(_)) => self.ordinal == other.ordinal,
            #[cfg(feature = "played")]
            (Kind::Played(a), Kind::Played(b)) => a.id() == b.id(),
            #[cfg(feature = "played")]
            _ => false,
        }
    }

    /// The version of CUDA that the driver offers, such as `13.0`; none for a played GPU.
    #[must_use]
    pub fn driver_version(&self) -> Option<String> {
        match &self.kind {
            Kind::Cuda(cuda) => Some(version_text(cuda.driver_version)),
            #[cfg(feature = "played")]
            Kind::Played(_) => None,
        }
    }

    /// Its place on the PCI bus, such as `0000:1b:00.0`; none for a played GPU.
    ///
    /// # Errors
    /// [`GpuError::Cuda`].
    pub fn pci_address(&self) -> Result<Option<String>, GpuError> {
        let Some(cuda) = self.cuda() else { return Ok(None) };
        let mut text = [0_u8; 32];
        let device = cuda.context.device();
        self.call("cuDeviceGetPCIBusId", || {
            // SAFETY: CUDA writes at most the length given, with a zero at the end.
            unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr().cast(), text.len() as i32, device) }
        })?;
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        let text = String::from_utf8_lossy(text.get(..end).unwrap_or_default());
        Ok(Some(text.to_ascii_lowercase()))
    }

    /// How much memory it has, and how much of it is free.
    ///
    /// # Errors
    /// [`GpuError::Cuda`].
    pub fn memory_info(&self) -> Result<MemoryInfo, GpuError> {
        match &self.kind {
            Kind::Cuda(_) => {
                let (mut free, mut total) = (0_usize, 0_usize);
                self.call("cuMemGetInfo", || {
                    // SAFETY: both pointers are to live values.
                    unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }
                })?;
                Ok(MemoryInfo { free_bytes: free as u64, total_bytes: total as u64 })
            }
            #[cfg(feature = "played")]
            Kind::Played(played) => Ok(played.memory_info()),
        }
    }

    /// Copies bytes to memory that it reaches, and returns when they are there. Waits for no work of
    /// streams. The caller has checked the range.
    pub(crate) fn copy_in(&self, to: u64, bytes: &[u8]) -> Result<(), GpuError> {
        match &self.kind {
            Kind::Cuda(cuda) => cuda.bounce.copy_in(self, to, bytes),
            #[cfg(feature = "played")]
            Kind::Played(_) => {
                crate::played::copy(bytes.as_ptr() as u64, to, bytes.len());
                Ok(())
            }
        }
    }

    /// As [`Gpu::copy_in`], the other way.
    pub(crate) fn copy_out(&self, from: u64, out: &mut [u8]) -> Result<(), GpuError> {
        match &self.kind {
            Kind::Cuda(cuda) => cuda.bounce.copy_out(self, from, out),
            #[cfg(feature = "played")]
            Kind::Played(_) => {
                crate::played::copy(from, out.as_mut_ptr() as u64, out.len());
                Ok(())
            }
        }
    }

    /// A number that the driver tells of the device.
    pub(crate) fn attribute(&self, what: sys::CUdevice_attribute) -> Result<i32, GpuError> {
        let Some(cuda) = self.cuda() else { return Ok(0) };
        let device = cuda.context.device();
        let mut value = 0;
        self.call("cuDeviceGetAttribute", || {
            // SAFETY: CUDA writes one int.
            unsafe { sys::cuDeviceGetAttribute(&mut value, what, device) }
        })?;
        Ok(value)
    }

    /// Does a call of the driver in the GPU's context, whichever is current in the calling thread.
    pub(crate) fn call(
        &self,
        call: &'static str,
        f: impl FnOnce() -> sys::CUresult,
    ) -> Result<(), GpuError> {
        match &self.kind {
            Kind::Cuda(cuda) => {
                let result = cuda.context.call(f);
                result.map_err(|error| GpuError::cuda(self.ordinal, call, error))
            }
            #[cfg(feature = "played")]
            Kind::Played(_) => Err(GpuError::Played { ordinal: self.ordinal, call }),
        }
    }

    /// Does calls of another library that takes the GPU from the calling thread. None is set for a played GPU.
    pub(crate) fn current<R>(&self, f: impl FnOnce() -> R) -> Result<R, GpuError> {
        match &self.kind {
            Kind::Cuda(cuda) => {
                let mut answer = None;
                let result = cuda.context.call(|| {
                    answer = Some(f());
                    sys::CUresult::CUDA_SUCCESS
                });
                result.map_err(|error| GpuError::cuda(self.ordinal, "cuCtxSetCurrent", error))?;
                answer.ok_or(GpuError::Stream {
                    ordinal: self.ordinal,
                    reason: "a call was not made".to_owned(),
                })
            }
            #[cfg(feature = "played")]
            Kind::Played(_) => Ok(f()),
        }
    }

    /// Does a call that answers "not yet" with an error: whether it is done.
    pub(crate) fn ask(
        &self,
        call: &'static str,
        f: impl FnOnce() -> sys::CUresult,
    ) -> Result<bool, GpuError> {
        let mut pending = false;
        self.call(call, || match f() {
            answer if is_open(answer) => {
                pending = true;
                sys::CUresult::CUDA_SUCCESS
            }
            other => other,
        })?;
        Ok(!pending)
    }
}

/// Whether an answer leaves open if work has ended: it has not, or a graph is being captured and the driver does
/// not say. Work is under way all the same then, and what it uses must stay.
fn is_open(answer: sys::CUresult) -> bool {
    use sys::CUresult as Answer;
    matches!(
        answer,
        Answer::CUDA_ERROR_NOT_READY
            | Answer::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
            | Answer::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
            | Answer::CUDA_ERROR_STREAM_CAPTURE_MERGE
            | Answer::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED
            | Answer::CUDA_ERROR_STREAM_CAPTURE_UNJOINED
            | Answer::CUDA_ERROR_STREAM_CAPTURE_ISOLATION
            | Answer::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
            | Answer::CUDA_ERROR_CAPTURED_EVENT
            | Answer::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD
    )
}

impl GpuError {
    pub(crate) fn cuda(ordinal: usize, call: &'static str, error: DriverError) -> Self {
        Self::Cuda { ordinal, source: CudaCall::new(call, error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_that_forbids_the_question_is_no_end_of_the_work() {
        use sys::CUresult as Answer;
        for open in [
            Answer::CUDA_ERROR_NOT_READY,
            Answer::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
            Answer::CUDA_ERROR_CAPTURED_EVENT,
        ] {
            assert!(is_open(open), "{open:?}");
        }
        for ended in [Answer::CUDA_SUCCESS, Answer::CUDA_ERROR_ILLEGAL_ADDRESS] {
            assert!(!is_open(ended), "{ended:?}");
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_with_a_cure() {
        let error = Gpu::open(9999).unwrap_err();
        match error {
            GpuError::NoDriver => assert!(error.to_string().contains("install the NVIDIA driver")),
            GpuError::NoGpu { ordinal: 9999, .. } => {}
            // A driver without a device, as in a container that was not given one.
            GpuError::Cuda { ref source, .. } => assert!(source.name.starts_with("CUDA_ERROR")),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_driver_that_is_too_old_is_refused_with_both_versions() {
        let text = new_enough(11_080).unwrap_err().to_string();
        assert!(text.contains("11.8") && text.contains("12.0"), "{text}");
        assert_eq!(new_enough(12_000).unwrap(), 12_000);
        assert_eq!(new_enough(13_010).unwrap(), 13_010);
    }
}
