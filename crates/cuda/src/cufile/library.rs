use std::ffi::c_int;
use std::path::{Path, PathBuf};

use libloading::{Library as Loaded, Symbol};

use super::CuFileError;
use super::abi::{
    BatchCancel, BatchDestroy, BatchGetStatus, BatchSetUp, BatchSubmit, BufDeregister, BufRegister,
    DriverCall, GetParameterBool, GetProperties, GetVersion, HandleDeregister, HandleRegister,
    RawError, ReadWrite, ReadWriteAsync, StreamDeregister, StreamRegister,
};
use super::code::CuFileCode;

/// Names the library's file, in the environment. Nothing else is tried then.
pub const LIBRARY_VARIABLE: &str = "GCOS_CUFILE";

/// What the library is called.
const NAMES: [&str; 2] = ["libcufile.so.0", "libcufile.so"];

/// `CU_FILE_CUDA_DRIVER_ERROR`: CUDA's own number is beside it.
const CUDA_FAILED: i32 = 5011;

/// Where the library is looked for, in order. A name without a folder is the loader's to find.
#[must_use]
pub fn places() -> Vec<PathBuf> {
    if let Some(told) = std::env::var_os(LIBRARY_VARIABLE).filter(|told| !told.is_empty()) {
        return vec![PathBuf::from(told)];
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os);
    let homes = homes.map(PathBuf::from).chain([PathBuf::from("/usr/local/cuda")]);
    let folders = homes.flat_map(|home| [home.join("lib64"), home.join("lib")]);
    let files = folders.flat_map(|folder| NAMES.map(|name| folder.join(name)));
    NAMES.into_iter().map(PathBuf::from).chain(files).collect()
}

/// The functions of the library. It is never unloaded: it has threads of its own.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) path: PathBuf,
    pub(super) driver_open: DriverCall,
    pub(super) driver_close: DriverCall,
    pub(super) get_properties: GetProperties,
    pub(super) get_version: Option<GetVersion>,
    pub(super) get_parameter_bool: Option<GetParameterBool>,
    pub(super) handle_register: HandleRegister,
    pub(super) handle_deregister: HandleDeregister,
    pub(super) buf_register: BufRegister,
    pub(super) buf_deregister: BufDeregister,
    pub(super) read: ReadWrite,
    pub(super) write: ReadWrite,
    pub(super) batch: Option<BatchCalls>,
    pub(super) stream: Option<StreamCalls>,
}

/// Since version 1.6.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchCalls {
    pub(super) set_up: BatchSetUp,
    pub(super) submit: BatchSubmit,
    pub(super) get_status: BatchGetStatus,
    pub(super) cancel: BatchCancel,
    pub(super) destroy: BatchDestroy,
}

/// Since version 1.7.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamCalls {
    pub(super) register: StreamRegister,
    pub(super) deregister: StreamDeregister,
    pub(super) read: ReadWriteAsync,
    pub(super) write: ReadWriteAsync,
}

impl Library {
    /// Loads the first of these files that is there. One that is there and broken is an error: the others are
    /// not tried behind the operator's back.
    pub(super) fn load(places: &[PathBuf]) -> Result<Self, CuFileError> {
        let mut tried = Vec::new();
        for place in places {
            let with_folder = place.parent().is_some_and(|folder| folder != Path::new(""));
            if with_folder && !place.exists() {
                tried.push(format!("{}: not there", place.display()));
                continue;
            }
            // SAFETY: loading it runs its initialisers, which is what every user of it does.
            match unsafe { Loaded::new(place) } {
                Ok(loaded) => return Self::of(loaded, place),
                Err(error) => tried.push(format!("{}: {}", place.display(), said(&error))),
            }
        }
        Err(CuFileError::NotFound { tried: tried.join("; ") })
    }

