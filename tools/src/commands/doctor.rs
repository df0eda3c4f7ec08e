use gcos::Config;
use gcos::hw::pci::Sysfs;
use serde_json::json;

use crate::args::Globals;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, table};
use crate::setup::check::{Check, Section, Status};
use crate::setup::checks;

/// `gcos doctor`.
pub(crate) fn run(globals: &Globals, out: &Output) -> Result<Outcome, Failure> {
    // One that is named must be there and right; the usual one may be absent, and its mistakes are one of the
    // things found.
    let config = match Config::load(&Config::locate(globals.config.as_deref())) {
        Err(error) if globals.config.is_some() => return Err(error.into()),
        config => config,
    };
    let checks = checks(&Sysfs::from_env(), config.as_ref());
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
    let mut text = String::new();
    for section in Section::ALL {
        let rows = checks.iter().filter(|check| check.section == section).map(row).collect();
        text.push_str(&format!("{}\n{}\n\n", section.title(), table(&[], rows, &[])));
    }
    let text_len = text.trim_end().len();
    text.truncate(text_len);
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
    let ring = checks.iter().any(|check| check.id == "io_uring" && check.status == Status::Ok);
    let way = if ring { "io_uring" } else { "POSIX calls, io_uring not" };
    text.push_str(&format!("\nBlock devices and files can be used through {way}."));
    text
}
