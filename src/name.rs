//! Names that operators give to sources, secrets, targets and routes.
//!
//! A [`Name`] becomes a metric label, a log field and a header value, so its alphabet is closed.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// At most this many characters in a name; the limit of a Kubernetes label value.
pub const NAME_LENGTH_MAX: usize = 63;

/// A lower-case name such as `ehr-europe`: letters, digits, `-`, `_` and `.`, no longer than
/// [`NAME_LENGTH_MAX`], with a letter or digit at either end. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name is 1 to {NAME_LENGTH_MAX} lower-case letters, digits, `-`, `_` or `.`, with a letter or digit at either end"
)]
pub struct NameError;

impl Name {
    /// # Errors
    /// [`NameError`] if `text` is no name.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let inner = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        let end = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let bytes = text.as_bytes();
        let fits = bytes.len() <= NAME_LENGTH_MAX
            && bytes.iter().copied().all(inner)
            && end(bytes.first())
            && end(bytes.last());
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(NameError)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_closed_alphabet() {
        for good in ["a", "ehr", "ehr-2.eu_west", &"x".repeat(NAME_LENGTH_MAX)] {
            assert_eq!(Name::new(good).map(|n| n.to_string()).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a b",
            "a\n",
            "é",
            &"x".repeat(NAME_LENGTH_MAX + 1),
        ] {
            assert_eq!(Name::new(bad), Err(NameError), "{bad:?}");
        }
    }
}
