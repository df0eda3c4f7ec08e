use std::fmt;

/// A number that cuFile returns: 5001 and up. [`CuFileCode::cure`] says what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CuFileCode(i32);

/// What is known of a code.
struct Row {
    number: i32,
    name: &'static str,
    meaning: &'static str,
    cure: &'static str,
}

const fn row(number: i32, name: &'static str, meaning: &'static str, cure: &'static str) -> Row {
    Row { number, name, meaning, cure }
}

const RETRY: &str = "try again; if it stays, look into cufile.log";
const REPORT: &str = "look into cufile.log, in the working folder or logging.dir of cufile.json";

const ROWS: &[Row] = &[
    row(
        5001,
        "CU_FILE_DRIVER_NOT_INITIALIZED",
        "the driver of cuFile is not open, or nvidia-fs is not loaded and compatibility mode is off",
        "set properties.allow_compat_mode to true in cufile.json, or load nvidia-fs (modprobe nvidia-fs)",
    ),
    row(
        5002,
        "CU_FILE_DRIVER_INVALID_PROPS",
        "a property of the driver is invalid",
        "look through the section properties of cufile.json",
    ),
    row(
        5003,
        "CU_FILE_DRIVER_UNSUPPORTED_LIMIT",
        "a property of the driver is out of its range",
        "look through the section properties of cufile.json",
    ),
    row(
        5004,
        "CU_FILE_DRIVER_VERSION_MISMATCH",
        "nvidia-fs and libcufile are of versions that do not fit",
        "install both from the same release of CUDA",
    ),
    row(
        5005,
        "CU_FILE_DRIVER_VERSION_READ_ERROR",
        "the version of nvidia-fs cannot be read",
        "see that /proc/driver/nvidia-fs/version can be read, in a container too",
    ),
    row(5006, "CU_FILE_DRIVER_CLOSING", "the driver of cuFile is being closed", RETRY),
    row(
        5007,
        "CU_FILE_PLATFORM_NOT_SUPPORTED",
        "this machine is not supported",
        "set properties.allow_compat_mode to true in cufile.json, or switch cuFile off",
    ),
    row(
        5008,
        "CU_FILE_IO_NOT_SUPPORTED",
        "this file is not supported",
        "use ext4, XFS or a block device, or set properties.allow_compat_mode to true in cufile.json",
    ),
    row(
        5009,
        "CU_FILE_DEVICE_NOT_SUPPORTED",
        "this GPU is not supported",
        "set properties.allow_compat_mode to true in cufile.json, or switch cuFile off",
    ),
    row(
        5010,
        "CU_FILE_NVFS_DRIVER_ERROR",
        "nvidia-fs refused a call",
        "see the kernel's log (dmesg) for nvidia-fs",
    ),
    row(
        5011,
        "CU_FILE_CUDA_DRIVER_ERROR",
        "the CUDA driver refused a call",
        "see CUDA's own error beside it",
    ),
    row(
        5012,
        "CU_FILE_CUDA_POINTER_INVALID",
        "the address is no GPU memory",
        "pass memory of a GPU that this process has",
    ),
    row(
        5013,
        "CU_FILE_CUDA_MEMORY_TYPE_INVALID",
        "the memory is of a kind that cuFile does not take",
        "pass memory of cudaMalloc or of the virtual memory management, not managed memory",
    ),
    row(
        5014,
        "CU_FILE_CUDA_POINTER_RANGE_ERROR",
        "the range goes past the end of its allocation",
        "pass a range inside one allocation",
    ),
    row(
        5015,
        "CU_FILE_CUDA_CONTEXT_MISMATCH",
        "the memory belongs to another context of CUDA",
        "allocate in the GPU's primary context",
    ),
    row(
        5016,
        "CU_FILE_INVALID_MAPPING_SIZE",
        "more would be pinned than may be",
        "lower kernel_path.cufile_buffer_mib, or raise properties.max_device_pinned_mem_size_kb",
    ),
    row(
        5017,
        "CU_FILE_INVALID_MAPPING_RANGE",
        "the access goes past what is registered",
        "register the whole range",
    ),
    row(
        5018,
        "CU_FILE_INVALID_FILE_TYPE",
        "files of this type are not supported",
        "use a regular file or a block device",
    ),
    row(
        5019,
        "CU_FILE_INVALID_FILE_OPEN_FLAG",
        "the file was opened with flags that are not supported",
        "open it with O_DIRECT and without O_APPEND",
    ),
    row(
        5020,
        "CU_FILE_DIO_NOT_SET",
        "the file was opened without O_DIRECT",
        "open it with O_DIRECT",
    ),
    row(5022, "CU_FILE_INVALID_VALUE", "an argument is invalid", REPORT),
    row(
        5023,
        "CU_FILE_MEMORY_ALREADY_REGISTERED",
        "the memory is registered already",
        "register memory once and share the registration",
    ),
    row(
        5024,
        "CU_FILE_MEMORY_NOT_REGISTERED",
        "the memory is not registered",
        "register it, or go on without",
    ),
    row(
        5025,
        "CU_FILE_PERMISSION_DENIED",
        "the driver or the file may not be used by this user",
        "see the rights of the file and of /dev/nvidia-fs*",
    ),
    row(5026, "CU_FILE_DRIVER_ALREADY_OPEN", "the driver of cuFile is open already", REPORT),
    row(
        5027,
        "CU_FILE_HANDLE_NOT_REGISTERED",
        "the file could not be registered; without records of udev cuFile does not know its file system",
        "run udevd, or, in a container, mount the host's /run/udev read-only; where there is none, write what \
         udev would have recorded",
    ),
    row(
        5028,
        "CU_FILE_HANDLE_ALREADY_REGISTERED",
        "the file descriptor is registered already",
        "register a duplicate of it",
    ),
    row(5029, "CU_FILE_DEVICE_NOT_FOUND", "the GPU was not found", "see nvidia-smi"),
    row(5030, "CU_FILE_INTERNAL_ERROR", "cuFile failed inside", REPORT),
    row(
        5031,
        "CU_FILE_GETNEWFD_FAILED",
        "no new file descriptor was to be had",
        "raise the limit of open files (ulimit -n)",
    ),
    row(
        5033,
        "CU_FILE_NVFS_SETUP_ERROR",
        "cuFile could not be set up: it did not find the CUDA driver, or nvidia-fs failed",
        "see that libcuda.so.1 can be loaded, and the kernel's log (dmesg) for nvidia-fs",
    ),
    row(
        5034,
        "CU_FILE_IO_DISABLED",
        "cufile.json forbids this file",
        "look through denylist and allowlist in cufile.json",
    ),
    row(5035, "CU_FILE_BATCH_SUBMIT_FAILED", "a batch could not be submitted", RETRY),
    row(
        5036,
        "CU_FILE_GPU_MEMORY_PINNING_FAILED",
        "GPU memory could not be pinned",
        "lower kernel_path.cufile_buffer_mib; the GPU's BAR1 may be full (nvidia-smi -q -d MEMORY)",
    ),
    row(5037, "CU_FILE_BATCH_FULL", "the batch is full", "submit fewer at a time"),
    row(
        5038,
        "CU_FILE_ASYNC_NOT_SUPPORTED",
        "transfers in the order of a stream are not supported",
        "use transfers without a stream",
    ),
    row(5039, "CU_FILE_INTERNAL_BATCH_SETUP_ERROR", "a batch could not be set up", RETRY),
    row(5040, "CU_FILE_INTERNAL_BATCH_SUBMIT_ERROR", "a batch could not be submitted", RETRY),
    row(5041, "CU_FILE_INTERNAL_BATCH_GETSTATUS_ERROR", "a batch could not be asked", RETRY),
    row(5042, "CU_FILE_INTERNAL_BATCH_CANCEL_ERROR", "a batch could not be cancelled", RETRY),
    row(5043, "CU_FILE_NOMEM_ERROR", "cuFile has no memory", RETRY),
    row(
        5044,
        "CU_FILE_IO_ERROR",
        "the transfer failed",
        "see the kernel's log (dmesg) for the drive",
    ),
    row(5045, "CU_FILE_INTERNAL_BUF_REGISTER_ERROR", "memory could not be registered", REPORT),
    row(5046, "CU_FILE_HASH_OPR_ERROR", "a table inside cuFile failed", REPORT),
    row(
        5047,
        "CU_FILE_INVALID_CONTEXT_ERROR",
        "the context of CUDA is invalid",
        "see that the GPU still works (nvidia-smi); start the process anew",
    ),
    row(
        5048,
        "CU_FILE_NVFS_INTERNAL_DRIVER_ERROR",
        "nvidia-fs failed inside",
        "see the kernel's log (dmesg) for nvidia-fs",
    ),
    row(
        5049,
        "CU_FILE_BATCH_NOCOMPAT_ERROR",
        "batches need compatibility mode here, which is off",
        "set properties.allow_compat_mode to true in cufile.json",
    ),
    row(5050, "CU_FILE_IO_MAX_ERROR", "no error, the end of the numbers", REPORT),
];

