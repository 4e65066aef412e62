//! `targets[].http` and `targets[].grpc`: one URL, and what is sent along with the notification.

use http::uri::Scheme;
use http::{HeaderName, HeaderValue};

use super::block::Block;
use super::build::{Grpc, Http, HttpTls};
use super::reader::{At, Read};
use super::{networks, references, tls, url};
use crate::secret::Secret;
use crate::target::address::Allowed;
use crate::target::grpc::method::{Method, MethodError};
use crate::target::http::is_reserved;
use crate::target::sign::{Key, Signer};

const KEYS: &[&str] = &[
    "url",
    "headers",
    "bearer_token",
    "sign",
    "allow_addresses",
    "tls",
];
const GRPC_KEYS: &[&str] = &[
    "url",
    "method",
    "descriptor_set",
    "headers",
    "bearer_token",
    "allow_addresses",
    "tls",
];
const TLS_KEYS: &[&str] = &["ca", "certificate", "private_key", "server_name"];
const HEADERS_MAX: usize = 64;
/// Each signs every attempt.
const SIGNING_SECRETS_MAX: usize = 8;

pub(super) fn read(at: &At<'_>) -> Read<Http> {
    let block = at.block(KEYS)?;
    let server = server(&block);
    let signer = block.or("sign", Signer::default(), signer);
    Ok(Http {
        signer: signer?,
        ..server?
    })
}

pub(super) fn read_grpc(at: &At<'_>) -> Read<Grpc> {
    let block = at.block(GRPC_KEYS)?;
    let server = server(&block);
    let method = method(&block);
    let server = server?;
    if server.url.path() != "/" || server.url.query().is_some() {
        return block.problem(
            "url",
            "has a path, which a gRPC method brings itself; write scheme, host and port alone",
        );
    }
    Ok(Grpc {
        server,
        method: method?,
    })
}

/// Where, and with which credentials: what both kinds of targets have.
fn server(block: &Block<'_>) -> Read<Http> {
    let url = block.required("url").and_then(|at| url::read(&at));
    let allowed = block.or("allow_addresses", Allowed::default(), networks::read);
    let headers = block.or("headers", Vec::new(), headers);
    let bearer_token = block.maybe("bearer_token", bearer_token);
    let tls = block.maybe("tls", target_tls);
    let (url, allowed, headers, tls) = (url?, allowed?, headers?, tls?);
    if url::address_of(&url).is_some_and(|address| !allowed.permits(address)) {
        return block.problem(
            "allow_addresses",
            "leaves out the address in `url`; add its network, or remove the list",
        );
    }
    if tls.is_some() && url.scheme() != Some(&Scheme::HTTPS) {
        return block.problem(
            "tls",
            "of no use with an `http` URL; write `https`, or remove it",
        );
    }
    let bearer_token = bearer_token?.flatten();
    let authorized = headers
        .iter()
        .any(|(name, _)| name == http::header::AUTHORIZATION);
    if bearer_token.is_some() && authorized {
        return block.problem(
            "bearer_token",
            "sets `authorization`, and so does `headers`; keep one of the two",
        );
    }
    Ok(Http {
        url,
        headers,
        bearer_token,
        signer: Signer::default(),
        allowed,
        tls,
    })
}

/// `method` and `descriptor_set`, if the user has one of their own.
fn method(block: &Block<'_>) -> Read<Option<Method>> {
    let (name, set) = (block.optional("method"), block.optional("descriptor_set"));
    let (name, set) = match (name, set) {
        (None, None) => return Ok(None),
        (Some(name), Some(set)) => (name, set),
        (Some(_), None) => {
            return block.problem(
                "descriptor_set",
                "missing; a method of your own needs the descriptor set that describes it",
            );
        }
        (None, Some(_)) => {
            return block.problem(
                "method",
                "missing; name the method of `descriptor_set` as `package.Service/Method`",
            );
        }
    };
    let bytes = references::file(&set);
    let name_text = name.text()?.value;
    match Method::find(&bytes?.1, &name_text) {
        Ok(method) => {
            if method.takes_nothing() {
                name.warning(
                    "its message has no field of a notification, and would be empty each time; rename its fields, \
                     or set their `json_name`",
                );
            }
            Ok(Some(method))
        }
        Err(error @ MethodError::NoDescriptorSet) => set.problem(error.to_string()),
        Err(error) => name.problem(error.to_string()),
    }
}

