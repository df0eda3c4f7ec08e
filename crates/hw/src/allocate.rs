use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Makes a plain file at least `len` bytes long, with room for all of them on its file system, so that no
/// later write finds it full. Bytes that are new read as zeros; those that were there stay.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`] when there is not that much room: where that can be told beforehand,
/// nothing was changed. [`io::ErrorKind::Unsupported`] when the file system cannot set room aside.
pub fn allocate(file: &File, len: u64) -> io::Result<()> {
    let size = libc::off_t::try_from(len)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "file size past 2^63"))?;
    // Filling a file system to its end and failing then would hurt everybody on it.
    let metadata = file.metadata()?;
    let there = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    if free(file)?.is_some_and(|free| free < len.saturating_sub(there)) {
        return Err(io::Error::from_raw_os_error(libc::ENOSPC));
    }
    loop {
        // SAFETY: a descriptor that `file` keeps open, and no pointers.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, size) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // Not every file system that lacks it says so with the same number.
            Some(libc::ENOSYS) => return Err(io::ErrorKind::Unsupported.into()),
            _ => return Err(error),
        }
    }
}

/// Bytes that this process may still take of the file's file system; `None` where it does not say.
fn free(file: &File) -> io::Result<Option<u64>> {
    let mut room = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: a descriptor that `file` keeps open; the kernel fills in the whole of `room`, which is of
    // the type that it expects.
    if unsafe { libc::fstatvfs(file.as_raw_fd(), room.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above succeeded, so it has filled it in; every bit pattern is a value of it.
    let room = unsafe { room.assume_init() };
    if room.f_blocks == 0 {
        return Ok(None);
    }
    Ok(Some(room.f_bavail.saturating_mul(room.f_frsize)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_file_has_its_room_and_one_that_cannot_have_it_is_left_alone() {
        let path = std::env::temp_dir().join(format!("gcos-hw-allocate-{}", std::process::id()));
        std::fs::write(&path, b"there").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        // More than any file system has.
        let error = allocate(&file, 1 << 62).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
        assert_eq!(file.metadata().unwrap().len(), 5);
        allocate(&file, 1 << 20).unwrap();
        let metadata = file.metadata().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(metadata.len() == 1 << 20 && metadata.blocks() * 512 >= 1 << 20);
        assert_eq!(&bytes[..5], b"there");
        assert!(bytes[5..].iter().all(|&byte| byte == 0));
    }
}
