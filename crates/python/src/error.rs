//! Failures on their way to Python.

use gcos::Status;
use gcos::status::{Classify, message_of};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

/// What went wrong, ready to become an exception: it can wait until the interpreter is attached.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// An argument that is not as it must be.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Status::InvalidArgument, message)
    }

    pub(crate) fn closed() -> Self {
        Self::new(Status::Closed, "the store is closed; open it again")
    }

    /// What a caught panic amounts to.
    pub(crate) fn internal(what: &str) -> Self {
        let message =
            format!("{what} came to an end that was not foreseen; this is a fault of gcos");
        Self::new(Status::Internal, message)
    }

    /// An instance of the exception for the status.
    pub(crate) fn instance<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let make = py.import("gcos.errors")?.getattr("from_status")?;
        make.call1((self.status.code(), self.message.as_str()))
    }
}

impl<E: Classify> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Status::of(&error), message_of(&error))
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        Python::attach(|py| match failure.instance(py) {
            Ok(instance) => PyErr::from_value(instance),
            Err(error) => error,
        })
    }
}

/// An object of a type that cannot be used.
pub(crate) fn wrong_type(what: &str, expected: &str, got: &Bound<'_, PyAny>) -> PyErr {
    let name = got.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("{what}: expected {expected}, got {name}"))
}

/// Numbers and names of all statuses: `gcos.errors` is held against it.
#[pyfunction]
pub(crate) fn statuses() -> Vec<(i32, &'static str)> {
    Status::ALL.iter().map(|status| (status.code(), status.name())).collect()
}
