//! The suite on a real drive, through Linux VFIO.
//!
//! `GCOS_TEST_BDF` names the drive by its PCI address; it must be bound to vfio-pci. Nothing is written
//! unless `GCOS_TEST_ERASE` is the drive's serial number; then the first GiB of the namespace
//! `GCOS_TEST_NSID` (1) is overwritten.
#![expect(clippy::print_stdout, reason = "this is what its user reads")]

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use gcos_hardware_tests::{Target, consent, run};
use gcos_hw::Function;
use gcos_hw::pci::PciAddress;
use gcos_hw::vfio::VfioSpace;
use gcos_nvme::Controller;

fn main() -> ExitCode {
    let Ok(name) = env::var("GCOS_TEST_BDF") else {
        println!("no drive was named (GCOS_TEST_BDF=0000:c1:00.0): no real drive is tested");
        return ExitCode::SUCCESS;
    };
    match test(&name) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{name}: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                println!("  {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// Runs the suite and tells of each case: whether all is well.
fn test(name: &str) -> Result<bool, Box<dyn Error>> {
    let address: PciAddress = name.parse()?;
    let nsid = match env::var("GCOS_TEST_NSID") {
        Ok(text) => text.parse().map_err(|_| format!("GCOS_TEST_NSID: a number, not {text:?}"))?,
        Err(_) => 1,
    };
    let space = VfioSpace::open()?;
    let function: Arc<dyn Function> = space.function(address)?;
    let mut target = Target { nsid, ..Target::read_only(function) };
    let controller = Controller::open(Arc::clone(&target.function), target.options.clone())?;
    let identity = controller.identity();
    let namespace = controller.namespace(nsid).ok_or("no such namespace")?;
    let (serial, given) = (identity.serial.clone(), env::var("GCOS_TEST_ERASE").ok());
    target.window = consent(&serial, given.as_deref(), namespace.blocks, namespace.lba_bytes)?;
    println!("{name}: {} {serial}, firmware {}", identity.model, identity.firmware);
    match target.window {
        Some(window) => println!("overwriting {} blocks from block 0", window.blocks),
        None => {
            println!("reading only; GCOS_TEST_ERASE={serial} lets the first GiB be overwritten")
        }
    }
    controller.shutdown(None)?;
    drop(controller);
    let summary = run(&target, |case, outcome, took| {
        println!("{:>9.3} ms  {}: {outcome}", took.as_secs_f64() * 1e3, case.name);
    });
    println!("{summary}");
    Ok(summary.is_good())
}
