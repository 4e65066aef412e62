//! Who may send, what goes where, and how to get there: one immutable value, swapped whole.
//!
//! A [`Routing`] is built once a load; requests and attempts take a snapshot of it and only look things
//! up; expressions are compiled here.

mod expression;
mod inspect;
mod judge;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::clock::Timestamp;
use crate::name::Name;
use crate::schema::Schema;
use crate::target::Target;
use crate::verify::Keyring;
pub use expression::{Expression, ExpressionError, Facts, Match};
pub use judge::{Course, Judged, Unroutable, foresee, judge, kept_headers, reroute};

/// One version of sources, routes and targets.
#[derive(Debug, Default)]
pub struct Routing {
    sources: Vec<Arc<Source>>,
    routes: Vec<Route>,
    targets: BTreeMap<Name, Arc<Target>>,
}

/// Where notifications come in.
#[derive(Debug)]
pub struct Source {
    pub name: Name,
    /// Exact path, without a trailing slash; matched with or without one.
    pub path: String,
    pub keyring: Keyring,
    pub signature_header: HeaderName,
    pub timestamp_header: HeaderName,
    pub schema: Schema,
    pub on_invalid: OnInvalid,
    /// Older notifications are stale; `None` turns that off.
    pub age_max: Option<Duration>,
    /// Notifications further ahead of our clock are of the future.
    pub ahead_max: Duration,
}

#[cfg(test)]
impl Source {
    /// Nothing but the config's defaults, at a path of its name.
    pub fn of(name: &str, keyring: Keyring) -> Self {
        Self {
            name: Name::new(name).unwrap(),
            path: format!("/{name}"),
            keyring,
            signature_header: HeaderName::from_static("x-api-key"),
            timestamp_header: HeaderName::from_static("generated-at"),
            schema: Schema::built_in(crate::schema::UnknownStatus::Accept).unwrap(),
            on_invalid: OnInvalid::Reject,
            age_max: Some(Duration::from_hours(48)),
            ahead_max: Duration::from_hours(1),
        }
    }
}

/// What the sender of an invalid notification is told. It is kept in quarantine either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInvalid {
    Reject,
    Accept,
}

/// A rule: notifications for which `when` holds go to these targets.
#[derive(Debug)]
pub struct Route {
    pub name: Name,
    /// `None` always holds.
    pub when: Option<Expression>,
    pub to: Vec<Name>,
}

/// Where a notification goes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Union of the targets of the routes that hold, in order of mention.
    pub targets: Vec<Name>,
    /// Routes that could not be evaluated.
    pub errors: Vec<Name>,
}

/// How a signed timestamp stands to the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    Fresh,
    Stale,
    Future,
    /// No number, or none that fits.
    Unreadable,
}

impl Routing {
    pub fn new(sources: Vec<Source>, routes: Vec<Route>, targets: Vec<Arc<Target>>) -> Self {
        Self {
            sources: sources.into_iter().map(Arc::new).collect(),
            routes,
            targets: targets
                .into_iter()
                .map(|target| (target.name.clone(), target))
                .collect(),
        }
    }

    /// Takes a target from the version before, in place of the one that was made anew.
    pub fn keep(&mut self, target: Arc<Target>) {
        self.targets.insert(target.name.clone(), target);
    }

    /// The source at a request's path. One trailing slash more or less makes no difference.
    pub fn source_at(&self, path: &str) -> Option<&Arc<Source>> {
        let path = path.strip_suffix('/').unwrap_or(path);
        self.sources.iter().find(|source| source.path == path)
    }

    pub fn sources(&self) -> &[Arc<Source>] {
        &self.sources
    }

    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    pub fn target(&self, name: &Name) -> Option<&Arc<Target>> {
        self.targets.get(name)
    }

