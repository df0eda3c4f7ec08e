//! The records and functions of `cufile.h`, as far as they are used. A test compares them with the header.

use std::ffi::{c_int, c_uint, c_void};

/// `CUfileError_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawError {
    pub(super) err: c_int,
    pub(super) cu_err: c_int,
}

/// The part `nvfs` of `CUfileDrvProps_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NvfsProps {
    pub(super) major_version: c_uint,
    pub(super) minor_version: c_uint,
    pub(super) poll_thresh_size: usize,
    pub(super) max_direct_io_size: usize,
    pub(super) dstatusflags: c_uint,
    pub(super) dcontrolflags: c_uint,
}

/// `CUfileDrvProps_t`. Sizes are in KiB.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DrvProps {
    pub(super) nvfs: NvfsProps,
    pub(super) fflags: c_uint,
    pub(super) max_device_cache_size: c_uint,
    pub(super) per_buffer_cache_size: c_uint,
    pub(super) max_device_pinned_mem_size: c_uint,
    pub(super) max_batch_io_size: c_uint,
    pub(super) max_batch_io_timeout_msecs: c_uint,
}

/// Room for the properties of a newer library, which may have more of them than are known here.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DrvPropsRoom {
    pub(super) props: DrvProps,
    pub(super) room: [u64; 32],
}

/// Bits of `dstatusflags`.
pub(super) const STATUS_NVME: u32 = 1 << 4;
pub(super) const STATUS_NVME_P2P: u32 = 1 << 11;
/// Bit of `dcontrolflags`.
pub(super) const CONTROL_ALLOW_COMPAT: u32 = 1 << 1;
/// `CUFILE_PARAM_USE_PCIP2PDMA` of `CUFileBoolConfigParameter_t`.
pub(super) const PARAM_USE_PCIP2PDMA: c_uint = 7;
/// `CU_FILE_HANDLE_TYPE_OPAQUE_FD`.
pub(super) const HANDLE_TYPE_FD: c_uint = 1;

/// The union of `CUfileDescr_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union DescrHandle {
    pub(super) fd: c_int,
    pub(super) handle: *mut c_void,
}

/// `CUfileDescr_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Descr {
    pub(super) kind: c_uint,
    pub(super) handle: DescrHandle,
    pub(super) fs_ops: *const c_void,
}

/// `CUfileHandle_t`.
pub(super) type RawHandle = *mut c_void;
/// `CUfileBatchHandle_t`.
pub(super) type RawBatch = *mut c_void;
/// `CUstream`.
pub(super) type RawStream = *mut c_void;

/// `CUFILE_BATCH`.
pub(super) const MODE_BATCH: c_uint = 1;
/// `CUFILE_READ`.
pub(super) const OPCODE_READ: c_uint = 0;
/// `CUFILE_WRITE`.
pub(super) const OPCODE_WRITE: c_uint = 1;

/// Values of `CUfileStatus_t` that are final.
pub(super) const STATUS_INVALID: c_uint = 0x04;
pub(super) const STATUS_CANCELED: c_uint = 0x08;
pub(super) const STATUS_COMPLETE: c_uint = 0x10;
pub(super) const STATUS_TIMEOUT: c_uint = 0x20;
pub(super) const STATUS_FAILED: c_uint = 0x40;

/// The part `u.batch` of `CUfileIOParams_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchParams {
    pub(super) dev_ptr_base: *mut c_void,
    pub(super) file_offset: i64,
    pub(super) dev_ptr_offset: i64,
    pub(super) size: usize,
}

/// `CUfileIOParams_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct IoParams {
    pub(super) mode: c_uint,
    pub(super) batch: BatchParams,
    pub(super) fh: RawHandle,
    pub(super) opcode: c_uint,
    pub(super) cookie: *mut c_void,
}

/// `CUfileIOEvents_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct IoEvents {
    pub(super) cookie: *mut c_void,
    pub(super) status: c_uint,
    pub(super) ret: usize,
}

