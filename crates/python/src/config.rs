//! `gcos.Config`.

use std::path::PathBuf;

use gcos::Config as Inner;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::error::{Failure, wrong_type};

/// A configuration in which every value has been checked: the schema of gcos.json.
#[pyclass(frozen, module = "gcos", name = "Config")]
#[derive(Debug)]
pub(crate) struct Config {
    inner: Inner,
}

impl Config {
    /// The configuration that `Store.open` was handed: an object of this class, a dict, a path, or nothing.
    pub(crate) fn of(object: Option<&Bound<'_, PyAny>>) -> PyResult<Inner> {
        let Some(object) = object.filter(|object| !object.is_none()) else {
            return Ok(load(None)?);
        };
        if let Ok(config) = object.cast::<Config>() {
            return Ok(config.get().inner.clone());
        }
        if let Ok(dict) = object.cast::<PyDict>() {
            return of_dict(dict);
        }
        match object.extract::<PathBuf>() {
            Ok(path) => Ok(load(Some(path))?),
            Err(_) => Err(wrong_type(
                "config",
                "gcos.Config, a dict, a path (str or PathLike) or None",
                object,
            )),
        }
    }
}

fn load(path: Option<PathBuf>) -> Result<Inner, Failure> {
    Ok(Inner::load(&Inner::locate(path.as_deref()))?)
}

fn of_dict(dict: &Bound<'_, PyDict>) -> PyResult<Inner> {
    let json = dict.py().import("json")?;
    let text = json.call_method1("dumps", (dict,)).map_err(|error| {
        let message = format!("the dict is no configuration: {}", error.value(dict.py()));
        PyErr::from(Failure::new(gcos::Status::Config, message))
    })?;
    let text: String = text.extract()?;
    Ok(Inner::parse(&text, "dict").map_err(Failure::from)?)
}

#[pymethods]
impl Config {
    /// Reads and checks a file: `path`, else the one that GCOS_CONFIG names, else gcos.json. GCOS_USE_CUFILE,
    /// GCOS_USE_DIRECT_IO and GCOS_FORCE_PATH stand above what is in it.
    #[staticmethod]
    #[pyo3(signature = (path = None))]
    fn load(path: Option<PathBuf>) -> PyResult<Self> {
        Ok(Self { inner: load(path)? })
    }

    /// Checks a document of JSON. The environment is not looked at.
    #[staticmethod]
    fn parse(text: &str) -> PyResult<Self> {
        Ok(Self { inner: Inner::parse(text, "text").map_err(Failure::from)? })
    }

    /// Checks a document that is a dict. The environment is not looked at.
    #[staticmethod]
    fn from_dict(document: &Bound<'_, PyDict>) -> PyResult<Self> {
        Ok(Self { inner: of_dict(document)? })
    }

    /// The whole document, with the defaults filled in.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let plain = Inner { overrides: Vec::new(), ..self.inner.clone() };
        let text = serde_json::to_string(&plain).map_err(|error| {
            Failure::new(
                gcos::Status::Internal,
                format!("the configuration cannot be written: {error}"),
            )
        })?;
        py.import("json")?.call_method1("loads", (PyString::new(py, &text),))
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Config>().is_ok_and(|other| other.get().inner == self.inner)
    }

    fn __repr__(&self) -> String {
        format!("gcos.Config(paths={:?})", self.inner.disk.paths)
    }
}
