//! Changes the code that recovers pools, one change at a time, in a copy of the tree, and tells which
//! changes the simulator and the tests notice.
#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use clap::Parser;

/// Where the tests of the layout notice a mutant, and the only place where they can.
const LAYOUT: &str = "crates/layout/";

/// What each mutant is run against, cheapest first: arguments to cargo. A mutant of the layout meets that judge
/// first, others never.
const JUDGES: &[(&str, &[&str])] = &[
    (
        "histories",
        &[
            "run",
            "-q",
            "-p",
            "gcos-sim",
            "--bin",
            "gcos-sim",
            "--",
            "--seeds",
            "0..250",
            "--minimise",
            "0",
        ],
    ),
    ("crashes", &["run", "-q", "-p", "gcos-sim", "--bin", "gcos-sim", "--", "--crashes", "2"]),
    ("store", &["test", "-q", "-p", "gcos-store", "--lib"]),
    ("layout", &["test", "-q", "-p", "gcos-layout"]),
    ("check", &["test", "-q", "-p", "gcos-check"]),
];

/// Applies each mutant of a list to a copy of the tree and runs the simulator and the tests on it. Ends
/// with 0 if at least nine of ten are noticed, of those that can be.
#[derive(Debug, Parser)]
#[command(name = "gcos-mutants")]
struct Args {
    /// The list.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/mutants/list.txt"))]
    list: PathBuf,
    /// Where the copy of the tree and its build go; made if need be, and kept for the next time.
    #[arg(long)]
    folder: PathBuf,
    /// Only mutants with this in their names.
    #[arg(long, default_value = "")]
    only: String,
    /// How many of the judges to ask: histories, crashes, and the tests of store, layout and checker.
    #[arg(long, default_value_t = JUDGES.len())]
    judges: usize,
    /// Every n-th of them, from the first on.
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Leaves so many of them out at the beginning.
    #[arg(long, default_value_t = 0)]
    skip: usize,
}

#[derive(Debug, Default)]
struct Mutant {
    name: String,
    file: String,
    find: Vec<String>,
    put: Vec<String>,
    /// Why nothing can notice it.
    survives: Option<String>,
}

fn parse(text: &str) -> Vec<Mutant> {
    let mut all: Vec<Mutant> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            all.push(Mutant { name: name.to_owned(), ..Mutant::default() });
            continue;
        }
        let Some(mutant) = all.last_mut() else { continue };
        if let Some(file) = line.strip_prefix("file ") {
            file.clone_into(&mut mutant.file);
        } else if let Some(why) = line.strip_prefix("survives: ") {
            mutant.survives = Some(why.to_owned());
        } else if let Some(find) = line.strip_prefix('-') {
            mutant.find.push(find.to_owned());
        } else if let Some(put) = line.strip_prefix('+') {
            mutant.put.push(put.to_owned());
        }
    }
    all
}

impl Mutant {
    /// The source with the change.
    fn apply(&self, source: &str) -> Result<String, String> {
        let (find, put) = (self.find.join("\n"), self.put.join("\n"));
        match source.matches(&find).count() {
            1 => Ok(source.replacen(&find, &put, 1)),
            n => Err(format!("{}: {n} places to change in {}", self.name, self.file)),
        }
    }
}

/// Copies what git tracks into the folder.
fn copy(folder: &Path) -> Result<PathBuf, String> {
    let tree = folder.join("tree");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let words = |error: std::io::Error| error.to_string();
    let list = Command::new("git").arg("-C").arg(&root).args(["ls-files", "-z"]).output();
    for name in String::from_utf8_lossy(&list.map_err(words)?.stdout).split('\0') {
        let (from, to) = (root.join(name), tree.join(name));
        if !from.is_file() {
            continue;
        }
        let bytes = std::fs::read(&from).map_err(words)?;
        if std::fs::read(&to).is_ok_and(|old| old == bytes) {
            continue;
        }
        std::fs::create_dir_all(to.parent().unwrap_or(&tree)).map_err(words)?;
        std::fs::write(&to, bytes).map_err(words)?;
    }
    Ok(tree)
}

