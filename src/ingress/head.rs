//! What a request's head says: pure.

use http::{HeaderMap, HeaderName, header};

use super::reply::Rejection;

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
    use http::HeaderValue;

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
}
