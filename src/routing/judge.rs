//! What is to become of a verified notification: pure but for the clock, which is in the notification.
//!
//! Nothing authentic is thrown away: what cannot be delivered as it is goes to quarantine. From there it
//! may be routed again, by a config that has changed.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Facts, Freshness, OnInvalid, Routing, Source};
use crate::name::Name;
use crate::notification::{Notification, Record};
use crate::spool::{Reason, Submission, Verdict};

/// A submission, and what to count.
#[derive(Debug)]
pub struct Judged {
    pub submission: Submission,
    /// Routes that could not be evaluated.
    pub route_errors: Vec<Name>,
}

/// What becomes of a request whose signature is right.
#[derive(Debug)]
pub struct Course {
    pub verdict: Verdict,
    pub targets: Vec<Name>,
    pub quarantine: Option<Reason>,
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
    let course = course(routing, source, headers, &notification);
    Judged {
        submission: Submission {
            notification,
            verdict: course.verdict,
            targets: course.targets,
            quarantine: course.quarantine,
        },
        route_errors: course.route_errors,
    }
}

/// What this config would have made of what was kept, at the moment it came. Of its headers, those that are
/// kept are known: `content-type`, signature and timestamp. `None`: the config names its source no more.
pub fn foresee(routing: &Routing, record: &Record) -> Option<Course> {
    let source = source_of(routing, record)?;
    let headers = kept_headers(source, record);
    Some(course(routing, source, &headers, record))
}

fn course(routing: &Routing, source: &Source, headers: &HeaderMap, record: &Record) -> Course {
    let freshness = source.freshness(&record.generated_at, record.received_at);
    if let Some(reason) = untimely(freshness) {
        return quarantined(Verdict::Accepted, reason);
    }
    let Ok(body) = source.schema.parse(&record.body) else {
        let verdict = match source.on_invalid {
            OnInvalid::Reject => Verdict::Invalid,
            OnInvalid::Accept => Verdict::Accepted,
        };
        return quarantined(verdict, Reason::Invalid);
    };
    let plan = routing.plan(Facts {
        source: &source.name,
        secret: &record.secret,
        headers,
        body: &body,
    });
    let quarantine = match (plan.errors.is_empty(), plan.targets.is_empty()) {
        (false, _) => Some(Reason::RouteError),
        (true, true) => Some(Reason::Unrouted),
        (true, false) => None,
    };
    Course {
        verdict: Verdict::Accepted,
        targets: plan.targets,
        quarantine,
        route_errors: plan.errors,
    }
}

/// Why what is kept cannot be routed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    #[error("the config names its source no more")]
    SourceGone,
    #[error("its body is not of the source's schema")]
    Invalid,
    #[error("no route takes it")]
    Unrouted,
    #[error("a route's `when` fails on it")]
    RouteError,
}

/// Where the routes of now send what was kept before, whatever its age; of its headers, those that are kept
/// are known.
pub fn reroute(routing: &Routing, record: &Record) -> Result<Vec<Name>, Unroutable> {
    let source = source_of(routing, record).ok_or(Unroutable::SourceGone)?;
    let body = source.schema.parse(&record.body);
    let plan = routing.plan(Facts {
        source: &source.name,
        secret: &record.secret,
        headers: &kept_headers(source, record),
        body: &body.map_err(|_| Unroutable::Invalid)?,
    });
    if !plan.errors.is_empty() {
        return Err(Unroutable::RouteError);
    }
    if plan.targets.is_empty() {
        return Err(Unroutable::Unrouted);
    }
    Ok(plan.targets)
}

fn source_of<'r>(routing: &'r Routing, record: &Record) -> Option<&'r Arc<Source>> {
    let mut sources = routing.sources().iter();
    sources.find(|source| source.name == record.source)
}

