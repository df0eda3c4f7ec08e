//! Kernels on a real GPU.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::sys;
use parking_lot::Mutex;

use super::built::{built_kernels, kernel_compiler, modules};
use super::{KernelAttributes, LaunchShape, same_records};
use crate::{Gpu, GpuError, Stream};

/// Shared memory that a launch may ask for without a word to the driver, in bytes.
const USUAL_SHARED_BYTES: u32 = 48 << 10;

/// A module, unloaded at its end.
#[derive(Debug)]
struct Module {
    gpu: Arc<Gpu>,
    handle: sys::CUmodule,
}

#[derive(Debug, Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Bytes of its parameter, where the driver tells: from CUDA 12.4 on.
    parameter_bytes: Option<usize>,
}

// SAFETY: CUDA's handles may be used from any thread, at the same time.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}
// SAFETY: as above.
unsafe impl Send for Function {}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: the handle is ours; streams with a kernel of it under way keep the driver from freeing it.
        let end = self.gpu.call("cuModuleUnload", || unsafe { sys::cuModuleUnload(self.handle) });
        if let Err(error) = end {
            tracing::debug!(%error, "kernels were not unloaded");
        }
    }
}

/// The modules of one GPU.
#[derive(Debug)]
pub(super) struct CudaKernels {
    modules: Vec<Module>,
    functions: Mutex<BTreeMap<String, Function>>,
}

impl CudaKernels {
    pub(super) fn load(gpu: &Arc<Gpu>) -> Result<Self, GpuError> {
        if modules().is_empty() {
            let reason = "this program was built without a CUDA compiler; build it where nvcc is found \
                          (GCOS_NVCC, CUDA_HOME, PATH), or run kernels/fetch-compiler first";
            return Err(GpuError::NoKernels { ordinal: gpu.ordinal(), reason: reason.to_owned() });
        }
        let load = |&(name, image): &(&'static str, &'static [u8])| Module::load(gpu, name, image);
        let modules = modules().iter().map(load).collect::<Result<_, _>>()?;
        Ok(Self { modules, functions: Mutex::default() })
    }

    fn function(&self, gpu: &Gpu, name: &str) -> Result<Function, GpuError> {
        if let Some(function) = self.functions.lock().get(name) {
            return Ok(*function);
        }
        let unknown = |why: &str| GpuError::NoKernels {
            ordinal: gpu.ordinal(),
            reason: format!("there is no kernel {name:?}: {why}"),
        };
        let c_name = CString::new(name).map_err(|_| unknown("its name has a zero byte"))?;
        for module in &self.modules {
            let mut handle = std::ptr::null_mut();
            let mut missing = false;
            gpu.call("cuModuleGetFunction", || {
                // SAFETY: the module is live, the name ends in zero.
                match unsafe {
                    sys::cuModuleGetFunction(&mut handle, module.handle, c_name.as_ptr())
                } {
                    sys::CUresult::CUDA_ERROR_NOT_FOUND => {
                        missing = true;
                        sys::CUresult::CUDA_SUCCESS
                    }
                    other => other,
                }
            })?;
            if !missing {
                let parameter_bytes = parameter_bytes(gpu, handle)?;
                let function = Function { handle, parameter_bytes };
                self.functions.lock().insert(name.to_owned(), function);
                return Ok(function);
            }
        }
        let mut names: Vec<_> = built_kernels().iter().map(|kernel| kernel.name).collect();
        names.sort_unstable();
        names.dedup();
        Err(unknown(&format!("there are {}", names.join(", "))))
    }

    pub(super) fn launch(
        &self,
        gpu: &Gpu,
        stream: &Stream,
        name: &str,
        shape: LaunchShape,
        mut params: Vec<u64>,
    ) -> Result<(), GpuError> {
        let function = self.function(gpu, name)?;
        stream.not_captured()?;
        let Some(stream) = stream.cuda() else {
            return Err(GpuError::Invalid {
                ordinal: gpu.ordinal(),
                what: "kind of the stream of a launch",
                expected: "one of CUDA",
                got: 0,
            });
        };
        // The driver takes any length, and lets the kernel read what lies behind.
        if let Some(expected) = function.parameter_bytes
            && expected != size_of_val(params.as_slice())
        {
            let found = size_of_val(params.as_slice());
            let reason = format!("{name} takes a record of {expected} bytes, got {found}");
            return Err(GpuError::NoKernels { ordinal: gpu.ordinal(), reason });
        }
        if shape.shared_bytes > USUAL_SHARED_BYTES {
            use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as SHARED;
            let bytes = i32::try_from(shape.shared_bytes).unwrap_or(i32::MAX);
            gpu.call("cuFuncSetAttribute", || {
                // SAFETY: the function is of a live module.
                unsafe { sys::cuFuncSetAttribute(function.handle, SHARED, bytes) }
            })?;
        }
        let mut len = size_of_val(params.as_slice());
        // The names of the driver's header for these markers: END 0, BUFFER_POINTER 1, BUFFER_SIZE 2.
        let mut extra: [*mut c_void; 5] = [
            std::ptr::without_provenance_mut(1),
            params.as_mut_ptr().cast(),
            std::ptr::without_provenance_mut(2),
            (&raw mut len).cast(),
            std::ptr::null_mut(),
        ];
        gpu.call("cuLaunchKernel", || {
            // SAFETY: the function and the stream are live; the driver copies the parameters before it
            // returns.
            unsafe {
                sys::cuLaunchKernel(
                    function.handle,
                    shape.grid,
                    1,
                    1,
                    shape.block,
                    1,
                    1,
                    shape.shared_bytes,
                    stream,
                    std::ptr::null_mut(),
                    extra.as_mut_ptr(),
                )
            }
        })
    }

