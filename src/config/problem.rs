use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// One thing that is wrong in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where: the field's path with dots, empty for the document as a whole.
    pub path: String,
    /// What is wrong, what was expected, what was found.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error(
        "configuration file {path:?} cannot be read; name another with --config or GCOS_CONFIG, or \
         start from gcos.json.example"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// It is not JSON.
    #[error("{name}: line {line}, column {column}: not valid JSON")]
    Syntax {
        /// What the text is called in messages: its path.
        name: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// It says something that cannot be.
    #[error("{name}: {}", list(problems))]
    Invalid {
        /// What the text is called in messages: its path.
        name: String,
        /// Everything that was found, in the order of the fields.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// The problems, if the document could be read at all.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            ConfigError::Invalid { problems, .. } => problems,
            _ => &[],
        }
    }
}

fn list(problems: &[Problem]) -> String {
    if let [only] = problems {
        return only.to_string();
    }
    let mut text = format!("{} problems", problems.len());
    for problem in problems {
        text.push_str("\n  ");
        text.push_str(&problem.to_string());
    }
    text
}
