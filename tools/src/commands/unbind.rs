use gcos::hw::pci::{self, Names, NamesError, PciAddress, Sysfs};
use serde_json::{Value, json};

use crate::args::{DriveArg, UnbindArgs};
use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// `gcos unbind`.
pub(crate) fn run(args: &UnbindArgs, out: &Output) -> Result<Outcome, Failure> {
    let sysfs = Sysfs::from_env();
    let mut names = Names::load(&sysfs)?;
    let (mut documents, mut lines) = (Vec::new(), Vec::new());
    for drive in &args.drives {
        let (document, line) = match drive {
            DriveArg::Address(address) => give_back(&sysfs, &mut names, *address)?,
            DriveArg::Name(name) => by_name(&sysfs, &mut names, name)?,
        };
        documents.push(document);
        lines.push(line);
    }
    out.result(&json!({ "drives": documents }), lines.join("\n"));
    Ok(Outcome::Good)
}

fn by_name(sysfs: &Sysfs, names: &mut Names, name: &str) -> Result<(Value, String), Failure> {
    match names.resolve(name) {
        Ok(address) => give_back(sysfs, names, address),
        // Whatever is at that address now is not the drive that is meant: it stays as it is.
        Err(NamesError::Gone { address, .. } | NamesError::Exchanged { address, .. }) => {
            names.forget(name)?;
            let document = json!({
                "address": address.to_string(), "forgotten": name, "changed": false, "driver": null,
            });
            let text = format!(
                "{name} is forgotten. Its drive is not at {address} any more; what is there now was \
                 left as it is."
            );
            Ok((document, text))
        }
        Err(error) => Err(error.into()),
    }
}

fn give_back(
    sysfs: &Sysfs,
    names: &mut Names,
    address: PciAddress,
) -> Result<(Value, String), Failure> {
    let change = pci::unbind(sysfs, address)?;
    let forgotten = names.name_of(address).map(str::to_owned);
    if let Some(name) = &forgotten {
        names.forget(name)?;
    }
    let driver = change.driver.as_deref();
    let mut text = match driver {
        Some(driver) => format!("{address} is back with the driver {driver}"),
        None => format!(
            "{address} has no driver: the kernel's nvme is not loaded (modprobe nvme takes the drive)"
        ),
    };
    if !change.changed {
        text.push_str(" (it was before)");
    }
    if let Some(name) = &forgotten {
        text.push_str(&format!("; {name} is forgotten"));
    }
    let document = json!({
        "address": address.to_string(), "forgotten": forgotten, "changed": change.changed,
        "driver": driver,
    });
    Ok((document, text))
}
