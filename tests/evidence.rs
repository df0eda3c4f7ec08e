//! The files of `docs/evidence`: their shape, and each figure against its target.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// Keys whose values are text that is not empty.
const TEXTS: &[&str] = &["claim", "command", "commit", "date", "gpu", "driver", "cuda", "drive"];

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str).filter(|text| !text.trim().is_empty())
}

/// What is wrong with a figure.
fn figure_violation(figure: &Value) -> Option<String> {
    let Some(name) = text(figure, "name") else { return Some("a figure has no name".to_owned()) };
    if text(figure, "unit").is_none() {
        return Some(format!("{name}: no unit"));
    }
    let number = |key| figure.get(key).and_then(Value::as_f64);
    let Some(value) = number("value").filter(|value| value.is_finite()) else {
        return Some(format!("{name}: no value"));
    };
    let low = number("at_least").is_some_and(|least| value < least);
    let high = number("at_most").is_some_and(|most| value > most);
    let short = text(figure, "short").is_some();
    match (low || high, short) {
        (true, false) => Some(format!("{name}: {value} misses its target, and nothing says why")),
        (false, true) => {
            Some(format!("{name}: {value} meets its target, and `short` says otherwise"))
        }
        _ => None,
    }
}

fn kernel_violation(kernel: &Value) -> Option<String> {
    let Some(name) = text(kernel, "name") else { return Some("a kernel has no name".to_owned()) };
    let missing = ["registers", "spill_bytes", "occupancy"]
        .into_iter()
        .find(|key| kernel.get(key).and_then(Value::as_f64).is_none())?;
    Some(format!("kernel {name}: no {missing}"))
}

/// What is wrong with an evidence file.
fn violations(file: &str, content: &str) -> Vec<String> {
    let evidence: Value = match serde_json::from_str(content) {
        Ok(value) => value,
        Err(error) => return vec![format!("{file}: {error}")],
    };
    let mut found: Vec<String> = TEXTS
        .iter()
        .filter(|key| text(&evidence, key).is_none())
        .map(|key| format!("no {key}"))
        .collect();
    let commit = text(&evidence, "commit").unwrap_or_default();
    if commit.len() < 7 || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        found.push(format!("commit is {commit:?}, expected the hash of one"));
    }
    let list = |key| evidence.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let figures = list("figures");
    if !figures.iter().any(|f| f.get("at_least").or(f.get("at_most")).is_some()) {
        found.push("no figure has a target".to_owned());
    }
    found.extend(figures.iter().filter_map(figure_violation));
    found.extend(list("kernels").iter().filter_map(kernel_violation));
    if evidence.get("output").is_none_or(Value::is_null) {
        found.push("no output".to_owned());
    }
    found.into_iter().map(|what| format!("{file}: {what}")).collect()
}

#[test]
fn every_evidence_file_is_whole_and_its_figures_meet_their_targets_or_say_why_not() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/evidence");
    let (mut files, mut found) = (0, Vec::new());
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files += 1;
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            found.extend(violations(&name, &fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(files > 0, "no evidence at all");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn bad_evidence_is_noticed() {
    let good = r#"{"claim": "c", "command": "x", "commit": "0123abc", "date": "d", "gpu": "g", "driver": "1",
        "cuda": "13", "drive": "none", "output": {},
        "figures": [{"name": "ratio", "value": 0.8, "unit": "1", "at_least": 0.75}],
        "kernels": [{"name": "k", "registers": 40, "spill_bytes": 0, "occupancy": 2}]}"#;
    assert_eq!(violations("f", good), Vec::<String>::new());
    let bad = [
        ("\"claim\": \"c\"", "\"claim\": \" \"", "no claim"),
        ("0123abc", "later", "commit is"),
        ("0.8", "0.7", "misses its target"),
        ("0.8", "null", "no value"),
        ("\"at_least\": 0.75", "\"other\": 1", "no figure has a target"),
        ("\"at_least\": 0.75", "\"at_most\": 0.75", "misses its target"),
        ("\"at_least\"", "\"short\": \"noise\", \"at_least\"", "says otherwise"),
        ("\"spill_bytes\": 0, ", "", "no spill_bytes"),
        ("\"output\": {}", "\"output\": null", "no output"),
        ("\"unit\": \"1\"", "\"unit\": 1", "no unit"),
    ];
    for (from, to, expected) in bad {
        let changed = good.replacen(from, to, 1);
        assert_ne!(changed, good, "{from}");
        let found = violations("f", &changed).join("; ");
        assert!(found.contains(expected), "{to}: {found:?}");
    }
    let excused = good.replacen("0.8,", "0.7, \"short\": \"a reason\",", 1);
    assert_eq!(violations("f", &excused), Vec::<String>::new());
    assert!(!violations("f", "{").is_empty());
}
