//! Compiles the kernels: for GPUs with NVIDIA's compiler, where there is one, and, with the feature
//! `played`, as C++ for host threads.
//!
//! `GCOS_KERNELS=require` makes a missing CUDA compiler an error, `GCOS_KERNELS=off` leaves the kernels
//! out. The compiler is looked for in `GCOS_NVCC` (a path), `CUDA_HOME`, `CUDA_PATH`, `PATH`,
//! `/usr/local/cuda`, Python's packages (`nvidia-cuda-nvcc`), and where `kernels/fetch-compiler` puts it.

use std::env;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the kernels are compiled for: machine code of these, and PTX of the last for GPUs to come.
const TARGETS: [&str; 2] = ["80", "90"];

/// What the compiler says of one kernel for one target.
struct Report {
    name: String,
    target: String,
    registers: u32,
    spilled_bytes: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let home = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = home.join("../..").canonicalize()?;
    let kernels = root.join("kernels");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", kernels.display());
    for name in ["GCOS_KERNELS", "GCOS_NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let sources = files(&kernels, "cu")?;
    #[cfg(feature = "played")]
    played(&kernels, &sources)?;

    let wish = env::var("GCOS_KERNELS").unwrap_or_default();
    let nvcc = match wish.as_str() {
        "off" => None,
        "" | "on" | "require" => find_compiler(&root),
        other => return Err(format!("GCOS_KERNELS={other}: expected on, off or require").into()),
    };
    let mut modules = Vec::new();
    let mut reports = Vec::new();
    if let Some(nvcc) = &nvcc {
        for source in &sources {
            let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let module = out.join(format!("{name}.fatbin"));
            reports.extend(compile(nvcc, &kernels, source, &module)?);
            modules.push((name, module));
        }
    } else if wish == "require" {
        return Err("no CUDA compiler was found, and GCOS_KERNELS=require; set GCOS_NVCC, or run \
                    kernels/fetch-compiler"
            .into());
    } else if wish != "off" {
        println!(
            "cargo:warning=no CUDA compiler was found: built without GPU kernels. Set GCOS_NVCC to nvcc, \
             run kernels/fetch-compiler, or set GCOS_KERNELS=off to be silent"
        );
    }
    let compiler = nvcc.as_deref().map(version).transpose()?.unwrap_or_default();
    fs::write(out.join("kernels.rs"), table(&compiler, &modules, &reports))?;
    Ok(())
}

/// All files of a folder with this extension, sorted.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The C++ build of the same sources, for a GPU that host threads play.
#[cfg(feature = "played")]
fn played(kernels: &Path, sources: &[PathBuf]) -> Result<(), Box<dyn Error>> {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").include(kernels).define("GCOS_PLAYED", None);
    build.flag("-pthread").opt_level(2).warnings(true).extra_warnings(true);
    for file in files(&kernels.join("played"), "cpp")? {
        build.file(file);
    }
    // Kernel sources go through a file of their own each: C++ compilers do not know their extension.
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for source in sources {
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let wrapper = out.join(format!("played_{name}.cpp"));
        fs::write(&wrapper, format!("#include \"{}\"\n", source.display()))?;
        build.file(wrapper);
    }
    build.try_compile("gcos_played")?;
    played_cufile(&out)
}

/// The stand-in for libcufile, a shared library: as it is now, and an old one that has less.
#[cfg(feature = "played")]
fn played_cufile(out: &Path) -> Result<(), Box<dyn Error>> {
    let source = "src/played/cufile.c";
    println!("cargo:rerun-if-changed={source}");
    let compiler = cc::Build::new().opt_level(2).pic(true).try_get_compiler()?;
    for (name, variable, define) in [
        ("cufile.so", "GCOS_PLAYED_CUFILE", "-DGCOS_CUFILE"),
        ("old_cufile.so", "GCOS_PLAYED_OLD_CUFILE", "-DGCOS_OLD_CUFILE"),
    ] {
        let library = out.join(name);
        let mut command = compiler.to_command();
        command.args(["-shared", "-std=c11", "-Wall", "-Wextra", define, "-o"]);
        command.arg(&library).arg(source);
        let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{command:?} failed:\n{told}").into());
        }
        println!("cargo:rustc-env={variable}={}", library.display());
    }
    Ok(())
}