/// All that are known, in order.
#[cfg(test)]
pub(super) fn known() -> impl Iterator<Item = CuFileCode> {
    ROWS.iter().map(|row| CuFileCode(row.number))
}

impl CuFileCode {
    /// The code with this number; signs do not matter, calls return negative ones.
    #[must_use]
    pub fn new(number: i32) -> Self {
        Self(number.saturating_abs())
    }

    fn row(self) -> Option<&'static Row> {
        ROWS.iter().find(|row| row.number == self.0)
    }

    /// The number, positive.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }

    /// Its name in `cufile.h`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().map_or("an unknown error", |row| row.name)
    }

    /// What it means, in words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        self.row()
            .map_or("cuFile of a newer version says something that is not known here", |row| {
                row.meaning
            })
    }

    /// What to do.
    #[must_use]
    pub fn cure(self) -> &'static str {
        self.row().map_or(REPORT, |row| row.cure)
    }
}

impl fmt::Display for CuFileCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.0, self.name(), self.meaning())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_name_a_meaning_and_a_cure_and_unknown_ones_have_words_too() {
        let mut last = 5000;
        for code in known() {
            assert!(code.number() > last, "{code}");
            last = code.number();
            assert!(code.name().starts_with("CU_FILE_"), "{code}");
            assert!(code.meaning().len() > 10 && code.cure().len() > 5, "{code}");
            assert_eq!(CuFileCode::new(-code.number()), code);
        }
        let unknown = CuFileCode::new(i32::MIN);
        assert!(unknown.to_string().contains("not known here"), "{unknown}");
        assert!(CuFileCode::new(5027).cure().contains("/run/udev"));
    }
}
