//! From checked values to the options of the parts below: the one place that changes with them.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Uri};

use super::tls::Pair;
use crate::name::Name;
use crate::secret::Secret;
use crate::target::address::Allowed;
use crate::target::grpc::message::DELIVER;
use crate::target::grpc::method::Method;
use crate::target::sign::Signer;
use crate::target::{Policy, Target, http as target_http};

/// `targets[].http`, checked.
pub(super) struct Http {
    pub url: Uri,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub bearer_token: Option<Secret>,
    pub signer: Signer,
    pub allowed: Allowed,
    pub tls: Option<HttpTls>,
}

/// `targets[].grpc`, checked.
pub(super) struct Grpc {
    pub server: Http,
    pub method: Option<Method>,
}

/// What a target has one of.
pub(super) enum Outbound {
    Http(Http),
    Grpc(Grpc),
}

/// `targets[].http.tls` and `targets[].grpc.tls`, checked.
pub(super) struct HttpTls {
    pub ca: Option<Vec<u8>>,
    pub pair: Option<Pair>,
    pub server_name: Option<String>,
}

impl Outbound {
    /// What two targets that share it both send to. Never shown: a URL may hold a token.
    pub fn destination(&self) -> String {
        match self {
            Self::Http(http) => http.url.to_string(),
            Self::Grpc(Grpc { server, method }) => {
                let path = method
                    .as_ref()
                    .map_or(DELIVER, |method| method.path().as_str());
                format!(
                    "{}{path}",
                    server.url.authority().map_or("", |a| a.as_str())
                )
            }
        }
    }
}

/// # Errors
/// What is wrong, for people.
pub(super) fn target(name: Name, policy: Policy, outbound: Outbound) -> Result<Target, String> {
    let target = match outbound {
        Outbound::Http(http) => Target::http(name, policy, options(http)),
        Outbound::Grpc(Grpc { server, method }) => {
            Target::grpc(name, policy, &options(server), method)
        }
    };
    target.map_err(|error| error.to_string())
}

fn options(http: Http) -> target_http::Options {
    target_http::Options {
        url: http.url,
        headers: http.headers,
        bearer_token: http.bearer_token,
        signer: http.signer,
        allowed: http.allowed,
        tls: http.tls.map(target_tls).unwrap_or_default(),
    }
}

fn target_tls(tls: HttpTls) -> target_http::Tls {
    target_http::Tls {
        ca: tls.ca.map(Bytes::from),
        identity: tls
            .pair
            .map(|pair| (pair.certificate.into(), pair.private_key)),
        server_name: tls.server_name,
    }
}