    pub(super) fn attributes(
        &self,
        gpu: &Gpu,
        name: &str,
        block: u32,
    ) -> Result<KernelAttributes, GpuError> {
        use sys::CUfunction_attribute as Attribute;
        let function = self.function(gpu, name)?;
        let ask = |what| {
            let mut value = 0;
            gpu.call("cuFuncGetAttribute", || {
                // SAFETY: the function is of a live module; CUDA writes one int.
                unsafe { sys::cuFuncGetAttribute(&mut value, what, function.handle) }
            })?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let mut blocks = 0;
        gpu.call("cuOccupancyMaxActiveBlocksPerMultiprocessor", || {
            let threads = i32::try_from(block).unwrap_or(i32::MAX);
            // SAFETY: as above.
            unsafe {
                sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                    &mut blocks,
                    function.handle,
                    threads,
                    0,
                )
            }
        })?;
        let multiprocessors =
            gpu.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Ok(KernelAttributes {
            registers: ask(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            local_bytes: ask(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            shared_bytes: ask(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
            most_threads: ask(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            blocks_per_multiprocessor: u32::try_from(blocks).unwrap_or(0),
            multiprocessors: u32::try_from(multiprocessors).unwrap_or(0),
        })
    }
}

/// Bytes of a kernel's one parameter. The call came with CUDA 12.4, so an older driver may lack it.
fn parameter_bytes(gpu: &Gpu, function: sys::CUfunction) -> Result<Option<usize>, GpuError> {
    type Ask =
        unsafe extern "C" fn(sys::CUfunction, usize, *mut usize, *mut usize) -> sys::CUresult;
    // SAFETY: the library is loaded, and this is the type that CUDA documents for the name.
    let ask = unsafe { sys::culib().get::<Ask>(b"cuFuncGetParamInfo\0") };
    let Ok(ask) = ask else { return Ok(None) };
    let (mut offset, mut bytes) = (0, 0);
    gpu.call("cuFuncGetParamInfo", || {
        // SAFETY: the function is of a live module; CUDA writes two words.
        unsafe { ask(function, 0, &mut offset, &mut bytes) }
    })?;
    Ok(Some(bytes))
}

impl Module {
    fn load(gpu: &Arc<Gpu>, name: &str, image: &[u8]) -> Result<Self, GpuError> {
        // The driver reads words of 8 bytes.
        let words = image.chunks(8).map(|bytes| {
            let mut word = [0; 8];
            word.iter_mut().zip(bytes).for_each(|(to, &from)| *to = from);
            u64::from_ne_bytes(word)
        });
        let words: Vec<u64> = words.collect();
        let mut module = Self { gpu: Arc::clone(gpu), handle: std::ptr::null_mut() };
        let loaded = gpu.call("cuModuleLoadData", || {
            // SAFETY: a whole fat binary, as the CUDA compiler wrote it, which says its own length.
            unsafe { sys::cuModuleLoadData(&mut module.handle, words.as_ptr().cast()) }
        });
        loaded.map_err(|error| not_loaded(gpu, name, error))?;
        let (mut address, mut len) = (0, 0);
        gpu.call("cuModuleGetGlobal", || {
            let symbol = c"gcos_layout_hash".as_ptr();
            // SAFETY: the module is live, the name ends in zero.
            unsafe { sys::cuModuleGetGlobal_v2(&mut address, &mut len, module.handle, symbol) }
        })?;
        let mut hash = [0; 8];
        if len == hash.len() {
            gpu.copy_out(address, &mut hash)?;
        }
        same_records(gpu, &format!("the kernels of {name}.cu"), u64::from_ne_bytes(hash))?;
        Ok(module)
    }
}

/// A refusal to load, with what to do where that is known.
fn not_loaded(gpu: &Gpu, name: &str, error: GpuError) -> GpuError {
    const OF_VERSION: [&str; 4] = [
        "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        "CUDA_ERROR_INVALID_IMAGE",
        "CUDA_ERROR_INVALID_SOURCE",
        "CUDA_ERROR_NO_BINARY_FOR_GPU",
    ];
    let GpuError::Cuda { ordinal, source } = error else { return error };
    if !OF_VERSION.contains(&source.name.as_str()) {
        return GpuError::Cuda { ordinal, source };
    }
    let reason = format!(
        "{source}: those of {name}.cu were compiled with CUDA {} for compute capability 8.0 and later, the \
         driver of {} offers CUDA {}; update the driver, or build with an older CUDA compiler",
        kernel_compiler(),
        gpu.name(),
        gpu.driver_version().unwrap_or_default(),
    );
    GpuError::NoKernels { ordinal, reason }
}
