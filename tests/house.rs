//! Rules of the house, checked: who may depend on whom, who may say `unsafe`, which licences come in,
//! what the documents must mention, how long a file may be.
//!
//! Each rule is a function from plain values to a list of violations, tested on bad input at the end
//! of this file, and applied to the workspace in a test of its own.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails fails its test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// What one crate may use of the others.
struct Edges {
    from: &'static str,
    normal: &'static [&'static str],
    /// For its tests, examples and benches, beside the above.
    dev: &'static [&'static str],
}

const EDGES: &[Edges] = &[
    Edges { from: "gcos-layout", normal: &[], dev: &[] },
    Edges { from: "gcos-hw", normal: &[], dev: &[] },
    Edges { from: "gcos-emulator", normal: &["gcos-hw", "gcos-layout"], dev: &[] },
    Edges {
        from: "gcos-cuda",
        normal: &["gcos-hw", "gcos-layout"],
        dev: &["gcos-emulator", "gcos-nvme"],
    },
    Edges { from: "gcos-nvme", normal: &["gcos-hw", "gcos-layout"], dev: &["gcos-emulator"] },
    Edges {
        from: "gcos-engine",
        normal: &["gcos-cuda", "gcos-hw", "gcos-layout", "gcos-nvme"],
        dev: &["gcos-emulator"],
    },
    Edges {
        from: "gcos-store",
        normal: &["gcos-engine", "gcos-hw", "gcos-layout"],
        dev: &["gcos-cuda", "gcos-emulator", "gcos-nvme"],
    },
    Edges {
        from: "gcos-check",
        normal: &["gcos-engine", "gcos-hw", "gcos-layout"],
        dev: &["gcos-emulator", "gcos-store"],
    },
    Edges {
        from: "gcos",
        normal: &[
            "gcos-check",
            "gcos-cuda",
            "gcos-emulator",
            "gcos-engine",
            "gcos-hw",
            "gcos-layout",
            "gcos-nvme",
            "gcos-store",
        ],
        dev: &[],
    },
    Edges { from: "gcos-capi", normal: &["gcos"], dev: &["gcos-cuda"] },
    Edges { from: "gcos-python", normal: &["gcos"], dev: &[] },
    Edges { from: "gcos-tools", normal: &["gcos"], dev: &[] },
    // Test suites: programs, nothing depends on them.
    Edges {
        from: "gcos-gpu-tests",
        normal: &[
            "gcos-cuda",
            "gcos-emulator",
            "gcos-engine",
            "gcos-hw",
            "gcos-layout",
            "gcos-nvme",
            "gcos-store",
        ],
        dev: &[],
    },
    Edges {
        from: "gcos-fuzz-targets",
        normal: &[
            "gcos",
            "gcos-capi",
            "gcos-check",
            "gcos-emulator",
            "gcos-engine",
            "gcos-hw",
            "gcos-layout",
            "gcos-nvme",
            "gcos-store",
        ],
        dev: &[],
    },
    Edges {
        from: "gcos-load-tests",
        normal: &[
            "gcos-check",
            "gcos-emulator",
            "gcos-engine",
            "gcos-layout",
            "gcos-nvme",
            "gcos-store",
        ],
        dev: &[],
    },
    Edges { from: "gcos-loom-tests", normal: &[], dev: &[] },
    Edges {
        from: "gcos-security-tests",
        normal: &[
            "gcos-check",
            "gcos-engine",
            "gcos-fuzz-targets",
            "gcos-hw",
            "gcos-layout",
            "gcos-nvme",
            "gcos-store",
        ],
        dev: &[],
    },
    Edges {
        from: "gcos-hardware-tests",
        normal: &["gcos-check", "gcos-engine", "gcos-hw", "gcos-layout", "gcos-nvme", "gcos-store"],
        dev: &["gcos-emulator"],
    },
    Edges {
        from: "gcos-qemu-tests",
        normal: &[
            "gcos",
            "gcos-check",
            "gcos-engine",
            "gcos-hardware-tests",
            "gcos-hw",
            "gcos-layout",
            "gcos-nvme",
            "gcos-store",
        ],
        dev: &[],
    },
    Edges {
        from: "gcos-sim",
        normal: &[
            "gcos-check",
            "gcos-emulator",
            "gcos-engine",
            "gcos-hw",
            "gcos-layout",
            "gcos-nvme",
            "gcos-store",
        ],
        dev: &[],
    },
];

