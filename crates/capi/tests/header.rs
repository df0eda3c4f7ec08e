//! The header is what the source says, and names what the library exports.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

#[path = "../examples/header/generate.rs"]
mod generate;

use std::path::Path;

fn committed() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(generate::PATH)).unwrap()
}

/// Names of the functions in a header.
fn functions(header: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in header.lines().filter(|line| !line.starts_with([' ', '/', '#', '}'])) {
        let Some((before, _)) = line.split_once('(') else { continue };
        let name = before.rsplit([' ', '*']).next().unwrap_or_default();
        if name.starts_with("gcos_") && !line.starts_with("typedef") {
            names.push(name.to_owned());
        }
    }
    names
}

#[test]
fn the_header_is_that_of_the_source() {
    let made = generate::header(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    assert!(made == committed(), "run `cargo run -p gcos-capi --example header`");
}

#[test]
fn the_document_mentions_every_function_and_no_other() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/c-api.md");
    let document = std::fs::read_to_string(document).unwrap();
    let header = committed();
    let functions = functions(&header);
    assert!(functions.len() > 30, "{functions:?}");
    for name in &functions {
        assert!(document.contains(&format!("`{name}`")), "docs/c-api.md does not mention {name}");
    }
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    for name in document.split(word).filter(|word| word.starts_with("gcos_")) {
        assert!(header.contains(name), "docs/c-api.md mentions {name}, which the header has not");
    }
}
