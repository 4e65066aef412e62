//! What a sender was told, and why something is held: the words and numbers for them.

/// What the sender was told of a notification that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// 200
    Accepted,
    /// 400
    Invalid,
}

/// Why an authentic notification is in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Invalid,
    Stale,
    Future,
    BadTimestamp,
    Unrouted,
    RouteError,
}

impl Verdict {
    /// The number each has on disk.
    pub const fn code(self) -> i64 {
        match self {
            Self::Accepted => 200,
            Self::Invalid => 400,
        }
    }

    /// The verdict of a number on disk: [`Verdict::code`] wrote it.
    pub(super) const fn from_code(code: i64) -> Self {
        if code == Self::Invalid.code() {
            Self::Invalid
        } else {
            Self::Accepted
        }
    }
}

impl Reason {
    pub const ALL: [Self; 6] = [
        Self::Invalid,
        Self::Stale,
        Self::Future,
        Self::BadTimestamp,
        Self::Unrouted,
        Self::RouteError,
    ];

    /// The word for it in metrics, commands and on disk.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Stale => "stale",
            Self::Future => "future",
            Self::BadTimestamp => "bad_timestamp",
            Self::Unrouted => "unrouted",
            Self::RouteError => "route_error",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}
