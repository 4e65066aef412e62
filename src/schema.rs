//! The shape of a notification: JSON Schema 2020-12, compiled once a load.
//!
//! Promises and limits:
//! * A schema stands alone: a reference to another document, by file or network, does not compile.
//! * Regular expressions run in linear time (the `regex` engine; no look-around, no back-references).
//! * A body nested deeper than 128 levels is not JSON to us (the limit of `serde_json`), nor is one of more than
//!   [`VALUES_MAX`] values: parsed, a small value takes a hundred times its bytes.
//! * [`Violation`]s quote the body: they are for `explain` on an operator's terminal, never for a log.

use std::fmt;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

/// Values in one body, by their commas; a list or a map, and a map's field, costs more than what is in it and
/// counts for two more. Suki sends some thirty. `cargo bench --bench bounds -- judge` has what the worst body
/// costs then.
pub const VALUES_MAX: usize = 1 << 16;

/// The statuses that Suki documents. Timeouts and cancellations are documented as events, but not
/// how their status is spelled.
const KNOWN_STATUSES: [&str; 2] = ["success", "failure"];

/// Bodies as Suki sends them, by name. The spelling of a timeout's status is a guess: Suki documents the
/// event and not its value.
pub const EXAMPLES: [(&str, &str); 4] = [
    (
        "form-filling-success",
        include_str!("schema/examples/form-filling-success.json"),
    ),
    (
        "ambient-success",
        include_str!("schema/examples/ambient-success.json"),
    ),
    ("failure", include_str!("schema/examples/failure.json")),
    ("timeout", include_str!("schema/examples/timeout.json")),
];

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
            // The file's path may be a slip, and what it holds a secret.
            let (at, why) = (place(&error), error.masked());
            CompileError(format!("not a JSON Schema (2020-12): {at}{why}"))
        })?;
        let validator = jsonschema::draft202012::options()
            .offline()
            .with_pattern_options(PatternOptions::regex())
            .build(&schema)
            .map_err(|error| does_not_compile(&error))?;
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
        let value = value(body).map_err(|_| Invalid)?;
        if self.validator.is_valid(&value) && self.status_allowed(&value) {
            Ok(value)
        } else {
            Err(Invalid)
        }
    }

    /// Everything that is wrong with a body; empty if nothing is.
    pub fn violations(&self, body: &[u8]) -> Vec<Violation> {
        let value = match value(body) {
            Ok(value) => value,
            Err(problem) => {
                return vec![Violation {
                    pointer: String::new(),
                    problem,
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

/// Names a reference that leads nowhere, and quotes nothing else.
fn does_not_compile(error: &ValidationError<'_>) -> CompileError {
    let why = match error.kind() {
        ValidationErrorKind::Format { format } if format == "regex" => {
            "no pattern of the kind that always ends: without look-around and back-references, and not too large".into()
        }
        _ => error.masked().to_string(),
    };
    let at = place(error);
    CompileError(format!("the schema does not compile: {at}{why}"))
}

/// Where it is, if it is not all of it.
fn place(error: &ValidationError<'_>) -> String {
    match error.instance_path().to_string() {
        at if at.is_empty() => at,
        at => at + ": ",
    }
}

fn value(body: &[u8]) -> Result<Value, String> {
    // No byte counts for more than two.
    if body.len() >= VALUES_MAX / 2 && weight(body) > VALUES_MAX {
        return Err(format!("more than {VALUES_MAX} values"));
    }
    serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))
}

/// As [`VALUES_MAX`] counts, of what is JSON.
fn weight(body: &[u8]) -> usize {
    let (mut weight, mut in_text, mut escaped) = (1, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b',' if !in_text => weight += 1,
            b'[' | b'{' | b':' if !in_text => weight += 2,
            _ => {}
        }
    }
    weight
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema(unknown status: {:?})", self.unknown_status)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lenient() -> Schema {
        Schema::built_in(UnknownStatus::Accept).expect("compiles")
    }

    fn accepts(body: &Value) -> bool {
        let schema = lenient();
        let body = body.to_string();
        let accepted = schema.parse(body.as_bytes()).is_ok();
        assert_eq!(accepted, schema.violations(body.as_bytes()).is_empty());
        accepted
    }

    #[test]
    fn every_example_of_the_vendor_is_accepted() {
        for (name, body) in EXAMPLES {
            assert!(lenient().parse(body.as_bytes()).is_ok(), "{name}");
        }
        let newest = json!({"_links":{"contents":[],"encounter_content":[],"structured_data":[],
            "encounter_structured_data":[],"status":[],"transcripts":[]},"additional_info":null,
            "encounter_id":"e","session_id":"s","sessions":["s"],"status":"success"});
        assert!(accepts(&newest));
    }

    #[test]
    fn trap_2_a_status_of_neither_kind_is_a_notification_of_its_own() {
        for status in ["timeout", "cancelled", "skipped", "completed"] {
            let body = json!({"status": status, "session_id": "s"});
            assert!(accepts(&body), "{status}");
            let strict = Schema::built_in(UnknownStatus::Reject).expect("compiles");
            assert!(
                strict.parse(body.to_string().as_bytes()).is_err(),
                "{status}"
            );
        }
        assert!(!accepts(&json!({"status": "", "session_id": "s"})));
    }

    #[test]
    fn trap_3_fields_of_a_failure_are_asked_of_nobody() {
        assert!(accepts(
            &json!({"status": "success", "session_id": "s", "encounter_id": "e"})
        ));
        assert!(accepts(&json!({"status": "failure", "session_id": "s"})));
    }

    #[test]
    fn trap_4_unknown_fields_are_allowed_at_every_level() {
        assert!(accepts(
            &json!({"status": "success", "session_id": "s", "new": 1,
            "additional_info": {"x": [1, {}]},
            "_links": {"new_kind": 7, "status": [{"href": "/a", "new": true}]}})
        ));
    }

    #[test]
    fn trap_6_session_id_need_not_be_among_sessions() {
        assert!(accepts(
            &json!({"status": "success", "session_id": "a", "sessions": ["b", "b"]})
        ));
        assert!(accepts(
            &json!({"status": "success", "session_id": "a", "sessions": []})
        ));
    }

    #[test]
    fn trap_7_ids_are_any_string_and_encounter_id_may_be_absent() {
        assert!(accepts(
            &json!({"status": "success", "session_id": "123dfg-456dfg"})
        ));
        assert!(accepts(
            &json!({"status": "success", "session_id": "s", "encounter_id": ""})
        ));
        assert!(!accepts(&json!({"status": "success", "session_id": 7})));
        assert!(!accepts(&json!({"status": "success", "encounter_id": "e"})));
    }

    #[test]
    fn trap_8_null_is_taken_for_absent() {
        assert!(accepts(
            &json!({"status": "success", "session_id": "s", "encounter_id": null,
            "sessions": null, "additional_info": null, "_links": null,
            "error_code": null, "error_detail": null})
        ));
        assert!(accepts(
            &json!({"status": "success", "session_id": "s", "_links": {"status": null}})
        ));
    }

    #[test]
    fn trap_23_a_link_needs_its_href_and_nothing_else() {
        let links = |links: Value| {
            accepts(&json!({"status": "success", "session_id": "s", "_links": {"status": links}}))
        };
        assert!(links(json!([])));
        assert!(links(json!([{"href": "https://elsewhere/x"}])));
        assert!(links(json!({"href": "/single"})));
        assert!(!links(json!([{"name": "no href"}])));
        assert!(!links(json!("text")));
    }

    #[test]
    fn violations_name_their_places() {
        let body = br#"{"status":"success","session_id":"s","_links":{"status":[{"href":1}]}}"#;
        let violations = lenient().violations(body);
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].pointer, "/_links/status/0/href");
    }

    #[test]
    fn what_is_not_json_is_invalid_and_deep_nesting_does_not_overflow() {
        let deep = "[".repeat(100_000);
        for body in [
            "",
            "{",
            "{\"a\":1,}",
            "null garbage",
            "\u{feff}{}",
            deep.as_str(),
        ] {
            assert_eq!(lenient().parse(body.as_bytes()), Err(Invalid));
        }
    }

    #[test]
    fn a_body_of_too_many_values_is_invalid_and_text_is_one_value() {
        let open = r#"{"status":"success","session_id":"s","x":["#;
        let bytes = |middle: &str, count: usize| format!("{open}{}0]}}", middle.repeat(count));
        // Of the outer map, its three fields and their list: 1 + 2 + 2 * 3 + 2 + 2.
        for (middle, weight) in [("0,", 1), ("[],", 3), ("{\"a\":0},", 5)] {
            let most = (VALUES_MAX - 13) / weight;
            let (fits, is_more) = (bytes(middle, most), bytes(middle, most + 1));
            assert!(lenient().parse(fits.as_bytes()).is_ok(), "{middle}");
            // Not compared: it would be printed, all of it.
            assert!(lenient().parse(is_more.as_bytes()).is_err(), "{middle}");
            let violations = lenient().violations(is_more.as_bytes());
            assert_eq!(violations[0].problem, "more than 65536 values");
        }
        let fields = |count: usize| {
            let fields: Vec<String> = (0..count).map(|n| format!(r#","{n}":0"#)).collect();
            let fields = fields.concat();
            format!(r#"{{"status":"success","session_id":"s"{fields}}}"#)
        };
        let most = (VALUES_MAX - 8) / 3;
        assert!(lenient().parse(fields(most).as_bytes()).is_ok());
        assert!(lenient().parse(fields(most + 1).as_bytes()).is_err());
        let text = bytes(r#""\\","\",[{:","#, 10) + " ";
        assert!(lenient().parse(text.as_bytes()).is_ok());
        let text = format!(r#"{open}"{}"]}}"#, r#"\",[{:,\\"#.repeat(VALUES_MAX));
        assert!(lenient().parse(text.as_bytes()).is_ok());
    }

    #[test]
    fn a_schema_that_reaches_outside_or_backtracks_does_not_compile() {
        let refused = [
            json!({"$ref": "https://example.com/schema.json"}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"pattern": "(?=hunter2)ahead"}),
            json!({"properties": {"a": {"pattern": "(hunter2)\\1"}}}),
            json!({"type": "hunter2"}),
            json!(7),
        ];
        for schema in refused {
            let text = schema.to_string();
            let error = Schema::compile(text.as_bytes(), UnknownStatus::Accept);
            let error = error.expect_err(&text).to_string();
            assert!(!error.contains("hunter2"), "{text}: {error}");
        }
    }

    /// Neither loops, nor overflows a stack.
    #[test]
    fn a_schema_that_refers_to_itself_or_nests_quantifiers_ends() {
        let list = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let circular = [
            json!({"$ref": "#"}),
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
            json!({"allOf": [{"$ref": "#"}]}),
            json!({"items": {"$ref": "#"}}),
        ];
        for schema in circular {
            let text = schema.to_string();
            if let Ok(schema) = Schema::compile(text.as_bytes(), UnknownStatus::Accept) {
                for body in [format!(r#"{{"a":{}}}"#, list(100)), list(100)] {
                    let body = body.as_bytes();
                    let _ = (schema.parse(body), schema.violations(body));
                }
            }
        }
        let pattern = json!({"properties": {"a": {"pattern": "^(a+)+$"}}});
        let schema = Schema::compile(pattern.to_string().as_bytes(), UnknownStatus::Accept);
        let body = format!(r#"{{"a":"{}b"}}"#, "a".repeat(50_000));
        assert!(schema.expect("compiles").parse(body.as_bytes()).is_err());
    }
}
