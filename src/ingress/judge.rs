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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::super::tests::{self as house, FAILURE, SUCCESS, name};
    use super::*;
    use crate::clock::Timestamp;
    use crate::routing::{Expression, Route};
    use crate::verify::Signed;

    const NOW: Timestamp = Timestamp::from_millis(1_765_977_748_432);

    fn route(label: &str, when: Option<&str>, to: &[&str]) -> Route {
        Route {
            name: name(label),
            when: when.map(|text| Expression::compile(text).expect("compiles")),
            to: to.iter().map(|target| name(target)).collect(),
        }
    }

    fn judged(routes: Vec<Route>, on_invalid: OnInvalid, at: Timestamp, body: &str) -> Judged {
        let source = house::source("suki", on_invalid);
        let generated_at = at.as_millis().to_string();
        let signed = Signed {
            signature: house::signature(&generated_at, body),
            generated_at,
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        let verified = source.keyring.verify(signed).expect("verifies");
        let notification = Notification::new(verified, source.name.clone(), NOW, None);
        let routing = Routing::new(Vec::new(), routes, Vec::new());
        judge(&routing, &source, &HeaderMap::new(), notification)
    }

    fn becomes(judged: &Judged) -> (Verdict, Vec<&str>, Option<Reason>, Tally) {
        let submission = &judged.submission;
        let targets = submission.targets.iter().map(Name::as_str).collect();
        (
            submission.verdict,
            targets,
            submission.quarantine,
            judged.tally,
        )
    }

    #[test]
    fn routes_that_hold_name_the_targets() {
        let routes = || {
            vec![
                route("all", None, &["audit"]),
                route(
                    "good",
                    Some(r#"body.status == "success""#),
                    &["ehr", "audit"],
                ),
            ]
        };
        let good = judged(routes(), OnInvalid::Reject, NOW, SUCCESS);
        let expected = (
            Verdict::Accepted,
            vec!["audit", "ehr"],
            None,
            Tally::Accepted,
        );
        assert_eq!(becomes(&good), expected);
        let failed = judged(routes(), OnInvalid::Reject, NOW, FAILURE);
        assert_eq!(becomes(&failed).1, ["audit"]);
    }

    #[test]
    fn what_no_route_takes_is_quarantined() {
        let none = judged(Vec::new(), OnInvalid::Reject, NOW, SUCCESS);
        let expected = (
            Verdict::Accepted,
            vec![],
            Some(Reason::Unrouted),
            Tally::Unrouted,
        );
        assert_eq!(becomes(&none), expected);
    }

    #[test]
    fn a_route_that_fails_is_named_and_the_others_still_deliver() {
        let broken = || route("broken", Some("body.status > 5"), &["ehr"]);
        let routes = vec![broken(), route("all", None, &["audit"])];
        let both = judged(routes, OnInvalid::Reject, NOW, SUCCESS);
        let expected = (
            Verdict::Accepted,
            vec!["audit"],
            Some(Reason::RouteError),
            Tally::Accepted,
        );
        assert_eq!(becomes(&both), expected);
        assert_eq!(both.route_errors, [name("broken")]);

        let alone = judged(vec![broken()], OnInvalid::Reject, NOW, SUCCESS);
        assert_eq!(becomes(&alone).2, Some(Reason::RouteError));
        assert_eq!(becomes(&alone).3, Tally::Unrouted);
    }

    #[test]
    fn what_is_invalid_is_owed_to_nobody() {
        let all = || vec![route("all", None, &["audit"])];
        for (on_invalid, verdict) in [
            (OnInvalid::Reject, Verdict::Invalid),
            (OnInvalid::Accept, Verdict::Accepted),
        ] {
            let judged = judged(all(), on_invalid, NOW, "{}");
            let expected = (verdict, vec![], Some(Reason::Invalid), Tally::Invalid);
            assert_eq!(becomes(&judged), expected);
        }
    }

    #[test]
    fn age_is_judged_before_shape() {
        let old = NOW.minus(Duration::from_hours(49));
        let ahead = NOW.plus(Duration::from_hours(2));
        for (at, reason) in [(old, Reason::Stale), (ahead, Reason::Future)] {
            let judged = judged(Vec::new(), OnInvalid::Reject, at, "{}");
            let expected = (Verdict::Accepted, vec![], Some(reason), Tally::Stale);
            assert_eq!(becomes(&judged), expected);
        }
    }
}