/// Crates that may say `unsafe`: the one that maps memory and calls the system, the one that calls the CUDA
/// driver and Vulkan, and those through which programs in other languages hand over their memory.
const MAY_SAY_UNSAFE: &[&str] = &["gcos-capi", "gcos-cuda", "gcos-hw", "gcos-python"];

/// External crates that only one of ours may name.
const OWNED: &[(&str, &str)] = &[
    ("ash", "gcos-cuda"),
    ("crc-fast", "gcos-layout"),
    ("cudarc", "gcos-cuda"),
    ("hashbrown", "gcos-store"),
    ("io-uring", "gcos-hw"),
    ("libc", "gcos-hw"),
    ("pyo3", "gcos-python"),
    ("vfio-bindings", "gcos-hw"),
    ("vfio-ioctls", "gcos-hw"),
];

/// Licences that dependencies may have; `deny.toml` has the same list.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Most lines of a source file, its unit tests not counted.
const MOST_LINES: usize = 800;

/// Documents that cite tests by name.
const CITING: &[&str] = &["docs/design.md", "docs/fault-model.md", "docs/testing.md"];

/// Longer files, and why.
const LONG_FILES: &[(&str, &str)] = &[];

/// Where a package keeps its sources.
const SOURCES: &[&str] = &["src", "tests", "benches", "examples", "build.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What Cargo knows of this workspace, as far as this machine would build it.
fn metadata() -> Metadata {
    let platform = ["--filter-platform".to_owned(), env!("GCOS_TARGET").to_owned()];
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml")).other_options(platform);
    command.exec().unwrap()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files with this extension under a file or folder that may not exist, sorted.
fn files(at: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(at) else {
        let fits = at.is_file() && at.extension().is_some_and(|e| e == extension);
        return if fits { vec![at.to_owned()] } else { Vec::new() };
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().flat_map(|path| files(path, extension)).collect()
}

fn sources(package: &Package) -> Vec<PathBuf> {
    let folder = package.manifest_path.parent().unwrap().as_std_path();
    SOURCES.iter().flat_map(|part| files(&folder.join(part), "rs")).collect()
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn no_violations(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

// Rules about crates.

/// What is wrong with an edge between two of our crates.
fn edge_violation(from: &str, to: &str, dev: bool) -> Option<String> {
    let Some(row) = EDGES.iter().find(|row| row.from == from) else {
        return Some(format!("{from} is not in the table of edges"));
    };
    let allowed = row.normal.contains(&to) || (dev && row.dev.contains(&to));
    let kind = if dev { "dev-dependency" } else { "dependency" };
    (!allowed).then(|| format!("{from} may not have {to} as a {kind}"))
}

fn owner_violation(from: &str, to: &str) -> Option<String> {
    let (_, owner) = OWNED.iter().find(|(external, _)| *external == to)?;
    (from != *owner).then(|| format!("{from} names {to}, which only {owner} may"))
}

/// Whether a manifest takes the lints of the workspace.
fn inherits_lints(manifest: &str) -> bool {
    let Some((_, section)) = manifest.split_once("\n[lints]\n") else { return false };
    section.lines().take_while(|line| !line.starts_with('[')).any(|line| line == "workspace = true")
}

/// Whether an SPDX expression can be met with allowed licences alone. Older manifests write `/` for
/// `OR`.
fn licence_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    any_of(&mut rest) == Some(true) && rest.is_empty()
}

fn any_of(tokens: &mut &[&str]) -> Option<bool> {
    let mut allowed = all_of(tokens)?;
    while let ["OR", rest @ ..] = *tokens {
        *tokens = rest;
        allowed |= all_of(tokens)?;
    }
    Some(allowed)
}

fn all_of(tokens: &mut &[&str]) -> Option<bool> {
    let mut allowed = one_licence(tokens)?;
    while let ["AND", rest @ ..] = *tokens {
        *tokens = rest;
        allowed &= one_licence(tokens)?;
    }
    Some(allowed)
}

fn one_licence(tokens: &mut &[&str]) -> Option<bool> {
    match *tokens {
        ["(", rest @ ..] => {
            *tokens = rest;
            let allowed = any_of(tokens)?;
            let [")", rest @ ..] = *tokens else { return None };
            *tokens = rest;
            Some(allowed)
        }
        [id, "WITH", exception, rest @ ..] => {
            *tokens = rest;
            Some(LICENCES.contains(&format!("{id} WITH {exception}").as_str()))
        }
        ["OR" | "AND" | "WITH" | ")", ..] | [] => None,
        [id, rest @ ..] => {
            *tokens = rest;
            Some(LICENCES.contains(id))
        }
    }
}

// Rules about source text.

/// The source with comments and the contents of string and character literals blanked out, line for
/// line.
fn code_of(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip_end(&chars, at).min(chars.len());
        if end > at {
            out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none starts there.
fn skip_end(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match rest {
        ['/', '/', ..] => at + rest.iter().position(|&c| c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => at + block_comment_len(rest),
        ['"', ..] => at + quoted_len(rest, '"'),
        ['r', '"' | '#', ..] if !in_word => at + raw_string_len(rest, 1),
        ['b' | 'c', 'r', '"' | '#', ..] if !in_word => at + raw_string_len(rest, 2),
        ['\'', '\\', ..] => at + quoted_len(rest, '\''),
        ['\'', _, '\'', ..] => at + 3,
        _ => at,
    }
}

fn block_comment_len(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] if depth == 1 => return at + 2,
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

fn quoted_len(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Length of a raw string whose prefix has `prefix` letters; 0 if it is none (a raw identifier).
fn raw_string_len(rest: &[char], prefix: usize) -> usize {
    let hashes = rest[prefix..].iter().take_while(|&&c| c == '#').count();
    if rest.get(prefix + hashes) != Some(&'"') {
        return 0;
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = prefix + hashes + 1;
    let found = rest[body..].windows(end.len()).position(|window| window == end);
    found.map_or(rest.len(), |position| body + position + end.len())
}

/// Numbers (from 0) of the lines that say `unsafe`, each with whether a block or an implementation
/// follows, which needs a reason.
fn unsafe_lines(code: &str) -> Vec<(usize, bool)> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        for (at, keyword) in line.match_indices("unsafe") {
            let after = &line[at + keyword.len()..];
            if line[..at].ends_with(word) || after.starts_with(word) {
                continue;
            }
            let next = after.trim_start();
            found.push((number, next.is_empty() || next.starts_with(['{', 'i'])));
        }
    }
    found
}

/// Whether the comment directly above line `number` has a `SAFETY:` in it.
fn has_reason(source: &str, number: usize) -> bool {
    let above: Vec<&str> = source.lines().take(number).map(str::trim_start).collect();
    let comment = above.iter().rev().take_while(|line| line.starts_with("//"));
    comment.into_iter().any(|line| line.starts_with("// SAFETY:"))
}

/// What is wrong with the unsafe code of a file.
fn unsafe_violations(file: &str, source: &str, allowed: bool) -> Vec<String> {
    let lines = unsafe_lines(&code_of(source));
    let bad = lines.iter().filter(|(number, needs_reason)| {
        !allowed || (*needs_reason && !has_reason(source, *number))
    });
    let why = if allowed { "`unsafe` without `// SAFETY:` above" } else { "says `unsafe`" };
    bad.map(|(number, _)| format!("{file}:{}: {why}", number + 1)).collect()
}

/// Lines of a file before its unit tests.
fn lines_without_tests(source: &str) -> usize {
    let lines: Vec<&str> = source.lines().collect();
    let tests = |pair: &[&str]| {
        pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    };
    lines.windows(2).position(tests).unwrap_or(lines.len())
}

fn length_violation(file: &str, source: &str) -> Option<String> {
    let lines = lines_without_tests(source);
    let excused = LONG_FILES.iter().any(|(long, reason)| *long == file && !reason.is_empty());
    (lines > MOST_LINES && !excused).then(|| format!("{file}: {lines} lines, most is {MOST_LINES}"))
}

/// What C++ sources must not say, and what instead: scope and order are stated at each atomic.
const NOT_IN_KERNELS: &[(&str, &str)] = &[
    ("volatile", "an atomic with scope and order"),
    ("atomicAdd(", "an atomic with scope and order"),
    ("atomicCAS(", "an atomic with scope and order"),
    ("atomicExch(", "an atomic with scope and order"),
    ("__threadfence", "a fence of platform.h, which names its scope"),
];

/// What is wrong with a line of C++: `asm volatile` is no memory access.
fn kernel_violations(file: &str, source: &str) -> Vec<String> {
    let code = code_of(source).replace("asm volatile", "asm");
    let lines = code.lines().enumerate();
    let bad = lines.flat_map(|(number, line)| {
        NOT_IN_KERNELS
            .iter()
            .filter(|(word, _)| line.contains(word))
            .map(move |(word, instead)| format!("{file}:{}: {word}: {instead}", number + 1))
    });
    let long = length_violation(file, source);
    bad.chain(long).collect()
}

// Rules about documents.

/// What of `wanted` no text mentions.
fn unmentioned(wanted: &[String], texts: &[String]) -> Vec<String> {
    let missing =
        wanted.iter().filter(|want| !texts.iter().any(|text| text.contains(want.as_str())));
    missing.map(|want| format!("nothing mentions {want}")).collect()
}

/// Targets of a document's relative links, without anchors.
fn relative_links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let paths = targets.filter_map(|(target, _)| target.split('#').next());
    paths.filter(|path| !path.is_empty() && !path.contains("://")).map(str::to_owned).collect()
}

/// What a document writes as code that can only be the name of a test: lower case, three or more
/// underscores.
fn quoted_tests(text: &str) -> Vec<String> {
    let is_test = |quoted: &&str| {
        quoted.matches('_').count() >= 3
            && quoted.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    text.split('`').skip(1).step_by(2).filter(is_test).map(str::to_owned).collect()
}

/// The strings of the list `key = [...]` in a TOML file.
fn toml_list(text: &str, key: &str) -> BTreeSet<String> {
    let start = format!("\n{key} = [\n");
    let body = text.split_once(&start).and_then(|(_, rest)| rest.split_once("\n]"));
    let items = body.map_or("", |(items, _)| items).split('"').skip(1).step_by(2);
    items.map(str::to_owned).collect()
}

// The rules, applied.

#[test]
fn planted_bugs_are_in_no_build_but_the_simulators() {
    let metadata = metadata();
    let packages = metadata.workspace_packages();
    let asks = |package: &&&Package| {
        let store = |d: &&cargo_metadata::Dependency| d.name == "gcos-store";
        let canary = |d: &cargo_metadata::Dependency| d.features.iter().any(|f| f == "canary");
        let passes_on = |values: &Vec<String>| values.iter().any(|f| f.contains("canary"));
        package.dependencies.iter().filter(store).any(canary)
            || package.features.values().any(passes_on)
    };
    let asking: Vec<_> = packages.iter().filter(asks).map(|p| p.name.to_string()).collect();
    assert_eq!(asking, ["gcos-sim"], "packages that ask for the feature `canary` of gcos-store");
}

#[test]
fn crates_use_only_what_is_below_them() {
    let metadata = metadata();
    let ours: BTreeSet<String> =
        metadata.workspace_packages().iter().map(|p| p.name.to_string()).collect();
    let mut found = Vec::new();
    for package in metadata.workspace_packages() {
        if !EDGES.iter().any(|row| row.from == package.name.as_str()) {
            found.push(format!("{} is not in the table of edges", package.name));
        }
        for dependency in &package.dependencies {
            let (from, to) = (package.name.as_str(), dependency.name.as_str());
            if ours.contains(to) {
                found.extend(edge_violation(
                    from,
                    to,
                    dependency.kind == DependencyKind::Development,
                ));
            }
            found.extend(owner_violation(from, to));
        }
    }
    let stale = EDGES.iter().filter(|row| !ours.contains(row.from));
    found.extend(stale.map(|row| format!("{} is in the table of edges only", row.from)));
    no_violations("edges between crates", &found);
}

#[test]
fn only_the_listed_crates_say_unsafe_and_they_say_why() {
    let mut found = Vec::new();
    for package in metadata().workspace_packages() {
        let allowed = MAY_SAY_UNSAFE.contains(&package.name.as_str());
        let manifest = package.manifest_path.as_std_path();
        if !allowed && !inherits_lints(&read(manifest)) {
            found.push(format!("{} does not take the workspace's lints", name(manifest)));
        }
        for file in sources(package) {
            found.extend(unsafe_violations(&name(&file), &read(&file), allowed));
        }
    }
    no_violations("unsafe code", &found);
}

#[test]
fn licences_of_all_dependencies_are_allowed() {
    let metadata = metadata();
    let bad =
        metadata.packages.iter().filter(|p| !p.license.as_deref().is_some_and(licence_allowed));
    let found: Vec<_> =
        bad.map(|p| format!("{} {}: licence {:?}", p.name, p.version, p.license)).collect();
    no_violations("licences", &found);
    let listed = toml_list(&read(&root().join("deny.toml")), "allow");
    let ours: BTreeSet<String> = LICENCES.iter().map(|&id| id.to_owned()).collect();
    assert_eq!(listed, ours, "deny.toml and this test differ");
}

#[test]
fn files_are_not_too_long() {
    let metadata = metadata();
    let files = metadata.workspace_packages().into_iter().flat_map(sources);
    let code = files.filter(|file| !file.components().any(|part| part.as_os_str() == "tests"));
    let found: Vec<_> = code.filter_map(|f| length_violation(&name(&f), &read(&f))).collect();
    no_violations("length of files", &found);
}

#[test]
fn kernels_state_scope_and_order_and_are_not_too_long() {
    let folders = ["kernels", "tests/gpu"].map(|folder| root().join(folder));
    let sources = folders.iter().flat_map(|at| ["h", "cuh", "cu", "cpp"].map(|e| files(at, e)));
    let sources: Vec<_> = sources.flatten().collect();
    assert!(!sources.is_empty(), "no kernels at all");
    // The one file that wraps the machine's own words.
    let wraps = |file: &&PathBuf| !file.ends_with("kernels/gcos/platform.h");
    let found = sources.iter().filter(wraps);
    let found: Vec<_> = found.flat_map(|f| kernel_violations(&name(f), &read(f))).collect();
    no_violations("kernels", &found);
}

#[test]
fn documents_lead_to_everything_there_is() {
    let documents = files(&root().join("docs"), "md");
    let entrances = ["README.md", "docs/hacking.md"].map(|path| read(&root().join(path)));
    let names = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let wanted: Vec<_> = documents.iter().map(names).collect();
    let mut found = unmentioned(&wanted, &entrances);
    let texts: Vec<_> = documents.iter().map(|path| read(path)).collect();
    let metadata = metadata();
    let folders = metadata.workspace_packages().into_iter().map(|package| {
        let folder = name(package.manifest_path.parent().unwrap().as_std_path());
        if folder.is_empty() { "src/".to_owned() } else { folder }
    });
    found.extend(unmentioned(&folders.collect::<Vec<_>>(), &texts));
    no_violations("documents", &found);
}

#[test]
fn documents_point_at_what_exists() {
    let mut documents = files(&root().join("docs"), "md");
    documents.push(root().join("README.md"));
    let rust: String = ["crates", "src", "tools", "tests"]
        .iter()
        .flat_map(|folder| files(&root().join(folder), "rs"))
        .map(|file| read(&file))
        .collect();
    let mut found = Vec::new();
    for document in documents {
        let text = read(&document);
        for link in relative_links(&text) {
            if !document.parent().unwrap().join(&link).exists() {
                found.push(format!("{}: {link} does not exist", name(&document)));
            }
        }
        let cites = CITING.contains(&name(&document).as_str());
        for test in quoted_tests(&text).into_iter().filter(|_| cites) {
            if !rust.contains(&format!("fn {test}(")) {
                found.push(format!("{}: no test is called {test}", name(&document)));
            }
        }
    }
    no_violations("links and names of tests", &found);
}

// The rules, broken.

#[test]
fn wrong_edges_are_found() {
    assert!(edge_violation("gcos-nvme", "gcos-hw", false).is_none());
    assert!(edge_violation("gcos-nvme", "gcos-emulator", true).is_none());
    assert!(edge_violation("gcos-nvme", "gcos-emulator", false).is_some(), "for tests only");
    assert!(edge_violation("gcos-hw", "gcos-store", false).is_some(), "upwards");
    assert!(edge_violation("gcos-tools", "gcos-store", false).is_some(), "past the facade");
    assert!(edge_violation("gcos-new", "gcos-hw", false).is_some(), "not in the table");
    assert!(owner_violation("gcos-hw", "libc").is_none());
    assert!(owner_violation("gcos-store", "libc").is_some());
    assert!(owner_violation("gcos-hw", "cudarc").is_some());
}

#[test]
fn manifests_without_the_workspaces_lints_are_found() {
    assert!(inherits_lints("[package]\n\n[lints]\nworkspace = true\n"));
    assert!(!inherits_lints("[package]\nname = \"a\"\n"));
    assert!(!inherits_lints("[package]\n\n[lints]\n\n[dependencies]\nworkspace = true\n"));
    assert!(!inherits_lints("[package]\n\n[lints.rust]\nunsafe_code = \"allow\"\n"));
}

#[test]
fn licences_are_weighed_as_expressions() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "MIT OR GPL-3.0-only",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0-only",
    ] {
        assert!(licence_allowed(good), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "(MIT OR Apache-2.0) AND LGPL-2.1-only",
        "MIT WITH Unknown-exception",
        "MIT OR",
        "(MIT",
        "MIT Apache-2.0",
    ] {
        assert!(!licence_allowed(bad), "{bad}");
    }
}

#[test]
fn unsafe_is_found_in_code_and_nowhere_else() {
    let quiet = r##"
        // unsafe { }
        /* unsafe /* nested */ unsafe */
        const A: &str = "unsafe { } \" unsafe";
        const B: &str = r#"unsafe " unsafe"#;
        const C: [char; 3] = ['"', '\'', 'u']; fn f<'a>(x: &'a str, unsafe_shutdowns: u32) {}
    "##;
    assert_eq!(unsafe_violations("quiet.rs", quiet, false), [""; 0]);
    let loud = "let c = '\"';\nlet x = unsafe { f() };\n";
    assert_eq!(unsafe_violations("loud.rs", loud, false), ["loud.rs:2: says `unsafe`"]);
    assert_eq!(unsafe_violations("loud.rs", loud, true).len(), 1, "no reason");
    let reasoned = "// SAFETY: because\n// of that.\nlet x = unsafe { f() };\n";
    assert_eq!(unsafe_violations("reasoned.rs", reasoned, true), [""; 0]);
    let far = "// SAFETY: of another line\nf();\nlet x = unsafe { f() };\n";
    assert_eq!(unsafe_violations("far.rs", far, true).len(), 1);
    assert_eq!(unsafe_violations("impl.rs", "unsafe impl Send for X {}\n", true).len(), 1);
    assert_eq!(
        unsafe_violations("fn.rs", "unsafe fn f() {}\n", true),
        [""; 0],
        "has a doc section"
    );
}

#[test]
fn kernels_without_scope_or_order_are_found() {
    let good = "asm volatile(\"membar.sys;\");\n// volatile\nfetch_add_device(&x, 1);\n";
    assert_eq!(kernel_violations("good.h", good), [""; 0]);
    assert_eq!(kernel_violations("bad.h", "volatile int* flag;\n").len(), 1);
    assert_eq!(kernel_violations("bad.cu", "  atomicAdd(&x, 1);\n__threadfence();\n").len(), 2);
}

#[test]
fn long_files_are_found_and_their_unit_tests_are_not_counted() {
    let long = "x;\n".repeat(MOST_LINES + 1);
    assert!(length_violation("long.rs", &long).is_some());
    let tested = format!("{}#[cfg(test)]\nmod tests {{\n{long}}}\n", "x;\n".repeat(MOST_LINES));
    assert!(length_violation("tested.rs", &tested).is_none());
    let elsewhere = format!("#[cfg(test)]\nmod tests;\n{long}");
    assert!(length_violation("elsewhere.rs", &elsewhere).is_some());
}

#[test]
fn gaps_in_documents_are_found() {
    let texts =
        ["see format.md and [this](docs/gone.md#part), not [that](https://example.org/)"
            .to_owned()];
    let wanted = ["format.md".to_owned(), "design.md".to_owned()];
    assert_eq!(unmentioned(&wanted, &texts), ["nothing mentions design.md"]);
    assert_eq!(relative_links(&texts[0]), ["docs/gone.md"]);
    let text = "`a_b_c_d` is one, `io_deadline_ms` and `Store::a_b_c_d` are not, a_b_c_d neither";
    assert_eq!(quoted_tests(text), ["a_b_c_d"]);
    let toml = "[x]\nallow = [\n  \"MIT\", # why\n  \"ISC\",\n]\ndeny = [\n  \"GPL\",\n]\n";
    assert_eq!(toml_list(toml, "allow"), BTreeSet::from(["ISC".to_owned(), "MIT".to_owned()]));
}
