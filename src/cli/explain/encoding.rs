//! Other spellings of the same JSON: what a sender may have signed before something on the way
//! re-encoded it.
//!
//! Works on the text, so that the order of keys and the spelling of numbers stay; only white space and
//! escapes change. Costs one pass a spelling; one above [`GROWTH_MAX`] is let go, so that deep nesting
//! does not turn into gigabytes of indentation.

use std::fmt::Write;

/// Bytes of a spelling for each byte of the document.
const GROWTH_MAX: usize = 8;

/// White space between tokens.
#[derive(Clone, Copy)]
struct Spacing {
    after_comma: &'static str,
    after_colon: &'static str,
    /// One level of indentation; `None` for a single line.
    indent: Option<&'static str>,
}

/// None, as Go and JavaScript write; single spaces, as Python does; and the common pretty ones.
const SPACINGS: [Spacing; 4] = [
    Spacing::line("", ""),
    Spacing::line(" ", " "),
    Spacing::pretty("  "),
    Spacing::pretty("    "),
];

/// How strings are written.
#[derive(Clone, Copy)]
enum Escapes {
    AsTheyAre,
    /// What JSON demands and no more.
    Least,
    /// Go's encoder also escapes what HTML would mistake.
    Go,
    /// Python's encoder also escapes what is not ASCII.
    Ascii,
}

const ESCAPES: [Escapes; 4] = [
    Escapes::AsTheyAre,
    Escapes::Least,
    Escapes::Go,
    Escapes::Ascii,
];

/// The spellings of a JSON document that common encoders would write; none of what is not JSON.
pub(super) fn spellings(json: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(json).is_ok();
    let text = std::str::from_utf8(json).unwrap_or_default();
    let text = if is_json { text } else { "" };
    SPACINGS.iter().flat_map(move |spacing| {
        ESCAPES
            .iter()
            .filter(|_| !text.is_empty())
            .filter_map(|escapes| write(text, *spacing, *escapes))
            .map(String::into_bytes)
    })
}

impl Spacing {
    const fn line(after_comma: &'static str, after_colon: &'static str) -> Self {
        Self {
            after_comma,
            after_colon,
            indent: None,
        }
    }

    const fn pretty(indent: &'static str) -> Self {
        Self {
            after_comma: "",
            after_colon: " ",
            indent: Some(indent),
        }
    }
}

fn write(json: &str, spacing: Spacing, escapes: Escapes) -> Option<String> {
    let mut out = String::with_capacity(json.len());
    let mut depth = 0_usize;
    let mut rest = json.trim_start();
    while let Some(first) = rest.chars().next() {
        if out.len() > json.len() * GROWTH_MAX {
            return None;
        }
        let (token, after) = rest.split_at(token_length(rest));
        rest = after.trim_start();
        match first {
            '"' => string(token, escapes, &mut out),
            '{' | '[' if rest.starts_with(['}', ']']) => {
                out.push_str(token);
                out.push_str(&rest[..1]);
                rest = rest[1..].trim_start();
            }
            '{' | '[' => {
                out.push_str(token);
                depth += 1;
                line(spacing, depth, &mut out);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(spacing, depth, &mut out);
                out.push_str(token);
            }
            ',' => {
                out.push(',');
                out.push_str(spacing.after_comma);
                line(spacing, depth, &mut out);
            }
            ':' => {
                out.push(':');
                out.push_str(spacing.after_colon);
            }
            _ => out.push_str(token),
        }
    }
    Some(out)
}

/// Bytes of the first token of valid JSON.
fn token_length(json: &str) -> usize {
    let bytes = json.as_bytes();
    match bytes[0] {
        b'"' => {
            let mut at = 1;
            while bytes.get(at).is_some_and(|byte| *byte != b'"') {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            (at + 1).min(bytes.len())
        }
        b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
        _ => json
            .find(|c: char| c.is_ascii_whitespace() || "{}[],:\"".contains(c))
            .unwrap_or(json.len()),
    }
}

fn line(spacing: Spacing, depth: usize, out: &mut String) {
    if let Some(indent) = spacing.indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(indent, depth));
    }
}

fn string(token: &str, escapes: Escapes, out: &mut String) {
    let plain = match escapes {
        Escapes::AsTheyAre => None,
        // A lone surrogate is valid JSON and no text; it stays as it is.
        _ => serde_json::from_str::<String>(token).ok(),
    };
    let Some(plain) = plain else {
        return out.push_str(token);
    };
    for c in serde_json::Value::from(plain).to_string().chars() {
        match escapes {
            Escapes::Go if matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') => {
                escape(c, out);
            }
            Escapes::Ascii if !c.is_ascii() => escape(c, out),
            _ => out.push(c),
        }
    }
}

fn escape(c: char, out: &mut String) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        // A String takes all that is written to it.
        let _ = write!(out, "\\u{unit:04x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_common_spelling_leads_back_to_every_other() {
        let compact = r#"{"z":"a<b & \"c\" ü😀\n","a":[1.0,1e5,{},[],null],"m":{"k":true}}"#;
        let all: Vec<_> = spellings(compact.as_bytes()).collect();
        assert_eq!(all.len(), SPACINGS.len() * ESCAPES.len());
        assert_eq!(all[0], compact.as_bytes());
        for one in &all {
            let value: serde_json::Value = serde_json::from_slice(one).expect("JSON");
            let expected: serde_json::Value = serde_json::from_str(compact).expect("JSON");
            assert_eq!(value, expected);
            assert!(spellings(one).any(|back| back == compact.as_bytes()));
        }
    }

    #[test]
    fn the_spellings_are_those_of_the_encoders() {
        let all: Vec<_> = spellings(r#"{"a": ["<", "ü"]}"#.as_bytes())
            .map(|spelling| String::from_utf8(spelling).expect("text"))
            .collect();
        let expected = [
            r#"{"a":["\u003c","ü"]}"#,
            r#"{"a": ["<", "\u00fc"]}"#,
            "{\n  \"a\": [\n    \"<\",\n    \"ü\"\n  ]\n}",
        ];
        for spelling in expected {
            assert!(all.iter().any(|one| one == spelling), "{spelling}: {all:?}");
        }
    }

    #[test]
    fn deep_nesting_makes_no_flood_of_indentation() {
        let deep = format!(
            "{}{}{}",
            "[".repeat(100),
            "0,".repeat(9999) + "0",
            "]".repeat(100)
        );
        let all: Vec<_> = spellings(deep.as_bytes()).collect();
        assert_eq!(all.len(), 2 * ESCAPES.len(), "the two without indentation");
    }

    #[test]
    fn what_is_not_json_has_none() {
        for text in ["", "{", "nope", "{} {}", "\u{feff}{}"] {
            assert_eq!(spellings(text.as_bytes()).count(), 0, "{text}");
        }
    }
}
