//! The library as C and C++ programs meet it: installed, compiled against without a warning, run plain and under
//! AddressSanitizer.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails fails its test")]

use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use gcos_capi::{
    gcos_interval_stats, gcos_item, gcos_key, gcos_object_info, gcos_put_options, gcos_stats,
};

/// A folder of this run, with the library installed in it.
static PREFIX: LazyLock<PathBuf> = LazyLock::new(|| {
    let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi");
    // Left there from an earlier run, perhaps of another version.
    drop(std::fs::remove_dir_all(&prefix));
    // The libraries lie where the test program does: both come of the same call of Cargo.
    let built = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    run(Command::new(own("install")).arg(&prefix).arg("--from").arg(built));
    prefix
});

fn own(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

/// How programs link.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    Shared,
    Sanitized,
    Static,
}

/// Compiles a program of `tests/programs`, or one elsewhere.
fn compile(source: &Path, link: Link) -> PathBuf {
    let cpp = source.extension().is_some_and(|extension| extension == "cpp");
    let (compiler, standard) = if cpp { ("c++", "-std=c++17") } else { ("cc", "-std=c99") };
    let kind = match link {
        Link::Shared => "shared",
        Link::Sanitized => "sanitized",
        Link::Static => "static",
    };
    let name = source.file_stem().unwrap().to_string_lossy();
    let program = PREFIX.join(format!("{name}-{kind}"));
    let mut command = Command::new(compiler);
    command.args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-pthread"]);
    command.arg("-I").arg(own("tests/programs")).arg("-I").arg(own("examples/cpp"));
    command.arg("-I").arg(PREFIX.join("include")).arg(source).arg("-o").arg(&program);
    if link == Link::Sanitized {
        command.args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
    }
    match link {
        Link::Static => {
            command.arg(PREFIX.join("lib/libgcos.a"));
            // With the GPU that tests play, which is C++ and in no library that is installed.
            command.args(["-lstdc++", "-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"]);
        }
        _ => {
            let lib = PREFIX.join("lib");
            command.arg("-L").arg(&lib).arg("-lgcos").arg(format!("-Wl,-rpath,{}", lib.display()));
        }
    }
    run(&mut command);
    program
}

/// Runs a program in a folder of its own.
fn runs(source: &str, link: Link) {
    let program = compile(&own("tests/programs").join(source), link);
    let folder = tempfile::tempdir_in(&*PREFIX).unwrap();
    run(Command::new(program).arg(folder.path()).env_remove("GCOS_CONFIG"));
}

#[test]
fn objects_go_in_and_come_out() {
    runs("objects.c", Link::Shared);
}

#[test]
fn objects_go_in_and_come_out_under_sanitizers() {
    runs("objects.c", Link::Sanitized);
}

#[test]
fn what_is_done_wrong_has_a_status() {
    runs("misuse.c", Link::Shared);
}

#[test]
fn what_is_done_wrong_has_a_status_under_sanitizers() {
    runs("misuse.c", Link::Sanitized);
}

#[test]
fn the_static_library_does_the_same() {
    runs("objects.c", Link::Static);
}

#[test]
fn the_wrapper_of_cpp_works() {
    runs("wrapper.cpp", Link::Shared);
}

#[test]
fn the_wrapper_of_cpp_works_under_sanitizers() {
    runs("wrapper.cpp", Link::Sanitized);
}

#[test]
fn structs_lie_in_c_as_they_do_in_the_library() {
    let program = compile(&own("tests/programs/layout.c"), Link::Shared);
    let printed = String::from_utf8(run(&mut Command::new(program)).stdout).unwrap();
    let row = |name: &str, size: usize, last: usize| format!("{name} {size} {last}\n");
    let expected = [
        row(
            "gcos_put_options",
            size_of::<gcos_put_options>(),
            offset_of!(gcos_put_options, reserved),
        ),
        row("gcos_key", size_of::<gcos_key>(), offset_of!(gcos_key, len)),
        row("gcos_item", size_of::<gcos_item>(), offset_of!(gcos_item, kept)),
        row(
            "gcos_object_info",
            size_of::<gcos_object_info>(),
            offset_of!(gcos_object_info, reserved),
        ),
        row("gcos_stats", size_of::<gcos_stats>(), offset_of!(gcos_stats, spill_capacity_bytes)),
        row(
            "gcos_interval_stats",
            size_of::<gcos_interval_stats>(),
            offset_of!(gcos_interval_stats, used_percent),
        ),
    ];
    assert_eq!(printed, expected.concat());
}

#[test]
fn the_example_of_the_document_compiles_and_runs() {
    let document = std::fs::read_to_string(own("../../docs/c-api.md")).unwrap();
    let example = document.split("```c\n").nth(1).unwrap().split("```").next().unwrap();
    let source = PREFIX.join("example.c");
    std::fs::write(&source, example).unwrap();
    let program = compile(&source, Link::Sanitized);
    let folder = tempfile::tempdir_in(&*PREFIX).unwrap();
    for expected in ["miss, computed and stored", "hit"] {
        let output = run(Command::new(&program).current_dir(folder.path()));
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(printed.contains(expected), "{printed}");
    }
}

#[test]
fn the_library_exports_its_functions_and_nothing_else() {
    let output =
        run(Command::new("nm").args(["-D", "--defined-only"]).arg(PREFIX.join("lib/libgcos.so")));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut exported: Vec<_> =
        text.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    exported.sort_unstable();
    let header = std::fs::read_to_string(PREFIX.join("include/gcos.h")).unwrap();
    let foreign: Vec<_> = exported.iter().filter(|name| !name.starts_with("gcos_")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    for name in &exported {
        assert!(header.contains(&format!("{name}(")), "{name} is not in the header");
    }
    assert!(exported.len() > 30, "{exported:?}");
}

#[test]
fn what_is_installed_is_found_by_those_who_look() {
    let lib = PREFIX.join("lib");
    let target = |name: &str| std::fs::read_link(lib.join(name)).unwrap().display().to_string();
    assert_eq!(target("libgcos.so"), "libgcos.so.0");
    assert_eq!(target("libgcos.so.0"), concat!("libgcos.so.", env!("CARGO_PKG_VERSION")));
    let program = compile(&own("tests/programs/layout.c"), Link::Shared);
    let needed = run(Command::new("objdump").arg("-p").arg(program));
    let needed = String::from_utf8_lossy(&needed.stdout).into_owned();
    // It uses no function, so it may need the library or not; what it needs, it needs by this name.
    assert!(!needed.contains("NEEDED               libgcos.so\n"), "{needed}");
    let soname = run(Command::new("objdump").arg("-p").arg(lib.join("libgcos.so")));
    let soname = String::from_utf8_lossy(&soname.stdout).into_owned();
    assert!(soname.contains("SONAME               libgcos.so.0\n"), "{soname}");
    let pc = std::fs::read_to_string(lib.join("pkgconfig/gcos.pc")).unwrap();
    assert!(pc.contains(&format!("prefix={}\n", PREFIX.display())), "{pc}");
    assert!(pc.contains("Libs: -L${libdir} -lgcos\n"), "{pc}");
    if Command::new("pkg-config").arg("--version").output().is_ok() {
        let mut ask = Command::new("pkg-config");
        ask.env("PKG_CONFIG_PATH", lib.join("pkgconfig")).args(["--cflags", "--libs", "gcos"]);
        let told = String::from_utf8_lossy(&run(&mut ask).stdout).into_owned();
        assert!(told.contains("-lgcos") && told.contains(&PREFIX.display().to_string()), "{told}");
    }
}
