//! Bytes that must never be seen: no `Display`, a `Debug` that says nothing, wiped when dropped.

use std::fmt;

use zeroize::Zeroizing;

/// A secret's bytes. Compare and print are left out on purpose.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes a secret as it stands in a file or variable: one trailing line end is an editor's, not
    /// the secret's. Empty is `None`: an empty key would verify what anybody can sign.
    pub fn from_text(text: Vec<u8>) -> Option<Self> {
        let mut bytes = Zeroizing::new(text);
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        (!bytes.is_empty()).then_some(Self(bytes))
    }

    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trailing_line_end_is_trimmed_and_no_more() {
        let cases: [(&[u8], &[u8]); 4] = [
            (b"key\n", b"key"),
            (b"key\r\n", b"key"),
            (b"key\n\n", b"key\n"),
            (b" key ", b" key "),
        ];
        for (text, kept) in cases {
            let secret = Secret::from_text(text.to_vec()).expect("not empty");
            assert_eq!(secret.expose(), kept);
        }
    }

    #[test]
    fn an_empty_secret_is_none() {
        assert!(Secret::from_text(Vec::new()).is_none());
        assert!(Secret::from_text(b"\n".to_vec()).is_none());
    }

    /// Compiles only while there is no `Display`: with one, two traits have what is asked for.
    #[test]
    fn a_secret_cannot_be_displayed_and_is_wiped_when_dropped() {
        trait Undisplayed<Which> {
            fn holds() {}
        }
        struct Any;
        struct Displayed;
        impl<T> Undisplayed<Any> for T {}
        impl<T: fmt::Display> Undisplayed<Displayed> for T {}
        fn is_wiped(_: &impl zeroize::ZeroizeOnDrop) {}

        <Secret as Undisplayed<_>>::holds();
        let Secret(bytes) = Secret::from_text(b"hunter2".to_vec()).expect("not empty");
        is_wiped(&bytes);
    }

    #[test]
    fn debug_shows_nothing_of_a_secret() {
        let secret = Secret::from_text(b"hunter2".to_vec()).expect("not empty");
        assert!(!format!("{secret:?}").contains("hunter"));
    }
}