type Header = (HeaderName, HeaderValue);

fn headers(at: &At<'_>) -> Read<Vec<Header>> {
    let entries = at.map()?;
    if entries.len() > HEADERS_MAX {
        return at.problem(format!("more than {HEADERS_MAX} headers; remove some"));
    }
    let mut seen = Vec::new();
    let headers: Vec<_> = entries
        .iter()
        .map(|(key, value)| header(&key.text, value, &mut seen))
        .collect();
    let headers: Read<Vec<_>> = headers.into_iter().collect();
    Ok(headers?.into_iter().flatten().collect())
}

/// `Ok(None)` for one whose value is optional and not there.
fn header(name: &str, at: &At<'_>, seen: &mut Vec<HeaderName>) -> Read<Option<Header>> {
    let Ok(name) = name.parse::<HeaderName>() else {
        return at.problem(format!("`{name}` is no name of a header"));
    };
    if is_reserved(&name) {
        return at.problem(format!(
            "`{name}` is set by the relay itself; choose another name"
        ));
    }
    if seen.contains(&name) {
        return at.problem(format!(
            "`{name}` is given before, in other letters; keep one of the two"
        ));
    }
    seen.push(name.clone());
    let value = if at.is_mapping() {
        references::secret(at)?.map(|secret| HeaderValue::from_bytes(secret.expose()))
    } else {
        Some(HeaderValue::from_str(&at.text()?.value))
    };
    match value {
        Some(Ok(mut value)) => {
            value.set_sensitive(true);
            Ok(Some((name, value)))
        }
        Some(Err(_)) => {
            at.problem("a line end or a control character in it, which no header can have")
        }
        None => Ok(None),
    }
}

fn bearer_token(at: &At<'_>) -> Read<Option<Secret>> {
    let token = references::secret(at)?;
    let visible = |secret: &Secret| secret.expose().iter().all(u8::is_ascii_graphic);
    if token.as_ref().is_some_and(|token| !visible(token)) {
        return at.problem("a space, line end or other character in it that no bearer token has");
    }
    Ok(token)
}

/// `sign`: Standard Webhooks.
fn signer(at: &At<'_>) -> Read<Signer> {
    let secrets = at.block(&["secrets"])?.required("secrets")?;
    let items = secrets.list(1..=SIGNING_SECRETS_MAX)?;
    let keys: Vec<_> = items.iter().map(signing_key).collect();
    let keys: Read<Vec<_>> = keys.into_iter().collect();
    let present: Vec<Key> = keys?.into_iter().flatten().collect();
    if present.is_empty() {
        return secrets.problem(
            "every secret is optional and none is there; without one, nothing can be signed",
        );
    }
    Ok(Signer::new(present))
}

/// `Ok(None)` for one that is optional and not there.
fn signing_key(at: &At<'_>) -> Read<Option<Key>> {
    let secret = references::secret(at)?;
    let key = secret.as_ref().map(Key::parse).transpose();
    key.or_else(|error| at.problem(error.to_string()))
}

fn target_tls(at: &At<'_>) -> Read<HttpTls> {
    let block: Block<'_> = at.block(TLS_KEYS)?;
    let ca = block.maybe("ca", tls::authorities);
    let pair = tls::pair(&block);
    let server_name = block.maybe("server_name", tls::host);
    Ok(HttpTls {
        ca: ca?,
        pair: pair?,
        server_name: server_name?,
    })
}
