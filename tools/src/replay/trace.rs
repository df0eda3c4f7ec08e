//! The trace, line by line: memory is bounded by the longest line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::Failure;

/// Longest line; a request of a million blocks fits.
const MAX_LINE: u64 = 16 << 20;

/// One request: the ids of its prompt's blocks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Request {
    pub(crate) hash_ids: Vec<u64>,
}

/// Reads requests in order.
#[derive(Debug)]
pub(crate) struct Trace<R> {
    path: PathBuf,
    reader: R,
    line: u64,
    buffer: Vec<u8>,
}

impl Trace<BufReader<File>> {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| Failure::file("read", path, &error))?;
        Ok(Self::new(path, BufReader::with_capacity(1 << 20, file)))
    }
}

impl<R: BufRead> Trace<R> {
    fn new(path: &Path, reader: R) -> Self {
        Self { path: path.to_owned(), reader, line: 0, buffer: Vec::new() }
    }

    /// The next request, `None` at the end. Empty lines are skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Request>, Failure> {
        loop {
            self.line += 1;
            self.buffer.clear();
            let mut limited = (&mut self.reader).take(MAX_LINE + 1);
            let got = limited
                .read_until(b'\n', &mut self.buffer)
                .map_err(|error| Failure::file("read", &self.path, &error))?;
            if got == 0 {
                return Ok(None);
            }
            if got as u64 > MAX_LINE {
                return Err(self.malformed("longer than 16 MiB"));
            }
            if !self.buffer.trim_ascii().is_empty() {
                return self.parse().map(Some);
            }
        }
    }

    fn parse(&self) -> Result<Request, Failure> {
        serde_json::from_slice(&self.buffer).map_err(|error| {
            // The line is this file's; the parser only ever saw one.
            let text = error.to_string();
            let text = text.split(" at line ").next().unwrap_or_default();
            self.malformed(&format!("{text}, at column {}", error.column()))
        })
    }

    fn malformed(&self, what: &str) -> Failure {
        let (path, line) = (self.path.display(), self.line);
        let expected = "expected a JSON object with hash_ids, a list of whole numbers";
        Failure::new("trace", format!("{path}, line {line}: {what}; {expected}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Request>, Failure> {
        let mut trace = Trace::new(Path::new("t.jsonl"), text.as_bytes());
        let mut requests = Vec::new();
        while let Some(request) = trace.next()? {
            requests.push(request);
        }
        Ok(requests)
    }

    #[test]
    fn requests_are_read_and_other_fields_ignored() {
        let text = "{\"timestamp\": 0, \"hash_ids\": [1, 2]}\n\n{\"hash_ids\": []}";
        let requests = read(text).unwrap();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0].hash_ids, [1, 2]);
    }

    #[test]
    fn malformed_lines_are_named() {
        let good = "{\"hash_ids\": [1]}\n";
        for bad in ["{", "[]", "{\"hash_ids\": [-1]}", "{\"hash_ids\": \"x\"}", "{}"] {
            let error = read(&format!("{good}{bad}\n")).unwrap_err().to_string();
            assert!(error.starts_with("t.jsonl, line 2: "), "{error}");
            assert!(error.contains("expected a JSON object"), "{error}");
        }
    }
}