/// Who noticed a change of a file in the tree, if anybody did.
fn judge(
    tree: &Path,
    target: &Path,
    judges: usize,
    file: &str,
) -> Result<Option<&'static str>, String> {
    let (layout, others): (Vec<_>, Vec<_>) =
        JUDGES.iter().take(judges).partition(|(name, _)| *name == "layout");
    let first = layout.into_iter().filter(|_| file.starts_with(LAYOUT));
    for (judge, arguments) in first.chain(others) {
        let build = match arguments {
            ["run", "-q", rest @ ..] => {
                let build = rest.iter().take_while(|a| **a != "--").copied();
                ["build", "-q"].into_iter().chain(build).collect::<Vec<_>>()
            }
            _ => arguments.iter().copied().chain(["--no-run"]).collect(),
        };
        if !cargo(tree, target, &build)? {
            return Ok(Some("compiler"));
        }
        if !cargo(tree, target, arguments)? {
            return Ok(Some(judge));
        }
    }
    Ok(None)
}

fn cargo(tree: &Path, target: &Path, arguments: &[&str]) -> Result<bool, String> {
    let mut cargo = Command::new("timeout");
    cargo.args(["900", "cargo"]).args(arguments).current_dir(tree);
    // Nobody debugs them, and they are built one after the other.
    cargo.env("CARGO_TARGET_DIR", target).env("CARGO_PROFILE_DEV_DEBUG", "0");
    cargo.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(cargo.status().map_err(|error| error.to_string())?.success())
}

fn run(args: &Args) -> Result<bool, String> {
    let words = |error: std::io::Error| error.to_string();
    let mutants = parse(&std::fs::read_to_string(&args.list).map_err(words)?);
    let (tree, target) = (copy(&args.folder)?, args.folder.join("target"));
    if let Some(judge) = judge(&tree, &target, args.judges, LAYOUT)? {
        return Err(format!("the tree itself fails: {judge}"));
    }
    let (mut killed, mut excused, mut survived) = (0, 0, Vec::new());
    for mutant in
        mutants.iter().filter(|m| m.name.contains(&args.only)).skip(args.skip).step_by(args.every)
    {
        let begun = Instant::now();
        let file = tree.join(&mutant.file);
        let source = std::fs::read_to_string(&file).map_err(words)?;
        std::fs::write(&file, mutant.apply(&source)?).map_err(words)?;
        let by = judge(&tree, &target, args.judges, &mutant.file);
        std::fs::write(&file, source).map_err(words)?;
        let seconds = begun.elapsed().as_secs();
        match (by?, &mutant.survives) {
            (Some("compiler"), _) => return Err(format!("{} does not compile", mutant.name)),
            (Some(by), _) => {
                killed += 1;
                println!("killed    {:60} by {by}, {seconds} s", mutant.name);
            }
            (None, Some(why)) => {
                excused += 1;
                println!("survived  {:60} as expected: {why}", mutant.name);
            }
            (None, None) => {
                println!("SURVIVED  {:60} {seconds} s", mutant.name);
                survived.push(&mutant.name);
            }
        }
    }
    println!("{killed} killed, {excused} that nothing can notice, {} survived", survived.len());
    Ok(killed >= 9 * survived.len())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_still_finds_the_one_place_that_it_changes() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let list = std::fs::read_to_string(root.join("mutants/list.txt")).unwrap();
        let mutants = parse(&list);
        assert!(mutants.len() >= 30);
        for mutant in mutants {
            let file = root.join("../..").join(&mutant.file);
            let source = std::fs::read_to_string(&file).unwrap();
            let changed = mutant.apply(&source).unwrap();
            assert_ne!(changed, source, "{}", mutant.name);
        }
    }
}
