//! Completions and manual pages, from the definition that the parser uses.

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs, ManArgs};
use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// `gcos completions`.
pub(crate) fn completions(args: &CompletionsArgs, out: &Output) -> Result<Outcome, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "gcos", &mut script);
    print(&script, out)
}

/// `gcos man`.
pub(crate) fn man(args: &ManArgs, out: &Output) -> Result<Outcome, Failure> {
    if let Some(folder) = &args.dir {
        let fail = |error| Failure::file("write manual pages to", folder, &error);
        std::fs::create_dir_all(folder).map_err(fail)?;
        clap_mangen::generate_to(Cli::command(), folder).map_err(fail)?;
        return Ok(Outcome::Good);
    }
    let mut page = Vec::new();
    let page_error = |error: std::io::Error| Failure::new("io", error.to_string());
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(page_error)?;
    print(&page, out)
}

fn print(bytes: &[u8], out: &Output) -> Result<Outcome, Failure> {
    match out.bytes(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new("io", format!("cannot write to standard output: {error}")))
        }
        _ => Ok(Outcome::Good),
    }
}
