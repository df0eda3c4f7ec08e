//! The header, made from the Rust source: types, constants and functions in the order of [`SOURCES`], with their
//! documentation. It knows as much Rust as this crate's interface uses, and refuses the rest.

use std::fmt::Write;
use std::path::Path;

/// Where the header is.
pub(crate) const PATH: &str = "include/gcos.h";

/// Files of `src` that have part of the interface, and what each is headed by.
const SOURCES: &[(&str, &str)] = &[
    ("types", "Types"),
    ("call", "Messages"),
    ("open", "Opening and closing"),
    ("object", "Objects"),
    ("batch", "Batches"),
    ("lookup", "Looking up"),
    ("memory", "Memory that drives reach"),
    ("device", "Memory of GPUs"),
    ("stats", "Figures, and durability"),
    ("log", "The log"),
    ("file", "Files and GPUs, beside the pool"),
];

/// Columns of a comment.
const WIDTH: usize = 96;

const INTRODUCTION: &str = "\
GCOS: a cache for the KV blocks of language models on NVMe drives.

This file is made from the Rust source: `cargo run -p gcos-capi --example header`.

Every call that returns gcos_status returns GCOS_OK (0) or a negative code; gcos_last_error says what was expected and \
what to do. All calls may be made from many threads at once, with any handle, but for gcos_close of one handle, which \
waits for the others. In a child process (fork) the pools of the parent are GCOS_FORKED; a child may open its own.

What is asked of callers: a pointer is null or valid for the length that goes with it, for the time of the call, and what \
is written to through it is used by nobody else meanwhile. Texts end with a zero byte and are UTF-8. Null pointers where \
something is needed, lengths that cannot be, unknown flags and handles that were closed are found out and answered with \
a status.";

type Result<T> = std::result::Result<T, String>;

/// The header.
///
/// # Errors
/// What in the source is not understood.
pub(crate) fn header(crate_folder: &Path) -> Result<String> {
    let mut out = String::new();
    let version = env!("CARGO_PKG_VERSION");
    comment(&mut out, "", INTRODUCTION);
    out.push_str("#ifndef GCOS_H\n#define GCOS_H\n\n#include <stddef.h>\n#include <stdint.h>\n\n");
    out.push_str("#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n");
    comment(
        &mut out,
        "",
        "Version that this header is of; gcos_version tells that of the library.",
    );
    let _ = writeln!(out, "#define GCOS_VERSION \"{version}\"");
    for (part, name) in ["MAJOR", "MINOR", "PATCH"].iter().enumerate() {
        let number = version.split(['.', '-']).nth(part).unwrap_or("0");
        let _ = writeln!(out, "#define GCOS_VERSION_{name} {number}");
    }
    out.push('\n');
    for (file, title) in SOURCES {
        let path = crate_folder.join("src").join(format!("{file}.rs"));
        let source =
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let _ = writeln!(out, "/* ---- {title} ---- */\n");
        let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        items(&mut out, source, crate_folder)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    out.push_str("#ifdef __cplusplus\n}\n#endif\n\n#endif\n");
    Ok(out)
}

fn items(out: &mut String, source: &str, crate_folder: &Path) -> Result<()> {
    let mut doc = Vec::new();
    let mut lines = source.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
            continue;
        }
        if line.starts_with("#[") {
            continue;
        }
        let text = doc.join(" ");
        if line.starts_with("pub type gcos_status") {
            comment(out, "", &text);
            statuses(out, crate_folder)?;
        } else if let Some(rest) = line.strip_prefix("pub const GCOS_") {
            comment(out, "", &text);
            let (name, rest) = rest.split_once(':').ok_or("a constant without a type")?;
            let value = rest.split_once('=').ok_or("a constant without a value")?.1;
            let _ = writeln!(out, "#define GCOS_{name} {}\n", value.trim().trim_end_matches(';'));
        } else if let Some(rest) = line.strip_prefix("pub struct gcos_") {
            let name = rest.split_whitespace().next().ok_or("a struct without a name")?;
            comment(out, "", &text);
            structure(out, &format!("gcos_{name}"), &mut lines)?;
        } else if let Some(rest) = line.strip_prefix("pub type gcos_") {
            let name = rest.split_whitespace().next().ok_or("a type without a name")?;
            let body = until(&mut lines, line, ";");
            let signature = between(&body, "fn(", ")")?;
            let result = body.rsplit_once("->").map_or("()", |(_, result)| result);
            let result = result.trim_end_matches([';', '>', ',', ' ']);
            comment(out, "", &text);
            let _ = writeln!(
                out,
                "typedef {}(*gcos_{name})({});\n",
                declared(result.trim(), "")?,
                arguments(&signature)?
            );
        } else if line.starts_with("pub ") && line.contains("extern \"C\" fn gcos_") {
            let head = until(&mut lines, line, "{");
            let name = between(&head, "fn ", "(")?;
            let signature = between(&head, &format!("{name}("), ")")?;
            let result = head.rsplit_once("->").map_or("()", |(_, result)| result);
            let result = result.trim_end_matches(['{', ' ']).trim();
            comment(out, "", &text);
            let _ =
                writeln!(out, "{};\n", wrapped(&declared(result, &name)?, &arguments(&signature)?));
        }
        doc.clear();
    }
    Ok(())
}