/// The headers of what was kept, as far as they are.
pub fn kept_headers(source: &Source, record: &Record) -> HeaderMap {
    let content_type = record.content_type.as_deref();
    let kept: [(&HeaderName, Option<&str>); 3] = [
        (&http::header::CONTENT_TYPE, content_type),
        (&source.signature_header, Some(&record.signature)),
        (&source.timestamp_header, Some(&record.generated_at)),
    ];
    let value = |text: Option<&str>| HeaderValue::from_str(text?).ok();
    let kept = kept.map(|(name, text)| (name.clone(), value(text)));
    kept.into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

fn untimely(freshness: Freshness) -> Option<Reason> {
    match freshness {
        Freshness::Fresh => None,
        Freshness::Stale => Some(Reason::Stale),
        Freshness::Future => Some(Reason::Future),
        Freshness::Unreadable => Some(Reason::BadTimestamp),
    }
}

fn quarantined(verdict: Verdict, reason: Reason) -> Course {
    Course {
        verdict,
        targets: Vec::new(),
        quarantine: Some(reason),
        route_errors: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::clock::Timestamp;
    use crate::routing::{Expression, Route};
    use crate::secret::Secret;
    use crate::verify::{self, Keyring, Signed};

    const NOW: Timestamp = Timestamp::from_millis(1_765_977_748_432);
    const SUCCESS: &str = r#"{"status":"success","session_id":"s-1"}"#;
    const FAILURE: &str = r#"{"status":"failure","session_id":"s-1"}"#;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    fn secret() -> Secret {
        Secret::from_text(b"a secret of the tests".to_vec()).expect("not empty")
    }

    fn source(on_invalid: OnInvalid) -> Source {
        Source {
            on_invalid,
            ..Source::of("suki", Keyring::new([(name("current"), &secret())]))
        }
    }

    fn route(label: &str, when: Option<&str>, to: &[&str]) -> Route {
        Route {
            name: name(label),
            when: when.map(|text| Expression::compile(text).expect("compiles")),
            to: to.iter().map(|target| name(target)).collect(),
        }
    }

    fn judged(routes: Vec<Route>, on_invalid: OnInvalid, at: Timestamp, body: &str) -> Judged {
        let source = source(on_invalid);
        let generated_at = at.as_millis().to_string();
        let signed = Signed {
            signature: verify::signature(&secret(), &generated_at, body.as_bytes()),
            generated_at,
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        let verified = source.keyring.verify(signed).expect("verifies");
        let notification = Notification::new(verified, source.name.clone(), NOW, None);
        let routing = Routing::new(Vec::new(), routes, Vec::new());
        judge(&routing, &source, &HeaderMap::new(), notification)
    }

    fn becomes(judged: &Judged) -> (Verdict, Vec<&str>, Option<Reason>) {
        let submission = &judged.submission;
        let targets = submission.targets.iter().map(Name::as_str).collect();
        (submission.verdict, targets, submission.quarantine)
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
        let expected = (Verdict::Accepted, vec!["audit", "ehr"], None);
        assert_eq!(becomes(&good), expected);
        let failed = judged(routes(), OnInvalid::Reject, NOW, FAILURE);
        assert_eq!(becomes(&failed).1, ["audit"]);
    }

    #[test]
    fn what_no_route_takes_is_quarantined() {
        let none = judged(Vec::new(), OnInvalid::Reject, NOW, SUCCESS);
        let expected = (Verdict::Accepted, vec![], Some(Reason::Unrouted));
        assert_eq!(becomes(&none), expected);
    }

    #[test]
    fn a_route_that_fails_is_named_and_the_others_still_deliver() {
        let broken = || route("broken", Some("body.status > 5"), &["ehr"]);
        let routes = vec![broken(), route("all", None, &["audit"])];
        let both = judged(routes, OnInvalid::Reject, NOW, SUCCESS);
        let expected = (Verdict::Accepted, vec!["audit"], Some(Reason::RouteError));
        assert_eq!(becomes(&both), expected);
        assert_eq!(both.route_errors, [name("broken")]);

        let alone = judged(vec![broken()], OnInvalid::Reject, NOW, SUCCESS);
        assert_eq!(becomes(&alone).2, Some(Reason::RouteError));
    }

    #[test]
    fn what_is_invalid_is_owed_to_nobody() {
        let all = || vec![route("all", None, &["audit"])];
        for (on_invalid, verdict) in [
            (OnInvalid::Reject, Verdict::Invalid),
            (OnInvalid::Accept, Verdict::Accepted),
        ] {
            let judged = judged(all(), on_invalid, NOW, "{}");
            let expected = (verdict, vec![], Some(Reason::Invalid));
            assert_eq!(becomes(&judged), expected);
        }
    }

    #[test]
    fn age_is_judged_before_shape() {
        let old = NOW.minus(Duration::from_hours(49));
        let ahead = NOW.plus(Duration::from_hours(2));
        for (at, reason) in [(old, Reason::Stale), (ahead, Reason::Future)] {
            let judged = judged(Vec::new(), OnInvalid::Reject, at, "{}");
            let expected = (Verdict::Accepted, vec![], Some(reason));
            assert_eq!(becomes(&judged), expected);
        }
    }
}
