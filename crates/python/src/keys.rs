//! Keys: bytes, or text as UTF-8.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::error::{Failure, wrong_type};
use crate::handle::Handle;

/// Longest key, in bytes.
const LONGEST: usize = 1024;

/// Keys that are asked of the store at a time: each time it looks at every object.
const PAGE: usize = 8192;

/// A key, in bytes.
pub(crate) fn key(object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let bytes = bytes(object)?;
    if bytes.len() > LONGEST {
        let message = format!("key: expected at most {LONGEST} bytes, got {}", bytes.len());
        return Err(Failure::invalid(message).into());
    }
    Ok(bytes)
}

fn bytes(object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(bytes) = object.cast::<PyBytes>() {
        return Ok(bytes.as_bytes().to_vec());
    }
    if let Ok(text) = object.cast::<PyString>() {
        let utf8 = text.encode_utf8().map_err(|error| {
            Failure::invalid(format!("key: expected text that UTF-8 can say: {error}"))
        })?;
        return Ok(utf8.as_bytes().to_vec());
    }
    Err(wrong_type("key", "bytes or str", object))
}

/// A list of keys.
pub(crate) fn keys(object: &Bound<'_, PyAny>) -> PyResult<Vec<Vec<u8>>> {
    if object.is_instance_of::<PyBytes>() || object.is_instance_of::<PyString>() {
        return Err(wrong_type("keys", "a list of keys (bytes or str)", object));
    }
    let keys = object.try_iter().map_err(|_| wrong_type("keys", "a list of keys", object))?;
    keys.map(|one| key(&one?)).collect()
}

/// A prefix of keys; any length will do.
pub(crate) fn prefix(object: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<u8>> {
    object.map_or_else(|| Ok(Vec::new()), bytes)
}

/// Goes over keys and lengths of objects, in the order of keys. Objects that are stored or removed meanwhile may be
/// among them or not.
#[pyclass(frozen, module = "gcos", name = "KeyIterator")]
#[derive(Debug)]
pub(crate) struct KeyIterator {
    handle: Arc<Handle>,
    prefix: Vec<u8>,
    place: Mutex<Place>,
}

/// How far it has come.
#[derive(Debug)]
struct Place {
    page: VecDeque<(Vec<u8>, u32)>,
    last: Option<Vec<u8>>,
    over: bool,
}

impl KeyIterator {
    /// Over keys behind `last`.
    pub(crate) fn new(handle: &Arc<Handle>, prefix: Vec<u8>, last: Option<Vec<u8>>) -> Self {
        let place = Place { page: VecDeque::new(), last, over: false };
        Self { handle: Arc::clone(handle), prefix, place: Mutex::new(place) }
    }
}

#[pymethods]
impl KeyIterator {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<(Bound<'py, PyBytes>, u32)>> {
        // Not waited for: who has it may be waiting for the interpreter.
        let Some(mut place) = self.place.try_lock() else {
            let message = "keys: another thread is in this iterator; expected one for each thread";
            return Err(Failure::invalid(message).into());
        };
        if place.page.is_empty() && !place.over {
            let access = self.handle.access()?;
            let (prefix, last) = (&self.prefix, place.last.as_deref());
            let found = py.detach(|| access.store().list(prefix, last, PAGE));
            place.over = found.len() < PAGE;
            place.last = found.last().map(|(key, _)| key.clone());
            place.page = found.into_iter().map(|(key, info)| (key, info.len)).collect();
        }
        Ok(place.page.pop_front().map(|(key, len)| (PyBytes::new(py, &key), len)))
    }
}
