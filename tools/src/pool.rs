//! From flags to an open pool.

use gcos::{Config, DriveChoice, Drives, PathKind, Store, open_drives};

use crate::args::Globals;
use crate::failure::Failure;

/// Reads the configuration that the flags name.
pub(crate) fn config(globals: &Globals) -> Result<Config, Failure> {
    Ok(Config::load(&Config::locate(globals.config.as_deref()))?)
}

/// Opens the drives of a configuration; creates nothing.
pub(crate) fn drives(config: &Config) -> Result<Drives, Failure> {
    Ok(open_drives(config, false)?)
}

/// Opens the pool that the flags name.
pub(crate) fn open(globals: &Globals) -> Result<Store, Failure> {
    open_with(&config(globals)?)
}

/// Opens the pool that the flags name, and says which way each of its drives goes.
pub(crate) fn open_described(globals: &Globals) -> Result<(Store, Vec<DriveChoice>), Failure> {
    let config = config(globals)?;
    let mut drives = drives(&config)?;
    let choices = std::mem::take(&mut drives.choices);
    Ok((open_drives_of(&config, drives)?, choices))
}

/// Opens the pool of a configuration. Memory images are blank in each process, so a pool of nothing
/// else is formatted first.
pub(crate) fn open_with(config: &Config) -> Result<Store, Failure> {
    open_drives_of(config, drives(config)?)
}

fn open_drives_of(config: &Config, drives: Drives) -> Result<Store, Failure> {
    let in_memory = |path: &String| matches!(PathKind::parse(path), Ok(PathKind::EmulatedRam(_)));
    if config.disk.paths.iter().all(in_memory) {
        gcos::store::format(&drives.engines, &drives.format_options(config, false))?;
    }
    let options = drives.open_options(config);
    Ok(Store::open(drives.engines, options)?)
}

/// Ends use of drives in order, so that the next command may open them: of all of them, whatever the first
/// failure.
pub(crate) fn release(config: &Config, drives: Drives) -> Result<(), Failure> {
    let down = drives.engines.iter().map(|engine| engine.shutdown(config.io_deadline()));
    Ok(down.fold(Ok(()), Result::and)?)
}
