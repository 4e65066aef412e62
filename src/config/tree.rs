//! The config file as a tree in which everything knows its place.
//!
//! YAML is read as it is written: scalars stay text (a reader that wants a number says so), so no `no`
//! turns into false and no `1:30` into 5400. Refused, with the place: what is no YAML, more than one
//! document, tags, keys that are no scalars, control characters, and anything past the limits below.
//! Anchors are copied and aliases expanded, and both count in full: a few bytes cannot stand for many.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

/// Mappings and lists inside each other, at most.
pub const DEPTH_MAX: usize = 64;
/// Scalars, mappings and lists in one file, and in what its anchors and aliases repeat, at most.
pub const NODES_MAX: usize = 100_000;
/// Text that anchors and aliases may repeat, at most.
pub const REPEATED_BYTES_MAX: usize = 1 << 20;

/// A place in the file; both count from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

/// A value and where it begins. One that an alias stands for keeps the place where it is written.
#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    /// As written: in order, duplicates included.
    Mapping(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub struct Scalar {
    pub text: String,
    pub style: Style,
    /// Where the text itself begins, if it stands in the file letter for letter, on one line.
    pub verbatim: Option<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    /// In quotes, or a block scalar.
    Quoted,
}

#[derive(Clone, Debug)]
pub struct Key {
    pub text: String,
    pub place: Place,
    pub style: Style,
}

/// Why there is no tree.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub place: Place,
    pub what: String,
}

/// # Errors
/// [`Refusal`], the first there is: after it nothing certain can be said of the rest.
pub fn parse(text: &str) -> Result<Node, Refusal> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    refuse_control_characters(text)?;
    let mut builder = Builder {
        text,
        parser: Parser::new_from_str(text),
        anchors: BTreeMap::new(),
        nodes: 0,
        repeated_bytes: 0,
    };
    builder.document()
}

impl Place {
    pub const START: Self = Self { line: 1, column: 1 };

    fn of(span: Span) -> Self {
        Self {
            line: span.start.line(),
            column: span.start.col() + 1,
        }
    }
}

impl Node {
    /// `null`, `~`, or nothing at all.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar)
            if scalar.style == Style::Plain && matches!(scalar.text.as_str(), "" | "~" | "null"))
    }

    fn size(&self) -> Size {
        let inside = |sizes: &mut dyn Iterator<Item = Size>| {
            sizes.fold(Size::LEAF, |sum, inner| Size {
                nodes: sum.nodes + inner.nodes,
                bytes: sum.bytes + inner.bytes,
                depth: sum.depth.max(inner.depth + 1),
            })
        };
        match &self.value {
            Value::Scalar(scalar) => Size {
                bytes: scalar.text.len(),
                ..Size::LEAF
            },
            Value::Sequence(items) => inside(&mut items.iter().map(Self::size)),
            Value::Mapping(entries) => inside(&mut entries.iter().map(|(key, value)| {
                let size = value.size();
                Size {
                    bytes: size.bytes + key.text.len(),
                    ..size
                }
            })),
        }
    }
}

struct Size {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

impl Size {
    const LEAF: Self = Self {
        nodes: 1,
        bytes: 0,
        depth: 1,
    };
}

struct Builder<'t> {
    text: &'t str,
    parser: Parser<'t, StrInput<'t>>,
    /// Complete values that have an anchor, by the parser's number for it.
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    repeated_bytes: usize,
}

impl<'t> Builder<'t> {
    fn document(&mut self) -> Result<Node, Refusal> {
        let (first, span) = self.skip_to_document()?;
        if first == Event::StreamEnd {
            return refuse(
                Place::START,
                "the file is empty; begin with the config.yaml that comes with suki-relay",
            );
        }
        let (event, root) = if matches!(first, Event::DocumentStart(_)) {
            self.next()?
        } else {
            (first, span)
        };
        let node = self.node(event, root, 1)?;
        let (end, span) = self.skip_to_document()?;
        if end == Event::StreamEnd {
            return Ok(node);
        }
        refuse(
            Place::of(span),
            "a second document begins; a config is one document, without `---` in it",
        )
    }

