use gcos::{Config, units};
use serde_json::json;

use crate::args::{ConfigArgs, ConfigCommand, Globals};
use crate::failure::{Failure, Outcome};
use crate::output::{Output, table};

/// `gcos config`.
pub(crate) fn run(globals: &Globals, args: &ConfigArgs, out: &Output) -> Result<Outcome, Failure> {
    match args.command {
        ConfigCommand::Check => check(globals, out),
    }
}

fn check(globals: &Globals, out: &Output) -> Result<Outcome, Failure> {
    let path = Config::locate(globals.config.as_deref());
    let config = Config::load(&path)?;
    out.result(&json!({ "file": path, "config": config }), summary(&config));
    Ok(Outcome::Good)
}

fn summary(config: &Config) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let (disk, cpu, gpu) = (&config.disk, &config.namespace.cpu, &config.namespace.gpu);
    let zones = &config.zone_chunk_size_kb;
    let rows = vec![
        row("drives", disk.paths.join(", ")),
        row("capacity of each", units::exact(disk.capacity_bytes)),
        row("block size", units::exact(disk.block_size.into())),
        row("host queues", format!("{} of depth {}", cpu.qps, cpu.queue_depth)),
        row("GPU queues", format!("{} x {} of depth {}", gpu.num, gpu.qps, gpu.queue_depth)),
        row(
            "zone chunks",
            format!("sb {} KiB, meta {} KiB, data {} KiB", zones.sb, zones.meta, zones.data),
        ),
    ];
    format!("{}\nThe configuration is valid.", table(&[], rows, &[]))
}
