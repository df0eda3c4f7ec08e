//! The gcos command line: raw flags become a plan, the plan runs, the outcome becomes an exit code.

mod args;
mod bench;
mod commands;
mod failure;
mod key;
mod meter;
mod output;
mod pattern;
mod pool;
mod quickstart;
mod replay;
mod setup;
mod staged_file;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::failure::{Failure, Outcome};
use crate::output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    let out = Output::new(&cli.globals);
    output::start_log(&cli.globals);
    match run(cli, &out) {
        Ok(outcome) => outcome.into(),
        Err(failure) => {
            out.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: Cli, out: &Output) -> Result<Outcome, Failure> {
    let Cli { globals, command } = cli;
    match command {
        Command::Quickstart(args) => quickstart::run(&args, out),
        Command::QuickstartWriter(args) => quickstart::writer(&globals, &args),
        Command::ZoneFormat(args) => commands::format::run(&globals, &args, out),
        Command::Fsck(args) => commands::fsck::run(&globals, &args, out),
        Command::Scrub(args) => commands::scrub::run(&globals, &args, out),
        Command::Put(args) => commands::put::run(&globals, &args, out),
        Command::Get(args) => commands::get::run(&globals, &args, out),
        Command::Ls(args) => commands::list::run(&globals, &args, out),
        Command::Stat(args) => commands::stat::run(&globals, &args, out),
        Command::Rm(args) => commands::remove::run(&globals, &args, out),
        Command::CopyPool(args) => commands::copy_pool::run(&args, out),
        Command::ImportLmcacheGds(args) => commands::import_lmcache_gds::run(&globals, &args, out),
        Command::Config(args) => commands::config::run(&globals, &args, out),
        Command::Devices(_) => commands::devices::run(out),
        Command::Bind(args) => commands::bind::run(&args, out),
        Command::Unbind(args) => commands::unbind::run(&args, out),
        Command::Doctor(_) => commands::doctor::run(&globals, out),
        Command::Replay(args) => replay::run(&globals, &args, out),
        Command::Bench(args) => bench::run(&args, out),
        Command::Completions(args) => commands::shell::completions(&args, out),
        Command::Man(args) => commands::shell::man(&args, out),
    }
}
