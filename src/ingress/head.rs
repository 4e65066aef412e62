//! What a request's head says: pure.

use http::request::Parts;
use http::{HeaderMap, HeaderName, header};

use super::reply::Rejection;

/// Suki sends some ten. hyper holds HTTP/1 to it; HTTP/2 lets a field of 33 bytes be repeated for one byte each.
pub const FIELDS_MAX: usize = 64;

/// Of a head in HTTP/1; one in HTTP/2 is shorter.
pub const BYTES_MAX: usize = 64 * 1024;

/// A request in hand, without what its client sent: its task, 5.6 KB, and its stream in HTTP/2.
const REQUEST_BYTES: usize = 8 * 1024;

/// A field, without its texts: 104 bytes in a map that is half empty, as it is when it has just grown.
const FIELD_BYTES: usize = 256;

/// The most that [`cost_bytes`] tells.
pub const COST_BYTES_MAX: usize = REQUEST_BYTES + FIELDS_MAX * FIELD_BYTES + BYTES_MAX;

/// What a request in hand costs in memory before any of its body has come.
pub fn cost_bytes(head: &Parts) -> usize {
    let fields = head.headers.iter();
    let texts = fields.map(|(name, value)| name.as_str().len() + value.len());
    let authority = head.uri.authority().map_or(0, |a| a.as_str().len());
    let path = head.uri.path_and_query().map_or(0, |p| p.as_str().len());
    let texts = texts.sum::<usize>() + authority + path;
    REQUEST_BYTES + head.headers.len() * FIELD_BYTES + texts
}

/// The text of a header that must be there, once in meaning: repeated with the same value is fine.
///
/// # Errors
/// [`Rejection::Unauthorized`] if it is absent, empty, no visible ASCII, or there with two values.
pub fn sole_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, Rejection> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().ok_or(Rejection::Unauthorized)?;
    if values.any(|value| value != first) {
        return Err(Rejection::Unauthorized);
    }
    first
        .to_str()
        .ok()
        .filter(|text| !text.is_empty())
        .ok_or(Rejection::Unauthorized)
}

/// The content type as sent; one that is not text is as good as none.
pub fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?;
    value.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    const NAME: HeaderName = HeaderName::from_static("x-api-key");

    fn text(values: &[&[u8]]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(NAME, HeaderValue::from_bytes(value).expect("a value"));
        }
        sole_text(&headers, &NAME).ok().map(str::to_owned)
    }

    #[test]
    fn one_text_however_often_it_is_repeated() {
        assert_eq!(text(&[b"abc"]).as_deref(), Some("abc"));
        assert_eq!(text(&[b"abc", b"abc"]).as_deref(), Some("abc"));
        let refused: [&[&[u8]]; 5] = [
            &[],
            &[b""],
            &[b"abc", b"abd"],
            &["ümlaut".as_bytes()],
            &[b"abc", b""],
        ];
        for values in refused {
            assert_eq!(text(values), None, "{values:?}");
        }
    }

    #[test]
    fn four_thousand_requests_as_suki_sends_them_fit_into_the_default_budget() {
        let mut request = Request::post("/webhooks/notification");
        for n in 0..12 {
            request = request.header(format!("a-field-of-theirs-{n}"), "x".repeat(40));
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let budget_bytes = 64 * 1024 * 1024;
        assert!(cost_bytes(&head) + 1024 < budget_bytes / 4000);
    }
}
