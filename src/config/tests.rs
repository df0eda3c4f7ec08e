use super::*;

const SEED: &str = r#"{
  "disk": {
    "number": 4,
    "paths": ["/dev/libnvm0", "/dev/libnvm1", "/dev/libnvm2", "/dev/libnvm3"],
    "namespace_number": 2,
    "block_size": 512,
    "capacity_bytes": 1099511627776,
    "reserve_max_queue_pair_num": 256
  },
  "namespace": {
    "cpu": { "qps": 32, "queue_depth": 512 },
    "gpu": { "num": 1, "qps": 64, "queue_depth": 1024 }
  },
  "zone_chunk_size_kb": { "sb": 128, "meta": 512, "data": 8192 }
}"#;

fn problems(text: &str) -> Vec<String> {
    match Config::parse(text, "test") {
        Err(ConfigError::Invalid { problems, .. }) => {
            problems.iter().map(ToString::to_string).collect()
        }
        other => panic!("expected problems, got {other:?}"),
    }
}

/// The one problem that a change of the seed's document causes.
fn problem(from: &str, to: &str) -> String {
    assert!(SEED.contains(from), "{from}");
    let mut found = problems(&SEED.replacen(from, to, 1));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn a_four_drive_document_parses() {
    let config = Config::parse(SEED, "test").unwrap();
    assert_eq!(config.disk.number, 4);
    assert_eq!(config.namespace.gpu.queue_depth, 1024);
    assert_eq!(config.zone_chunks(), ZoneChunks::default());
    assert_eq!(config.pool.high_watermark_percent, 95);
    assert_eq!(config.format_options(false).capacity, Some(1 << 40));
}

#[test]
fn the_example_parses() {
    let text = include_str!("../../gcos.json.example");
    let config = Config::parse(text, "gcos.json.example").unwrap();
    let kinds = config.disk.paths.iter().map(|path| PathKind::parse(path).unwrap());
    assert!(kinds.into_iter().all(|kind| matches!(kind, PathKind::EmulatedFile(_))));
}

#[test]
fn the_example_shows_every_field() {
    let text = include_str!("../../gcos.json.example");
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    for field in schema::FIELDS {
        let pointer = format!("/{}", field.path.replace('.', "/"));
        assert!(json.pointer(&pointer).is_some(), "{}", field.path);
    }
}

#[test]
fn unknown_keys_suggest_the_nearest() {
    let text = problem("\"capacity_bytes\"", "\"capacity_bytes\": 1073741824, \"capcity_bytes\"");
    assert_eq!(text, "disk.capcity_bytes: unknown key, did you mean \"capacity_bytes\"?");
    let text = problem("\"number\": 4", "\"number\": 4, \"queue_depth\": 4");
    assert_eq!(
        text,
        "disk.queue_depth: unknown key here, did you mean \"namespace.cpu.queue_depth\"?"
    );
    let text = problem("\"sb\": 128", "\"sb\": 128, \"zzz\": 1");
    assert_eq!(text, "zone_chunk_size_kb.zzz: unknown key; known here: sb, meta, data");
}

#[test]
fn repeated_keys_are_refused() {
    assert_eq!(
        problem("\"number\": 4", "\"number\": 4, \"number\": 4"),
        "disk.number: given more than once"
    );
}

#[test]
fn wrong_types_say_what_was_expected() {
    let text = problem("\"queue_depth\": 512", "\"queue_depth\": \"deep\"");
    assert_eq!(
        text,
        "namespace.cpu.queue_depth: expected a whole number from 2 to 65536 (commands), got the text \"deep\""
    );
    let text = problem("\"queue_depth\": 512", "\"queue_depth\": 1.5");
    assert!(text.ends_with("got 1.5"), "{text}");
    let text = problem("\"cpu\": { \"qps\": 32, \"queue_depth\": 512 }", "\"cpu\": 3");
    assert_eq!(text, "namespace.cpu: expected an object, got 3");
    let text = problem("\"/dev/libnvm0\"", "7, \"/dev/libnvm0\"");
    assert_eq!(text, "disk.paths[0]: expected a text, got 7");
}

#[test]
fn rules_between_fields_are_checked() {
    let text = problem("\"number\": 4", "\"number\": 3");
    assert!(text.contains("disk.paths has 4 entries"), "{text}");
    let text = problem("\"reserve_max_queue_pair_num\": 256", "\"reserve_max_queue_pair_num\": 95");
    assert!(text.contains("= 96 queue pairs"), "{text}");
    let text = problem("/dev/libnvm1", "/dev/libnvm0");
    assert!(text.contains("more than once"), "{text}");
    let text = problem(
        "\"zone_chunk_size_kb\"",
        "\"pool\": {\"low_watermark_percent\": 96}, \"zone_chunk_size_kb\"",
    );
    assert!(text.starts_with("pool.low_watermark_percent: is 96"), "{text}");
    let text = problem("/dev/libnvm1", "emulated:ram:1GiB");
    assert!(text.starts_with("disk.paths[1]: holds 1073741824"), "{text}");
}

#[test]
fn zone_sizes_must_divide_and_fit() {
    assert!(problem("\"sb\": 128", "\"sb\": 126").contains("a multiple of 4"));
    assert!(problem("\"meta\": 512", "\"meta\": 500").contains("a multiple of 64"));
    assert!(problem("\"data\": 8192", "\"data\": 8191").contains("a multiple of 64"));
    assert!(problem("1099511627776", "8388608").starts_with("disk.capacity_bytes:"));
    assert!(problem("\"block_size\": 512", "\"block_size\": 1024").contains("512 or 4096"));
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = r#"{"disk": {"number": "x", "paths": [], "capacity_bytes": 1}, "pol": {},
        "emulated": {"direct_io": "yes"}}"#;
    let found = problems(text);
    assert_eq!(found.len(), 5, "{found:?}");
    let error = Config::parse(text, "test").unwrap_err();
    assert!(error.to_string().starts_with("test: 5 problems\n  pol: unknown key"), "{error}");
}

