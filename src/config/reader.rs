//! Reads typed values off the tree; a problem is noted with its place, and reading goes on.
//!
//! Every reader returns [`Noted`] once it has noted why: the caller reads all it can before it gives up on
//! its own value, so one pass finds everything.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::block::Block;
use super::files::Files;
use super::interpolate::{self, Lookup};
use super::report::{Problem, Report};
use super::tree::{Key, Node, Place, Scalar, Style, Value};
use super::units::{ShownDuration, ShownSize, parse_duration, parse_size};
use crate::name::Name;

/// What is read; or a problem with it has been noted.
pub(super) type Read<T> = Result<T, Noted>;

/// A problem is in the [`Report`]; nothing more is to be said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noted;

/// Words that are less alike (Jaro-Winkler) are not taken for typing errors.
const LIKENESS_MIN: f64 = 0.84;

/// What every reader shares.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub report: &'a Report,
    pub env: &'a Lookup<'a>,
    pub files: &'a Files<'a>,
}

/// A value of the file, with the way to it.
#[derive(Clone)]
pub(super) struct At<'a> {
    pub node: &'a Node,
    pub path: String,
    pub around: Surroundings<'a>,
}

/// Text of the file.
pub(super) struct Text {
    /// Variables filled in.
    pub value: String,
    /// As it stands in the file: what a message may quote.
    pub written: String,
    /// Where what is written begins, if it stands in the file letter for letter.
    pub verbatim: Option<Place>,
}

impl Surroundings<'_> {
    /// Notes a problem; the [`Noted`] says that there is one.
    pub fn note(&self, place: Place, path: &str, what: impl Into<String>) -> Noted {
        self.report.problem(Problem {
            place,
            path: path.to_owned(),
            what: what.into(),
        });
        Noted
    }
}

impl<'a> At<'a> {
    pub fn root(node: &'a Node, around: Surroundings<'a>) -> Self {
        Self::new(node, String::new(), around)
    }

    pub fn new(node: &'a Node, path: String, around: Surroundings<'a>) -> Self {
        Self { node, path, around }
    }

    pub fn place(&self) -> Place {
        self.node.place
    }

    /// Notes a problem with this value.
    pub fn problem<T>(&self, what: impl Into<String>) -> Read<T> {
        Err(self.around.note(self.place(), &self.path, what))
    }

    /// Notes a problem at a place inside this value.
    pub fn problem_at<T>(&self, place: Place, what: impl Into<String>) -> Read<T> {
        Err(self.around.note(place, &self.path, what))
    }

    pub fn warning(&self, what: impl Into<String>) {
        self.around.report.warning(Problem {
            place: self.place(),
            path: self.path.clone(),
            what: what.into(),
        });
    }

    pub fn is_mapping(&self) -> bool {
        matches!(self.node.value, Value::Mapping(_))
    }

    /// Passes a value on the first time it is seen; names and paths must differ.
    pub fn once<T: Ord + Clone>(&self, seen: &mut BTreeMap<T, Place>, value: T) -> Read<T> {
        if let Some(first) = seen.get(&value) {
            let Place { line, column } = first;
            let what = format!("used before, at {line}:{column}; give each its own");
            return self.problem(what);
        }
        seen.insert(value.clone(), self.place());
        Ok(value)
    }

    /// Whether this is exactly that word.
    pub fn is_word(&self, word: &str) -> bool {
        matches!(&self.node.value, Value::Scalar(scalar) if scalar.text == word)
    }

