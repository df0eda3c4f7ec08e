use std::path::PathBuf;
use std::sync::Arc;

use gcos_store::{Contents, Store, StoreError};
use parking_lot::Mutex;

use super::{Access, AccessError};
use crate::config::{Config, PathKind};
use crate::drives::{Drives, OpenError, open_drives};
use crate::metrics::{Mark, Measures};

pub(super) fn open(config: &Config, create: bool) -> Result<Access, AccessError> {
    let mut drives = drives(config, create)?;
    let created = std::mem::take(&mut drives.created);
    let Drives { engines, dma, skipped, choices, spill, gpus, .. } = drives;
    let drives = Drives {
        engines: engines.clone(),
        dma: Arc::clone(&dma),
        skipped: Vec::new(),
        choices: Vec::new(),
        spill,
        created: Vec::new(),
        gpus: Vec::new(),
        gpus_refused: Vec::new(),
    };
    let store = match format_and_open(config, drives, create) {
        Ok(store) => store,
        Err(error) => {
            for engine in &engines {
                if let Err(error) = engine.shutdown(config.io_deadline()) {
                    tracing::debug!(%error, "a drive was not let go of in order");
                }
            }
            discard(&created);
            return Err(error.into());
        }
    };
    let measures = Measures::default();
    Ok(Access {
        config: config.clone(),
        mark: Mutex::new(Mark::new(&measures, &store.stats())),
        measures,
        store: Arc::new(store),
        choices,
        skipped,
        dma,
        gpus: Mutex::new(gpus.iter().map(|memory| Arc::clone(memory.gpu())).collect()),
        memories: gpus,
        registered: Arc::default(),
        process: std::process::id(),
    })
}

/// Opens the drives; makes files only where nothing can be opened without.
fn drives(config: &Config, create: bool) -> Result<Drives, AccessError> {
    if !create {
        return Ok(open_drives(config, false)?);
    }
    // The first start: drives that were never there are not missing.
    if nothing_is_there(config) {
        return Ok(open_drives(config, true)?);
    }
    match open_drives(config, false) {
        Ok(drives) if drives.skipped.is_empty() || !blank(config, &drives)? => Ok(drives),
        // What is there holds nothing: a pool over all of them is wanted.
        Ok(drives) => {
            for engine in &drives.engines {
                engine.shutdown(config.io_deadline()).map_err(StoreError::from)?;
            }
            drop(drives);
            Ok(open_drives(config, true)?)
        }
        Err(OpenError::NoFile { .. } | OpenError::NoImage { .. } | OpenError::NoneLeft { .. }) => {
            Ok(open_drives(config, true)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether all drives are files or memory, and no file is there.
fn nothing_is_there(config: &Config) -> bool {
    config.disk.paths.iter().all(|path| match PathKind::parse(path) {
        Ok(PathKind::EmulatedFile(file) | PathKind::Kernel(file)) => !file.exists(),
        Ok(PathKind::EmulatedRam(_)) => true,
        _ => false,
    })
}

fn format_and_open(config: &Config, drives: Drives, create: bool) -> Result<Store, StoreError> {
    let in_memory = |path: &String| matches!(PathKind::parse(path), Ok(PathKind::EmulatedRam(_)));
    if config.disk.paths.iter().all(in_memory) || (create && blank(config, &drives)?) {
        gcos_store::format(&drives.engines, &drives.format_options(config, false))?;
    }
    let options = drives.open_options(config);
    Store::open(drives.engines, options)
}

/// Whether none of the drives holds anything.
fn blank(config: &Config, drives: &Drives) -> Result<bool, StoreError> {
    for engine in &drives.engines {
        if gcos_store::probe(engine, config.io_deadline())? != Contents::Blank {
            return Ok(false);
        }
    }
    Ok(true)
}

fn discard(created: &[PathBuf]) {
    for path in created {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(?path, %error, "a file that was made could not be removed again");
        }
    }
}