    pub fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.targets.values()
    }

    /// Holds a notification against every route.
    pub fn plan(&self, facts: Facts<'_>) -> Plan {
        let mut plan = Plan::default();
        for (route, verdict) in self.verdicts(facts) {
            match verdict {
                Match::Holds => {
                    for target in &route.to {
                        if !plan.targets.contains(target) {
                            plan.targets.push(target.clone());
                        }
                    }
                }
                Match::Fails => {}
                Match::Error => plan.errors.push(route.name.clone()),
            }
        }
        plan
    }

    /// What each route says, in the order of the config.
    pub fn verdicts(&self, facts: Facts<'_>) -> Vec<(&Route, Match)> {
        let mut context = None; // made for the first route that asks; many ask nothing
        let reads_headers = self
            .routes
            .iter()
            .flat_map(|route| &route.when)
            .any(|e| e.reads_headers);
        self.routes
            .iter()
            .map(|route| match &route.when {
                None => (route, Match::Holds),
                Some(expression) => {
                    let context = context.get_or_insert_with(|| facts.context(reads_headers));
                    (
                        route,
                        context
                            .as_ref()
                            .map_or(Match::Error, |context| expression.evaluate(context)),
                    )
                }
            })
            .collect()
    }
}

impl Source {
    /// Reads the timestamp header's text: milliseconds since the epoch, in digits.
    pub fn freshness(&self, generated_at: &str, now: Timestamp) -> Freshness {
        let digits = generated_at.bytes().all(|c| c.is_ascii_digit());
        let Some(millis) = generated_at.parse().ok().filter(|_| digits) else {
            return Freshness::Unreadable;
        };
        let generated = Timestamp::from_millis(millis);
        if generated > now.plus(self.ahead_max) {
            Freshness::Future
        } else if self
            .age_max
            .is_some_and(|age_max| now.since(generated) > age_max)
        {
            Freshness::Stale
        } else {
            Freshness::Fresh
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use serde_json::json;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    fn route(route: &str, when: Option<&str>, to: &[&str]) -> Route {
        let when = when.map(|text| Expression::compile(text).expect("compiles"));
        Route {
            name: name(route),
            when,
            to: to.iter().map(|target| name(target)).collect(),
        }
    }

    fn plan(routes: Vec<Route>, body: &serde_json::Value) -> Plan {
        let mut headers = HeaderMap::new();
        headers.insert("x-team", HeaderValue::from_static("clinical"));
        let (source, secret) = (name("suki"), name("current"));
        let facts = Facts {
            source: &source,
            secret: &secret,
            headers: &headers,
            body,
        };
        Routing::new(Vec::new(), routes, Vec::new()).plan(facts)
    }

    fn verdict(when: &str, body: &serde_json::Value) -> Match {
        let plan = plan(vec![route("r", Some(when), &["t"])], body);
        match (plan.targets.is_empty(), plan.errors.is_empty()) {
            (false, true) => Match::Holds,
            (true, true) => Match::Fails,
            _ => Match::Error,
        }
    }

    #[test]
    fn a_plan_is_the_union_of_the_routes_that_hold() {
        let routes = vec![
            route("all", None, &["audit"]),
            route("done", Some("body.status == 'success'"), &["ehr", "audit"]),
            route("failed", Some("body.status == 'failure'"), &["pager"]),
        ];
        let plan = plan(routes, &json!({"status": "success"}));
        assert_eq!(plan.targets, [name("audit"), name("ehr")]);
        assert_eq!(plan.errors, []);
    }

    #[test]
    fn a_field_that_is_not_there_makes_an_expression_false() {
        let example = "body.status == 'success' && has(body._links.structured_data)";
        for body in [
            json!({"status": "success"}),
            json!({"status": "success", "_links": null}),
            json!({"status": "success", "_links": {}}),
            json!({}),
        ] {
            assert_eq!(verdict(example, &body), Match::Fails, "{body}");
        }
        let links = json!({"status": "success", "_links": {"structured_data": []}});
        assert_eq!(verdict(example, &links), Match::Holds);
        assert_eq!(verdict("body.a.b.c == 1", &json!({"a": {}})), Match::Fails);
        assert_eq!(
            verdict("body.a == 1 || body.b == 2", &json!({"b": 2})),
            Match::Holds
        );
    }

    #[test]
    fn any_other_failure_is_an_error_of_the_route() {
        assert_eq!(
            verdict("body.n + 'text' == 'x'", &json!({"n": 1})),
            Match::Error
        );
        assert_eq!(verdict("body.n", &json!({"n": 1})), Match::Error);
        assert_eq!(verdict("1 / body.n == 1", &json!({"n": 0})), Match::Error);
    }

    #[test]
    fn expressions_see_source_secret_and_headers() {
        let body = json!({});
        assert_eq!(
            verdict("source == 'suki' && secret == 'current'", &body),
            Match::Holds
        );
        assert_eq!(
            verdict("headers['x-team'] == 'clinical'", &body),
            Match::Holds
        );
        assert_eq!(verdict("headers['absent'] == 'x'", &body), Match::Fails);
    }

    /// To make it takes a third of what a notification costs.
    #[test]
    fn notifications_share_one_library_of_functions() {
        let (source, secret, headers) = (name("suki"), name("current"), HeaderMap::new());
        let facts = Facts {
            source: &source,
            secret: &secret,
            headers: &headers,
            body: &json!({}),
        };
        let library = || match facts.context(false) {
            Some(cel::Context::Root { env, .. }) => env,
            _ => panic!("no context of its own"),
        };
        assert!(Arc::ptr_eq(&library(), &library()));
    }

    #[test]
    fn what_is_no_expression_does_not_compile_and_says_where() {
        let error = Expression::compile("body.status ==").expect_err("incomplete");
        assert_eq!(error.line, 1);
        assert!(error.column > 1, "{error:?}");
        let error = Expression::compile("bdy.status == 'x'").expect_err("unknown variable");
        assert!(error.problem.contains("`bdy`"), "{error}");
    }

    #[test]
    fn nested_comprehensions_are_refused_and_single_ones_are_not() {
        assert!(Expression::compile("body.sessions.exists(s, s == 'x')").is_ok());
        assert!(Expression::compile("body.a.all(x, x > 1) && body.b.all(x, x > 1)").is_ok());
        assert!(Expression::compile("body.a.all(x, body.b.exists(y, x == y))").is_err());
        assert!(Expression::compile("body.a.map(x, x.b).filter(y, y > 1).size() > 0").is_ok());
        assert!(Expression::compile("body.a.all(x, x in body.b.map(y, y.c))").is_err());
    }

    /// A test's thread has the 2 MiB of one that serves requests.
    #[test]
    fn no_expression_takes_more_stack_than_there_is() {
        let chains: [(&str, &str); 6] = [
            ("body", ".a"),
            ("body", "[0]"),
            ("body", ".map(x, x)"),
            ("1", "+1"),
            ("1", "==1"),
            ("!body", " ? body : !body"),
        ];
        for (head, link) in chains {
            let chain = |links: usize| format!("{head}{}", link.repeat(links));
            let deepest = (1..=inspect::DEPTH_MAX)
                .map(chain)
                .take_while(|chain| Expression::compile(chain).is_ok())
                .last()
                .expect("a short one compiles");
            assert!(deepest.len() > 20 * link.len(), "{deepest}");
            verdict(&deepest, &json!({}));
            for links in [2_000, 60_000 / link.len(), 1_000_000] {
                let error = Expression::compile(&chain(links)).expect_err("too deep");
                assert!(error.problem.contains("several routes"), "{error}");
            }
        }
        let any_of = vec!["body.a == 'x'"; 2_000].join(" || ");
        assert_eq!(verdict(&any_of, &json!({"a": "x"})), Match::Holds);
    }

    #[test]
    fn freshness_follows_the_clock_and_the_windows() {
        let hours = Duration::from_hours;
        let now = Timestamp::from_millis(1_765_977_748_432);
        let source = |age_max| Source {
            age_max,
            ..Source::of("suki", Keyring::new([]))
        };
        let judge = |age_max, millis: &str| source(age_max).freshness(millis, now);
        let at = |moment: Timestamp| moment.as_millis().to_string();
        let window = Some(hours(48));
        assert_eq!(judge(window, &at(now.minus(hours(47)))), Freshness::Fresh);
        assert_eq!(judge(window, &at(now.minus(hours(49)))), Freshness::Stale);
        assert_eq!(judge(None, &at(now.minus(hours(49)))), Freshness::Fresh);
        assert_eq!(judge(window, &at(now.plus(hours(2)))), Freshness::Future);
        for odd in ["", "soon", "-5", "+5", "1.5", "99999999999999999999"] {
            assert_eq!(judge(window, odd), Freshness::Unreadable, "{odd:?}");
        }
        assert_eq!(
            judge(window, "1765977748"),
            Freshness::Stale,
            "seconds for milliseconds"
        );
    }
}
