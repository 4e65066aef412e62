//! What the operator is answered: JSON, or why not and what to do.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::super::listen::Answer;
use crate::spool::{CustodyError, ReadError};

/// Why something is not done: nothing has changed, unless the message says so.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub message: String,
}

#[derive(Serialize)]
struct Told<'a> {
    code: u16,
    message: &'a str,
}

impl Refusal {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message }
    }

    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub fn json(&self) -> Bytes {
        json(&Told {
            code: self.status.as_u16(),
            message: &self.message,
        })
    }

    pub fn answer(&self) -> Answer {
        response(self.status, self.json())
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<CustodyError> for Refusal {
    fn from(error: CustodyError) -> Self {
        let status = match error {
            CustodyError::Count { .. } | CustodyError::Changed { .. } | CustodyError::Damaged => {
                StatusCode::CONFLICT
            }
            CustodyError::State | CustodyError::TooMany { .. } => StatusCode::BAD_REQUEST,
            CustodyError::Full => StatusCode::INSUFFICIENT_STORAGE,
            CustodyError::Read(_)
            | CustodyError::Busy
            | CustodyError::Failed
            | CustodyError::Ended
            | CustodyError::Stopped { .. }
            | CustodyError::CutShort { .. }
            | CustodyError::Taken => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

pub(super) fn json(value: &impl Serialize) -> Bytes {
    // Only maps whose keys are no texts cannot be written; there are none.
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

pub(super) fn ok(json: Bytes) -> Answer {
    response(StatusCode::OK, json)
}

fn response(status: StatusCode, json: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(json));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
