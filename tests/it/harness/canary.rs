//! Canaries: words that are in all that goes in, and must be in nothing that comes out.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Relay, SECRET};

/// In any case of letters, in no word of the relay's and in no path of these tests.
pub const CANARY: &str = "canary";

/// A valid notification that no other is like, with a canary in it.
pub fn fresh() -> String {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    format!(r#"{{"status":"success","session_id":"{CANARY}-{number}"}}"#)
}

/// A signature is so long in hex; an id is half of it.
const SIGNATURE_DIGITS: usize = 64;

/// No line has a canary, the partner secret, or what might be anybody's signature.
pub fn assert_untold(lines: impl IntoIterator<Item = impl AsRef<str>>) {
    for line in lines {
        let line = line.as_ref();
        let tells = line.to_ascii_lowercase().contains(CANARY) || line.contains(SECRET);
        assert!(!tells, "told: {line}");
        // The config's own fingerprint is as long.
        let is_signature = |word: &str| word.len() >= SIGNATURE_DIGITS && !line.contains("sha256");
        let mut words = line.split(|c: char| !c.is_ascii_hexdigit());
        assert!(!words.any(is_signature), "a signature: {line}");
    }
}

impl Relay {
    /// No page of it has told anything, nor has what it wrote since `read` lines of each output; gives back how many
    /// there are now.
    pub async fn told_nobody(&self, read: [usize; 2]) -> [usize; 2] {
        let written = self.written();
        for (lines, read) in written.iter().zip(read) {
            assert_untold(&lines[read..]);
        }
        for page in ["/metrics", "/livez", "/readyz", "/startupz", "/canary"] {
            assert_untold(self.admin(page).await.1.lines());
        }
        for page in ["/v1/status", "/v1/config", "/v1/notifications?limit=1000"] {
            assert_untold([self.operator("GET", page, "").await.1.to_string()]);
        }
        written.map(|lines| lines.len())
    }
}
