//! A method of the user's own: found in a descriptor set at load, fed with JSON at each attempt.
//!
//! Promises:
//! * What loads is unary, and its request message takes every built-in example of a notification.
//! * A body becomes the message by the proto3 JSON mapping; fields that the message does not have are
//!   left out. One that does not fit has a [`Misfit`], which names the field and quotes nothing.

use http::uri::PathAndQuery;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor,
    MethodDescriptor,
};
use serde_json::Deserializer;
use serde_path_to_error::{Path, Segment, Track};

use crate::schema::EXAMPLES;

/// Unknown fields are Suki's to add.
const OPTIONS: DeserializeOptions = DeserializeOptions::new().deny_unknown_fields(false);

/// A unary method and its request message.
#[derive(Clone, Debug)]
pub struct Method {
    path: PathAndQuery,
    input: MessageDescriptor,
}

/// Why there is no such method.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    #[error(
        "no descriptor set; make one with `protoc --include_imports --descriptor_set_out`, or `buf build`"
    )]
    NoDescriptorSet,
    #[error("no method; write it as `package.Service/Method`")]
    Name,
    #[error("no service `{0}` in the descriptor set; it has {1}")]
    NoService(String, String),
    #[error("no method `{0}` in that service; it has {1}")]
    NoMethod(String, String),
    #[error("it streams; only a unary method can take a notification")]
    Streaming,
    #[error("`{message}` cannot take the built-in example `{example}`: {misfit}")]
    Example {
        message: String,
        example: &'static str,
        misfit: Misfit,
    },
}

/// A body that is no such message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .field.as_deref().map_or("it is not JSON for this message".into(), |field| format!("`{field}` does not fit")))]
pub struct Misfit {
    /// The way to the field, in names of the message and never of the body; `None` for the body itself.
    pub field: Option<String>,
}

impl Method {
    /// `name` is `package.Service/Method`.
    pub fn find(descriptor_set: &[u8], name: &str) -> Result<Self, MethodError> {
        let pool =
            DescriptorPool::decode(descriptor_set).map_err(|_| MethodError::NoDescriptorSet)?;
        let method = look_up(&pool, name)?;
        if method.is_client_streaming() || method.is_server_streaming() {
            return Err(MethodError::Streaming);
        }
        let found = Self {
            path: format!("/{name}").parse().map_err(|_| MethodError::Name)?,
            input: method.input(),
        };
        found.try_examples()?;
        Ok(found)
    }

    pub fn path(&self) -> &PathAndQuery {
        &self.path
    }

    /// The request message for this body.
    pub fn message(&self, body: &[u8]) -> Result<DynamicMessage, Misfit> {
        let mut json = Deserializer::from_slice(body);
        let mut track = Track::new();
        let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
        let message =
            DynamicMessage::deserialize_with_options(self.input.clone(), tracked, &OPTIONS);
        let complete = message.and_then(|message| json.end().map(|()| message));
        complete.map_err(|_| Misfit {
            field: field(&self.input, &track.path()),
        })
    }

    /// Whether it leaves out all there is in every built-in example: its message has none of their fields.
    pub fn takes_nothing(&self) -> bool {
        let empty = |message: DynamicMessage| message.fields().next().is_none();
        let mut messages = EXAMPLES
            .iter()
            .map(|(_, body)| self.message(body.as_bytes()));
        messages.all(|message| message.is_ok_and(empty))
    }

    fn try_examples(&self) -> Result<(), MethodError> {
        for (example, body) in EXAMPLES {
            self.message(body.as_bytes())
                .map_err(|misfit| MethodError::Example {
                    message: self.input.full_name().to_owned(),
                    example,
                    misfit,
                })?;
        }
        Ok(())
    }
}

fn look_up(pool: &DescriptorPool, name: &str) -> Result<MethodDescriptor, MethodError> {
    let (service_name, method_name) = name.split_once('/').ok_or(MethodError::Name)?;
    let Some(service) = pool.get_service_by_name(service_name) else {
        let there = listed(pool.services().map(|s| s.full_name().to_owned()));
        return Err(MethodError::NoService(service_name.to_owned(), there));
    };
    let mut methods = service.methods();
    let found = methods.find(|method| method.name() == method_name);
    found.ok_or_else(|| {
        let there = listed(service.methods().map(|m| m.name().to_owned()));
        MethodError::NoMethod(method_name.to_owned(), there)
    })
}

/// Some of them: a message is read by people.
fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.take(5).map(|name| format!("`{name}`")).collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(", ")
}

