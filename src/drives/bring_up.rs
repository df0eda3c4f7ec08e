use std::sync::Arc;

use gcos_emulator::{
    AddressSpace, Config as EmulatorConfig, Emulator, EmulatorError, Medium, Namespace,
    WriteCacheConfig,
};
use gcos_engine::HostQueueEngine;
use gcos_hw::Function;
use gcos_hw::pci::{Names, NamesError, PciAddress, Sysfs};
use gcos_hw::vfio::VfioSpace;
use gcos_nvme::{Completion, Controller, NvmeError, Options};

use super::OpenError;
use super::choice::DriveChoice;
use super::image::{self, Made};
use super::platform::Queues;
use crate::config::{Config, PathKind};

/// Opens one entry of `disk.paths` that has queues, with so many queue pairs to lend to GPUs. With
/// `create`, an image that is not there is made first, and noted.
pub(super) fn drive(
    config: &Config,
    index: usize,
    (path, kind): (&str, &PathKind),
    queues: &Queues,
    create: Option<&mut Made>,
    lent: u16,
) -> Result<(Arc<HostQueueEngine>, DriveChoice), OpenError> {
    let engine = match queues {
        Queues::Vfio(space) => real(config, path, kind, space, lent)?,
        Queues::Emulated(space) => {
            let medium = medium(config, kind, create)?;
            let function = emulator(config, index, path, medium, space)
                .map_err(|source| OpenError::Emulator { path: path.to_owned(), source })?;
            engine(config, path, function, None, lent)?
        }
        // The platform was made for these very entries.
        Queues::None => return Err(OpenError::NoQueues { path: path.to_owned() }),
    };
    let reason = match kind {
        PathKind::Pci(_) => "a PCI address, bound to vfio-pci",
        PathKind::Bound(_) => "a recorded name of a drive that is bound to vfio-pci",
        PathKind::EmulatedFile(_) => "the software controller over an image file",
        _ => "the software controller over memory",
    };
    let choice = DriveChoice::new(path, &*engine, reason);
    Ok((engine, choice))
}

/// A drive behind VFIO, by its address or by the name that was recorded for it.
fn real(
    config: &Config,
    path: &str,
    kind: &PathKind,
    space: &Arc<VfioSpace>,
    lent: u16,
) -> Result<Arc<HostQueueEngine>, OpenError> {
    let (address, serial) = match kind {
        PathKind::Pci(address) => (*address, None),
        _ => resolve(path).map_err(|source| OpenError::Name { path: path.to_owned(), source })?,
    };
    match space.function(address) {
        Ok(function) => engine(config, path, function, serial.as_deref(), lent),
        Err(source) => Err(OpenError::Vfio { path: path.to_owned(), source }),
    }
}

/// Where the drive of a name is, and the serial number that was recorded with it.
fn resolve(name: &str) -> Result<(PciAddress, Option<String>), NamesError> {
    let names = Names::load(&Sysfs::from_env())?;
    let address = names.resolve(name)?;
    Ok((address, names.get(name).and_then(|named| named.identity.serial.clone())))
}

fn medium(
    config: &Config,
    kind: &PathKind,
    create: Option<&mut Made>,
) -> Result<Arc<Medium>, OpenError> {
    let opened = match kind {
        PathKind::EmulatedRam(bytes) => Medium::ram(*bytes),
        PathKind::EmulatedFile(file) => {
            let bytes = config.disk.capacity_bytes;
            if let Some(made) = create {
                image::create(file, bytes, made)?;
            }
            image::check(file, bytes)?;
            Medium::file(file, config.emulated.direct_io)
        }
        PathKind::Pci(_) | PathKind::Bound(_) | PathKind::Kernel(_) => {
            return Err(OpenError::NoQueues { path: kind.to_string() });
        }
    };
    opened.map_err(|source| match source {
        EmulatorError::Locked { path } => OpenError::Locked { path },
        source => OpenError::Emulator { path: kind.to_string(), source },
    })
}

fn emulator(
    config: &Config,
    index: usize,
    path: &str,
    medium: Arc<Medium>,
    space: &AddressSpace,
) -> Result<Arc<dyn Function>, EmulatorError> {
    let workers = medium.is_file().then_some(config.emulated.workers as usize);
    let queues = config.disk.reserve_max_queue_pair_num.min(1024) as u16;
    let namespace =
        Namespace { lba_bytes: config.disk.block_size, bytes: config.disk.capacity_bytes };
    let cache = config.emulated.volatile_cache.then(WriteCacheConfig::default);
    let emulator = Emulator::new(EmulatorConfig {
        namespaces: vec![namespace],
        max_queue_pairs: queues,
        interrupt_vectors: queues + 1,
        mqes: config.namespace.cpu.queue_depth.max(config.namespace.gpu.queue_depth),
        write_cache: cache,
        workers,
        serial: format!("GCOS{index:04}"),
        name: path.to_owned(),
        space: Some(space.clone()),
        ..EmulatorConfig::new(medium)
    })?;
    Ok(emulator.function())
}

fn engine(
    config: &Config,
    path: &str,
    function: Arc<dyn Function>,
    serial: Option<&str>,
    lent: u16,
) -> Result<Arc<HostQueueEngine>, OpenError> {
    let fail = |source: NvmeError| OpenError::Controller {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let cpu = &config.namespace.cpu;
    let options = Options {
        io_queue_pairs: u16::try_from(cpu.qps).unwrap_or(u16::MAX),
        lent_queue_pairs: lent,
        queue_depth: cpu.queue_depth,
        completion: if cpu.interrupts { Completion::Interrupt } else { Completion::Polled },
        ..Options::default()
    };
    let controller = Controller::open(function, options).map_err(fail)?;
    check_serial(path, serial, &controller.identity().serial)?;
    let nsid = namespace(config, path, controller.namespaces())?;
    Ok(Arc::new(HostQueueEngine::new(controller, nsid).map_err(fail)?))
}

/// Two drives of one model cannot be told apart before they are asked.
fn check_serial(path: &str, recorded: Option<&str>, found: &str) -> Result<(), OpenError> {
    match recorded {
        Some(recorded) if recorded.trim() != found.trim() => Err(OpenError::Exchanged {
            path: path.to_owned(),
            recorded: recorded.trim().to_owned(),
            found: found.trim().to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The first active namespace within `disk.namespace_number` that has blocks of `disk.block_size`.
fn namespace(
    config: &Config,
    path: &str,
    active: &[gcos_nvme::Namespace],
) -> Result<u32, OpenError> {
    let (namespaces, expected) = (config.disk.namespace_number, config.disk.block_size);
    let fits = |n: &&gcos_nvme::Namespace| n.nsid <= namespaces && n.lba_bytes == expected;
    if let Some(namespace) = active.iter().find(fits) {
        return Ok(namespace.nsid);
    }
    let list: Vec<_> =
        active.iter().map(|n| format!("id {} with blocks of {}", n.nsid, n.lba_bytes)).collect();
    let found = format!("it has {}", if list.is_empty() { "none".into() } else { list.join(", ") });
    Err(OpenError::BlockSize { path: path.to_owned(), namespaces, expected, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_with_another_serial_number_than_recorded_is_refused_by_name() {
        check_serial("/dev/libnvm0", None, "S1").unwrap();
        check_serial("/dev/libnvm0", Some("S1  "), "S1").unwrap();
        let error = check_serial("/dev/libnvm0", Some("S1"), "S2").unwrap_err();
        assert!(error.is_missing_drive());
        let text = error.to_string();
        assert!(
            text.contains("/dev/libnvm0") && text.contains("S1") && text.contains("S2"),
            "{text}"
        );
    }
}
