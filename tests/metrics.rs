//! What is told to Prometheus, and that its documents and dashboards say the same.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails fails its test")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcos::engine::{Request, UnderWay};
use gcos::metrics::{Kind, MetricsServer, metrics};
use gcos::store::PutOptions;
use gcos::{Access, Config};

fn open() -> Arc<Access> {
    let text = r#"{"disk": {"number": 2, "paths": ["emulated:ram:64MiB", "emulated:ram:64MiB"],
        "capacity_bytes": 67108864}}"#;
    Arc::new(Access::open(&Config::parse(text, "test").unwrap(), false).unwrap())
}

fn document(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The metric that a name is of: histograms have several.
fn own(name: &str) -> String {
    let own = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
    let is = |own: &&str| metrics().any(|m| m.name == *own && m.kind == Kind::Histogram);
    own.filter(is).unwrap_or(name).to_owned()
}

/// Metrics that a text has values of.
fn names_in(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| own(line.split(['{', ' ']).next().unwrap())).collect()
}

/// Words that look like metrics.
fn words(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let ours = |word: &&str| word.starts_with("gcos_");
    text.split(word).filter(ours).map(str::to_owned).collect()
}

fn known() -> BTreeSet<String> {
    metrics().map(|metric| metric.name.to_owned()).collect()
}

/// The value of a sample, given as it is written.
fn value(text: &str, sample: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{sample} is not in\n{text}")).parse().unwrap()
}

#[test]
fn what_every_drive_has_under_way_is_counted_whether_rules_watch_it_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let (file, spill) = (folder.path().join("file"), folder.path().join("spill"));
    for rules in [r#""max_errors": 0, "latency_multiple": 0"#, r#""max_errors": 5"#] {
        let text = format!(
            r#"{{"disk": {{"number": 2, "paths": ["emulated:ram:64MiB", {file:?}],
            "capacity_bytes": 67108864}},
            "fallback": {{"path": {spill:?}, "capacity_bytes": 67108864, {rules}}}}}"#
        );
        let config = Config::parse(&text, "test").unwrap();
        let engines = gcos::open_drives(&config, true).unwrap().engines;
        assert_eq!(engines.len(), 3);
        for engine in engines {
            let memory = engine.dma().alloc(4096).unwrap();
            let read = Request::read(0, memory.as_dma(), Duration::from_secs(10));
            let ticket = engine.submit(read).unwrap();
            assert_eq!(engine.under_way(), UnderWay { requests: 1, bytes: 4096 }, "{text}");
            ticket.wait().unwrap();
            assert_eq!(engine.under_way(), UnderWay::default());
            engine.shutdown(Duration::from_secs(10)).unwrap();
        }
    }
}

#[test]
fn the_text_has_every_metric_with_its_kind_and_values_that_follow_the_calls() {
    let access = open();
    access.put(b"key", &[1; 70_000][..], &PutOptions::default()).unwrap();
    assert!(access.get_vec(b"key").unwrap().is_ok());
    assert!(access.get_vec(b"no key").unwrap().is_err());
    let text = access.metrics_text();
    assert_eq!(names_in(&text), known());
    for metric in metrics() {
        let head = format!("# HELP {} {}\n# TYPE {0} ", metric.name, metric.help);
        assert!(text.contains(&head), "{}", metric.name);
    }
    assert_eq!(value(&text, "gcos_objects"), 1.0);
    assert_eq!(value(&text, "gcos_hits_total"), 1.0);
    assert_eq!(value(&text, "gcos_misses_total"), 1.0);
    assert_eq!(value(&text, "gcos_call_bytes_total{op=\"get\"}"), 70_000.0);
    assert_eq!(value(&text, "gcos_call_seconds_count{op=\"put\"}"), 1.0);
    assert_eq!(value(&text, "gcos_call_seconds_bucket{op=\"get\",le=\"+Inf\"}"), 2.0);
    assert!(value(&text, "gcos_call_seconds_sum{op=\"get\"}") > 0.0);
    assert!(value(&text, "gcos_busy_seconds_total{direction=\"read\"}") > 0.0);
    assert_eq!(value(&text, "gcos_calls_under_way{direction=\"write\"}"), 0.0);
    assert_eq!(text.matches("gcos_drive_up{drive=").count(), 2);
    assert_eq!(value(&text, "gcos_drive_spill{drive=\"1\"}"), 0.0);
    access.close(Duration::from_secs(10)).unwrap();
}

