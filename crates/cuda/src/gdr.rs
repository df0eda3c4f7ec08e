//! GDRCopy: its kernel module `gdrdrv` maps GPU memory for the CPU, its library `libgdrapi` asks it to. The
//! library is loaded at run time.
//!
//! This follows the library's documented interface (version 2). It has been run against a stand-in for the
//! library only, never against the module.

use std::ffi::{c_int, c_ulong, c_void};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use gcos_hw::{PAGE_BYTES, SharedMemory};
use libloading::{Library, Symbol};

use crate::gpu::Kind;
#[cfg(feature = "played")]
use crate::played::PlayedMemory;
use crate::vmm::VmmMemory;
use crate::{Gpu, GpuError};

/// Name of the library, as its packages install it.
const LIBRARY: &str = "libgdrapi.so.2";
/// The module's device.
const DEVICE: &str = "/dev/gdrdrv";

/// What the library calls `gdr_mh_t`: a pinned range.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Pin(c_ulong);

/// What the library calls `gdr_t`.
type Session = *mut c_void;

/// The library, with a session.
#[derive(Debug)]
pub(crate) struct Gdr {
    session: Session,
    close: unsafe extern "C" fn(Session) -> c_int,
    pin: unsafe extern "C" fn(Session, c_ulong, usize, u64, u32, *mut Pin) -> c_int,
    unpin: unsafe extern "C" fn(Session, Pin) -> c_int,
    map: unsafe extern "C" fn(Session, Pin, *mut *mut c_void, usize) -> c_int,
    unmap: unsafe extern "C" fn(Session, Pin, *mut c_void, usize) -> c_int,
    // The code behind the above.
    _library: Library,
}

// SAFETY: the library guards its session with a lock of its own.
unsafe impl Send for Gdr {}
// SAFETY: as above.
unsafe impl Sync for Gdr {}

/// The library returns 0 or one of the system's error numbers.
fn done(call: &str, rc: c_int) -> Result<(), String> {
    match rc {
        0 => Ok(()),
        rc => Err(format!("{call}: {}", std::io::Error::from_raw_os_error(rc))),
    }
}

impl Gdr {
    /// Loads the library, which opens the module's device.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub(crate) fn open() -> Result<Arc<Self>, String> {
        if !Path::new(DEVICE).exists() {
            return Err(format!(
                "there is no {DEVICE}: the module gdrdrv of GDRCopy is not loaded"
            ));
        }
        Self::load(Path::new(LIBRARY))
    }

    fn load(library: &Path) -> Result<Arc<Self>, String> {
        // SAFETY: loading it runs its initialisers, which is what every user of it does.
        let loaded = unsafe { Library::new(library) };
        let loaded =
            loaded.map_err(|error| format!("{} cannot be loaded: {error}", library.display()))?;
        // SAFETY: these are the types that the library's header gives these names.
        let (open, close, pin, unpin, map, unmap) = unsafe {
            let open: unsafe extern "C" fn() -> Session = symbol(&loaded, b"gdr_open\0")?;
            (
                open,
                symbol(&loaded, b"gdr_close\0")?,
                symbol(&loaded, b"gdr_pin_buffer\0")?,
                symbol(&loaded, b"gdr_unpin_buffer\0")?,
                symbol(&loaded, b"gdr_map\0")?,
                symbol(&loaded, b"gdr_unmap\0")?,
            )
        };
        // SAFETY: a function without parameters; the session is closed by `drop`.
        let session = unsafe { open() };
        if session.is_null() {
            return Err(format!("gdr_open failed: expected that {DEVICE} may be opened"));
        }
        Ok(Arc::new(Self { session, close, pin, unpin, map, unmap, _library: loaded }))
    }
}

/// A function of the library.
///
/// # Safety
/// `F` is the type of the function of that name.
unsafe fn symbol<F: Copy>(library: &Library, name: &[u8]) -> Result<F, String> {
    // SAFETY: the caller vouches for the type.
    let found: Result<Symbol<'_, F>, _> = unsafe { library.get(name) };
    found.map(|found| *found).map_err(|error| format!("{LIBRARY} is another version: {error}"))
}

impl Drop for Gdr {
    fn drop(&mut self) {
        // SAFETY: every mapping, which holds this value, has ended.
        let rc = unsafe { (self.close)(self.session) };
        if let Err(error) = done("gdr_close", rc) {
            tracing::debug!(error, "not closed");
        }
    }
}