    fn skip_to_document(&mut self) -> Result<(Event<'t>, Span), Refusal> {
        loop {
            let (event, span) = self.next()?;
            if !matches!(
                event,
                Event::StreamStart | Event::DocumentEnd | Event::Nothing
            ) {
                return Ok((event, span));
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), Refusal> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(explain(self.text, &error)),
            None => refuse(Place::START, "the file ends too early"),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Refusal> {
        let place = Place::of(span);
        self.count(place, 1)?;
        if depth > DEPTH_MAX {
            return refuse(place, format!("nested deeper than {DEPTH_MAX} levels"));
        }
        let (value, anchor) = match event {
            Event::Alias(anchor) => return self.alias(anchor, place, depth),
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(place, tag.as_deref())?;
                (
                    Value::Scalar(scalar(text.into_owned(), style, span)),
                    anchor,
                )
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(place, tag.as_deref())?;
                (Value::Sequence(self.items(depth)?), anchor)
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(place, tag.as_deref())?;
                (Value::Mapping(self.entries(depth)?), anchor)
            }
            _ => return refuse(place, "a value is missing here"),
        };
        let node = Node { place, value };
        if anchor != 0 {
            self.count_copy(place, &node.size())?; // what aliases are made from is a copy, too
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Node>, Refusal> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(items);
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<(Key, Node)>, Refusal> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(entries);
            }
            let key = self.key(event, span)?;
            let (event, span) = self.next()?;
            let mut value = self.node(event, span, depth + 1)?;
            if matches!(&value.value, Value::Scalar(scalar) if scalar.text.is_empty()) {
                value.place = key.place; // nothing is there to point at
            }
            entries.push((key, value));
        }
    }

    fn key(&mut self, event: Event<'t>, span: Span) -> Result<Key, Refusal> {
        let place = Place::of(span);
        self.count(place, 1)?;
        let Event::Scalar(text, style, anchor, tag) = event else {
            return refuse(place, "a key must be plain text, no list, mapping or alias");
        };
        refuse_tag(place, tag.as_deref())?;
        if anchor != 0 {
            return refuse(
                place,
                "a key cannot have an anchor (`&`) here; put it on a value",
            );
        }
        let Scalar { text, style, .. } = scalar(text.into_owned(), style, span);
        Ok(Key { text, place, style })
    }

    fn alias(&mut self, anchor: usize, place: Place, depth: usize) -> Result<Node, Refusal> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return refuse(place, "an alias (`*`) inside the value that it stands for");
        };
        let size = node.size();
        if depth + size.depth > DEPTH_MAX + 1 {
            return refuse(place, format!("nested deeper than {DEPTH_MAX} levels"));
        }
        self.count_copy(place, &size)?;
        Ok(node)
    }

    fn count_copy(&mut self, place: Place, size: &Size) -> Result<(), Refusal> {
        self.repeated_bytes += size.bytes;
        if self.repeated_bytes > REPEATED_BYTES_MAX {
            let what = "anchors (`&`) and aliases (`*`) repeat more than 1 MiB of text; write less of them";
            return refuse(place, what);
        }
        self.count(place, size.nodes)
    }

    fn count(&mut self, place: Place, more: usize) -> Result<(), Refusal> {
        self.nodes += more;
        if self.nodes > NODES_MAX {
            let what = format!(
                "more than {NODES_MAX} values, with what anchors (`&`) and aliases (`*`) repeat; write less of them"
            );
            return refuse(place, what);
        }
        Ok(())
    }
}

fn scalar(text: String, style: ScalarStyle, span: Span) -> Scalar {
    let quotes = match style {
        ScalarStyle::Plain => 0,
        _ => 2,
    };
    let one_line = span.start.line() == span.end.line() && !text.contains('\n');
    let same_length = span.len() == text.chars().count() + quotes;
    let start = Place::of(span);
    Scalar {
        verbatim: (one_line && same_length).then_some(Place {
            column: start.column + quotes / 2,
            ..start
        }),
        style: match style {
            ScalarStyle::Plain => Style::Plain,
            _ => Style::Quoted,
        },
        text,
    }
}

fn refuse<T>(place: Place, what: impl Into<String>) -> Result<T, Refusal> {
    let what = what.into();
    Err(Refusal { place, what })
}

fn refuse_tag(place: Place, tag: Option<&saphyr_parser::Tag>) -> Result<(), Refusal> {
    match tag {
        None => Ok(()),
        Some(_) => refuse(
            place,
            "a tag (`!`) has no meaning here; remove it, or put the text in quotes if it begins with `!`",
        ),
    }
}

/// The parser takes a NUL for the end of the file, and what follows would be passed over in silence.
fn refuse_control_characters(text: &str) -> Result<(), Refusal> {
    for (number, line) in text.split('\n').enumerate() {
        let bad = |c: char| c.is_control() && !matches!(c, '\t' | '\r');
        if let Some(column) = line.chars().position(bad) {
            let place = Place {
                line: number + 1,
                column: column + 1,
            };
            return refuse(place, "a control character; a config is plain UTF-8 text");
        }
    }
    Ok(())
}

