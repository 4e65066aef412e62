//! What is wrong with a config: every problem, each with its place.
//!
//! A problem may quote what the file says in plain sight, never what a `${…}`, a file or a variable
//! brought in: that may be a secret. Names, of things and of files, are none.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

use super::fingerprint::Fingerprint;
use super::tree::Place;

/// Problems that a line of the log tells.
const SHOWN_MAX: usize = 20;

/// One thing that is wrong, or doubtful, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// Such as `listen.limits.body` or `sources[0].path`; empty for the file itself.
    pub path: String,
    pub what: String,
}

/// Why a config is refused.
#[derive(Debug, thiserror::Error)]
pub struct Problems {
    /// The config file, as it was asked for.
    pub origin: PathBuf,
    /// At least one, in the order of the file.
    pub problems: Vec<Problem>,
    /// Doubtful, but no reason to refuse.
    pub warnings: Vec<Problem>,
    /// Every file that was looked at; when one of them changes, the problem may be gone.
    pub files: Vec<PathBuf>,
    /// What those files held.
    pub contents: Fingerprint,
}

/// Collects while the file is read.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    files: RefCell<Vec<PathBuf>>,
    /// By path: what references stood for.
    brought_in: RefCell<Vec<(String, Fingerprint)>>,
    /// Which keys each block of the file may have; tests hold the JSON Schema against it.
    #[cfg(test)]
    known_keys: RefCell<std::collections::BTreeSet<String>>,
}

impl Report {
    pub fn problem(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    pub fn is_clean(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    pub fn warning(&self, warning: Problem) {
        self.warnings.borrow_mut().push(warning);
    }

    pub fn file(&self, file: &Path) {
        let mut files = self.files.borrow_mut();
        if !files.iter().any(|known| known == file) {
            files.push(file.to_owned());
        }
    }

    pub fn bring_in(&self, path: &str, bytes: &[u8]) {
        let brought_in = (path.to_owned(), Fingerprint::of_bytes(bytes));
        self.brought_in.borrow_mut().push(brought_in);
    }

    pub fn brought_in(&self) -> Vec<(String, Fingerprint)> {
        self.brought_in.borrow().clone()
    }

    /// All problems, all warnings, all files.
    pub fn into_parts(self) -> (Vec<Problem>, Vec<Problem>, Vec<PathBuf>) {
        let sorted = |found: RefCell<Vec<Problem>>| {
            let mut found = found.into_inner();
            found.sort_by_key(|problem| problem.place);
            found
        };
        (
            sorted(self.problems),
            sorted(self.warnings),
            self.files.into_inner(),
        )
    }

    /// Notes what a block may have; `sources[1]` and its like become `sources[]`.
    #[cfg(test)]
    pub fn knows(&self, block: &str, keys: &[&str]) {
        let block = block.replace(|c: char| c.is_ascii_digit(), "");
        let path = |key| {
            if block.is_empty() {
                String::from(key)
            } else {
                format!("{block}.{key}")
            }
        };
        self.known_keys
            .borrow_mut()
            .extend(keys.iter().map(|key| path(*key)));
    }

    #[cfg(test)]
    pub fn known_keys(&self) -> std::collections::BTreeSet<String> {
        self.known_keys.borrow().clone()
    }
}

impl Problems {
    /// The one problem of a file that cannot be read as a config at all.
    pub(super) fn of_file(
        origin: &Path,
        contents: Fingerprint,
        place: Place,
        what: String,
    ) -> Self {
        let path = String::new();
        Self {
            origin: origin.to_owned(),
            problems: vec![Problem { place, path, what }],
            warnings: Vec::new(),
            files: vec![origin.to_owned()],
            contents,
        }
    }

    /// Of a file that the reading itself failed on. Says nothing of how: that may quote it.
    pub fn of_panic(origin: &Path, files: Vec<PathBuf>, contents: Fingerprint) -> Self {
        let what = "reading it ended in a defect of the relay; please report it".into();
        Self {
            files,
            ..Self::of_file(origin, contents, Place::START, what)
        }
    }

    /// All in one line, for a log; of very many only the first.
    pub fn one_line(&self) -> String {
        let shown = self.problems.iter().take(SHOWN_MAX);
        let mut lines: Vec<_> = shown
            .map(|problem| {
                problem
                    .in_file(&self.origin)
                    .to_string()
                    .replace('\n', "; ")
            })
            .collect();
        let more = self.problems.len() - lines.len();
        if more > 0 {
            lines.push(format!("and {more} more: `suki-relay check` tells all"));
        }
        lines.join("; ")
    }
}

impl Problem {
    /// With the name of the file in front, as compilers print it.
    pub fn in_file<'a>(&'a self, file: &'a Path) -> impl fmt::Display + 'a {
        Located {
            problem: self,
            file,
        }
    }
}

struct Located<'a> {
    problem: &'a Problem,
    file: &'a Path,
}

impl fmt::Display for Located<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, path, what } = self;
        write!(f, "{}:{}: ", place.line, place.column)?;
        if !path.is_empty() {
            write!(f, "{path}: ")?;
        }
        f.write_str(what)
    }
}

/// A line for each problem.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            let line_end = if number == 0 { "" } else { "\n" };
            write!(f, "{line_end}{}", problem.in_file(&self.origin))?;
        }
        Ok(())
    }
}
