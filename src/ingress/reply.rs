//! Answers to the sender: the only place that knows status codes.
//!
//! An answer says nothing of the request but what its sender must do next, and quotes none of it.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode, Version};
use http_body_util::Full;

use super::Answer;
use super::metrics::Tally;
use crate::spool::Verdict;

/// A request whose notification is on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    pub verdict: Verdict,
    pub tally: Tally,
}

/// Why a request is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// No source has this path.
    NotFound,
    /// Not a POST.
    Method,
    /// The body is longer than the limit.
    TooLarge,
    /// The body was not complete in time, or never will be.
    Timeout,
    /// The signature or the timestamp is missing, or no secret made the signature.
    Unauthorized,
    /// Not on stable storage, for a reason of ours. It may yet turn out to be kept.
    Unavailable,
}

impl Rejection {
    pub const fn tally(self) -> Tally {
        match self {
            Self::NotFound => Tally::NotFound,
            Self::Method => Tally::Method,
            Self::TooLarge => Tally::TooLarge,
            Self::Timeout => Tally::Timeout,
            Self::Unauthorized => Tally::Unauthorized,
            Self::Unavailable => Tally::Unavailable,
        }
    }

    const fn text(self) -> (StatusCode, &'static str) {
        match self {
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                r#"{"code": 404, "message": "not found"}"#,
            ),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                r#"{"code": 405, "message": "method not allowed"}"#,
            ),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                r#"{"code": 413, "message": "payload too large"}"#,
            ),
            Self::Timeout => (
                StatusCode::REQUEST_TIMEOUT,
                r#"{"code": 408, "message": "request timeout"}"#,
            ),
            Self::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                r#"{"code": 401, "message": "invalid token"}"#,
            ),
            Self::Unavailable => (
                StatusCode::INTERNAL_SERVER_ERROR,
                r#"{"code": 500, "message": "internal server error"}"#,
            ),
        }
    }
}

/// The answer to a request that is kept.
pub fn promised(verdict: Verdict) -> Answer {
    match verdict {
        Verdict::Accepted => Response::new(Full::default()),
        Verdict::Invalid => json(
            StatusCode::BAD_REQUEST,
            r#"{"code": 400, "message": "invalid request"}"#,
        ),
    }
}

/// The answer to a request that is not kept. If its body was not read to the end, an HTTP/1 connection
/// is of no further use.
pub fn rejected(rejection: Rejection, version: Version, body_read: bool) -> Answer {
    let (status, text) = rejection.text();
    let mut answer = json(status, text);
    match rejection {
        Rejection::Method => {
            let headers = answer.headers_mut();
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        Rejection::Unavailable => {
            let headers = answer.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        _ => {}
    }
    if !body_read {
        close(&mut answer, version);
    }
    answer
}

/// The answer to a head in HTTP/2 with more fields than one in HTTP/1 may have: as hyper answers those.
pub fn too_many_fields() -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    answer
}

/// Says that the connection ends with this answer, where the protocol has words for it.
pub fn close(answer: &mut Answer, version: Version) {
    if version <= Version::HTTP_11 {
        let headers = answer.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

fn json(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    #[allow(clippy::disallowed_methods)] // our own short texts
    async fn every_error_body_has_its_own_status_in_it() {
        let rejections = [
            Rejection::NotFound,
            Rejection::Method,
            Rejection::TooLarge,
            Rejection::Timeout,
            Rejection::Unauthorized,
            Rejection::Unavailable,
        ];
        let mut answers: Vec<Answer> = rejections
            .map(|r| rejected(r, Version::HTTP_2, false))
            .into();
        answers.push(promised(Verdict::Invalid));
        for answer in answers {
            assert_eq!(answer.headers().get(CONNECTION), None, "HTTP/2");
            let status = answer.status().as_u16();
            let bytes = answer.into_body().collect().await.expect("full").to_bytes();
            let value: serde_json::Value = serde_json::from_slice(&bytes).expect("json");
            assert_eq!(value["code"], status);
            assert!(value["message"].is_string());
        }
    }

    #[test]
    fn only_http_1_is_told_to_close() {
        let closes = |version, read| {
            rejected(Rejection::TooLarge, version, read)
                .headers()
                .contains_key(CONNECTION)
        };
        assert!(closes(Version::HTTP_11, false));
        assert!(!closes(Version::HTTP_11, true));
        assert!(!closes(Version::HTTP_2, false));
    }
}
