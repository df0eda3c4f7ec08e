//! What the kernel's error numbers mean here.
//!
//! The numbers are those of Linux on every processor that GCOS runs on.

use std::io;

use crate::IoErrorKind;

const ENXIO: i32 = 6;
const ENOMEM: i32 = 12;
const EFAULT: i32 = 14;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const EIO: i32 = 5;
const EBADF: i32 = 9;
const EPERM: i32 = 1;
const ENODATA: i32 = 61;
const EBADMSG: i32 = 74;
const EILSEQ: i32 = 84;
pub(super) const EOPNOTSUPP: i32 = 95;
const ESHUTDOWN: i32 = 108;
const ETIMEDOUT: i32 = 110;
const EUCLEAN: i32 = 117;
const EREMOTEIO: i32 = 121;
const EDQUOT: i32 = 122;
const ENOMEDIUM: i32 = 123;
pub(super) const ECANCELED: i32 = 125;

/// For deciding what to do.
pub(super) fn kind(error: &io::Error) -> IoErrorKind {
    match error.raw_os_error() {
        Some(EIO | ENODATA | EBADMSG | EILSEQ | EUCLEAN | EREMOTEIO) => IoErrorKind::Media,
        Some(ENXIO | ENODEV | ESHUTDOWN | ENOMEDIUM) => IoErrorKind::Gone,
        Some(ETIMEDOUT | ECANCELED) => IoErrorKind::Timeout,
        Some(EINVAL | EFAULT) => IoErrorKind::Invalid,
        None if error.kind() == io::ErrorKind::TimedOut => IoErrorKind::Timeout,
        None if error.kind() == io::ErrorKind::UnexpectedEof => IoErrorKind::Media,
        _ => IoErrorKind::Device,
    }
}

/// Whether the kernel refused a write by itself, without a word from the device.
pub(super) fn is_refusal(errno: i32) -> bool {
    matches!(
        errno,
        ENOSPC | EDQUOT | EFBIG | EINVAL | EFAULT | ENOMEM | EBADF | EPERM | EROFS | EOPNOTSUPP
    )
}

/// What it means, where that helps, and the kernel's words.
pub(super) fn of(error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(ENOSPC | EDQUOT) => {
            "the file system has no room for a block of the file: make room there, or write the file \
             out in full (fallocate) before it is used"
        }
        Some(EIO) => "the kernel could not read or write it; its log (dmesg) says more",
        Some(EROFS) => "the file system has become read-only; the kernel's log (dmesg) says why",
        Some(ENXIO | ENODEV | ESHUTDOWN | ENOMEDIUM) => "the device is gone",
        Some(EUCLEAN | EBADMSG) => "the file system below is damaged; check it",
        Some(EINVAL) => "the kernel does not take offset, length or memory",
        Some(ECANCELED) => "given up before it was done",
        _ if error.kind() == io::ErrorKind::TimedOut => {
            "no room among the transfers under way in time"
        }
        _ => "",
    };
    if hint.is_empty() { error.to_string() } else { format!("{hint}: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_this_system() {
        let says = |errno, part: &str| {
            let text = io::Error::from_raw_os_error(errno).to_string();
            assert!(text.contains(part), "{errno}: {text}");
        };
        says(ENXIO, "No such device or address");
        says(ENOMEM, "allocate memory");
        says(EFAULT, "Bad address");
        says(ENODEV, "No such device");
        says(EINVAL, "Invalid argument");
        says(EFBIG, "File too large");
        says(ENOSPC, "No space left");
        says(EROFS, "Read-only file system");
        says(EIO, "Input/output error");
        says(EBADF, "Bad file descriptor");
        says(EPERM, "not permitted");
        says(ENODATA, "No data available");
        says(EBADMSG, "Bad message");
        says(EILSEQ, "Invalid or incomplete multibyte");
        says(EOPNOTSUPP, "not supported");
        says(ESHUTDOWN, "endpoint shutdown");
        says(ETIMEDOUT, "timed out");
        says(EUCLEAN, "needs cleaning");
        says(EREMOTEIO, "Remote I/O error");
        says(EDQUOT, "quota exceeded");
        says(ENOMEDIUM, "No medium found");
        says(ECANCELED, "canceled");
    }
}