/// The first CUDA compiler of the places where one may be.
fn find_compiler(root: &Path) -> Option<PathBuf> {
    if let Some(told) = env::var_os("GCOS_NVCC") {
        return Some(PathBuf::from(told));
    }
    let variables = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let homes = variables.map(|home| PathBuf::from(home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = [PathBuf::from("/usr/local/cuda/bin")];
    let fetched = [root.join(".cache/cuda/nvidia/cu13/bin")];
    let places = homes.chain(env::split_paths(&path)).chain(usual).chain(python()).chain(fetched);
    places.map(|place| place.join("nvcc")).find(|nvcc| nvcc.is_file())
}

/// Where Python keeps NVIDIA's packages.
fn python() -> Vec<PathBuf> {
    let ask = "import site, sys; print('\\n'.join(site.getsitepackages() + [site.getusersitepackages()]))";
    let Ok(output) = Command::new("python3").args(["-c", ask]).output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let folders = |site: &str| {
        let nvidia = Path::new(site).join("nvidia");
        [nvidia.join("cu13/bin"), nvidia.join("cu12/bin"), nvidia.join("cuda_nvcc/bin")]
    };
    text.lines().flat_map(folders).collect()
}

/// The compiler's version, such as `13.0`.
fn version(nvcc: &Path) -> Result<String, Box<dyn Error>> {
    let output = Command::new(nvcc).arg("--version").output();
    let output = output.map_err(|error| format!("{}: {error}", nvcc.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let release = text.split_once("release ").map(|(_, rest)| rest);
    let version = release.and_then(|rest| rest.split(',').next());
    Ok(version.ok_or_else(|| format!("{}: no release in {text:?}", nvcc.display()))?.to_owned())
}

/// Compiles one source for all targets into one file, and tells what its kernels need.
fn compile(
    nvcc: &Path,
    kernels: &Path,
    source: &Path,
    module: &Path,
) -> Result<Vec<Report>, Box<dyn Error>> {
    let mut command = Command::new(nvcc);
    command.args(["--fatbin", "-std=c++17", "-O3", "--threads", "2"]);
    command.args(["-Xptxas", "-v", "-ccbin"]).arg(env::var_os("CXX").unwrap_or("g++".into()));
    // Headers that lie beside it in Python's packages; a toolkit knows its own.
    let home = nvcc.parent().and_then(Path::parent).unwrap_or(nvcc);
    for folder in ["include", "include/cccl", "../cuda_runtime/include", "../cuda_cccl/include"] {
        let folder = home.join(folder);
        if folder.is_dir() {
            command.arg("-isystem").arg(folder);
        }
    }
    for target in TARGETS {
        command.arg("-gencode").arg(format!("arch=compute_{target},code=sm_{target}"));
    }
    let last = TARGETS[TARGETS.len() - 1];
    command.arg("-gencode").arg(format!("arch=compute_{last},code=compute_{last}"));
    command.arg("-I").arg(kernels).arg("-o").arg(module).arg(source);
    let output = command.output().map_err(|error| format!("{}: {error}", nvcc.display()))?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{command:?} failed:\n{told}").into());
    }
    for line in told.lines().filter(|line| line.contains("warning")) {
        println!("cargo:warning={line}");
    }
    Ok(reports(&told))
}

/// Reads what `ptxas -v` says: the name and target of an entry, then its spills, then its registers.
fn reports(told: &str) -> Vec<Report> {
    let number_before = |line: &str, what: &str| -> Option<u32> {
        let (before, _) = line.split_once(what)?;
        before.split_whitespace().next_back()?.parse().ok()
    };
    let mut reports: Vec<Report> = Vec::new();
    let mut entry: Option<(String, String, u32)> = None;
    for line in told.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let mut parts = rest.split('\'');
            let name = parts.next().unwrap_or_default().to_owned();
            let target = parts.nth(1).unwrap_or_default().to_owned();
            entry = Some((name, target, 0));
        } else if let Some((_, _, spilled)) = &mut entry {
            if let Some(bytes) = number_before(line, "bytes spill stores") {
                *spilled = bytes;
            }
            if let Some((_, rest)) = line.split_once("Used ") {
                let registers = rest.split_whitespace().next().and_then(|n| n.parse().ok());
                if let (Some(registers), Some((name, target, spilled_bytes))) =
                    (registers, entry.take())
                {
                    reports.push(Report { name, target, registers, spilled_bytes });
                }
            }
        }
    }
    reports
}

/// The source that the crate includes.
fn table(compiler: &str, modules: &[(String, PathBuf)], reports: &[Report]) -> String {
    let mut text = format!("const COMPILER: &str = {compiler:?};\n\n");
    text.push_str("const MODULES: &[(&str, &[u8])] = &[\n");
    for (name, path) in modules {
        let _ = writeln!(text, "    ({name:?}, include_bytes!({:?})),", path.display().to_string());
    }
    text.push_str("];\n\nconst BUILT: &[BuiltKernel] = &[\n");
    for Report { name, target, registers, spilled_bytes } in reports {
        let _ = writeln!(
            text,
            "    BuiltKernel {{ name: {name:?}, target: {target:?}, registers: {registers}, \
             spilled_bytes: {spilled_bytes} }},"
        );
    }
    text.push_str("];\n");
    text
}
