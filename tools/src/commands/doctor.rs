use gcos::hw::pci::Sysfs;
use serde_json::json;

use crate::failure::{Failure, Outcome};
use crate::output::{Output, table};
use crate::setup::check::{Check, Status};
use crate::setup::checks;

/// `gcos doctor`.
pub(crate) fn run(out: &Output) -> Result<Outcome, Failure> {
    let checks = checks(&Sysfs::from_env());
    let usable = !checks.iter().any(Check::is_fatal);
    let document = json!({ "usable": usable, "checks": checks });
    out.result(&document, describe(&checks, usable));
    Ok(Outcome::good_if(usable))
}

fn describe(checks: &[Check], usable: bool) -> String {
    let row = |check: &Check| {
        let kind = if check.required { "" } else { "optional" };
        vec![check.status.label().into(), check.id.into(), kind.into(), check.found.clone()]
    };
    let mut text = table(&[], checks.iter().map(row).collect(), &[]);
    let mut open = checks.iter().filter(|check| check.status != Status::Ok).peekable();
    if open.peek().is_some() {
        text.push_str("\n\nWhat to do:");
    }
    for check in open {
        let cure = check.cure.as_deref().unwrap_or("nothing");
        text.push_str(&format!("\n  {}: {}.\n    Cure: {cure}.", check.id, check.meaning));
    }
    text.push_str(if usable {
        "\n\nThe userspace driver can be used here."
    } else {
        "\n\nThe userspace driver cannot be used here yet: see the required checks that are MISSING."
    });
    text
}
