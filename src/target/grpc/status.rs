//! What the answer to a call means: pure.
//!
//! An answer has its status in the trailers, or in the head if it has nothing else. Nothing in it is
//! trusted to be well-formed: what cannot be read is no wish, and no status at all is a retry.

use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderValue, StatusCode};
use prost::Message;
use prost_reflect::prost_types;

use crate::target::outcome::reason_of_status;
use crate::target::{Outcome, Reason};

const RETRY_INFO: &str = "/google.rpc.RetryInfo";
/// Both with and without padding are sent (gRPC over HTTP/2, "Custom-Metadata").
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `google.rpc.Status`, as far as it counts.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<prost_types::Any>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
pub struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    pub retry_delay: Option<prost_types::Duration>,
}

/// `retry_after` is what the head asks for as HTTP has it: a proxy in between may.
pub fn meaning(
    status: StatusCode,
    head: &HeaderMap,
    trailers: Option<&HeaderMap>,
    retry_after: Option<Duration>,
) -> Outcome {
    let fields = trailers
        .filter(|trailers| trailers.contains_key("grpc-status"))
        .unwrap_or(head);
    let Some(code) = fields.get("grpc-status") else {
        // No word of gRPC: something in between answered, or a server of another kind.
        let reason = match status {
            StatusCode::OK => Reason::Protocol,
            other => reason_of_status(other.as_u16()),
        };
        return Outcome::Retry {
            reason,
            after: retry_after,
        };
    };
    let after = retry_after.max(pushback(fields)).max(retry_info(fields));
    of_code(number(code), after)
}

/// By the numbers of `google.rpc.Code`.
fn of_code(code: Option<u64>, after: Option<Duration>) -> Outcome {
    let reason = match code {
        // OK, ALREADY_EXISTS
        Some(0 | 6) => return Outcome::Delivered,
        // INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE
        Some(3 | 9 | 11) => {
            return Outcome::GiveUp {
                reason: Reason::ClientError,
            };
        }
        // DATA_LOSS
        Some(15) => {
            return Outcome::GiveUp {
                reason: Reason::ServerError,
            };
        }
        // DEADLINE_EXCEEDED
        Some(4) => Reason::Timeout,
        // NOT_FOUND, UNIMPLEMENTED: what a roll-out looks like
        Some(5 | 12) => Reason::ClientError,
        // PERMISSION_DENIED, UNAUTHENTICATED
        Some(7 | 16) => Reason::Unauthorized,
        // RESOURCE_EXHAUSTED, UNAVAILABLE
        Some(8 | 14) => Reason::Throttled,
        // CANCELLED, UNKNOWN, ABORTED, INTERNAL, and those to come
        Some(_) => Reason::ServerError,
        None => Reason::Protocol,
    };
    Outcome::Retry { reason, after }
}

/// gRFC A6. A negative one, which asks for no retry at all, is no wish: what is owed stays owed.
fn pushback(fields: &HeaderMap) -> Option<Duration> {
    number(fields.get("grpc-retry-pushback-ms")?).map(Duration::from_millis)
}

fn retry_info(fields: &HeaderMap) -> Option<Duration> {
    let details = fields.get("grpc-status-details-bin")?;
    let status = Status::decode(&*BASE64.decode(details.as_bytes()).ok()?).ok()?;
    let any = status.details.iter();
    let mut infos = any.filter(|any| any.type_url.ends_with(RETRY_INFO));
    let info = RetryInfo::decode(&*infos.next()?.value).ok()?;
    info.retry_delay?.try_into().ok()
}

/// More digits than fit are no number.
fn number(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn details(seconds: i64) -> String {
        let info = RetryInfo {
            retry_delay: Some(prost_types::Duration { seconds, nanos: 0 }),
        };
        let any = |url: &str, value| prost_types::Any {
            type_url: url.to_owned(),
            value,
        };
        let status = Status {
            details: vec![
                any("type.googleapis.com/google.rpc.DebugInfo", vec![0xff]),
                any(
                    "type.googleapis.com/google.rpc.RetryInfo",
                    info.encode_to_vec(),
                ),
            ],
        };
        BASE64.encode(status.encode_to_vec())
    }

    fn after(lines: &[(&'static str, &str)]) -> Option<Duration> {
        let mut fields = fields(lines);
        fields.insert("grpc-status", HeaderValue::from_static("14"));
        match meaning(StatusCode::OK, &HeaderMap::new(), Some(&fields), None) {
            Outcome::Retry { after, .. } => after,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_target_asks_us_to_wait_is_read_and_garbage_is_no_wish() {
        let seconds = |n| Some(Duration::from_secs(n));
        let padded: &str = details(7).leak();
        let bare = padded.trim_end_matches('=');
        let negative: &str = details(-7).leak();
        let pushback = |text| ("grpc-retry-pushback-ms", text);
        let details = |text: &'static str| ("grpc-status-details-bin", text);
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[pushback("5000")]), seconds(5));
        assert_eq!(after(&[pushback("-1")]), None);
        assert_eq!(after(&[pushback("soon")]), None);
        assert_eq!(after(&[pushback("99999999999999999999999")]), None);
        assert_eq!(after(&[details(padded)]), seconds(7));
        assert_eq!(after(&[details(bare)]), seconds(7));
        assert_eq!(after(&[details(padded), pushback("9000")]), seconds(9));
        assert_eq!(after(&[details(negative)]), None);
        assert_eq!(after(&[details("not base64 !")]), None);
        assert_eq!(after(&[details("////")]), None);
    }

    #[test]
    fn an_answer_without_a_status_is_tried_again() {
        let none = HeaderMap::new();
        let cases = [
            (200, Reason::Protocol),
            (302, Reason::Redirect),
            (400, Reason::ClientError),
            (401, Reason::Unauthorized),
            (404, Reason::ClientError),
            (429, Reason::Throttled),
            (502, Reason::ServerError),
            (503, Reason::Throttled),
        ];
        for (status, reason) in cases {
            let status = StatusCode::from_u16(status).unwrap();
            let after = Some(Duration::from_secs(3));
            let outcome = meaning(status, &none, None, after);
            assert_eq!(outcome, Outcome::Retry { reason, after }, "{status}");
        }
        for text in ["", "-1", "+0", "0x0", "OK", "99999999999999999999999"] {
            let fields = fields(&[("grpc-status", text)]);
            let outcome = meaning(StatusCode::OK, &none, Some(&fields), None);
            let reason = Reason::Protocol;
            let after = None;
            assert_eq!(outcome, Outcome::Retry { reason, after }, "{text:?}");
        }
    }
}