#[test]
fn the_document_lists_every_metric_and_no_other() {
    let text = std::fs::read_to_string(document("docs/metrics.md")).unwrap();
    assert_eq!(words(&text).iter().map(|name| own(name)).collect::<BTreeSet<_>>(), known());
    for metric in metrics() {
        let row = text.lines().find(|line| line.starts_with(&format!("| `{}` |", metric.name)));
        let row = row.unwrap_or_else(|| panic!("{} has no row", metric.name));
        let kind = format!("{:?}", metric.kind).to_lowercase();
        assert!(row.contains(&format!("| {kind} |")) && row.contains(metric.help), "{row}");
    }
}

#[test]
fn the_dashboard_asks_for_every_metric_and_for_no_other() {
    let path = document("docs/dashboards/gcos.json");
    let dashboard: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut asked = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            let used = words(expression);
            assert!(!used.is_empty(), "{expression}");
            for name in used {
                let own = own(&name);
                let metric = metrics().find(|metric| metric.name == own);
                let metric = metric.unwrap_or_else(|| panic!("{expression}: no metric {own}"));
                let rate = ["rate(", "increase("].iter().any(|f| expression.contains(f));
                assert!(metric.kind == Kind::Gauge || rate, "{expression}: {own} only rises");
                asked.insert(own);
            }
        }
    }
    assert_eq!(asked, known());
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_page_is_served_and_nothing_else() {
    let access = open();
    let server = MetricsServer::start(&access, "127.0.0.1:0").unwrap();
    let address = server.address();
    assert!(address.ip().is_loopback() && address.port() != 0);
    let page = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = page.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    assert_eq!(names_in(body), known());
    let head = ask(address, "HEAD /metrics?x=1 HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.ends_with("\r\n\r\n"), "{head}");
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "404"),
        ("GET /metrics/../x HTTP/1.0\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
        ("GET /metrics\r\n\r\n", "400"),
        ("\r\n\r\n", "400"),
        ("GET /metrics HTTP/2 x\r\n\r\n", "400"),
    ] {
        let answer = ask(address, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
    }
    access.close(Duration::from_secs(10)).unwrap();
    let closed = ask(address, "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(closed.starts_with("HTTP/1.1 503 "), "{closed}");
    drop(server);
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn whoever_sends_without_end_or_not_at_all_holds_nothing_up_for_long() {
    let access = open();
    let server = MetricsServer::start(&access, "127.0.0.1:0").unwrap();
    let mut endless = TcpStream::connect(server.address()).unwrap();
    endless.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let long = vec![b'x'; 64 << 10];
    // It is cut off after some KiB: the writes fail, or nobody reads them.
    let _ = endless.write_all(&long);
    let page = ask(server.address(), "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200"));
    let silent: Vec<_> = (0..5).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    let begun = Instant::now();
    let page = ask(server.address(), "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed() < Duration::from_secs(4), "five who do not ask hold nobody up");
    // More than are served at once are cut off, and make room.
    let more: Vec<_> = (0..10).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    let page = ask(server.address(), "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200"));
    drop((silent, more));
    let _silent = TcpStream::connect(server.address()).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let begun = Instant::now();
    drop(server);
    assert!(begun.elapsed() < Duration::from_secs(2), "its end waits for nobody");
    access.close(Duration::from_secs(10)).unwrap();
}

#[test]
fn an_address_that_cannot_be_had_is_said() {
    let access = open();
    let server = MetricsServer::start(&access, "127.0.0.1:0").unwrap();
    for address in
        ["nowhere", "127.0.0.1", "256.0.0.1:1", "localhost:0", &server.address().to_string()]
    {
        let error = MetricsServer::start(&access, address).unwrap_err();
        assert!(error.to_string().contains(address), "{error}");
    }
    drop(server);
    access.close(Duration::from_secs(10)).unwrap();
}