/// `struct timespec`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Timespec {
    pub(super) seconds: i64,
    pub(super) nanos: i64,
}

/// All sizes and offsets are given to `cuFileStreamRegister` at submission (flags 1, 2 and 4).
pub(super) const STREAM_FIXED: c_uint = 1 | 2 | 4;

pub(super) type DriverCall = unsafe extern "C" fn() -> RawError;
pub(super) type GetProperties = unsafe extern "C" fn(*mut DrvProps) -> RawError;
pub(super) type GetVersion = unsafe extern "C" fn(*mut c_int) -> RawError;
pub(super) type GetParameterBool = unsafe extern "C" fn(c_uint, *mut bool) -> RawError;
pub(super) type HandleRegister = unsafe extern "C" fn(*mut RawHandle, *mut Descr) -> RawError;
pub(super) type HandleDeregister = unsafe extern "C" fn(RawHandle);
pub(super) type BufRegister = unsafe extern "C" fn(*const c_void, usize, c_int) -> RawError;
pub(super) type BufDeregister = unsafe extern "C" fn(*const c_void) -> RawError;
pub(super) type ReadWrite = unsafe extern "C" fn(RawHandle, *mut c_void, usize, i64, i64) -> isize;
pub(super) type BatchSetUp = unsafe extern "C" fn(*mut RawBatch, c_uint) -> RawError;
pub(super) type BatchSubmit =
    unsafe extern "C" fn(RawBatch, c_uint, *mut IoParams, c_uint) -> RawError;
pub(super) type BatchGetStatus =
    unsafe extern "C" fn(RawBatch, c_uint, *mut c_uint, *mut IoEvents, *mut Timespec) -> RawError;
