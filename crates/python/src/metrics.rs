//! `gcos.MetricsServer`.

use gcos::metrics::MetricsServer as Inner;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// Serves the figures of a store to Prometheus: see `Store.serve_metrics`. A context manager. It does not keep the
/// store open.
#[pyclass(frozen, module = "gcos", name = "MetricsServer")]
#[derive(Debug)]
pub(crate) struct MetricsServer {
    inner: Mutex<Option<Inner>>,
    address: String,
}

impl MetricsServer {
    pub(crate) fn new(inner: Inner) -> Self {
        let address = inner.address().to_string();
        Self { inner: Mutex::new(Some(inner)), address }
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        let server = self.inner.get_mut().take();
        // Its thread is waited for: others may run meanwhile.
        let mut server = Some(server);
        if Python::try_attach(|py| py.detach(|| drop(server.take()))).is_none() {
            drop(server);
        }
    }
}

#[pymethods]
impl MetricsServer {
    /// Where it listens, "host:port".
    #[getter]
    fn address(&self) -> &str {
        &self.address
    }

    /// Stops it. May be called twice.
    fn close(&self, py: Python<'_>) {
        py.detach(|| drop(self.inner.lock().take()));
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        format!("gcos.MetricsServer(address={:?})", self.address)
    }
}
