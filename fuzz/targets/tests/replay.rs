//! Every input of the corpus, through its target: what once crashed stays fixed, on any toolchain.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use gcos_fuzz_targets::{TARGETS, Target, seeds, target};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus")
}

fn run(target: Target, name: &str, bytes: &[u8]) {
    let ran = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    assert!(ran.is_ok(), "{}: {name} is not survived", target.name);
}

#[test]
fn every_input_of_the_corpus_is_survived() {
    for target in TARGETS {
        let folder = corpus().join(target.name);
        let mut inputs: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{} is empty", folder.display());
        for path in inputs {
            let bytes = fs::read(&path).unwrap();
            assert!(bytes.len() <= 64 << 10, "{} is too large to keep", path.display());
            run(*target, &path.file_name().unwrap().to_string_lossy(), &bytes);
        }
    }
}

#[test]
fn every_folder_of_the_corpus_has_a_target_and_a_program() {
    for entry in fs::read_dir(corpus()).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(target(&name).is_some(), "no target is called {name}");
    }
    for target in TARGETS {
        let program = corpus().join(format!("../fuzz_targets/{}.rs", target.name));
        let text = fs::read_to_string(&program)
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        assert!(text.contains(&format!("\"{}\"", target.name)), "{}", program.display());
    }
}

#[test]
fn seeds_and_noise_are_survived() {
    for target in TARGETS {
        let seeds = seeds(target.name);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        let mut rng = fastrand::Rng::with_seed(7);
        for (name, bytes) in &seeds {
            run(*target, name, bytes);
            let mut noisy = bytes.clone();
            for _ in 0..8 {
                match rng.usize(..noisy.len().max(1)) {
                    at if at < noisy.len() => noisy[at] = rng.u8(..),
                    _ => noisy.push(rng.u8(..)),
                }
            }
            run(*target, &format!("{name} with noise"), &noisy);
        }
        for length in [0, 1, 7, 64, 500] {
            let noise: Vec<u8> = (0..length).map(|_| rng.u8(..)).collect();
            run(*target, "noise", &noise);
        }
    }
}