pub(super) type BatchCancel = unsafe extern "C" fn(RawBatch) -> RawError;
pub(super) type BatchDestroy = unsafe extern "C" fn(RawBatch);
pub(super) type StreamRegister = unsafe extern "C" fn(RawStream, c_uint) -> RawError;
pub(super) type StreamDeregister = unsafe extern "C" fn(RawStream) -> RawError;
pub(super) type ReadWriteAsync = unsafe extern "C" fn(
    RawHandle,
    *mut c_void,
    *mut usize,
    *mut i64,
    *mut i64,
    *mut isize,
    RawStream,
) -> RawError;

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use super::*;

    /// What the header must say of each record, as C++ that does not compile where it says otherwise.
    fn assertions() -> String {
        let size = |c: &str, bytes: usize| format!("static_assert(sizeof({c}) == {bytes});\n");
        let at = |c: &str, field: &str, offset: usize| {
            format!("static_assert(offsetof({c}, {field}) == {offset});\n")
        };
        let same = |name: &str, value: u32| format!("static_assert(int({name}) == {value});\n");
        let nvfs = |field| offset_of!(DrvProps, nvfs) + field;
        let batch = |field| offset_of!(IoParams, batch) + field;
        [
            size("CUfileError_t", size_of::<RawError>()),
            at("CUfileError_t", "err", offset_of!(RawError, err)),
            at("CUfileError_t", "cu_err", offset_of!(RawError, cu_err)),
            size("CUfileDrvProps_t", size_of::<DrvProps>()),
            at("CUfileDrvProps_t", "nvfs.major_version", nvfs(offset_of!(NvfsProps, major_version))),
            at("CUfileDrvProps_t", "nvfs.minor_version", nvfs(offset_of!(NvfsProps, minor_version))),
            at(
                "CUfileDrvProps_t",
                "nvfs.poll_thresh_size",
                nvfs(offset_of!(NvfsProps, poll_thresh_size)),
            ),
            at(
                "CUfileDrvProps_t",
                "nvfs.max_direct_io_size",
                nvfs(offset_of!(NvfsProps, max_direct_io_size)),
            ),
            at("CUfileDrvProps_t", "nvfs.dstatusflags", nvfs(offset_of!(NvfsProps, dstatusflags))),
            at("CUfileDrvProps_t", "nvfs.dcontrolflags", nvfs(offset_of!(NvfsProps, dcontrolflags))),
            at("CUfileDrvProps_t", "fflags", offset_of!(DrvProps, fflags)),
            at(
                "CUfileDrvProps_t",
                "max_device_cache_size",
                offset_of!(DrvProps, max_device_cache_size),
            ),
            at(
                "CUfileDrvProps_t",
                "per_buffer_cache_size",
                offset_of!(DrvProps, per_buffer_cache_size),
            ),
            at(
                "CUfileDrvProps_t",
                "max_device_pinned_mem_size",
                offset_of!(DrvProps, max_device_pinned_mem_size),
            ),
            at("CUfileDrvProps_t", "max_batch_io_size", offset_of!(DrvProps, max_batch_io_size)),
            size("CUfileDescr_t", size_of::<Descr>()),
            at("CUfileDescr_t", "type", offset_of!(Descr, kind)),
            at("CUfileDescr_t", "handle", offset_of!(Descr, handle)),
            at("CUfileDescr_t", "fs_ops", offset_of!(Descr, fs_ops)),
            size("CUfileIOParams_t", size_of::<IoParams>()),
            at("CUfileIOParams_t", "mode", offset_of!(IoParams, mode)),
            at(
                "CUfileIOParams_t",
                "u.batch.devPtr_base",
                batch(offset_of!(BatchParams, dev_ptr_base)),
            ),
            at(
                "CUfileIOParams_t",
                "u.batch.file_offset",
                batch(offset_of!(BatchParams, file_offset)),
            ),
            at(
                "CUfileIOParams_t",
                "u.batch.devPtr_offset",
                batch(offset_of!(BatchParams, dev_ptr_offset)),
            ),
            at("CUfileIOParams_t", "u.batch.size", batch(offset_of!(BatchParams, size))),
            at("CUfileIOParams_t", "fh", offset_of!(IoParams, fh)),
            at("CUfileIOParams_t", "opcode", offset_of!(IoParams, opcode)),
            at("CUfileIOParams_t", "cookie", offset_of!(IoParams, cookie)),
            size("CUfileIOEvents_t", size_of::<IoEvents>()),
            at("CUfileIOEvents_t", "cookie", offset_of!(IoEvents, cookie)),
            at("CUfileIOEvents_t", "status", offset_of!(IoEvents, status)),
            at("CUfileIOEvents_t", "ret", offset_of!(IoEvents, ret)),
            size("struct timespec", size_of::<Timespec>()),
            at("struct timespec", "tv_nsec", offset_of!(Timespec, nanos)),
            format!("static_assert(1u << CU_FILE_NVME_SUPPORTED == {STATUS_NVME});\n"),
            format!("static_assert(1u << CU_FILE_NVME_P2P_SUPPORTED == {STATUS_NVME_P2P});\n"),
            format!("static_assert(1u << CU_FILE_ALLOW_COMPAT_MODE == {CONTROL_ALLOW_COMPAT});\n"),
            same("CUFILE_PARAM_USE_PCIP2PDMA", PARAM_USE_PCIP2PDMA),
            same("CU_FILE_HANDLE_TYPE_OPAQUE_FD", HANDLE_TYPE_FD),
            same("CUFILE_BATCH", MODE_BATCH),
            same("CUFILE_READ", OPCODE_READ),
            same("CUFILE_WRITE", OPCODE_WRITE),
            same("CUFILE_INVALID", STATUS_INVALID),
            same("CUFILE_CANCELED", STATUS_CANCELED),
            same("CUFILE_COMPLETE", STATUS_COMPLETE),
            same("CUFILE_TIMEOUT", STATUS_TIMEOUT),
            same("CUFILE_FAILED", STATUS_FAILED),
            same(
                "(CU_FILE_STREAM_FIXED_BUF_OFFSET | CU_FILE_STREAM_FIXED_FILE_OFFSET | \
                 CU_FILE_STREAM_FIXED_FILE_SIZE)",
                STREAM_FIXED,
            ),
            "auto close_by_its_new_name = &cuFileDriverClose_v2;\n".to_owned(),
            "ssize_t (*read_call)(CUfileHandle_t, void*, size_t, off_t, off_t) = &cuFileRead;\n"
                .to_owned(),
            "ssize_t (*write_call)(CUfileHandle_t, const void*, size_t, off_t, off_t) = \
             &cuFileWrite;\n"
                .to_owned(),
            "CUfileError_t (*async_call)(CUfileHandle_t, void*, size_t*, off_t*, off_t*, ssize_t*, \
             CUstream) = &cuFileReadAsync;\n"
                .to_owned(),
            "CUfileError_t (*status_call)(CUfileBatchHandle_t, unsigned, unsigned*, \
             CUfileIOEvents_t*, timespec*) = &cuFileBatchIOGetStatus;\n"
                .to_owned(),
            "CUfileError_t (*parameter)(CUFileBoolConfigParameter_t, bool*) = \
             &cuFileGetParameterBool;\n"
                .to_owned(),
        ]
        .concat()
    }

    /// The folders of the headers: `kernels/fetch-compiler` brings them, or a toolkit has them.
    fn headers() -> Option<PathBuf> {
        let fetched =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/cuda/nvidia/cu13/include");
        let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os);
        let homes = homes.map(|home| PathBuf::from(home).join("include"));
        let usual = PathBuf::from("/usr/local/cuda/include");
        let mut places = [fetched].into_iter().chain(homes).chain([usual]);
        places.find(|place| place.join("cufile.h").is_file() && place.join("cuda.h").is_file())
    }

    fn compile(headers: &Path, source: &str) -> Result<(), String> {
        let folder = std::env::temp_dir().join(format!(
            "gcos-cufile-abi-{}-{:x}",
            std::process::id(),
            source.len()
        ));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("abi.cpp");
        std::fs::write(&file, source).unwrap();
        let compiler = std::env::var_os("CXX").unwrap_or("c++".into());
        let mut command = Command::new(compiler);
        command.args(["-std=c++17", "-fsyntax-only", "-isystem"]).arg(headers).arg(&file);
        let output = command.output().unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    const INCLUDES: &str = "#include <cstddef>\n#include <cstdint>\n#include <ctime>\n\
                            #include <sys/types.h>\n#include <cufile.h>\n";

    #[test]
    fn records_and_functions_are_those_of_nvidias_header() {
        let Some(headers) = headers() else {
            assert!(
                std::env::var_os("GCOS_CUFILE_HEADER").is_none_or(|v| v != "require"),
                "no cufile.h was found; run kernels/fetch-compiler"
            );
            return;
        };
        let good = format!("{INCLUDES}{}", assertions());
        compile(&headers, &good).unwrap();
        let bad = format!("{good}static_assert(sizeof(CUfileDescr_t) == 23);\n");
        assert!(compile(&headers, &bad).is_err(), "the comparison compares nothing");
    }

    #[test]
    fn names_and_meanings_of_codes_are_those_of_nvidias_header() {
        let Some(headers) = headers() else { return };
        let mut source = INCLUDES.to_owned();
        for code in super::super::code::known() {
            source.push_str(&format!(
                "static_assert(int({}) == {});\n",
                code.name(),
                code.number()
            ));
        }
        compile(&headers, &source).unwrap();
        let header = std::fs::read_to_string(headers.join("cufile.h")).unwrap();
        let entries = header.matches("CUFILE_OP(CUFILEOP_BASE_ERR").count();
        assert_eq!(entries, super::super::code::known().count(), "codes that are not known here");
    }
}
