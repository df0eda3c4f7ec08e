//! Embeds what `gcos --version` tells about this build: the git commit, where there is one, and the
//! target.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo:rustc-env=GCOS_TARGET={target}");
    println!("cargo:rustc-env=GCOS_COMMIT={}", commit().unwrap_or_default());
}

/// The commit that is checked out, shortened; `None` outside a git checkout.
fn commit() -> Option<String> {
    // A change of HEAD, or of the branch that it names, is another commit.
    let head = git(&["rev-parse", "--git-path", "HEAD"])?;
    watch(&head);
    if let Some(branch) = git(&["symbolic-ref", "--quiet", "HEAD"]) {
        if let Some(file) = git(&["rev-parse", "--git-path", &branch]) {
            watch(&file);
        }
        if let Some(packed) = git(&["rev-parse", "--git-path", "packed-refs"]) {
            watch(&packed);
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// Cargo takes a watched file that is not there for changed each time, so only those that are.
fn watch(file: &str) {
    if Path::new(file).exists() {
        println!("cargo:rerun-if-changed={file}");
    }
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