/// The memory behind a mapping.
#[derive(Debug)]
enum Vram {
    Cuda(VmmMemory),
    #[cfg(feature = "played")]
    Played(PlayedMemory),
}

impl Vram {
    fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self, GpuError> {
        match gpu.kind() {
            Kind::Cuda(_) => VmmMemory::new(gpu, len).map(Self::Cuda),
            #[cfg(feature = "played")]
            Kind::Played(played) => PlayedMemory::new(played, len).map(Self::Played),
        }
    }

    fn range(&self) -> (u64, usize) {
        match self {
            Self::Cuda(memory) => (memory.address(), memory.len()),
            #[cfg(feature = "played")]
            Self::Played(memory) => (memory.base().as_ptr() as u64, memory.len()),
        }
    }
}

/// GPU memory with a mapping for the CPU; what was done so far is undone at its end.
#[derive(Debug)]
struct Mapping {
    gdr: Arc<Gdr>,
    pin: Option<Pin>,
    address: *mut c_void,
    // Last: the mapping ends before the memory.
    vram: Vram,
}

// SAFETY: the address is used by `drop` alone, which has exclusive access; the mapped memory is reached
// through `SharedMemory`, which answers for it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(gdr: &Arc<Gdr>, vram: Vram) -> Result<Self, String> {
        let (device_address, len) = vram.range();
        let (gdr, address) = (Arc::clone(gdr), std::ptr::null_mut());
        let mut mapping = Self { gdr, pin: None, address, vram };
        let mut pin = Pin(0);
        let rc =
            // SAFETY: the session is open; the range is ours, and the pointer is to a live value. Token
            // and space are 0, as the library says for memory that is named by address.
            unsafe { (mapping.gdr.pin)(mapping.gdr.session, device_address, len, 0, 0, &mut pin) };
        done("gdr_pin_buffer", rc)?;
        mapping.pin = Some(pin);
        let mut address = std::ptr::null_mut();
        // SAFETY: the range was pinned just now, in this length.
        let rc = unsafe { (mapping.gdr.map)(mapping.gdr.session, pin, &mut address, len) };
        done("gdr_map", rc)?;
        mapping.address = address;
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let Some(pin) = self.pin else { return };
        if !self.address.is_null() {
            let (_, len) = self.vram.range();
            // SAFETY: mapped in this length, and nothing refers to the mapping any more.
            let rc = unsafe { (self.gdr.unmap)(self.gdr.session, pin, self.address, len) };
            if let Err(error) = done("gdr_unmap", rc) {
                tracing::error!(error, len, "GPU memory was not unmapped");
            }
        }
        // SAFETY: pinned when this was made.
        let rc = unsafe { (self.gdr.unpin)(self.gdr.session, pin) };
        if let Err(error) = done("gdr_unpin_buffer", rc) {
            tracing::error!(error, "GPU memory was not unpinned");
        }
    }
}

/// Makes `len` bytes of GPU memory, rounded up to 2 MiB, with the CPU's view and the GPU's address.
///
/// # Errors
/// [`GpuError::NoWindow`] with what is missing, [`GpuError::Cuda`] when there is not enough memory.
pub(crate) fn window(gpu: &Arc<Gpu>, len: usize) -> Result<(Arc<SharedMemory>, u64), GpuError> {
    let ordinal = gpu.ordinal();
    let no_window = |reason| GpuError::NoWindow { ordinal, reason };
    if gpu.is_played() {
        return Err(no_window("a played GPU has no GDRCopy".to_owned()));
    }
    window_by(&gpu.gdr().map_err(no_window)?, gpu, len)
}

