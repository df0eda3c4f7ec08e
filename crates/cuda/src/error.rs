use std::ffi::CStr;

use cudarc::driver::DriverError;
use gcos_hw::HwError;

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
}