/// The codes, from the one table that there is of them.
fn statuses(out: &mut String, crate_folder: &Path) -> Result<()> {
    let path = crate_folder.join("../../src/status.rs");
    let source = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let table = between(&source, "\nstatuses! {\n", "\n}\n")?;
    out.push_str("typedef int32_t gcos_status;\n\nenum {\n");
    let (mut doc, mut rows) = (Vec::new(), Vec::new());
    for line in table.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else {
            let code = between(line, "= ", ",")?;
            let name = between(line, "\"", "\"")?.to_uppercase();
            let mut row = String::new();
            comment(&mut row, "    ", &doc.join(" "));
            let _ = write!(row, "    GCOS_{name} = {code}");
            rows.push(row);
            doc.clear();
        }
    }
    let _ = writeln!(out, "{}\n}};\n", rows.join(",\n"));
    Ok(())
}

fn structure<'a>(
    out: &mut String,
    name: &str,
    lines: &mut impl Iterator<Item = &'a str>,
) -> Result<()> {
    let mut fields = String::new();
    let mut doc = Vec::new();
    for line in lines.by_ref() {
        let line = line.trim();
        if line == "}" {
            break;
        } else if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else if let Some(field) = line.strip_prefix("pub ") {
            let (field, kind) = field.split_once(':').ok_or("a field without a type")?;
            comment(&mut fields, "    ", &doc.join(" "));
            let kind = declared(kind.trim().trim_end_matches(','), field)?;
            let _ = writeln!(fields, "    {kind};");
            doc.clear();
        }
    }
    let _ = match fields.is_empty() {
        true => writeln!(out, "typedef struct {name} {name};\n"),
        false => writeln!(out, "typedef struct {name} {{\n{fields}}} {name};\n"),
    };
    Ok(())
}

/// What follows up to the line that ends with `end`, in one line.
fn until<'a>(lines: &mut impl Iterator<Item = &'a str>, first: &str, end: &str) -> String {
    let mut text = first.trim().to_owned();
    while !text.ends_with(end) {
        let Some(line) = lines.next() else { break };
        text.push(' ');
        text.push_str(line.trim());
    }
    text
}

fn between(text: &str, start: &str, end: &str) -> Result<String> {
    let found = text.split_once(start).and_then(|(_, rest)| rest.split_once(end));
    found
        .map(|(found, _)| found.to_owned())
        .ok_or_else(|| format!("no {start:?} {end:?} in {text}"))
}

fn arguments(signature: &str) -> Result<String> {
    let arguments = signature.split(',').map(str::trim).filter(|argument| !argument.is_empty());
    let declared = arguments.map(|argument| {
        let (name, kind) = argument.split_once(':').ok_or("an argument without a type")?;
        declared(kind.trim(), name.trim())
    });
    let declared = declared.collect::<Result<Vec<_>>>()?;
    Ok(if declared.is_empty() { "void".to_owned() } else { declared.join(", ") })
}

/// A declaration of C: the type, and the name where there is one.
fn declared(kind: &str, name: &str) -> Result<String> {
    if let Some(to) = kind.strip_prefix("*mut ") {
        return declared(to, &format!("*{name}"));
    }
    if let Some(to) = kind.strip_prefix("*const ") {
        if to.starts_with('*') {
            return declared(to, &format!("*const {name}"));
        }
        return Ok(format!("const {}", declared(to, &format!("*{name}"))?));
    }
    let kind = match kind {
        "()" | "c_void" => "void",
        "c_char" => "char",
        "usize" => "size_t",
        "u16" => "uint16_t",
        "u32" => "uint32_t",
        "u64" => "uint64_t",
        "i32" => "int32_t",
        "f64" => "double",
        ours if ours.starts_with("gcos_") => ours,
        other => return Err(format!("the type {other} is not known")),
    };
    Ok(format!("{kind} {name}"))
}

/// A function in lines that are not too long.
fn wrapped(before: &str, arguments: &str) -> String {
    let line = format!("{before}({arguments})");
    if line.len() < WIDTH {
        return line;
    }
    format!("{before}(\n    {})", arguments.replace(", ", ",\n    "))
}

/// A comment of C89.
fn comment(out: &mut String, indent: &str, text: &str) {
    let text = text.replace('`', "");
    if text.is_empty() {
        return;
    }
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && indent.len() + 3 + line.len() + 1 + word.len() > WIDTH {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    let _ = writeln!(
        out,
        "{indent}/* {}",
        lines.join(&format!("\n{indent} * ")).replace("* \n", "*\n")
    );
    // The end goes behind the last line.
    out.truncate(out.trim_end().len());
    out.push_str(" */\n");
}