#[test]
fn missing_required_fields_are_named() {
    let found = problems("{}");
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().any(|text| text.starts_with("disk.number: missing")));
}

#[test]
fn syntax_errors_have_a_place() {
    let error = Config::parse("{\n  \"disk\": }", "test").unwrap_err();
    assert!(matches!(error, ConfigError::Syntax { line: 2, .. }), "{error:?}");
    assert_eq!(error.to_string(), "test: line 2, column 11: not valid JSON");
}

#[test]
fn the_ways_through_the_kernel_are_read_and_checked() {
    let kernel = |text: &str| format!("\"kernel_path\": {text}, \"zone_chunk_size_kb\"");
    let parsed = Config::parse(SEED, "test").unwrap().kernel_path;
    assert!(parsed.use_cufile && parsed.use_direct_io && parsed.force.is_none());
    let text =
        SEED.replace("\"zone_chunk_size_kb\"", &kernel(r#"{"force": "posix", "workers": 3}"#));
    let parsed = Config::parse(&text, "test").unwrap().kernel_path;
    assert_eq!((parsed.force, parsed.workers), (Some(KernelWay::Posix), 3));
    for bad in [r#""uring""#, "3", "null", r#""POSIX""#] {
        let to = kernel(&format!(r#"{{"force": {bad}}}"#));
        let text = problem("\"zone_chunk_size_kb\"", &to);
        assert!(text.starts_with("kernel_path.force: expected \"\", \"cufile\", "), "{text}");
    }
    let to = kernel(r#"{"force": "cufile", "use_cufile": false}"#);
    let text = problem("\"zone_chunk_size_kb\"", &to);
    assert_eq!(text, "kernel_path.force: asks for cufile, which kernel_path.use_cufile forbids");
}

#[test]
fn a_fallback_has_both_a_file_and_a_size() {
    let fallback = |text: &str| format!("\"fallback\": {text}, \"zone_chunk_size_kb\"");
    let of = |text: &str| problem("\"zone_chunk_size_kb\"", &fallback(text));
    let text = of(r#"{"path": "/spare"}"#);
    assert!(text.starts_with("fallback.capacity_bytes: missing"), "{text}");
    let text = of(r#"{"capacity_bytes": 67108864}"#);
    assert!(text.starts_with("fallback.path: missing"), "{text}");
    let text = of(r#"{"path": 3, "capacity_bytes": 0}"#);
    assert!(text.starts_with("fallback.path: expected a text, got 3"), "{text}");
    for (path, words) in [("emulated:x.img", "expected a plain file"), ("/dev/libnvm0", "expected")]
    {
        let text = of(&format!(r#"{{"path": {path:?}, "capacity_bytes": 67108864}}"#));
        assert!(text.starts_with("fallback.path: ") && text.contains(words), "{text}");
    }
}
