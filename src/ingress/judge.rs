//! What is to become of a verified notification: pure but for the clock, which is in the notification.
//!
//! Nothing authentic is thrown away: what cannot be delivered as it is goes to quarantine.

use http::HeaderMap;

use super::metrics::Tally;
use crate::name::Name;
use crate::notification::Notification;
use crate::routing::{Facts, Freshness, OnInvalid, Routing, Source};
use crate::spool::{Reason, Submission, Verdict};

/// A submission, and what to count.
#[derive(Debug)]
pub struct Judged {
    pub submission: Submission,
    pub tally: Tally,
    /// Routes that could not be evaluated.
    pub route_errors: Vec<Name>,
}

/// Judges a notification by its age, its shape and the routes, in this order.
pub fn judge(
    routing: &Routing,
    source: &Source,
    headers: &HeaderMap,
    notification: Notification,
) -> Judged {
    let freshness = source.freshness(&notification.generated_at, notification.received_at);
    if let Some(reason) = untimely(freshness) {
        return quarantined(notification, Verdict::Accepted, reason, Tally::Stale);
    }
    let Ok(body) = source.schema.parse(&notification.body) else {
        let verdict = match source.on_invalid {
            OnInvalid::Reject => Verdict::Invalid,
            OnInvalid::Accept => Verdict::Accepted,
        };
        return quarantined(notification, verdict, Reason::Invalid, Tally::Invalid);
    };
    let plan = routing.plan(Facts {
        source: &source.name,
        secret: &notification.secret,
        headers,
        body: &body,
    });
    let quarantine = match (plan.errors.is_empty(), plan.targets.is_empty()) {
        (false, _) => Some(Reason::RouteError),
        (true, true) => Some(Reason::Unrouted),
        (true, false) => None,
    };
    let tally = if plan.targets.is_empty() {
        Tally::Unrouted
    } else {
        Tally::Accepted
    };
    Judged {
        submission: Submission {
            notification,
            verdict: Verdict::Accepted,
            targets: plan.targets,
            quarantine,
        },
        tally,
        route_errors: plan.errors,
    }
}

fn untimely(freshness: Freshness) -> Option<Reason> {
    match freshness {
        Freshness::Fresh => None,
        Freshness::Stale => Some(Reason::Stale),
        Freshness::Future => Some(Reason::Future),
        Freshness::Unreadable => Some(Reason::BadTimestamp),
    }
}

fn quarantined(
    notification: Notification,
    verdict: Verdict,
    reason: Reason,
    tally: Tally,
) -> Judged {
    Judged {
        submission: Submission {
            notification,
            verdict,
            targets: Vec::new(),
            quarantine: Some(reason),
        },
        tally,
        route_errors: Vec::new(),
    }
}
