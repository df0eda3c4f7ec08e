//! Numbers from Python: one that does not fit is an argument out of its range, not an `OverflowError`.

use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

use crate::error::{Failure, wrong_type};

fn whole<'py, T>(what: &str, most: u64, object: &Bound<'py, PyAny>) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    object.extract::<T>().map_err(|error| {
        if !error.is_instance_of::<PyOverflowError>(object.py()) {
            return wrong_type(what, "a whole number", object);
        }
        let got = object.repr().map_or_else(|_| "a number".to_owned(), |text| text.to_string());
        Failure::invalid(format!("{what}: expected 0 to {most}, got {got}")).into()
    })
}

fn seconds(what: &str, object: &Bound<'_, PyAny>) -> PyResult<f64> {
    object.extract::<f64>().map_err(|error| {
        if error.is_instance_of::<PyOverflowError>(object.py()) {
            return Failure::invalid(format!("{what}: expected seconds that fit a float")).into();
        }
        wrong_type(what, "a number of seconds", object)
    })
}

fn given<'a, 'py>(object: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, PyAny>> {
    Some(object).filter(|object| !object.is_none())
}

/// An offset in an object, or none.
pub(crate) fn offset(object: &Bound<'_, PyAny>) -> PyResult<Option<u32>> {
    given(object).map(|object| whole("offset", u32::MAX.into(), object)).transpose()
}

/// A number of bytes.
pub(crate) fn nbytes(object: &Bound<'_, PyAny>) -> PyResult<usize> {
    whole("nbytes", u64::MAX, object)
}

/// A number of threads.
pub(crate) fn threads(object: &Bound<'_, PyAny>) -> PyResult<usize> {
    whole("threads", 256, object)
}

/// An address.
pub(crate) fn ptr(object: &Bound<'_, PyAny>) -> PyResult<u64> {
    whole("address", u64::MAX, object)
}

/// The number of a GPU.
pub(crate) fn device(object: &Bound<'_, PyAny>) -> PyResult<usize> {
    whole("device", u64::MAX, object)
}

/// A number of bytes of a file or of memory.
pub(crate) fn size(object: &Bound<'_, PyAny>) -> PyResult<usize> {
    whole("size", u64::MAX, object)
}

/// An offset in a file.
pub(crate) fn file_offset(object: &Bound<'_, PyAny>) -> PyResult<u64> {
    whole("file_offset", u64::MAX, object)
}

/// The number of a stream.
pub(crate) fn stream(object: &Bound<'_, PyAny>) -> PyResult<u64> {
    whole("stream", u64::MAX, object)
}

/// A lifetime in seconds, or none.
pub(crate) fn ttl(object: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
    given(object).map(|object| seconds("ttl", object)).transpose()
}

/// A deadline in seconds.
pub(crate) fn timeout(object: &Bound<'_, PyAny>) -> PyResult<f64> {
    seconds("timeout", object)
}
