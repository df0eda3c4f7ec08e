use gcos::hw::pci::{Drive, Holder, Identity, Names, Namespace, Obstacle, Sysfs};
use gcos::units;
use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};
use crate::output::{Output, table};

/// A drive with what the record of names adds.
struct Row {
    drive: Drive,
    name: Option<String>,
    identity: Identity,
    holders: Vec<Holder>,
    /// Why it is not fit.
    reasons: Vec<String>,
}

/// `gcos devices`.
pub(crate) fn run(out: &Output) -> Result<Outcome, Failure> {
    let sysfs = Sysfs::from_env();
    let names = Names::load(&sysfs)?;
    let rows: Vec<Row> =
        Drive::list(&sysfs).into_iter().map(|drive| row(&sysfs, &names, drive)).collect();
    let lost: Vec<(&str, String)> = names
        .iter()
        .filter_map(|(name, _)| Some((name, names.resolve(name).err()?.to_string())))
        .collect();
    let lost_names: Vec<_> =
        lost.iter().map(|(name, problem)| json!({ "name": name, "problem": problem })).collect();
    let drives: Vec<_> = rows.iter().map(document).collect();
    out.result(&json!({ "drives": drives, "lost_names": lost_names }), describe(&rows));
    if !out.json {
        for (_, problem) in &lost {
            out.remark(problem);
        }
    }
    Ok(Outcome::Good)
}

fn row(sysfs: &Sysfs, names: &Names, drive: Drive) -> Row {
    let name = names.name_of(drive.address);
    let recorded = name.and_then(|name| names.get(name));
    let identity = match recorded {
        Some(recorded) => drive.identity.clone().or(&recorded.identity),
        None => drive.identity.clone(),
    };
    let holders = drive.group.as_ref().filter(|_| drive.is_bound());
    let holders = holders.map_or_else(Vec::new, |group| group.holders(sysfs, drive.address));
    let mut reasons: Vec<_> = drive.obstacles(&[]).iter().map(Obstacle::to_string).collect();
    let fits = |namespace: &Namespace| matches!(namespace.block_bytes, 512 | 4096);
    if drive.controller.is_some() && !drive.namespaces.iter().any(fits) {
        reasons.push(
            "it has no namespace with blocks of 512 or 4096 bytes; make or format one (nvme create-ns, \
             nvme format)"
                .to_owned(),
        );
    }
    Row { name: name.map(str::to_owned), identity, holders, reasons, drive }
}

fn document(row: &Row) -> Value {
    let mut value = json!(row.drive);
    value["identity"] = json!(row.identity);
    value["vendor"] = json!(vendor(row.identity.vendor));
    value["name"] = json!(row.name);
    value["bound"] = json!(row.drive.is_bound());
    value["fit"] = json!(row.reasons.is_empty());
    value["reasons"] = json!(row.reasons);
    value["holders"] = json!(row.holders);
    value["health"] = json!(health(&row.drive));
    value
}

fn describe(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "There is no NVMe drive here (no PCI function of class 010802).".to_owned();
    }
    let header =
        ["ADDRESS", "MODEL", "SERIAL", "DRIVER", "GROUP", "NUMA", "LINK", "HEALTH", "NAME", "FIT"];
    let dash = || "-".to_owned();
    let cells = |row: &Row| {
        let drive = &row.drive;
        let link = drive.link.as_ref();
        let serial = row.identity.serial.clone().or_else(|| row.identity.pci_serial.clone());
        vec![
            drive.address.to_string(),
            model(&row.identity),
            serial.unwrap_or_else(dash),
            drive.driver.clone().unwrap_or_else(dash),
            drive.group.as_ref().map_or_else(dash, |group| group.number.to_string()),
            drive.numa_node.map_or_else(dash, |node| node.to_string()),
            link.map_or_else(dash, |link| format!("{} x{}", speed(&link.speed), link.width)),
            health(drive),
            row.name.clone().unwrap_or_else(dash),
            match (row.reasons.is_empty(), drive.is_bound()) {
                (true, true) => "bound".to_owned(),
                (true, false) => "yes".to_owned(),
                (false, _) => "no".to_owned(),
            },
        ]
    };
    let mut text = table(&header, rows.iter().map(cells).collect(), &[]);
    for row in rows {
        text.push_str(&details(row));
    }
    text
}

/// Namespaces, neighbours, holders and reasons of a drive.
fn details(row: &Row) -> String {
    let drive = &row.drive;
    let mut lines = Vec::new();
    for namespace in &drive.namespaces {
        let size = units::about(namespace.bytes);
        let mut line = format!("{}: {size}, blocks of {}", namespace.name, namespace.block_bytes);
        for one in &namespace.uses {
            line.push_str(&format!("; {one}"));
        }
        lines.push(line);
    }
    if let Some(group) = drive.group.as_ref().filter(|group| !group.others.is_empty()) {
        let others: Vec<_> = group.others.iter().map(ToString::to_string).collect();
        lines.push(format!("IOMMU group {} also holds {}", group.number, others.join(", ")));
    }
    lines.extend(row.holders.iter().map(|holder| format!("in use by {holder}")));
    lines.extend(row.reasons.iter().map(|reason| format!("not fit: {reason}")));
    if lines.is_empty() {
        return String::new();
    }
    format!("\n\n{}\n  {}", drive.address, lines.join("\n  "))
}

fn model(identity: &Identity) -> String {
    let ids = format!("[{:04x}:{:04x}]", identity.vendor, identity.device);
    match (&identity.model, vendor(identity.vendor)) {
        (Some(model), _) => format!("{model} {ids}"),
        (None, Some(vendor)) => format!("{vendor} {ids}"),
        (None, None) => ids,
    }
}

/// What can be known without asking the drive itself.
fn health(drive: &Drive) -> String {
    let Some(controller) = &drive.controller else { return "unknown".to_owned() };
    let state = controller.state.as_deref().unwrap_or("unknown");
    match controller.temperature_celsius {
        Some(celsius) => format!("{state}, {celsius} °C"),
        None => state.to_owned(),
    }
}

/// `16.0 GT/s PCIe` as the generation that people call it.
fn speed(speed: &str) -> String {
    let generations = [
        ("2.5", "Gen1"),
        ("5.0", "Gen2"),
        ("8.0", "Gen3"),
        ("16.0", "Gen4"),
        ("32.0", "Gen5"),
        ("64.0", "Gen6"),
    ];
    let number = speed.split(' ').next().unwrap_or_default();
    let known = generations.iter().find(|(rate, _)| *rate == number);
    known.map_or_else(|| speed.to_owned(), |(_, name)| (*name).to_owned())
}

/// Makers of NVMe controllers, by the number of the PCI special interest group.
fn vendor(id: u16) -> Option<&'static str> {
    let name = match id {
        0x025e => "Solidigm",
        0x1179 | 0x1e0f => "KIOXIA",
        0x126f => "Silicon Motion",
        0x1344 => "Micron",
        0x144d => "Samsung",
        0x15b7 => "SanDisk",
        0x1987 => "Phison",
        0x1b36 => "QEMU",
        0x1b96 | 0x1c58 => "Western Digital",
        0x1bb1 => "Seagate",
        0x1c5c => "SK hynix",
        0x1cc1 => "ADATA",
        0x1d0f => "Amazon",
        0x1e4b => "MAXIO",
        0x1fe4 => "ScaleFlux",
        0x2646 => "Kingston",
        0x8086 => "Intel",
        _ => return None,
    };
    Some(name)
}