    fn of(loaded: Loaded, path: &Path) -> Result<Self, CuFileError> {
        // SAFETY: the types of `abi` are those that the header gives these names; a test compares them.
        let library = unsafe {
            Self {
                path: path.to_owned(),
                driver_open: symbol(&loaded, path, "cuFileDriverOpen")?,
                // The header renames the call: the old one does not tell errors of closing.
                driver_close: symbol(&loaded, path, "cuFileDriverClose_v2")
                    .or_else(|_| symbol(&loaded, path, "cuFileDriverClose"))?,
                get_properties: symbol(&loaded, path, "cuFileDriverGetProperties")?,
                get_version: symbol(&loaded, path, "cuFileGetVersion").ok(),
                get_parameter_bool: symbol(&loaded, path, "cuFileGetParameterBool").ok(),
                handle_register: symbol(&loaded, path, "cuFileHandleRegister")?,
                handle_deregister: symbol(&loaded, path, "cuFileHandleDeregister")?,
                buf_register: symbol(&loaded, path, "cuFileBufRegister")?,
                buf_deregister: symbol(&loaded, path, "cuFileBufDeregister")?,
                read: symbol(&loaded, path, "cuFileRead")?,
                write: symbol(&loaded, path, "cuFileWrite")?,
                batch: BatchCalls::of(&loaded, path).ok(),
                stream: StreamCalls::of(&loaded, path).ok(),
            }
        };
        std::mem::forget(loaded);
        Ok(library)
    }

    pub(super) fn batch(&self) -> Result<&BatchCalls, CuFileError> {
        let (library, what, since) = (self.path.clone(), "batches (cuFileBatchIOSetUp)", "1.6");
        self.batch.as_ref().ok_or(CuFileError::TooOld { library, what, since })
    }

    pub(super) fn stream(&self) -> Result<&StreamCalls, CuFileError> {
        let what = "transfers in a stream (cuFileReadAsync)";
        let library = self.path.clone();
        self.stream.as_ref().ok_or(CuFileError::TooOld { library, what, since: "1.7" })
    }
}

impl BatchCalls {
    fn of(loaded: &Loaded, path: &Path) -> Result<Self, CuFileError> {
        // SAFETY: as for the others.
        unsafe {
            Ok(Self {
                set_up: symbol(loaded, path, "cuFileBatchIOSetUp")?,
                submit: symbol(loaded, path, "cuFileBatchIOSubmit")?,
                get_status: symbol(loaded, path, "cuFileBatchIOGetStatus")?,
                cancel: symbol(loaded, path, "cuFileBatchIOCancel")?,
                destroy: symbol(loaded, path, "cuFileBatchIODestroy")?,
            })
        }
    }
}

impl StreamCalls {
    fn of(loaded: &Loaded, path: &Path) -> Result<Self, CuFileError> {
        // SAFETY: as for the others.
        unsafe {
            Ok(Self {
                register: symbol(loaded, path, "cuFileStreamRegister")?,
                deregister: symbol(loaded, path, "cuFileStreamDeregister")?,
                read: symbol(loaded, path, "cuFileReadAsync")?,
                write: symbol(loaded, path, "cuFileWriteAsync")?,
            })
        }
    }
}

/// A function of the library.
///
/// # Safety
/// `F` is the type of the function of that name.
unsafe fn symbol<F: Copy>(loaded: &Loaded, path: &Path, name: &str) -> Result<F, CuFileError> {
    // SAFETY: the caller vouches for the type.
    let found: Result<Symbol<'_, F>, _> = unsafe { loaded.get(name.as_bytes()) };
    let missing = |_| CuFileError::Symbol { library: path.to_owned(), symbol: name.to_owned() };
    found.map(|found| *found).map_err(missing)
}

