//! What the build script compiled in.

/// What the compiler said of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltKernel {
    /// Its name.
    pub name: &'static str,
    /// What it was compiled for, such as `sm_90`.
    pub target: &'static str,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread that were spilled to memory.
    pub spilled_bytes: u32,
}

// `COMPILER`: its version; `MODULES`: name and fat binary of each source; `BUILT`: the compiler's report.
include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The kernels in this program, for each target that they were compiled for. Empty when it was built
/// without a CUDA compiler.
#[must_use]
pub fn built_kernels() -> &'static [BuiltKernel] {
    BUILT
}

/// Version of the CUDA compiler that compiled them, such as `13.0`; empty without kernels.
#[must_use]
pub fn kernel_compiler() -> &'static str {
    COMPILER
}

/// Name and fat binary of each source.
pub(super) fn modules() -> &'static [(&'static str, &'static [u8])] {
    MODULES
}