fn window_by(
    gdr: &Arc<Gdr>,
    gpu: &Arc<Gpu>,
    len: usize,
) -> Result<(Arc<SharedMemory>, u64), GpuError> {
    let ordinal = gpu.ordinal();
    let no_window = |reason| GpuError::NoWindow { ordinal, reason };
    let mapping = Mapping::new(gdr, Vram::new(gpu, len)?).map_err(no_window)?;
    let (device_address, len) = mapping.vram.range();
    let address = mapping.address;
    if !(address as usize).is_multiple_of(PAGE_BYTES) {
        return Err(no_window(format!("GDRCopy mapped it at {address:p}, expected a whole page")));
    }
    let base = NonNull::new(address.cast::<u8>());
    let base = base.ok_or_else(|| no_window("GDRCopy gave no address".to_owned()))?;
    // SAFETY: the mapping is of `len` bytes and lives as long as its owner, given here.
    let view = unsafe { SharedMemory::foreign(base, len, Arc::new(mapping)) };
    let view = view.map_err(|source| GpuError::Memory { ordinal, source })?;
    Ok((Arc::new(view), device_address))
}

#[cfg(all(test, feature = "played"))]
mod tests {
    use std::process::Command;

    use super::*;

    /// A library that "maps" what the played GPU has, which the CPU reaches anyway, and keeps count. Maps
    /// beyond 8 MiB are refused with ENOMEM, pins beyond 16 MiB with EINVAL.
    const STAND_IN: &str = r#"
        #include <cerrno>
        #include <cstddef>
        #include <cstdint>
        struct Handle { unsigned long h; };
        static long open_now, pinned_now, mapped_now;
        extern "C" {
        void* gdr_open() { ++open_now; return &open_now; }
        int gdr_close(void*) { --open_now; return mapped_now + pinned_now ? EBUSY : 0; }
        int gdr_pin_buffer(void*, unsigned long at, size_t size, uint64_t token, uint32_t space, Handle* out) {
          if (size > 16 << 20 || token != 0 || space != 0 || at % 65536 != 0) return EINVAL;
          ++pinned_now;
          out->h = at;
          return 0;
        }
        int gdr_unpin_buffer(void*, Handle) { return mapped_now >= pinned_now ? EBUSY : (--pinned_now, 0); }
        int gdr_map(void*, Handle handle, void** at, size_t size) {
          if (size > 8 << 20) return ENOMEM;
          ++mapped_now;
          *at = reinterpret_cast<void*>(handle.h);
          return 0;
        }
        int gdr_unmap(void*, Handle handle, void* at, size_t) {
          if (reinterpret_cast<unsigned long>(at) != handle.h) return EINVAL;
          --mapped_now;
          return 0;
        }
        long stand_in_counts() { return open_now * 10000 + pinned_now * 100 + mapped_now; }
        }
    "#;

    #[test]
    fn memory_is_pinned_mapped_and_given_back_through_the_library() {
        let folder = std::env::temp_dir().join(format!("gcos-gdr-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (source, path) = (folder.join("stand_in.cpp"), folder.join("libstandin.so"));
        std::fs::write(&source, STAND_IN).unwrap();
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let mut command = Command::new(compiler);
        command.args(["-shared", "-fPIC", "-o"]).arg(&path).arg(&source);
        assert!(command.status().unwrap().success());

        let gpu = Gpu::played();
        let gdr = Gdr::load(&path).unwrap();
        let counts: unsafe extern "C" fn() -> std::ffi::c_long =
            // SAFETY: the stand-in above defines it with this type.
            unsafe { symbol(&gdr._library, b"stand_in_counts\0") }.unwrap();
        // SAFETY: the library is loaded.
        let counts = || unsafe { counts() };
        let free = || gpu.memory_info().unwrap().free_bytes;
        let before = free();
        let (view, address) = window_by(&gdr, &gpu, 3 << 20).unwrap();
        assert_eq!((view.len(), counts()), (4 << 20, 10101));
        gpu.copy_in(address + 4096, &[7; 64]).unwrap();
        let mut seen = [0; 64];
        view.read(4096, &mut seen).unwrap();
        assert_eq!(seen, [7; 64]);
        let text = |len| window_by(&gdr, &gpu, len).unwrap_err().to_string();
        assert!(text(10 << 20).contains("gdr_map: Cannot allocate memory"), "{}", text(10 << 20));
        assert!(text(20 << 20).contains("gdr_pin_buffer: Invalid argument"), "{}", text(20 << 20));
        assert_eq!(counts(), 10101, "what failed was not undone");
        drop(view);
        assert_eq!((counts(), free()), (10000, before));

        let missing = Gdr::load(&folder.join("libnothing.so")).unwrap_err();
        assert!(missing.contains("libnothing.so cannot be loaded"), "{missing}");
        drop(gdr);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
