use super::problem::Problem;
use super::schema::{self, FIELDS, Kind};
use super::tree::Node;

/// Walks a document and collects everything that is wrong with it. Where a value is missing or wrong
/// it goes on with the default (or the smallest value), so that one mistake hides no other.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) problems: Vec<Problem>,
}

/// An object of the document and its path; without entries where it is not there.
#[derive(Debug, Clone)]
pub(super) struct Section<'a> {
    path: String,
    entries: &'a [(String, Node)],
}

impl<'a> Section<'a> {
    fn get(&self, name: &str) -> Option<&'a Node> {
        self.entries.iter().find(|(key, _)| key == name).map(|(_, node)| node)
    }

    fn path_of(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }

    /// Whether the document gives a value for `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

impl Reader {
    pub(super) fn problem(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem { path: path.into(), message: message.into() });
    }

    pub(super) fn has_problem(&self, path: &str) -> bool {
        self.problems.iter().any(|problem| problem.path == path)
    }

    /// The top of the document.
    pub(super) fn top<'a>(&mut self, node: &'a Node) -> Section<'a> {
        self.open(String::new(), Some(node))
    }

    /// A section below another one. One that is not there reads as empty.
    pub(super) fn section<'a>(&mut self, parent: &Section<'a>, name: &str) -> Section<'a> {
        self.open(parent.path_of(name), parent.get(name))
    }

    fn open<'a>(&mut self, path: String, node: Option<&'a Node>) -> Section<'a> {
        let entries = match node {
            None => &[][..],
            Some(Node::Object(entries)) => entries,
            Some(other) => {
                self.problem(&path, format!("expected an object, got {}", other.describe()));
                &[]
            }
        };
        let section = Section { path, entries };
        self.check_names(&section);
        section
    }

    fn check_names(&mut self, section: &Section<'_>) {
        let known = schema::names_under(&section.path);
        for (index, (name, _)) in section.entries.iter().enumerate() {
            let path = section.path_of(name);
            if !known.contains(&name.as_str()) {
                self.problem(path, unknown(name, &known));
            } else if section.entries.iter().take(index).any(|(earlier, _)| earlier == name) {
                self.problem(path, "given more than once");
            }
        }
    }

    /// A whole number, checked against the schema.
    pub(super) fn integer(&mut self, section: &Section<'_>, name: &str) -> u64 {
        let path = section.path_of(name);
        let (min, max, step, default) = range_of(&path);
        let Some(node) = section.get(name) else {
            if default.is_none() {
                self.problem(&path, format!("missing; expected {}", words(&path)));
            }
            return default.unwrap_or(min);
        };
        match *node {
            Node::Unsigned(value) if (min..=max).contains(&value) && value % step == 0 => value,
            ref other => {
                let got = other.describe();
                self.problem(&path, format!("expected {}, got {got}", words(&path)));
                default.unwrap_or(min)
            }
        }
    }

    /// As [`Reader::integer`], for fields whose schema keeps them in 32 bits.
    pub(super) fn integer32(&mut self, section: &Section<'_>, name: &str) -> u32 {
        u32::try_from(self.integer(section, name)).unwrap_or(u32::MAX)
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, section: &Section<'_>, name: &str) -> bool {
        let path = section.path_of(name);
        let default = match schema::field(&path).map(|f| f.kind) {
            Some(Kind::Flag { default }) => default,
            _ => false,
        };
        match section.get(name) {
            None => default,
            Some(Node::Bool(value)) => *value,
            Some(other) => {
                self.problem(path, format!("expected true or false, got {}", other.describe()));
                default
            }
        }
    }

    /// One text, checked against the schema.
    pub(super) fn text(&mut self, section: &Section<'_>, name: &str) -> String {
        let path = section.path_of(name);
        let (choices, default) = match schema::field(&path).map(|f| f.kind) {
            Some(Kind::Text { choices, default }) => (choices, default),
            _ => (&[][..], ""),
        };
        match section.get(name) {
            None => default.to_owned(),
            Some(Node::Text(text)) if choices.is_empty() || choices.contains(&text.as_str()) => {
                text.clone()
            }
            Some(other) => {
                let expected = match choices {
                    [] => "a text".to_owned(),
                    _ => choices.iter().map(|c| format!("{c:?}")).collect::<Vec<_>>().join(", "),
                };
                self.problem(path, format!("expected {expected}, got {}", other.describe()));
                default.to_owned()
            }
        }
    }

    /// A list of texts, which must be given.
    pub(super) fn texts(&mut self, section: &Section<'_>, name: &str) -> Vec<String> {
        let path = section.path_of(name);
        let items = match section.get(name) {
            Some(Node::List(items)) => items,
            Some(other) => {
                let got = other.describe();
                self.problem(path, format!("expected a list of texts, got {got}"));
                return Vec::new();
            }
            None => {
                self.problem(path, "missing; expected a list of drive paths");
                return Vec::new();
            }
        };
        let mut texts = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match item {
                Node::Text(text) => texts.push(text.clone()),
                other => self.problem(
                    format!("{path}[{index}]"),
                    format!("expected a text, got {}", other.describe()),
                ),
            }
        }
        texts
    }
}

fn range_of(path: &str) -> (u64, u64, u64, Option<u64>) {
    match schema::field(path).map(|f| f.kind) {
        Some(Kind::Integer { min, max, step, default }) => (min, max, step, default),
        _ => (0, u64::MAX, 1, Some(0)),
    }
}

/// What a number field takes, in words.
fn words(path: &str) -> String {
    let (min, max, step, _) = range_of(path);
    let unit = schema::field(path).map_or("", |f| f.unit);
    if path == "disk.block_size" {
        return "512 or 4096 (bytes)".to_owned();
    }
    let multiple = if step > 1 { format!(", a multiple of {step}") } else { String::new() };
    format!("a whole number from {min} to {max} ({unit}){multiple}")
}

fn unknown(name: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    if let Some((score, candidate)) = near
        && score > 0.8
    {
        return format!("unknown key, did you mean {candidate:?}?");
    }
    let elsewhere = FIELDS.iter().find(|f| f.path.rsplit('.').next() == Some(name));
    match elsewhere {
        Some(field) => format!("unknown key here, did you mean {:?}?", field.path),
        None => format!("unknown key; known here: {}", known.join(", ")),
    }
}
