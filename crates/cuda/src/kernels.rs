use std::sync::Arc;

use crate::gpu::Kind;
use crate::{Gpu, GpuError, Stream};

mod built;
mod cuda;

pub use built::{BuiltKernel, built_kernels, kernel_compiler};
use cuda::CudaKernels;

/// How many threads run a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchShape {
    /// Blocks.
    pub grid: u32,
    /// Threads of a block, at most 1,024.
    pub block: u32,
    /// Bytes of shared memory of a block beside what the kernel declares.
    pub shared_bytes: u32,
}

/// What a kernel needs on this GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelAttributes {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread that did not fit into registers, spilled or declared so.
    pub local_bytes: u32,
    /// Bytes of shared memory of a block that the kernel declares.
    pub shared_bytes: u32,
    /// Most threads of a block.
    pub most_threads: u32,
    /// Blocks of the size asked about that a multiprocessor runs at the same time.
    pub blocks_per_multiprocessor: u32,
    /// Multiprocessors of the GPU.
    pub multiprocessors: u32,
}

/// The kernels, loaded on one GPU.
#[derive(Debug)]
pub struct Kernels {
    gpu: Arc<Gpu>,
    kind: KernelsKind,
}

#[derive(Debug)]
enum KernelsKind {
    Cuda(CudaKernels),
    #[cfg(feature = "played")]
    Played,
}

impl Kernels {
    /// Loads the kernels that were compiled into this program, and sees that they were compiled with the
    /// same records.
    ///
    /// # Errors
    /// [`GpuError::NoKernels`] when the program was built without them, or with others;
    /// [`GpuError::Cuda`].
    pub fn load(gpu: &Arc<Gpu>) -> Result<Arc<Self>, GpuError> {
        let kind = match gpu.kind() {
            Kind::Cuda(_) => KernelsKind::Cuda(CudaKernels::load(gpu)?),
            #[cfg(feature = "played")]
            Kind::Played(_) => {
                same_records(gpu, "the played kernels", crate::played::layout_hash())?;
                KernelsKind::Played
            }
        };
        Ok(Arc::new(Self { gpu: Arc::clone(gpu), kind }))
    }

    /// The GPU.
    #[must_use]
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Gives a kernel to a stream. `params` are the bytes of its one parameter, a record of
    /// `gcos_layout::gpu`.
    ///
    /// Like a command to a drive, a kernel reaches memory by address: whoever writes addresses into
    /// `params` holds the slices that they came from until the stream has passed ([`Stream::keep`]).
    ///
    /// # Errors
    /// [`GpuError::NoKernels`] when there is no such kernel, [`GpuError::Invalid`] for a shape without
    /// sense or a stream of another GPU, [`GpuError::Cuda`], as for parameters of another length. What
    /// fails later is told by the stream.
    pub fn launch(
        &self,
        stream: &Stream,
        name: &str,
        shape: LaunchShape,
        params: &[u8],
    ) -> Result<(), GpuError> {
        let invalid = |what, expected, got| GpuError::Invalid {
            ordinal: self.gpu.ordinal(),
            what,
            expected,
            got,
        };
        if shape.grid == 0 || shape.grid > i32::MAX as u32 {
            return Err(invalid("blocks of a launch", "1 to 2147483647", u64::from(shape.grid)));
        }
        if shape.block == 0 || shape.block > 1024 {
            return Err(invalid("threads of a block", "1 to 1024", u64::from(shape.block)));
        }
        if !stream.gpu().same(&self.gpu) {
            let got = stream.gpu().ordinal() as u64;
            return Err(invalid("GPU of the stream of a launch", "that of the kernels", got));
        }
        // Kernels read records, which are aligned to 8.
        let words: Vec<u64> = params
            .chunks(8)
            .map(|bytes| {
                let mut word = [0; 8];
                word.iter_mut().zip(bytes).for_each(|(to, &from)| *to = from);
                u64::from_ne_bytes(word)
            })
            .collect();
        if size_of_val(words.as_slice()) != params.len() {
            let expected = "a record, whose length is a multiple of 8";
            return Err(invalid("bytes of a kernel's parameter", expected, params.len() as u64));
        }
        match &self.kind {
            KernelsKind::Cuda(kernels) => kernels.launch(&self.gpu, stream, name, shape, words),
            #[cfg(feature = "played")]
            KernelsKind::Played => {
                let Some(worker) = stream.worker() else {
                    return Err(invalid("kind of the stream of a launch", "a played one", 0));
                };
                let name = std::ffi::CString::new(name)
                    .map_err(|_| self.unknown(name, "its name has a zero byte"))?;
                worker
                    .submit(move || crate::played::launch(&name, shape.grid, shape.block, &words));
                Ok(())
            }
        }
    }

    /// What a kernel needs, for blocks of so many threads. `None` on a played GPU, which has no such
    /// limits.
    ///
    /// # Errors
    /// [`GpuError::NoKernels`] when there is no such kernel, [`GpuError::Cuda`].
    pub fn attributes(&self, name: &str, block: u32) -> Result<Option<KernelAttributes>, GpuError> {
        match &self.kind {
            KernelsKind::Cuda(kernels) => kernels.attributes(&self.gpu, name, block).map(Some),
            #[cfg(feature = "played")]
            KernelsKind::Played => Ok(None),
        }
    }

    #[cfg(feature = "played")]
    fn unknown(&self, name: &str, why: &str) -> GpuError {
        let reason = format!("there is no kernel {name:?}: {why}");
        GpuError::NoKernels { ordinal: self.gpu.ordinal(), reason }
    }
}

/// Refuses kernels that were compiled with other records than this program.
fn same_records(gpu: &Gpu, what: &str, found: u64) -> Result<(), GpuError> {
    let expected = gcos_layout::gpu::layout_hash();
    if found == expected {
        return Ok(());
    }
    let reason = format!(
        "{what} were compiled with other records (hash {found:#018x}, expected {expected:#018x}); \
         build the program anew"
    );
    Err(GpuError::NoKernels { ordinal: gpu.ordinal(), reason })
}

#[cfg(all(test, feature = "played"))]
mod tests {
    use super::*;

    #[test]
    fn kernels_with_other_records_are_refused() {
        let gpu = Gpu::played();
        same_records(&gpu, "x", gcos_layout::gpu::layout_hash()).unwrap();
        let text = same_records(&gpu, "x", 7).unwrap_err().to_string();
        assert!(text.contains("0x0000000000000007") && text.contains("build"), "{text}");
    }
}