fn explain(text: &str, error: &ScanError) -> Refusal {
    let at = error.marker();
    let place = Place {
        line: at.line().max(1),
        column: at.col() + 1,
    };
    let line = text.lines().nth(place.line - 1).unwrap_or_default();
    let indent_end = line
        .find(|c: char| !c.is_whitespace())
        .unwrap_or(line.len());
    if let Some(tab) = line[..indent_end].find('\t') {
        let place = Place {
            column: tab + 1,
            ..place
        };
        let what = "a tab indents this line, and YAML does not allow it; use spaces".into();
        return Refusal { place, what };
    }
    Refusal {
        place,
        what: format!("not YAML: {}", error.info()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> Refusal {
        parse(text).expect_err("refused")
    }

    fn entries(node: &Node) -> &[(Key, Node)] {
        match &node.value {
            Value::Mapping(entries) => entries,
            _ => panic!("no mapping"),
        }
    }

    fn at(line: usize, column: usize) -> Place {
        Place { line, column }
    }

    #[test]
    fn everything_knows_its_place() {
        let root = parse("a:\n  b: [x, 'y']\nä: {c: d}\ne:\n").expect("a tree");
        let [(_, a), (_, ae), (_, e)] = entries(&root) else {
            panic!("three keys")
        };
        assert_eq!(a.place, at(2, 3));
        assert_eq!(entries(a)[0].1.place, at(2, 6));
        assert_eq!(ae.place, at(3, 4));
        assert_eq!(entries(ae)[0].1.place, at(3, 8));
        assert!(e.is_null());
        assert_eq!(e.place, at(4, 1));
    }

    #[test]
    fn a_one_line_scalar_is_verbatim_unless_it_is_escaped_or_folded() {
        let root = parse("a: x y  # c\nb: \"x\"\nc: \"\\x41\"\nd: 'i''s'\ne: |\n  x\nf: x\n  y\n");
        let root = root.expect("a tree");
        let verbatim: Vec<_> = entries(&root)
            .iter()
            .map(|(_, node)| match &node.value {
                Value::Scalar(scalar) => scalar.verbatim,
                _ => None,
            })
            .collect();
        assert_eq!(
            verbatim,
            [Some(at(1, 4)), Some(at(2, 5)), None, None, None, None]
        );
    }

    #[test]
    fn null_is_written_plain() {
        let root = parse("- null\n- ~\n-\n- 'null'\n- \"\"\n- nil\n").expect("a tree");
        let Value::Sequence(items) = &root.value else {
            panic!("no list")
        };
        let nulls: Vec<bool> = items.iter().map(Node::is_null).collect();
        assert_eq!(nulls, [true, true, true, false, false, false]);
    }

    #[test]
    fn aliases_count_in_full() {
        let level = |n: usize| {
            format!(
                "a{n}: &a{n} [{}]\n",
                vec![format!("*a{}", n - 1); 10].join(", ")
            )
        };
        let bomb = "a0: &a0 [x, x, x]\n".to_owned() + &(1..9).map(level).collect::<String>();
        assert!(refusal(&bomb).what.contains("more than 100000 values"));
        let wide = format!(
            "a: &a {}\nb: [{}]\n",
            "x".repeat(500_000),
            vec!["*a"; 1000].join(", ")
        );
        assert!(refusal(&wide).what.contains("1 MiB of text"));
        let nested = format!(
            "{}{}{}",
            "&a [".repeat(60),
            "x, ".repeat(9000),
            "]".repeat(60)
        );
        assert!(refusal(&nested).what.contains("more than 100000 values"));
        assert!(refusal("a: &a [*a]\n").what.contains("inside the value"));
        assert!(parse("a: &a {x: y}\nb: *a\n").is_ok());
    }

    #[test]
    fn nesting_has_a_limit_also_through_aliases() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(&nested(DEPTH_MAX)).is_ok());
        assert!(
            refusal(&nested(DEPTH_MAX + 1))
                .what
                .contains("nested deeper")
        );
        assert!(
            refusal(&"- ".repeat(100_000))
                .what
                .contains("nested deeper")
        );
        let doubled = format!(
            "a: &a {}\nb: {}*a{}\n",
            nested(40),
            "[".repeat(40),
            "]".repeat(40)
        );
        assert!(refusal(&doubled).what.contains("nested deeper"));
    }

    #[test]
    fn a_nul_does_not_hide_what_follows() {
        assert_eq!(refusal("a: b\nc: \0d\n").place, at(2, 4));
    }

    #[test]
    fn what_is_no_single_plain_document_is_refused_with_a_reason() {
        let cases = [
            ("", at(1, 1), "empty"),
            ("# only a comment\n", at(1, 1), "empty"),
            ("a: b\n---\nc: d\n", at(2, 1), "second document"),
            ("a: !!str 5\n", at(1, 4), "tag"),
            ("? [a]\n: b\n", at(1, 3), "a key must be"),
            ("a:\n\tb: c\n", at(2, 1), "tab"),
            ("a: *b\n", at(1, 4), "not YAML"),
            ("a: [\n", at(2, 1), "not YAML"),
        ];
        for (text, place, fragment) in cases {
            let refusal = refusal(text);
            assert!(refusal.what.contains(fragment), "{text:?}: {refusal:?}");
            assert_eq!(refusal.place, place, "{text:?}: {refusal:?}");
        }
    }
}
