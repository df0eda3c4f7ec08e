use std::ffi::{c_char, c_void};

/// How a call ended: one of the codes below, 0 or negative.
pub type gcos_status = i32;

/// An open pool. Opaque; the value of a pool that was closed is never used again.
#[derive(Debug)]
#[repr(C)]
pub struct gcos_store {
    _private: [u8; 0],
}

/// Flag of gcos_open: files that are missing are made, and drives of which every one holds nothing are
/// formatted. A pool that is there, and anything that is not known, is never erased.
pub const GCOS_CREATE: u32 = 1;

/// Durability: acknowledged when it survives the loss of power.
pub const GCOS_SYNC: u32 = 0;
/// Durability: acknowledged at once; a crash may undo the last moments, whole operations at a time.
pub const GCOS_RELAXED: u32 = 1;

/// A put replaces an object that is there, atomically.
pub const GCOS_REPLACE: u32 = 0;
/// A put keeps an object that is there: right for keys that are hashes of the content.
pub const GCOS_KEEP: u32 = 1;

/// Levels of the log; 0 is none.
pub const GCOS_LOG_ERROR: i32 = 1;
/// Something is not as it should be.
pub const GCOS_LOG_WARN: i32 = 2;
/// What an operator should know.
pub const GCOS_LOG_INFO: i32 = 3;
/// For finding faults.
pub const GCOS_LOG_DEBUG: i32 = 4;
/// Everything.
pub const GCOS_LOG_TRACE: i32 = 5;

/// The drive wrote into the GPU's memory, or read from it (nvidia-fs or P2PDMA).
pub const GCOS_MODE_GDS_DIRECT: i32 = 1;
/// cuFile moved the bytes with the processor.
pub const GCOS_MODE_COMPATIBILITY: i32 = 2;
/// They went through pinned host memory, without cuFile.
pub const GCOS_MODE_STAGING: i32 = 3;

/// Options of a put. Set all of it to 0 and struct_size to its size; a null pointer means the same.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct gcos_put_options {
    /// sizeof(gcos_put_options).
    pub struct_size: usize,
    /// GCOS_SYNC or GCOS_RELAXED.
    pub durability: u32,
    /// GCOS_REPLACE or GCOS_KEEP.
    pub if_exists: u32,
    /// Lifetime in milliseconds, rounded up to whole seconds; 0 for no limit.
    pub ttl_ms: u64,
    /// Not 0: the new object is pinned at once.
    pub pin: u32,
    /// 0.
    pub reserved: u32,
}

/// A key: 0 to 1024 bytes of any kind.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct gcos_key {
    /// The bytes; may be null if there are none.
    pub data: *const c_void,
    /// How many.
    pub len: usize,
}

/// One object of a batch.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct gcos_item {
    /// Key.
    pub key: gcos_key,
    /// Memory that the payload is in, or goes to: of the host, or of the GPU for the calls of devices.
    pub data: *mut c_void,
    /// Its length: 1 byte to 1 GiB; for a get exactly that of the object.
    pub len: usize,
    /// Set by the call: how it ended for this object. GCOS_NO_SUCH_KEY is a miss.
    pub status: gcos_status,
    /// Set by puts: 1 if an object was there and was kept, else 0.
    pub kept: i32,
}

/// What is known of an object without reading it. Set struct_size before the call.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct gcos_object_info {
    /// sizeof(gcos_object_info).
    pub struct_size: usize,
    /// Payload length in bytes.
    pub len: u64,
    /// Higher for objects stored later.
    pub generation: u64,
    /// Expiry in seconds since 1970; 0 if it has none.
    pub expires_at: u64,
    /// How many times it is pinned.
    pub pins: u32,
    /// 0.
    pub reserved: u32,
}

/// Called for each object of gcos_list, in the order of keys; what it gets is valid during the call. It may call
/// the library. It returns 0 to go on, anything else to end the list. It must not throw.
pub type gcos_list_callback = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        key: *const c_void,
        key_len: usize,
        info: *const gcos_object_info,
    ) -> i32,
>;

/// Called for each line of the log, from a thread of the library's, one line at a time; the texts are valid during
/// the call. Lines that calls of its own would write are left out. It must not throw, nor call gcos_set_log.
pub type gcos_log_callback = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        level: i32,
        target: *const c_char,
        message: *const c_char,
    ),
>;
