use std::ffi::CStr;
use std::time::Duration;

use cudarc::driver::DriverError;
use gcos_hw::{HwError, OutOfBounds};

/// A call of the CUDA driver that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {name} ({text})")]
pub struct CudaCall {
    /// The call.
    pub call: &'static str,
    /// CUDA's name of the error, such as `CUDA_ERROR_OUT_OF_MEMORY`.
    pub name: String,
    /// CUDA's description.
    pub text: String,
}

impl CudaCall {
    pub(crate) fn new(call: &'static str, error: DriverError) -> Self {
        let owned = |text: Result<&CStr, DriverError>| {
            text.map_or("unknown".to_owned(), |text| text.to_string_lossy().into_owned())
        };
        Self { call, name: owned(error.error_name()), text: owned(error.error_string()) }
    }
}

/// Why GPU memory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// There is no CUDA driver.
    #[error(
        "no CUDA driver: libcuda.so.1 cannot be loaded; install the NVIDIA driver, or, in a container, \
         pass the GPU through"
    )]
    NoDriver,
    /// There is no such GPU.
    #[error(
        "there is no GPU {ordinal}; the CUDA driver shows {count} (CUDA_VISIBLE_DEVICES may hide some)"
    )]
    NoGpu {
        /// The number asked for, from 0.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// A call of the CUDA driver failed.
    #[error("GPU {ordinal}: CUDA refused")]
    Cuda {
        /// The GPU's number.
        ordinal: usize,
        /// What failed.
        #[source]
        source: CudaCall,
    },
    /// The memory cannot be mapped for the CPU.
    #[error("GPU {ordinal}: no window into its memory: {reason}")]
    NoWindow {
        /// The GPU's number.
        ordinal: usize,
        /// What was expected and found, and what to do.
        reason: String,
    },
    /// A length was unusable.
    #[error("GPU {ordinal}: {what}: expected {expected}, got {got}")]
    Invalid {
        /// The GPU's number.
        ordinal: usize,
        /// The parameter.
        what: &'static str,
        /// What is accepted.
        expected: &'static str,
        /// What was given.
        got: u64,
    },
    /// The mapping could not be wrapped.
    #[error("GPU {ordinal}")]
    Memory {
        /// The GPU's number.
        ordinal: usize,
        /// Why.
        #[source]
        source: HwError,
    },
    /// The driver offers an older CUDA than is needed.
    #[error("the NVIDIA driver offers CUDA {found}, expected {needed} or later: update the driver")]
    DriverTooOld {
        /// What it offers.
        found: String,
        /// What is needed.
        needed: String,
    },
    /// A call of the CUDA driver for a GPU that has none.
    #[error("GPU {ordinal} is played by host threads and has no {call}; a real GPU was expected")]
    Played {
        /// The GPU's number.
        ordinal: usize,
        /// The call.
        call: &'static str,
    },
    /// Work did not end in time. It may still go on: memory that it uses stays lent.
    #[error("GPU {ordinal}: {what} did not end within {after:?}")]
    TimedOut {
        /// The GPU's number.
        ordinal: usize,
        /// What was awaited.
        what: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// Host memory or registers cannot be made reachable for the GPU.
    #[error("GPU {ordinal}: it does not reach {what}: {cure}")]
    NotReachable {
        /// The GPU's number.
        ordinal: usize,
        /// What it was to reach.
        what: &'static str,
        /// What to do.
        cure: String,
        /// The refusal.
        #[source]
        source: Box<CudaCall>,
    },
    /// An address is no memory that may be used on this GPU.
    #[error("GPU {ordinal}: {len} bytes at {address:#x}: {reason}")]
    Foreign {
        /// The GPU's number.
        ordinal: usize,
        /// The address.
        address: u64,
        /// Bytes from there.
        len: usize,
        /// What was expected and what it is.
        reason: String,
    },
    /// There is no room left.
    #[error("GPU {ordinal}: no {len} bytes of GPU memory left: {reason}")]
    NoRoom {
        /// The GPU's number.
        ordinal: usize,
        /// Bytes asked for.
        len: usize,
        /// What is used, and what to do.
        reason: String,
    },
    /// Kernels cannot be used.
    #[error("GPU {ordinal}: no kernels: {reason}")]
    NoKernels {
        /// The GPU's number.
        ordinal: usize,
        /// Why, and what to do.
        reason: String,
    },
    /// A launch, a copy or a function on a stream failed after it had been accepted.
    #[error("GPU {ordinal}: work on a stream failed: {reason}")]
    Stream {
        /// The GPU's number.
        ordinal: usize,
        /// What failed.
        reason: String,
    },
    /// An access past the end.
    #[error("GPU {ordinal}")]
    OutOfBounds {
        /// The GPU's number.
        ordinal: usize,
        /// Which.
        #[source]
        source: OutOfBounds,
    },
}
