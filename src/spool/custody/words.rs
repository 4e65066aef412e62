//! The words of states and events, as operators read and write them.

use super::{DeliveryState, EventKind, State};

impl State {
    pub const ALL: [Self; 4] = [
        Self::Pending,
        Self::DeadLetter,
        Self::Quarantined,
        Self::Delivered,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::DeadLetter => "dead_letter",
            Self::Quarantined => "quarantined",
            Self::Delivered => "delivered",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

impl DeliveryState {
    /// By the number that each has on disk.
    pub const ALL: [Self; 4] = [
        Self::Pending,
        Self::Delivered,
        Self::DeadLetter,
        Self::Discarded,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::DeadLetter => "dead_letter",
            Self::Discarded => "discarded",
        }
    }
}

impl EventKind {
    /// By the number that each has on disk.
    pub const ALL: [Self; 6] = [
        Self::Failed,
        Self::Delivered,
        Self::DeadLettered,
        Self::Replayed,
        Self::Released,
        Self::Discarded,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delivered => "delivered",
            Self::DeadLettered => "dead_lettered",
            Self::Replayed => "replayed",
            Self::Released => "released",
            Self::Discarded => "discarded",
        }
    }

    pub const fn is_attempt(self) -> bool {
        matches!(self, Self::Failed | Self::Delivered | Self::DeadLettered)
    }
}