    /// A mapping that may have these keys and no others.
    pub fn block(&self, keys: &'static [&'static str]) -> Read<Block<'a>> {
        #[cfg(test)]
        self.around.report.knows(&self.path, keys);
        let mut entries = self.entries()?;
        entries.retain(|(key, _)| {
            let known = keys.contains(&key.text.as_str());
            if !known {
                let what = format!("unknown key; {}", suggest(&key.text, keys.iter().copied()));
                self.problem_with(key, what);
            }
            known
        });
        Ok(Block::new(self, entries, keys))
    }

    /// A mapping whose keys are the user's.
    pub fn map(&self) -> Read<Vec<(&'a Key, At<'a>)>> {
        let entries = self.entries()?;
        let at =
            |(key, node): (&'a Key, &'a Node)| (key, self.at(node, join(&self.path, &key.text)));
        Ok(entries.into_iter().map(at).collect())
    }

    /// A list of so many values.
    pub fn list(&self, count: RangeInclusive<usize>) -> Read<Vec<At<'a>>> {
        let Value::Sequence(items) = &self.node.value else {
            return self.problem(format!(
                "{}, where a list belongs: `[…]`, or a line with `- ` for each",
                self.kind()
            ));
        };
        if items.is_empty() && !count.contains(&0) {
            return self.problem("an empty list; at least one entry belongs here");
        }
        if !count.contains(&items.len()) {
            let (min, max) = count.into_inner();
            return self.problem(format!(
                "{} entries, where {min} to {max} belong",
                items.len()
            ));
        }
        let item = |(n, node)| self.at(node, format!("{}[{n}]", self.path));
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// Text that is not empty.
    pub fn text(&self) -> Read<Text> {
        let scalar = self.scalar("text")?;
        match interpolate::fill(&scalar.text, self.around.env) {
            Err(what) => self.problem(what),
            Ok(value) if value.is_empty() => {
                self.problem("empty; write a value, or remove the key")
            }
            Ok(value) => Ok(Text {
                verbatim: scalar.verbatim,
                written: scalar.text.clone(),
                value,
            }),
        }
    }

    pub fn name(&self) -> Read<Name> {
        let text = self.text()?;
        match Name::new(&text.value) {
            Ok(name) => Ok(name),
            Err(error) => self.problem(format!("`{}` is no name: {error}", text.written)),
        }
    }

    /// One of a closed set of words.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Read<T> {
        let text = self.text()?;
        let found = choices.iter().find(|(word, _)| *word == text.value);
        if let Some((_, value)) = found {
            return Ok(*value);
        }
        let words: Vec<_> = choices
            .iter()
            .map(|(word, _)| format!("`{word}`"))
            .collect();
        self.problem(format!(
            "`{}` is none of {}",
            text.written,
            words.join(", ")
        ))
    }

    pub fn duration(&self, bounds: RangeInclusive<Duration>) -> Read<Duration> {
        let text = self.text()?;
        match parse_duration(&text.value) {
            Some(duration) => self.within(duration, bounds, ShownDuration),
            None if is_digits(&text.written) => self.problem(format!("no unit; write `{0}s` for {0} seconds", text.written)),
            None => self.problem(format!(
                "`{}` is no duration; write whole numbers with `h`, `m`, `s` or `ms`, such as `90s` or `1h30m`",
                text.written
            )),
        }
    }

    /// A number of bytes.
    pub fn size(&self, bounds: RangeInclusive<u64>) -> Read<u64> {
        let text = self.text()?;
        match parse_size(&text.value) {
            Some(size) => self.within(size, bounds, ShownSize),
            None if is_digits(&text.written) => self.problem(format!("no unit; write `{0}B` for {0} bytes", text.written)),
            None => self.problem(format!(
                "`{}` is no size; write a whole number with its unit, such as `64KiB`, `8MiB` or `4GiB`",
                text.written
            )),
        }
    }

    /// A whole number, plain decimal digits: no octal, no hexadecimal, no sign.
    pub fn number<T>(&self, bounds: RangeInclusive<T>) -> Read<T>
    where
        T: Copy + PartialOrd + Display + TryFrom<u64>,
    {
        let scalar = self.scalar("a whole number")?;
        let written = &scalar.text;
        if scalar.style == Style::Quoted {
            return self.problem("text, where a whole number belongs; write it without quotes");
        }
        if !is_digits(written) || (written.len() > 1 && written.starts_with('0')) {
            return self.problem(format!(
                "`{written}` is no whole number; write decimal digits, such as `16`"
            ));
        }
        let number = written
            .parse::<u64>()
            .ok()
            .and_then(|n| T::try_from(n).ok());
        match number {
            Some(number) => self.within(number, bounds, |n| n),
            None => self.problem(outside(written, *bounds.start(), *bounds.end())),
        }
    }

    pub fn boolean(&self) -> Read<bool> {
        let scalar = self.scalar("`true` or `false`")?;
        match (scalar.style, scalar.text.as_str()) {
            (Style::Plain, "true") => Ok(true),
            (Style::Plain, "false") => Ok(false),
            _ => self.problem("neither true nor false; write `true` or `false`, without quotes"),
        }
    }

    fn within<T, S: Display>(
        &self,
        value: T,
        bounds: RangeInclusive<T>,
        show: impl Fn(T) -> S,
    ) -> Read<T>
    where
        T: Copy + PartialOrd,
    {
        if bounds.contains(&value) {
            return Ok(value);
        }
        self.problem(outside(
            show(value),
            show(*bounds.start()),
            show(*bounds.end()),
        ))
    }

    fn scalar(&self, wanted: &str) -> Read<&'a Scalar> {
        match &self.node.value {
            Value::Scalar(_) if self.node.is_null() => {
                self.problem(format!("nothing, where {wanted} belongs"))
            }
            Value::Scalar(scalar) => Ok(scalar),
            _ => self.problem(format!("{}, where {wanted} belongs", self.kind())),
        }
    }

    /// The entries of a mapping, each key once; notes the ones that come again.
    fn entries(&self) -> Read<Vec<(&'a Key, &'a Node)>> {
        let Value::Mapping(entries) = &self.node.value else {
            return self.problem(format!(
                "{}, where a mapping belongs: lines of `key: value`",
                self.kind()
            ));
        };
        let mut seen: BTreeMap<&str, Place> = BTreeMap::new();
        let mut once = Vec::with_capacity(entries.len());
        for (key, node) in entries {
            if key.style == Style::Plain && key.text == "<<" {
                self.problem_with(
                    key,
                    "merge keys (`<<`) are not supported; write the keys out",
                );
            } else if let Some(first) = seen.get(key.text.as_str()) {
                let Place { line, column } = first;
                let what = format!("given before, at {line}:{column}; keep one of the two");
                self.problem_with(key, what);
            } else {
                seen.insert(&key.text, key.place);
                once.push((key, node));
            }
        }
        Ok(once)
    }

    fn problem_with(&self, key: &Key, what: impl Into<String>) {
        let path = join(&self.path, &key.text);
        self.around.note(key.place, &path, what);
    }

    fn kind(&self) -> &'static str {
        match &self.node.value {
            _ if self.node.is_null() => "nothing",
            Value::Scalar(_) => "a single value",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }

    fn at(&self, node: &'a Node, path: String) -> Self {
        Self::new(node, path, self.around)
    }
}

/// Names the nearest of the words that would be right, or all of them.
pub(super) fn suggest<'w>(wrong: &str, words: impl Iterator<Item = &'w str> + Clone) -> String {
    let wrong = wrong.to_lowercase();
    let likeness = |word: &str| match strsim::osa_distance(&wrong, word) {
        0 | 1 => 1.0,
        _ => strsim::jaro_winkler(&wrong, word),
    };
    let nearest = words
        .clone()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .filter(|word| likeness(word) >= LIKENESS_MIN);
    if let Some(word) = nearest {
        return format!("did you mean `{word}`?");
    }
    let words: Vec<_> = words.map(|word| format!("`{word}`")).collect();
    let verb = if words.len() == 1 { "is" } else { "are" };
    format!("there {verb} {}", words.join(", "))
}

fn outside(value: impl Display, min: impl Display, max: impl Display) -> String {
    format!("{value} is out of bounds; write {min} to {max}")
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit())
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
