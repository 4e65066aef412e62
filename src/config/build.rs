//! From checked values to the options of the parts below: the one place that changes with them.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Uri};

use super::tls::Pair;
use crate::name::Name;
use crate::secret::Secret;
use crate::target::{Policy, Target, http as target_http};

/// `targets[].http`, checked.
pub(super) struct Http {
    pub url: Uri,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub bearer_token: Option<Secret>,
    pub tls: Option<HttpTls>,
}

/// `targets[].http.tls`, checked.
pub(super) struct HttpTls {
    pub ca: Option<Vec<u8>>,
    pub pair: Option<Pair>,
    pub server_name: Option<String>,
}

/// # Errors
/// What is wrong, for people.
pub(super) fn target(name: Name, policy: Policy, http: Http) -> Result<Target, String> {
    let options = target_http::Options {
        url: http.url,
        headers: http.headers,
        bearer_token: http.bearer_token,
        tls: http.tls.map(target_tls).unwrap_or_default(),
    };
    Target::http(name, policy, options).map_err(|error| error.to_string())
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
