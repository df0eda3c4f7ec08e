//! Variables of the environment that stand above fields of the document.

use std::ffi::OsString;

use serde::Serialize;

use super::Config;
use super::kernel::KernelWay;
use super::problem::{ConfigError, Problem};

/// Whether cuFile may be used: 0, 1, true or false. Stands above `kernel_path.use_cufile`.
pub const USE_CUFILE: &str = "GCOS_USE_CUFILE";
/// Whether files must be opened past the page cache: 0, 1, true or false. Stands above
/// `kernel_path.use_direct_io`.
pub const USE_DIRECT_IO: &str = "GCOS_USE_DIRECT_IO";
/// The one way through the kernel that may be taken: cufile, io_uring or posix. Stands above
/// `kernel_path.force`.
pub const FORCE_PATH: &str = "GCOS_FORCE_PATH";

/// A field whose value is that of a variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Override {
    /// The variable.
    pub variable: &'static str,
    /// The field.
    pub field: &'static str,
    /// Its value, as the variable has it.
    pub value: String,
}

impl Config {
    /// Puts the values of variables above those of the document. `variable` gives the value of one;
    /// an empty value counts as none.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every variable that has no usable value, and with what the values
    /// make impossible together.
    pub fn override_with(
        mut self,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut set = |name: &'static str, field: &'static str, expected: &str| {
            let value = variable(name).filter(|value| !value.is_empty())?;
            let text = value.to_string_lossy().into_owned();
            if parses(name, &text) {
                return Some(Override { variable: name, field, value: text });
            }
            let message = format!(
                "expected {expected} in the environment variable, got {text:?}; unset it to use \
                 {field} of the configuration"
            );
            problems.push(Problem { path: name.to_owned(), message });
            None
        };
        let flag = "0, 1, true or false";
        let ways = KernelWay::ALL.map(KernelWay::name).join(", ");
        let found = [
            set(USE_CUFILE, "kernel_path.use_cufile", flag),
            set(USE_DIRECT_IO, "kernel_path.use_direct_io", flag),
            set(FORCE_PATH, "kernel_path.force", &format!("one of {ways}")),
        ];
        for entry in found.into_iter().flatten() {
            match entry.variable {
                USE_CUFILE => self.kernel_path.use_cufile = flag_of(&entry.value) == Some(true),
                USE_DIRECT_IO => {
                    self.kernel_path.use_direct_io = flag_of(&entry.value) == Some(true)
                }
                _ => self.kernel_path.force = KernelWay::named(&entry.value),
            }
            self.overrides.push(entry);
        }
        problems.extend(self.impossible_ways());
        if problems.is_empty() {
            return Ok(self);
        }
        Err(ConfigError::Invalid { name: "environment".to_owned(), problems })
    }

    /// What decides a field: the variable that stands above it, or the field itself.
    #[must_use]
    pub fn source_of(&self, field: &'static str) -> &'static str {
        self.overrides.iter().find(|o| o.field == field).map_or(field, |o| o.variable)
    }

    /// Ways that are asked for and excluded at the same time.
    pub(super) fn impossible_ways(&self) -> Vec<Problem> {
        const FIELD: &str = "kernel_path.force";
        if self.kernel_path.force != Some(KernelWay::CuFile) {
            return Vec::new();
        }
        let mut problems = Vec::new();
        let mut problem = |message: String| {
            problems.push(Problem { path: self.source_of(FIELD).to_owned(), message })
        };
        if !self.kernel_path.use_cufile {
            let by = self.source_of("kernel_path.use_cufile");
            problem(format!("asks for cufile, which {by} forbids"));
        }
        if self.namespace.gpu.num == 0 {
            problem(
                "asks for cufile, which moves data between files and GPUs, and namespace.gpu.num is 0"
                    .to_owned(),
            );
        }
        problems
    }
}

fn parses(variable: &str, text: &str) -> bool {
    match variable {
        FORCE_PATH => KernelWay::named(text).is_some(),
        _ => flag_of(text).is_some(),
    }
}

fn flag_of(text: &str) -> Option<bool> {
    match text {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{
        "disk": {"number": 1, "paths": ["pool.img"], "capacity_bytes": 67108864},
        "namespace": {"gpu": {"num": 1}}
    }"#;

    fn with(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let find =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).into());
        Config::parse(GOOD, "test").unwrap().override_with(find)
    }

    fn problems(variables: &[(&str, &str)]) -> Vec<String> {
        let error = with(variables).unwrap_err();
        assert!(error.to_string().starts_with("environment: "), "{error}");
        error.problems().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn variables_stand_above_the_document_and_are_named_as_the_source() {
        let config = with(&[]).unwrap();
        assert!(config.overrides.is_empty());
        assert_eq!(config.source_of("kernel_path.force"), "kernel_path.force");
        for (text, value) in [("0", false), ("1", true), ("false", false), ("true", true)] {
            let config = with(&[(USE_CUFILE, text), (USE_DIRECT_IO, text)]).unwrap();
            assert_eq!(config.kernel_path.use_cufile, value);
            assert_eq!(config.kernel_path.use_direct_io, value);
            assert_eq!(config.overrides.len(), 2);
        }
        for way in KernelWay::ALL {
            let config = with(&[(FORCE_PATH, way.name())]).unwrap();
            assert_eq!(config.kernel_path.force, Some(way));
            assert_eq!(config.source_of("kernel_path.force"), FORCE_PATH);
        }
        let config = with(&[(FORCE_PATH, ""), (USE_CUFILE, "")]).unwrap();
        assert!(config.overrides.is_empty(), "an empty variable is none");
    }

    #[test]
    fn values_that_cannot_be_are_all_named() {
        for bad in ["yes", "on", "2", " 1", "TRUE"] {
            let found = problems(&[(USE_CUFILE, bad), (USE_DIRECT_IO, bad)]);
            assert_eq!(found.len(), 2, "{found:?}");
            assert!(
                found[0].starts_with("GCOS_USE_CUFILE: expected 0, 1, true or false"),
                "{found:?}"
            );
            assert!(found[1].contains("kernel_path.use_direct_io"), "{found:?}");
        }
        for bad in ["uring", "IO_URING", "cuFile", "vfio"] {
            let found = problems(&[(FORCE_PATH, bad)]);
            assert!(found[0].contains("one of cufile, io_uring, posix"), "{found:?}");
        }
    }

    #[test]
    fn cufile_is_not_forced_where_it_is_forbidden_or_has_no_gpu() {
        let found = problems(&[(FORCE_PATH, "cufile"), (USE_CUFILE, "0")]);
        assert_eq!(found, ["GCOS_FORCE_PATH: asks for cufile, which GCOS_USE_CUFILE forbids"]);
        let without = GOOD.replace("\"num\": 1", "\"num\": 0");
        let config = Config::parse(&without, "test").unwrap();
        let force = |name: &str| (name == FORCE_PATH).then(|| "cufile".into());
        let error = config.override_with(force).unwrap_err();
        assert!(error.to_string().contains("namespace.gpu.num is 0"), "{error}");
    }
}