/// The loader's own words, which are in the error's source.
fn said(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

/// What a call says that returns a record.
pub(super) fn done(call: &'static str, error: RawError) -> Result<(), CuFileError> {
    match (error.err, error.cu_err) {
        (0, _) => Ok(()),
        (number, cuda) => Err(failed(call, number, cuda)),
    }
}

fn failed(call: &'static str, number: c_int, cuda: c_int) -> CuFileError {
    let code = CuFileCode::new(number);
    match (code.number(), cuda) {
        (CUDA_FAILED, 1..) => CuFileError::Cuda { call, code, cuda },
        _ => CuFileError::Call { call, code },
    }
}

/// What a call says that returns a number of bytes, asked for before anything else is called.
pub(super) fn moved(call: &'static str, offset: u64, rc: isize) -> Result<usize, CuFileError> {
    if let Ok(moved) = usize::try_from(rc) {
        return Ok(moved);
    }
    let system = std::io::Error::last_os_error();
    Err(of_negative(call, offset, rc as i64, system))
}

/// A negative result of a transfer: -1 with the system's error beside it, one of the system's numbers, or one
/// of cuFile's.
pub(super) fn of_negative(
    call: &'static str,
    offset: u64,
    rc: i64,
    system: std::io::Error,
) -> CuFileError {
    match i32::try_from(rc.saturating_neg()) {
        Ok(1) => CuFileError::Os { call, offset, source: system },
        Ok(number @ ..=5000) => {
            CuFileError::Os { call, offset, source: std::io::Error::from_raw_os_error(number) }
        }
        Ok(number) => CuFileError::Call { call, code: CuFileCode::new(number) },
        Err(_) => CuFileError::Call { call, code: CuFileCode::new(i32::MAX) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_nowhere_or_another_one_is_told_from_one_that_works() {
        let nowhere = PathBuf::from("/nowhere/libcufile.so.0");
        let error = Library::load(&[nowhere]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/libcufile.so.0: not there"), "{error}");
        assert!(error.contains("GCOS_CUFILE"), "{error}");
        let other = PathBuf::from("libm.so.6");
        let error = Library::load(&[other]).unwrap_err();
        let CuFileError::Symbol { symbol, .. } = &error else { panic!("{error}") };
        assert_eq!(symbol, "cuFileDriverOpen");
        let text = std::env::temp_dir().join(format!("gcos-not-a-library-{}", std::process::id()));
        std::fs::write(&text, "no library").unwrap();
        let error = Library::load(std::slice::from_ref(&text)).unwrap_err().to_string();
        std::fs::remove_file(&text).unwrap();
        assert!(error.contains("gcos-not-a-library"), "{error}");
    }

    #[test]
    fn every_function_is_in_nvidias_own_library() {
        let fetched = "../../.cache/cuda/nvidia/cu13/lib/libcufile.so.0";
        let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(fetched);
        // It is not loaded: without a CUDA driver it prints, and leaves a log behind.
        let Ok(bytes) = std::fs::read(fetched) else { return };
        let source = include_str!("library.rs");
        let (code, _) = source.split_once("#[cfg(test)]").unwrap();
        let names = code.split('"').filter(|text| text.starts_with("cuFile"));
        let names: Vec<&str> = names.collect();
        assert!(names.len() > 20, "{names:?}");
        for name in names {
            let wanted = [b"\0", name.as_bytes(), b"\0"].concat();
            assert!(bytes.windows(wanted.len()).any(|part| part == wanted), "no {name}");
        }
    }

    #[test]
    fn negative_results_are_the_systems_or_cufiles() {
        let enospc = || std::io::Error::from_raw_os_error(28);
        let error = of_negative("cuFileWrite", 4096, -1, enospc());
        assert_eq!(error.os().unwrap().kind(), std::io::ErrorKind::StorageFull);
        let error = of_negative("cuFileWrite", 0, -5, enospc());
        assert_eq!(error.os().unwrap().raw_os_error(), Some(5));
        let error = of_negative("cuFileRead", 0, -5027, enospc());
        assert_eq!(error.code().unwrap().number(), 5027);
        assert!(of_negative("cuFileRead", 0, i64::MIN, enospc()).code().is_some());
        let error = failed("cuFileHandleRegister", 5011, 700);
        assert!(error.to_string().contains("700"), "{error}");
    }

    #[test]
    fn the_loaders_own_name_comes_before_the_folders_of_cuda() {
        if std::env::var_os(LIBRARY_VARIABLE).is_none() {
            let places = places();
            assert_eq!(places[0], Path::new("libcufile.so.0"));
            assert!(places.iter().any(|place| place.starts_with("/usr/local/cuda/lib64")));
        }
    }
}
