//! An expression and a body, with a zero between: it compiles or not; if it does, route and reason agree.

use http::HeaderMap;
use suki_relay::routing::{Expression, Facts, Match, Route, Routing};

use crate::{halves, name};

pub fn try_one(input: &[u8]) {
    let (text, body) = halves(input);
    let (Ok(text), Ok(body)) = (std::str::from_utf8(text), serde_json::from_slice(body)) else {
        return;
    };
    let Ok(when) = Expression::compile(text) else {
        return;
    };
    let (source, secret, headers) = (name("suki"), name("current"), HeaderMap::new());
    let facts = Facts {
        source: &source,
        secret: &secret,
        headers: &headers,
        body: &body,
    };
    let reason = when.reason(facts);
    let route = Route {
        name: name("route"),
        when: Some(when),
        to: vec![name("target")],
    };
    let routing = Routing::new(Vec::new(), vec![route], Vec::new());
    let verdicts = routing.verdicts(facts);
    let told = match verdicts[0].1 {
        Match::Holds => reason == "evaluates to true",
        Match::Fails => reason == "evaluates to false" || reason.starts_with("false: a field"),
        Match::Error => !reason.starts_with("evaluates to true"),
    };
    assert!(told, "{:?}, and {reason}", verdicts[0].1);
}
