//! Shared libraries, looked for and not loaded: loading one runs its code.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use gcos::hw::pci::Sysfs;

const FOLDERS: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/lib64",
    "/usr/lib",
    "/lib",
    "/usr/local/lib",
    "/usr/local/cuda/lib64",
    "/usr/local/nvidia/lib64",
];

/// Path of the library of that name where the loader would look: `LD_LIBRARY_PATH`, the loader's
/// cache, the usual folders.
pub(super) fn find(sysfs: &Sysfs, name: &str) -> Option<PathBuf> {
    let path = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let told = env::split_paths(&path).filter(|folder| folder.is_absolute());
    let usual = FOLDERS.iter().map(PathBuf::from);
    let cache = fs::read(sysfs.path("etc/ld.so.cache")).unwrap_or_default();
    let cached = in_cache(&cache, name);
    let mut places = told.map(|folder| folder.join(name));
    let mut usual = usual.map(|folder| folder.join(name));
    let there = |path: &PathBuf| sysfs.exists(path);
    places.find(there).or_else(|| cached.filter(there)).or_else(|| usual.find(there))
}

/// The path that the loader's cache has for a name. The cache ends in a table of strings, each ended
/// by a zero byte, in which paths follow names.
fn in_cache(cache: &[u8], name: &str) -> Option<PathBuf> {
    let strings = cache.split(|&byte| byte == 0).filter_map(|bytes| str::from_utf8(bytes).ok());
    let mut paths = strings.filter(|text| text.starts_with('/')).map(Path::new);
    paths.find(|path| path.file_name().is_some_and(|file| file == name)).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_gives_paths_of_whole_names() {
        let cache = b"glibc-ld.so.cache1.1\0\x07\0\xff\0libcuda.so.1\0/opt/a/libcuda.so.1\0";
        assert_eq!(in_cache(cache, "libcuda.so.1"), Some("/opt/a/libcuda.so.1".into()));
        assert_eq!(in_cache(cache, "libcuda.so"), None);
        assert_eq!(in_cache(b"", "libcuda.so.1"), None);
    }
}
