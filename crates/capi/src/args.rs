//! Arguments of C, checked as far as they can be. That a pointer which is not null is valid for what goes with it
//! is the caller's part.

use std::ffi::{CStr, c_char, c_void};

use crate::call::Failure;

fn checked<T>(what: &str, pointer: *const T, count: usize) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::invalid(what, "a pointer", "a null pointer"));
    }
    if !pointer.is_aligned() {
        let expected = format!("an address that is a multiple of {}", align_of::<T>());
        return Err(Failure::invalid(what, &expected, format!("{pointer:p}")));
    }
    let bytes = count.checked_mul(size_of::<T>()).filter(|&bytes| isize::try_from(bytes).is_ok());
    if bytes.is_none_or(|bytes| (pointer as usize).checked_add(bytes).is_none()) {
        let expected = "a length inside the address space";
        return Err(Failure::invalid(what, expected, format!("{count} at {pointer:p}")));
    }
    Ok(())
}

/// `len` bytes; a null pointer is fine for none.
///
/// # Safety
/// A pointer that is not null is valid for reads of `len` bytes while `'a` lasts.
pub(crate) unsafe fn bytes<'a>(
    what: &str,
    data: *const c_void,
    len: usize,
) -> Result<&'a [u8], Failure> {
    let data = data.cast::<u8>();
    if data.is_null() && len == 0 {
        return Ok(&[]);
    }
    checked(what, data, len)?;
    // SAFETY: not null, inside the address space, and valid as the caller promises.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

/// As [`bytes`], to be written.
///
/// # Safety
/// A pointer that is not null is valid for writes of `len` bytes while `'a` lasts, and nobody else uses them.
pub(crate) unsafe fn bytes_mut<'a>(
    what: &str,
    data: *mut c_void,
    len: usize,
) -> Result<&'a mut [u8], Failure> {
    let data = data.cast::<u8>();
    if data.is_null() && len == 0 {
        return Ok(&mut []);
    }
    checked(what, data, len)?;
    // SAFETY: as in `bytes`, and nobody else's.
    Ok(unsafe { std::slice::from_raw_parts_mut(data, len) })
}

/// `count` values; a null pointer is fine for none.
///
/// # Safety
/// As [`bytes`].
pub(crate) unsafe fn array<'a, T>(
    what: &str,
    data: *const T,
    count: usize,
) -> Result<&'a [T], Failure> {
    if data.is_null() && count == 0 {
        return Ok(&[]);
    }
    checked(what, data, count)?;
    // SAFETY: not null, aligned, inside the address space, and valid as the caller promises.
    Ok(unsafe { std::slice::from_raw_parts(data, count) })
}

/// As [`array`], to be written.
///
/// # Safety
/// As [`bytes_mut`].
pub(crate) unsafe fn array_mut<'a, T>(
    what: &str,
    data: *mut T,
    count: usize,
) -> Result<&'a mut [T], Failure> {
    if data.is_null() && count == 0 {
        return Ok(&mut []);
    }
    checked(what, data, count)?;
    // SAFETY: as in `array`, and nobody else's.
    Ok(unsafe { std::slice::from_raw_parts_mut(data, count) })
}

/// A text.
///
/// # Safety
/// A pointer that is not null leads to a text that ends with a zero byte and stays while `'a` lasts.
pub(crate) unsafe fn text<'a>(what: &str, text: *const c_char) -> Result<&'a str, Failure> {
    checked(what, text, 1)?;
    // SAFETY: not null, and a text as the caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|error| Failure::invalid(what, "UTF-8", error))
}

/// Where a result goes.
#[derive(Debug)]
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// A place that must be there.
    ///
    /// # Safety
    /// A pointer that is not null is valid for a write until this is gone.
    pub(crate) unsafe fn of(what: &str, to: *mut T) -> Result<Self, Failure> {
        checked(what, to, 1)?;
        Ok(Self(to))
    }

    /// A place that may be missing: then nothing is written.
    ///
    /// # Safety
    /// As [`Out::of`].
    pub(crate) unsafe fn maybe(what: &str, to: *mut T) -> Result<Self, Failure> {
        if !to.is_null() {
            checked(what, to, 1)?;
        }
        Ok(Self(to))
    }

    pub(crate) fn put(&self, value: T) {
        if !self.0.is_null() {
            // SAFETY: aligned, and valid for a write as the caller of `of` or `maybe` promised.
            unsafe { self.0.write(value) };
        }
    }
}

/// Smallest struct with a size: the size itself.
const SMALLEST: usize = size_of::<usize>();
/// Largest that is believed.
const LARGEST: usize = 64 << 10;

