//! The shape of a notification: JSON Schema 2020-12, compiled once a load.
//!
//! Promises and limits:
//! * A schema stands alone: a reference to another document, by file or network, does not compile.
//! * Regular expressions run in linear time (the `regex` engine; no look-around, no back-references).
//! * A body nested deeper than 128 levels is not JSON to us (the limit of `serde_json`).
//! * [`Violation`]s quote the body: they are for `explain` on an operator's terminal, never for a log.

use std::fmt;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// The statuses that Suki documents. Timeouts and cancellations are documented as events, but not
/// how their status is spelled.
const KNOWN_STATUSES: [&str; 2] = ["success", "failure"];

const BUILT_IN: &str = include_str!("schema/suki.json");

/// What to do with a `status` that is neither success nor failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownStatus {
    /// A notification like any other.
    Accept,
    /// A violation of the schema.
    Reject,
}

/// A compiled schema and the rule for unknown statuses.
pub struct Schema {
    validator: Validator,
    unknown_status: UnknownStatus,
}

/// The body is not JSON, or not of the shape asked for. Says no more: what is wrong with a body may
/// quote it.
#[derive(Debug, PartialEq, Eq)]
pub struct Invalid;

/// One thing wrong with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer (RFC 6901) to the place; empty for the whole document.
    pub pointer: String,
    pub problem: String,
}

/// The schema itself is of no use.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(String);

impl Schema {
    /// The schema for Suki's own notifications.
    ///
    /// # Errors
    /// None in a release: a test compiles it.
    pub fn built_in(unknown_status: UnknownStatus) -> Result<Self, CompileError> {
        Self::compile(BUILT_IN.as_bytes(), unknown_status)
    }

    /// Compiles a schema from its JSON text.
    ///
    /// # Errors
    /// [`CompileError`] if it is not JSON, not a schema, or points outside itself.
    pub fn compile(text: &[u8], unknown_status: UnknownStatus) -> Result<Self, CompileError> {
        let schema: Value = serde_json::from_slice(text)
            .map_err(|error| CompileError(format!("the schema is not JSON: {error}")))?;
        jsonschema::draft202012::meta::validate(&schema).map_err(|error| {
            CompileError(format!(
                "not a JSON Schema (2020-12): {}: {error}",
                error.instance_path()
            ))
        })?;
        let validator = jsonschema::draft202012::options()
            .offline()
            .with_pattern_options(PatternOptions::regex())
            .build(&schema)
            .map_err(|error| CompileError(format!("the schema does not compile: {error}")))?;
        Ok(Self {
            validator,
            unknown_status,
        })
    }

    /// Parses a body and holds it against the schema.
    ///
    /// # Errors
    /// [`Invalid`] if it is not JSON or violates the schema.
    pub fn parse(&self, body: &[u8]) -> Result<Value, Invalid> {
        let value: Value = serde_json::from_slice(body).map_err(|_| Invalid)?;
        if self.validator.is_valid(&value) && self.status_allowed(&value) {
            Ok(value)
        } else {
            Err(Invalid)
        }
    }

    /// Everything that is wrong with a body; empty if nothing is.
    pub fn violations(&self, body: &[u8]) -> Vec<Violation> {
        let value: Value = match serde_json::from_slice(body) {
            Ok(value) => value,
            Err(error) => {
                return vec![Violation {
                    pointer: String::new(),
                    problem: format!("not JSON: {error}"),
                }];
            }
        };
        let mut violations: Vec<Violation> = self
            .validator
            .iter_errors(&value)
            .map(|error| Violation {
                pointer: error.instance_path().to_string(),
                problem: error.to_string(),
            })
            .collect();
        if !self.status_allowed(&value) {
            violations.push(Violation {
                pointer: "/status".into(),
                problem: "neither success nor failure, and `unknown_status` is `reject`".into(),
            });
        }
        violations
    }

    fn status_allowed(&self, value: &Value) -> bool {
        self.unknown_status == UnknownStatus::Accept
            || value["status"]
                .as_str()
                .is_some_and(|status| KNOWN_STATUSES.contains(&status))
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema(unknown status: {:?})", self.unknown_status)
    }
}
