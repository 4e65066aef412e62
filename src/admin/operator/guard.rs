//! Who may talk to the operator address.
//!
//! On loopback any web page that somebody on this machine opens can send requests here, or reach it under a
//! name of its own that it points at 127.0.0.1 (DNS rebinding). So a request must name this machine as its
//! host, and a browser's (they all send `Origin` with what changes something) is none of ours. Off loopback
//! we go by names that we cannot know, and the token that is required there is what guards.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, StatusCode};

use super::answer::Refusal;
use crate::secret::Secret;

pub struct Guard {
    /// Where the listener is.
    pub address: SocketAddr,
    /// What a request must bear; `None` only on loopback. May change at any time.
    pub token: Arc<ArcSwapOption<Secret>>,
}

impl Guard {
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if headers.contains_key(ORIGIN) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "requests of web pages are refused; use suki-relay spool, or a client without `Origin`",
            ));
        }
        if self.address.ip().is_loopback() && !self.is_named_by(headers) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                format!("`Host` names another machine; ask http://{}", self.address),
            ));
        }
        match &*self.token.load() {
            Some(token) if !bears(headers, token) => Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "send `Authorization: Bearer …` with the token of `admin.operator.token`",
            )),
            _ => Ok(()),
        }
    }

    fn is_named_by(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return false;
        };
        let authority = host.to_str().ok().and_then(|host| host.parse().ok());
        authority.is_some_and(|authority: Authority| {
            let host = authority.host().trim_matches(['[', ']']);
            let is_ours = |ip: IpAddr| ip.is_loopback() || ip == self.address.ip();
            host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_ours)
        })
    }
}

fn bears(headers: &HeaderMap, token: &Secret) -> bool {
    let Some(value) = headers.get(AUTHORIZATION) else {
        return false;
    };
    let Some((scheme, given)) = value.as_bytes().split_at_checked(7) else {
        return false;
    };
    scheme.eq_ignore_ascii_case(b"bearer ")
        && verify_slices_are_equal(given, token.expose()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(address: &str, token: Option<&str>) -> Guard {
        let token = token.and_then(|text| Secret::from_text(text.into()));
        Guard {
            address: address.parse().expect("an address"),
            token: Arc::new(ArcSwapOption::from_pointee(token)),
        }
    }

    fn status(guard: &Guard, headers: &[(&'static str, &'static str)]) -> Option<u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a value"));
        }
        guard
            .admit(&map)
            .err()
            .map(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn on_loopback_only_names_of_this_machine_are_heard() {
        let guard = guard("127.0.0.1:9741", None);
        for host in [
            "127.0.0.1:9741",
            "localhost",
            "LOCALHOST:1",
            "[::1]:9741",
            "127.0.0.2",
        ] {
            assert_eq!(status(&guard, &[("host", host)]), None, "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1:9741",
            "localhost.",
            "",
        ] {
            assert_eq!(status(&guard, &[("host", host)]), Some(403), "{host}");
        }
        assert_eq!(status(&guard, &[]), Some(403));
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(status(&guard, &twice), Some(403));
    }

    #[test]
    fn a_web_page_is_never_heard() {
        for guard in [
            guard("127.0.0.1:9741", None),
            guard("0.0.0.0:9741", Some("t")),
        ] {
            for origin in ["http://localhost:9741", "null", "https://evil.example"] {
                let headers = [
                    ("host", "localhost"),
                    ("origin", origin),
                    ("authorization", "Bearer t"),
                ];
                assert_eq!(status(&guard, &headers), Some(403), "{origin}");
            }
        }
    }

    #[test]
    fn a_token_is_asked_for_wherever_there_is_one() {
        for address in ["127.0.0.1:9741", "0.0.0.0:9741"] {
            let guard = guard(address, Some("open-sesame"));
            let with = |value| status(&guard, &[("host", "localhost"), ("authorization", value)]);
            assert_eq!(with("Bearer open-sesame"), None);
            assert_eq!(with("bearer open-sesame"), None);
            for wrong in [
                "Bearer open-sesam",
                "Bearer open-sesame ",
                "Basic open-sesame",
                "Bearer",
                "",
            ] {
                assert_eq!(with(wrong), Some(401), "{wrong}");
            }
            assert_eq!(status(&guard, &[("host", "localhost")]), Some(401));
        }
    }
}
