//! Writes the seeds of every target under `fuzz/corpus`, or under the folder that is named.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool of this folder")]

use std::path::PathBuf;

fn main() {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../corpus");
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| beside.to_owned()));
    for target in gcos_fuzz_targets::TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder).unwrap();
        let seeds = gcos_fuzz_targets::seeds(target.name);
        for (name, bytes) in &seeds {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        println!("{}: {} seeds", target.name, seeds.len());
    }
}
