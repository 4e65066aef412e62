//! What one attempt meant: pure.

use std::time::Duration;

use super::Policy;

/// The meaning of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target has it.
    Delivered,
    /// Try again, not before `after` if the target asked for that.
    Retry {
        reason: Reason,
        after: Option<Duration>,
    },
    /// A definite no: a dead letter at once.
    GiveUp { reason: Reason },
}

/// Why an attempt did not deliver: a closed set, for metrics and for the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The name did not resolve.
    Dns,
    /// No connection: refused, unreachable, or not made in time, look-up and TLS included.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The address it resolved to is one that we never connect to, or not on the target's list.
    Forbidden,
    /// The connection broke before the answer was complete.
    Broken,
    /// The attempt's deadline passed.
    Timeout,
    /// Not an answer in the protocol spoken.
    Protocol,
    /// A redirect, which is never followed.
    Redirect,
    /// Any other 4xx.
    ClientError,
    /// 5xx.
    ServerError,
    /// 408, 425, 429, 503: ask again later.
    Throttled,
    /// 401, 403: usually a credential of ours.
    Unauthorized,
    /// The body does not fit the message of a gRPC method; nothing was sent.
    Misfit,
    /// Our own attempt panicked.
    Panic,
}

impl Outcome {
    /// Label of attempts that delivered.
    pub const DELIVERED: &'static str = "delivered";

    /// The outcome's label in `attempts_total{outcome}`, and its word in the spool.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Delivered => Self::DELIVERED,
            Self::Retry { reason, .. } | Self::GiveUp { reason } => reason.as_str(),
        }
    }
}

impl Reason {
    pub const ALL: [Self; 14] = [
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Forbidden,
        Self::Broken,
        Self::Timeout,
        Self::Protocol,
        Self::Redirect,
        Self::ClientError,
        Self::ServerError,
        Self::Throttled,
        Self::Unauthorized,
        Self::Misfit,
        Self::Panic,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Forbidden => "forbidden_address",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Redirect => "redirect",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Throttled => "throttled",
            Self::Unauthorized => "unauthorized",
            Self::Misfit => "body_misfit",
            Self::Panic => "panic",
        }
    }
}

/// What an HTTP answer means under a target's policy.
pub fn from_status(status: u16, after: Option<Duration>, policy: &Policy) -> Outcome {
    if (200..=299).contains(&status) || policy.delivered_on.contains(&status) {
        return Outcome::Delivered;
    }
    let reason = reason_of_status(status);
    if policy.give_up_on.contains(&status) {
        Outcome::GiveUp { reason }
    } else {
        Outcome::Retry { reason, after }
    }
}

/// Why a status that does not mean delivered does not.
pub fn reason_of_status(status: u16) -> Reason {
    match status {
        300..=399 => Reason::Redirect,
        401 | 403 => Reason::Unauthorized,
        408 | 425 | 429 | 503 => Reason::Throttled,
        400..=499 => Reason::ClientError,
        500..=599 => Reason::ServerError,
        _ => Reason::Protocol,
    }
}
