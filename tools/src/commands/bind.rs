use gcos::hw::pci::{self, Drive, Names, PciAddress, Sysfs};
use gcos::units;
use serde_json::{Value, json};

use crate::args::{BindArgs, DriveArg};
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::setup::{modules, user};

/// `gcos bind`.
pub(crate) fn run(args: &BindArgs, out: &Output) -> Result<Outcome, Failure> {
    if args.name.is_some() && args.drives.len() != 1 {
        return Err(Failure::usage(
            "--as names one drive; bind the others with commands of their own",
        ));
    }
    let sysfs = Sysfs::from_env();
    let mut names = Names::load(&sysfs)?;
    let owner = args.user.as_deref().map(|user| user::number(&sysfs, user)).transpose()?;
    let (addresses, mut problems) = chosen(args, &names)?;
    let mut drives = Vec::new();
    for &address in &addresses {
        match pci::check(&sysfs, address, &addresses) {
            Ok(drive) => drives.push(drive),
            Err(error) if args.all => problems.push(Failure::from(error).to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    if !drives.iter().all(Drive::is_bound) {
        have_vfio_pci(&sysfs, out)?;
        consent(args, &drives, out)?;
    }
    let mut done = Vec::new();
    for drive in &drives {
        let job = Job { sysfs: &sysfs, args, owner, together: &addresses, out };
        match job.bind(&mut names, drive) {
            Ok(document) => done.push(document),
            Err(failure) if args.all => problems.push(failure.to_string()),
            Err(failure) => return Err(failure),
        }
    }
    let text: Vec<_> = done.iter().map(|(_, text)| text.clone()).collect();
    let documents: Vec<_> = done.into_iter().map(|(document, _)| document).collect();
    let text = if text.is_empty() { "No drive was bound.".to_owned() } else { text.join("\n") };
    out.result(&json!({ "drives": documents, "problems": problems }), text);
    if !out.json {
        for problem in &problems {
            out.remark(format_args!("gcos: {problem}"));
        }
    }
    if let Some(user) = args.user.as_ref().filter(|_| !documents.is_empty()) {
        out.remark(format_args!(
            "{user} must be allowed to lock memory: put `{user} - memlock unlimited` into \
             /etc/security/limits.d/gcos.conf and log in again; `gcos doctor` as {user} checks it."
        ));
    }
    Ok(Outcome::good_if(problems.is_empty()))
}

/// The drives that are meant, and with `--all` what keeps the others.
fn chosen(args: &BindArgs, names: &Names) -> Result<(Vec<PciAddress>, Vec<String>), Failure> {
    let (mut addresses, mut problems) = (Vec::new(), Vec::new());
    let mut add = |address| {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    };
    if args.all {
        for (name, _) in names.iter() {
            match names.resolve(name) {
                Ok(address) => add(address),
                Err(error) => problems.push(error.to_string()),
            }
        }
        return Ok((addresses, problems));
    }
    for drive in &args.drives {
        add(match drive {
            DriveArg::Address(address) => *address,
            DriveArg::Name(name) => names.resolve(name)?,
        });
    }
    Ok((addresses, problems))
}

fn have_vfio_pci(sysfs: &Sysfs, out: &Output) -> Result<(), Failure> {
    if modules::has_vfio_pci(sysfs) {
        return Ok(());
    }
    let advice = "the driver vfio-pci is not loaded; run `modprobe vfio-pci` as root";
    if !sysfs.is_machine() {
        return Err(Failure::new("device", advice));
    }
    out.remark("The driver vfio-pci is not loaded; running `modprobe vfio-pci`.");
    modules::load("vfio-pci")
        .map_err(|error| Failure::new("device", format!("{advice} ({error})")))?;
    if modules::has_vfio_pci(sysfs) { Ok(()) } else { Err(Failure::new("device", advice)) }
}

fn consent(args: &BindArgs, drives: &[Drive], out: &Output) -> Result<(), Failure> {
    let list: Vec<_> = drives.iter().filter(|drive| !drive.is_bound()).map(summary).collect();
    let list = list.join("; ");
    let text = format!(
        "{list}. Binding takes this away from the kernel until `gcos unbind`; no data is erased"
    );
    if args.yes {
        out.remark(format_args!("Binding: {list}"));
        return Ok(());
    }
    match out.ask(&format!("{text}. Bind?")) {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::new("occupied", "nothing was changed")),
        None => Err(Failure::new(
            "occupied",
            format!("{text}; nothing was changed. Without a terminal to ask on, give --yes too"),
        )),
    }
}

fn summary(drive: &Drive) -> String {
    let mut text = format!("{}: {}", drive.address, drive.identity);
    for namespace in &drive.namespaces {
        text.push_str(&format!(", {} of {}", namespace.name, units::about(namespace.bytes)));
    }
    text
}

struct Job<'a> {
    sysfs: &'a Sysfs,
    args: &'a BindArgs,
    owner: Option<u32>,
    together: &'a [PciAddress],
    out: &'a Output,
}

impl Job<'_> {
    /// Records the name, binds, hands the group over. The name comes first: the kernel's driver shows
    /// the serial number, and is gone afterwards.
    fn bind(&self, names: &mut Names, drive: &Drive) -> Result<(Value, String), Failure> {
        let address = drive.address;
        let known = self.args.name.as_ref().is_some_and(|name| names.get(name).is_some());
        if let Some(name) = &self.args.name {
            let earlier = names.record(name, address, drive.identity.clone())?;
            if let Some(earlier) = earlier {
                self.out.remark(format_args!("{address} was {earlier}, and is {name} now."));
            }
        }
        let change = match pci::bind(self.sysfs, address, self.together) {
            Ok(change) => change,
            Err(error) => {
                if let Some(name) = self.args.name.as_ref().filter(|_| !known)
                    && let Err(second) = names.forget(name)
                {
                    tracing::warn!(name, error = %second, "the name could not be forgotten");
                }
                return Err(error.into());
            }
        };
        let node = drive.group.as_ref().map(pci::Group::node).unwrap_or_default();
        if let Some(owner) = self.owner {
            pci::hand_over(self.sysfs, address, owner)?;
        }
        let name = names.name_of(address);
        let document = json!({
            "address": address.to_string(), "name": name, "node": node, "changed": change.changed,
            "user": self.args.user,
        });
        let mut text = format!("{address} is bound to vfio-pci, {node}");
        if let Some(name) = name {
            text.push_str(&format!(", and named {name}"));
        }
        if let Some(user) = &self.args.user {
            text.push_str(&format!("; {user} may drive it"));
        }
        if !change.changed {
            text.push_str(" (it was before)");
        }
        Ok((document, text))
    }
}