/// The way to a field by the message's own names. Keys of maps, and what is below free-form messages,
/// are words of the body, and may tell of a patient.
fn field(message: &MessageDescriptor, path: &Path) -> Option<String> {
    let mut way = String::new();
    let mut inside = Some(message.clone());
    let mut map: Option<FieldDescriptor> = None;
    for segment in path {
        match segment {
            Segment::Map { .. } if map.is_some() => {
                map = None;
                way.push_str("[*]");
            }
            Segment::Map { key } => {
                let Some(found) = inside.as_ref().and_then(|m| named(m, key)) else {
                    break;
                };
                if !way.is_empty() {
                    way.push('.');
                }
                way.push_str(found.json_name());
                inside = message_of(&found);
                map = found.is_map().then_some(found);
            }
            Segment::Seq { index } => way.extend(["[", &index.to_string(), "]"]),
            Segment::Enum { .. } | Segment::Unknown => break,
        }
    }
    (!way.is_empty()).then_some(way)
}

fn named(message: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    let by_json = message.get_field_by_json_name(key);
    by_json.or_else(|| message.get_field_by_name(key))
}

/// The message that a field holds; for a map, that of its values.
fn message_of(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let Kind::Message(message) = field.kind() else {
        return None;
    };
    if !field.is_map() {
        return Some(message);
    }
    match message.map_entry_value_field().kind() {
        Kind::Message(value) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
pub mod tests {
    use prost::Message;

    use super::*;

    /// A descriptor set of one file with this text.
    pub fn descriptor_set(text: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("clinic.proto"), text).unwrap();
        let files = protox::compile(["clinic.proto"], [folder.path()]).unwrap();
        files.encode_to_vec()
    }

    const CLINIC: &str = r#"
        syntax = "proto3";
        package clinic.inbox.v1;
        import "google/protobuf/struct.proto";
        service Inbox {
            rpc Put(Entry) returns (Receipt);
            rpc Watch(Entry) returns (stream Receipt);
            rpc Upload(stream Entry) returns (Receipt);
            rpc Narrow(Number) returns (Receipt);
        }
        message Entry {
            string status = 1;
            string session_id = 2;
            int32 count = 3;
            repeated Item items = 4;
            map<string, Item> by_name = 5;
            google.protobuf.Struct extra = 6;
            oneof one { string a = 7; string b = 8; }
        }
        message Item { bool done = 1; }
        message Number { int32 status = 1; }
        message Receipt {}
    "#;

    fn find(name: &str) -> Result<Method, MethodError> {
        Method::find(&descriptor_set(CLINIC), name)
    }

    #[test]
    fn a_method_that_is_none_says_why() {
        let clinic = "clinic.inbox.v1.Inbox";
        let cases = [
            ("Put", "package.Service/Method"),
            ("clinic.inbox.v1.Outbox/Put", "`clinic.inbox.v1.Inbox`"),
            (&format!("{clinic}/Get"), "`Put`, `Watch`"),
            (&format!("{clinic}/Watch"), "it streams"),
            (&format!("{clinic}/Upload"), "it streams"),
            (&format!("{clinic}/Narrow"), "`status` does not fit"),
        ];
        for (name, fragment) in cases {
            let error = find(name).expect_err(name).to_string();
            assert!(error.contains(fragment), "{name}: {error}");
        }
        assert_eq!(
            Method::find(b"\xffno set", "a.B/C").unwrap_err(),
            MethodError::NoDescriptorSet
        );
        let path = find(&format!("{clinic}/Put")).unwrap().path;
        assert_eq!(path, "/clinic.inbox.v1.Inbox/Put");
    }

    #[test]
    fn a_body_becomes_the_message_and_what_it_does_not_know_is_left_out() {
        let method = find("clinic.inbox.v1.Inbox/Put").unwrap();
        let body = br#"{"status": "success", "sessionId": "s", "count": "5", "new": {"x": [1]},
            "items": [{"done": true, "more": 1}], "extra": {"a": [null]}, "a": null}"#;
        let message = method.message(body).unwrap();
        let text = |name| message.get_field_by_name(name).unwrap().to_string();
        assert_eq!(text("session_id"), "\"s\"");
        assert_eq!(text("count"), "5");
        assert_eq!(text("items"), "[{done:true}]");
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_field_and_never_quoted() {
        let method = find("clinic.inbox.v1.Inbox/Put").unwrap();
        let cases = [
            (r#"{"count": "Doe"}"#, Some("count")),
            (r#"{"session_id": 5}"#, Some("sessionId")),
            (r#"{"items": [{}, {"done": "Doe"}]}"#, Some("items[1].done")),
            (
                r#"{"by_name": {"Doe": {"done": 1}}}"#,
                Some("byName[*].done"),
            ),
            (r#"{"by_name": {"Doe": 1}}"#, Some("byName[*]")),
            (r#"{"a": "Doe", "b": "Doe"}"#, None),
            (r#""Doe""#, None),
            (r#"{"Doe": "#, None),
            ("{} Doe", None),
        ];
        for (body, field) in cases {
            let misfit = method.message(body.as_bytes()).expect_err(body);
            assert_eq!(misfit.field.as_deref(), field, "{body}");
            assert!(!misfit.to_string().contains("Doe"), "{misfit}");
        }
    }
}