/// Types of this interface whose first field is `struct_size`, that consist of numbers without gaps, and of which
/// all bytes 0 are a value.
///
/// # Safety
/// All of this is so.
pub(crate) unsafe trait Versioned: Copy {}

// SAFETY: a `usize`, then integers, padded by a field of its own (a test compares with C).
unsafe impl Versioned for crate::types::gcos_put_options {}
// SAFETY: as above.
unsafe impl Versioned for crate::types::gcos_object_info {}
// SAFETY: as above, integers of 64 bits alone.
unsafe impl Versioned for crate::stats::gcos_stats {}
// SAFETY: as above, numbers of 64 bits alone.
unsafe impl Versioned for crate::stats::gcos_interval_stats {}

/// The size that the caller set, if it can be one.
///
/// # Safety
/// A pointer that is not null leads to a struct that begins with its size, set by the caller.
unsafe fn struct_size<T>(what: &str, value: *const T) -> Result<usize, Failure> {
    checked(what, value, 1)?;
    // SAFETY: not null, aligned for `T`, so for its first field, which the caller has set.
    let size = unsafe { value.cast::<usize>().read() };
    if !(SMALLEST..=LARGEST).contains(&size) {
        let what = format!("struct_size of {what}");
        return Err(Failure::invalid(&what, "the sizeof of the struct", size));
    }
    Ok(size)
}

/// Where a struct goes that may be of another version of this interface.
#[derive(Debug)]
pub(crate) struct OutStruct<T> {
    to: *mut T,
    size: usize,
}

impl<T: Versioned> OutStruct<T> {
    /// # Safety
    /// A pointer that is not null leads to a struct whose size the caller has set to what is valid for writes
    /// until this is gone.
    pub(crate) unsafe fn of(what: &str, to: *mut T) -> Result<Self, Failure> {
        // SAFETY: as the caller promises.
        let size = unsafe { struct_size(what, to.cast_const())? };
        Ok(Self { to, size })
    }

    /// Writes what the caller's version has room for, and zeros where it has more. The size stays.
    pub(crate) fn put(&self, value: &T) {
        let common = self.size.min(size_of::<T>());
        let to = self.to.cast::<u8>();
        // SAFETY: `size` bytes from `to` on are the caller's struct; the first field stays as it is; `common` bytes
        // are in `value`, too.
        unsafe {
            let from = std::ptr::from_ref(value).cast::<u8>();
            std::ptr::copy_nonoverlapping(from.add(SMALLEST), to.add(SMALLEST), common - SMALLEST);
            std::ptr::write_bytes(to.add(common), 0, self.size - common);
        }
    }
}

/// A struct of the caller's, of whichever version; `None` for a null pointer.
///
/// # Safety
/// A pointer that is not null leads to a struct whose size the caller has set to what is valid for reads.
pub(crate) unsafe fn read<T: Versioned>(what: &str, from: *const T) -> Result<Option<T>, Failure> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promises.
    let size = unsafe { struct_size(what, from)? };
    let common = size.min(size_of::<T>());
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: `size` bytes are the caller's struct; `common` of them fit.
    let rest = unsafe {
        std::ptr::copy_nonoverlapping(from.cast::<u8>(), value.as_mut_ptr().cast(), common);
        std::slice::from_raw_parts(from.cast::<u8>().add(common), size - common)
    };
    if rest.iter().any(|&byte| byte != 0) {
        let message = format!("{what} uses fields that this version of the library does not know");
        return Err(Failure::new(gcos::Status::Unsupported, message));
    }
    // SAFETY: zeros are a value of a versioned type, and so is what was copied over them.
    Ok(Some(unsafe { value.assume_init() }))
}

/// Gives a text to the caller: its length, and the text with a zero byte behind it if there is room.
///
/// # Safety
/// `to` is null or valid for writes of `capacity` bytes; `len` is null or valid for a write.
pub(crate) unsafe fn give_text(
    text: &str,
    to: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> Result<(), Failure> {
    // SAFETY: as the caller promises.
    let (to, len) = unsafe { (bytes_mut("buffer", to.cast(), capacity)?, Out::maybe("len", len)?) };
    len.put(text.len());
    if capacity == 0 {
        return Ok(());
    }
    let Some((room, end)) =
        to.get_mut(..=text.len()).and_then(<[u8]>::split_last_mut).map(|(end, room)| (room, end))
    else {
        let message =
            format!("the text has {} bytes and a zero, the buffer {capacity}", text.len());
        return Err(Failure::new(gcos::Status::WrongSize, message));
    };
    room.copy_from_slice(text.as_bytes());
    *end = 0;
    Ok(())
}
