//! `targets[].http.url`: an address that notifications may be posted to.
//!
//! What it says is only the first check: a name may resolve to an address that is never connected to.

use std::net::IpAddr;

use http::Uri;

use super::reader::{At, Read};
use crate::target::address::is_forbidden;

const FORBIDDEN: &str = "link-local addresses and metadata services of clouds are never connected to, in any spelling; write another host";

/// Never quoted: a URL may hold a token.
pub(super) fn read(at: &At<'_>) -> Read<Uri> {
    let text = at.text()?.value;
    let Ok(uri) = text.parse::<Uri>() else {
        return at.problem("no URL; write one such as `https://ehr.example/notifications`");
    };
    let scheme = uri.scheme_str().unwrap_or_default();
    let host = uri.host().unwrap_or_default();
    if !matches!(scheme, "http" | "https") {
        return at.problem(
            "no `http` or `https` URL; write one such as `https://ehr.example/notifications`",
        );
    }
    if host.is_empty() {
        return at.problem("no host; write one such as `https://ehr.example/notifications`");
    }
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return at.problem("a user or password in a URL ends up in logs; use `bearer_token`, or `headers` with a reference");
    }
    if uri.port_u16() == Some(0) || (uri.port().is_none() && has_port(&uri)) {
        return at.problem("no port that can be reached; write 1 to 65535, or leave it out");
    }
    if text.contains('#') {
        return at.problem("a fragment (`#…`) is never sent; remove it");
    }
    host_allowed(at, host)?;
    if scheme == "http" && !is_loopback(host) {
        at.warning("notifications leave this machine in clear text; use `https`, or be sure of the network");
    }
    Ok(uri)
}

/// A colon after the host, with or without something that is a port.
fn has_port(uri: &Uri) -> bool {
    uri.authority()
        .is_some_and(|authority| authority.as_str().len() > authority.host().len())
}

/// Numbers that are no address in the usual form are read as one by some resolvers
/// (`http://2852039166` is 169.254.169.254).
fn host_allowed(at: &At<'_>, host: &str) -> Read<()> {
    match address(host) {
        Some(address) if address.is_unspecified() || address.is_multicast() => {
            at.problem("an address that nobody can be reached at; write the target's own")
        }
        Some(address) if is_forbidden(address) => at.problem(FORBIDDEN),
        None if host.starts_with('[') => {
            at.problem("no address in the brackets; write one such as `[2001:db8::1]`")
        }
        None if is_number(host) => at.problem(
            "a number in place of a host; write a name, or an address such as `192.0.2.1`",
        ),
        _ => Ok(()),
    }
}

/// The address that a URL names, if it names one in the usual form.
pub(super) fn address_of(url: &Uri) -> Option<IpAddr> {
    address(url.host()?)
}

/// The address that a host is, if it is one and no name.
fn address(host: &str) -> Option<IpAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse()
        .ok()
        .map(|address: IpAddr| address.to_canonical())
}

/// Whether the last label is a number, as it never is in a name (URL Standard, "ends in a number").
fn is_number(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or(host);
    match last.strip_prefix("0x").or(last.strip_prefix("0X")) {
        Some(hex) => hex.bytes().all(|c| c.is_ascii_hexdigit()),
        None => last.bytes().all(|c| c.is_ascii_digit()),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || address(host).is_some_and(|address| address.is_loopback())
}
