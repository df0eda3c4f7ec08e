use std::ffi::c_void;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::abi::{Descr, DescrHandle, HANDLE_TYPE_FD, RawHandle, ReadWrite};
use super::driver::on;
use super::{CuFile, CuFileError, CuFileMode, RegisteredBuffer, UdevGap, library};
use crate::GpuRange;

/// Code of cuFile for a file that it cannot place.
const NOT_REGISTERED: i32 = 5027;

/// A file that is registered with cuFile.
#[derive(Debug)]
pub struct CuFileHandle {
    cufile: Arc<CuFile>,
    raw: RawHandle,
    file: OwnedFd,
}

// SAFETY: the library lets all threads use a handle, at the same time.
unsafe impl Send for CuFileHandle {}
// SAFETY: as above.
unsafe impl Sync for CuFileHandle {}

impl CuFileHandle {
    /// Registers an open file: a regular one or a block device, opened with `O_DIRECT`. The descriptor is the
    /// handle's own; give it a duplicate if others use the file, too.
    ///
    /// # Errors
    /// [`CuFileError::Call`] with what cuFile says; [`CuFileError::Udev`] where it misses a record of udev.
    pub fn register(cufile: &Arc<CuFile>, file: OwnedFd) -> Result<Arc<Self>, CuFileError> {
        let handle = DescrHandle { fd: file.as_raw_fd() };
        let mut descr = Descr { kind: HANDLE_TYPE_FD, handle, fs_ops: std::ptr::null() };
        let mut raw: RawHandle = std::ptr::null_mut();
        // SAFETY: both pointers are to live values; the descriptor stays open until after the deregistration.
        let registered = unsafe { (cufile.library().handle_register)(&mut raw, &mut descr) };
        if let Err(error) = library::done("cuFileHandleRegister", registered) {
            return Err(match (error, UdevGap::of(&file)) {
                (CuFileError::Call { call, code }, Some(gap))
                    if code.number() == NOT_REGISTERED =>
                {
                    CuFileError::Udev { call, code, gap }
                }
                (error, _) => error,
            });
        }
        Ok(Arc::new(Self { cufile: Arc::clone(cufile), raw, file }))
    }

    /// cuFile.
    #[must_use]
    pub fn cufile(&self) -> &Arc<CuFile> {
        &self.cufile
    }

    /// How this file's bytes are moved, as far as that can be told beforehand: nvidia-fs and P2PDMA serve block
    /// devices, ext4 and XFS; others are served in compatibility mode.
    #[must_use]
    pub fn mode(&self) -> CuFileMode {
        match self.cufile.mode() {
            CuFileMode::Compatibility => CuFileMode::Compatibility,
            direct if self.is_served_directly() => direct,
            _ => CuFileMode::Compatibility,
        }
    }

    fn is_served_directly(&self) -> bool {
        use std::os::unix::fs::FileTypeExt;
        let Ok(file) = self.file.try_clone().map(File::from) else { return false };
        let Ok(meta) = file.metadata() else { return false };
        let kind = UdevGap::file_system_of(&file);
        meta.file_type().is_block_device() || matches!(kind.as_deref(), Some("ext4" | "xfs"))
    }

    pub(super) fn raw(&self) -> RawHandle {
        self.raw
    }

    /// Reads from `offset` of the file until the memory is full or the file ends; how many bytes were read.
    /// Blocks until it is done. `registered` may hold the memory, which saves a copy with nvidia-fs.
    ///
    /// # Errors
    /// [`CuFileError::Os`], [`CuFileError::Call`], [`CuFileError::Gpu`]. The memory may be filled in part.
    pub fn read<R: GpuRange>(
        &self,
        into: &R,
        offset: u64,
        registered: Option<&RegisteredBuffer>,
    ) -> Result<usize, CuFileError> {
        self.transfer("cuFileRead", self.cufile.library().read, into, offset, registered)
    }

    /// Writes all of the memory at `offset` of the file. Blocks until it is done; durable only after the
    /// file was synchronised.
    ///
    /// # Errors
    /// As [`CuFileHandle::read`], and [`CuFileError::Short`]. The file may be written in part.
    pub fn write<R: GpuRange>(
        &self,
        from: &R,
        offset: u64,
        registered: Option<&RegisteredBuffer>,
    ) -> Result<(), CuFileError> {
        let call = "cuFileWrite";
        let moved = self.transfer(call, self.cufile.library().write, from, offset, registered)?;
        let (wanted, moved) = (from.len() as u64, moved as u64);
        match moved == wanted {
            true => Ok(()),
            false => Err(CuFileError::Short { call, offset, wanted, moved }),
        }
    }

    /// Goes on after short transfers, until one moves nothing.
    fn transfer<R: GpuRange>(
        &self,
        call: &'static str,
        function: ReadWrite,
        memory: &R,
        offset: u64,
        registered: Option<&RegisteredBuffer>,
    ) -> Result<usize, CuFileError> {
        let (base, start) = target(memory, registered)?;
        let end = offset.checked_add(memory.len() as u64).and_then(|end| i64::try_from(end).ok());
        end.ok_or(CuFileError::Invalid {
            what: "end of a transfer in a file",
            expected: "less than 2^63",
            got: offset,
        })?;
        let mut moved = 0;
        while moved < memory.len() {
            let (at, left) = (offset + moved as u64, memory.len() - moved);
            let result = on(memory.gpu(), || {
                // Both are below 2^63, as was seen above.
                let (file_offset, buffer_offset) = (at as i64, (start + moved as u64) as i64);
                let base = base as *mut c_void;
                // SAFETY: the handle is registered; the range is memory that the GPU reaches, which the
                // caller's borrow keeps over this call.
                let rc = unsafe { function(self.raw, base, left, file_offset, buffer_offset) };
                library::moved(call, at, rc)
            })?;
            match result {
                Ok(0) => break,
                Ok(n) if n > left => {
                    return Err(CuFileError::Invalid {
                        what: "bytes moved, as cuFile tells",
                        expected: "no more than were asked for",
                        got: n as u64,
                    });
                }
                Ok(n) => moved += n,
                Err(CuFileError::Os { source, .. }) if source.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(moved)
    }
}

/// The base that cuFile is given, and the offset from there: of the registration that holds the memory, or of
/// the memory itself.
pub(super) fn target<R: GpuRange>(
    memory: &R,
    registered: Option<&RegisteredBuffer>,
) -> Result<(u64, u64), CuFileError> {
    let address = memory.device_address();
    let Some(registered) = registered else { return Ok((address, 0)) };
    match registered.offset_of(memory.gpu(), address, memory.len()) {
        Some(offset) => Ok((registered.device_address(), offset)),
        None => Err(CuFileError::Invalid {
            what: "memory of a transfer",
            expected: "a part of the registered memory given with it",
            got: address,
        }),
    }
}

impl AsFd for CuFileHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for CuFileHandle {
    fn drop(&mut self) {
        // SAFETY: registered when this was made; transfers borrow or hold this value.
        unsafe { (self.cufile.library().handle_deregister)(self.raw) };
    }
}
