//! The log, given to functions that take their time, take locks and call the library.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;
use std::time::Duration;

use gcos_capi::*;
use parking_lot::Mutex;

const CONFIG: &CStr =
    c"{\"disk\": {\"number\": 1, \"paths\": [\"emulated:ram:64MiB\"], \"capacity_bytes\": 67108864}}";

/// The log is one for the process, so one test at a time.
static ONE: Mutex<()> = Mutex::new(());
/// Held by who logs, and wanted by the function.
static HELD: Mutex<()> = Mutex::new(());
/// What the function got.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Waits for the lock, calls the library, keeps the line.
unsafe extern "C" fn take(store: *mut c_void, _: i32, _: *const c_char, text: *const c_char) {
    // SAFETY: as the header describes the call.
    let text = unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("not UTF-8");
    let held = HELD.try_lock_for(Duration::from_secs(5));
    // SAFETY: figures are numbers, and zero a value of each.
    let mut stats: gcos_stats = unsafe { std::mem::zeroed() };
    stats.struct_size = size_of::<gcos_stats>();
    // SAFETY: there is room for the figures.
    let status = unsafe { gcos_get_stats(store.cast(), &mut stats) };
    let line = match (held.is_some(), status) {
        (true, 0) => text.to_owned(),
        other => format!("{text}: {other:?}"),
    };
    LINES.lock().push(line);
}

fn open() -> *mut gcos_store {
    let mut store = null_mut();
    // SAFETY: a text, and room for a handle.
    assert_eq!(unsafe { gcos_open_json(CONFIG.as_ptr(), 0, &mut store) }, 0);
    LINES.lock().clear();
    // SAFETY: a handle goes with the function, which takes it as one.
    assert_eq!(unsafe { gcos_set_log(GCOS_LOG_INFO, Some(take), store.cast()) }, 0);
    store
}

/// Lines that the function got, the log being ended.
fn end(store: *mut gcos_store) -> Vec<String> {
    // SAFETY: no function and no memory; a handle.
    unsafe {
        assert_eq!(gcos_set_log(0, None, null_mut()), 0);
        assert_eq!(gcos_close(store, 10_000), 0);
    }
    std::mem::take(&mut LINES.lock())
}

#[test]
fn a_function_that_calls_the_library_and_wants_a_lock_of_who_logs_holds_nobody_up() {
    let _one = ONE.lock();
    let store = open();
    let held = HELD.lock();
    tracing::info!(number = 7, "with a lock");
    tracing::debug!("not wanted");
    drop(held);
    assert_eq!(end(store), ["with a lock number=7"]);
    tracing::error!("after the end");
    assert!(LINES.lock().is_empty());
}

#[test]
fn lines_that_a_slow_function_cannot_take_are_counted_and_said() {
    let _one = ONE.lock();
    let store = open();
    let held = HELD.lock();
    for number in 0..1500 {
        tracing::warn!("line {number}");
    }
    drop(held);
    let lines = end(store);
    let left_out: usize = lines
        .iter()
        .filter_map(|line| line.split_once(" lines were left out")?.0.parse::<usize>().ok())
        .sum();
    let got = lines.iter().filter(|line| line.starts_with("line ")).count();
    assert!(left_out > 0 && got >= 1024, "{got} came, {left_out} did not");
    assert_eq!(got + left_out, 1500);
    assert!(lines.iter().all(|line| !line.contains("(")), "{lines:?}");
}
