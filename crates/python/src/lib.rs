//! The module `gcos._gcos`: what the package `gcos` is made of. `docs/python.md` is its guide.
//!
//! Calls that move data or wait for drives do so detached from the interpreter, and hold what they were handed
//! until they have ended. All `unsafe` code is in `foreign`.

mod batch;
mod buffer;
mod config;
mod crew;
mod error;
mod fileio;
#[expect(unsafe_code, reason = "memory of the interpreter and of other libraries")]
mod foreign;
mod handle;
mod keys;
mod log;
mod metrics;
mod numbers;
mod region;
mod store;

use pyo3::prelude::*;

/// What `gcos` is made of. Use `gcos` itself.
#[pymodule]
fn _gcos(module: &Bound<'_, PyModule>) -> PyResult<()> {
    log::start();
    module.add("__version__", gcos::version())?;
    module.add_class::<buffer::Buffer>()?;
    module.add_class::<buffer::DeviceBuffer>()?;
    module.add_class::<buffer::Memory>()?;
    module.add_class::<buffer::Registration>()?;
    module.add_class::<config::Config>()?;
    module.add_class::<fileio::FileIo>()?;
    module.add_class::<keys::KeyIterator>()?;
    module.add_class::<metrics::MetricsServer>()?;
    module.add_class::<store::Store>()?;
    module.add_function(wrap_pyfunction!(error::statuses, module)?)?;
    module.add_function(wrap_pyfunction!(handle::close_all, module)?)?;
    module.add_function(wrap_pyfunction!(store::play_gpu, module)?)?;
    module.add_function(wrap_pyfunction!(log::set_log_level, module)?)?;
    Ok(())
}
